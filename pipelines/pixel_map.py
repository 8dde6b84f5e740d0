"""Where the pixels of one image lie in another: a smooth map through the sky.

The two WCSs are evaluated exactly at a few Chebyshev nodes of the box that the images share, and the polynomial through them
serves every pixel: distortions of a detector are of order 3 to 5, and the map is right to about 1e-9 pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray

from pipelines.wcs import SkyWcs

Array = NDArray[np.float64]
Box = tuple[int, int, int, int]

_DEGREE = 7


@dataclass(frozen=True)
class PixelMap:
    """Target pixels to source pixels over the target ``box`` (x0, x1, y0, y1; half open), as Chebyshev series (8, 8)."""

    box: Box
    cx: Array
    cy: Array

    @classmethod
    def between(cls, target: SkyWcs, source: SkyWcs, box: Box) -> PixelMap:
        """The map through the sky, exact at Chebyshev nodes of ``box`` of the target."""
        node, inverse = _nodes()
        x, y = (low + (node + 1) / 2 * _span(low, high) for low, high in (box[:2], box[2:]))
        sx, sy = source.sky_to_pixel(*target.pixel_to_sky(*np.meshgrid(x, y, indexing="ij")))
        return cls(box, inverse @ sx @ inverse.T, inverse @ sy @ inverse.T)

    @property
    def slices(self) -> tuple[slice, slice]:
        """The box as rows and columns of the target."""
        x0, x1, y0, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    def has(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.bool_]:
        """Which target positions (N,) lie in the box."""
        x0, x1, y0, y1 = self.box
        x, y = np.asarray(x), np.asarray(y)
        return (x >= x0) & (x <= x1 - 1) & (y >= y0) & (y <= y1 - 1)

    def __call__(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Source pixels (N,), (N,) of target pixels (N,)."""
        vx, vy = (chebyshev.chebvander(axis, _DEGREE) for axis in self._scaled(x, y))
        return np.asarray((vx @ self.cx * vy).sum(axis=-1)), np.asarray((vx @ self.cy * vy).sum(axis=-1))

    def grid(self) -> tuple[Array, Array]:
        """Source x, y of every pixel of the box: two arrays (ny, nx)."""
        vx, vy = (chebyshev.chebvander(axis, _DEGREE) for axis in self._axes())
        return (vy @ self.cx.T) @ vx.T, (vy @ self.cy.T) @ vx.T

    def affine(self, x: ArrayLike, y: ArrayLike) -> Array:
        """d(source x, source y) / d(target x, target y) at target pixels (N,): (N, 2, 2)."""
        vx, vy = (chebyshev.chebvander(axis, _DEGREE) for axis in self._scaled(np.atleast_1d(x), np.atleast_1d(y)))
        across, along = self._scale()
        parts = [
            [(vx[:, :-1] @ chebyshev.chebder(c, axis=0) * vy).sum(axis=1) * across,
             (vx @ chebyshev.chebder(c, axis=1) * vy[:, :-1]).sum(axis=1) * along]
            for c in (self.cx, self.cy)
        ]  # fmt: skip
        return np.moveaxis(np.array(parts), -1, 0)

    def area(self) -> Array:
        """Area of each target pixel of the box in source pixels (ny, nx).

        The determinant of the map's slopes is as smooth as the map: it is interpolated through the same nodes.
        """
        node, inverse = _nodes()
        full, slope = chebyshev.chebvander(node, _DEGREE), chebyshev.chebvander(node, _DEGREE - 1)
        across, along = self._scale()
        dx = [slope @ chebyshev.chebder(c, axis=0) @ full.T * across for c in (self.cx, self.cy)]
        dy = [full @ chebyshev.chebder(c, axis=1) @ slope.T * along for c in (self.cx, self.cy)]
        series = inverse @ np.abs(dx[0] * dy[1] - dx[1] * dy[0]) @ inverse.T
        vx, vy = (chebyshev.chebvander(axis, _DEGREE) for axis in self._axes())
        return np.asarray((vy @ series.T) @ vx.T)

    def _scale(self) -> tuple[float, float]:
        """Units of the series per pixel, along x and along y."""
        return 2.0 / _span(*self.box[:2]), 2.0 / _span(*self.box[2:])

    def _scaled(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        across, along = self._scale()
        return (np.asarray(x, float) - self.box[0]) * across - 1.0, (np.asarray(y, float) - self.box[2]) * along - 1.0

    def _axes(self) -> tuple[Array, Array]:
        x0, x1, y0, y1 = self.box
        return self._scaled(np.arange(x0, x1), 0)[0], self._scaled(0, np.arange(y0, y1))[1]


def _span(low: int, high: int) -> int:
    """Pixels between the first and the last of [low, high); of a single one the map needs slopes, too."""
    return max(high - 1 - low, 1)


@cache
def _nodes() -> tuple[Array, Array]:
    """Chebyshev nodes (n,) on [-1, 1], and the matrix (n, n) from values there to the series."""
    node = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))
    return node, np.asarray(np.linalg.inv(chebyshev.chebvander(node, _DEGREE)), float)


def shared_box(
    target: SkyWcs, shape: tuple[int, int], source: SkyWcs, source_shape: tuple[int, int], margin: int = 2
) -> Box | None:
    """Box (x0, x1, y0, y1) of target pixels that the source's outline covers, clipped to ``shape``; None if disjoint."""
    along = np.linspace(-0.5, 0.5, 9)
    edge = np.full(9, 0.5)
    ex = np.concatenate([along, along, edge, -edge]) * source_shape[1] + (source_shape[1] - 1) / 2
    ey = np.concatenate([edge, -edge, along, along]) * source_shape[0] + (source_shape[0] - 1) / 2
    x, y = target.sky_to_pixel(*source.pixel_to_sky(ex, ey))
    if not np.all(np.isfinite(x) & np.isfinite(y)):
        return None
    x0, x1 = max(int(np.floor(x.min())) - margin, 0), min(int(np.ceil(x.max())) + margin + 1, shape[1])
    y0, y1 = max(int(np.floor(y.min())) - margin, 0), min(int(np.ceil(y.max())) + margin + 1, shape[0])
    return (x0, x1, y0, y1) if x0 < x1 and y0 < y1 else None
