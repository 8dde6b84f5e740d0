"""A PSF model that varies over an image: pixel stamps times a polynomial of position.

psf(x, y) = sum_k P_k(x, y) S_k, with P_k = X^p Y^q, (X, Y) = (x, y) scaled to [-1, 1] over the image, in the order of
``wcs.polynomial_terms(order)``. Stamps S_k are (K, size, size), size odd; the star sits at the centre of the middle
pixel. Between pixels a stamp is its quintic spline: for a star of 2.6 pixels FWHM right to 0.2 % of the peak and 0.04 %
of the flux, where a cubic spline errs by 0.9 % and 0.35 %.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray

from pipelines.wcs import polynomial_terms

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_SUPPORT = 3  # pixels that the B-spline of degree 5 reaches to each side
_KNOTS = np.arange(-_SUPPORT, _SUPPORT + 1)


@dataclass(frozen=True)
class PsfModel:
    """``stamps`` (K, size, size) float; ``order`` of the polynomial; ``shape`` (ny, nx) of the image it describes."""

    stamps: Array
    order: int
    shape: tuple[int, int]

    @classmethod
    def through(
        cls, stamps: Array, x: ArrayLike, y: ArrayLike, order: int, shape: tuple[int, int], weight: ArrayLike = 1.0
    ) -> PsfModel:
        """The model of at most ``order`` nearest to PSF stamps (N, size, size) at (x, y) (N,) of an image of ``shape``.

        The order is lowered until there are twice as many samples as coefficients; order 0 is the weighted mean.
        """
        while order > 0 and len(stamps) < 2 * len(polynomial_terms(order)):
            order -= 1
        root = np.sqrt(np.broadcast_to(np.asarray(weight, float), len(stamps)))
        unit = cls(np.zeros((len(polynomial_terms(order)), 1, 1)), order, shape)
        design = unit.weights(x, y) * root[:, None]
        # A small ridge on the slopes keeps a model of samples along one line from running away across it.
        ridge = np.diag([0.0] + [1e-4 * float(root @ root)] * (design.shape[1] - 1))
        solution = np.linalg.solve(design.T @ design + ridge, design.T @ (stamps.reshape(len(stamps), -1) * root[:, None]))
        return cls(solution.reshape(-1, *stamps.shape[1:]), order, shape)

    @property
    def size(self) -> int:
        return int(self.stamps.shape[-1])

    @property
    def middle(self) -> tuple[float, float]:
        """x, y of the middle of the image."""
        return 0.5 * (self.shape[1] - 1), 0.5 * (self.shape[0] - 1)

    @cached_property
    def width(self) -> float:
        """sigma() at the middle of the image, pixels."""
        return self.sigma(*self.middle)

    @property
    def area(self) -> float:
        """noise_area() at the middle of the image, pixels."""
        return float(self.noise_area(*self.middle)[0])

    @property
    def seeing(self) -> float:
        """FWHM of the Gaussian of the same noise-equivalent area, at the middle of the image, pixels."""
        return float(2.3548 * np.sqrt(self.area / (4.0 * np.pi)))

    def weights(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Polynomial weights at positions (N,): (N, K)."""
        u = 2.0 * np.atleast_1d(np.asarray(x, float)) / (self.shape[1] - 1) - 1.0
        v = 2.0 * np.atleast_1d(np.asarray(y, float)) / (self.shape[0] - 1) - 1.0
        terms: Array = np.stack([u**p * v**q for p, q in polynomial_terms(self.order)], axis=1)
        return terms

    def centred(self, x: ArrayLike, y: ArrayLike) -> Array:
        """PSF stamps (N, size, size), sum 1, centred on the middle pixel, at positions (N,)."""
        weights = self.weights(x, y)
        stamps: Array = (weights @ self.stamps.reshape(len(self.stamps), -1)).reshape(-1, self.size, self.size)
        stamps /= (weights @ self.stamps.sum(axis=(1, 2)))[:, None, None]
        return stamps

    def rendered(self, x: ArrayLike, y: ArrayLike, half: int | None = None) -> tuple[Array, Index, Index]:
        """Stamps shifted by the sub-pixel part of (x, y), sum 1 (less what moves over the rim), and where they go.

        Returns stamps (N, n, n), x0 (N,), y0 (N,): stamp i covers pixels [y0:y0+n, x0:x0+n]. n is ``size``, or
        2 * half + 1 to have the middle of the stamps only.
        """
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        column, row = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        half = self.size // 2 if half is None else min(half, self.size // 2)
        across, along = _banded(x - column, 2 * half + 1), _banded(y - row, 2 * half + 1)
        stamps = np.matmul(np.matmul(along, self._splines(x, y, half)), across.transpose(0, 2, 1))
        return stamps, column - half, row - half

    def rendered_with_slopes(self, x: ArrayLike, y: ArrayLike, half: int) -> tuple[Array, Array, Array]:
        """As rendered(), and the derivatives of its stamps with respect to x and to y of the star: each (N, n, n)."""
        x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
        half = min(half, self.size // 2)
        n = 2 * half + 1
        splines = self._splines(x, y, half)
        across = [_banded(x - np.floor(x + 0.5), n, order).transpose(0, 2, 1) for order in (0, 1)]
        along = [_banded(y - np.floor(y + 0.5), n, order) for order in (0, 1)]
        moved = np.matmul(along[0], splines)
        return np.matmul(moved, across[0]), np.matmul(moved, across[1]), along[1] @ splines @ across[0]

    def _splines(self, x: Array, y: Array, half: int) -> Array:
        """B-spline coefficients (N, 2 half + 7, same) of the PSF at positions (N,), about the middle of its stamps."""
        if half not in self._basis:
            reach = half + _SUPPORT
            lag = np.arange(-reach, reach + 1)[:, None] - np.arange(self.size) + self.size // 2
            filter_ = _cardinal(reach + self.size)[lag + reach + self.size]
            self._basis[half] = filter_ @ self.stamps @ filter_.T
        basis, weights = self._basis[half], self.weights(x, y)
        weights = weights / (weights @ self.stamps.sum(axis=(1, 2)))[:, None]
        return np.asarray((weights @ basis.reshape(len(basis), -1)).reshape(-1, *basis.shape[1:]))

    @cached_property
    def _basis(self) -> dict[int, Array]:
        """Coefficients of the stamps S_k, by how much about their middle is drawn: filled in by _splines()."""
        return {}

    def sigma(self, x: float, y: float) -> float:
        """Second-moment width sqrt((Ixx + Iyy) / 2) in pixels, Gaussian-weighted: noise in the wings does not count."""
        stamp = self.centred(x, y)[0]
        half = self.size // 2
        offset = np.arange(-half, half + 1.0)
        width = 1.5
        for _ in range(20):
            line = np.exp(-0.5 * offset**2 / width**2)  # the weight is line times line
            across = stamp @ line
            along = line @ stamp
            second = float(((line * offset**2) @ across + along @ (line * offset**2)) / (line @ across) / 2.0)
            width, last = float(np.sqrt(max(second, 0.05) * 2.0)), width  # a Gaussian weighted by itself has half the variance
            if abs(width - last) < 1e-12 * width:
                break
        return width

    def fwhm(self, x: float, y: float) -> float:
        """Full width at half maximum in pixels: the diameter of a circle with the area above half of the peak."""
        steps = (np.arange(8) - 3.5) / 8.0
        dx, dy = (grid.ravel() for grid in np.meshgrid(steps, steps))
        fine = shift(np.broadcast_to(self.centred(x, y), (64, self.size, self.size)), dx, dy)
        return float(2.0 * np.sqrt((fine > 0.5 * fine.max()).sum() / 64.0 / np.pi))

    def noise_area(self, x: ArrayLike, y: ArrayLike) -> Array:
        """Effective area 1 / sum(psf^2) in pixels at positions (N,): PSF flux variance = area * variance of a pixel."""
        area: Array = 1.0 / np.square(self.centred(x, y)).sum(axis=(1, 2))
        return area


def sample_grid(shape: tuple[int, int], count: int) -> tuple[Index, Index]:
    """A grid x, y (count**2,) of pixels spread evenly over an image of ``shape``, to know its PSF by."""
    steps = (np.arange(count) + 0.5) / count
    x, y = np.meshgrid((steps * shape[1]).astype(np.int64), (steps * shape[0]).astype(np.int64))
    return x.ravel(), y.ravel()


def resized(stamps: Array, size: int) -> Array:
    """Stamps (N, n, n) cut or padded with zeros to (N, size, size), both odd, about the same centre."""
    rim = (size - stamps.shape[-1]) // 2
    return np.pad(stamps, ((0, 0), (rim, rim), (rim, rim))) if rim >= 0 else stamps[:, -rim:rim, -rim:rim]


def shift(stamps: Array, dx: ArrayLike, dy: ArrayLike, half: int | None = None) -> Array:
    """Stamps (N, size, size) moved by (dx, dy) (N,) pixels towards larger x and y, |d| <= 1, zero outside; (N, n, n).

    Quintic spline interpolation, separable: stamp' = M(dy) stamp M(dx)^T with Toeplitz matrices M. ``half`` keeps the
    middle 2 * half + 1 pixels only.
    """
    size = stamps.shape[-1]
    half = size // 2 if half is None else half
    along_y, along_x = (_toeplitz(np.asarray(d, float), size, half) for d in (dy, dx))
    moved: Array = np.matmul(np.matmul(along_y, stamps), along_x.transpose(0, 2, 1))
    return moved


def _toeplitz(d: Array, size: int, half: int) -> Array:
    """Interpolation matrices (N, 2 half + 1, size): M[n, i, j] = kernel(i - j - d[n]) for the middle rows i."""
    m = np.arange(size - 1, -size, -1)  # of the cardinal spline, in the order in which a row of the matrix has it
    kernel = _taps(d, 0) @ _cardinal(size + 3)[(size + 3) + m[None, :] - _KNOTS[:, None]]
    rows = slice(size // 2 - half, size // 2 + half + 1)
    return np.ascontiguousarray(sliding_window_view(kernel, size, axis=1)[:, ::-1][:, rows])


def _banded(d: Array, n: int, derivative: int = 0) -> Array:
    """Matrices (N, n, n + 6) from B-spline coefficients at pixels -3 ... n + 2 to values at pixels 0 ... n - 1, moved by d."""
    matrix = np.zeros((len(d), n, n + 2 * _SUPPORT))
    taps = _taps(d, derivative)[:, ::-1]
    for row in range(n):
        matrix[:, row, row : row + len(_KNOTS)] = taps
    return matrix


def _taps(d: Array, derivative: int) -> Array:
    """The B-spline about each shift (N,), |d| <= 1, at knots -3 ... 3 (N, 7); or its derivative by d."""
    return (_quintic_slope if derivative else _quintic)(_KNOTS[None, :] - d[:, None])


def _quintic(t: Array) -> Array:
    """The centred B-spline of degree 5 (support |t| < 3)."""
    t = np.abs(t)
    a, b, c = (np.maximum(k - t, 0.0) for k in (3.0, 2.0, 1.0))
    return np.asarray((a**5 - 6.0 * b**5 + 15.0 * c**5) / 120.0)


def _quintic_slope(t: Array) -> Array:
    """Minus the derivative of the B-spline: d/dd of quintic(t - d) at d = 0."""
    u = np.abs(t)
    a, b, c = (np.maximum(k - u, 0.0) for k in (3.0, 2.0, 1.0))
    return np.asarray(np.sign(t) * (a**4 - 6.0 * b**4 + 15.0 * c**4) / 24.0)


@cache
def _cardinal(reach: int) -> Array:
    """B-spline coefficients of the unit impulse at -reach .. reach (they decay by 0.43 per pixel)."""
    n = 2 * (reach + 20) + 1
    index = np.abs(np.arange(n)[:, None] - np.arange(n)[None, :])
    values = np.array([66.0, 26.0, 1.0]) / 120.0
    matrix = np.where(index <= 2, values[np.minimum(index, 2)], 0.0)
    return np.asarray(np.linalg.solve(matrix, np.eye(n)[n // 2])[20 : n - 20])
