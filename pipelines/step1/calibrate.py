"""First calibration of a detector: sources, PSF, WCS and zero point, each alone with its reference stars.

What the detector cannot learn from its own pixels is left at its nominal value and said to be so (``absolute`` false):
a cloudy frame, or a field without reference stars, gives a complete image and catalogue all the same.
"""

from __future__ import annotations

import numpy as np

from pipelines import instrument as instruments
from pipelines.image import Image
from pipelines.quantum import Inputs, Payload, Quantum
from pipelines.step1 import astrometry, catalogue, reference, zero_point
from pipelines.step1.config import CalibrateConfig
from pipelines.step1.measure import MeasureError, Sources, measure

#: Beyond the pointing tolerance, for what turns and distorts besides, pixels.
MARGIN = 3.0


class CalibrateError(ValueError):
    """A detector cannot be calibrated; the message names it and why."""


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """Task ``calibrate_image``: post_isr_image [, reference_star] -> image (electrons, no sky), stars, summary."""
    config = quantum.settings(CalibrateConfig)
    image = inputs.image("post_isr_image")
    meta = image.meta
    if image.wcs is None:
        raise CalibrateError(f"{_name(quantum)}: post_isr_image has no WCS: run isr again")
    instrument = instruments.load(str(meta["instrument"]))
    try:
        sources = measure(image, config)
    except MeasureError as error:
        raise CalibrateError(f"{_name(quantum)}: {error}") from None

    solution, stars = _astrometry(image, sources, instrument, inputs, config)
    i, j = solution.source, solution.reference
    fit = ~sources.bad[i]
    i, j = i[fit], j[fit]
    found = sources.photometry
    zero = zero_point.solve(found.flux[i], found.flux_err[i], stars.mag[j], stars.mag_err[j], float(meta["zeroPoint"]), config)
    absolute = solution.absolute and zero.stars > 0
    image = sources.image
    image.wcs, image.psf = solution.wcs, sources.psf
    image.meta = meta | {
        "zeroPoint": zero.value, "absolute": absolute, "skyBg": sources.sky, "skyNoise": sources.noise,
    }  # fmt: skip
    return {
        "preliminary_visit_image": image,
        "single_visit_star": catalogue.star_table(sources, solution, meta),
        "preliminary_detector_summary": catalogue.detector_summary(sources, solution, zero, absolute, meta),
    }


def _astrometry(
    image: Image, sources: Sources, instrument: instruments.Instrument, inputs: Inputs, config: CalibrateConfig
) -> tuple[astrometry.Solution, reference.References]:
    """WCS from the reference stars around; where the camera's pointing is no guide, none are looked up."""
    nominal = image.wcs
    assert nominal is not None
    ny, nx = image.shape
    tolerance = instrument.pointing_tolerance * 3600.0 / nominal.pixel_scale + MARGIN
    ra, dec = nominal.pixel_to_sky(0.5 * (nx - 1), 0.5 * (ny - 1))
    radius = (0.5 * np.hypot(nx, ny) + tolerance) * nominal.pixel_scale / 3600.0
    if not instrument.reference_wcs:
        radius = 0.0
    stars = reference.load(inputs, float(ra), float(dec), radius, float(image.meta["mjd_mid"]), str(image.meta["band"]))
    found = sources.photometry
    good = np.flatnonzero(~sources.bad)
    bright = good[np.argsort(-found.flux[good], kind="stable")]
    return astrometry.solve(image, found, bright, stars, tolerance, config), stars


def _name(quantum: Quantum) -> str:
    d = quantum.data_id
    return f"{d['instrument']} visit {d['visit']} detector {d['detector']}"
