"""Fluxes of known sources on one coadd: PSF and aperture, each with its neighbours subtracted.

PSF flux: P.c / P.P on a source's cut-out c. Aperture flux: sum of c in a circle over the sum of P there, so that a
star's aperture flux is its total flux.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np

from pipelines.step3.detect import Field
from pipelines.step3.fit import Array, Stamps, errors
from pipelines.step3.scene import BoolArray, added_variance, fit_scene


@dataclass(frozen=True)
class Photometry:
    """Per source (N,): fluxes and errors in nJy; ``coverage``: part of sum(P**2) on valid pixels.

    ``blendedness``: part of the model's light, as the PSF weighs it, that belongs to neighbours. ``width``:
    added_variance.
    """

    psf_flux: Array
    psf_error: Array
    aperture_flux: Array
    aperture_error: Array
    coverage: Array
    blendedness: Array
    width: Array
    width_error: Array

    def joined(self, other: Photometry) -> Photometry:
        """These sources, then those of ``other``."""
        return Photometry(*(np.concatenate([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


def measure(field: Field, x: Array, y: Array, broad: BoolArray, half: int, radius: float) -> Photometry:
    """Photometry of sources at (x, y); ``radius`` of the aperture in pixels, which must fit in ``half``."""
    scene = fit_scene(field, x, y, broad, half)
    stamps = scene.stamps
    light = np.maximum((stamps.values * stamps.take(scene.fitted)).sum(axis=(1, 2)), 1e-30)
    share = (stamps.values * scene.own).sum(axis=(1, 2)) / light
    error = errors(scene.design, scene.normal, field.variance)
    return on_cutouts(field, x, y, stamps, scene.cutouts, radius, error, np.clip(1.0 - share, 0.0, 1.0))


def unshared(field: Field, x: Array, y: Array, half: int, radius: float) -> Photometry:
    """Photometry as if there were no neighbours (that of parents)."""
    stamps = Stamps.of(field.psf, x, y, half)
    values = stamps.values * stamps.take(field.valid)
    power = np.maximum((values**2).sum(axis=(1, 2)), 1e-30)
    error = np.sqrt((values**2 * stamps.take(field.variance)).sum(axis=(1, 2))) / power
    return on_cutouts(field, x, y, stamps, stamps.take(field.image), radius, error, np.zeros(len(x)))


def on_cutouts(
    field: Field,
    x: Array,
    y: Array,
    stamps: Stamps,
    cutouts: Array,
    radius: float,
    psf_error: Array,
    blendedness: Array,
) -> Photometry:
    """Photometry on given cut-outs (N, n, n); pixels without data are in them through the model, if at all."""
    values = stamps.values * stamps.take(field.valid)
    power = (values**2).sum(axis=(1, 2))
    step = np.arange(stamps.size)
    distance = np.hypot((stamps.x0[:, None] + step - x[:, None])[:, None, :], (stamps.y0[:, None] + step - y[:, None])[:, :, None])
    inside = np.clip(radius + 0.5 - distance, 0.0, 1.0)
    enclosed = (stamps.values * inside).sum(axis=(1, 2))
    width, width_error = added_variance(field, stamps, cutouts, stamps.take(field.valid))
    return Photometry(
        psf_flux=(values * cutouts).sum(axis=(1, 2)) / np.maximum(power, 1e-30),
        psf_error=psf_error,
        aperture_flux=(cutouts * inside).sum(axis=(1, 2)) / enclosed,
        aperture_error=np.sqrt((stamps.take(field.variance) * inside**2).sum(axis=(1, 2))) / enclosed,
        coverage=power / (stamps.values**2).sum(axis=(1, 2)),
        blendedness=blendedness,
        width=width,
        width_error=width_error,
    )
