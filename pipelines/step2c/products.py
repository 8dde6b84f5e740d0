"""Level 2 and the products: each block's own residual, shrunk by what is noise in it, and the tables that leave the step."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.quantum import returned
from pipelines.step2c import normal
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

Array = NDArray[np.float64]


def detector_residuals(con: duckdb.DuckDBPyConnection) -> tuple[dict[str, Array], dict[int, float]]:
    """Residuals of the blocks (columns block, visit, g, weight), and by visit the variance of g beyond its noise.

    The variance of one visit (moment estimator, DerSimonian & Laird 1986) rests on few detectors: it is averaged with that
    of all visits of its band, which counts as eight detectors.
    """
    found = con.sql(statement("detector_residuals")).fetchnumpy()
    rows = {name: np.asarray(column) for name, column in found.items()}
    visits, own = np.unique(rows["visit"], return_inverse=True)
    w, g = rows["weight"], rows["g"]
    ok = w > 1.0
    count = np.bincount(own, ok, len(visits))
    sums = [np.bincount(own, np.where(ok, value, 0.0), len(visits)) for value in (w, w * w, w * g, w * g * g)]
    s1, s2, sg, sgg = sums
    safe = np.where(s1 > 0, s1, 1.0)
    top = sgg - sg**2 / safe - np.maximum(count - 1, 0)
    bottom = s1 - s2 / safe
    single = np.maximum(0.0, np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0))
    usual = float(np.median(single[count > 2])) if np.any(count > 2) else 0.0
    mixed = (count * single + 8.0 * usual) / (count + 8.0)
    return rows, dict(zip(visits.tolist(), np.where(count > 1, np.maximum(mixed, 0.0), usual).tolist(), strict=True))


def make(
    con: duckdb.DuckDBPyConnection, settings: Settings, blocks: dict[str, Any], system: normal.System,
    solution: normal.Solution,
) -> dict[str, pa.Table]:  # fmt: skip
    """All products, from the state of the last round on ``con``."""
    zero, slope = (part.copy() for part in np.split(solution.blocks, 2))
    variance = solution.block_variance()
    rows, spread = detector_residuals(con)
    extra = np.array([spread[v] for v in rows["visit"].tolist()])
    block, weight = rows["block"], rows["weight"]
    shrink = np.divide(weight * extra, weight * extra + 1.0)  # W / (W + 1 / extra)
    zero[block] -= shrink * rows["g"]
    variance[block] += np.divide(extra, weight * extra + 1.0)
    reference = np.asarray(blocks["reference"], bool)
    absolute = normal.components(system, np.asarray(blocks["visit"]), reference, settings.min_references)[1]
    values = {"block": np.arange(len(zero), dtype=np.int32), "zero": zero, "slope": slope}
    con.register("block_value", pa.table(values))
    con.execute(statement("residuals"))
    errors = {"error": np.sqrt(variance), "stars": system.stars, "absolute": absolute}
    con.register("solved_block", pa.table(values | errors))
    con.register("solved", pa.table({
        "number": np.arange(len(solution.unknowns), dtype=np.int32), "value": solution.unknowns,
        "error": np.sqrt(solution.unknown_variance()),
    }))  # fmt: skip
    con.execute("CREATE OR REPLACE TEMP TABLE visit_chi2 AS " + statement("visit_quality"))
    parameters: dict[str, dict[str, Any]] = {
        "photo_calib": {"min_stars": settings.min_stars},
        "calib_night": {"prior": settings.extinction, "gauge": settings.gauge},
    }
    return {
        name: returned(name, con.sql(statement(name + "s"), params=parameters.get(name)).to_arrow_table())
        for name in ("photo_calib", "standard_star", "calib_night", "calib_flat")
    }
