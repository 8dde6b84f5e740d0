"""Fluxes of known sources on one coadd: PSF and aperture, each with its neighbours subtracted.

A source's cut-out is the residual of the common fit plus its own model. PSF flux: P.c / P.P on it. Aperture flux: sum
of c in a circle over the sum of P there, so that a star's aperture flux is its total flux. Extended sources are
modelled as the PSF at three widths, only to keep their light away from their neighbours.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from pipelines.psf import PsfModel
from pipelines.step3.detect import Field, FloatImage
from pipelines.step3.fit import Array, Stamps, errors, model, residual, solve

BoolArray = NDArray[np.bool_]

#: Widths, in PSF widths, of the Gaussians that broaden the PSF in models of extended sources.
BROADER = (1.0, 2.2)


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


def middle_sigma(field: Field) -> float:
    """Width of the PSF at the middle of the image, pixels."""
    return field.psf.sigma((field.psf.shape[1] - 1) / 2, (field.psf.shape[0] - 1) / 2)


def broadened(psf: PsfModel, sigma: float) -> PsfModel:
    """The PSF convolved with a Gaussian of ``sigma`` pixels."""
    rim = int(np.ceil(2.5 * sigma))
    stamps = np.pad(psf.stamps, ((0, 0), (rim, rim), (rim, rim)))
    return PsfModel(ndimage.gaussian_filter(stamps, (0, sigma, sigma), mode="constant"), psf.order, psf.shape)


def amplitudes(field: Field, stamps: Stamps) -> tuple[Array, FloatImage, Array]:
    """PSF amplitudes (N,) of all sources at once; the residual image; cut-outs (N, n, n) with neighbours subtracted."""
    design = stamps.matrix(field.valid)
    amplitude, _ = solve(design, field.image)
    left = residual(field, model(design, amplitude, field.image.shape))
    return amplitude, left, stamps.take(left) + amplitude[:, None, None] * stamps.values


def wings(field: Field, x: Array, y: Array, amplitude: Array, half: int) -> FloatImage:
    """The light of bright stars beyond the stamps of ``half``: zero for stars that do not reach the noise there."""
    size = field.psf.size
    rim = size // 2 - half
    empty = np.zeros(field.image.shape, np.float32)
    if rim <= 0:
        return empty
    middle = field.psf.centred((field.psf.shape[1] - 1) / 2, (field.psf.shape[0] - 1) / 2)[0]
    edge = np.abs(middle).copy()
    edge[rim : size - rim, rim : size - rim] = 0
    reach = amplitude * edge.max() > 0.1 * field.noise
    if not reach.any():
        return empty
    full = Stamps.of(field.psf, x[reach], y[reach], size // 2)
    full.values[:, rim : size - rim, rim : size - rim] = 0
    return model(full.matrix(np.ones(field.image.shape, bool)), amplitude[reach], field.image.shape)


def measure(field: Field, x: Array, y: Array, extended: BoolArray, half: int, radius: float) -> Photometry:
    """Photometry of sources at (x, y); ``radius`` of the aperture in pixels, which must fit in ``half``."""
    stamps = Stamps.of(field.psf, x, y, half)
    design = stamps.matrix(field.valid)
    wide = [broadened(field.psf, factor * middle_sigma(field)) for factor in BROADER]
    broad = [Stamps.of(psf, x[extended], y[extended], 2 * half) for psf in wide]
    everything = sparse.csr_array(sparse.vstack([design, *(s.matrix(field.valid) for s in broad)], format="csr"))
    amplitude, normal = solve(everything, field.image)
    fitted = model(everything, amplitude, field.image.shape)
    count = len(x)
    own = amplitude[:count, None, None] * stamps.values
    for n, part in enumerate(broad):
        pixels = slice(part.size // 2 - half, part.size // 2 + half + 1)
        first = count + n * len(part.values)
        own[extended] += amplitude[first : first + len(part.values), None, None] * part.values[:, pixels, pixels]
    cutouts = stamps.take(residual(field, fitted)) + own
    light = np.maximum((stamps.values * stamps.take(fitted)).sum(axis=(1, 2)), 1e-30)
    share = (stamps.values * own).sum(axis=(1, 2)) / light
    error = errors(design, sparse.csr_array(normal[:count, :count]), field.variance)
    return on_cutouts(field, x, y, stamps, cutouts, radius, error, np.clip(1.0 - share, 0.0, 1.0))


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
    distance = np.hypot(
        (stamps.x0[:, None] + step - x[:, None])[:, None, :], (stamps.y0[:, None] + step - y[:, None])[:, :, None]
    )
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


def added_variance(field: Field, stamps: Stamps, cutouts: Array, valid: Array) -> tuple[Array, Array]:
    """How much broader than the PSF sources are (N,): s^2 / sigma_psf^2 of a Gaussian that broadens it so; error.

    A broadened PSF is P + (s^2 / 2) Laplacian P to first order. W is that Laplacian made orthogonal to P, so that it
    sees shape and not flux: s^2 = 2 W.c / (flux W.W). In the spirit of SPREAD_MODEL (Desai et al. 2012, ApJ 757, 83).
    """
    padded = np.pad(stamps.values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    laplacian = padded[:, 2:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 1:-1, 2:] + padded[:, 1:-1, :-2]
    laplacian -= 4.0 * stamps.values
    values, laplacian = stamps.values * valid, laplacian * valid
    power = np.maximum((values**2).sum(axis=(1, 2)), 1e-30)
    shape = laplacian - values * ((values * laplacian).sum(axis=(1, 2)) / power)[:, None, None]
    flux = (values * cutouts).sum(axis=(1, 2)) / power
    norm = np.maximum((shape**2).sum(axis=(1, 2)), 1e-30) * 0.5 * middle_sigma(field) ** 2
    scale = np.where(flux > 0, flux, np.inf) * norm
    noise = np.sqrt((shape**2 * stamps.take(field.variance)).sum(axis=(1, 2)))
    return (shape * cutouts).sum(axis=(1, 2)) / scale, np.where(flux > 0, noise / scale, np.inf)
