"""What comes near the inverse of a large system of normal equations: its preconditioner, and what is known of its errors.

Visits are taken for uncoupled with each other, and the few other unknowns (flats, nights, colours) are solved for exactly: that is
N0. What it lacks is slow: stars tie neighbours on the sky, so that large pieces of sky shift together and are known far worse than
one visit among fixed neighbours. So the visits are put into patches, and shifts of whole patches, with the best answer of the few
to them, are solved for exactly, too (a coarse space by aggregation; see Vanek, Mandel & Brezina 1996): with Z the shifts,

    M^-1 = N0^-1 + Z (C - G) Z^T,   C = (Z^T N Z)^-1, G = (Z^T N0 Z)^-1.

Iterations are left with what happens within a patch, and variances by M^-1 have the shifts.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, eigh, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.sparse import coo_array, csr_array

from pipelines.step2c.system import System

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Rows of a dense product that are held at a time.
CHUNK = 4096
#: Visits of a patch at least, where there are so many; and patches at most.
FEW, MOST = 10, 1000


class Preconditioner:
    """M^-1 of a system (P, P). ``group`` (G,) numbers the visits of the first G unknowns, of each its zero point first.

    With A the blocks of visits and B the coupling (few, G), N0 = [[A, B^T], [B, .]] is known from A and the Schur complement
    of the few. What is left out are mostly negative numbers off the diagonal (visits that share stars), so that it stays positive
    definite; where it would not, its worst modes are taken for what the whole system says of them with the answer of visits.
    """

    def __init__(self, system: System, group: IntArray) -> None:
        self.many = many = len(group)
        rest = len(system.between) - many
        rows, visits = csr_array(system.among[many:]), csr_array(system.among[:many, :many])
        sparse, dense = csr_array(rows[:, :many]), system.between[:many]
        self.root = _roots(visits, group)  # R of the visits, A^-1 = R^T R
        inverse = csr_array(self.root.T @ self.root)
        self.spread = csr_array(inverse @ sparse.T)  # A^-1 B^T, of the few that are no flats
        self.wide = inverse @ dense  # the same of flats
        few = np.empty((system.size - many,) * 2)
        few[:rest, :rest] = rows[:, many:].toarray()
        few[:rest, rest:] = system.between[many:]
        few[rest:, :rest] = few[:rest, rest:].T
        few[rest:, rest:] = system.flats
        schur = few.copy()
        schur[:rest, :rest] -= (sparse @ self.spread).toarray()
        schur[:rest, rest:] -= sparse @ self.wide
        schur[rest:, :rest] = schur[:rest, rest:].T
        square = np.zeros_like(system.flats)  # one triangle of B A^-1 B^T
        for start in range(0, many, CHUNK):
            square += dsyrk(1.0, (self.root[start : start + CHUNK] @ dense).T)
        schur[rest:, rest:] -= square + np.triu(square, 1).T

        def truly(modes: Array) -> Array:
            """Of modes (few, K) of the few, with the answer of visits to each: what the whole system says of them (K, K)."""
            own = -(self.spread @ modes[:rest] + self.wide @ modes[rest:])
            cross = modes.T @ np.concatenate([sparse @ own, dense.T @ own])
            return np.asarray(modes.T @ few @ modes + cross + cross.T + own.T @ (visits @ own))

        self.few, raised = _inverse_root(0.5 * (schur + schur.T), truly)  # R of the few
        _, first = np.unique(group, return_index=True)
        zero = csr_array(visits[first][:, first])
        own, patch = _patches(zero)
        count = int(patch.max(initial=-1)) + 1
        self.shift = csr_array((np.ones(len(own)), (first[own], patch)), shape=(many, count))  # Z of visits
        self.patch = np.full(many, -1)
        self.patch[first[own]] = patch
        coupling = np.concatenate([(sparse @ self.shift).toarray(), (self.shift.T @ dense).T])
        self.answer = -cho_solve(cho_factor(few), coupling)  # Z of the few
        ends = coupling.T @ self.answer
        alone = np.diag(np.bincount(patch, zero.diagonal()[own], count)) + ends
        if raised is not None:
            alone -= self.answer.T @ raised @ self.answer
        together = (csr_array(self.shift.T) @ (visits @ self.shift)).toarray() + ends
        value, vector = eigh(together, alone) if count else (np.zeros(0), np.zeros((0, 0)))
        self.shifts = vector * np.sqrt(np.maximum(1.0 / value - 1.0, 0.0))  # K of C - G = K K^T, as far as that is positive

    def apply(self, r: Array) -> Array:
        """M^-1 r of vectors (P,) or (P, K)."""
        first, last = r[: self.many], r[self.many :]
        shift = self.shifts @ (self.shifts.T @ (self.shift.T @ first + self.answer.T @ last))
        last = self.few.T @ (self.few @ (last - np.concatenate([self.spread.T @ first, self.wide.T @ first])))
        return self._whole(self.root @ first, last, shift)

    def sample(self, chance: np.random.Generator, count: int) -> Array:
        """Random vectors (P, count) with the covariance M^-1."""
        first, last, shift = (chance.standard_normal((size, count)) for size in (self.many, len(self.few), self.shifts.shape[1]))
        return self._whole(first, self.few.T @ last, self.shifts @ shift)

    def _whole(self, first: Array, last: Array, shift: Array) -> Array:
        """Vectors from what visits are by themselves (whitened), what the few are, and by how much patches shift."""
        rest = self.spread.shape[1]
        visits = self.root.T @ first - self.spread @ last[:rest] - self.wide @ last[rest:] + self.shift @ shift
        return np.concatenate([visits, last + self.answer @ shift])

    def elements(self, i: IntArray, j: IntArray) -> Array:
        """Elements (K,) of M^-1 at rows and columns, of visits both or of the few both."""
        few, visits = self._of_few, i < self.many
        result = np.zeros(len(i))
        one, other = (k[~visits] - self.many for k in (i, j))
        if len(one):
            result[~visits] = few[one, other] + np.einsum("ik,ik->i", self._answers[one], self._answers[other])
        rest = self.spread.shape[1]
        for at in np.array_split(np.flatnonzero(visits), np.count_nonzero(visits) // CHUNK + 1):
            one, other = i[at], j[at]
            (a, b), (c, d) = (self.spread[one], self.spread[other]), (self.wide[one], self.wide[other])
            result[at] = self.root.T[one].multiply(self.root.T[other]).sum(axis=1) + a.multiply(b @ few[:rest, :rest]).sum(axis=1)
            result[at] += np.einsum("ik,ik->i", c @ few[rest:, rest:] + a @ few[:rest, rest:], d)
            result[at] += np.einsum("ik,ik->i", c, b @ few[:rest, rest:])
            both = np.flatnonzero((self.patch[one] >= 0) & (self.patch[other] >= 0))
            result[at[both]] += self._of_shifts[self.patch[one[both]], self.patch[other[both]]]
        return result

    def with_flats(self, i: IntArray) -> Array:
        """Elements (K, F) of M^-1 between unknowns of visits and all flats."""
        rest = self.spread.shape[1]
        few, shift = self._of_few[:, rest:], self.shifts @ self._answers[rest:].T
        parts = np.array_split(i, len(i) // CHUNK + 1)
        return np.concatenate([self.shift[k] @ shift - self.spread[k] @ few[:rest] - self.wide[k] @ few[rest:] for k in parts])

    @cached_property
    def _of_few(self) -> Array:
        return np.asarray(self.few.T @ self.few)

    @cached_property
    def _of_shifts(self) -> Array:
        return np.asarray(self.shifts @ self.shifts.T)

    @cached_property
    def _answers(self) -> Array:
        return np.asarray(self.answer @ self.shifts)


def _patches(matrix: csr_array) -> tuple[IntArray, IntArray]:
    """Zero points (K,) that are coupled with others, and the patch of each (K,), by the couplings ``matrix`` (V, V).

    A patch is a zero point with its free neighbours, where these are ``FEW``, or where no such patch is beside it; what is left
    over goes to the neighbour that it is coupled with most. Where patches are more than ``MOST``, they are put together alike.
    """
    found = _gathered(matrix)
    while found.max(initial=-1) >= MOST:
        own = np.flatnonzero(found >= 0)
        put = csr_array((np.ones(len(own)), (own, found[own])), shape=(len(found), int(found.max()) + 1))
        larger = _gathered(csr_array(put.T @ matrix @ put))
        larger[larger < 0] = larger.max() + 1 + np.arange(np.count_nonzero(larger < 0))
        if larger.max() >= found.max():
            break
        found[own] = larger[found[own]]
    own = np.flatnonzero(found >= 0)
    return own, found[own]


def _gathered(matrix: csr_array) -> IntArray:
    """The patch (V,) of each row; -1 of those that are coupled with no other."""
    entries = coo_array(matrix)
    i, j = entries.coords
    tied = (entries.data < 0) & (i != j)
    graph = csr_array((-entries.data[tied], (i[tied], j[tied])), shape=matrix.shape)
    patch, count = np.full(matrix.shape[0], -1), 0
    for least in (FEW, 1):
        large = count
        for v in np.flatnonzero(np.diff(graph.indptr)):
            near = graph.indices[graph.indptr[v] : graph.indptr[v + 1]]
            free = near[patch[near] < 0]
            if patch[v] < 0 and len(free) >= least and (least == FEW or not np.any((patch[near] >= 0) & (patch[near] < large))):
                patch[v] = patch[free] = count
                count += 1
    for v in np.flatnonzero((patch < 0) & (np.diff(graph.indptr) > 0)):
        own = slice(graph.indptr[v], graph.indptr[v + 1])
        near = graph.indices[own]
        patch[v] = patch[near[np.argmax(np.where(patch[near] >= 0, graph.data[own], 0.0))]]
    return patch


def _inverse_root(matrix: Array, truly: Callable[[Array], Array]) -> tuple[Array, Array | None]:
    """R with R^T R the inverse of a symmetric matrix (N, N). Where that is not positive definite, ``truly`` says of modes (N, K) of
    small eigenvalues what is put in their place (K, K), and the second is the matrix less what it is then."""
    raised = None
    try:
        factor = cholesky(matrix, lower=True)
    except np.linalg.LinAlgError:
        small = 1e-6 * max(float(np.linalg.norm(matrix, 1)), 1.0)
        values, modes = eigh(matrix, subset_by_value=(-np.inf, small))
        raised = modes @ (np.diag(values) - truly(modes)) @ modes.T
        raised = 0.5 * (raised + raised.T)
        factor = cholesky(matrix - raised, lower=True)
    return np.asarray(solve_triangular(factor, np.eye(len(matrix)), lower=True)), raised


def _roots(matrix: csr_array, group: IntArray) -> csr_array:
    """R with R^T R the inverse of the diagonal blocks of a matrix (unknowns of one group, of which there are a few each)."""
    order = np.argsort(group, kind="stable")
    _, first, count = np.unique(group[order], return_index=True, return_counts=True)
    block = np.repeat(np.arange(len(first)), count)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - first[block]
    of = np.empty(len(group), np.int64)
    of[order] = block
    entries = matrix.tocoo()
    own = np.flatnonzero(of[entries.coords[0]] == of[entries.coords[1]])
    i, j = (coordinate[own] for coordinate in entries.coords)
    size = int(count.max(initial=1))
    blocks = np.tile(np.eye(size), (len(first), 1, 1))
    blocks[of[i], place[i], place[j]] = entries.data[own]
    root = np.linalg.inv(np.linalg.cholesky(blocks))
    member = np.full((len(first), size), -1)
    member[of, place] = np.arange(len(group))
    row, column = (np.repeat(member, size, axis=1), np.tile(member, size))
    kept = (row >= 0) & (column >= 0) & (root.reshape(len(first), -1) != 0)
    return csr_array((root.reshape(len(first), -1)[kept], (row[kept], column[kept])), shape=matrix.shape)
