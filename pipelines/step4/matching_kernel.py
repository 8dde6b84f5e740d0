"""The kernel that turns one image into another: K(u; x, y) with K * sharp = broad around every star.

Alard & Lupton 1998 (ApJ 503, 325), Alard 2000 (A&AS 144, 363): K is a sum of Gaussians times polynomials of u, each with a
coefficient that is a polynomial of position, found by linear least squares on stamps around stars. The fit also sees pairs
of model PSFs on a grid, as stars of moderate weight: with few stars the PSF models decide, with many the pixels do.

Every basis function is separable, so a stamp is convolved by two small matrix products, and the normal equations of a
stamp are the Kronecker product of its own Gram matrix with the position polynomial.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.wcs import polynomial_terms

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Basis:
    """Functions x^p y^q exp(-r^2 / 2 w^2) of width ``w`` and degree p + q <= ``degree``, on (2 half + 1)^2 pixels.

    The first has sum 1, the others sum 0 (Alard 2000), so that the coefficient of the first is the flux scale.
    """

    half: int
    rows: tuple[Array, ...]  # 1-D factors, along x and y alike
    pairs: tuple[tuple[int, int], ...]  # factor of x, factor of y, of each function

    @classmethod
    def gaussians(cls, half: int, widths: tuple[float, ...], degrees: tuple[int, ...]) -> Basis:
        u = np.arange(-half, half + 1, dtype=float)
        rows: list[Array] = []
        pairs: list[tuple[int, int]] = []
        for width, degree in zip(widths, degrees, strict=True):
            base = len(rows)
            for power in range(degree + 1):
                row = (u / width) ** power * np.exp(-0.5 * (u / width) ** 2)
                rows.append(row / np.abs(row).sum())
            pairs += [(base + p, base + q) for p, q in polynomial_terms(degree)]
        return cls(half, tuple(rows), tuple(pairs))

    def _sums(self) -> Array:
        sums = np.array([row.sum() for row in self.rows])
        return np.array([sums[p] * sums[q] for p, q in self.pairs])

    def kernels(self) -> Array:
        """The functions as images (K, size, size), [y, x]."""
        return self._zero_sum(np.stack([np.outer(self.rows[q], self.rows[p]) for p, q in self.pairs]))

    def _zero_sum(self, planes: Array) -> Array:
        sums = self._sums()
        planes = planes.copy()
        planes[0] /= sums[0]
        planes[1:] -= sums[1:].reshape(-1, *[1] * (planes.ndim - 1)) * planes[0]
        return planes

    def convolved(self, stamps: Array) -> Array:
        """Each function convolved with stamps (N, size + 2 half, same): (K, N, size, size)."""
        size = stamps.shape[-1] - 2 * self.half
        # (row * s)[i] = sum_j row[j] s[i + 2 half - j]: a banded matrix per factor
        band = np.zeros((len(self.rows), stamps.shape[-1], size))
        for k, row in enumerate(self.rows):
            for i in range(size):
                band[k, i : i + 2 * self.half + 1, i] = row[::-1]
        along_x = [stamps @ b for b in band]
        return self._zero_sum(np.stack([np.swapaxes(band[q], 0, 1) @ along_x[p] for p, q in self.pairs]))


@dataclass(frozen=True)
class MatchingKernel:
    """``planes`` (M, size, size): K(x, y) = sum_m phi_m(x, y) planes[m], phi as ``position_terms``; fit summary."""

    planes: Array
    order: int
    shape: tuple[int, int]
    stars: int
    chi2: float

    def at(self, x: Array | float, y: Array | float) -> Array:
        """Kernels (N, size, size) at positions (N,)."""
        return np.tensordot(position_terms(x, y, self.order, self.shape), self.planes, axes=1)


def position_terms(x: Array | float, y: Array | float, order: int, shape: tuple[int, int]) -> Array:
    """Polynomial terms (N, M) of positions scaled to [-1, 1] over an image of ``shape``."""
    u = 2.0 * np.atleast_1d(x) / (shape[1] - 1) - 1.0
    v = 2.0 * np.atleast_1d(y) / (shape[0] - 1) - 1.0
    return np.stack([u**p * v**q for p, q in polynomial_terms(order)], axis=1)


@dataclass(frozen=True)
class Stamps:
    """Pairs of stamps: ``sharp`` (N, size + 2 half, same), ``broad`` and ``weight`` = 1/variance (N, size, size), at x, y (N,).

    ``stars``: taken from pixels, so that each pair has its own background difference and may be dropped as an outlier;
    otherwise pairs of PSF models, which have neither.
    """

    sharp: Array
    broad: Array
    weight: Array
    x: Array
    y: Array
    stars: bool


@dataclass(frozen=True)
class _Equations:
    """Normal equations of N stamps on their own: ``gram`` (N, K, K), ``moment`` (N, K), ``square`` and ``pixels`` (N,)."""

    gram: Array
    moment: Array
    square: Array
    pixels: Array
    terms: Array  # position polynomial (N, M)

    @classmethod
    def of(cls, basis: Basis, stamps: Stamps, order: int, shape: tuple[int, int]) -> _Equations:
        n, pixels = len(stamps.x), stamps.broad.shape[1] * stamps.broad.shape[2]
        k = len(basis.pairs)
        design = np.moveaxis(basis.convolved(stamps.sharp), 0, 1).reshape(n, k, pixels)
        target, weight = stamps.broad.reshape(n, 1, pixels), stamps.weight.reshape(n, 1, pixels)
        if stamps.stars:  # the background of each pair is eliminated: weighted means are removed on both sides
            total = np.maximum(weight.sum(axis=2, keepdims=True), 1e-300)
            design = design - (design * weight).sum(axis=2, keepdims=True) / total
            target = target - (target * weight).sum(axis=2, keepdims=True) / total
        weighted = design * weight
        return cls(
            weighted @ np.swapaxes(design, 1, 2),
            (weighted @ np.swapaxes(target, 1, 2))[:, :, 0],
            (weight * target**2).sum(axis=(1, 2)),
            np.maximum((weight > 0).sum(axis=(1, 2)), 1),
            position_terms(stamps.x, stamps.y, order, shape),
        )

    def chi2(self, coefficients: Array) -> Array:
        """Reduced chi^2 (N,) for coefficients (K, M)."""
        local = self.terms @ coefficients.T
        fitted = np.einsum("ni,nij,nj->n", local, self.gram, local) - 2 * (local * self.moment).sum(axis=1)
        return np.asarray((self.square + fitted) / self.pixels)


def fit(basis: Basis, stars: Stamps, models: Stamps, order: int, shape: tuple[int, int], limit: float = 3.0) -> MatchingKernel:
    """The kernel from stars and PSF models (either may be empty, not both: ValueError).

    Stars whose chi^2 is more than ``limit`` times the median (variables, neighbours that moved) are dropped, in three rounds.
    """
    if not len(stars.x) + len(models.x):
        raise ValueError("no star and no PSF model to fit a matching kernel to")
    sky, prior = (_Equations.of(basis, stamps, order, shape) for stamps in (stars, models))
    keep = np.ones(len(stars.x), bool)
    chi2 = np.ones(len(stars.x))
    for _ in range(3):
        coefficients = _solve(sky, keep, prior)
        chi2 = sky.chi2(coefficients)
        now = chi2 <= limit * np.median(chi2[keep]) if keep.any() else keep
        if np.array_equal(now, keep):
            break
        keep = now
    planes = np.tensordot(coefficients.T, basis.kernels(), axes=1)
    return MatchingKernel(planes, order, shape, int(keep.sum()), float(np.median(chi2[keep])) if keep.any() else 0.0)


def _solve(sky: _Equations, keep: NDArray[np.bool_], prior: _Equations) -> Array:
    """Coefficients (K, M) of the global problem: gram (x) terms terms', summed over the kept stars and the models."""
    gram = np.concatenate([sky.gram[keep], prior.gram])
    moment = np.concatenate([sky.moment[keep], prior.moment])
    terms = np.concatenate([sky.terms[keep], prior.terms])
    n, k, m = len(gram), gram.shape[1], terms.shape[1]
    pairs = np.einsum("na,nb->nab", terms, terms).reshape(n, m * m)
    matrix = (gram.reshape(n, k * k).T @ pairs).reshape(k, k, m, m).swapaxes(1, 2).reshape(k * m, k * m)
    right = (moment.T @ terms).ravel()
    # a slight ridge in units of each parameter: directions that no stamp determines stay at zero
    scale = np.sqrt(np.maximum(np.diag(matrix), 1e-300))
    normal = matrix / np.outer(scale, scale) + 1e-9 * np.eye(k * m)
    return np.asarray(np.linalg.solve(normal, right / scale) / scale).reshape(k, m)
