"""What is fitted: visits, blocks, stars and observations as tables, the reference catalogue matched to the stars."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines import instrument
from pipelines.step2c.settings import EXTINCTION, ZERO_POINT, Settings
from pipelines.step2c.statement import statement
from pipelines.wcs import SkyWcs

Array = NDArray[np.float64]


def prepare(con: duckdb.DuckDBPyConnection, settings: Settings) -> Settings:
    """Make the tables visit, block, association, star, observation, reference_magnitude; and clipped, unfit, residual, empty.

    Returns the settings with what the camera's own file says of its colours.
    """
    camera = _camera(con)
    con.register("filter_prior", _filters(con, camera))
    con.execute(statement("visits"), {"epochs": list(settings.flat_epochs)})
    for name in ("associations", "stars", "blocks"):
        con.execute(statement(name))
    con.register("reference_match", _references(con, settings))
    con.execute(statement("reference_magnitudes"))
    con.execute(statement("observations"))
    con.execute("CREATE OR REPLACE TEMP TABLE clipped AS SELECT star, block FROM observation LIMIT 0")
    con.execute("CREATE OR REPLACE TEMP TABLE unfit AS SELECT star FROM observation LIMIT 0")
    con.execute("CREATE OR REPLACE TEMP TABLE residual AS SELECT star, m AS mean, m AS s FROM observation LIMIT 0")
    if settings.reference_colour is None and camera and any(f.colour_term for f in camera.filters.values()):
        return replace(settings, reference_colour=camera.reference_colour)
    return settings


def _camera(con: duckdb.DuckDBPyConnection) -> instrument.Instrument | None:
    """The camera's file; None for a camera without one."""
    row = con.sql("SELECT min(instrument) FROM preliminary_visit_summary").fetchall()
    try:
        return instrument.load(row[0][0]) if row[0][0] else None
    except instrument.InstrumentError:
        return None


def _filters(con: duckdb.DuckDBPyConnection, camera: instrument.Instrument | None) -> pa.Table:
    """Nominal zero point (1 e-/s above the atmosphere) and extinction by band."""
    bands = [row[0] for row in con.sql("SELECT DISTINCT band FROM preliminary_visit_summary ORDER BY band").fetchall()]
    of_camera = {f.band: (f.zero_point, f.extinction) for f in camera.filters.values()} if camera else {}
    values = [of_camera.get(band, (ZERO_POINT, EXTINCTION.get(band, 0.1))) for band in bands]
    columns = [pa.array(bands, pa.string()), *(pa.array([v[k] for v in values], pa.float64()) for k in range(2))]
    return pa.table(columns, ["band", "zero_point", "extinction"])


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
