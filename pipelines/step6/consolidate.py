"""Task consolidate_dia_sources: the difference sources of a visit with the objects they belong to, as one SQL statement."""

from __future__ import annotations

from pathlib import Path

import duckdb

from pipelines.photometry import rows
from pipelines.quantum import Inputs, Payload, Quantum

_STATEMENT = Path(__file__).with_name("dia_source_visit.sql")


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``dia_source_visit`` of one visit and tract; empty where nothing was found."""
    parameters = {"visit": quantum.data_id["visit"], "tract": quantum.data_id["tract"]}
    with duckdb.connect(config={"threads": 1}) as con:
        for name in ("dia_source", "dia_association"):
            inputs.relation(con, name)
        found = con.sql(_STATEMENT.read_text(), params=parameters).to_arrow_table()
    columns = {name: found[name] for name in found.column_names}
    return {"dia_source_visit": rows("dia_source_visit", found.num_rows, {}, columns)}
