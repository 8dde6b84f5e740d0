"""The unknowns of the photometric solution of one band, and how they make the terms that the tracts' equations speak of.

    zero point of a visit, beyond its preliminary one | gradient of a visit that is not photometric (mag per degree)
    flat of a detector in an epoch, of zero mean | its polynomials over the detector
    night: zero point of one second at airmass 1 | extinction of the night, per airmass
    colour: second-order extinction of the night, per airmass and magnitude of colour: factor X0 - X
    water: what water vapour adds in the red bands, per magnitude of colour: factor X^0.6 (as its lines saturate)
    reference colour: natural minus catalogue magnitude, per magnitude of colour

zero_point + prior - exposure = night - extinction (X - 1) holds for photometric visits with the scatter they show.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, diags_array

from pipelines.step2c.settings import Settings

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
#: Airmass exponent of water vapour's absorption (saturated lines: Burke et al. 2018, AJ 155, 41, use 0.6).
WATER_EXPONENT = 0.6


@dataclass(frozen=True)
class Visits:
    """What the solution knows of the visits of a band (V,), sorted; ``airmass`` NaN where unknown."""

    visit: IntArray
    day_obs: IntArray
    airmass: Array
    prior: Array
    exposure: Array
    extinction: Array
    known: Mask
    epoch: NDArray[np.str_]
    stars: IntArray
    excess: Array


@dataclass(frozen=True)
class Equations:
    """The normal equations of a band over its terms (T,): ``n11``, ``n1c``, ``ncc`` (T, T), right-hand sides ``r1``, ``rc`` (T,)."""

    kind: NDArray[np.str_]
    visit: IntArray
    epoch: NDArray[np.str_]
    detector: IntArray
    stars: IntArray
    weight: Array
    r1: Array
    rc: Array
    n11: csr_array
    n1c: csr_array
    ncc: csr_array
    shared: tuple[IntArray, IntArray, IntArray]


@dataclass
class Unknowns:
    """The unknowns in order, as parallel lists: ``kind`` and the visit, night, epoch and detector that name each (-1 or '')."""

    kind: list[str] = field(default_factory=list)
    visit: list[int] = field(default_factory=list)
    day_obs: list[int] = field(default_factory=list)
    epoch: list[str] = field(default_factory=list)
    detector: list[int] = field(default_factory=list)

    def add(self, kind: str, count: int, **names: Any) -> IntArray:
        """``count`` unknowns of a kind; returns their numbers."""
        first = len(self.kind)
        self.kind += [kind] * count
        for name, default in (("visit", -1), ("day_obs", -1), ("epoch", ""), ("detector", -1)):
            getattr(self, name).extend(np.asarray(names.get(name, [default] * count)).tolist())
        return np.arange(first, first + count)


@dataclass(frozen=True)
class Model:
    """``terms`` (T, P) and ``slopes`` (T, P) make value and colour slope of every term; ``facts`` (Q, P) are known to be ``target``
    (Q,) with ``error`` (Q,). ``zero``, ``night``, ``extinction``: numbers of those unknowns, by visit and by night (-1: none)."""

    unknowns: Unknowns
    terms: csr_array
    slopes: csr_array
    facts: csr_array
    target: Array
    error: Array
    zero: IntArray
    night: IntArray
    extinction: IntArray
    gradient: IntArray

    def system(self, equations: Equations) -> tuple[csr_array, Array]:
        """Normal matrix (P, P) and right-hand side (P,), prior knowledge included."""
        weight = diags_array(self.error**-2)
        cross = self.terms.T @ equations.n1c @ self.slopes
        matrix = self.terms.T @ equations.n11 @ self.terms + cross + cross.T + self.slopes.T @ equations.ncc @ self.slopes
        matrix = matrix + self.facts.T @ weight @ self.facts
        right = self.facts.T @ (weight @ self.target) - self.terms.T @ equations.r1 - self.slopes.T @ equations.rc
        return csr_array(matrix), np.asarray(right)


class _Facts:
    """Prior knowledge, collected: sums of value * unknown = target, each with an error."""

    def __init__(self) -> None:
        self.rows: list[IntArray] = []
        self.columns: list[IntArray] = []
        self.values: list[Array] = []
        self.targets: list[Array] = []
        self.errors: list[Array] = []
        self.count = 0

    def add(self, columns: list[tuple[IntArray, Any]], target: Any, error: Any) -> None:
        """One fact per row: unknowns with their factors, the target and the error (arrays of the same length, or numbers)."""
        size = len(columns[0][0])
        rows = np.arange(self.count, self.count + size)
        for number, value in columns:
            self.rows.append(rows)
            self.columns.append(np.asarray(number))
            self.values.append(np.broadcast_to(np.asarray(value, float), size))
        self.targets.append(np.broadcast_to(np.asarray(target, float), size))
        self.errors.append(np.broadcast_to(np.asarray(error, float), size))
        self.count += size

    def matrix(self, unknowns: int) -> csr_array:
        row, column, value = (np.concatenate(part) for part in (self.rows, self.columns, self.values))
        return csr_array((value, (row, column)), shape=(self.count, unknowns))


def make(band: str, visits: Visits, equations: Equations, photometric: Mask, spread: float, s: Settings) -> Model:
    """The model of a band, given which visits are ``photometric`` (V,) and how far those scatter about their nights (mag)."""
    u, facts = Unknowns(), _Facts()
    aired = np.isfinite(visits.airmass)
    air = np.where(aired, visits.airmass, 1.0)
    zero = u.add("zero_point", len(visits.visit), visit=visits.visit)
    facts.add([(zero, 1.0)], 0.0, np.where(visits.known & photometric, s.gauge, s.unmeasured))
    row, column, value = [np.flatnonzero(equations.kind == "zero_point")], [], []
    column.append(zero[np.searchsorted(visits.visit, equations.visit[row[0]])])
    value.append(np.ones(len(row[0])))
    gradient = np.full((2, len(visits.visit)), -1)
    for axis, kind in enumerate(("gradient_x", "gradient_y")):
        own = np.flatnonzero(equations.kind == kind)
        at = np.searchsorted(visits.visit, equations.visit[own])
        own, at = own[~photometric[at]], at[~photometric[at]]
        gradient[axis, at] = u.add(kind, len(own), visit=visits.visit[at])
        facts.add([(gradient[axis, at], 1.0)], 0.0, s.gradient)
        row.append(own), column.append(gradient[axis, at]), value.append(np.ones(len(own)))
    for kind in sorted({k for k in equations.kind.tolist() if k.startswith("flat")}):
        own = np.flatnonzero(equations.kind == kind)
        number = u.add(kind, len(own), epoch=equations.epoch[own], detector=equations.detector[own])
        facts.add([(number, 1.0)], 0.0, s.flat if kind == "flat" else s.shape)
        if kind == "flat":
            for epoch in np.unique(equations.epoch[own]):
                mine = number[equations.epoch[own] == epoch]
                facts.rows.append(np.full(len(mine), facts.count)), facts.columns.append(mine)
                facts.values.append(np.full(len(mine), 1.0 / len(mine)))
                facts.targets.append(np.zeros(1)), facts.errors.append(np.full(1, s.flat_mean))
                facts.count += 1
        row.append(own), column.append(number), value.append(np.ones(len(own)))
    nights, of_night = np.unique(visits.day_obs, return_inverse=True)
    slope_row, slope_column, slope_value = _colours(band, visits, equations, air, aired, nights, of_night, u, facts, s)
    clear = photometric & aired
    used = np.bincount(of_night, clear, len(nights)) > 0
    night, extinction = np.full(len(nights), -1), np.full(len(nights), -1)
    night[used] = u.add("night", int(used.sum()), day_obs=nights[used])
    extinction[used] = u.add("extinction", int(used.sum()), day_obs=nights[used])
    if used.any():
        nominal = np.zeros(len(nights))
        nominal[of_night] = visits.extinction
        facts.add([(extinction[used], 1.0)], nominal[used], s.extinction)
        facts.add(
            [(zero[clear], 1.0), (night[of_night[clear]], -1.0), (extinction[of_night[clear]], air[clear] - 1.0)],
            (visits.exposure - visits.prior)[clear], spread,
        )  # fmt: skip
    size, many = len(u.kind), len(equations.kind)
    parts = (np.concatenate(value), (np.concatenate(row), np.concatenate(column)))
    slopes = (np.concatenate(slope_value), (np.concatenate(slope_row), np.concatenate(slope_column)))
    return Model(
        u, csr_array(parts, shape=(many, size)), csr_array(slopes, shape=(many, size)), facts.matrix(size),
        np.concatenate(facts.targets), np.concatenate(facts.errors), zero, night[of_night], extinction[of_night], gradient,
    )  # fmt: skip


def _colours(
    band: str, visits: Visits, equations: Equations, air: Array, aired: Mask, nights: IntArray, of_night: IntArray,
    u: Unknowns, facts: _Facts, s: Settings,
) -> tuple[list[IntArray], list[IntArray], list[Array]]:  # fmt: skip
    """The unknowns that make the colour slopes of visits and of the reference catalogue: rows, columns, values."""
    rows: list[IntArray] = [np.zeros(0, np.int64)]
    columns: list[IntArray] = [np.zeros(0, np.int64)]
    values: list[Array] = [np.zeros(0)]
    own = np.flatnonzero(equations.kind == "zero_point")
    at = np.searchsorted(visits.visit, equations.visit[own])
    own, at = own[aired[at]], at[aired[at]]
    if not len(own) or not np.any(equations.ncc.diagonal()):
        return rows, columns, values
    for kind, error, factor in (("colour", s.colour, s.airmass - air), ("water", s.water, -(air**WATER_EXPONENT))):
        if kind == "water" and band not in s.water_bands:
            continue
        number = u.add(kind, len(nights), day_obs=nights)
        facts.add([(number, 1.0)], 0.0, error)
        rows.append(own), columns.append(number[of_night[at]]), values.append(factor[at])
    reference = np.flatnonzero(equations.kind == "reference")
    if len(reference):
        number = u.add("reference_colour", 1)
        facts.add([(number, 1.0)], 0.0, s.reference_colour_term)
        rows.append(reference), columns.append(np.repeat(number, len(reference))), values.append(np.ones(len(reference)))
    return rows, columns, values
