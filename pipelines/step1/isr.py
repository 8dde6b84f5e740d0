"""Instrument signature removal: raw counts to electrons with variance and mask.

    n = gain (raw - overscan - bias - t dark)                         electrons that arrived
    image = n / flat
    variance = (max(gain (raw - overscan - bias), 0) + read noise^2 + variance of the masters) / flat^2

The image holds no NaN: bad and cosmic-ray pixels are interpolated (and flagged); saturated ones keep their value.
"""

from __future__ import annotations

from typing import Any

import numexpr
import numpy as np
from numpy.typing import NDArray

from pipelines import instrument as instruments
from pipelines.image import MASK, Image
from pipelines.instrument import Detector, Instrument
from pipelines.quantum import Inputs, Payload, Quantum
from pipelines.raw import read_raw
from pipelines.step1 import cosmic_rays, saturation
from pipelines.step1.config import IsrConfig
from pipelines.step1.interpolate import fill

Plane = NDArray[np.float32]

#: Parallelism is over jobs; a thread pool per worker would only make them wait for each other.
numexpr.set_num_threads(1)


class IsrError(ValueError):
    """A raw cannot be reduced; the message names the data ID, the input and the remedy."""


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """Task ``isr``: raw, bias, flat [, dark, defects] -> post_isr_image (electrons)."""
    config = IsrConfig.read(quantum.config, quantum.task)
    name = _name(quantum)
    instrument = instruments.load(str(quantum.data_id["instrument"]))
    refs = inputs.refs("raw")
    if len(refs) != 1:
        raise IsrError(f"{name}: {len(refs)} raws, one is needed")
    raw, facts = read_raw(inputs.path(refs[0]), instrument)
    if facts["detector"] != quantum.data_id["detector"]:
        raise IsrError(f"{name}: {refs[0].path} says it is detector {facts['detector']}: register it under that one")
    detector = instrument.detector(facts["detector"])
    masters = {
        "bias": _master(inputs, name, "bias", detector),
        "dark": _master(inputs, name, "dark", detector, optional=True),
        "flat": _master(inputs, name, "flat", detector),
        "defects": _master(inputs, name, "defects", detector, optional=True),
    }
    image = reduce(raw, float(facts["exposure_time"]), detector, masters, config)
    image.wcs = instrument.nominal_wcs(facts["ra"], facts["dec"], facts["rotation"], detector.detector)
    image.meta = _meta(quantum, instrument, detector, facts)
    return {"post_isr_image": image}


def reduce(
    raw: NDArray[np.uint16], exposure_time: float, detector: Detector, masters: dict[str, Image | None], config: IsrConfig
) -> Image:
    """Electrons (height, width) of a raw array (overscan included) and its masters (ADU, ADU/s, relative response)."""
    bias, flat = masters["bias"], masters["flat"]
    assert bias is not None and flat is not None
    x0, x1, y0, y1 = detector.data
    counts = raw[y0:y1, x0:x1].astype(np.float32)
    saturated = counts >= detector.saturation
    bad = _bad_pixels(masters, detector, config)
    response = np.where(bad, np.float32(1), flat.image)
    level = overscan(raw, detector, config.overscan_order)[y0:y1, None]
    zero, dark = masters["bias"], masters["dark"]
    terms = {
        "counts": counts, "level": level, "bias": zero.image if zero else 0, "dark": dark.image if dark else np.float32(0),
        "t": np.float32(exposure_time), "gain": np.float32(detector.gain), "rn": np.float32(detector.read_noise),
        "response": response, "bias_var": _variance(zero), "dark_var": _variance(dark), "zero": np.float32(0),
    }  # fmt: skip
    image = numexpr.evaluate("gain * (counts - level - bias - t * dark) / response", terms)
    variance = numexpr.evaluate(
        "(where(counts - level > bias, gain * (counts - level - bias), zero) + rn * rn"
        " + gain * gain * (bias_var + t * t * dark_var)) / (response * response)",
        terms,
    )
    mask = np.zeros(image.shape, np.int16)
    mask[bad] = MASK["BAD"]
    saturation.flag(mask, saturated & ~bad, config)
    image[bad] = np.median(image[~bad]) if not bad.all() else 0.0
    image = fill(image, bad)
    if config.cosmic_rays:
        hit = cosmic_rays.find(image, variance, mask, config)
        mask[hit] |= MASK["CR"]
        # Neither value nor noise of neighbours that are bad themselves may be used.
        image = fill(image, hit, avoid=bad)
        bad = bad | hit
    mask[bad] |= MASK["INTERPOLATED"]
    return Image(image, variance, mask)


def overscan(raw: NDArray[np.uint16], detector: Detector, order: int) -> Plane:
    """Electronic zero level of every row (ny,), ADU: Legendre fit along the rows to the medians of the overscan columns."""
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
    return fit.astype(np.float32)


def _bad_pixels(masters: dict[str, Image | None], detector: Detector, config: IsrConfig) -> NDArray[np.bool_]:
    """Pixels that some master calls bad, or that cannot be divided by the flat."""
    bad = np.zeros((detector.height, detector.width), bool)
    for master in masters.values():
        if master is not None:
            bad |= master.bad(MASK["BAD"] | MASK["NO_DATA"])
    for name in ("bias", "dark", "flat"):
        master = masters[name]
        if master is not None:
            bad |= ~np.isfinite(master.image)
    flat, bias = masters["flat"], masters["bias"]
    assert flat is not None and bias is not None
    return bad | ~(flat.image >= config.minimum_flat) | (bias.image >= detector.saturation)


def _variance(master: Image | None) -> Plane | np.float32:
    """Variance of a master where it is known, ADU^2 [s^-2]."""
    if master is None:
        return np.float32(0)
    return np.where(np.isfinite(master.variance) & (master.variance > 0), master.variance, np.float32(0))


def _master(inputs: Inputs, name: str, kind: str, detector: Detector, optional: bool = False) -> Image | None:
    found = inputs.refs(kind)
    if not found and optional:
        return None
    if len(found) != 1:
        raise IsrError(f"{name}: {len(found)} valid {kind} frames, one is needed: certify one for this time")
    master = inputs.image(kind)
    if master.shape != (detector.height, detector.width):
        raise IsrError(
            f"{name}: {kind} {found[0].path} is {master.shape[1]} x {master.shape[0]} pixels, "
            f"the detector has {detector.width} x {detector.height}: make the {kind} without overscan"
        )
    return master


def _meta(quantum: Quantum, instrument: Instrument, detector: Detector, facts: dict[str, Any]) -> dict[str, Any]:
    nominal = instrument.filters[facts["physical_filter"]].nominal_zero_point(facts["exposure_time"], facts["airmass"])
    exposure = int(quantum.data_id["exposure"])
    return {
        "instrument": instrument.name, "exposure": exposure, "visit": exposure, "detector": detector.detector,
        "band": facts["band"], "physical_filter": facts["physical_filter"], "day_obs": int(facts["day_obs"]),
        "mjd_mid": float(facts["mjd_mid"]), "exposure_time": float(facts["exposure_time"]),
        "airmass": float(facts["airmass"]), "gain": detector.gain, "read_noise": detector.read_noise,
        "saturation": detector.gain * detector.saturation, "zeroPoint": nominal, "absolute": False, "BUNIT": "electron",
    }  # fmt: skip


def _name(quantum: Quantum) -> str:
    d = quantum.data_id
    return f"{d['instrument']} exposure {d['exposure']} detector {d['detector']}"
