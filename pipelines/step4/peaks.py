"""Peaks in maps and stamps around them, set at a time."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from pipelines.boxes import Boxes

Index = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


def local_maxima(plane: NDArray[np.floating], threshold: float, radius: int) -> tuple[Index, Index]:
    """(y, x) of pixels above ``threshold`` that are the greatest within ``radius`` pixels (a box), in raster order.

    Of equal neighbours the first in raster order counts.
    """
    y, x = np.nonzero(plane > threshold)
    window = cutouts(plane, x, y, radius).reshape(len(x), (2 * radius + 1) ** 2)
    first = window.argmax(axis=1) == window.shape[1] // 2 if len(x) else np.zeros(0, bool)
    return y[first], x[first]


def cutouts(plane: NDArray[T], x: Index, y: Index, radius: int) -> NDArray[T]:
    """Boxes (N, 2 radius + 1, same) around pixels; 0 outside the plane."""
    boxes = Boxes(x - radius, y - radius, 2 * radius + 1, (plane.shape[0], plane.shape[1]))
    return boxes.take(plane) * boxes.inside


def spread_out(x: Index, y: Index, brightness: NDArray[np.floating], shape: tuple[int, int], cells: int, most: int) -> Index:
    """Indices of the brightest, most / cells^2 (rounded up) from each of cells x cells parts of the image."""
    cell = (y * cells // shape[0]) * cells + x * cells // shape[1]
    order = np.lexsort((x, y, -np.asarray(brightness, float), cell))
    sorted_cell = cell[order]
    rank = np.arange(len(order)) - np.searchsorted(sorted_cell, sorted_cell)
    return np.sort(order[rank < -(-most // cells**2)])
