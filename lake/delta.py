"""The Delta tables of a site: append rows, add finished files, list live files, read them with DuckDB.

Every commit is durable before it is acknowledged (delta-rs never calls fsync), carries an application transaction where the
caller gives one (so that a repetition is a no-op), and is retried when another writer was first. Data files are written
here with pyarrow, because they must be durable before the commit that names them, with page checksums.
"""

from __future__ import annotations

import json
import os
import random
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, Transaction
from deltalake.exceptions import CommitFailedError, DeltaProtocolError, TableNotFoundError
from deltalake.exceptions import DeltaError as DeltaLibraryError
from deltalake.transaction import AddAction, RemoveAction

import schemas
from lake.site import LakeError, Site, fsync_dir, fsync_file

#: A handle must read every commit since the last checkpoint (0.25 ms each): check often. Logs outlive any campaign.
CONFIGURATION = {"delta.checkpointInterval": "20", "delta.logRetentionDuration": "interval 1000 days"}
ATTEMPTS = 12
ROW_GROUP = 131_072
REFUSED_FEATURES = {"deletionVectors", "columnMapping", "v2Checkpoint", "v2Checkpoint-preview"}
SQL_TYPES = {
    pa.bool_(): "BOOLEAN", pa.int16(): "SMALLINT", pa.int32(): "INTEGER", pa.int64(): "BIGINT", pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE", pa.string(): "VARCHAR", pa.timestamp("us", "UTC"): "TIMESTAMPTZ",
}  # fmt: skip
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+")


class DeltaError(LakeError):
    """A Delta table cannot be used or written; the message names site and table and what to do."""


@dataclass(frozen=True)
class AddFile:
    """A finished parquet file: ``path`` relative to the table's directory, ``stats`` as Delta's JSON."""

    path: str
    partition: Mapping[str, str]
    bytes: int
    rows: int
    stats: str | None = None


def connect(threads: int | None = None) -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB that loads no extension, and whose timestamps are UTC wherever it runs."""
    config: dict[str, Any] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    if threads is not None:
        config["threads"] = threads
    con = duckdb.connect(config=config)
    con.execute("SET TimeZone = 'UTC'")
    return con


# -- reading -----------------------------------------------------------------------------------------------------------


def version(site: Site, table: str) -> int:
    """The table's latest version; -1 where it does not exist yet."""
    handle = _open(site, table)
    return -1 if handle is None else int(handle.version())


def transaction_version(site: Site, table: str, app: str) -> int | None:
    """The last version that an application transaction left in a table; None if there is none."""
    handle = _open(site, table)
    return None if handle is None else handle.transaction_version(app)


def files(site: Site, table: str, prune: str | None = None) -> list[str]:
    """Absolute paths of the live parquet files, sorted; empty where the table does not exist.

    ``prune`` is a SQL condition: files whose partition values or statistics rule it out are left out.
    """
    handle = _open(site, table)
    if handle is None:
        return []
    return sorted(str(uri).removeprefix("file://") for uri in handle.file_uris(file_pruning_predicate=prune))


def added_since(site: Site, table: str, after: int) -> tuple[int, list[str]]:
    """The latest version, and the absolute paths of files whose rows were added after version ``after``, in commit order.

    Reads only the log. Rearrangements of old rows (compact) are not additions.
    """
    log = site.table_path(table) / "_delta_log"
    paths: list[str] = []
    while (entry := log / f"{after + 1:020}.json").exists():
        for line in entry.read_text().splitlines():
            add = json.loads(line).get("add")
            if add and add["dataChange"]:
                paths.append(str(log.parent / add["path"]))
        after += 1
    return after, paths


def relation(
    con: duckdb.DuckDBPyConnection, site: Site, table: str, prune: str | None = None
) -> duckdb.DuckDBPyRelation:
    """The table's rows with the declared columns; no rows where it does not exist. ``prune`` as in files(): not a filter."""
    return con.sql(select(site, table, prune))


def select(site: Site, table: str, prune: str | None = None) -> str:
    """The SELECT that relation() runs, as SQL text."""
    return scan(table, files(site, table, prune))


def scan(table: str, paths: Sequence[str]) -> str:
    """SQL that reads parquet files of a declared table with its declared columns."""
    schema = schemas.table(table)
    if not paths:
        nulls = ", ".join(f'CAST(NULL AS {SQL_TYPES[f.type]}) AS "{f.name}"' for f in schema.arrow)
        return f"SELECT {nulls} WHERE false"
    listed = ", ".join("'" + path.replace("'", "''") + "'" for path in paths)
    columns = ", ".join(f'"{name}"' for name in schema.arrow.names)
    hive = "false"
    if schema.partition_by:
        types = ", ".join(f"'{c}': {SQL_TYPES[schema.arrow.field(c).type]}" for c in schema.partition_by)
        hive = f"true, hive_types = {{{types}}}"
    return f"SELECT {columns} FROM read_parquet([{listed}], union_by_name = true, hive_partitioning = {hive})"


def _open(site: Site, table: str) -> DeltaTable | None:
    """A fresh handle (an old one gets slower and slower); None where there is no table; refuses what cannot be read right."""
    path = site.table_path(table)
    if not (path / "_delta_log").is_dir():
        return None
    try:
        handle = DeltaTable(path)
    except TableNotFoundError:
        return None
    except (DeltaLibraryError, DeltaProtocolError, OSError) as error:
        raise DeltaError(f"site {site.name}: table {table} cannot be opened: {_line(error)}") from None
    protocol = handle.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())} & REFUSED_FEATURES
    if handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if features:
        raise DeltaError(f"site {site.name}: table {table} uses {', '.join(sorted(features))}, which is not read correctly")
    following = path / "_delta_log" / f"{handle.version() + 1:020}.json"
    if following.exists() and following.stat().st_size == 0:
        raise DeltaError(
            f"site {site.name}: table {table}: the last commit {following} is empty (power cut?); "
            "it was never acknowledged: remove that file"
        )
    return handle


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
    schemas.check(table, data.schema)
    for field in schemas.table(table).arrow:
        if not field.nullable and data[field.name].null_count:
            raise schemas.SchemaError(f"table {table!r}: column {field.name!r} must not be null")
    if txn is not None and _applied(_open(site, table), txn):
        return False
    if not data.num_rows and txn is None:
        _ensure(site, table)
        return True
    written = write_files(site, table, data)
    if _commit(site, table, written, (), txn, metadata):
        return True
    for file in written:
        (site.table_path(table) / file.path).unlink()
    return False


def add_files(
    site: Site,
    table: str,
    files: Iterable[AddFile],
    txn: tuple[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
) -> bool:
    """Add finished files that lie in the table's directory, in one commit; those already live are left out.

    The caller has made the files durable. False when ``txn`` was already applied. DeltaError names a file that is missing
    or has another size.
    """
    files = list(files)
    for file in files:
        path = site.table_path(table) / file.path
        if not path.is_file() or path.stat().st_size != file.bytes:
            raise DeltaError(f"site {site.name}: table {table}: {file.path} is missing or is not {file.bytes} bytes")
    return _commit(site, table, files, (), txn, metadata, skip_live=True)


def remove_files(site: Site, table: str, paths: Iterable[str], metadata: Mapping[str, str] | None = None) -> int:
    """Take files (relative to the table's directory) out of the table; the files stay on disk. Returns how many were live."""
    live = {Path(p).relative_to(site.table_path(table)).as_posix() for p in files(site, table)}
    removed = sorted(live.intersection(paths))
    if removed:
        _commit(site, table, (), removed, None, metadata)
    return len(removed)


def replace_files(
    site: Site, table: str, removed: Sequence[str], data: pa.Table, *, data_change: bool, txn: tuple[str, int] | None = None
) -> None:
    """Put ``data`` in the place of live files, in one commit; ``data_change`` False says that the rows are the same."""
    written = write_files(site, table, data) if data.num_rows else []
    _commit(site, table, written, removed, txn, None, data_change=data_change)


def compact(site: Site, table: str, smaller_than: int = 16 * 2**20, at_least: int = 32) -> int:
    """Merge the small files of each partition that has at least ``at_least`` of them; returns how many went.

    For tables that are appended to (registry, events), never for catalogues, whose files are named by the registry.
    The caller holds the site's lock. Old files stay on disk for readers that still use them, until sweep().
    """
    handle = _open(site, table)
    if handle is None:
        return 0
    if schemas.table(table).subject == "catalogues":
        raise DeltaError(f"site {site.name}: table {table} is a catalogue: the registry names its files, they stay as they are")
    actions = pa.table(handle.get_add_actions(flatten=True))
    small = actions.filter(pc.less(actions["size_bytes"], smaller_than))["path"].to_pylist()
    groups: dict[str, list[str]] = {}
    for path in sorted(small):
        groups.setdefault(Path(path).parent.as_posix(), []).append(path)
    merged = 0
    with connect() as con:
        order = ", ".join(f'"{c}"' for c in _stat_columns(table))
        for group in groups.values():
            if len(group) >= at_least:
                rows = con.execute(f"{scan(table, [str(site.table_path(table) / p) for p in group])} ORDER BY {order}")
                data = schemas.conform(table, rows.to_arrow_table())
                replace_files(site, table, group, data, data_change=False)
                merged += len(group)
    return merged


def sweep(site: Site, table: str, older_than: float = 3600.0) -> int:
    """Remove this module's own data files that no live version names, once they are ``older_than`` seconds old."""
    live = set(files(site, table))
    removed = 0
    for path in site.table_path(table).rglob("part-*.parquet"):
        if str(path) not in live and time.time() - path.stat().st_mtime > older_than:
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def write_files(site: Site, table: str, data: pa.Table) -> list[AddFile]:
    """Write rows as durable parquet files, one per partition value, not yet part of the table."""
    schema = schemas.table(table)
    root = site.table_path(table)
    written = []
    for values, rows in partitions(table, data):
        folder = root.joinpath(*(f"{c}={v}" for c, v in values.items()))
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"part-{uuid.uuid4()}.parquet"
        metadata: list[pq.FileMetaData] = []
        try:
            pq.write_table(
                rows.select(schema.payload.names).cast(schema.payload.remove_metadata()), path, row_group_size=ROW_GROUP,
                compression="zstd", write_page_checksum=True, metadata_collector=metadata,
            )  # fmt: skip
            fsync_file(path)
            fsync_dir(folder)
        except OSError as error:
            path.unlink(missing_ok=True)
            raise DeltaError(f"site {site.name}: table {table} cannot be written: {_line(error)}") from None
        relative = path.relative_to(root).as_posix()
        written.append(AddFile(relative, values, path.stat().st_size, rows.num_rows, statistics(table, metadata[0])))
    return written


def partitions(table: str, data: pa.Table) -> list[tuple[dict[str, str], pa.Table]]:
    """Rows by partition value, in order of the values; within one, rows keep their order."""
    by = schemas.table(table).partition_by
    if not by:
        return [({}, data)]
    keys = data.select(by).append_column("_row", pa.array(range(data.num_rows), pa.int64()))
    order = keys.sort_by([(c, "ascending") for c in (*by, "_row")])["_row"]
    ordered = data.take(order)
    groups = ordered.select(by).group_by(by, use_threads=False).aggregate([([], "count_all")])
    parts, start = [], 0
    for row in groups.sort_by([(c, "ascending") for c in by]).to_pylist():
        values = {c: partition_value(table, c, row[c]) for c in by}
        parts.append((values, ordered.slice(start, row["count_all"])))
        start += row["count_all"]
    return parts


def partition_value(table: str, column: str, value: Any) -> str:
    """A partition value as it stands in paths; DeltaError for one that could not stand there as it is."""
    text = "" if value is None else str(value)
    if not text or not set(text) <= _SAFE:
        raise DeltaError(f"table {table}: {column} {value!r} cannot be a partition value (letters, digits, _ - . + only)")
    return text


def statistics(table: str, metadata: pq.FileMetaData) -> str:
    """Delta statistics of a parquet file, from its footer: rows, and min, max and nulls of the columns asked for most."""
    wanted = set(_stat_columns(table))
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    columns = {metadata.schema.column(i).name: i for i in range(metadata.num_columns)}
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for name, i in columns.items():
        if name not in wanted or not groups:
            continue
        parts = [group.column(i).statistics for group in groups]
        if any(p is None or not p.has_null_count for p in parts):
            continue
        nulls[name] = sum(p.null_count for p in parts)
        known = [p for p in parts if p.has_min_max]
        if known and len(known) == sum(p.num_values > 0 for p in parts):
            low[name] = _json(min(p.min for p in known))
            high[name] = _json(max(p.max for p in known))
    return json.dumps({"numRecords": metadata.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _json(value: Any) -> Any:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value


def _stat_columns(table: str) -> list[str]:
    """Keys, data ID columns, positions and times, in declared order."""
    schema = schemas.table(table)
    found = []
    for field in schema.arrow:
        ucd = (field.metadata or {}).get(b"ucd", b"").decode()
        keyed = field.name in schema.primary_key or field.name in schemas.DATA_ID or field.type == pa.timestamp("us", "UTC")
        if field.name not in schema.partition_by and (keyed or ucd.startswith(("pos.eq", "time.epoch"))):
            found.append(field.name)
    return found


def _ensure(site: Site, table: str) -> DeltaTable:
    """The table's handle, made if it is not there; two that make it at once are both served."""
    handle = _open(site, table)
    if handle is not None:
        return handle
    schema = schemas.table(table)
    path = site.table_path(table)
    try:
        path.mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            path, schema=schema.arrow.remove_metadata(), mode="error", partition_by=list(schema.partition_by),
            description=schema.description, configuration=CONFIGURATION,
        )  # fmt: skip
        _fsync_log(path, 0)
        fsync_dir(path)
        fsync_dir(path.parent)
    except DeltaLibraryError:
        pass  # another process made it in this moment; if not, opening says why
    except OSError as error:
        raise DeltaError(f"site {site.name}: table {table} cannot be made: {_line(error)}") from None
    handle = _open(site, table)
    if handle is None:
        raise DeltaError(f"site {site.name}: table {table} could not be made in {path}; is the disk full or read-only?")
    return handle


def _applied(handle: DeltaTable | None, txn: tuple[str, int]) -> bool:
    last = None if handle is None else handle.transaction_version(txn[0])
    return last is not None and last >= txn[1]


def _commit(
    site: Site,
    table: str,
    added: Sequence[AddFile],
    removed: Sequence[str],
    txn: tuple[str, int] | None,
    metadata: Mapping[str, str] | None,
    *,
    data_change: bool = True,
    skip_live: bool = False,
) -> bool:
    """One commit. The guard only holds when the handle that was asked for the transaction is the one that commits."""
    schema = schemas.table(table)
    now = int(time.time() * 1000)
    properties = CommitProperties(
        custom_metadata=dict(metadata or {}), app_transactions=[Transaction(*txn)] if txn is not None else None
    )
    for attempt in range(ATTEMPTS):
        handle = _ensure(site, table)
        if txn is not None and _applied(handle, txn):
            return False
        live = _live(handle, site, table, added) if skip_live else set()
        actions: list[AddAction | RemoveAction] = [
            AddAction(f.path, f.bytes, dict(f.partition), now, data_change, f.stats or json.dumps({"numRecords": f.rows}))
            for f in added
            if f.path not in live
        ]
        actions += [RemoveAction(path, data_change, now, partition_values=_values(path)) for path in removed]
        if not actions and txn is None:
            return True
        before = int(handle.version())
        try:
            handle.create_write_transaction(
                actions, "append", schema.arrow.remove_metadata(), list(schema.partition_by), commit_properties=properties
            )
        except CommitFailedError as error:
            if attempt == ATTEMPTS - 1:
                raise DeltaError(f"site {site.name}: table {table}: commit failed {ATTEMPTS} times: {_line(error)}") from None
            time.sleep(random.uniform(0, 0.01) * 2 ** min(attempt, 6))
            continue
        except (DeltaLibraryError, OSError) as error:
            raise DeltaError(f"site {site.name}: table {table} cannot be written: {_line(error)}") from None
        _fsync_log(site.table_path(table), before + 1)
        return True
    raise AssertionError("unreachable")


def _live(handle: DeltaTable, site: Site, table: str, added: Sequence[AddFile]) -> set[str]:
    """Which of the files to be added are live already (only their partitions are listed)."""
    schema = schemas.table(table)
    prune = " AND ".join(
        f"{c} IN ({', '.join(sorted({_literal(schema.arrow.field(c).type, f.partition[c]) for f in added}))})"
        for c in schema.partition_by
    )
    root = site.table_path(table)
    uris = handle.file_uris(file_pruning_predicate=prune or None) if added else []
    return {Path(str(uri).removeprefix("file://")).relative_to(root).as_posix() for uri in uris}


def _literal(kind: pa.DataType, value: str) -> str:
    return f"'{value}'" if kind == pa.string() else value


def _values(path: str) -> dict[str, str | None]:
    return dict(part.split("=", 1) for part in path.split("/")[:-1])  # type: ignore[arg-type]


def _fsync_log(path: Path, first: int) -> None:
    """Make the log durable from a version on (the handle does not know which version its commit became)."""
    log = path / "_delta_log"
    number = first
    while (entry := log / f"{number:020}.json").exists():
        fsync_file(entry)
        checkpoint = log / f"{number:020}.checkpoint.parquet"
        if checkpoint.exists():
            fsync_file(checkpoint)
            fsync_file(log / "_last_checkpoint")
        number += 1
    fsync_dir(log)


def _line(error: BaseException) -> str:
    """An error as one line."""
    if isinstance(error, OSError) and error.strerror:
        return os.strerror(error.errno) if error.errno else error.strerror
    return " ".join(str(error).split())[:300]
