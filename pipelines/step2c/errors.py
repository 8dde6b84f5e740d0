"""What the inverse of the normal equations says of each detector of a visit: the variance of zero point, gradient and flat
together.

They share their stars, so their errors are not independent: gradients of few visits and the flats of their epoch can be known far
worse than the sum of both.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from pipelines.step2c.model import Equations, Model, Visits
from pipelines.step2c.normal import Solution
from pipelines.step2c.system import System

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Detectors:
    """Detectors of visits (B,): ``visit``, ``detector``, and the ``focal_plane`` of their camera."""

    visit: IntArray
    detector: IntArray
    focal_plane: pa.Table

    def place(self) -> tuple[Array, Array]:
        """Where they are in the focal plane (x, y), deg; 0 for those that it does not show."""
        known = self.focal_plane.sort_by("detector")
        if not known.num_rows:
            return np.zeros(len(self.detector)), np.zeros(len(self.detector))
        number = known["detector"].to_numpy()
        at = np.searchsorted(number, self.detector).clip(max=len(number) - 1)
        there = number[at] == self.detector
        return np.where(there, known["x0"].to_numpy()[at], 0.0), np.where(there, known["y0"].to_numpy()[at], 0.0)


def of_band(
    seen: Detectors, visits: Visits, component: IntArray, equations: Equations, model: Model, system: System, solution: Solution,
    flat_prior: float, cloud_structure: float,
) -> dict[str, Array]:  # fmt: skip
    """Of each detector of a visit (B,), mag^2:

    ``variance`` of its zero point, a^T C a with C the inverse of ``system`` (``solution``) and a = zero
    point + x, y times the gradient + flat; ``ofVisit`` and ``ofFlat``: the least that the variances of the visit's terms and of the
    flat could be, all else known; ``common``: of the mean of the component; ``structure``: of a detector by itself, as far as its
    weight allowed for that.
    """
    at, (x, y) = np.searchsorted(visits.visit, seen.visit), seen.place()
    flat = _flats(model, visits, at, seen.detector)
    first = len(solution.unknowns) - equations.few
    number = np.stack([model.zero, *model.gradient])
    inverse, covariance = _inverse(system.among, number), _covariance(solution, number)
    leaning = np.flatnonzero(model.gradient[0][at] >= 0)
    a = np.stack([np.ones(len(leaning)), x[leaning], y[leaning]], axis=1)
    own, variance = inverse[at, 0, 0], covariance[at, 0, 0]
    for result, of_visit in ((own, inverse), (variance, covariance)):
        result[leaning] = np.einsum("bi,bij,bj->b", a, of_visit[at[leaning]], a)
    there = np.flatnonzero(flat >= 0)
    variance[flat < 0] += flat_prior**2  # no star of the epoch tells of it
    variance[there] += solution.variances[flat[there]]
    variance[there] += 2.0 * solution.with_flats(model.zero)[at[there], flat[there] - first]
    for row, factor in zip(model.gradient, (x, y), strict=True):
        place = np.cumsum(row >= 0) - 1
        both = leaning[flat[leaning] >= 0]
        shared = solution.with_flats(row[row >= 0])
        variance[both] += 2.0 * factor[both] * shared[place[at[both]], flat[both] - first]
    common = _common(solution, model, component)
    return {
        "variance": np.maximum(variance, own), "ofVisit": own,
        "ofFlat": _own_flats(equations, model, flat_prior)[flat], "common": common[component][at],
        "structure": np.where(visits.clouded, cloud_structure**2, 0.0)[at],
    }  # fmt: skip


def _covariance(solution: Solution, number: IntArray) -> Array:
    """Covariance (V, 3, 3) of the unknowns ``number`` (3, V) of each visit; 0 for those it lacks."""
    block = np.zeros((number.shape[1], 3, 3))
    for k in range(3):
        for m in range(k + 1):
            both = np.flatnonzero((number[k] >= 0) & (number[m] >= 0))
            block[both, k, m] = block[both, m, k] = solution.covariance(number[k, both], number[m, both])
    return block


def _common(solution: Solution, model: Model, component: IntArray) -> Array:
    """Variance of the mean zero point of the visits of each component (K,). Where visits have few stars, thousands of these are
    one visit, of which it is the visit's own."""
    many = np.bincount(component)
    alone = many[component] == 1
    result = np.zeros(len(many))
    result[component[alone]] = solution.variances[model.zero[alone]]
    together = np.flatnonzero(many > 1)
    row = np.searchsorted(together, component[~alone])
    means = coo_array((1.0 / many[component[~alone]], (row, model.zero[~alone])), shape=(len(together), len(solution.unknowns)))
    result[together] = solution.variance(csr_array(means))
    return result


def _flats(model: Model, visits: Visits, at: IntArray, detector: IntArray) -> IntArray:
    """The unknown of the flat of each detector (B,) of the visits ``at``; -1: none."""
    u = model.unknowns
    known = {(u.epoch[n], u.detector[n]): n for n, kind in enumerate(u.kind) if kind == "flat"}
    epochs, of_epoch = np.unique(visits.epoch, return_inverse=True)
    detectors = np.unique(detector)
    number = np.array([[known.get((e, d), -1) for d in detectors.tolist()] for e in epochs.tolist()], np.int64)
    return np.asarray(number.reshape(len(epochs), len(detectors))[of_epoch[at], np.searchsorted(detectors, detector)])


def _inverse(matrix: csr_array, number: IntArray) -> Array:
    """Inverse (V, 3, 3) of what ``matrix`` says of the terms ``number`` (3, V) of each visit alone; 0 for those it lacks."""
    there = number >= 0
    block = np.zeros((number.shape[1], 3, 3))
    for k in range(3):
        for m in range(3):
            both = np.flatnonzero(there[k] & there[m])
            block[both, k, m] = np.asarray(matrix[number[k, both], number[m, both]]).ravel() if len(both) else 0.0
    missing = [there[k] for k in range(3)]
    for k in range(3):
        block[~missing[k], k, k] = 1.0
    return np.asarray(np.linalg.inv(block) * (there.T[:, :, None] & there.T[:, None, :]))


def _own_flats(equations: Equations, model: Model, prior: float) -> Array:
    """Variance (P + 1,) of each flat, all else known but that the mean of an epoch is zero; 0 for others; last, of flats that no
    star tells of: what is assumed of all."""
    u = model.unknowns
    weight = np.zeros(len(u.kind) + 1)
    own = np.flatnonzero(equations.kind == "flat")
    number = np.flatnonzero(np.asarray(u.kind) == "flat")
    weight[number] = np.diag(equations.flats)[own] + prior**-2
    epochs, of_epoch = np.unique(np.asarray(u.epoch)[number], return_inverse=True)
    total = np.bincount(of_epoch, weight[number], len(epochs))
    weight[number] = 1.0 / weight[number] - 1.0 / total[of_epoch]
    weight[-1] = prior**2
    return weight
