"""Task subtract_images: visit image minus the tract's template, and the sources on the difference."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines import skymap
from pipelines.image import Image
from pipelines.photometry import rows
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.step4.detect import DetectSettings, DiaSources, detect, significance
from pipelines.step4.difference import MatchSettings, subtract
from pipelines.step4.template import template_for

#: Bits of diaSourceId for the running number within one (visit, detector, tract); the other 51 are a hash of these three.
RUNNING_BITS = 12


@dataclass(frozen=True)
class Settings(MatchSettings, DetectSettings):
    """All settings of the task."""


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``difference_image`` and ``dia_source``; NoWork where the tract's template has no pixel on the detector."""
    settings = quantum.settings(Settings)
    science = inputs.image("visit_image")
    if science.wcs is None or science.psf is None:
        raise ValueError("visit_image has no WCS or no PSF")
    patches = [patch for _, patch in inputs.images("template_coadd")]
    template = template_for(patches, science.wcs, science.shape, science.psf.size)
    if template is None:
        raise NoWork(f"the templates of tract {quantum.data_id['tract']} have no pixel on this detector")
    difference = subtract(science, template, settings)
    image = difference.image
    strength = significance(image, template, settings)
    image.variance *= np.float32(strength.scale**2)
    image.meta |= {
        "skymap": quantum.data_id["skymap"], "tract": quantum.data_id["tract"], "noise_scale": strength.scale,
        "kernel_stars": difference.kernel.stars, "kernel_chi2": difference.kernel.chi2,
        "template_convolved": difference.template_convolved,
    }  # fmt: skip
    found = detect(image, science, strength, settings)
    return {"difference_image": image, "dia_source": table(quantum, science, found)}


def table(quantum: Quantum, science: Image, found: DiaSources) -> pa.Table:
    """Rows of ``dia_source`` for the sources in the tract's inner region."""
    assert science.wcs is not None
    ra, dec = science.wcs.pixel_to_sky(found.x, found.y)
    name, tract = str(quantum.data_id["skymap"]), int(quantum.data_id["tract"])
    own = skymap.load(name).in_inner_region(tract, ra, dec)
    visit, detector = quantum.data_id["visit"], quantum.data_id["detector"]
    n = int(own.sum())
    return rows(
        "dia_source",
        n,
        {
            "tract": tract, "skymap": name, "visit": visit, "detector": detector, "instrument": quantum.data_id["instrument"],
            "band": science.meta["band"], "physical_filter": science.meta["physical_filter"],
            "midpointMjdTai": float(science.meta["mjd_mid"]),
        },
        {
            "diaSourceId": source_ids(visit, detector, tract, n), "coord_ra": ra[own], "coord_dec": dec[own],
            "x": found.x[own], "y": found.y[own],
            "psfFlux": found.flux[own], "psfFluxErr": found.flux_error[own],
            "apFlux": found.aperture_flux[own], "apFluxErr": found.aperture_flux_error[own],
            "scienceFlux": found.science_flux[own], "scienceFluxErr": found.science_flux_error[own],
            "snr": found.snr[own].astype(np.float32), "isDipole": found.dipole[own], "flag_bad": found.bad[own],
        },
    )  # fmt: skip


def source_ids(visit: int, detector: int, tract: int, n: int) -> NDArray[np.int64]:
    """``n`` ids that no other (visit, detector, tract) has, up to a chance of about (number of them)^2 / 2^52."""
    if n > 1 << RUNNING_BITS:
        raise ValueError(f"{n} difference sources on one detector: the subtraction of visit {visit} detector {detector} failed")
    digest = hashlib.sha256(f"{visit}|{detector}|{tract}".encode()).digest()
    high = int.from_bytes(digest[:8], "big") >> (RUNNING_BITS + 1)
    return (high << RUNNING_BITS) + np.arange(n, dtype=np.int64)
