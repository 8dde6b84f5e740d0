"""Square boxes of pixels around places in an image, gathered from a plane, or painted into one, in one go."""

from __future__ import annotations

from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.int64]
T = TypeVar("T", bound=np.generic)


class Boxes:
    """Boxes (N, ``size``, ``size``) of an image of ``shape`` (ny, nx), from lower-left pixels ``x0``, ``y0`` (N,).

    They may reach beyond the edges, where ``inside`` (N, size, size) is false.
    """

    def __init__(self, x0: Index, y0: Index, size: int, shape: tuple[int, int]) -> None:
        self.x0, self.y0, self.size, self.shape = x0, y0, size, shape
        steps = np.arange(size)
        self._columns, self._rows = x0[:, None] + steps, y0[:, None] + steps

    @cached_property
    def inside(self) -> NDArray[np.bool_]:
        """Which pixels are on the image (N, size, size)."""
        (ny, nx), rows, columns = self.shape, self._rows, self._columns
        return ((rows >= 0) & (rows < ny))[:, :, None] & ((columns >= 0) & (columns < nx))[:, None, :]

    @cached_property
    def index(self) -> Index:
        """Flat index of each pixel (N, size, size); of those outside, that of the nearest one on the edge."""
        ny, nx = self.shape
        return np.asarray(self._rows.clip(0, ny - 1)[:, :, None] * nx + self._columns.clip(0, nx - 1)[:, None, :])

    def take(self, plane: NDArray[T]) -> NDArray[T]:
        """Values of a plane (ny, nx): (N, size, size); those outside repeat the edge."""
        return plane.ravel().take(self.index)

    def paint(self, values: Array) -> Array:
        """Sum of ``values`` (N, size, size) in a plane (ny, nx); what lies outside is dropped."""
        total = np.bincount(self.index.ravel(), (values * self.inside).ravel(), minlength=self.shape[0] * self.shape[1])
        return np.asarray(total, np.float64).reshape(self.shape)
