"""Sources on a difference image: peaks of its matched-filter significance, of either sign, and their measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import fft

from pipelines.image import MASK, Image
from pipelines.photometry import forced
from pipelines.step4 import peaks

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DetectSettings:
    """What counts as a difference source."""

    threshold: float = 5.0  # sigma
    systematic: float = 0.01  # error of the subtraction of a source as a fraction of its flux; counts as noise
    aperture: float = 3.0  # radius, PSF sigmas
    chi2: float = 3.0  # limit of the reduced chi^2 of the PSF fit; more for bright sources


@dataclass(frozen=True)
class DiaSources:
    """Columns (N,), in raster order; fluxes in the units of the images."""

    x: Array
    y: Array
    flux: Array
    flux_error: Array
    aperture_flux: Array
    aperture_flux_error: Array
    science_flux: Array
    science_flux_error: Array
    snr: Array
    dipole: NDArray[np.bool_]
    bad: NDArray[np.bool_]


def matched_filter(
    image: NDArray[np.float32], weight: NDArray[np.float32], psf: Array
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Flux of a point source at each pixel and its inverse variance: sum(P w d) / sum(P^2 w), sum(P^2 w); w = 1/variance."""
    half = psf.shape[0] // 2
    padded = tuple(fft.next_fast_len(n + 2 * half, real=True) for n in image.shape)
    here = (slice(half, half + image.shape[0]), slice(half, half + image.shape[1]))

    def correlated(plane: NDArray[np.float32], kernel: Array) -> NDArray[np.float32]:
        flipped = kernel[::-1, ::-1].astype(np.float32)
        return fft.irfft2(fft.rfft2(plane, padded) * fft.rfft2(flipped, padded), padded)[here]

    information = np.maximum(correlated(weight, psf**2), 0)
    # where hardly any of the PSF falls on usable pixels there is nothing to detect
    seen = (
        information > 0.05 * float((psf**2).sum()) * float(np.median(weight[weight > 0]))
        if (weight > 0).any()
        else information > 0
    )
    flux = np.divide(correlated(image * weight, psf), information, out=np.zeros_like(information), where=seen)
    return flux, np.where(seen, information, np.float32(0))


def significance(
    difference: Image, template: NDArray[np.float32], settings: DetectSettings
) -> tuple[NDArray[np.float32], float]:
    """Signal to noise of a point source at each pixel (ny, nx), and the factor by which errors exceed the variance plane.

    The factor is the robust scatter of the map over blank sky: what the variance plane does not know (resampling, the visit
    being part of the template) is measured. The noise has a term proportional to the flux of ``template`` there.
    """
    assert difference.psf is not None
    ny, nx = difference.shape
    weight = np.where(difference.bad() | ~np.isfinite(difference.variance), np.float32(0), 1 / difference.variance)
    psf = _core(difference.psf.centred((nx - 1) / 2, (ny - 1) / 2)[0], difference.psf.sigma((nx - 1) / 2, (ny - 1) / 2))
    flux, information = matched_filter(np.where(weight > 0, difference.image, np.float32(0)), weight, psf)
    known, _ = matched_filter(np.where(weight > 0, template, np.float32(0)), weight, psf)
    snr = flux * np.sqrt(information)
    systematic = settings.systematic * np.abs(known) * np.sqrt(information)
    sky = (information > 0) & (systematic < 0.2)
    sample = snr[sky] if sky.sum() > 1000 else snr[information > 0]
    scale = 1.4826 * float(np.median(np.abs(sample - np.median(sample)))) if len(sample) else 1.0
    scale = min(max(scale, 0.3), 5.0)
    return snr / np.sqrt(scale**2 + systematic**2), scale


def _core(psf: Array, sigma: float) -> Array:
    half = psf.shape[0] // 2
    radius = min(half, int(np.ceil(5 * sigma)))
    return psf[half - radius : half + radius + 1, half - radius : half + radius + 1]


def detect(difference: Image, science: Image, snr: NDArray[np.float32], settings: DetectSettings) -> DiaSources:
    """Peaks of ``snr`` of either sign, measured on the difference and on the visit image."""
    assert difference.psf is not None
    ny, nx = difference.shape
    sigma = difference.psf.sigma((nx - 1) / 2, (ny - 1) / 2)
    radius = max(2, round(2 * sigma))
    row, column = peaks.local_maxima(np.abs(snr), settings.threshold, radius)
    height = snr[row, column].astype(float)
    x, y = _centroids(snr, column, row)
    around = peaks.cutouts(snr, column, row, radius) * np.sign(height)[:, None, None]
    dipole = (
        -around.min(axis=(1, 2)) > np.maximum(0.6 * settings.threshold, 0.35 * np.abs(height))
        if len(row)
        else np.zeros(0, bool)
    )
    fluxes, direct = forced(difference, x, y), forced(science, x, y)
    aperture, error = _apertures(difference, x, y, settings.aperture * sigma)
    with np.errstate(invalid="ignore"):
        ratio = np.abs(fluxes.flux) / fluxes.error
        # a perfect PSF would leave chi^2 about 1; that of a bright source is known to a few per cent
        misfit = fluxes.chi2 > settings.chi2 + (0.05 * ratio) ** 2
        seen = ratio >= settings.threshold
    bad = fluxes.flag | misfit | ~np.isfinite(ratio)
    saturated = peaks.cutouts((science.mask & MASK["SAT"]) != 0, column, row, radius).any(axis=(1, 2))
    every = DiaSources(
        x, y, fluxes.flux, fluxes.error, aperture, error, direct.flux, direct.error, ratio, dipole, bad | saturated
    )
    return DiaSources(*(getattr(every, name)[seen] for name in every.__dataclass_fields__))


def _centroids(snr: NDArray[np.float32], column: NDArray[np.int64], row: NDArray[np.int64]) -> tuple[Array, Array]:
    """Vertices of the parabolas through each peak and its neighbours, along x and along y."""
    near = peaks.cutouts(snr, column, row, 1).astype(float)

    def vertex(before: Array, at: Array, after: Array) -> Array:
        curvature = before + after - 2 * at
        step = np.divide(before - after, 2 * curvature, out=np.zeros_like(at), where=curvature != 0)
        return np.clip(step, -0.5, 0.5)

    x = column + vertex(near[:, 1, 0], near[:, 1, 1], near[:, 1, 2])
    return x, row + vertex(near[:, 0, 1], near[:, 1, 1], near[:, 2, 1])


def _apertures(image: Image, x: Array, y: Array, radius: float) -> tuple[Array, Array]:
    """Sums within a circle and their errors; unusable pixels are replaced by the mean of the others in it."""
    hidden = image.bad() | ~np.isfinite(image.image) | ~np.isfinite(image.variance)
    clean = np.where(hidden, np.float32(0), image.image)
    error = np.sqrt(np.where(hidden, np.float32(0), image.variance))
    flux, flux_error, _ = sep.sum_circle(clean, x, y, radius, err=error, mask=hidden)
    return flux, flux_error
