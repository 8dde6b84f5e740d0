"""The Cramer-Rao bound of a simulated survey: the least rms that an unbiased calibration of its data can have.

Fisher matrix of the level-1 model with the true variances, star magnitudes eliminated:
F = A^T W A - (A^T W B) (B^T W B + R)^-1 (B^T W A) + priors, B being the stars and R their references. Terms of an observation:
zero point of the visit, flat of (epoch, detector), night * (X - X0) * (c - c0), in z and y also night * sqrt(X) * (c - c0), a
gradient where there are clouds; of a reference star, its band's colour term. What is known beforehand is what the truth shows:
the scatter of flats, and of clear visits about zero point and extinction of their night. Nothing here uses the step's own code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array

from pipelines.simulate.photometric_conditions import Design
from pipelines.simulate.photometric_survey import Survey

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
AIRMASS, WATER_BANDS, WEAK = 1.2, ("z", "y"), 0.1


def bound(design: Design, survey: Survey, band: str) -> float:
    """Least rms (mag) of the zero points of a band's clear (visit, detector) pairs, their mean taken off."""
    rows, p = _rows(survey, band), design.pointings
    which = np.flatnonzero((p.band == band) & np.isin(p.visit, survey.truth["visit"].to_numpy()))
    which = which[np.argsort(p.visit[which])]
    visit = np.searchsorted(p.visit[which], rows["visit"])
    clear = _clear(survey, p.visit[which])
    x, night = p.airmass[which], np.unique(p.day_obs[which], return_inverse=True)[1]
    epoch = np.searchsorted(np.array(sorted(design.epochs)), p.day_obs[which], side="right")
    width, nights = len(design.mosaic.detectors), int(night.max()) + 1
    detector = np.searchsorted(design.mosaic.detectors, rows["detector"])
    colour = rows["colour"] - design.pivot
    terms = _Terms(len(visit))
    terms.add(visit, np.ones(len(visit)), len(which), WEAK)
    flats = terms.size
    terms.add(epoch[visit] * width + detector, np.ones(len(visit)), (len(design.epochs) + 1) * width, design.flat)
    terms.add(night[visit], (x[visit] - AIRMASS) * colour, nights, WEAK)
    if band in WATER_BANDS:
        terms.add(night[visit], np.sqrt(x[visit]) * colour, nights, WEAK)
    cloud = np.cumsum(~clear) - 1
    centre = design.mosaic.centres[detector]
    for k, pixel in enumerate((rows["x"], rows["y"])):
        place = centre[:, k] + (pixel - 0.5 * design.mosaic.pixels[k]) * design.mosaic.pixel_scale / 3600.0
        terms.add(cloud[visit], np.where(clear[visit], 0.0, place), int((~clear).sum()), WEAK)
    variance = rows["error"] ** 2 + design.floor**2 + np.where(clear[visit], 0.0, design.cloud_structure**2)
    fisher = _eliminated(terms, variance, rows, colour, design.reference_error)
    _zero_mean(fisher, flats, len(design.epochs) + 1, width)
    _nights(fisher, _visit_means(survey, p.visit[which]), clear, x, night)
    return _rms(fisher, _pairs(clear, epoch, width, flats, len(fisher)))


class _Terms:
    """Columns of the design matrix, family by family, with the error of what is known beforehand of each."""

    def __init__(self, rows: int) -> None:
        self.rows, self.size = rows, 0
        self.parts: list[tuple[IntArray, Array]] = []
        self.prior: list[Array] = []

    def add(self, column: IntArray, value: Array, count: int, error: float) -> None:
        self.parts.append((np.where(value == 0.0, 0, column) + self.size if count else np.zeros(self.rows, np.int64), value))
        self.prior.append(np.full(count, error**-2))
        self.size += count

    def matrix(self) -> csr_array:
        column = np.concatenate([c for c, _ in self.parts])
        value = np.concatenate([v for _, v in self.parts])
        row = np.tile(np.arange(self.rows), len(self.parts))
        return coo_array((value, (row, column)), shape=(self.rows, self.size)).tocsr()


def _rows(survey: Survey, band: str) -> dict[str, Any]:
    """Fitted observations of constant stars: star (index), visit, detector, x, y, error (mag), colour; ``referenced`` (stars,)."""
    stars = survey.tables["isolated_star"]
    fitted = stars.filter(pc.invert(stars["reserved"])).select(["isolatedStarId"])
    truth = survey.stars.filter(pc.equal(survey.stars["band"], band))
    truth = truth.filter(pc.invert(truth["variable"])).select(["isolatedStarId", "colour"])
    rows = survey.tables["isolated_star_association"]
    known = fitted.join(truth, "isolatedStarId", join_type="inner")
    rows = rows.filter(pc.equal(rows["band"], band)).join(known, "isolatedStarId", join_type="inner")
    ids, star = np.unique(rows["isolatedStarId"].to_numpy(), return_inverse=True)
    found: dict[str, Any] = {name: rows[name].to_numpy() for name in ("visit", "detector", "x", "y", "colour")}
    found["error"] = 2.5 / np.log(10.0) * rows["instFluxErr"].to_numpy() / rows["instFlux"].to_numpy()
    found["referenced"] = np.isin(ids, survey.tables["reference_star"]["reference_id"].to_numpy())
    return found | {"star": star}


def _clear(survey: Survey, visits: IntArray) -> NDArray[np.bool_]:
    covered = survey.truth.filter(pc.invert(survey.truth["photometric"]))["visit"].to_numpy()
    return np.asarray(~np.isin(visits, covered))


def _visit_means(survey: Survey, visits: IntArray) -> Array:
    """True zero points (V,), mean over detectors."""
    number = survey.truth["visit"].to_numpy()
    own = np.isin(number, visits)
    index = np.searchsorted(visits, number[own])
    return np.asarray(np.bincount(index, survey.truth["zero_point"].to_numpy()[own]) / np.bincount(index))


def _eliminated(terms: _Terms, variance: Array, rows: dict[str, Any], colour: Array, reference_error: float) -> Array:
    """Fisher matrix of the terms and, last, the colour term of the reference catalogue; priors included."""
    stars, count = rows["star"], len(rows["referenced"])
    a, w = terms.matrix(), 1.0 / variance
    b = coo_array((np.ones(len(w)), (np.arange(len(w)), stars)), shape=(len(w), count)).tocsr()
    reference = rows["referenced"] / reference_error**2
    of_star = np.zeros(count)
    of_star[stars] = colour
    u = (a.T @ diags_array(w) @ b).toarray()
    u = np.concatenate([u, (reference * of_star)[None, :]])
    size = terms.size + 1
    fisher = np.zeros((size, size))
    fisher[:-1, :-1] = (a.T @ diags_array(w) @ a).toarray()
    fisher[-1, -1] = np.sum(reference * of_star**2)
    fisher -= (u / (np.bincount(stars, w, count) + reference)) @ u.T
    return fisher + np.diag(np.concatenate([*terms.prior, [WEAK**-2]]))


def _zero_mean(fisher: Array, first: int, epochs: int, width: int) -> None:
    """Flats of an epoch have zero mean: a definition, as good as exact."""
    for epoch in range(epochs):
        own = slice(first + epoch * width, first + (epoch + 1) * width)
        fisher[own, own] += (1e-6 * width) ** -2


def _nights(fisher: Array, zero: Array, clear: NDArray[np.bool_], x: Array, night: IntArray) -> None:
    """Clear visits lie about a zero point and an extinction of their night, as closely as the truth shows: these eliminated."""
    model = np.zeros((len(x), 2 * (int(night.max()) + 1)))
    model[np.arange(len(x)), 2 * night], model[np.arange(len(x)), 2 * night + 1] = 1.0, x - 1.0
    model = model[clear]
    left = zero[clear] - model @ np.linalg.lstsq(model, zero[clear])[0]
    free = max(1, len(left) - model.shape[1])
    weight = free / max(float(left @ left), 1e-12)
    own = np.flatnonzero(clear)
    fisher[np.ix_(own, own)] += weight * (np.eye(len(own)) - model @ np.linalg.pinv(model))


def _pairs(clear: NDArray[np.bool_], epoch: IntArray, width: int, flats: int, size: int) -> Array:
    """Zero points of the clear (visit, detector) pairs as sums of the terms."""
    visit, detector = np.repeat(np.flatnonzero(clear), width), np.tile(np.arange(width), int(clear.sum()))
    sums = np.zeros((len(visit), size))
    sums[np.arange(len(visit)), visit] = 1.0
    sums[np.arange(len(visit)), flats + epoch[visit] * width + detector] = 1.0
    return np.asarray(sums - sums.mean(axis=0))


def _rms(fisher: Array, sums: Array) -> float:
    return float(np.sqrt(np.mean(np.sum(sums * np.linalg.solve(fisher, sums.T).T, axis=1))))
