"""All sources of an image as one model: stars by the PSF, extended sources by the PSF at three widths.

The widths are there to keep an extended source's light away from its neighbours; what is measured is the source's
cut-out: the residual of the whole model plus the source's own part of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from pipelines.psf import PsfModel
from pipelines.step3.detect import Field, FloatImage
from pipelines.step3.fit import Array, Stamps, model, solve

BoolArray = NDArray[np.bool_]

#: Widths, in PSF widths, of the Gaussians that broaden the PSF in models of extended sources.
BROADER = (1.0, 2.2)


@dataclass(frozen=True)
class Scene:
    """The fitted model of a field's N sources: ``stamps`` of their PSFs and ``amplitude`` (N,) of that component.

    ``own``, ``cutouts`` (N, n, n): each source's model and its pixels with the neighbours subtracted; ``fitted``,
    ``left`` (ny, nx): model and residual images; ``design``, ``normal``: matrices of the PSF components (see fit.py).
    """

    stamps: Stamps
    amplitude: Array
    own: Array
    cutouts: Array
    fitted: FloatImage
    left: FloatImage
    design: sparse.csr_array
    normal: sparse.csr_array


def fit_scene(field: Field, x: Array, y: Array, broad: BoolArray, half: int) -> Scene:
    """Fit all sources at (x, y) (N,) at once; ``broad`` ones as extended, with stamps of twice ``half`` pixels."""
    stamps = Stamps.of(field.psf, x, y, half)
    design = stamps.matrix(field.valid)
    everything, wide = design, []
    if broad.any():
        psfs = [broadened(field.psf, factor * field.psf.width) for factor in BROADER]
        wide = [Stamps.of(psf, x[broad], y[broad], 2 * half) for psf in psfs]
        everything = sparse.csr_array(sparse.vstack([design, *(s.matrix(field.valid) for s in wide)], format="csr"))
    amplitude, normal = solve(everything, field.image)
    fitted = model(everything, amplitude, field.image.shape)
    left = np.where(field.valid, field.image - fitted, np.float32(0))
    count = len(x)
    own = amplitude[:count, None, None] * stamps.values
    for n, part in enumerate(wide):
        middle = slice(part.size // 2 - half, part.size // 2 + half + 1)
        first = count + n * len(part.values)
        own[broad] += amplitude[first : first + len(part.values), None, None] * part.values[:, middle, middle]
    psf_normal = normal if everything is design else sparse.csr_array(normal[:count, :count])
    return Scene(stamps, amplitude[:count], own, stamps.take(left) + own, fitted, left, design, psf_normal)


def broadened(psf: PsfModel, sigma: float) -> PsfModel:
    """The PSF convolved with a Gaussian of ``sigma`` pixels."""
    rim = int(np.ceil(2.5 * sigma))
    stamps = np.pad(psf.stamps, ((0, 0), (rim, rim), (rim, rim)))
    return PsfModel(ndimage.gaussian_filter(stamps, (0, sigma, sigma), mode="constant"), psf.order, psf.shape)


def wings(field: Field, x: Array, y: Array, amplitude: Array, half: int) -> FloatImage:
    """The light of bright stars beyond the stamps of ``half``: zero for stars that do not reach the noise there."""
    size = field.psf.size
    rim = size // 2 - half
    empty = np.zeros(field.image.shape, np.float32)
    if rim <= 0:
        return empty
    middle = field.psf.centred(*field.psf.middle)[0]
    edge = np.abs(middle).copy()
    edge[rim : size - rim, rim : size - rim] = 0
    reach = amplitude * edge.max() > 0.1 * field.noise
    if not reach.any():
        return empty
    full = Stamps.of(field.psf, x[reach], y[reach], size // 2)
    full.values[:, rim : size - rim, rim : size - rim] = 0
    return model(full.matrix(np.ones(field.image.shape, bool)), amplitude[reach], field.image.shape)


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
    norm = np.maximum((shape**2).sum(axis=(1, 2)), 1e-30) * 0.5 * field.psf.width**2
    scale = np.where(flux > 0, flux, np.inf) * norm
    noise = np.sqrt((shape**2 * stamps.take(field.variance)).sum(axis=(1, 2)))
    return (shape * cutouts).sum(axis=(1, 2)) / scale, np.where(flux > 0, noise / scale, np.inf)
