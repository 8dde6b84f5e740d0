"""Symmetric systems of normal equations: solved, and the errors of what they say.

Small systems are solved by Cholesky, with the whole inverse. Large ones, nearly all of them zero points of visits, by conjugate
gradients (preconditioner.py). Variances come from random vectors that have the covariance of the solution: that is as good for
visits that hang together by a thread as for others, while random signs, which estimate the diagonal of an inverse, fail there:
covariances far from the diagonal are large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse import csr_array

from pipelines.step2c.preconditioner import Preconditioner
from pipelines.step2c.system import System

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
Operator = Callable[[Array], Array]
#: Vectors that are worked on together.
VECTORS = 16
#: How well equations with other right sides are solved (relative residual).
ROUGHLY = 0.1


class NotSolved(ArithmeticError):
    """The equations have no solution, or none was found; the message says what was reached."""


@dataclass(frozen=True)
class Solution:
    """``unknowns`` (P,), their ``variances`` (P,), NaN of those that were not asked for, and how many ``iterations`` it took (0:
    solved directly).

    ``covariance``: of pairs of unknowns (K,), (K,), and ``with_flats`` (K, F) of some with the last F; of large systems with the
    preconditioner's correlations. ``variance``: of sums of unknowns, the rows of a sparse matrix (R, P). ``answer``: what unknowns
    would be for other right sides (P, K), of large systems to a tenth. ``base``: what a large system was solved with."""

    unknowns: Array
    variances: Array
    iterations: int
    covariance: Callable[[IntArray, IntArray], Array]
    with_flats: Callable[[IntArray], Array]
    variance: Callable[[csr_array], Array]
    answer: Callable[[Array], Array]
    base: Preconditioner | None = None


def solve(
    system: System, right: Array, group: IntArray, direct: int, tolerance: float, probes: int, start: Array,
    asked: Mask | None = None, base: Preconditioner | None = None,
) -> Solution:  # fmt: skip
    """Solve ``system`` (P, P) p = ``right`` (P,). ``group`` (G,) numbers the visits of the first G unknowns (zero points,
    gradients); the others are few. ``start`` (P,): where iterations begin. ``asked`` (P,): whose variances are wanted (default:
    all). ``base``: that of a solution of this system that was found before.

    Without ``probes`` the variances of a large system are those of its preconditioner.

    NotSolved where the matrix is not positive definite, or the residual (in the units of errors) does not fall below ``tolerance``
    of the right side.
    """
    diagonal = system.diagonal()
    if not np.all(np.isfinite(right)) or not np.all(diagonal > 0):
        raise NotSolved("an unknown of the photometric solution has neither data nor a prior")
    if system.size <= direct:
        return _directly(system.toarray(), right, len(system.flats))
    base = base or Preconditioner(system, group)
    goal = tolerance * float(np.sqrt(right @ base.apply(right)))
    found, iterations = conjugate_gradients(system.__matmul__, base.apply, right - system @ start, goal)
    samples = _samples(system, base, probes)
    wanted = np.flatnonzero(np.ones(system.size, bool) if asked is None else asked)
    stated = np.full(system.size, np.nan)
    stated[wanted] = base.elements(wanted, wanted)
    variances = np.maximum(stated * _ratio(*samples), 1.0 / diagonal)
    more = np.sqrt(variances / stated)  # correlations are those of the preconditioner

    def covariance(i: IntArray, j: IntArray) -> Array:
        result, apart = variances[i], i != j
        result[apart] = base.elements(i[apart], j[apart]) * more[i[apart]] * more[j[apart]]
        return np.asarray(result)

    def with_flats(i: IntArray) -> Array:
        result = base.with_flats(i)
        result *= more[i, None]
        result *= more[len(system.between) :]
        return result

    def variance(sums: csr_array) -> Array:
        ratio = _ratio(*(sums @ vectors for vectors in samples))
        parts = (sums[first : first + VECTORS].toarray().T for first in range(0, sums.shape[0], VECTORS))
        return np.asarray(ratio * np.concatenate([np.einsum("ik,ik->k", part, base.apply(part)) for part in parts]))

    def answer(others: Array) -> Array:
        enough = ROUGHLY * np.sqrt(np.einsum("ik,ik->k", others, base.apply(others)))
        each = zip(others.T, enough, strict=True)
        return np.stack([conjugate_gradients(system.__matmul__, base.apply, *one)[0] for one in each], axis=1)

    return Solution(start + found, variances, iterations, covariance, with_flats, variance, answer, base)


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

    def answer(others: Array) -> Array:
        return np.asarray(cho_solve(factor, others))

    return Solution(unknowns, np.diag(inverse).copy(), 0, covariance, with_flats, variance, answer)


def conjugate_gradients(
    product: Operator, precondition: Operator, right: Array, goal: float, limit: int = 2000
) -> tuple[Array, int]:
    """Solve N x = ``right`` (P,), ``product`` being that with N and ``precondition`` that with M^-1, until the residual's length
    (r^T M^-1 r)^1/2 is ``goal`` (Hestenes & Stiefel 1952): x and the number of iterations; NotSolved after ``limit`` of them."""
    x, r = np.zeros_like(right), right.copy()
    p, before = np.zeros_like(r), np.inf
    for iteration in range(limit):
        z = precondition(r)
        rz = float(r @ z)
        if rz <= goal**2:
            return x, iteration
        p = z + rz / before * p
        q = product(p)
        step = rz / float(p @ q)
        x += step * p
        r -= step * q
        before = rz
    left = np.sqrt(before) / max(goal, np.finfo(float).tiny)
    raise NotSolved(f"the photometric solution did not converge: the residual is {left:.1e} of its goal after {limit} iterations")


def _samples(system: System, base: Preconditioner, count: int) -> tuple[Array, Array]:
    """Random vectors (P, count) with the covariance of the solution, (M^-1 N)^-1/2 v; and those v, with the covariance M^-1."""
    chance = np.random.default_rng(20260910)
    sizes = [min(VECTORS, count - first) for first in range(0, count, VECTORS)]
    drawn = [base.sample(chance, size) for size in sizes]
    found = [inverse_root(system.__matmul__, base.apply, v) for v in drawn]
    none = np.zeros((system.size, 0))
    return np.concatenate([none, *found], axis=1), np.concatenate([none, *drawn], axis=1)


def _ratio(found: Array, drawn: Array) -> Array:
    """How much larger the variances (R,) of what was found are than of what was drawn, (R, K) each: 1 where nothing was."""
    if not found.shape[1]:
        return np.ones(len(found))
    return np.asarray(np.sum(found**2, axis=1) / np.sum(drawn**2, axis=1))


def inverse_root(product: Operator, precondition: Operator, v: Array, accuracy: float = 0.1, limit: int = 500) -> Array:
    """(M^-1 N)^-1/2 v for several vectors v (P, K) at once, ``product`` being that with N and ``precondition`` that with M^-1, both
    positive definite: Lanczos in the scalar product x^T N y (see Simpson, Turner & Pettitt 2008). It ends when ten more steps
    change no vector by ``accuracy`` of its length; NotSolved after ``limit`` steps."""
    n = product(v)
    size = np.sqrt(np.einsum("ik,ik->k", v, n))
    basis, n = [v / size], n / size
    alpha: list[Array] = []
    beta: list[Array] = []
    known = np.zeros((v.shape[1], 0))
    for step in range(1, limit + 1):
        w = precondition(n)
        alpha.append(np.einsum("ik,ik->k", n, w))
        w -= alpha[-1] * basis[-1]
        if beta:
            w -= beta[-1] * basis[-2]
        n = product(w)
        beta.append(np.sqrt(np.maximum(np.einsum("ik,ik->k", w, n), 0.0)))
        done = np.all(beta[-1] < 1e-12)
        if step % 10 == 0 or done:
            factor = _root_factors(np.array(alpha), np.array(beta[:-1]))
            change = np.linalg.norm(factor - np.pad(known, ((0, 0), (0, step - known.shape[1]))), axis=1)
            if np.all(change <= accuracy * np.linalg.norm(factor, axis=1)) or done:
                return np.asarray(size * sum(factor[:, n] * vector for n, vector in enumerate(basis)))
            known = factor
        least = beta[-1] > 1e-12
        basis.append(np.divide(w, beta[-1], out=np.zeros_like(w), where=least))
        n = np.divide(n, beta[-1], out=np.zeros_like(n), where=least)
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
