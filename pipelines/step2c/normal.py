"""Sparse symmetric systems of normal equations: solved, and the errors of what they say.

Small systems are solved by Cholesky, with the whole inverse. Large ones, nearly all of them zero points of visits, by conjugate
gradients: the preconditioner takes visits for uncoupled with each other and solves for the few other unknowns (flats, nights,
colours) exactly, which leaves the graph of visits that share stars. Their variances come from random vectors of signs (Hutchinson
1990; Bekas, Kokiopoulou & Saad 2007).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


class NotSolved(ArithmeticError):
    """The equations have no solution, or none was found; the message says what was reached."""


@dataclass(frozen=True)
class Solution:
    """``unknowns`` (P,), their ``variances`` (P,), and how many ``iterations`` it took (0: solved directly)."""

    unknowns: Array
    variances: Array
    iterations: int


def solve(matrix: csr_array, right: Array, group: IntArray, direct: int, tolerance: float, probes: int) -> Solution:
    """Solve ``matrix`` (P, P; positive definite) p = ``right`` (P,). ``group`` (P,) numbers the visits of the unknowns of visits
    (zero points, gradients); -1: the few others.

    Without ``probes`` the variances of a large system are the least that they can be.

    NotSolved where the matrix is not positive definite, or the residual does not fall below ``tolerance`` of the right side.
    """
    if not np.all(np.isfinite(right)) or not np.all(matrix.diagonal() > 0):
        raise NotSolved("an unknown of the photometric solution has neither data nor a prior")
    if matrix.shape[0] <= direct:
        return _directly(matrix, right)
    precondition = Uncoupled(matrix, group)
    unknowns, iterations = conjugate_gradients(matrix, right[:, None], precondition, tolerance)
    if not probes:
        return Solution(unknowns[:, 0], 1.0 / matrix.diagonal(), iterations)
    signs = np.random.default_rng(20260910).choice([-1.0, 1.0], (matrix.shape[0], probes))
    # what the preconditioner says is exact where visits do not share stars: only the difference is estimated
    solved, _ = conjugate_gradients(matrix, signs, precondition, 1e-4)
    rough = precondition(signs)
    variances = precondition.diagonal() + np.mean(signs * (solved - rough), axis=1)
    floor = 1.0 / matrix.diagonal()
    return Solution(unknowns[:, 0], np.maximum(variances, floor), iterations)


def _directly(matrix: csr_array, right: Array) -> Solution:
    try:
        factor = cho_factor(matrix.toarray(), lower=True)
    except np.linalg.LinAlgError as error:
        raise NotSolved(f"the normal equations are not positive definite: {error}") from None
    unknowns = cho_solve(factor, right)
    unknowns += cho_solve(factor, right - matrix @ unknowns)  # one step of refinement
    return Solution(unknowns, np.diag(cho_solve(factor, np.eye(len(right)))).copy(), 0)


def conjugate_gradients(
    matrix: csr_array, right: Array, precondition: Callable[[Array], Array], tolerance: float, limit: int = 2000
) -> tuple[Array, int]:
    """Solve for several right-hand sides (P, K) at once (Hestenes & Stiefel 1952); NotSolved after ``limit`` iterations."""
    x = np.zeros_like(right)
    r = right.copy()
    z = precondition(r)
    p = z.copy()
    rz = np.einsum("ik,ik->k", r, z)
    goal = tolerance * np.maximum(np.linalg.norm(right, axis=0), np.finfo(float).tiny)
    for iteration in range(1, limit + 1):
        q = matrix @ p
        pq = np.einsum("ik,ik->k", p, q)
        step = np.divide(rz, pq, out=np.zeros_like(rz), where=pq > 0)
        x += step * p
        r -= step * q
        if np.all(np.linalg.norm(r, axis=0) <= goal):
            return x, iteration
        z = precondition(r)
        before, rz = rz, np.einsum("ik,ik->k", r, z)
        p = z + np.divide(rz, before, out=np.zeros_like(rz), where=before > 0) * p
    left = float(np.max(np.linalg.norm(r, axis=0) / np.maximum(goal / tolerance, np.finfo(float).tiny)))
    raise NotSolved(f"the photometric solution did not converge: residual {left:.1e} after {limit} iterations")


class Uncoupled:
    """The inverse of a matrix (P, P) without what couples visits with each other.

    With A the blocks of visits, B the coupling (few, many) and C among the few, the Schur complement C - B A^-1 B^T is solved
    exactly. What is left out are mostly negative numbers off the diagonal (visits that share stars), so it stays positive
    definite; where it would not, its small eigenvalues are raised.
    """

    def __init__(self, matrix: csr_array, group: IntArray) -> None:
        self.many, self.few = np.flatnonzero(group >= 0), np.flatnonzero(group < 0)
        rows = csr_array(matrix[self.few])
        self.inverse = _block_inverse(csr_array(matrix[self.many][:, self.many]), group[self.many])
        self.spread = csr_array(self.inverse @ rows[:, self.many].T)  # A^-1 B^T
        schur = rows[:, self.few].toarray() - (rows[:, self.many] @ self.spread).toarray()
        values, vectors = np.linalg.eigh(0.5 * (schur + schur.T))
        self.schur = (vectors / np.maximum(values, 1e-12 * values.max(initial=1.0))) @ vectors.T

    def __call__(self, r: Array) -> Array:
        """Apply to vectors (P, K)."""
        z = np.empty_like(r)
        z[self.few] = self.schur @ (r[self.few] - self.spread.T @ r[self.many])
        z[self.many] = self.inverse @ r[self.many] - self.spread @ z[self.few]
        return z

    def diagonal(self) -> Array:
        """Its diagonal (P,)."""
        result = np.empty(len(self.many) + len(self.few))
        result[self.few] = np.diag(self.schur)
        own = self.inverse.diagonal()
        for start in range(0, len(self.many), 4096):
            part = self.spread[start : start + 4096].toarray()
            rows = self.many[start : start + 4096]
            result[rows] = own[start : start + 4096] + np.einsum("ik,ik->i", part @ self.schur, part)
        return result


def _block_inverse(matrix: csr_array, group: IntArray) -> csr_array:
    """The inverse of the diagonal blocks of a matrix: unknowns of one group, of which there are a few each."""
    order = np.argsort(group, kind="stable")
    _, first, count = np.unique(group[order], return_index=True, return_counts=True)
    block = np.repeat(np.arange(len(first)), count)
    place = np.empty(len(group), np.int64)
    place[order] = np.arange(len(group)) - first[block]
    of = np.empty(len(group), np.int64)
    of[order] = block
    entries = matrix.tocoo()
    i, j = entries.coords
    own = of[i] == of[j]
    size = int(count.max(initial=1))
    blocks = np.tile(np.eye(size), (len(first), 1, 1))
    blocks[of[i[own]], place[i[own]], place[j[own]]] = entries.data[own]
    inverse = np.linalg.inv(blocks)
    return csr_array((inverse[of[i[own]], place[i[own]], place[j[own]]], (i[own], j[own])), shape=matrix.shape)
