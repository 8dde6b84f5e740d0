"""What is fitted of one tract: visits, stars and observations as tables, the reference catalogue matched to the stars."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement
from pipelines.wcs import SkyWcs

Array = NDArray[np.float64]
INPUTS = ("isolated_star", "isolated_star_association", "preliminary_visit_summary", "reference_star")


def prepare(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> None:
    """Make the tables visit, suspect, association, star, reference_magnitude and observation from the inputs (views on ``con``)."""
    con.execute(statement("fixed_point"))
    register_visits(con, camera, settings)
    con.execute(statement("preliminary_flats"))
    con.register("focal_plane", camera.focal_plane)
    con.register("suspect", suspects(con, camera, settings))
    con.execute(statement("associations"))
    con.execute(statement("stars"))
    con.register("reference_match", _references(con, settings))
    con.execute(statement("reference_magnitudes"))
    con.execute(statement("observations"))


def register_visits(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> None:
    """Make the table visit from ``preliminary_visit_summary`` and, where it is there, ``visit_fact``."""
    con.execute("CREATE TEMP VIEW IF NOT EXISTS visit_fact AS " + statement("visit_facts"))
    bands = [row[0] for row in con.sql("SELECT DISTINCT band FROM visit_fact ORDER BY band").fetchall()]
    con.register("filter_prior", camera.filters(bands))
    con.execute(statement("visits"), {"epochs": list(settings.flat_epochs)})


def suspects(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> pa.Table:
    """Visits that may not be photometric, by their preliminary zero points alone: (visit, clouded, gradient_x, gradient_y).

    They have none, lie below the filter's nominal one, or show a plane over the field: however much of it flats and noise may
    make, they do not show that there is none. Too many are better than too few: a term that is not needed is left out of the
    solution. What a visit's summary says is the same at every site, so that all tracts keep the same terms for it. What the flats
    of the epoch are is not: with these taken off, ``clouded`` are those whose plane is significant and large, and the gradient
    (mag/deg) is that of the plane, drawn to zero as far as it is noise. Both decide on weights alone.
    """
    dim = f"NOT known OR depth > {settings.suspect_depth}"
    dark = np.asarray([row[0] for row in con.sql(f"SELECT visit FROM visit WHERE {dim} ORDER BY visit").fetchall()], np.int64)
    rows = con.sql(
        "SELECT s.visit, s.zeroPoint - v.prior AS z, s.zeroPoint - v.prior - p.zero AS without, f.x0, f.y0 "
        "FROM preliminary_visit_summary s JOIN visit v USING (visit) JOIN focal_plane f USING (detector) "
        "JOIN preliminary_flat p ON p.band = v.band AND p.epoch = v.epoch AND p.detector = s.detector "
        "WHERE isfinite(s.zeroPoint) ORDER BY s.visit, s.detector"
    ).fetchnumpy()
    visits, own, count = np.unique(np.asarray(rows["visit"]), return_inverse=True, return_counts=True)
    plane, _, _ = _planes(own, count, rows, "z")
    names = np.union1d(dark, visits[plane > settings.suspect_gradient**2])
    plane, noise, gradient = _planes(own, count, rows, "without")
    gradient *= np.maximum(1.0 - noise / np.maximum(plane, 1e-30), 0.0)
    large = visits[plane > np.maximum(12.0 * noise, settings.cloud_tilt**2)]
    found, at = np.isin(names, visits), np.searchsorted(visits, names).clip(max=max(len(visits) - 1, 0))
    columns = {"visit": names, "clouded": np.isin(names, large)}
    for axis, name in enumerate(("gradient_x", "gradient_y")):
        columns[name] = np.where(found, gradient[axis][at], 0.0) if len(visits) else np.zeros(len(names))
    return pa.table(columns)


def _planes(own: NDArray[np.int64], count: NDArray[np.int64], rows: dict[str, Array], name: str) -> tuple[Array, Array, Array]:
    """Mean square of the plane in zero points (column ``name``) of each visit's detectors, what noise makes of it (mag^2), and its
    gradient (2, V), mag/deg."""
    z, x, y = (np.asarray(rows[name], float) for name in (name, "x0", "y0"))

    def mean(value: Array) -> Array:
        return np.bincount(own, value, len(count)) / count

    z, x, y = (value - mean(value)[own] for value in (z, x, y))
    xx, xy, yy, xz, yz, zz = mean(x * x), mean(x * y), mean(y * y), mean(x * z), mean(y * z), mean(z * z)
    det = xx * yy - xy * xy
    narrow = (count < 5) | (det <= 1e-9 * (xx + yy) ** 2)
    det = np.where(narrow, 1.0, det)
    gradient = np.where(narrow, 0.0, np.stack([yy * xz - xy * yz, xx * yz - xy * xz]) / det)
    plane = np.maximum(gradient[0] * xz + gradient[1] * yz, 0.0)
    return plane, np.maximum(zz - plane, 0.0) * 2.0 / np.maximum(count - 3, 1), gradient


def _references(con: duckdb.DuckDBPyConnection, settings: Settings) -> pa.Table:
    """Pairs of isolated stars and reference stars that are each other's nearest within the radius."""
    stars = con.sql(statement("matchable_stars")).fetchnumpy()
    candidates = con.sql(statement("reference_candidates")).fetchnumpy()
    names = ["isolatedStarId", "reference_id"]
    if not len(stars["ra"]) or not len(candidates["ra"]):
        return pa.table([pa.array([], pa.int64())] * 2, names)
    radius = settings.reference_radius
    if radius is None:
        wcs = con.sql("SELECT wcs FROM preliminary_visit_summary ORDER BY visit, detector LIMIT 1").fetchall()
        radius = 1.5 * SkyWcs.from_json(wcs[0][0]).pixel_scale
    a, b = _vectors(stars), _vectors(candidates)
    limit = 2.0 * np.sin(np.radians(radius / 3600.0) / 2.0)
    distance, index = cKDTree(b).query(a, distance_upper_bound=limit)
    back = cKDTree(a).query(b)[1]
    found = np.flatnonzero(np.isfinite(distance))
    own = found[back[index[found]] == found]
    return pa.table([stars["isolatedStarId"][own], candidates["reference_id"][index[own]]], names)


def _vectors(rows: dict[str, Array]) -> Array:
    a, d = np.radians(np.asarray(rows["ra"])), np.radians(np.asarray(rows["dec"]))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
