"""What the global solution makes of one tract: the standard stars, and what is left of every detector and visit."""

from __future__ import annotations

import duckdb
import pyarrow as pa

from pipelines.quantum import Inputs, NoWork, Quantum, returned
from pipelines.step2c import camera as cameras
from pipelines.step2c import observations, shares
from pipelines.step2c.camera import Camera
from pipelines.step2c.equations import begin, colours
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

INPUTS = (*observations.INPUTS, "calib_visit", "calib_flat")
PRODUCTS = ("standard_star", "calib_residual", "calib_residual_map")


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``standard_star``, ``calib_residual`` and ``calib_residual_map`` of a tract; NoWork where it has no usable observation."""
    settings = quantum.settings(Settings)
    with duckdb.connect(config={"threads": 1}) as con:
        for name in INPUTS:
            inputs.relation(con, name)
        camera = cameras.of(con)
        observations.prepare(con, camera, settings)
        products = measure(con, camera, settings)
    if not products["standard_star"].num_rows:
        raise NoWork("no isolated star has a usable observation")
    where = {"tract": pa.int32(), "skymap": pa.string()}
    for name in PRODUCTS[1:]:
        for column, kind in where.items():
            rows = products[name]
            products[name] = rows.append_column(column, pa.repeat(pa.scalar(quantum.data_id[column], kind), rows.num_rows))
    return {name: returned(name, rows) for name, rows in products.items()}


def measure(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> dict[str, pa.Table]:
    """The products, from the tables of observations.prepare(), ``calib_visit`` and ``calib_flat`` on ``con``."""
    con.execute(statement("corrected"))
    begin(con, camera, settings)
    con.execute(statement("solved_zeros"))
    for number in range(settings.rounds):
        con.execute(statement("residuals"))
        if number + 1 < settings.rounds:
            con.execute(statement("outliers"), {"clip": settings.clip, "limit": settings.limit})
            con.execute(statement("star_quality"), {"star_chi2": settings.star_chi2})
            colours(con, settings)
    products = {name: con.sql(statement(f"{name}s")).to_arrow_table() for name in PRODUCTS}
    products["calib_residual"] = _with_others(con, products["calib_residual"])
    return products


def _with_others(con: duckdb.DuckDBPyConnection, rows: pa.Table) -> pa.Table:
    """The rows of calib_residuals.sql with ``others`` and ``clouded``."""
    con.register("calib_residual", rows)
    found = shares.others(con.sql(statement("shares")).fetchnumpy(), rows["weight"].to_numpy())
    con.unregister("calib_residual")
    for name, values in zip(("others", "clouded"), found, strict=True):
        rows = rows.append_column(name, pa.array(values, pa.float32()))
    return rows
