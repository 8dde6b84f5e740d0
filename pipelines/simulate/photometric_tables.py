"""The tables of a simulated photometric survey, as their Felis schemas declare them, and its truth.

Stars, pointings and detectors are indices into the design; (star, pointing, detector) of each observation, shape (N,).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import schemas
from pipelines.simulate.mosaic import to_focal_plane
from pipelines.simulate.photometric_conditions import Conditions, Design, bands, normal, uniform
from pipelines.wcs import deproject

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
SITE = "SIM"
EPOCH = 57388.5  # of the reference positions, MJD
REFERENCE_BANDS = ("g", "r", "i", "z")


@dataclass(frozen=True)
class Sky:
    """What every tile needs of the stars: tract, id, place among the black bodies, natural magnitudes (B, N), those of the
    reference catalogue without its errors, by band."""

    tract: IntArray
    number: IntArray
    kind: Array
    magnitude: Array
    reference: dict[str, Array]
    variable: NDArray[np.bool_]
    vector: Array


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


def isolated_stars(design: Design, sky: Sky, known: IntArray, count: IntArray) -> pa.Table:
    columns = {
        "tract": sky.tract[known], "skymap": design.skymap, "isolatedStarId": sky.number[known],
        "coord_ra": design.stars.ra[known], "coord_dec": design.stars.dec[known], "nobs": count,
        "reserved": uniform(sky.number[known], 0) < 0.1,
    }  # fmt: skip
    return _table("isolated_star", columns, len(known))


def associations(
    design: Design, sky: Sky, star: IntArray, pointing: IntArray, detector: IntArray, band: IntArray, measured: dict[str, Array]
) -> pa.Table:
    columns = {
        "tract": sky.tract[star], "skymap": design.skymap, "isolatedStarId": sky.number[star],
        "sourceId": pointing * 2**32 + star, "visit": design.pointings.visit[pointing],
        "detector": _detectors(design, pointing, detector), "instrument": design.mosaic.name,
    }  # fmt: skip
    columns |= _filters(design, band)
    return _table("isolated_star_association", columns | measured, len(star))


def pairs(design: Design, pointing: IntArray, detector: IntArray) -> tuple[IntArray, IntArray]:
    """The (pointing, detector index) pairs that have summaries, in order."""
    width = len(design.mosaic.detectors)
    if design.every_detector:
        seen = np.unique(pointing)
        return np.repeat(seen, width), np.tile(np.arange(width), len(seen))
    pair = np.unique(pointing * width + detector)
    return pair // width, pair % width


def summaries(design: Design, truth: Conditions, pointing: IntArray, detector: IntArray) -> pa.Table:
    p, mosaic = design.pointings, design.mosaic
    number = pointing * len(mosaic.detectors) + detector
    centre = mosaic.centres[detector]
    zero = truth.zero_point(pointing, detector, centre[:, 0], centre[:, 1], mosaic.size)
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


def references(design: Design, sky: Sky, known: IntArray, rng: np.random.Generator) -> pa.Table:
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


def truth_of_detectors(design: Design, truth: Conditions, pointing: IntArray, detector: IntArray) -> pa.Table:
    centre = design.mosaic.centres[detector]
    return pa.table({
        "visit": design.pointings.visit[pointing], "detector": _detectors(design, pointing, detector),
        "band": _names(bands(design), truth.band[pointing]),
        "zero_point": truth.zero_point(pointing, detector, centre[:, 0], centre[:, 1], design.mosaic.size),
        "photometric": ~truth.cloudy[pointing],
    })  # fmt: skip


def truth_of_stars(design: Design, sky: Sky, known: IntArray) -> pa.Table:
    names = bands(design)
    return pa.table({
        "isolatedStarId": np.tile(sky.number[known], len(names)),
        "band": _names(names, np.repeat(np.arange(len(names)), len(known))),
        "mag": sky.magnitude[:, known].ravel(), "colour": np.tile(design.stars.colour[known], len(names)),
        "variable": np.tile(sky.variable[known], len(names)),
    })  # fmt: skip
