"""Keep tables fast and their directories clean: merge small files, remove what no version names any more."""

from __future__ import annotations

import time

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta
from lake.parquet import APPENDED, DeltaError, indexed_columns
from lake.site import Site

#: Readers may hold an old list of files for as long as their query runs.
HORIZON = 6 * 3600.0


def compact(site: Site, table: str, smaller_than: int = 16 * 2**20, at_least: int = 32) -> int:
    """Merge the small files of each partition that has at least ``at_least`` of them; returns how many were merged.

    For tables that are appended to (registry, events), never for catalogues, whose files the registry names. The caller
    holds the lock of the table's writers. Old files stay on disk for readers that still use them, until sweep().
    """
    if schemas.table(table).subject == "catalogues":
        raise DeltaError(f"site {site.name}: table {table}: the registry names its files, they stay as they are")
    handle = delta.open_table(site, table)
    if handle is None:
        return 0
    actions = pa.table(handle.get_add_actions(flatten=True))
    groups: dict[str, list[str]] = {}
    for path in sorted(actions.filter(pc.less(actions["size_bytes"], smaller_than))["path"].to_pylist()):
        groups.setdefault(path.rpartition("/")[0], []).append(path)
    order = ", ".join(f'"{c}"' for c in indexed_columns(table))
    merged = 0
    with delta.cursor() as con:
        for group in groups.values():
            if len(group) >= at_least:
                paths = [str(site.table_path(table) / path) for path in group]
                rows = con.sql(f"FROM ({delta.scan(table, paths)}) ORDER BY {order}")
                delta.replace_files(site, table, group, schemas.conform(table, rows.to_arrow_table()))
                merged += len(group)
    return merged


def sweep(site: Site, table: str, older_than: float = HORIZON) -> int:
    """Remove files of appended rows that no live version names, ``older_than`` seconds old at least; returns how many.

    They come from compact(), or from a writer that died before its commit.
    """
    live = set(delta.files(site, table))
    removed = 0
    for path in list(site.table_path(table).rglob(f"{APPENDED}*.parquet*")):
        if str(path) not in live and time.time() - path.stat().st_mtime > older_than:
            path.unlink(missing_ok=True)
            removed += 1
    return removed
