"""A photometric survey at catalogue level: what steps 2a and 2b would leave for the global calibration, with known truth.

No pixels: stars fall on detectors by geometry, their electrons follow from the truth of photometric_conditions.py. The tables
are those of the Felis schemas. Work is by arrays, with one loop over the pointings; large surveys come tile by tile of the sky.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import cKDTree

import schemas
from pipelines import skymap
from pipelines.simulate.mosaic import to_focal_plane
from pipelines.simulate.photometric_conditions import (
    Conditions,
    Design,
    along,
    bands,
    conditions,
    kind_of,
    natural,
    normal,
    uniform,
)  # fmt: skip
from pipelines.wcs import deproject

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
INPUTS = ("isolated_star", "isolated_star_association", "preliminary_visit_summary", "reference_star")
SITE = "SIM"
EPOCH = 57388.5  # of the reference positions, MJD
REFERENCE_BANDS = ("g", "r", "i", "z")


@dataclass(frozen=True)
class Survey:
    """``tables``: the four inputs of the calibration. ``truth``: visit, detector, band, zero_point (of a star of the reference
    colour, mean over the detector's flat, clouds at its centre), photometric. ``stars``: isolatedStarId, band, mag (natural),
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


@dataclass(frozen=True)
class _Sky:
    """What every tile needs of the stars: tract, id, place among the black bodies, natural magnitudes (B, N), those of the
    reference catalogue without its errors, by band."""

    tract: IntArray
    number: IntArray
    kind: Array
    magnitude: Array
    reference: dict[str, Array]
    variable: NDArray[np.bool_]
    vector: Array


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


def _sky(design: Design) -> _Sky:
    stars = design.stars
    tract = skymap.load(design.skymap).find_tract(stars.ra, stars.dec)
    order = np.lexsort((stars.ra, stars.dec, tract))
    first = np.searchsorted(tract[order], tract[order])
    number = np.empty(len(stars), np.int64)
    number[order] = tract[order] * 2**32 + np.arange(len(stars)) - first
    variable = uniform(number, design.seed) < design.variables
    magnitude = np.stack([natural(design, band) for band in bands(design)])
    reference = {band: natural(design, band, design.reference_shift) for band in REFERENCE_BANDS}
    return _Sky(tract, number, kind_of(stars.colour), magnitude, reference, variable, _vectors(stars.ra, stars.dec))


def _cells(design: Design, tract: IntArray, side: int | None) -> IntArray:
    """Tile of each star, numbered from 0: blocks of rings, cut into blocks of tracts."""
    if side is None:
        return np.zeros(len(tract), np.int64)
    rings = skymap.load(design.skymap)
    ring, place = rings.ring_of(tract)
    count = rings.ring_tracts[np.clip(ring, 0, rings.rings - 1)]
    parts = np.maximum(1, np.round(rings.ring_tracts[np.clip(ring // side * side + side // 2, 0, rings.rings - 1)] / side))
    return np.asarray(np.unique(ring // side * 10_000 + np.floor(place * parts / count), return_inverse=True)[1], np.int64)


def _tile(design: Design, truth: Conditions, sky: _Sky, own: IntArray, rng: np.random.Generator) -> Survey | None:
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
    pairs = _pairs(design, pointing, detector)
    measured = {"x": x[seen], "y": y[seen], "instFlux": flux[seen], "instFluxErr": error[seen]}
    tables = {
        "isolated_star": _isolated_stars(design, sky, known, count[known]),
        "isolated_star_association": _associations(design, sky, star, pointing, detector, truth.band[pointing], measured),
        "preliminary_visit_summary": _summaries(design, truth, *pairs),
        "reference_star": _references(design, sky, known, rng),
    }
    return Survey(tables, _truth(design, truth, *pairs), _star_truth(design, sky, known))


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
    design: Design, truth: Conditions, sky: _Sky, star: IntArray, pointing: IntArray, detector: IntArray, x: Array, y: Array,
    rng: np.random.Generator,
) -> tuple[Array, Array]:  # fmt: skip
    """Electrons and their stated error (photons and sky)."""
    mosaic, band = design.mosaic, truth.band[pointing]
    centre = mosaic.centres[detector]
    scaled = [2.0 * (pixel + 0.5) / size - 1.0 for pixel, size in zip((x, y), mosaic.pixels, strict=True)]
    field = [centre[:, k] + 0.5 * scaled[k] * mosaic.pixels[k] * mosaic.pixel_scale / 3600.0 for k in range(2)]
    zero = truth.zero_point(pointing, detector, field[0], field[1]) - truth.shape(pointing, detector, scaled[0], scaled[1])
    if truth.chromatic.any():
        zero -= (
            along(truth.chromatic[pointing], sky.kind[star]) if len(star) < 10**6 else _by_parts(truth, pointing, sky.kind[star])
        )
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


def _by_parts(truth: Conditions, pointing: IntArray, kind: Array) -> Array:
    parts = range(0, len(kind), 10**6)
    return np.concatenate([along(truth.chromatic[pointing[k : k + 10**6]], kind[k : k + 10**6]) for k in parts])


def _clear(design: Design, truth: Conditions) -> Array:
    """Nominal zero point (V,) of each pointing."""
    nominal = np.array([design.zero_point[b] for b in bands(design)])[truth.band]
    return np.asarray(nominal + 2.5 * np.log10(design.pointings.exposure_time))


# -- tables --------------------------------------------------------------------------------------------------------------


def _table(name: str, columns: Mapping[str, object], rows: int) -> pa.Table:
    """The declared table from arrays; a single string stands for a whole column, what is not given is null."""
    given = {}
    for key, value in ({"site": SITE} | dict(columns)).items():
        kind = schemas.table(name).arrow.field(key).type
        filled = pa.nulls(rows, kind).fill_null(value) if isinstance(value, str | int | float | bool) else pa.array(value)
        given[key] = filled.cast(kind)
    return schemas.conform(name, pa.table(given))


def _names(values: list[str], index: IntArray) -> pa.Array:
    return pa.array(values, pa.string()).take(pa.array(index))


def _filters(design: Design, truth_band: IntArray) -> dict[str, pa.Array]:
    known = bands(design)
    return {"band": _names(known, truth_band), "physical_filter": _names([f"{b}_sim" for b in known], truth_band)}


def _detectors(design: Design, pointing: IntArray, detector: IntArray) -> IntArray:
    single = design.pointings.detector
    return single[pointing] if single is not None else design.mosaic.detectors[detector]


def _isolated_stars(design: Design, sky: _Sky, known: IntArray, count: IntArray) -> pa.Table:
    columns = {
        "tract": sky.tract[known], "skymap": design.skymap, "isolatedStarId": sky.number[known],
        "coord_ra": design.stars.ra[known], "coord_dec": design.stars.dec[known], "nobs": count,
        "reserved": uniform(sky.number[known], 0) < 0.1,
    }  # fmt: skip
    return _table("isolated_star", columns, len(known))


def _associations(
    design: Design, sky: _Sky, star: IntArray, pointing: IntArray, detector: IntArray, band: IntArray, measured: dict[str, Array]
) -> pa.Table:
    columns = {
        "tract": sky.tract[star], "skymap": design.skymap, "isolatedStarId": sky.number[star],
        "sourceId": pointing * 2**32 + star, "visit": design.pointings.visit[pointing],
        "detector": _detectors(design, pointing, detector), "instrument": design.mosaic.name,
    }  # fmt: skip
    columns |= _filters(design, band)
    return _table("isolated_star_association", columns | measured, len(star))


def _pairs(design: Design, pointing: IntArray, detector: IntArray) -> tuple[IntArray, IntArray]:
    """The (pointing, detector index) pairs that have summaries, in order."""
    width = len(design.mosaic.detectors)
    if design.every_detector:
        seen = np.unique(pointing)
        return np.repeat(seen, width), np.tile(np.arange(width), len(seen))
    pair = np.unique(pointing * width + detector)
    return pair // width, pair % width


def _summaries(design: Design, truth: Conditions, pointing: IntArray, detector: IntArray) -> pa.Table:
    p, mosaic = design.pointings, design.mosaic
    number = pointing * len(mosaic.detectors) + detector
    centre = mosaic.centres[detector]
    zero = truth.zero_point(pointing, detector, centre[:, 0], centre[:, 1])
    xi, eta = to_focal_plane(centre[:, 0], centre[:, 1], p.rotation[pointing])
    ra, dec = deproject(xi, eta, p.ra[pointing], p.dec[pointing])
    columns = {
        "day_obs": p.day_obs[pointing], "instrument": mosaic.name, "visit": p.visit[pointing],
        "detector": _detectors(design, pointing, detector), "mjd_mid": p.mjd[pointing],
        "exposure_time": p.exposure_time[pointing], "airmass": p.airmass[pointing], "absolute": True,
        "zeroPoint": zero + design.preliminary_error * normal(number, design.seed), "zeroPointErr": design.preliminary_error,
        "wcs": _wcs(design, pointing, detector), "ra": ra, "dec": dec, "nDetector": len(mosaic.detectors),
        "nSource": round(len(design.stars) / len(p)),  # a nominal number: a tile does not know what others see
    }  # fmt: skip
    return _table("preliminary_visit_summary", columns | _filters(design, truth.band[pointing]), len(pointing))


def _wcs(design: Design, pointing: IntArray, detector: IntArray) -> pa.Array:
    """The JSON of each WCS, put together from a part for the pointing and one for the detector."""
    p, mosaic = design.pointings, design.mosaic
    seen, row = np.unique(pointing, return_inverse=True)
    first = int(mosaic.detectors[0])
    texts = [mosaic.wcs(float(p.ra[k]), float(p.dec[k]), float(p.rotation[k]), first).to_json() for k in seen.tolist()]
    heads = [text[: text.index('"crpix"')] for text in texts]
    tails = [text[text.index(',"cd"') :] for text in texts]
    pixels = [mosaic.wcs(0.0, 0.0, 0.0, int(d)).crpix for d in mosaic.detectors]
    parts = [_names(heads, row), _names([f'"crpix":[{a!r},{b!r}]' for a, b in pixels], detector), _names(tails, row)]
    return pc.binary_join_element_wise(*parts, "")


def _references(design: Design, sky: _Sky, known: IntArray, rng: np.random.Generator) -> pa.Table:
    own = known[design.stars.r[known] < design.reference_limit]
    shift = rng.normal(0, 0.01 / 3600.0, (2, len(own)))
    columns: dict[str, object] = {
        "tract": sky.tract[own], "skymap": design.skymap, "reference_id": sky.number[own], "epoch": EPOCH,
        "coord_ra": np.mod(design.stars.ra[own] + shift[0] / np.cos(np.radians(design.stars.dec[own])), 360.0),
        "coord_dec": np.clip(design.stars.dec[own] + shift[1], -90.0, 90.0),
    }  # fmt: skip
    for band in REFERENCE_BANDS:
        columns[f"{band}_mag"] = sky.reference[band][own] + rng.normal(0, design.reference_error, len(own))
        columns[f"{band}_magErr"] = float(design.reference_error)
    return _table("reference_star", columns, len(own))


def _truth(design: Design, truth: Conditions, pointing: IntArray, detector: IntArray) -> pa.Table:
    centre = design.mosaic.centres[detector]
    return pa.table({
        "visit": design.pointings.visit[pointing], "detector": _detectors(design, pointing, detector),
        "band": _names(bands(design), truth.band[pointing]),
        "zero_point": truth.zero_point(pointing, detector, centre[:, 0], centre[:, 1]),
        "photometric": ~truth.cloudy[pointing],
    })  # fmt: skip


def _star_truth(design: Design, sky: _Sky, known: IntArray) -> pa.Table:
    names = bands(design)
    return pa.table({
        "isolatedStarId": np.tile(sky.number[known], len(names)),
        "band": _names(names, np.repeat(np.arange(len(names)), len(known))),
        "mag": sky.magnitude[:, known].ravel(), "colour": np.tile(design.stars.colour[known], len(names)),
        "variable": np.tile(sky.variable[known], len(names)),
    })  # fmt: skip


def _vectors(ra: Array, dec: Array) -> Array:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
