"""The difference of a visit image and a template on the same pixels: matched PSFs, white noise, known PSF.

The image with the sharper PSF is convolved by the matching kernel K of Alard & Lupton. That colours its noise; a second
kernel, psi^2 = (s + t) / (s + t |K|^2) in Fourier space (s, t: noise power of the image that is not convolved and of the one
that is), makes the noise of the difference white again (Reiss & Lupton 2016, LSST DMTN-021), so that neighbouring pixels
are independent and the errors of PSF fluxes are those of the variance plane. A transient has the PSF of the visit image,
changed by the same kernels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import fft

from pipelines.image import MASK, UNUSABLE, Image
from pipelines.neighbours import filled, grown
from pipelines.psf import PsfModel, resized, sample_grid
from pipelines.step4 import peaks
from pipelines.step4.matching_kernel import Basis, MatchingKernel, Stamps, fit
from pipelines.wcs import polynomial_terms

#: Planes of a template that make a difference unusable; single-visit blemishes were left out of the coadd already.
_TEMPLATE_PLANES = MASK["NO_DATA"] | MASK["SAT"] | MASK["BAD"]
#: The noise of the convolved image is taken to be at least this fraction of the other's: bounds the whitening.
_LEAST_NOISE = 0.1
#: Medians over an image take every so many of its pixels.
_SAMPLE = 5


@dataclass(frozen=True)
class MatchSettings:
    """How the matching kernel is found."""

    kernel_order: int = 2  # of its polynomial over the detector
    kernel_stars: int = 96  # at most
    # Least signal to noise of a star's brightest pixel. Noise in the sharper image makes coefficients too small (the errors
    # are in the design), so that many faint stars do harm: a bias of 2 % with stars down to 10, below 1 % from 20.
    kernel_star_snr: float = 20.0
    kernel_model_snr: float = 300.0  # signal to noise that each of the 16 pairs of PSF models counts for
    kernel_star_error: float = 0.02  # error of a star's pixels as a fraction of their flux: no star decides alone


@dataclass(frozen=True)
class Difference:
    """``image`` (visit image minus template, with PSF, mask, variance), the kernel and which of the two was convolved."""

    image: Image
    kernel: MatchingKernel
    template_convolved: bool


def subtract(science: Image, template: Image, settings: MatchSettings) -> Difference:
    """Science minus template; both with PSFs, on the same pixels. Pixels without template are NaN and NO_DATA."""
    if science.psf is None or template.psf is None:
        raise ValueError("difference imaging needs the PSFs of the visit image and of the template")
    ny, nx = science.shape
    width, template_width = science.psf.width, template.psf.width
    template_convolved = template_width <= width
    sharp, broad = (template, science) if template_convolved else (science, template)
    clean = _clean(sharp), _clean(broad)
    kernel = match(clean[0], clean[1], template, settings, max(width, template_width))
    usable = ~science.bad() & ~template.bad(_TEMPLATE_PLANES)
    sharp_noise, broad_noise = (float(np.median(i.variance[usable][::_SAMPLE])) if usable.any() else 1.0 for i in (sharp, broad))

    half = kernel.planes.shape[-1] // 2
    padded = tuple(fft.next_fast_len(n + 4 * half, real=True) for n in science.shape)
    here = (slice(0, ny), slice(0, nx))
    spectrum = fft.rfft2(clean[0].image, padded)
    u, v = (np.linspace(-1, 1, n, dtype=np.float32) for n in (nx, ny))
    convolved = np.zeros(science.shape, np.float32)
    for (p, q), plane in zip(polynomial_terms(kernel.order), kernel.planes, strict=True):
        corner = fft.rfft2(plane.astype(np.float32), padded)  # its middle is half a kernel from the origin
        term = fft.irfft2(spectrum * corner, padded)[half : half + ny, half : half + nx]
        convolved += term * (v[:, None] ** q * u**p)
    nothing = template.bad(MASK["NO_DATA"]) | science.bad(MASK["NO_DATA"])
    pixels = np.where(nothing, np.float32(0), clean[1].image - convolved if template_convolved else convolved - clean[1].image)

    response = np.abs(_centred_spectrum(kernel.at(*science.psf.middle)[0], padded))
    noise = max(sharp_noise, _LEAST_NOISE * broad_noise)
    whiten = np.sqrt((broad_noise + noise) / (broad_noise + noise * response**2)).astype(np.float32)
    whiten /= whiten[0, 0]
    pixels = fft.irfft2(fft.rfft2(pixels, padded) * whiten, padded)[here]

    edge = half // 2  # beyond it a kernel has next to nothing
    mask = science.mask | grown(template.mask & (_TEMPLATE_PLANES & ~MASK["NO_DATA"]), edge)
    mask[grown(template.bad(MASK["NO_DATA"]), edge)] |= MASK["EDGE"]
    mask[nothing] |= MASK["NO_DATA"]
    for side in (np.s_[:edge], np.s_[-edge:], np.s_[:, :edge], np.s_[:, -edge:]):
        mask[side] |= MASK["EDGE"]
    variance = science.variance + template.variance
    hidden = nothing | ~np.isfinite(variance)
    result = Image(np.ascontiguousarray(pixels, np.float32), variance, mask, science.wcs, None, dict(science.meta))
    _level(result, hidden)
    result.image[hidden] = np.nan
    result.variance[hidden] = np.nan
    result.psf = _difference_psf(science.psf, None if template_convolved else kernel, _kernel_of(whiten, padded, half))
    return Difference(result, kernel, template_convolved)


def _clean(image: Image) -> Image:
    """The image with blemishes filled from their surroundings and 0 where it has no data."""
    unknown = ~np.isfinite(image.image) | ~np.isfinite(image.variance)
    bad = image.bad(UNUSABLE & ~MASK["SAT"] & ~MASK["EDGE"]) | unknown
    hidden = image.bad(MASK["NO_DATA"])
    pixels = filled(image.image, bad & ~hidden, bad)
    pixels[hidden] = 0
    mask = np.where(unknown, image.mask | np.int16(MASK["NO_DATA"]), image.mask)
    return Image(pixels, image.variance, mask, image.wcs, image.psf, image.meta)


def match(sharp: Image, broad: Image, static: Image, settings: MatchSettings, width: float) -> MatchingKernel:
    """The kernel that gives ``sharp`` the PSF of ``broad``; ``width`` is the sigma of the broader PSF in pixels.

    Stars are taken from ``static``, the one of the two that holds no transients.
    """
    assert sharp.psf is not None and broad.psf is not None
    basis = Basis.gaussians(int(np.ceil(5 * width)), (0.5 * width, width, 2 * width), (3, 2, 0))
    size = 2 * int(np.ceil(7 * width)) + 1
    stars = _star_stamps(sharp, broad, static, basis, size, settings)
    models = _model_stamps(sharp.psf, broad.psf, basis, size, settings)
    return fit(basis, stars, models, settings.kernel_order, sharp.shape)


def _star_stamps(sharp: Image, broad: Image, static: Image, basis: Basis, size: int, settings: MatchSettings) -> Stamps:
    """Stamps around the brightest usable sources of ``static``, spread over the image; unusable pixels weigh nothing."""
    ny, nx = sharp.shape
    half, reach = size // 2, size // 2 + basis.half
    bad = grown(sharp.bad(), 2) | broad.bad()
    snr = np.where(bad, 0, static.image / np.sqrt(np.where(bad, 1, static.variance)))
    y, x = peaks.local_maxima(snr, settings.kernel_star_snr, 3)
    inside = (x >= reach) & (x < nx - reach) & (y >= reach) & (y < ny - reach)
    x, y = x[inside], y[inside]
    # a star needs its core, and most of what surrounds it
    clean = ~peaks.cutouts(bad, x, y, 3).any(axis=(1, 2)) & (peaks.cutouts(bad, x, y, half).sum(axis=(1, 2)) < 0.15 * size**2)
    x, y = x[clean], y[clean]
    chosen = peaks.spread_out(x, y, static.image[y, x], sharp.shape, cells=4, most=settings.kernel_stars)
    x, y = x[chosen], y[chosen]
    flux = peaks.cutouts(broad.image, x, y, half).astype(float)
    variance = np.where(bad, np.inf, sharp.variance + broad.variance)
    weight = 1.0 / (peaks.cutouts(variance, x, y, half) + (settings.kernel_star_error * flux) ** 2)
    return Stamps(peaks.cutouts(sharp.image, x, y, reach).astype(float), flux, weight, x.astype(float), y.astype(float), stars=True)


def _model_stamps(sharp: PsfModel, broad: PsfModel, basis: Basis, size: int, settings: MatchSettings) -> Stamps:
    """The PSF models on a 4 x 4 grid as stars with the given signal to noise."""
    x, y = sample_grid(sharp.shape, 4)
    before = resized(sharp.centred(x, y), size + 2 * basis.half)
    after = resized(broad.centred(x, y), size)
    weight = settings.kernel_model_snr**2 / (after**2).sum(axis=(1, 2), keepdims=True) * np.ones_like(after)
    return Stamps(before, after, weight, x.astype(float), y.astype(float), stars=False)


def _centred_spectrum(kernel: NDArray[np.float64], padded: tuple[int, ...]) -> NDArray[np.complex64]:
    """Transform of a kernel (odd size) whose middle pixel is the origin."""
    half = kernel.shape[-1] // 2
    plane = np.zeros(padded, np.float32)
    plane[: 2 * half + 1, : 2 * half + 1] = kernel
    return np.asarray(fft.rfft2(np.roll(plane, (-half, -half), axis=(0, 1))))


def _kernel_of(spectrum: NDArray[np.float32], padded: tuple[int, ...], half: int) -> NDArray[np.float64]:
    """The kernel (2 half + 1, same) of a real, even spectrum."""
    plane = np.roll(fft.irfft2(spectrum, padded), (half, half), axis=(0, 1))
    return np.asarray(plane[: 2 * half + 1, : 2 * half + 1], float)


def _difference_psf(psf: PsfModel, kernel: MatchingKernel | None, whiten: NDArray[np.float64]) -> PsfModel:
    """The visit's PSF after the matching kernel, if the visit was convolved, and the whitening kernel."""
    ny, nx = psf.shape
    along = np.linspace(0, 1, 5)
    x, y = (g.ravel() for g in np.meshgrid(along * (nx - 1), along * (ny - 1)))
    stamps = psf.centred(x, y)
    size = psf.size + 2 * (whiten.shape[-1] // 2) + (0 if kernel is None else kernel.planes.shape[-1] - 1)
    n = fft.next_fast_len(size, real=True)
    spectrum = fft.rfft2(stamps, (n, n)) * fft.rfft2(whiten, (n, n))
    shift = whiten.shape[-1] // 2
    if kernel is not None:
        spectrum *= fft.rfft2(kernel.at(x, y), (n, n))
        shift += kernel.planes.shape[-1] // 2
    kept = slice(shift, shift + psf.size)
    return PsfModel.through(fft.irfft2(spectrum, (n, n))[:, kept, kept], x, y, 2, psf.shape)


def _level(difference: Image, hidden: NDArray[np.bool_]) -> None:
    """Take out what is left of a smooth background, in place."""
    blank = difference.bad(UNUSABLE | MASK["DETECTED"]) | hidden
    if blank.mean() < 0.9:
        mesh = max(64, min(difference.shape) // 4)
        difference.image -= sep.Background(difference.image, mask=blank, bw=mesh, bh=mesh, fw=3, fh=3).back()
