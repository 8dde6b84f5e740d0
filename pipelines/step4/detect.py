"""Sources on a difference image: peaks of its matched-filter significance, of either sign, and their measurements."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import fft

from pipelines.image import MASK, Image
from pipelines.neighbours import highest, vertex
from pipelines.photometry import forced
from pipelines.step4 import peaks

Array = NDArray[np.float64]

#: Medians over an image take every so many of its pixels.
_SAMPLE = 5


@dataclass(frozen=True)
class DetectSettings:
    """What counts as a difference source."""

    threshold: float = 5.0  # sigma
    # Errors of the subtraction count as noise: as fractions of the flux of the template at the place, and of its greatest
    # flux within four PSF sigmas, where the wings of bright stars leave rings.
    systematic: float = 0.01
    halo: float = 0.004
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


@dataclass(frozen=True)
class Significance:
    """``snr`` (ny, nx): signal to noise of a point source at each pixel; ``systematic`` (ny, nx): how much of its noise,
    in units of the statistical error, is the error of the subtraction; ``scale``: true errors over the variance plane's."""

    snr: NDArray[np.float32]
    systematic: NDArray[np.float32]
    scale: float


def _correlated(plane: NDArray[np.float32], kernel: Array) -> NDArray[np.float32]:
    """sum_u plane(p + u) kernel(u) at each pixel p."""
    half = kernel.shape[0] // 2
    padded = tuple(fft.next_fast_len(n + 2 * half, real=True) for n in plane.shape)
    product = fft.rfft2(plane, padded) * fft.rfft2(kernel[::-1, ::-1].astype(np.float32), padded)
    return np.asarray(fft.irfft2(product, padded)[half : half + plane.shape[0], half : half + plane.shape[1]])


def significance(difference: Image, template: Image, settings: DetectSettings) -> Significance:
    """The matched filter sum(P w d) / sqrt(sum(P^2 w)), w = 1/variance, with noise that the variance plane does not know.

    The scatter of the map over blank sky tells by how much errors exceed the variance plane (resampling, the visit being part
    of the template); the flux of the template adds noise in proportion.
    """
    assert difference.psf is not None
    sigma = difference.psf.width
    psf = _core(difference.psf.centred(*difference.psf.middle)[0], sigma)
    weight = np.where(difference.bad() | ~np.isfinite(difference.variance), np.float32(0), 1 / difference.variance)
    if not weight.any():
        nothing = np.zeros(difference.shape, np.float32)
        return Significance(nothing, nothing, 1.0)
    information = _correlated(weight, psf**2)
    # where hardly any of the PSF falls on usable pixels there is nothing to detect
    seen = information > 0.05 * float((psf**2).sum()) * float(np.median(weight[weight > 0][::_SAMPLE]))
    root = np.sqrt(np.where(seen, information, np.float32(1)))
    snr = np.where(seen, _correlated(np.where(weight > 0, difference.image, np.float32(0)) * weight, psf) / root, np.float32(0))
    known = np.maximum(_correlated(np.where(template.bad(MASK["NO_DATA"]), np.float32(0), template.image), psf), 0)
    around = highest(known, int(np.ceil(4 * sigma)))
    systematic = np.maximum(settings.systematic * known, settings.halo * around) * root / np.float32((psf**2).sum())
    sky = seen & (systematic < 0.2)
    sample = snr[sky][::_SAMPLE] if sky.sum() > 1000 * _SAMPLE else snr[seen]
    scale = 1.4826 * float(np.median(np.abs(sample - np.median(sample)))) if len(sample) else 1.0
    scale = min(max(scale, 0.3), 5.0)
    systematic /= np.float32(scale)
    return Significance(snr / (np.float32(scale) * np.sqrt(1 + systematic**2)), systematic, scale)


def _core(psf: Array, sigma: float) -> Array:
    half = psf.shape[0] // 2
    radius = min(half, int(np.ceil(5 * sigma)))
    return psf[half - radius : half + radius + 1, half - radius : half + radius + 1]


def detect(difference: Image, science: Image, found: Significance, settings: DetectSettings) -> DiaSources:
    """Peaks of significance of either sign, measured on the difference (its variance already scaled) and the visit image."""
    assert difference.psf is not None
    sigma = difference.psf.width
    radius, snr = max(2, round(2 * sigma)), found.snr
    row, column = peaks.local_maxima(np.abs(snr), settings.threshold, radius)
    height = snr[row, column].astype(float)
    dx, dy = vertex(snr, row, column)
    x, y = column + dx, row + dy
    around = peaks.cutouts(snr, column, row, radius) * np.sign(height)[:, None, None]
    dipole = (
        -around.min(axis=(1, 2)) > np.maximum(0.6 * settings.threshold, 0.35 * np.abs(height)) if len(row) else np.zeros(0, bool)
    )
    fluxes, direct = forced(difference, x, y), forced(science, x, y)
    aperture, error = _apertures(difference, x, y, settings.aperture * sigma)
    with np.errstate(invalid="ignore"):
        ratio = np.abs(fluxes.flux) / fluxes.error
        # a perfect PSF would leave chi^2 about 1; that of a bright source is known to a few per cent, and what the
        # subtraction of a bright star leaves beside its change of flux is not an artefact
        misfit = fluxes.chi2 > settings.chi2 + (0.05 * ratio) ** 2 + (3.0 * found.systematic[row, column]) ** 2
        seen = ratio >= settings.threshold
    bad = fluxes.flag | misfit | ~np.isfinite(ratio)
    saturated = peaks.cutouts((science.mask & MASK["SAT"]) != 0, column, row, radius).any(axis=(1, 2))
    every = DiaSources(x, y, fluxes.flux, fluxes.error, aperture, error, direct.flux, direct.error, ratio, dipole, bad | saturated)
    return DiaSources(*(getattr(every, name)[seen] for name in every.__dataclass_fields__))


def _apertures(image: Image, x: Array, y: Array, radius: float) -> tuple[Array, Array]:
    """Sums within a circle and their errors; unusable pixels are replaced by the mean of the others in it."""
    hidden = image.bad() | ~np.isfinite(image.image) | ~np.isfinite(image.variance)
    clean = np.where(hidden, np.float32(0), image.image)
    error = np.sqrt(np.where(hidden, np.float32(0), image.variance))
    flux, flux_error, _ = sep.sum_circle(clean, x, y, radius, err=error, mask=hidden)
    return flux, flux_error
