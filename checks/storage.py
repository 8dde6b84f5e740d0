"""What lies in a site's storage, and what names it: registry, parked rows, transfers, the logs of the Delta tables."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from lake import datastore, delta, snapshot
from lake.access import at, source
from lake.janitor import UNFINISHED
from lake.objects import ObjectPath
from lake.site import LakeError, Site, table_dir

Progress = Callable[[int, int], None]
ROOTS = ("files", "tables")
#: Threads that read files for their checksums: hashing releases the interpreter lock, and disks like company.
WORKERS = min(4, os.cpu_count() or 1)
#: What belongs into a Delta log.
LOG_FILE = re.compile(r"\d{20}\.json|\d{20}\.checkpoint(\.\d+\.\d+)?\.parquet|\d{20}\.crc|_last_checkpoint")

STORAGE = pa.schema([("path", pa.string()), ("bytes", pa.int64()), ("age", pa.float64()), ("kind", pa.string())])
LIVE = pa.schema([("path", pa.string()), ("table", pa.string()), ("catalogue", pa.bool_())])


def listing(site: Site) -> pa.Table:
    """Every file below ``files/`` and ``tables/``: path (relative to the site), bytes, age (s), kind.

    kind is ``data``, ``log`` (a Delta log's own file) or ``unfinished`` (a temporary name).
    """
    now = time.time()
    logs = {f"{table_dir(name)}/_delta_log" for name in schemas.tables()}
    paths, sizes, ages, kinds = [], [], [], []
    for root in ROOTS:
        for rel, size, changed in _found(site.path(root)):
            paths.append(f"{root}/{rel}")
            sizes.append(size)
            ages.append(now - changed)
            kinds.append(_kind(paths[-1], rel.rpartition("/")[2], logs))
    return pa.table([paths, sizes, ages, kinds], schema=STORAGE)


def _found(root: Path) -> Iterator[tuple[str, int, float]]:
    """Every file below a directory or prefix: its path relative to that, bytes, time of last change."""
    if isinstance(root, ObjectPath):
        yield from root.listing()
        return
    for entry in _walk(root):
        try:
            found = entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            continue  # it was temporary, and went while we looked
        yield entry.path[len(str(root)) + 1 :], found.st_size, found.st_mtime


def _walk(folder: Path | str) -> Iterator[os.DirEntry[str]]:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except FileNotFoundError:
        return
    except OSError as error:
        raise LakeError(f"{folder}: cannot be listed ({error.strerror}); check the disk and its permissions") from None
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path)
        else:
            yield entry


def _kind(path: str, name: str, logs: set[str]) -> str:
    if UNFINISHED.fullmatch(name):
        return "unfinished"
    return "log" if path.rpartition("/")[0] in logs and LOG_FILE.fullmatch(name) else "data"


def registered(site: Site) -> pa.Table:
    """Files that registered datasets are in, and bundles of the archive: path, file_bytes, file_checksum, datasets; by path."""
    with delta.connect() as con:
        view(con, site, "dataset")
        view(con, site, "archive_bundle")
        return con.sql(
            "SELECT path, any_value(file_bytes) AS file_bytes, any_value(file_checksum) AS file_checksum, "
            "count(*) AS datasets FROM dataset GROUP BY path "
            "UNION ALL SELECT path, bytes, checksum, datasets FROM ("
            "FROM archive_bundle WHERE location = '' QUALIFY row_number() OVER (PARTITION BY bundle_id ORDER BY noted_at DESC) = 1"
            ") WHERE state IN ('stored', 'damaged') ORDER BY path"
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


def altered(site: Site, files: pa.Table, progress: Progress = lambda done, total: None) -> dict[str, str]:
    """Files whose sha256 is not the registered one, with the difference in words; ``files`` as registered() gives them.

    ``progress(bytes done, bytes in all)`` is called as files are read.
    """
    total, done, wrong = sum(files["file_bytes"].to_pylist()), 0, {}
    names = ("path", "file_bytes", "file_checksum")
    rows = list(zip(*(files[name].to_pylist() for name in names), strict=True))
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="audit") as pool:
        for (path, size, _), problem in zip(rows, pool.map(lambda row: _difference(site, *row), rows), strict=True):
            if problem is not None:
                wrong[path] = problem
            done += size
            progress(done, total)
    return wrong


def _difference(site: Site, path: str, size: int, sha256: str) -> str | None:
    try:
        problem = datastore.check(site, path, size, sha256)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if problem is None:
        return None
    words = problem.partition(f"{path} ")[2] or problem
    return re.sub(r"\b([0-9a-f]{12})[0-9a-f]{52}\b", r"\1...", words)


def rotten(site: Site, paths: list[str]) -> dict[str, str]:
    """Parquet files of event tables (no registry knows their checksum) that fail their page checksums."""
    wrong = {}
    for path in paths:
        try:
            with pq.ParquetFile(source(site.path(path)), page_checksum_verification=True) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group)
        except (OSError, pa.ArrowInvalid) as error:
            wrong[path] = f"cannot be read: {' '.join(str(error).split())[:200]}"
    return wrong
