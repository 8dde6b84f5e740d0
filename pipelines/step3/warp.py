"""make_warp: one visit on the pixels of one patch, in nJy.

The detectors of the visit that reach the patch are interpolated with their final WCS and zero point; flux is preserved
(surface brightness times the change of pixel area). A pixel without data is NaN with the plane NO_DATA. All pixels of a
warp share one weight, so that the PSF of a coadd is the same average of PSFs as the coadd is of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipelines import skymap
from pipelines.image import MASK, Image
from pipelines.photometry import AB_ZERO_POINT, nanojansky_per_electron
from pipelines.pixel_map import PixelMap, shared_box
from pipelines.psf import PsfModel, sample_grid
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.resample import carried_psf, carried_size, lanczos3, nearest
from pipelines.step3.config import WarpConfig
from pipelines.step3.frames import UNUSABLE, Frame, read_frame
from pipelines.wcs import SkyWcs

#: Columns of visit_summary that a warp's header repeats.
OF_VISIT = ("instrument", "visit", "band", "physical_filter", "day_obs", "mjd_mid", "exposure_time")


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``preliminary_visit_image`` and ``visit_summary`` of a visit to the ``direct_warp`` of one patch.

    NoWork when no detector of the visit has a usable calibration or no usable pixel falls in the patch.
    """
    config = quantum.settings(WarpConfig)
    sky, tract, patch = skymap.load(quantum.data_id["skymap"]), quantum.data_id["tract"], quantum.data_id["patch"]
    x0, y0, x1, y1 = (int(v) for v in sky.outer_box(patch))
    rows = {row["detector"]: row for row in inputs.table("visit_summary").to_pylist() if usable(row, config)}
    refs = [ref for ref in inputs.refs("preliminary_visit_image") if ref.data_id["detector"] in rows]
    if not refs:
        raise NoWork(f"visit {quantum.data_id['visit']}: no detector over patch {patch} has a usable calibration")
    warp = empty_warp((y1 - y0 + 1, x1 - x0 + 1), sky.patch_wcs(tract, patch))
    used = []
    for ref in refs:
        frame, row = read_frame(inputs, ref), rows[ref.data_id["detector"]]
        place = place_of(SkyWcs.from_json(row["wcs"]), frame.image.shape, warp)
        if place is not None and add_detector(warp, frame, place, row["zeroPoint"]):
            used.append((frame, place, row))
    good = np.isfinite(warp.image)
    if np.count_nonzero(good) < config.min_pixels:
        raise NoWork(f"visit {quantum.data_id['visit']}: no usable pixel in patch {patch} of tract {tract}")
    warp.psf = warp_psf(warp, [(frame, place) for frame, place, _ in used], config)
    row = used[0][2]
    warp.meta = {
        **{key: row[key] for key in OF_VISIT},
        "skymap": quantum.data_id["skymap"], "tract": tract, "patch": patch, "x0": x0, "y0": y0,
        "photometric": all(r["photometric"] for _, _, r in used), "n_input": len(used),
        "BUNIT": "nJy", "zeroPoint": AB_ZERO_POINT,
        "weight": 1.0 / float(np.median(warp.variance[good])),
        "seeing": warp.psf.seeing * sky.pixel_scale,
    }  # fmt: skip
    return {"direct_warp": warp}


def usable(row: Mapping[str, Any], config: WarpConfig) -> bool:
    """Whether a detector's calibration serves: a zero point of a photometric visit, or one with a small error."""
    zero_point, error = row["zeroPoint"], row["zeroPointErr"]
    if zero_point is None or not np.isfinite(zero_point):
        return False
    return bool(row["photometric"] or (error is not None and error <= config.max_zero_point_error))


def empty_warp(shape: tuple[int, int], wcs: SkyWcs) -> Image:
    """An image of ``shape`` in which no pixel has data yet."""
    nothing = np.full(shape, np.nan, np.float32)
    return Image(nothing, nothing.copy(), np.full(shape, MASK["NO_DATA"], np.int16), wcs)


def place_of(source: SkyWcs, shape: tuple[int, int], warp: Image) -> PixelMap | None:
    """Where the pixels of ``warp`` lie in a detector of ``shape``; None where the two do not meet."""
    assert warp.wcs is not None
    box = shared_box(warp.wcs, warp.shape, source, shape, margin=0)
    return PixelMap.between(warp.wcs, source, box) if box is not None else None


def add_detector(warp: Image, frame: Frame, place: PixelMap, zero_point: float) -> bool:
    """Interpolate one detector (electrons) into ``warp`` (nJy) in place; False when it adds no pixel.

    Target pixels whose nearest source pixel is lost or beside the edge get no data.
    """
    image, (ny, nx) = frame.image, frame.image.shape
    x, y = place.grid()
    inside = (x > 0.5) & (x < nx - 1.5) & (y > 0.5) & (y < ny - 1.5) & np.isnan(warp.image[place.slices])
    if not inside.any():
        return False
    x, y = x[inside], y[inside]
    at = nearest(image.shape, x, y)
    lost, planes = frame.lost.ravel()[at], image.mask.ravel()[at]
    scale = np.float32(nanojansky_per_electron(zero_point))
    gain = scale * place.area()[inside].astype(np.float32)
    pixels = lanczos3(frame.pixels, x, y) * gain
    variance = image.variance.ravel()[at] * (gain * scale)
    planes = np.where(lost, planes | MASK["NO_DATA"], planes & ~UNUSABLE)
    pixels[lost] = variance[lost] = np.nan
    for plane, values in ((warp.image, pixels), (warp.variance, variance), (warp.mask, planes)):
        plane[place.slices][inside] = values
    return not lost.all()


def warp_psf(warp: Image, used: Sequence[tuple[Frame, PixelMap]], config: WarpConfig) -> PsfModel:
    """The PSF of a warp from the models of its detectors, sampled on a grid of its pixels that have data."""
    x, y = sample_grid(warp.shape, config.psf_grid)
    good = np.isfinite(warp.image)
    covered = good[y, x]
    if not covered.any():  # a sliver between grid points: its middle pixel
        y, x = (pixels[[len(pixels) // 2]] for pixels in np.nonzero(good))
        covered = np.ones(1, bool)
    x, y = x[covered], y[covered]
    sources = [(frame.image, place) for frame, place in used if frame.image.psf is not None]
    size = max((carried_size(image.psf.size, place) for image, place in sources if image.psf is not None), default=0)
    stamps, done = np.zeros((len(x), size, size)), np.zeros(len(x), bool)
    for image, place in sources:
        here = ~done & place.has(x, y)
        sx, sy = place(x[here], y[here])
        here[here] = (sx > -0.5) & (sx < image.shape[1] - 0.5) & (sy > -0.5) & (sy < image.shape[0] - 0.5)
        if here.any() and image.psf is not None:
            stamps[here] = carried_psf(image.psf, place, x[here], y[here], size)
            done |= here
    if not done.any():
        raise ValueError("no detector image over the patch has a PSF model; step 1 must write one")
    return PsfModel.through(stamps[done], x[done], y[done], config.psf_order, warp.shape)
