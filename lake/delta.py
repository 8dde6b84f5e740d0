"""The Delta tables of a site: append rows, add finished files, list live files, read them with DuckDB.

Every commit is durable before it is acknowledged (delta-rs never calls fsync), carries an application transaction where
the caller gives one (so that a repetition is a no-op), and is retried when another writer was first.
"""

from __future__ import annotations

import atexit
import json
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

import schemas
from lake.access import at, attach
from lake.commit import Overtaken, commit
from lake.fault import point
from lake.handle import applied, current, ensure_table, live_files, open_table
from lake.parquet import AddFile, DeltaError, write_files
from lake.site import Site
from lake.sql import statement

__all__ = [
    "SQL_TYPES", "AddFile", "DeltaError", "Overtaken", "add_files", "added_since", "append", "connect", "cursor", "files",
    "newest", "open_table", "relation", "remove_files", "replace_files", "scan", "select", "transaction_version", "version", "view",
]  # fmt: skip

SQL_TYPES = {
    pa.bool_(): "BOOLEAN", pa.int16(): "SMALLINT", pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE", pa.string(): "VARCHAR", pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
}  # fmt: skip


_OPENING = threading.Lock()


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that loads no extension, knows lake/sql/macros.sql, and whose timestamps are UTC wherever it runs."""
    config: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    if threads is not None:
        config["threads"] = threads
    con = duckdb.connect(config=config)
    con.execute("SET TimeZone = 'UTC'")
    con.execute(statement("macros"))
    attach(con)
    return con


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One database for all short queries of the process: opening one costs more than most of them."""
    atexit.register(_database.cache_clear)  # left to the interpreter's end, it would be reported as leaked
    con = connect()
    con.execute("SET GLOBAL TimeZone = 'UTC'")
    return con


def cursor() -> duckdb.DuckDBPyConnection:
    """A connection for a few queries, ten times cheaper than connect(): make temporary objects on it only, and close it."""
    with _OPENING:
        attach(_database())
        return _database().cursor()


def view(con: duckdb.DuckDBPyConnection, site: Site, table: str, prune: str | None = None) -> None:
    """Make the table a temporary view of its name on ``con``."""
    con.execute(f'CREATE OR REPLACE TEMP VIEW "{table}" AS {select(site, table, prune)}')


# -- reading -----------------------------------------------------------------------------------------------------------


def version(site: Site, table: str) -> int:
    """The table's latest version; -1 where it does not exist yet."""
    handle = current(site, table)
    return -1 if handle is None else int(handle.version())


def newest(site: Site, table: str, known: int | None = None) -> int:
    """The number of the last commit, from the names in the log; -1 for a table that was never written.

    With the number ``known`` from the last time two names are looked for instead of all listed: the log grows one by one,
    and is cut from its beginning.
    """
    log = site.table_path(table) / "_delta_log"
    if known is not None and known >= 0 and not (log / f"{known + 1:020}.json").exists() and (log / f"{known:020}.json").exists():
        return known
    return max((int(path.stem) for path in log.glob("*.json") if path.stem.isdigit()), default=-1)


def transaction_version(site: Site, table: str, app: str) -> int | None:
    """The last version that an application transaction left in a table; None if there is none."""
    handle = current(site, table)
    return None if handle is None else handle.transaction_version(app)


def files(site: Site, table: str, prune: str | None = None) -> list[str]:
    """Absolute paths of the live parquet files, sorted; empty where the table does not exist.

    ``prune`` is a SQL condition: files whose partition values or statistics rule it out are left out.
    """
    handle = current(site, table)
    if handle is None:
        return []
    root = site.table_path(table)
    return [str(root / path) for path in live_files(handle, site, table, prune)]


def added_since(site: Site, table: str, after: int) -> tuple[int, list[str]]:
    """The latest version, and the absolute paths of files with rows added after version ``after``, in commit order.

    Reads only the log. Rearrangements of old rows (compact) are not additions. Where the log was cut before it was read,
    all live files are given: too much rather than too little.
    """
    log = site.table_path(table) / "_delta_log"
    paths: list[str] = []
    if not (log / f"{after + 1:020}.json").exists() and (latest := version(site, table)) > after:
        return latest, files(site, table)
    while (entry := log / f"{after + 1:020}.json").exists():
        for line in entry.read_text().splitlines():
            add = json.loads(line).get("add")
            if add and add["dataChange"]:
                paths.append(str(log.parent / add["path"]))
        after += 1
    return after, paths


def relation(con: duckdb.DuckDBPyConnection, site: Site, table: str, prune: str | None = None) -> duckdb.DuckDBPyRelation:
    """The table's rows, declared columns; none where it does not exist. ``prune`` as in files(): not a filter."""
    return con.sql(select(site, table, prune))


def select(site: Site, table: str, prune: str | None = None) -> str:
    """The SELECT that relation() runs, as SQL text."""
    return scan(table, files(site, table, prune))


def scan(table: str, paths: Sequence[str], filename: bool = False) -> str:
    """SQL that reads parquet files of a declared table with its declared columns, and ``filename``, if wanted, last."""
    schema = schemas.table(table)
    if not paths:
        nulls = ", ".join(f'CAST(NULL AS {SQL_TYPES[f.type]}) AS "{f.name}"' for f in schema.arrow)
        return f"SELECT {nulls}{', NULL::VARCHAR AS filename' if filename else ''} WHERE false"
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    columns = ", ".join(f'"{name}"' for name in schema.arrow.names)
    hive = "false"
    if schema.partition_by:
        types = ", ".join(f"'{c}': {SQL_TYPES[schema.arrow.field(c).type]}" for c in schema.partition_by)
        hive = f"true, hive_types = {{{types}}}"
    if filename:
        columns, hive = f"{columns}, filename", f"{hive}, filename = true"
    return f"SELECT {columns} FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = {hive})"


# -- writing -----------------------------------------------------------------------------------------------------------


def append(
    site: Site,
    table: str,
    data: pa.Table,
    txn: tuple[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bool:
    """Append rows in one commit; False when ``txn`` (application, version) is already in the table.

    The schema must be the declared one (SchemaError). The table is created by its first append.
    """
    checked(table, data)
    handle = ensure_table(site, table)
    if (txn is not None and applied(handle, txn)) or (txn is None and not data.num_rows):
        return txn is None
    return stage(site, table, data).commit(txn, metadata, handle)


@dataclass
class Staged:
    """Durable files of rows that are no part of their table yet; discarded when this is left, unless they were committed."""

    site: Site
    table: str
    files: list[AddFile]
    kept: bool = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def commit(
        self, txn: tuple[str, int] | None = None, metadata: Mapping[str, str] | None = None, handle: DeltaTable | None = None
    ) -> bool:
        """Make the files part of their table, as append() does; where it returns False, they are gone."""
        self.kept = True  # also where this fails: the commit may have been made
        self.kept = commit(self.site, self.table, self.files, (), txn, metadata, handle=handle)
        self.discard()
        return self.kept

    @property
    def whole(self) -> bool:
        """Whether nobody removed a file meanwhile: nothing names them before they are committed."""
        return all((self.site.table_path(self.table) / file.path).exists() for file in self.files)

    def discard(self) -> None:
        """Remove the files, if they are not in the table."""
        for file in self.files if not self.kept else ():
            (self.site.table_path(self.table) / file.path).unlink(missing_ok=True)


def stage(site: Site, table: str, data: pa.Table) -> Staged:
    """Write rows durably, to be committed or discarded. SchemaError as in append()."""
    checked(table, data)
    return Staged(site, table, write_files(site, table, data))


def checked(table: str, data: pa.Table) -> None:
    """SchemaError where rows do not have the declared columns and types, or nulls where none may be."""
    schemas.check(table, data.schema)
    for field in schemas.table(table).arrow:
        if not field.nullable and data[field.name].null_count:
            raise schemas.SchemaError(f"table {table!r}: column {field.name!r} must not be null")


def add_files(
    site: Site,
    table: str,
    files: Iterable[AddFile],
    txn: tuple[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
    verify: bool = True,
) -> bool:
    """Add finished files that lie in the table's directory, in one commit; those already live are left out.

    The caller has made the files durable. False when ``txn`` was already applied. DeltaError names a file that is
    missing or has another size (``verify`` False: not looked at).
    """
    files = list(files)
    for file in files if verify else ():
        path = site.table_path(table) / file.path
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise DeltaError(f"site {site.name}: table {table}: {file.path} is missing or is not {file.bytes} bytes")
    return commit(site, table, files, (), txn, metadata, skip_live=True)


def remove_files(site: Site, table: str, paths: Iterable[str], metadata: Mapping[str, str] | None = None) -> int:
    """Take files (relative to the table's directory) out of the table, not off the disk; returns how many were live."""
    root, wanted = site.table_path(table), set(paths)
    while removed := sorted(wanted.intersection(at(p).relative_to(root).as_posix() for p in files(site, table))):
        with suppress(Overtaken):
            commit(site, table, (), removed, None, metadata)
            return len(removed)
    return 0


def replace_files(
    site: Site, table: str, removed: Sequence[str], count: int, parts: Iterable[tuple[str, pa.Table]], pruned: str | None = None
) -> None:
    """Put the same rows, rearranged, in the place of live files, in one commit; Overtaken when one is not live any more.

    Each of the parts goes to files of its own, whose names begin with what is given with it. Rows are left out only by the
    operation ``pruned``. DeltaError, and nothing is changed, where the new files do not have ``count`` rows in all.
    """
    metadata = None if pruned is None else {"pruned": pruned}
    with Staged(site, table, []) as staged:
        for mark, rows in parts:
            staged.files += write_files(site, table, rows, mark)
            point("upkeep:written")
        if (written := sum(file.rows for file in staged.files)) != count:
            raise DeltaError(f"site {site.name}: table {table}: {count} rows became {written}; nothing was changed, report this")
        staged.kept = True  # also where this fails: the commit may have been made
        try:
            commit(site, table, staged.files, removed, None, metadata, data_change=pruned is not None)
        except Overtaken:
            staged.kept = False
            raise
