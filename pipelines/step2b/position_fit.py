"""The least-squares problem of the astrometric fit: corrections at three levels, star positions eliminated.

Observation j of star i is seen at q_j by the chain of preliminary maps; the corrections of its detector, its visit and its
frame move it by A_j c; the star is at s_i. Positions in the tangent plane are complex numbers, xi + i eta, so that a
detector's correction turns with the rotation of the visit by a factor of modulus 1 in A. With weights w_j, and v_i for a
star that the reference catalogue places at r_i,

    chi^2 = sum_j w_j |q_j + A_j c - s_i|^2 + sum_i v_i |r_i - s_i|^2 + sum_k prior_k |c_k|^2.

Every s_i is eliminated (Schur complement); the normal equations in c are solved by conjugate gradients with the blocks of
single detectors, visits and frames as preconditioner, and are never formed. Priors keep c finite where the levels overlap;
they make the frame's own map small, so that a frame with few stars follows its detector and its visit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, hstack
from scipy.sparse.csgraph import connected_components

Array = NDArray[np.float64]
Complex = NDArray[np.complex128]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Level:
    """One level of corrections: ``index`` (N,) which of ``count`` maps an observation has, ``terms`` (N, K) its polynomial
    terms, ``phase`` (N,) what turns them to the sky, ``prior`` (1/arcsec^2) on each coefficient."""

    index: IntArray
    count: int
    terms: Array
    phase: Complex
    prior: float

    def design(self) -> csr_array:
        """(N, count * K): row j holds its terms in the columns of its map."""
        rows, k = self.terms.shape
        columns = self.index[:, None] * k + np.arange(k)
        values = (self.phase[:, None] * self.terms).ravel()
        return csr_array((values, columns.ravel(), np.arange(rows + 1) * k), shape=(rows, self.count * k))

    def inverse_blocks(self, weight: Array) -> Array:
        """Inverses (count, K, K) of the maps' own blocks of the normal equations."""
        k = self.terms.shape[1]
        order = np.argsort(self.index, kind="stable")
        bounds = np.searchsorted(self.index[order], np.arange(self.count + 1))
        blocks = np.empty((self.count, k, k))
        for i in range(self.count):
            own = order[bounds[i] : bounds[i + 1]]
            blocks[i] = self.terms[own].T @ (self.terms[own] * weight[own, None]) + self.prior * np.eye(k)
        return np.asarray(np.linalg.inv(blocks), np.float64)


@dataclass(frozen=True)
class Problem:
    """``levels`` of corrections; ``frame``, ``star`` (N,) indices; ``position`` (N,) and ``reference`` (S,) complex arcsec;
    ``weight`` (N,) and ``reference_weight`` (S,) 1/arcsec^2, zero for what must not count."""

    levels: tuple[Level, ...]
    frame: IntArray
    star: IntArray
    position: Complex
    weight: Array
    reference: Complex
    reference_weight: Array

    def star_weight(self) -> Array:
        """Total weight (S,) of each star."""
        stars = len(self.reference_weight)
        return self.reference_weight + np.bincount(self.star, self.weight, stars)

    def star_means(self, value: Complex) -> Complex:
        """Weighted means (S,) over the observations of each star and its reference; NaN where nothing counts."""
        total, weighted = self.star_weight(), self.weight * value
        top = np.bincount(self.star, weighted.real, len(total)) + 1.0j * np.bincount(self.star, weighted.imag, len(total))
        top += self.reference_weight * self.reference
        return np.asarray(np.divide(top, total, out=np.full(len(total), complex(np.nan, np.nan)), where=total > 0))


def solve(problem: Problem, start: Complex | None = None, tolerance: float = 1e-5, limit: int = 300) -> tuple[Complex, Complex]:
    """The coefficients, level by level, and the correction (N,) of every observation, arcsec.

    Conjugate gradients from ``start`` until the residual, in the norm of the preconditioner, fell by ``tolerance``.
    """
    design = hstack([level.design() for level in problem.levels], format="csr")
    adjoint = design.conj().T.tocsr()
    rows, stars = len(problem.star), len(problem.reference_weight)
    total = problem.star_weight()
    inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    # grouping as a sparse product: the sum over a star's observations is in the order of the rows
    gather = csr_array((np.ones(rows), problem.star, np.arange(rows + 1)), shape=(rows, stars))
    scatter = gather.T.tocsr()
    prior = np.concatenate([np.full(level.count * level.terms.shape[1], level.prior) for level in problem.levels])
    own = problem.weight * (1.0 - problem.weight * inverse[problem.star])
    blocks = [level.inverse_blocks(own) for level in problem.levels]

    def eliminated(value: Complex, known: Complex | float) -> Complex:
        """A^H W (value - star), the star being the mean of value over its observations and of what is ``known``."""
        star = (scatter @ (problem.weight * value) + known) * inverse
        return np.asarray(adjoint @ (problem.weight * (value - gather @ star)))

    right = -eliminated(problem.position, problem.reference_weight * problem.reference)
    c = np.zeros(len(prior), complex) if start is None else start.copy()
    residual = right - eliminated(design @ c, 0.0) - prior * c
    goal = tolerance**2 * _dot(right, _preconditioned(blocks, right))
    z = _preconditioned(blocks, residual)
    direction, rho = z, _dot(residual, z)
    for _ in range(limit):
        if rho <= goal:
            break
        image = eliminated(design @ direction, 0.0) + prior * direction
        step = rho / _dot(direction, image)
        c, residual = c + step * direction, residual - step * image
        z = _preconditioned(blocks, residual)
        rho, last = _dot(residual, z), rho
        direction = z + (rho / last) * direction
    return c, np.asarray(design @ c)


def _dot(a: Complex, b: Complex) -> float:
    return float(np.sum(a.real * b.real + a.imag * b.imag))


def _preconditioned(blocks: list[Array], vector: Complex) -> Complex:
    parts, at = [], 0
    for inverse in blocks:
        n, k = inverse.shape[:2]
        parts.append(np.einsum("nij,nj->ni", inverse, vector[at : at + n * k].reshape(n, k)).ravel())
        at += n * k
    return np.concatenate(parts)


def components(problem: Problem, frames: int) -> IntArray:
    """The connected component of each frame (F,): frames are connected through the stars that count on both."""
    use = problem.weight > 0
    size = frames + len(problem.reference_weight)
    edges = csr_array((np.ones(int(use.sum()), np.int8), (problem.frame[use], frames + problem.star[use])), shape=(size, size))
    return np.asarray(connected_components(edges, directed=False)[1][:frames], np.int64)
