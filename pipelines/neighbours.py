"""Pixels and those beside them: planes that grow, peaks between pixels, holes that are filled from what is around them."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Bool = NDArray[np.bool_]
M = TypeVar("M", np.bool_, np.int16)
P = TypeVar("P", bound=np.generic)

#: Holes filled at a time: each gathers all pixels within its reach.
_CHUNK = 1 << 12


def grown(mask: NDArray[M], radius: int = 1) -> NDArray[M]:
    """Each pixel of (..., ny, nx) with all that pixels within ``radius`` of it have (a square): true, or bits of planes."""
    return stretched(stretched(mask, radius, axis=-1), radius, axis=-2)


def stretched(mask: NDArray[M], radius: int, axis: int) -> NDArray[M]:
    """As grown(), along one axis."""
    return _gathered(mask, radius, axis, np.bitwise_or)


def highest(plane: NDArray[np.float32], radius: int = 1) -> NDArray[np.float32]:
    """The greatest value within ``radius`` of each pixel of (..., ny, nx) (a square); NaN where there is any."""
    return _gathered(_gathered(plane, radius, -1, np.maximum), radius, -2, np.maximum)


def _gathered(plane: NDArray[P], radius: int, axis: int, combine: np.ufunc) -> NDArray[P]:
    """All values within ``radius`` along an axis, combined."""
    result, done = plane.copy(), 0
    while done < radius:  # reach doubles, as what was gathered is gathered again
        step = min(radius - done, done + 1)
        before, after = (np.moveaxis(p, axis, 0) for p in (result.copy(), result))
        combine(after[step:], before[:-step], out=after[step:])
        combine(after[:-step], before[step:], out=after[:-step])
        done += step
    return result


def filled(
    image: NDArray[np.float32], holes: Bool, bad: Bool, reach: int = 2, otherwise: float | np.float32 = 0.0
) -> NDArray[np.float32]:
    """A copy of ``image`` (ny, nx) with ``holes`` (which are bad) replaced by the mean of pixels that are not ``bad``.

    The mean is over a square of ``reach`` pixels around, with the weights of a Gaussian of one pixel; where it holds
    no good pixel, ``otherwise`` stands in.
    """
    result = np.array(image, np.float32)
    hole = np.flatnonzero(holes)
    if not len(hole):
        return result
    nx = image.shape[1]
    light = np.pad(np.where(bad, np.float32(0), image), reach).ravel()
    good = np.pad(~bad, reach).astype(np.float32).ravel()
    width = nx + 2 * reach
    offset = np.arange(-reach, reach + 1)
    around = (offset[:, None] * width + offset).ravel()
    weight = np.exp(-0.5 * (offset[:, None] ** 2 + offset**2)).astype(np.float32).ravel()
    for start in range(0, len(hole), _CHUNK):
        part = hole[start : start + _CHUNK]
        at = ((part // nx + reach) * width + part % nx + reach)[:, None] + around
        seen = good[at] @ weight
        known = seen > 0
        result.ravel()[part] = np.where(known, light[at] @ weight / np.where(known, seen, np.float32(1)), np.float32(otherwise))
    return result


def vertex(plane: NDArray[np.float32], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> tuple[Array, Array]:
    """Offsets dx, dy (N,), within half a pixel, of the vertices of parabolas through pixels and their neighbours.

    The pixels are peaks, up or (of negative ones) down; where a parabola opens the other way the offset is 0.
    """
    ny, nx = plane.shape
    flat = plane.ravel()
    middle = flat[rows * nx + columns].astype(float)
    offsets = []
    for before, after in (
        (rows * nx + np.maximum(columns - 1, 0), rows * nx + np.minimum(columns + 1, nx - 1)),
        (np.maximum(rows - 1, 0) * nx + columns, np.minimum(rows + 1, ny - 1) * nx + columns),
    ):
        low, high = flat[before].astype(float), flat[after].astype(float)
        bend = 2.0 * middle - low - high
        step = np.divide(0.5 * (high - low), bend, out=np.zeros_like(bend), where=bend * np.sign(middle) > 0)
        offsets.append(np.clip(step, -0.5, 0.5))
    return offsets[0], offsets[1]
