"""A photometric survey at catalogue level: what steps 2a and 2b would leave for the global calibration, with known truth.

No pixels: stars fall on detectors by geometry, their electrons follow from the truth of photometric_conditions.py. The tables
are those of the Felis schemas. Work is by arrays, with one loop over the pointings; large surveys come tile by tile of the sky.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines import skymap
from pipelines.simulate import photometric_tables as made
from pipelines.simulate.mosaic import to_focal_plane
from pipelines.simulate.photometric_conditions import Conditions, Design, along, bands, conditions, kind_of, natural, uniform
from pipelines.simulate.photometric_tables import Sky

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
INPUTS = ("isolated_star", "isolated_star_association", "preliminary_visit_summary", "reference_star")


@dataclass(frozen=True)
class Survey:
    """``tables``: the four inputs of the calibration. ``truth``: visit, detector, band, zero_point (of a star of the reference
    colour, mean of flat and clouds over the detector), photometric. ``stars``: isolatedStarId, band, mag (natural),
    colour, variable."""

    tables: dict[str, pa.Table]
    truth: pa.Table
    stars: pa.Table

    @property
    def observations(self) -> int:
        """Rows of isolated_star_association."""
        return int(self.tables["isolated_star_association"].num_rows)

    def tiles(self) -> list[dict[str, pa.Table]]:
        """The tables by tract, each with the summaries of the visits that touch it."""
        summary, parts = self.tables["preliminary_visit_summary"], {}
        for name in ("isolated_star", "isolated_star_association", "reference_star"):
            rows = self.tables[name]
            order = np.argsort(rows["tract"].to_numpy(), kind="stable")
            rows = rows.take(pa.array(order))
            tracts, start = np.unique(rows["tract"].to_numpy(), return_index=True)
            ends = [*start[1:].tolist(), rows.num_rows]
            parts[name] = {t: rows.slice(a, b - a) for t, a, b in zip(tracts.tolist(), start.tolist(), ends, strict=True)}
        found = []
        for tract, own in parts["isolated_star_association"].items():
            visits = pc.is_in(summary["visit"], value_set=pc.unique(own["visit"]))
            references = parts["reference_star"].get(tract, self.tables["reference_star"].slice(0, 0))
            found.append({
                "isolated_star": parts["isolated_star"][tract], "isolated_star_association": own,
                "preliminary_visit_summary": summary.filter(visits), "reference_star": references,
            })  # fmt: skip
        return found


def simulate(design: Design) -> Survey:
    """The whole survey at once. ValueError where no star is seen."""
    everything = list(tiles(design, None))
    if not everything:
        raise ValueError("the survey sees no star twice: its pointings and its stars lie apart, or the stars are too faint")
    return everything[0]


def tiles(design: Design, side: int | None) -> Iterator[Survey]:
    """The survey in tiles of about ``side`` x ``side`` tracts (None: one tile), each drawn only when it is asked for.

    The truth of visits, detectors and stars is the same whatever the tiles; noise depends on the tile.
    """
    truth, sky = conditions(design), _sky(design)
    cell = _cells(design, sky.tract, side)
    order = np.argsort(cell, kind="stable")
    edges = np.searchsorted(cell[order], np.arange(cell.max(initial=-1) + 2))
    for number in range(len(edges) - 1):
        own = order[edges[number] : edges[number + 1]]
        if len(own) and (survey := _tile(design, truth, sky, own, np.random.default_rng([design.seed, 2, number]))):
            yield survey


def _sky(design: Design) -> Sky:
    stars = design.stars
    tract = skymap.load(design.skymap).find_tract(stars.ra, stars.dec)
    order = np.lexsort((stars.ra, stars.dec, tract))
    first = np.searchsorted(tract[order], tract[order])
    number = np.empty(len(stars), np.int64)
    number[order] = tract[order] * 2**32 + np.arange(len(stars)) - first
    variable = uniform(number, design.seed) < design.variables
    magnitude = np.stack([natural(design, band) for band in bands(design)])
    reference = {band: natural(design, band, design.reference_shift) for band in made.REFERENCE_BANDS}
    return Sky(tract, number, kind_of(stars.colour), magnitude, reference, variable, _vectors(stars.ra, stars.dec))


def _cells(design: Design, tract: IntArray, side: int | None) -> IntArray:
    """Tile of each star, numbered from 0: blocks of rings, cut into blocks of tracts."""
    if side is None:
        return np.zeros(len(tract), np.int64)
    rings = skymap.load(design.skymap)
    ring, place = rings.ring_of(tract)
    count = rings.ring_tracts[np.clip(ring, 0, rings.rings - 1)]
    parts = np.maximum(1, np.round(rings.ring_tracts[np.clip(ring // side * side + side // 2, 0, rings.rings - 1)] / side))
    return np.asarray(np.unique(ring // side * 10_000 + np.floor(place * parts / count), return_inverse=True)[1], np.int64)


def _tile(design: Design, truth: Conditions, sky: Sky, own: IntArray, rng: np.random.Generator) -> Survey | None:
    """Observations of the stars ``own``, measured; None where no star is seen twice."""
    star, pointing, detector, x, y = _observe(design, sky.vector[own])
    star = own[star]
    flux, error = _measure(design, truth, sky, star, pointing, detector, x, y, rng)
    seen = np.flatnonzero(flux > design.min_snr * error)
    count = np.bincount(star[seen], minlength=len(sky.tract))
    seen = seen[count[star[seen]] >= 2]
    if not len(seen):
        return None
    seen = seen[np.lexsort((pointing[seen], sky.number[star[seen]]))]
    star, pointing, detector = star[seen], pointing[seen], detector[seen]
    known = own[count[own] >= 2]
    known = known[np.argsort(sky.number[known])]
    there = made.pairs(design, pointing, detector)
    measured = {"x": x[seen], "y": y[seen], "instFlux": flux[seen], "instFluxErr": error[seen]}
    tables = {
        "isolated_star": made.isolated_stars(design, sky, known, count[known]),
        "isolated_star_association": made.associations(design, sky, star, pointing, detector, truth.band[pointing], measured),
        "preliminary_visit_summary": made.summaries(design, truth, *there),
        "reference_star": made.references(design, sky, known, rng),
    }
    return Survey(tables, made.truth_of_detectors(design, truth, *there), made.truth_of_stars(design, sky, known))


def _observe(design: Design, vector: Array) -> tuple[IntArray, IntArray, IntArray, Array, Array]:
    """Star, pointing, detector index and pixel position of every star image, by pointing."""
    p, mosaic = design.pointings, design.mosaic
    tree = cKDTree(vector)
    axis = _vectors(p.ra, p.dec)
    middle = vector.mean(axis=0)
    reach = np.linalg.norm(vector - middle, axis=1).max()
    chord = 2.0 * np.sin(np.radians(mosaic.radius) / 2.0)
    place = np.full(int(mosaic.detectors.max()) + 2, -1, np.int64)
    place[mosaic.detectors] = np.arange(len(mosaic.detectors))
    none, nowhere = np.empty(0, np.int64), np.empty(0)
    found: list[tuple[IntArray, IntArray, IntArray, Array, Array]] = [(none, none, none, nowhere, nowhere)]
    for k in np.flatnonzero(np.linalg.norm(axis - middle, axis=1) <= reach + chord):
        near = np.fromiter(tree.query_ball_point(axis[k], chord), np.int64)
        if not len(near):
            continue
        near.sort()
        a, d = np.radians(p.ra[k]), np.radians(p.dec[k])
        east = np.array([-np.sin(a), np.cos(a), 0.0])
        north = np.array([-np.sin(d) * np.cos(a), -np.sin(d) * np.sin(a), np.cos(d)])
        plane = vector[near] @ np.stack([axis[k], east, north], axis=1)
        xi, eta = np.degrees(plane[:, 1] / plane[:, 0]), np.degrees(plane[:, 2] / plane[:, 0])
        detector, x, y = mosaic.find(*to_focal_plane(xi, eta, float(p.rotation[k])))
        on = detector >= 0
        found.append((near[on], np.full(int(on.sum()), k), place[detector[on]], x[on], y[on]))
    star, pointing, detector, x, y = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return star, pointing, detector, x, y


def _measure(
    design: Design, truth: Conditions, sky: Sky, star: IntArray, pointing: IntArray, detector: IntArray, x: Array, y: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:  # fmt: skip
    """Electrons and their stated error (photons and sky)."""
    mosaic, band = design.mosaic, truth.band[pointing]
    centre = mosaic.centres[detector]
    scaled = [2.0 * (pixel + 0.5) / size - 1.0 for pixel, size in zip((x, y), mosaic.pixels, strict=True)]
    field = [centre[:, k] + 0.5 * scaled[k] * mosaic.pixels[k] * mosaic.pixel_scale / 3600.0 for k in range(2)]
    zero = truth.zero_point(pointing, detector, field[0], field[1]) - truth.shape(pointing, detector, scaled[0], scaled[1])
    if truth.chromatic.any():
        for k in range(0, len(star), 10**6):  # a part at a time: each has a curve of its own
            part = slice(k, k + 10**6)
            zero[part] -= along(truth.chromatic[pointing[part]], sky.kind[star[part]])
    magnitude = sky.magnitude[band, star]
    magnitude += rng.normal(0, design.floor, len(star))
    changing = np.flatnonzero(sky.variable[star])
    magnitude[changing] += rng.normal(0, design.variable_amplitude, len(changing))
    wrong = np.flatnonzero(rng.random(len(star)) < design.wrong_matches)
    magnitude[wrong] += rng.normal(0, 1.0, len(wrong))
    electrons = 10 ** (-0.4 * (magnitude - zero))
    # the sky shines through no cloud: its electrons are those of a clear visit
    background = np.array([design.sky[b] for b in bands(design)])[band]
    clear = truth.zero if design.zero_points is not None else _clear(design, truth)
    background = 10 ** (-0.4 * (background - clear[pointing]))
    electrons += rng.normal(0, 1.0, len(star)) * np.sqrt(electrons + background)
    return electrons, np.sqrt(np.maximum(electrons, 0.0) + background)


def _clear(design: Design, truth: Conditions) -> Array:
    """Nominal zero point (V,) of each pointing."""
    nominal = np.array([design.zero_point[b] for b in bands(design)])[truth.band]
    return np.asarray(nominal + 2.5 * np.log10(design.pointings.exposure_time))


def _vectors(ra: Array, dec: Array) -> Array:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
