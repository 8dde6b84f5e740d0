"""Which site processes which tract: the footprint in declination bands, dealt out to the sites in turn.

Two bands for each site, one in the south and one in the north, give every site work in every season. The published plan
has bands of equal width, which do not give the sites the shares they signed up for: a band of equal width holds more
sky the nearer it is to the equator, and the shares are not equal.
``weighted_bands`` keeps order and number of the bands and moves their edges until it does.

A plan is fixed for the life of a survey. When a site goes offline its tracts, and no others, are given to the rest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from pipelines.skymap import RingsSkyMap

#: The published order of the bands, from the south.
SEQUENCE = ("LANCS", "FRDF", "RAL", "USDF", "LANCS", "FRDF", "RAL", "USDF")
#: Shares of the work that the sites signed up for.
SHARES = {"USDF": 0.35, "FRDF": 0.40, "LANCS": 0.10, "RAL": 0.15}


class ZoneError(ValueError):
    """A plan that cannot be made, or a tract or site that it does not know."""


@dataclass(frozen=True, eq=False)
class ZonePlan:
    """Tracts in order with the site and the band (0 in the south) of each, and the ``weight`` (work) they stand for."""

    skymap: RingsSkyMap
    sites: tuple[str, ...]
    tract: NDArray[np.int64]
    site: NDArray[np.str_]
    band: NDArray[np.int64]
    weight: NDArray[np.float64]

    def site_of(self, tracts: ArrayLike) -> NDArray[np.str_]:
        """The site of each tract; ZoneError names the first that is not in the footprint."""
        wanted = np.asarray(tracts, np.int64)
        place = np.minimum(np.searchsorted(self.tract, wanted), len(self.tract) - 1)
        missing = self.tract[place] != wanted
        if np.any(missing):
            raise ZoneError(f"tract {int(wanted[missing].flat[0])} is not in the footprint of this plan")
        return np.asarray(self.site[place])

    def tracts_of(self, site: str) -> NDArray[np.int64]:
        """The tracts of one site, in order; ZoneError if the plan does not know the site."""
        if site not in self.sites:
            raise ZoneError(f"no site {site!r} in this plan; known: {', '.join(sorted(self.sites))}")
        return np.asarray(self.tract[self.site == site])

    def shares(self) -> dict[str, float]:
        """The share of the work that each site gets; they add up to 1."""
        return {site: float(self.weight[self.site == site].sum() / self.weight.sum()) for site in self.sites}

    def bands(self) -> pa.Table:
        """One row per (band, site) from the south: declination range (ring edges), tracts, and share of the work."""
        _, _, south, north = self.skymap.inner_bounds(self.tract)
        rows = []
        for band in np.unique(self.band):
            for site in self.sites:
                mine = (self.band == band) & (self.site == site)
                if mine.any():
                    share = float(self.weight[mine].sum() / self.weight.sum())
                    limits = (float(south[mine].min()), float(north[mine].max()))
                    rows.append((int(band), site, *limits, int(mine.sum()), share))
        names = ("band", "site", "dec_min", "dec_max", "tracts", "share")
        return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))

    def assignment(self) -> pa.Table:
        """One row per tract, in order: skymap, tract, site, band."""
        columns = {"skymap": pa.repeat(self.skymap.name, len(self.tract)), "tract": pa.array(self.tract, pa.int32())}
        return pa.table({**columns, "site": pa.array(self.site.tolist()), "band": pa.array(self.band, pa.int32())})

    def without(self, offline: str, shares: Mapping[str, float] = SHARES) -> ZonePlan:
        """The plan when a site is offline: its tracts go to the others, each of which is filled up to its part of the
        remaining shares, in runs of neighbouring tracts; no other tract moves. Bands keep their numbers."""
        lost = np.isin(self.tract, self.tracts_of(offline))
        rest = tuple(site for site in self.sites if site != offline)
        if not rest:
            raise ZoneError(f"{offline} is the only site of this plan: nobody can take its tracts")
        wanted = _normalised(shares, rest)
        total = self.weight.sum()
        room = np.array([max(0.0, wanted[s] * total - self.weight[self.site == s].sum()) for s in rest])
        if not room.any():  # only where the lost tracts stand for no work at all
            room = np.array([wanted[s] for s in rest])
        site = self.site.copy()
        for band in np.unique(self.band[lost]):
            run = lost & (self.band == band)
            site[run] = np.array(rest)[_cut(self.weight[run], room)]
        return ZonePlan(self.skymap, rest, self.tract, site, self.band, self.weight)


def published_bands(
    skymap: RingsSkyMap, tracts: ArrayLike, sequence: Sequence[str] = SEQUENCE, weight: ArrayLike | None = None
) -> ZonePlan:
    """Bands of equal width in declination over the footprint ``tracts`` (N,); the centre of a tract decides.

    ``weight`` (N,) is the work that each tract stands for (for instance its visits), 1 each if not given.
    """
    number, work = _footprint(tracts, weight)
    _, _, south, north = skymap.inner_bounds(number)
    height = (north.max() - south.min()) / len(sequence)
    band = np.floor((skymap.tract_centre(number)[1] - south.min()) / height).astype(np.int64)
    return _plan(skymap, number, np.clip(band, 0, len(sequence) - 1), sequence, work)


def weighted_bands(
    skymap: RingsSkyMap,
    tracts: ArrayLike,
    shares: Mapping[str, float] = SHARES,
    sequence: Sequence[str] = SEQUENCE,
    weight: ArrayLike | None = None,
) -> ZonePlan:
    """Bands in the same order whose edges give each site its share of the work, equal parts of it in each of its bands.

    Tracts are dealt in the order of their numbers, which is south to north and along a ring: shares are met to within a
    tract, and a ring that an edge falls into is divided between two bands. ZoneError names a missing share.
    """
    number, work = _footprint(tracts, weight)
    part = _normalised(shares, sequence)
    widths = np.array([part[site] / list(sequence).count(site) for site in sequence])
    return _plan(skymap, number, _cut(work, widths), sequence, work)


def _footprint(tracts: ArrayLike, weight: ArrayLike | None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The tracts sorted, each once, and the work of each."""
    number, place = np.unique(np.asarray(tracts, np.int64), return_inverse=True)
    if not len(number):
        raise ZoneError("the footprint has no tract: nothing can be assigned")
    if weight is None:
        return number, np.ones(len(number))
    given = np.asarray(weight, float)
    if given.shape != place.shape or not np.all(given >= 0.0) or not 0.0 < given.sum() < np.inf:
        raise ZoneError("weights must be one number >= 0 for each tract of the footprint, not all of them 0")
    return number, np.asarray(np.bincount(place, weights=given), np.float64)


def _normalised(shares: Mapping[str, float], sites: Sequence[str]) -> dict[str, float]:
    """Positive shares of the sites, scaled to add up to 1."""
    for site in sites:
        if not shares.get(site, 0.0) > 0.0:
            raise ZoneError(f"site {site!r} needs a share > 0; shares given: {dict(sorted(shares.items()))}")
    names = sorted(set(sites))
    total = sum(shares[site] for site in names)
    return {site: shares[site] / total for site in names}


def _cut(work: NDArray[np.float64], widths: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cut a sequence of work into consecutive runs in proportion to ``widths``: the run of each item, by its middle."""
    if not work.sum() > 0.0:
        work = np.ones_like(work)
    middle = (np.cumsum(work) - 0.5 * work) / work.sum()
    edges = np.cumsum(widths)[:-1] / np.sum(widths)
    return np.asarray(np.searchsorted(edges, middle, side="right"), np.int64)


def _plan(
    skymap: RingsSkyMap,
    tract: NDArray[np.int64],
    band: NDArray[np.int64],
    sequence: Sequence[str],
    weight: NDArray[np.float64],
) -> ZonePlan:
    sites = tuple(dict.fromkeys(sequence))
    return ZonePlan(skymap, sites, tract, np.array(sequence)[band], band, weight)
