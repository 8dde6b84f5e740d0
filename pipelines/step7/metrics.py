"""survey_metrics: the campaign in numbers, from the catalogues of all sites and the survey maps."""

from __future__ import annotations

from pathlib import Path

import duckdb
import healsparse
import hpgeom
import numpy as np
import pyarrow as pa

import schemas
from pipelines.quantum import Inputs, Payload, Quantum
from pipelines.step7.config import MetricConfig

SQL = Path(__file__).with_name("metrics.sql")
TABLES = ("visit_table", "visit_detector_table", "standard_star", "object", "dia_object")
SUMMARY = pa.schema([("metric", pa.string()), ("band", pa.string()), ("value", pa.float64()), ("unit", pa.string())])


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``survey_metric`` rows; a metric about which no input knows anything has no row."""
    config = MetricConfig.read(quantum.config, quantum.task)
    with duckdb.connect(config={"threads": 1}) as con:
        for table in TABLES:
            inputs.relation(con, table)
        con.register("map_summary", map_summary(inputs))
        rows = con.sql(SQL.read_text(), params={"bright_error": config.bright_error}).to_arrow_table()
    site = pa.array([""] * rows.num_rows, pa.string())
    return {"survey_metric": schemas.conform("survey_metric", rows.append_column("site", site)).drop_columns(["site"])}


def map_summary(inputs: Inputs) -> pa.Table:
    """Area and typical depth of each band's survey map."""
    rows = []
    for ref in inputs.refs("survey_map"):
        sky = healsparse.HealSparseMap.read(str(inputs.path(ref)))
        values = sky[sky.valid_pixels]
        cell = hpgeom.nside_to_pixel_area(sky.nside_sparse)
        seen, deep = values["n_exposure"] > 0, values["depth"] > hpgeom.UNSEEN
        numbers: dict[str, tuple[float, str | None]] = {
            "area_exposed": (cell * np.count_nonzero(seen), "deg2"),
            "area_coadd": (cell * float(values["coverage"].astype(float).sum()), "deg2"),
        }
        if seen.any():
            numbers["median_exposures"] = (float(np.median(values["n_exposure"][seen])), None)
        if deep.any():
            numbers["median_depth"] = (float(np.median(values["depth"][deep])), "mag")
        rows += [
            {"metric": metric, "band": ref.data_id["band"], "value": value, "unit": unit}
            for metric, (value, unit) in numbers.items()
        ]
    return pa.Table.from_pylist(rows, schema=SUMMARY)
