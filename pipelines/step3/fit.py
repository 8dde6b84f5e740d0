"""All sources of an image at once: amplitudes of PSFs by sparse linear least squares.

With one row of B per component (its stamp on the pixels), the amplitudes f solve (B B') f = B d. Pixels have equal
weight: weights from the data's own variance would make bright stars faint, and their PSF depend on brightness. Where
stars do not overlap this is the classic PSF flux P.d / P.P; where they do, each gets its share (Stetson 1987's groups,
but all at once).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import splu

from pipelines.boxes import Boxes
from pipelines.psf import PsfModel
from pipelines.step3.detect import FloatImage

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Neighbours whose fluxes a source's error accounts for.
NEIGHBOURS = 6


@dataclass(frozen=True)
class Stamps:
    """Components on the pixels: ``values`` (N, n, n), whole PSFs sum to one; ``x0``, ``y0`` (N,) lower-left pixels."""

    values: Array
    x0: IntArray
    y0: IntArray

    @classmethod
    def of(cls, psf: PsfModel, x: Array, y: Array, half: int) -> Stamps:
        return cls(*psf.rendered(x, y, half))

    @property
    def size(self) -> int:
        return int(self.values.shape[-1])

    def boxes(self, shape: tuple[int, int]) -> Boxes:
        """The stamps' pixels in an image of ``shape``."""
        if shape not in self._boxes:
            self._boxes[shape] = Boxes(self.x0, self.y0, self.size, shape)
        return self._boxes[shape]

    @cached_property
    def _boxes(self) -> dict[tuple[int, int], Boxes]:
        return {}

    def take(self, image: NDArray[np.generic]) -> Array:
        """Cut-outs (N, n, n) of an image, zero beyond its edge."""
        boxes = self.boxes((image.shape[0], image.shape[1]))
        return np.where(boxes.inside, boxes.take(image), 0).astype(float)

    def matrix(self, valid: NDArray[np.bool_]) -> sparse.csr_array:
        """B (N, pixels): the stamps on the valid pixels of the image."""
        boxes = self.boxes((valid.shape[0], valid.shape[1]))
        used = boxes.inside & boxes.take(valid) & (self.values != 0)
        start = np.concatenate([[0], np.cumsum(used.sum(axis=(1, 2)))])
        return sparse.csr_array((self.values[used], boxes.index[used], start), shape=(len(self.values), valid.size))


def solve(design: sparse.csr_array, image: FloatImage) -> tuple[Array, sparse.csr_array]:
    """Amplitudes (N,) of the components in ``image`` (zero where invalid), and the normal matrix B B' (N, N).

    A component without a valid pixel gets zero.
    """
    normal = sparse.csr_array(design @ design.T)
    diagonal = normal.diagonal()
    # A little more on the diagonal decides what cannot be decided: two components at one place share the flux.
    ridge = sparse.diags_array(np.where(diagonal > 0, 1e-9 * diagonal, 1.0))
    right = design @ image.ravel().astype(float)
    factors = splu(sparse.csc_array(normal + ridge), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True})
    return np.asarray(factors.solve(right)), normal


def model(design: sparse.csr_array, amplitude: Array, shape: tuple[int, int]) -> FloatImage:
    """The image (ny, nx) of components with these amplitudes."""
    return np.asarray(design.T @ amplitude, np.float32).reshape(shape)


def errors(design: sparse.csr_array, normal: sparse.csr_array, variance: FloatImage) -> Array:
    """Standard errors (N,) of the amplitudes: (B B')^-1 B V B' (B B')^-1, over the source and its closest neighbours.

    The inverse of the whole normal matrix is dense; a source's error is set by the few neighbours it overlaps most.
    """
    count = design.shape[0]
    noisy = design.data * variance.ravel()[design.indices]
    scaled = sparse.csr_array((noisy, design.indices, design.indptr), design.shape)
    spread = sparse.csr_array(scaled @ design.T)
    normal.sort_indices()
    spread.sort_indices()
    row = np.repeat(np.arange(count), np.diff(normal.indptr))
    diagonal = np.maximum(normal.diagonal(), 1e-300)
    overlap = np.abs(normal.data) / np.sqrt(diagonal[row] * diagonal[normal.indices])
    overlap[row == normal.indices] = np.inf  # itself first
    order = np.lexsort((normal.indices, -overlap, row))
    rank = np.arange(len(row)) - normal.indptr[row]
    first = rank < NEIGHBOURS + 1
    group = np.full((count, NEIGHBOURS + 1), -1)
    group[row[first], rank[first]] = normal.indices[order][first]
    group[:, 0] = np.arange(count)
    a, b = _blocks(normal, group), _blocks(spread, group)
    missing = group < 0
    a[missing[:, :, None] & np.eye(NEIGHBOURS + 1, dtype=bool)] = 1.0
    a += np.eye(NEIGHBOURS + 1) * np.maximum(1e-9 * np.einsum("nii->ni", a), 1e-300)[:, :, None]
    unit = np.zeros((count, NEIGHBOURS + 1, 1))
    unit[:, 0] = 1.0
    line = np.linalg.solve(a, unit)[:, :, 0]
    return np.asarray(np.sqrt(np.maximum(np.einsum("ni,nij,nj->n", line, b, line), 0.0)))


def _blocks(matrix: sparse.csr_array, group: IntArray) -> Array:
    """Dense blocks (N, k, k) of a sparse matrix (N, N) with sorted indices; -1 in ``group`` gives zeros."""
    count = matrix.shape[0]
    key = np.repeat(np.arange(count, dtype=np.int64), np.diff(matrix.indptr)) * count + matrix.indices
    rows, columns = group[:, :, None], group[:, None, :]
    wanted = np.where((rows >= 0) & (columns >= 0), rows * count + columns, -1)
    at = np.minimum(np.searchsorted(key, wanted), len(key) - 1)
    return np.where(key[at] == wanted, matrix.data[at], 0.0)


def offsets(stamps: Stamps, cutouts: Array, valid: Array) -> tuple[Array, Array]:
    """Moves (dx, dy) (N,), within half a pixel, that centre each PSF on its own light.

    First order in the move: cutout = f P - f (dx dP/dx + dy dP/dy), fitted with f free; the gradient is that of the
    stamps' pixels, a little too shallow, so that it takes two or three rounds. Sources without signal stay.
    """
    slope_y, slope_x = np.gradient(stamps.values, axis=(1, 2))
    basis = np.stack([stamps.values, -slope_x, -slope_y], axis=1) * valid[:, None]
    flat = basis.reshape(len(basis), 3, -1)
    normal = np.einsum("nip,njp->nij", flat, flat)
    normal += np.eye(3) * np.maximum(1e-6 * np.einsum("nii->n", normal), 1e-300)[:, None, None]
    right = np.einsum("nip,np->ni", flat, cutouts.reshape(len(basis), -1))
    answer = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
    flux = np.where(answer[:, 0] > 0, answer[:, 0], np.inf)
    return np.clip(answer[:, 1] / flux, -0.5, 0.5), np.clip(answer[:, 2] / flux, -0.5, 0.5)
