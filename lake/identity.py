"""What a dataset is called: the UUIDv5 of its type, run and data ID, the same at every site, computed in SQL."""

from __future__ import annotations

import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta
from lake.parquet import ordered
from lake.site import LakeError
from lake.sql import statement

#: The namespace of the project's UUIDv5s.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "multisite-drp")
_BLOB = "'" + "".join(f"\\x{byte:02X}" for byte in NAMESPACE.bytes) + "'::BLOB"
#: By the code of a hexadecimal digit, that of the digit with its two highest bits set to 10.
_VARIANT = np.zeros(256, np.uint8)
_VARIANT[list(b"0123456789abcdef")] = list(b"89ab" * 4)


class RegistryError(LakeError):
    """The registry cannot do what was asked; the message names the thing and the remedy."""


def install_uuid5(con: duckdb.DuckDBPyConnection) -> None:
    """Make the SQL macro uuid5(text) on a connection; equal to Python's uuid.uuid5(NAMESPACE, text)."""
    con.execute(statement("uuid5").replace("$namespace", _BLOB))


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
        names = named(cursor, table, dimensions_by_type)["computed_id"]
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


def named(con: duckdb.DuckDBPyConnection, table: pa.Table, types: Mapping[str, Sequence[str]]) -> pa.Table:
    """For each row its computed_id, null where its type is not known, and ``missing``, the required dimensions without a value.

    A value that is missing stands as "?" in what the id is computed from.
    """
    table = padded(table)
    con.register("nameless", table)
    gaps = {column for column in schemas.DATA_ID if table[column].null_count}
    kinds = {name: types[name] for name in sorted(table["dataset_type"].unique().drop_null().to_pylist()) if name in types}
    same = shared(table, {"dataset_type", "run"}.union(*kinds.values()))
    of = _literal(same["dataset_type"]) if "dataset_type" in same else "dataset_type"
    names = [_name(_in_order(kind), gaps, same) for kind in kinds.values()]
    missing = [
        f"concat_ws(', ', NULL::VARCHAR{''.join(map(_absent, _in_order(gaps.intersection(kind))))})" for kind in kinds.values()
    ]
    digest = f"sha1({_BLOB} || encode({_of_kind(kinds, names, of)}))"
    found = con.sql(f"SELECT ordinal, {digest} AS digest, {_of_kind(kinds, missing, of)} AS missing FROM nameless").to_arrow_table()
    found = ordered(found, ["ordinal"])
    return pa.table({"computed_id": _from_digest(found["digest"]), "missing": found["missing"]})


def _from_digest(digests: pa.ChunkedArray) -> pa.Array:
    """The UUIDv5 texts of SHA-1 digests in hexadecimal (RFC 9562, 5.5), null where there is none: as the macro uuid5."""
    known = digests.is_valid()
    filled = digests.combine_chunks() if not digests.null_count else pc.fill_null(digests, "0" * 40).combine_chunks()
    count = len(filled)
    buffers, first = filled.buffers(), filled.offset
    begin = np.frombuffer(buffers[1], np.int32, first + 1)[first]
    hexes = np.frombuffer(buffers[2], np.uint8, 40 * count, begin).reshape(count, 40)
    texts = np.empty((count, 36), np.uint8)
    for at, start, end in ((0, 0, 8), (9, 8, 12), (15, 13, 16), (20, 17, 20), (24, 20, 32)):
        texts[:, at : at + end - start] = hexes[:, start:end]
    texts[:, (8, 13, 18, 23)] = ord("-")
    texts[:, 14] = ord("5")
    texts[:, 19] = _VARIANT[hexes[:, 16]]
    offsets = np.arange(0, 36 * count + 1, 36, dtype=np.int32)
    made = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(texts))
    return made if not digests.null_count else pc.if_else(known.combine_chunks(), made, None)


def _in_order(dimensions: Collection[str]) -> list[str]:
    return [column for column in schemas.DATA_ID if column in dimensions]


def shared(table: pa.Table, columns: Iterable[str]) -> dict[str, str]:
    """Of those columns of text that have one value in all rows, that value."""
    texts = {c: table[c] for c in columns if pa.types.is_string(table.schema.field(c).type) and table.num_rows}
    return {c: v[0].as_py() for c, v in texts.items() if v[0].is_valid and pc.all(pc.equal(v, v[0]), skip_nulls=False).as_py()}


def _name(dimensions: Sequence[str], gaps: Collection[str], same: Mapping[str, str]) -> str:
    """SQL for what the id of a row is computed from; what all rows share is part of its text."""
    terms, text = [], ""
    for before, column in (("", "dataset_type"), ("|", "run"), *((f"|{c}=", c) for c in dimensions)):
        text += before + same.get(column, "")
        if column not in same:
            terms += [_literal(text), f"ifnull({column}::VARCHAR, '?')" if column in gaps else column]
            text = ""
    return f"concat({', '.join([*terms, _literal(text)] if text else terms)})"


def _absent(column: str) -> str:
    return f", if({column} IS NULL, '{column}', NULL)"


def _of_kind(kinds: Iterable[str], values: Iterable[str], of: str) -> str:
    """SQL for the value of a row's dataset type; null for any other type."""
    cases = " ".join(f"WHEN {_literal(kind)} THEN {value}" for kind, value in zip(kinds, values, strict=True))
    return f"CASE {of} {cases} END" if cases else "NULL::VARCHAR"


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
