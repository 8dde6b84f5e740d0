"""Consolidate the detectors of a visit into its preliminary summary (one SQL statement)."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

import schemas
from pipelines.quantum import Inputs, NoWork, Payload, Quantum

QUERY = (Path(__file__).parent / "preliminary_visit_summary.sql").read_text()


class ConsolidateError(ValueError):
    """A visit cannot be summed up; the message names it and what is missing."""


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """Task ``consolidate_visit``: preliminary_detector_summary -> preliminary_visit_summary, a row per detector.

    NoWork where no detector was calibrated.
    """
    name = f"{quantum.data_id['instrument']} visit {quantum.data_id['visit']}"
    records = quantum.context.get("visit", [])
    if len(records) != 1:
        raise ConsolidateError(f"{name}: {len(records)} visit records at this site, one is needed: copy it here")
    visit = pa.Table.from_pylist(records, schema=schemas.table("visit").arrow)
    fields = [f for f in schemas.table("preliminary_visit_summary").arrow if f.name != "site"]
    with duckdb.connect(config={"threads": 1}) as con:
        inputs.relation(con, "preliminary_detector_summary")
        con.register("visit", visit)
        rows = con.sql(QUERY).to_arrow_table()
    if rows.num_rows == 0:
        raise NoWork(f"{name}: no detector was calibrated")
    return {"preliminary_visit_summary": rows.select([f.name for f in fields]).cast(pa.schema(fields))}
