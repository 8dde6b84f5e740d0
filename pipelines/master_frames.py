"""Master calibration frames from real calibration exposures: bias, dark, flat and the defects that they show.

Masters have the imaging size, the overscan taken off where there is one. Bias in ADU, dark in ADU/s, flat with mean 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.image import MASK, Image
from pipelines.instrument import Detector, Instrument

Frames = Sequence[NDArray[np.uint16]]

#: A pixel is hot when its dark signal stands this many standard deviations above those around it.
HOT_SIGMA = 8.0
#: A pixel is dead (or not a linear one) when its flat differs by this fraction from those around it.
DEAD_FRACTION = 0.3


def trimmed(raw: NDArray[np.uint16], detector: Detector) -> NDArray[np.float32]:
    """Imaging pixels, ADU, less the median of the overscan columns of all rows."""
    x0, x1, y0, y1 = detector.data
    counts = raw[y0:y1, x0:x1].astype(np.float32)
    if detector.overscan is not None:
        counts -= np.float32(np.median(raw[y0:y1, detector.overscan[0] : detector.overscan[1]]))
    return counts


def master_bias(frames: Frames, instrument: Instrument, detector: Detector) -> Image:
    """ADU."""
    image, noise = _combine([trimmed(f, detector) for f in frames]), detector.read_noise / detector.gain
    variance = np.full(image.shape, noise**2 / len(frames), np.float32)
    return _master(instrument, detector, image, variance, frames, "adu")


def master_dark(frames: Frames, seconds: Sequence[float], bias: Image, instrument: Instrument, detector: Detector) -> Image:
    """ADU per second; ``seconds`` are the exposure times, all above zero."""
    pairs = zip(frames, seconds, strict=True)
    image = _combine([(trimmed(f, detector) - bias.image) / np.float32(t) for f, t in pairs])
    time = float(np.sum(seconds))
    counts = np.maximum(image, 0.0) * np.float32(time / detector.gain)
    noise = (detector.read_noise / detector.gain) ** 2 * len(frames)
    return _master(instrument, detector, image, (counts + np.float32(noise)) / np.float32(time**2), frames, "adu/s")


def master_flat(
    frames: Frames,
    seconds: Sequence[float],
    bias: Image,
    dark: Image | None,
    instrument: Instrument,
    detector: Detector,
) -> Image:
    """Relative response of one detector, median 1 (see normalise() for a focal plane)."""
    maps, variances = [], []
    for frame, t in zip(frames, seconds, strict=True):
        counts = trimmed(frame, detector) - bias.image
        if dark is not None:
            counts -= dark.image * np.float32(t)
        level = np.float32(max(float(np.median(counts)), 1.0))
        maps.append(counts / level)
        noise = np.float32((detector.read_noise / detector.gain) ** 2)
        variances.append((np.maximum(counts, 0.0) / np.float32(detector.gain) + noise) / level**2)
    image = _combine(maps)
    variance = (np.mean(variances, axis=0) / len(frames)).astype(np.float32)
    master = _master(instrument, detector, image, variance, frames, "relative")
    master.mask[~(image > 0.0)] |= np.int16(MASK["BAD"])
    return master


def normalise(flats: Sequence[tuple[Image, float]]) -> None:
    """Scale the flats of a focal plane, each with its ADU per second, to a mean of 1 over good pixels."""
    total = sum(float(f.image[f.mask == 0].sum(dtype=np.float64)) * rate for f, rate in flats)
    pixels = sum(int((f.mask == 0).sum()) for f, _ in flats)
    for flat, rate in flats:
        factor = rate * pixels / total
        flat.image *= np.float32(factor)
        flat.variance *= np.float32(factor**2)


def defects(dark: Image | None, flat: Image | None, instrument: Instrument, detector: Detector) -> Image:
    """A mask: BAD where the dark shows a hot pixel or the flat a dead one, against a median of 7 x 7 pixels."""
    bad = np.zeros((detector.height, detector.width), bool)
    for image, limit in ((dark, None), (flat, DEAD_FRACTION)):
        if image is None:
            continue
        around = ndimage.median_filter(image.image, 7, mode="nearest")
        difference = image.image - around
        if limit is None:
            bad |= difference > HOT_SIGMA * 1.4826 * float(np.median(np.abs(difference)))
        else:
            bad |= np.abs(difference) > limit * np.maximum(around, 0.1)
        bad |= (image.mask & MASK["BAD"]) != 0
    empty = np.zeros(bad.shape, np.float32)
    master = _master(instrument, detector, empty, empty.copy(), [], "none")
    master.mask[bad] = MASK["BAD"]
    return master


def _combine(frames: Sequence[NDArray]) -> NDArray[np.float32]:
    """Median of three frames or more, mean of fewer."""
    stack = np.stack(frames)
    combined = np.median(stack, axis=0) if len(frames) > 2 else stack.mean(axis=0)
    return np.asarray(combined, np.float32)


def _master(
    instrument: Instrument,
    detector: Detector,
    image: NDArray[np.float32],
    variance: NDArray[np.float32],
    frames: Frames,
    unit: str,
) -> Image:
    """The image, pixels that were saturated in any of the frames marked BAD."""
    mask = np.zeros(image.shape, np.int16)
    x0, x1, y0, y1 = detector.data
    for frame in frames:
        mask[frame[y0:y1, x0:x1] >= detector.saturation] = MASK["BAD"]
    meta: dict[str, str | float | int | bool] = {
        "instrument": instrument.name,
        "detector": detector.detector,
        "BUNIT": unit,
        "n_input": len(frames),
    }
    return Image(image, variance, mask, meta=meta)
