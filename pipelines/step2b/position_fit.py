"""The least-squares problem of the astrometric fit: one smooth map per frame, star positions eliminated.

Observation j of star i on frame f lies at q_j + P(x_j) c_f, where q_j is its position by the preliminary WCS, P the
polynomial terms at its pixel and c_f the unknowns; the star is at s_i. With weights w_j and, where the reference
catalogue knows the star, an observation of weight v_i without unknowns,

    chi^2 = sum_j w_j |q_j + P_j c_f - s_i|^2 + sum_i v_i |r_i - s_i|^2 + prior |c|^2.

Every s_i is eliminated (Schur complement), as in Bernstein et al. 2017 (PASP 129, 074503); the normal equations in c are
solved by conjugate gradients with the frames' own blocks as preconditioner, never formed. Both coordinates share them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from pipelines.wcs import polynomial_terms

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]

#: Fewest stars on a frame for a correction of order 0, 1, 2, 3, ...: four times the number of coefficients.
STARS_NEEDED = tuple(4 * len(polynomial_terms(order)) for order in range(8))


@dataclass(frozen=True)
class Problem:
    """``frame``, ``star`` (N,) indices; ``terms`` (N, K) polynomial values; ``position`` (N, 2) and ``reference`` (S, 2) arcsec;
    ``weight`` (N,) and ``reference_weight`` (S,) 1/arcsec^2, zero for what must not count; ``prior`` (F, K) 1/arcsec^2."""

    frame: IntArray
    star: IntArray
    terms: Array
    position: Array
    weight: Array
    reference: Array
    reference_weight: Array
    prior: Array

    def design(self) -> csr_array:
        """(N, F * K): row j holds P_j in the columns of its frame."""
        count, terms = self.terms.shape
        columns = self.frame[:, None] * terms + np.arange(terms)
        return csr_array(
            (self.terms.ravel(), columns.ravel(), np.arange(count + 1) * terms), shape=(count, self.prior.size)
        )

    def star_means(self, value: Array) -> Array:
        """Weighted means (S, 2) over the observations of each star and its reference; NaN where nothing counts."""
        total = self.reference_weight + np.bincount(self.star, self.weight, len(self.reference_weight))
        top = [
            np.bincount(self.star, self.weight * value[:, k], len(total)) + self.reference_weight * self.reference[:, k]
            for k in range(2)
        ]
        return np.stack(top, axis=1) / np.where(total > 0, total, np.nan)[:, None]


def terms_of(x: Array, y: Array, order: int) -> Array:
    """Polynomial terms (N, K) of pixel coordinates scaled to about [-1, 1]."""
    return np.stack([x**p * y**q for p, q in polynomial_terms(order)], axis=1)


def allowed(stars: IntArray, order: int) -> Mask:
    """Which coefficients (F, K) a frame with so many stars can bear."""
    degree = np.array([p + q for p, q in polynomial_terms(order)])
    return stars[:, None] >= np.array(STARS_NEEDED)[degree]


def solve(problem: Problem, start: Array | None = None, tolerance: float = 1e-8, limit: int = 400) -> Array:
    """The coefficients (F, K, 2) in arcsec, by conjugate gradients to a relative residual of ``tolerance``."""
    design = problem.design()
    transposed = design.T.tocsr()
    stars = len(problem.reference_weight)
    total = problem.reference_weight + np.bincount(problem.star, problem.weight, stars)
    inverse = np.divide(1.0, total, out=np.zeros_like(total), where=total > 0)
    prior = problem.prior.ravel()[:, None]
    weight = problem.weight[:, None]
    # grouping as a product, rows in order: the sum over a star's observations has one fixed order
    gather = csr_array((np.ones(len(problem.star)), problem.star, np.arange(len(problem.star) + 1)), shape=(len(weight), stars))
    scatter = gather.T.tocsr()

    def eliminated(value: Array, known: Array) -> Array:
        """A^T W (value - star), the star being the mean of value over its observations and of ``known``."""
        star = (scatter @ (weight * value) + known) * inverse[:, None]
        return np.asarray(transposed @ (weight * (value - gather @ star)))

    nothing = np.zeros((stars, 2))
    right = -eliminated(problem.position, problem.reference_weight[:, None] * problem.reference)
    c = np.zeros((design.shape[1], 2)) if start is None else start.reshape(-1, 2).copy()
    blocks = _inverse_blocks(problem, inverse)
    residual = right - eliminated(design @ c, nothing) - prior * c
    z = _apply(blocks, residual)
    direction, rho = z.copy(), (residual * z).sum(axis=0)
    goal = tolerance**2 * (right * _apply(blocks, right)).sum(axis=0)
    for _ in range(limit):
        if np.all(rho <= goal):
            break
        image = eliminated(design @ direction, nothing) + prior * direction
        step = np.divide(rho, (direction * image).sum(axis=0), out=np.zeros(2), where=rho > goal)
        c += step * direction
        residual -= step * image
        z = _apply(blocks, residual)
        new = (residual * z).sum(axis=0)
        direction = z + np.divide(new, rho, out=np.zeros(2), where=rho > 0) * direction
        rho = new
    return c.reshape(*problem.prior.shape, 2)


def _inverse_blocks(problem: Problem, inverse: Array) -> Array:
    """Inverses (F, K, K) of each frame's own block of the normal equations."""
    frames, terms = problem.prior.shape
    weight = problem.weight * (1.0 - problem.weight * inverse[problem.star])
    order = np.argsort(problem.frame, kind="stable")
    bounds = np.searchsorted(problem.frame[order], np.arange(frames + 1))
    blocks = np.empty((frames, terms, terms))
    for f in range(frames):
        own = order[bounds[f] : bounds[f + 1]]
        rows = problem.terms[own]
        blocks[f] = rows.T @ (rows * weight[own, None]) + np.diag(problem.prior[f])
    return np.linalg.inv(blocks)


def _apply(blocks: Array, vector: Array) -> Array:
    frames, terms, _ = blocks.shape
    return np.einsum("fij,fjk->fik", blocks, vector.reshape(frames, terms, 2)).reshape(-1, 2)


def components(problem: Problem) -> IntArray:
    """The connected component of each frame (F,): frames are connected through the stars that count on both."""
    frames, stars = len(problem.prior), len(problem.reference_weight)
    use = problem.weight > 0
    edges = csr_array(
        (np.ones(int(use.sum()), np.int8), (problem.frame[use], frames + problem.star[use])), shape=(frames + stars,) * 2
    )
    return np.asarray(connected_components(edges, directed=False)[1][:frames], np.int64)
