"""What lies in a site's storage, and what names it: registry, parked rows, transfers, the logs of the Delta tables."""

from __future__ import annotations

import json
import os
import time
from typing import cast

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta, snapshot
from lake.access import at
from lake.datastore import TEMPORARY
from lake.janitor import UNFINISHED
from lake.objects import ObjectPath
from lake.site import LakeError, Site, table_dir

ROOTS = ("files", "tables")
#: Tables that account for files in which no registered dataset is (named.sql).
NAMING = ("parked", "transfer", "tombstone")
#: What belongs into a Delta log.
LOG_FILE = r"^(\d{20}\.json|\d{20}\.checkpoint(\.\d+\.\d+)?\.parquet|\d{20}\.crc|_last_checkpoint)$"

STORAGE = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("age", pa.float64()), ("kind", pa.string())])
LIVE = pa.schema([("path", pa.string()), ("table", pa.string()), ("catalogue", pa.bool_())])


def listing(site: Site) -> pa.Table:
    """Every file below ``files/`` and ``tables/``: path (relative to the site), bytes, age (s), kind.

    kind is ``data``, ``log`` (a Delta log's own file) or ``unfinished`` (a temporary name). One thread: several would
    spend more on passing the interpreter's lock around than the system spends on answering.
    """
    now, logs = time.time(), {f"{table_dir(name)}/_delta_log" for name in schemas.tables()}
    parts, folders = [STORAGE.empty_table()], list(ROOTS)
    if isinstance(site.root, ObjectPath):
        parts, folders = [_objects(site, root, now, logs) for root in ROOTS], []
    while folders:
        folder = folders.pop()
        files, inner = _folder(site, folder, now, folder in logs)
        parts.append(files)
        folders += inner
    return pa.concat_tables(parts)


def _folder(site: Site, folder: str, now: float, log: bool) -> tuple[pa.Table, list[str]]:
    """The files of one directory, as listing() gives them, and the directories in it."""
    folders, names, sizes, times = [], [], [], []
    try:
        with os.scandir(site.root / folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{folder}/{entry.name}")
                    continue
                try:
                    found = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue  # it was temporary, and went while we looked
                names.append(entry.name)
                sizes.append(found.st_size)
                times.append(max(found.st_mtime, found.st_ctime))  # a linked file brings an old mtime along
    except FileNotFoundError:
        pass
    except OSError as error:
        path = site.root / folder
        raise LakeError(f"{path}: cannot be listed ({error.strerror}); check the disk and its permissions") from None
    try:
        named = pa.array(names, pa.string())
    except UnicodeEncodeError:  # a name that is not UTF-8 is none of ours: it is shown with its odd bytes written out
        named = pa.array([os.fsencode(name).decode(errors="backslashreplace") for name in names], pa.string())
    paths = pc.binary_join_element_wise(folder, named, "/")
    return _files(paths, named, sizes, times, now, log, f"/{TEMPORARY}" in folder), folders


def _objects(site: Site, root: str, now: float, logs: set[str]) -> pa.Table:
    """The objects below a prefix, as listing() gives them: a store lists them all, and knows no directories."""
    found = list(cast(ObjectPath, site.path(root)).listing())
    paths = pa.array([f"{root}/{rel}" for rel, _, _ in found], pa.string())
    names = pa.array([rel.rpartition("/")[2] for rel, _, _ in found], pa.string())
    log = pa.array([f"{root}/{rel}".rpartition("/")[0] in logs for rel, _, _ in found], pa.bool_())
    return _files(paths, names, [size for _, size, _ in found], [changed for _, _, changed in found], now, log)


def _files(
    paths: pa.Array,
    names: pa.Array,
    sizes: list[int],
    times: list[float],
    now: float,
    log: bool | pa.BooleanArray,
    unfinished: bool = False,
) -> pa.Table:
    """A part of a listing; ``log``: whether a file is where a Delta log is; ``unfinished``: they are in a temporary directory."""
    named = pc.or_(pc.match_substring_regex(names, f"^({UNFINISHED.pattern})$"), unfinished)
    kinds = pc.if_else(named, "unfinished", "data")
    kinds = pc.if_else(pc.and_(pc.match_substring_regex(names, LOG_FILE), log), "log", kinds)
    return pa.table([paths, pa.array(sizes, pa.int64()), pc.subtract(now, pa.array(times, pa.float64())), kinds], schema=STORAGE)


def registered(site: Site) -> pa.Table:
    """Files that registered datasets are in, and bundles of the archive: path, file_bytes, file_checksum, datasets,
    registered_at (the first of them)."""
    with delta.cursor() as con:
        view(con, site, "dataset")
        view(con, site, "archive_bundle")
        return con.sql(
            "SELECT path, any_value(file_bytes) AS file_bytes, any_value(file_checksum) AS file_checksum, "
            "count(*) AS datasets, min(registered_at) AS registered_at FROM dataset GROUP BY path "
            "UNION ALL SELECT path, bytes, checksum, datasets, noted_at FROM ("
            "FROM archive_bundle WHERE location = '' QUALIFY row_number() OVER (PARTITION BY bundle_id ORDER BY noted_at DESC) = 1"
            ") WHERE state IN ('stored', 'damaged')"
        ).to_arrow_table()


def view(con: duckdb.DuckDBPyConnection, site: Site, table: str) -> None:
    """A view of a table's rows in files that can be read: an audit must not stumble over what it looks for."""
    readable = [path for path in delta.files(site, table) if at(path).is_file() and at(path).stat().st_size]
    con.execute(f'CREATE OR REPLACE TEMP VIEW "{table}" AS {delta.scan(table, readable)}')


def live(site: Site) -> pa.Table:
    """Data files that Delta tables hold: path, table, catalogue (True where the registry must name the file too)."""
    rows: list[tuple[str, str, bool]] = []
    for name, schema in schemas.tables().items():
        rows += [(site.relative(path), name, schema.subject == "catalogues") for path in delta.files(site, name)]
    return pa.table(list(map(list, zip(*rows, strict=True))) or [[], [], []], schema=LIVE)


def retired(site: Site, strays: list[str]) -> set[str]:
    """Data files that tables gave up: merged into others (their log took them out, upkeep removes them), or kept by a snapshot."""
    found: set[str] = set()
    for name in schemas.tables() if strays else ():
        found |= {site.relative(path) for path in snapshot.paths(site, name)}
    for name, schema in schemas.tables().items():
        prefix = table_dir(name) + "/"
        if schema.subject == "catalogues" or not any(path.startswith(prefix) for path in strays):
            continue
        for log in sorted((site.table_path(name) / "_delta_log").glob("*.json")):
            for line in log.read_text().splitlines():
                if '"remove"' in line:
                    removed = json.loads(line).get("remove")
                    found |= {prefix + removed["path"]} if removed else set()
    return found
