"""The normal equations of one band, prior knowledge included: a symmetric matrix in blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

Array = NDArray[np.float64]


@dataclass(frozen=True)
class System:
    """A symmetric positive definite matrix (P, P) in blocks: ``among`` (M, M) is sparse, ``between`` (M, F) the first M unknowns
    and the last F is dense, and so is ``flats`` (F, F)."""

    among: csr_array
    between: Array
    flats: Array

    @property
    def size(self) -> int:
        return len(self.between) + len(self.flats)

    def __matmul__(self, x: Array) -> Array:
        """The product with vectors (P,) or (P, K)."""
        first, last = x[: len(self.between)], x[len(self.between) :]
        return np.concatenate([self.among @ first + self.between @ last, self.between.T @ first + self.flats @ last])

    def diagonal(self) -> Array:
        """Its diagonal (P,)."""
        return np.concatenate([self.among.diagonal(), np.diag(self.flats)])

    def toarray(self) -> Array:
        """The whole matrix (P, P)."""
        return np.block([[self.among.toarray(), self.between], [self.between.T, self.flats]])
