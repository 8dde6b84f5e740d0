"""Symmetric systems of normal equations: solved, and the errors of what they say.

Small systems are solved by Cholesky, with the whole inverse. Large ones, nearly all of them zero points of visits, by conjugate
gradients: the preconditioner takes visits for uncoupled with each other and solves for the few other unknowns (flats, nights,
colours) exactly, so that what is iterated is the graph of visits that share stars, and nothing else. Variances come from random
vectors that have the covariance of the solution: that is as good for visits that hang together by a thread as for others, while
random signs, which estimate the diagonal of an inverse, fail there: covariances far from the diagonal are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, cholesky, solve_triangular
from scipy.linalg.blas import dsyrk
from scipy.sparse import csr_array

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Rows of a dense product that are held at a time.
CHUNK = 4096
#: Random vectors that are worked on together.
TOGETHER = 8


class NotSolved(ArithmeticError):
    """The equations have no solution, or none was found; the message says what was reached."""


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


@dataclass(frozen=True)
class Solution:
    """``unknowns`` (P,), their ``variances`` (P,), and how many ``iterations`` it took (0: solved directly).

    ``covariance``: of pairs of unknowns (K,), (K,), and ``with_flats`` (K, F) of some with the last F; of large systems with the
    preconditioner's correlations. ``variance``: of sums of unknowns, the rows of a sparse matrix (R, P); of large systems an
    estimate for sums of many, and nothing without probes."""

    unknowns: Array
    variances: Array
    iterations: int
    covariance: Callable[[IntArray, IntArray], Array]
    with_flats: Callable[[IntArray], Array]
    variance: Callable[[csr_array], Array]


def solve(system: System, right: Array, group: IntArray, direct: int, tolerance: float, probes: int, start: Array) -> Solution:
    """Solve ``system`` (P, P) p = ``right`` (P,). ``group`` (G,) numbers the visits of the first G unknowns (zero points,
    gradients); the others are few. ``start`` (P,): where iterations begin.

    Without ``probes`` the variances of a large system are the least that they can be.

    NotSolved where the matrix is not positive definite, or the residual (in the units of errors) does not fall below ``tolerance``
    of the right side.
    """
    diagonal = system.diagonal()
    if not np.all(np.isfinite(right)) or not np.all(diagonal > 0):
        raise NotSolved("an unknown of the photometric solution has neither data nor a prior")
    if system.size <= direct:
        return _directly(system.toarray(), right, len(system.flats))
    base = Uncoupled(system, group)
    goal = tolerance * float(np.linalg.norm(base.whiten(right)))
    found, iterations = conjugate_gradients(base.product, base.whiten(right - system @ start), goal)
    stated, ratio, samples = (
        _variances(base, probes) if probes else (1.0 / diagonal, np.ones(system.size), np.zeros((system.size, 1)))
    )
    variances = np.maximum(stated * ratio, 1.0 / diagonal)
    more = np.sqrt(variances / stated)  # correlations are those of the preconditioner

    def covariance(i: IntArray, j: IntArray) -> Array:
        result, apart = variances[i], i != j
        result[apart] = base.elements(i[apart], j[apart]) * more[i[apart]] * more[j[apart]]
        return np.asarray(result)

    def with_flats(i: IntArray) -> Array:
        return np.asarray(base.with_flats(i) * more[i, None] * more[len(system.between) :])

    def variance(sums: csr_array) -> Array:
        return np.asarray(np.mean((sums @ samples) ** 2, axis=1))

    return Solution(start + base.colour(found), variances, iterations, covariance, with_flats, variance)


def _directly(matrix: Array, right: Array, flats: int) -> Solution:
    try:
        factor = cho_factor(matrix, lower=True)
    except np.linalg.LinAlgError as error:
        raise NotSolved(f"the normal equations are not positive definite: {error}") from None
    unknowns = cho_solve(factor, right)
    unknowns += cho_solve(factor, right - matrix @ unknowns)  # one step of refinement
    inverse = cho_solve(factor, np.eye(len(right)))

    def variance(sums: csr_array) -> Array:
        return np.asarray(sums.multiply(sums @ inverse).sum(axis=1))

    def covariance(i: IntArray, j: IntArray) -> Array:
        return np.asarray(inverse[i, j])

    def with_flats(i: IntArray) -> Array:
        return np.asarray(inverse[i, len(right) - flats :])

    return Solution(unknowns, np.diag(inverse).copy(), 0, covariance, with_flats, variance)


def conjugate_gradients(product: Callable[[Array], Array], right: Array, goal: float, limit: int = 2000) -> tuple[Array, int]:
    """Solve A x = ``right`` (P,), ``product`` being that with A, until the residual's length is ``goal`` (Hestenes & Stiefel
    1952): x and the number of iterations; NotSolved after ``limit`` of them."""
    x, r = np.zeros_like(right), right.copy()
    p, rr, before = np.zeros_like(r), float(r @ r), np.inf
    for iteration in range(limit):
        if rr <= goal**2:
            return x, iteration
        p = r + rr / before * p
        q = product(p)
        step = rr / float(p @ q)
        x += step * p
        r -= step * q
        before, rr = rr, float(r @ r)
    left = np.sqrt(rr) / max(goal, np.finfo(float).tiny)
    raise NotSolved(f"the photometric solution did not converge: the residual is {left:.1e} of its goal after {limit} iterations")


def _variances(base: Uncoupled, probes: int) -> tuple[Array, Array, Array]:
    """The diagonal (P,) of the preconditioner; how much larger that of the inverse is, from the squares of ``probes`` random
    vectors (P, probes) with that covariance; and these.

    Each is L^-T (L^-1 N L^-T)^-1/2 z of a random z, where L L^T is the preconditioner's matrix; L^-T z, of the same z, has the
    covariance that the preconditioner states: the ratio of both tells by how much more the unknowns vary.
    """
    chance = np.random.default_rng(20260910)
    stated = base.diagonal()
    samples, expected = [], np.zeros(len(stated))
    for first in range(0, probes, TOGETHER):
        z = chance.standard_normal((len(stated), min(TOGETHER, probes - first)))
        samples.append(base.colour(inverse_root(base.product, z)))
        expected += np.sum(base.colour(z) ** 2, axis=1)
    found = np.concatenate(samples, axis=1)
    return stated, np.sum(found**2, axis=1) / expected, found


def inverse_root(product: Callable[[Array], Array], z: Array, accuracy: float = 0.1, limit: int = 500) -> Array:
    """A^-1/2 z for several vectors z (P, K) at once, ``product`` being that with A, positive definite (Lanczos; see Simpson, Turner
    & Pettitt 2008). It ends when ten more steps change no vector by ``accuracy`` of its length; NotSolved after ``limit`` steps."""
    size = np.linalg.norm(z, axis=0)
    basis = [z / size]
    alpha: list[Array] = []
    beta: list[Array] = []
    known = np.zeros((z.shape[1], 0))
    for step in range(1, limit + 1):
        w = product(basis[-1])
        if beta:
            w -= beta[-1] * basis[-2]
        alpha.append(np.einsum("ik,ik->k", basis[-1], w))
        w -= alpha[-1] * basis[-1]
        beta.append(np.linalg.norm(w, axis=0))
        if step % 10 == 0 or np.all(beta[-1] < 1e-12):
            factor = _root_factors(np.array(alpha), np.array(beta[:-1]))
            change = np.linalg.norm(factor - np.pad(known, ((0, 0), (0, step - known.shape[1]))), axis=1)
            if np.all(change <= accuracy * np.linalg.norm(factor, axis=1)) or np.all(beta[-1] < 1e-12):
                return np.asarray(size * sum(factor[:, n] * vector for n, vector in enumerate(basis)))
            known = factor
        basis.append(np.divide(w, beta[-1], out=np.zeros_like(w), where=beta[-1] > 1e-12))
    raise NotSolved(f"the errors of the photometric solution did not converge in {limit} steps")


def _root_factors(alpha: Array, beta: Array) -> Array:
    """First columns (K, M) of T^-1/2 of the tridiagonal matrices with diagonals ``alpha`` (M, K) and beside them ``beta``."""
    count = len(alpha)
    t = np.zeros((alpha.shape[1], count, count))
    row = np.arange(count)
    t[:, row, row] = alpha.T
    t[:, row[1:], row[:-1]] = beta.T
    values, vectors = np.linalg.eigh(t)
    return np.asarray(np.einsum("kij,kj,kj->ki", vectors, np.maximum(values, 1e-12) ** -0.5, vectors[:, 0]))


class Uncoupled:
    """A system N as L (1 + L^-1 E L^-T) L^T, where L L^T is N without E, what couples visits with each other.

    With A the blocks of visits, B the coupling (few, many) and C among the few, L is known from A and the Schur complement
    C - B A^-1 B^T. What is left out are mostly negative numbers off the diagonal (visits that share stars), so that stays positive
    definite; where it would not, its small eigenvalues are raised, and E has what was added.
    """

    def __init__(self, system: System, group: IntArray) -> None:
        self.many = many = len(group)
        rest = len(system.between) - many
        rows = csr_array(system.among[many:])
        sparse, dense = csr_array(rows[:, :many]), system.between[:many]
        self.root, self.coupling = _blocks(csr_array(system.among[:many, :many]), group)  # R of the visits, A^-1 = R^T R; E
        half = self.root @ dense  # R B^T of flats
        self.spread = csr_array(self.root.T @ (self.root @ sparse.T))  # A^-1 B^T, of the few that are no flats
        self.wide = self.root.T @ half  # the same of flats
        schur = np.empty((system.size - many,) * 2)
        schur[:rest, :rest] = (rows[:, many:] - sparse @ self.spread).toarray()
        schur[:rest, rest:] = system.between[many:] - sparse @ self.wide
        schur[rest:, :rest] = schur[:rest, rest:].T
        square = dsyrk(1.0, half.T)  # one triangle of B A^-1 B^T
        schur[rest:, rest:] = system.flats - square - np.triu(square, 1).T
        self.few, self.raised = _inverse_root(0.5 * (schur + schur.T))  # R of the few

    def product(self, y: Array) -> Array:
        """(1 + L^-1 E L^-T) y of vectors (P,) or (P, K)."""
        x = self.colour(y)
        last = np.zeros_like(x[self.many :]) if self.raised is None else self.raised @ x[self.many :]
        return np.asarray(y + self.whiten(np.concatenate([self.coupling @ x[: self.many], last])))

    def whiten(self, r: Array) -> Array:
        """L^-1 r of vectors (P,) or (P, K)."""
        first = r[: self.many]
        last = r[self.many :] - np.concatenate([self.spread.T @ first, self.wide.T @ first])
        return np.concatenate([self.root @ first, self.few @ last])

    def colour(self, y: Array) -> Array:
        """L^-T y of vectors (P,) or (P, K)."""
        last, rest = self.few.T @ y[self.many :], self.spread.shape[1]
        return np.concatenate([self.root.T @ y[: self.many] - self.spread @ last[:rest] - self.wide @ last[rest:], last])

    def diagonal(self) -> Array:
        """The diagonal (P,) of L^-T L^-1, the inverse without E."""
        rest, own, few = self.spread.shape[1], self.root.power(2).sum(axis=0), self.few.T @ self.few
        for start in range(0, self.many, CHUNK):
            part = slice(start, start + CHUNK)
            sparse, dense = csr_array(self.spread[part]), self.wide[part]
            own[part] += np.einsum("ik,ik->i", dense @ few[rest:, rest:], dense)
            mixed = sparse @ few[:rest, :rest] + 2.0 * dense @ few[rest:, :rest]
            own[part] += sparse.multiply(mixed).sum(axis=1)
        return np.concatenate([own, np.diag(few)])

    def elements(self, i: IntArray, j: IntArray) -> Array:
        """Elements (K,) of L^-T L^-1 at rows and columns, of visits both or of the few both."""
        few, visits = self.few.T @ self.few, i < self.many
        result = np.zeros(len(i))
        result[~visits] = few[i[~visits] - self.many, j[~visits] - self.many]
        for at in np.array_split(np.flatnonzero(visits), len(i) // CHUNK + 1):
            one, other = (np.concatenate([self.spread[k[at]].toarray(), self.wide[k[at]]], axis=1) for k in (i, j))
            near = self.root.T[i[at]].multiply(self.root.T[j[at]]).sum(axis=1)
            result[at] = np.asarray(near).ravel() + np.einsum("ik,ik->i", one @ few, other)
        return result

    def with_flats(self, i: IntArray) -> Array:
        """Elements (K, F) of L^-T L^-1 between unknowns of visits and all flats."""
        rest, few = self.spread.shape[1], self.few.T @ self.few[:, self.spread.shape[1] :]
        parts = np.array_split(i, len(i) // CHUNK + 1)
        return np.concatenate([-(self.spread[k] @ few[:rest] + self.wide[k] @ few[rest:]) for k in parts])


def _inverse_root(matrix: Array) -> tuple[Array, Array | None]:
    """R with R^T R the inverse of a symmetric matrix; where that is not positive definite, its small eigenvalues are raised, and
    the second is the matrix less what it is then."""
    try:
        return np.asarray(solve_triangular(cholesky(matrix, lower=True), np.eye(len(matrix)), lower=True)), None
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(matrix)
        raised = np.maximum(values, 1e-6 * values.max(initial=1.0))
        return np.asarray((vectors / np.sqrt(raised)).T), np.asarray((vectors * (values - raised)) @ vectors.T)


def _blocks(matrix: csr_array, group: IntArray) -> tuple[csr_array, csr_array]:
    """R with R^T R the inverse of the diagonal blocks of a matrix (unknowns of one group, of which there are a few each), and the
    matrix without these blocks."""
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
    root = np.linalg.inv(np.linalg.cholesky(blocks))
    member = np.full((len(first), size), -1)
    member[of, place] = np.arange(len(group))
    row, column = (np.repeat(member, size, axis=1), np.tile(member, size))
    kept = (row >= 0) & (column >= 0) & (root.reshape(len(first), -1) != 0)
    inverse = csr_array((root.reshape(len(first), -1)[kept], (row[kept], column[kept])), shape=matrix.shape)
    return inverse, csr_array((entries.data[~own], (i[~own], j[~own])), shape=matrix.shape)
