"""YAML as SQL writes it: every row of a relation as one flow mapping, in a form that a YAML 1.1 parser reads back exactly.

Text is quoted as JSON does, which YAML reads the same. Floating-point numbers always have a point: without one, YAML 1.1
takes 1e-07 for text.
"""

from __future__ import annotations

from collections.abc import Iterator

import duckdb

BATCH = 20_000


def quoted(expression: str) -> str:
    """SQL for a text as a quoted YAML scalar, or null."""
    return f"ifnull(to_json({expression}::VARCHAR)::VARCHAR, 'null')"


def mapping(columns: dict[str, str]) -> str:
    """SQL for a flow mapping of key: SQL expression that gives the value as YAML."""
    parts = [f"""'"{key}": ' || {value}""" for key, value in columns.items()]
    return "'{' || " + " || ', ' || ".join(parts) + " || '}'"


def scalar(column: str, kind: str) -> str:
    """SQL for a column's value as YAML; ``kind`` is its DuckDB type. Blobs are regions if the column is named so."""
    name = '"' + column.replace('"', '""') + '"'
    if kind == "DOUBLE":
        written = f"if(regexp_full_match({name}::VARCHAR, '-?\\d+\\.\\d+'), {name}::VARCHAR, format('{{:.16e}}', {name}))"
        return f"CASE WHEN isfinite({name}) THEN {written} ELSE 'null' END"
    if kind == "TIMESTAMP_NS":
        written = f"'!butler_time/tai/iso ''' || strftime({name}, '%Y-%m-%d %H:%M:%S.%n') || ''''"
    elif kind == "BLOB" and column == "region":
        written = f"""'!<lsst.sphgeom.ConvexPolygon> {{"encoded": "' || lower(hex({name})) || '"}}'"""
    elif kind == "BLOB":
        written = f"""'!!binary "' || base64({name}) || '"'"""
    elif kind == "VARCHAR":
        return quoted(name)
    else:
        written = f"{name}::VARCHAR"
    return f"ifnull({written}, 'null')"


def rows(relation: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """The rows of a relation as items of a block list, many at a time."""
    columns = {name: scalar(name, str(kind)) for name, kind in zip(relation.columns, relation.types, strict=True)}
    return lines(relation.project(f"'  - ' || {mapping(columns)} AS line"))


def lines(relation: duckdb.DuckDBPyRelation) -> Iterator[str]:
    """The text of the column ``line``, many lines at a time."""
    for batch in relation.to_arrow_reader(BATCH):
        if batch.num_rows:
            yield "\n".join(batch.column(0).to_pylist()) + "\n"
