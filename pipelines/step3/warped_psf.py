"""The PSF of a warp: the detectors' models carried through the resampling, as one model over the patch.

The PSF at a target position is the detector's PSF there, smoothed by the interpolation kernel and sampled on the
target's pixels through the local linear part of the mapping (so it is rotated, scaled and sheared with the stars). A
model over the patch is the polynomial of low order through such samples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pipelines.psf import PsfModel
from pipelines.step3.lanczos import Footprint, Index, interpolated_psf_operator
from pipelines.wcs import polynomial_terms

Array = NDArray[np.float64]


def carried(psf: PsfModel, place: Footprint, x: Index, y: Index, size: int) -> Array:
    """PSF stamps (N, size, size), sum 1, at target pixels (N,) in the footprint of a detector with ``psf``."""
    stamps, slope = psf.centred(*place.source_of(x, y)), place.slopes(x, y)
    smooth = interpolated_psf_operator(psf.size)
    stamps = smooth @ stamps @ smooth.T
    offset = np.arange(size) - size // 2
    dx, dy = offset[None, None, :], offset[None, :, None]
    at_x, at_y = (slope[:, k, 0, None, None] * dx + slope[:, k, 1, None, None] * dy + psf.size // 2 for k in (0, 1))
    result = np.empty((len(x), size, size))
    for n in range(len(x)):
        ndimage.map_coordinates(stamps[n], [at_y[n], at_x[n]], output=result[n], order=5, mode="constant")
    return np.asarray(result / result.sum(axis=(1, 2), keepdims=True))


def carried_size(size: int, place: Footprint) -> int:
    """An odd stamp size that covers, in target pixels, what stamps of ``size`` source pixels cover on the sky."""
    half = (size // 2) / float(np.sqrt(np.mean(place.area)))
    return 2 * max(3, int(np.ceil(half - 0.25))) + 1


def fit_psf(stamps: Array, x: ArrayLike, y: ArrayLike, weight: ArrayLike, shape: tuple[int, int], order: int) -> PsfModel:
    """The model of at most ``order`` through PSF stamps (N, size, size) at positions (N,) of an image of ``shape``.

    The order is lowered until there are twice as many samples as coefficients; order 0 is the weighted mean.
    """
    while order > 0 and len(stamps) < 2 * len(polynomial_terms(order)):
        order -= 1
    root = np.sqrt(np.asarray(weight, float))
    unit = PsfModel(np.zeros((len(polynomial_terms(order)), 1, 1)), order, shape)
    design = unit.weights(x, y) * root[:, None]
    # A small ridge on the slopes keeps a model of samples along one line from running away across it.
    ridge = np.diag([0.0] + [1e-4 * float(root @ root)] * (design.shape[1] - 1))
    flat = stamps.reshape(len(stamps), -1) * root[:, None]
    solution = np.linalg.solve(design.T @ design + ridge, design.T @ flat)
    return PsfModel(solution.reshape(-1, *stamps.shape[1:]), order, shape)


def sample_grid(shape: tuple[int, int], count: int) -> tuple[Index, Index]:
    """A grid (count**2,), (count**2,) of pixels spread evenly over an image of ``shape``."""
    steps = (np.arange(count) + 0.5) / count
    x, y = np.meshgrid((steps * shape[1]).astype(np.int64), (steps * shape[0]).astype(np.int64))
    return x.ravel(), y.ravel()


def noise_area(psf: PsfModel) -> float:
    """Noise-equivalent area 1 / sum(P**2) at the middle of the image, pixels."""
    return float(psf.noise_area(0.5 * (psf.shape[1] - 1), 0.5 * (psf.shape[0] - 1))[0])
