"""What a dataset is called: the UUIDv5 of its type, run and data ID, the same at every site, computed in SQL."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa

import schemas
from lake import delta
from lake.site import LakeError
from lake.sql import statement

#: The namespace of the project's UUIDv5s.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "multisite-drp")


class RegistryError(LakeError):
    """The registry cannot do what was asked; the message names the thing and the remedy."""


def install_uuid5(con: duckdb.DuckDBPyConnection) -> None:
    """Make the SQL macro uuid5(text) on a connection; equal to Python's uuid.uuid5(NAMESPACE, text)."""
    blob = "'" + "".join(f"\\x{byte:02X}" for byte in NAMESPACE.bytes) + "'::BLOB"
    con.execute(statement("uuid5").replace("$namespace", blob))


def uuid5(names: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    """UUIDv5 of each text, in the project's namespace."""
    with delta.cursor() as con:
        install_uuid5(con)
        con.register("given", pa.table({"name": names, "ordinal": ordinals(len(names))}))
        return con.sql("SELECT uuid5(name) AS id FROM given ORDER BY ordinal").to_arrow_table()["id"]


def with_ids(con: duckdb.DuckDBPyConnection | None, table: pa.Table, dimensions_by_type: Mapping[str, Sequence[str]]) -> pa.Table:
    """``table`` with ``dataset_id`` filled in (put first if it is not there), rows in the same order.

    The id is the UUIDv5 of ``dataset_type|run|key=value|...`` over the type's required dimensions in the order of
    schemas.DATA_ID. ``table`` has dataset_type, run and the data ID columns that are needed (absent ones count as
    null). RegistryError names a dataset type that ``dimensions_by_type`` does not have.
    """
    with con.cursor() if con is not None else delta.cursor() as cursor:
        install_names(cursor, padded(table), dimensions_by_type)
        names = cursor.sql("SELECT uuid5(name) AS id FROM dataset_names ORDER BY ordinal").to_arrow_table()["id"]
    if names.null_count:
        unknown = set(table["dataset_type"].unique().to_pylist()).difference(dimensions_by_type)
        raise RegistryError(f"dataset type {', '.join(sorted(unknown))} is not declared; known: {', '.join(dimensions_by_type)}")
    if "dataset_id" in table.column_names:
        return table.set_column(table.column_names.index("dataset_id"), "dataset_id", names)
    return table.add_column(0, "dataset_id", names)


def padded(table: pa.Table) -> pa.Table:
    """The table with an ordinal, and with every data ID column."""
    dataset = schemas.table("dataset").arrow
    for column in schemas.DATA_ID:
        if column not in table.column_names:
            table = table.append_column(column, pa.nulls(table.num_rows, dataset.field(column).type))
    return table.append_column("ordinal", ordinals(table.num_rows))


def ordinals(count: int) -> pa.Array:
    """0 to count - 1, to find the rows of a table again after SQL."""
    return pa.array(np.arange(count, dtype=np.int64))


def install_names(con: duckdb.DuckDBPyConnection, given: pa.Table, types: Mapping[str, Sequence[str]]) -> None:
    """Make the view dataset_names (lake/sql/dataset_names.sql) over a padded() table, and ``given`` and ``types``."""
    install_uuid5(con)
    con.register("given", given)
    listed = pa.array([list(d) for d in types.values()], pa.list_(pa.string()))
    con.register("types", pa.table({"dataset_type": pa.array(list(types), pa.string()), "dimensions": listed}))
    con.execute(statement("dataset_names"))
