"""Step 2e: the tables of visits and of their detectors, from the final visit summaries."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from pipelines.quantum import Inputs, NoWork, Quantum, returned

TABLES = ("visit_table", "visit_detector_table")
SQL = {name: Path(__file__).with_name(f"{name}s.sql").read_text() for name in TABLES}


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``visit_table`` and ``visit_detector_table`` of one visit; NoWork where it has no summary."""
    with duckdb.connect(config={"threads": 1}) as con:
        inputs.relation(con, "visit_summary")
        rows = {name: con.sql(SQL[name]).to_arrow_table() for name in TABLES}
    if not rows["visit_table"].num_rows:
        raise NoWork(f"no summary of visit {quantum.data_id['visit']}")
    return {name: returned(name, found) for name, found in rows.items()}
