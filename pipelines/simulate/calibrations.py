"""Master frames of the simulated camera, with the noise that combining a day's calibration exposures leaves."""

from __future__ import annotations

import numpy as np

from pipelines.image import MASK, Image
from pipelines.instrument import Detector
from pipelines.simulate import electronics
from pipelines.simulate.electronics import Map
from pipelines.simulate.settings import generator
from pipelines.simulate.survey import Plan

#: Exposures combined into each master, and their depth.
BIASES, DARKS, FLATS = 30, 10, 20
DARK_SECONDS, FLAT_ADU = 600.0, 30000.0


def master_bias(plan: Plan, detector: int) -> Image:
    """ADU left after overscan subtraction."""
    d = plan.instrument.detector(detector)
    noise = d.read_noise / d.gain / np.sqrt(BIASES)
    return _image(plan, d, "bias", electronics.bias_structure(plan, detector), np.float32(noise), "adu")


def master_dark(plan: Plan, detector: int) -> Image:
    """ADU per second."""
    d = plan.instrument.detector(detector)
    rate = electronics.dark_rate(plan, detector)
    noise = np.sqrt(rate * DARK_SECONDS + d.read_noise**2) / d.gain / DARK_SECONDS / np.sqrt(DARKS)
    return _image(plan, d, "dark", rate / np.float32(d.gain), noise, "adu/s")


def master_flat(plan: Plan, epoch: int, physical_filter: str, detector: int) -> Image:
    """Relative response, mean 1 over the good pixels of the focal plane; wrong by flat_error of its epoch."""
    d = plan.instrument.detector(detector)
    flat = electronics.response(plan, epoch, physical_filter, detector)
    flat = flat * electronics.flat_error_map(plan, epoch, detector)
    flat /= np.float32(electronics.flat_mean(plan, epoch, physical_filter))
    noise = np.sqrt(flat / (FLAT_ADU * d.gain * FLATS))
    image = _image(plan, d, f"flat {epoch} {physical_filter}", flat, noise, "relative")
    image.meta |= {"physical_filter": physical_filter, "band": plan.instrument.filters[physical_filter].band}
    return image


def defects(plan: Plan, detector: int) -> Image:
    """A mask: BAD where a pixel is dead or hot."""
    d = plan.instrument.detector(detector)
    image = _image(plan, d, "defects", np.zeros((d.height, d.width), np.float32), np.float32(0.0), "none")
    image.mask[electronics.defects(plan, detector) > 0] = MASK["BAD"]
    return image


def _image(plan: Plan, d: Detector, what: str, truth: Map, noise: Map | np.float32, unit: str) -> Image:
    rng = generator(plan.settings.seed, "master", plan.instrument_name, what, d.detector)
    image = truth + noise * rng.standard_normal(truth.shape, dtype=np.float32)
    variance = np.broadcast_to(np.float32(noise) ** 2, truth.shape).astype(np.float32)
    meta: dict[str, str | float | int | bool] = {
        "instrument": plan.instrument_name, "detector": d.detector, "BUNIT": unit, "SIMULATE": True,
    }  # fmt: skip
    return Image(image.astype(np.float32), variance, np.zeros(truth.shape, np.int16), meta=meta)
