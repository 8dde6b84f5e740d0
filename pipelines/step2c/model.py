"""The unknowns of the photometric solution of one band, and how they make the terms that the tracts' equations speak of.

    zero point of a visit, beyond its nominal one | gradient of a visit that is not photometric (mag per degree)
    flat of a detector in an epoch, of zero mean | its polynomials over the detector
    night: zero point of one second at airmass 1, in the mean of its visits | extinction of the night, per airmass
    drift: by how much that zero point is larger at the end of a part of the night than at its begin
    colour: second-order extinction of the night, per airmass and magnitude of colour: factor X0 - X
    water: what water vapour adds in the red bands, per magnitude of colour: factor X^0.6 (as its lines saturate)
    reference colour: natural minus catalogue magnitude, per magnitude of colour

zero_point + nominal - exposure = night - extinction (X - 1) + drift so far holds for photometric visits with the scatter they
show; drifts are those of a random walk of the size that they show. Air drifts within a night, most of all its water.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array, diags_array

from pipelines.step2c.settings import Settings
from pipelines.step2c.system import System

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
#: Airmass exponent of water vapour's absorption (saturated lines: Burke et al. 2018, AJ 155, 41, use 0.6).
WATER_EXPONENT = 0.6
#: Hours of a part of a night in which its drift is taken for even, at most.
PART = 3.0


@dataclass(frozen=True)
class Visits:
    """What the solution knows of the visits of a band (V,), sorted; ``airmass`` and ``mjd`` NaN where unknown; ``clouded``:
    weighted as under clouds."""

    visit: IntArray
    day_obs: IntArray
    epoch: NDArray[np.str_]
    clouded: Mask
    airmass: Array
    mjd: Array
    prior: Array
    nominal: Array
    exposure: Array
    extinction: Array
    known: Mask
    stars: IntArray
    excess: Array


@dataclass(frozen=True)
class Equations:
    """The normal equations of a band over its terms (T,), those of the F = ``few`` flats first, then M = T - F of visits and the
    reference catalogue: ``flats`` (F, F), ``between11``, ``between1c`` (M, F), ``visits11``, ``visits1c``, ``visitscc`` (M, M);
    right-hand sides ``r1``, ``rc`` (T,). ``stars`` (T,): observations; ``references`` (T,): those of stars of the reference
    catalogue."""

    kind: NDArray[np.str_]
    visit: IntArray
    epoch: NDArray[np.str_]
    detector: IntArray
    stars: IntArray
    references: IntArray
    r1: Array
    rc: Array
    few: int
    flats: Array
    between11: Array
    between1c: Array
    visits11: csr_array
    visits1c: csr_array
    visitscc: csr_array


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

    def names(self) -> Iterator[tuple[str, int, int, str, int]]:
        """What each unknown is, in order."""
        return zip(self.kind, self.visit, self.day_obs, self.epoch, self.detector, strict=True)


@dataclass(frozen=True)
class Model:
    """The unknowns (P,), those of the F flats last. ``terms`` and ``slopes`` (M, P - F) make value and colour slope of the terms of
    visits; ``facts`` (Q, P) are known: ``target`` (Q,) with ``error`` (Q,). ``scatter``: which facts are those of the settings
    ``night``, ``drift`` and ``flat``. ``steps`` (V, P) make how far visits lie above their nights, by ``level`` (V,) more: NaN
    where unknown. ``zero`` (V,), ``gradient`` (2, V): their numbers, by visit; -1: none. Zero points and gradients,
    ``of_visits``, come first."""

    unknowns: Unknowns
    terms: csr_array
    slopes: csr_array
    facts: csr_array
    target: Array
    error: Array
    scatter: dict[str, IntArray]
    steps: csr_array
    level: Array
    zero: IntArray
    gradient: IntArray
    of_visits: int

    def normal(self, e: Equations) -> tuple[System, Array]:
        """Normal equations of the unknowns, prior knowledge included, and the right-hand side (P,). No fact ties a flat to what is
        not a flat."""
        rest, weight = len(self.unknowns.kind) - e.few, diags_array(self.error**-2)
        known = csr_array(self.facts.T @ weight @ self.facts)
        terms, slopes = csr_array(self.terms.T), csr_array(self.slopes.T)  # by rows, so that what is large is not turned
        cross = csr_array(terms @ (e.visits1c @ self.slopes))
        of_few = cross + csr_array(cross.T) + csr_array(slopes @ (e.visitscc @ self.slopes)) + known[:rest, :rest]
        among = csr_array(terms @ (e.visits11 @ self.terms)) + of_few
        between = terms @ e.between11
        between += slopes @ e.between1c
        right = self.facts.T @ (weight @ self.target)
        right[:rest] -= terms @ e.r1[e.few :] + slopes @ e.rc[e.few :]
        right[rest:] -= e.r1[: e.few]
        system = System(csr_array(among), between, e.flats + known[rest:, rest:].toarray())
        return system, np.asarray(right)


class _Entries:
    """The entries of a sparse matrix, collected in parts."""

    def __init__(self) -> None:
        self._parts: list[tuple[IntArray, IntArray, Array]] = []

    def add(self, rows: IntArray, columns: IntArray, values: Any = 1.0) -> None:
        """Entries at rows and columns; a single value stands for all."""
        self._parts.append((rows, columns, np.broadcast_to(np.asarray(values, float), len(rows))))

    def matrix(self, rows: int, columns: int) -> csr_array:
        if not self._parts:
            return csr_array((rows, columns))
        row, column, value = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        return csr_array((value, (row, column)), shape=(rows, columns))


class _Facts:
    """Prior knowledge, collected: sums of value * unknown = target, each with an error."""

    def __init__(self) -> None:
        self.entries = _Entries()
        self.targets: list[Array] = []
        self.errors: list[Array] = []
        self.count = 0

    def add(self, factors: list[tuple[IntArray, Any]], target: Any, error: Any) -> IntArray:
        """One fact per element: unknowns with their factors, the target and the error (arrays of the same length, or numbers).
        Returns the facts' numbers."""
        size = len(factors[0][0])
        for number, value in factors:
            self.entries.add(np.arange(self.count, self.count + size), number, value)
        return self._known(size, target, error)

    def add_rows(self, rows: csr_array, target: Any, error: Any) -> IntArray:
        """One fact per row of a matrix. Returns the facts' numbers."""
        entries = rows.tocoo()
        self.entries.add(self.count + entries.coords[0], entries.coords[1], entries.data)
        return self._known(rows.shape[0], target, error)

    def add_mean(self, numbers: IntArray, error: float) -> None:
        """The mean of some unknowns is zero."""
        self.entries.add(np.full(len(numbers), self.count), numbers, 1.0 / len(numbers))
        self._known(1, 0.0, error)

    def _known(self, size: int, target: Any, error: Any) -> IntArray:
        self.targets.append(np.broadcast_to(np.asarray(target, float), size))
        self.errors.append(np.broadcast_to(np.asarray(error, float), size))
        self.count += size
        return np.arange(self.count - size, self.count)


def make(band: str, visits: Visits, equations: Equations, photometric: Mask, s: Settings) -> Model:
    """The model of a band, given which visits are ``photometric`` (V,), and with them how far visits scatter about their nights,
    nights drift and detectors differ (``s``)."""
    u, facts, terms = Unknowns(), _Facts(), _Entries()
    many = len(equations.kind) - equations.few
    zero = u.add("zero_point", len(visits.visit), visit=visits.visit)
    facts.add([(zero, 1.0)], visits.prior - visits.nominal, np.where(visits.known & photometric, s.gauge, s.unmeasured))
    own, at = _of_visits(visits, equations, "zero_point")
    terms.add(own, zero[at])
    gradient = np.full((2, len(visits.visit)), -1)
    for axis, kind in enumerate(("gradient_x", "gradient_y")):
        own, at = _of_visits(visits, equations, kind)
        own, at = own[~photometric[at]], at[~photometric[at]]
        gradient[axis, at] = u.add(kind, len(own), visit=visits.visit[at])
        facts.add([(gradient[axis, at], 1.0)], 0.0, s.gradient)
        terms.add(own, gradient[axis, at])
    of_visits = len(u.kind)
    slopes = _colours(band, visits, equations, u, facts, s)
    above, drifts = _nights(visits, zero, photometric, u, facts, s)
    rest = len(u.kind)
    flats = _flats(equations, u, facts, s)
    steps = above.matrix(len(visits.visit), len(u.kind))
    level = np.where(np.diff(steps.indptr) > 0, visits.nominal - visits.exposure, np.nan)
    own = np.flatnonzero(photometric & np.isfinite(level))
    scatter = {"night": facts.add_rows(steps[own], -level[own], s.night), "drift": drifts, "flat": flats}
    return Model(
        u, terms.matrix(many, rest), slopes.matrix(many, rest), facts.entries.matrix(facts.count, len(u.kind)),
        np.concatenate(facts.targets), np.concatenate(facts.errors), scatter, steps, level, zero, gradient, of_visits,
    )  # fmt: skip


def _of_visits(visits: Visits, equations: Equations, kind: str) -> tuple[IntArray, IntArray]:
    """Terms of a kind, numbered after the flats, and the places of their visits."""
    own = np.flatnonzero(equations.kind == kind)
    return own - equations.few, np.searchsorted(visits.visit, equations.visit[own])


def _flats(equations: Equations, u: Unknowns, facts: _Facts, s: Settings) -> IntArray:
    """Flats and their polynomials: unknowns that are terms themselves, in the order of those. Returns what is known of flats."""
    kinds = equations.kind[: equations.few]
    scatter = np.zeros(0, np.int64)
    for kind in sorted(set(kinds.tolist())):
        own = np.flatnonzero(kinds == kind)
        number = u.add(kind, len(own), epoch=equations.epoch[own], detector=equations.detector[own])
        known = facts.add([(number, 1.0)], 0.0, s.flat if kind == "flat" else s.shape)
        if kind == "flat":
            scatter = known
            for epoch in np.unique(equations.epoch[own]):
                facts.add_mean(number[equations.epoch[own] == epoch], s.flat_mean)
    return scatter


def _colours(band: str, visits: Visits, equations: Equations, u: Unknowns, facts: _Facts, s: Settings) -> _Entries:
    """The unknowns that make the colour slopes of visits and of the reference catalogue."""
    slopes = _Entries()
    own, at = _of_visits(visits, equations, "zero_point")
    known = np.isfinite(visits.airmass[at])
    own, at = own[known], at[known]
    if not len(own) or not np.any(equations.visitscc.diagonal()):
        return slopes
    nights, of_night = np.unique(visits.day_obs, return_inverse=True)
    air = visits.airmass[at]
    for kind, error, factor in (("colour", s.colour, s.airmass - air), ("water", s.water, -(air**WATER_EXPONENT))):
        if kind == "colour" or band in s.water_bands:
            number = u.add(kind, len(nights), day_obs=nights)
            facts.add([(number, 1.0)], 0.0, error)
            slopes.add(own, number[of_night[at]], factor)
    reference = np.flatnonzero(equations.kind[equations.few :] == "reference")
    if len(reference):
        number = u.add("reference_colour", 1)
        facts.add([(number, 1.0)], 0.0, s.reference_colour_term)
        slopes.add(reference, np.repeat(number, len(reference)))
    return slopes


def _nights(
    visits: Visits, zero: IntArray, photometric: Mask, u: Unknowns, facts: _Facts, s: Settings
) -> tuple[_Entries, IntArray]:
    """Zero point, extinction and drift of the nights that have photometric visits: what makes how far visits lie above them, and
    what is known of drifts."""
    nights, of_night = np.unique(visits.day_obs, return_inverse=True)
    known = np.isfinite(visits.airmass)
    used = np.bincount(of_night, photometric & known, len(nights)) > 0
    night, extinction = np.full(len(nights), -1), np.full(len(nights), -1)
    night[used] = u.add("night", int(used.sum()), day_obs=nights[used])
    extinction[used] = u.add("extinction", int(used.sum()), day_obs=nights[used])
    nominal = np.zeros(len(nights))
    nominal[of_night] = visits.extinction
    facts.add([(extinction[used], 1.0)], nominal[used], s.extinction)
    own, steps = np.flatnonzero(known & used[of_night]), _Entries()
    steps.add(own, zero[own])
    steps.add(own, night[of_night[own]], -1.0)
    steps.add(own, extinction[of_night[own]], visits.airmass[own] - 1.0)
    timed = own[np.isfinite(visits.mjd[own])] if s.drift > 0 else own[:0]
    return steps, _drifts(visits, timed, of_night, u, facts, steps, s)


def _drifts(
    visits: Visits, own: IntArray, of_night: IntArray, u: Unknowns, facts: _Facts, steps: _Entries, s: Settings
) -> IntArray:
    """The drift of each part of a night, as far as it is done at each of the visits ``own``, less its mean over the night's."""
    begin, end = (own[k] for k in _parts(of_night[own], visits.mjd[own]))
    hours = 24.0 * (visits.mjd[end] - visits.mjd[begin])
    drift = u.add("drift", len(begin), day_obs=visits.day_obs[begin], visit=visits.visit[begin])
    one, part = same(of_night[own], of_night[begin])
    done = np.clip(24.0 * (visits.mjd[own[one]] - visits.mjd[begin[part]]) / hours[part], 0.0, 1.0)
    mean = np.bincount(part, done, len(begin)) / np.maximum(np.bincount(part, minlength=len(begin)), 1)
    steps.add(own[one], drift[part], mean[part] - done)
    return facts.add([(drift, 1.0)], 0.0, s.drift * np.sqrt(hours))


def same(a: IntArray, b: IntArray) -> tuple[IntArray, IntArray]:
    """Pairs (N,), (N,) of places in two arrays of numbers >= 0 (K,), (M,) whose numbers are the same."""
    size = int(max(a.max(initial=-1), b.max(initial=-1))) + 1
    one, other = (csr_array((np.ones(len(k)), (np.arange(len(k)), k)), shape=(len(k), size)) for k in (a, b))
    first, second = coo_array(one @ other.T).coords
    return np.asarray(first, np.int64), np.asarray(second, np.int64)


def _parts(night: IntArray, mjd: Array) -> tuple[IntArray, IntArray]:
    """The visits with which parts of nights begin and end (S,), in order, of visits of ``night`` at ``mjd`` (K,)."""
    order = np.lexsort((mjd, night))
    night, mjd = night[order], mjd[order]
    _, first, of_night, count = np.unique(night, return_index=True, return_inverse=True, return_counts=True)
    last = (first + count - 1)[of_night]
    past, whole = mjd - mjd[first[of_night]], mjd[last] - mjd[first[of_night]]
    parts = np.maximum(np.ceil(24.0 * whole / PART), 1.0)
    number = np.minimum(np.floor(past * parts / np.where(whole > 0, whole, 1.0)), parts - 1.0)
    begin = np.flatnonzero((np.diff(night, prepend=-1) != 0) | (np.diff(number, prepend=-1.0) != 0))
    end = np.minimum(np.append(begin[1:], len(night)), last[begin])
    longer = mjd[end] > mjd[begin]
    return order[begin[longer]], order[end[longer]]
