"""Instrument signature removal: raw counts to electrons with variance and mask.

    n = gain (raw - overscan - bias - t dark)                         electrons that arrived
    image = n / flat
    variance = (max(gain (raw - overscan - bias), 0) + read noise^2 + variance of the masters) / flat^2

The image holds no NaN: bad and cosmic-ray pixels are interpolated (and flagged); saturated ones keep their value.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numexpr
import numpy as np
from numpy.typing import NDArray

from pipelines import instrument as instruments
from pipelines.image import MASK, Image
from pipelines.instrument import Detector, Instrument
from pipelines.neighbours import filled
from pipelines.quantum import Inputs, Payload, Quantum
from pipelines.raw import read_raw
from pipelines.step1 import cosmic_rays, saturation
from pipelines.step1.background import typical
from pipelines.step1.config import IsrConfig

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Parallelism is over jobs; a thread pool per worker would only make them wait for each other.
numexpr.set_num_threads(1)


#: Pixels are interpolated from good ones this near, pixels.
REACH = 3


class IsrError(ValueError):
    """A raw cannot be reduced; the message names the data ID, the input and the remedy."""


@dataclass(frozen=True)
class Masters:
    """Calibration frames of the imaging pixels: ``bias`` ADU, ``dark`` ADU/s, ``flat`` relative, ``defects`` a mask."""

    bias: Image
    flat: Image
    dark: Image | None = None
    defects: Image | None = None

    def bad(self, minimum_flat: float, saturation: float) -> Mask:
        """Pixels (ny, nx) that a master calls bad, that none can correct, or that the flat cannot be divided by."""
        bad = ~(self.flat.image >= minimum_flat) | ~np.isfinite(self.bias.image) | (self.bias.image >= saturation)
        if self.dark is not None:
            bad |= ~np.isfinite(self.dark.image)
        for master in (self.bias, self.flat, self.dark, self.defects):
            if master is not None:
                bad |= master.bad(MASK["BAD"] | MASK["NO_DATA"])
        return bad


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """Task ``isr``: raw, bias, flat [, dark, defects] -> post_isr_image (electrons)."""
    config = quantum.settings(IsrConfig)
    d = quantum.data_id
    name = f"{d['instrument']} exposure {d['exposure']} detector {d['detector']}"
    instrument = instruments.load(str(d["instrument"]))
    refs = inputs.refs("raw")
    if len(refs) != 1:
        raise IsrError(f"{name}: {len(refs)} raws, one is needed")
    raw, facts = read_raw(inputs.path(refs[0]), instrument)
    if facts["detector"] != d["detector"]:
        raise IsrError(f"{name}: {refs[0].path} says it is detector {facts['detector']}: register it under that one")
    detector = instrument.detector(facts["detector"])
    image = reduce(raw, float(facts["exposure_time"]), detector, _masters(inputs, name, detector), config)
    image.wcs = instrument.nominal_wcs(facts["ra"], facts["dec"], facts["rotation"], detector.detector)
    image.meta = _meta(int(d["exposure"]), instrument, detector, facts)
    return {"post_isr_image": image}


def reduce(raw: NDArray[np.uint16], exposure_time: float, detector: Detector, masters: Masters, config: IsrConfig) -> Image:
    """Electrons (height, width) of a raw array (overscan included)."""
    x0, x1, y0, y1 = detector.data
    counts = raw[y0:y1, x0:x1].astype(np.float32)
    bad = masters.bad(config.minimum_flat, detector.saturation)
    nothing = np.float32(0)
    terms = {
        "counts": counts - overscan(raw, detector, config.overscan_order)[y0:y1, None],
        "bias": masters.bias.image, "bias_variance": _variance(masters.bias),
        "dark": nothing if masters.dark is None else masters.dark.image,
        "dark_variance": nothing if masters.dark is None else _variance(masters.dark),
        "flat": np.where(bad, np.float32(1), masters.flat.image), "t": np.float32(exposure_time),
        "gain": np.float32(detector.gain), "read_noise": np.float32(detector.read_noise), "zero": nothing,
    }  # fmt: skip
    image = numexpr.evaluate("gain * (counts - bias - t * dark) / flat", terms)
    variance = numexpr.evaluate(
        "(where(counts > bias, gain * (counts - bias), zero) + read_noise * read_noise"
        " + gain * gain * (bias_variance + t * t * dark_variance)) / (flat * flat)",
        terms,
    )
    # Bad pixels keep no trace of what the masters hold there, be it NaN.
    level = typical(image, ~bad)
    image[bad], variance[bad] = level, max(typical(variance, ~bad), np.float32(1))
    mask = np.zeros(image.shape, np.int16)
    mask[bad] = MASK["BAD"]
    saturation.flag(mask, (counts >= detector.saturation) & ~bad, config)
    image = filled(image, bad, bad, REACH, level)
    if config.cosmic_rays:
        hit = cosmic_rays.find(image, variance, mask, config)
        mask[hit] |= MASK["CR"]
        bad = bad | hit
        image = filled(image, hit, bad, REACH, level)
    mask[bad] |= MASK["INTERPOLATED"]
    return Image(image, variance, mask)


def overscan(raw: NDArray[np.uint16], detector: Detector, order: int) -> Plane:
    """Zero level of every row (ny,), ADU: Legendre fit along the rows to the medians of the overscan columns."""
    if detector.overscan is None:
        return np.zeros(len(raw), np.float32)
    x0, x1 = detector.overscan
    rows = np.median(raw[:, x0:x1], axis=1).astype(float)
    t = np.linspace(-1.0, 1.0, len(rows))
    use = np.ones(len(rows), bool)
    fit = rows
    for _ in range(2):  # a charged-up row (a bleed trail reaching the register) must not bend the fit
        coefficients = np.polynomial.legendre.legfit(t[use], rows[use], min(order, int(use.sum()) - 1))
        fit = np.polynomial.legendre.legval(t, coefficients)
        spread = 1.4826 * np.median(np.abs(rows - fit)[use])
        use = np.abs(rows - fit) <= max(4.0 * spread, 1.0)
    return np.asarray(fit, np.float32)


def _variance(master: Image) -> Plane:
    """Variance of a master where it is known (else 0)."""
    known = np.isfinite(master.variance) & (master.variance > 0)
    return np.where(known, master.variance, np.float32(0))


def _masters(inputs: Inputs, name: str, detector: Detector) -> Masters:
    found: dict[str, Image] = {}
    for kind, needed in (("bias", True), ("dark", False), ("flat", True), ("defects", False)):
        refs = inputs.refs(kind)
        if not refs and not needed:
            continue
        if len(refs) != 1:
            raise IsrError(f"{name}: {len(refs)} valid {kind} frames, one is needed: certify one for this time")
        found[kind] = inputs.image(kind)
        ny, nx = found[kind].shape
        if (ny, nx) != (detector.height, detector.width):
            raise IsrError(
                f"{name}: {kind} {refs[0].path} is {nx} x {ny} pixels, the detector's imaging area is "
                f"{detector.width} x {detector.height}: trim it"
            )
    return Masters(**found)


def _meta(exposure: int, instrument: Instrument, detector: Detector, facts: dict[str, Any]) -> dict[str, Any]:
    nominal = instrument.filters[facts["physical_filter"]].nominal_zero_point(facts["exposure_time"], facts["airmass"])
    return {
        "instrument": instrument.name, "exposure": exposure, "visit": exposure, "detector": detector.detector,
        "band": facts["band"], "physical_filter": facts["physical_filter"], "day_obs": int(facts["day_obs"]),
        "mjd_mid": float(facts["mjd_mid"]), "exposure_time": float(facts["exposure_time"]),
        "airmass": float(facts["airmass"]), "gain": detector.gain, "read_noise": detector.read_noise,
        "saturation": detector.gain * detector.saturation, "zeroPoint": nominal, "absolute": False, "BUNIT": "electron",
    }  # fmt: skip
