"""Handles of Delta tables: opened with what cannot be read right refused, and kept by a thread from one use to the next.

A kept handle is brought up to date when it is asked for: the names in the log say whether there is a newer commit. It costs a
fifth of opening, and nothing where there is none.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from deltalake import DeltaTable
from deltalake.exceptions import DeltaError as DeltaLibraryError
from deltalake.exceptions import DeltaProtocolError, TableNotFoundError

import schemas
from lake.access import delta_options
from lake.durable import fsync_dir, fsync_file
from lake.objects import is_object
from lake.parquet import DeltaError
from lake.site import Site, one_line

#: The library removes nothing by itself: lake.upkeep does, durably. Checkpoints remember removed files for as long as that waits.
CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 1000 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
#: A handle reads every commit since the last checkpoint (0.25 ms each): make one after so many commits, and open a kept one anew.
CHECKPOINT_EVERY = 20
#: Handles that a thread keeps.
KEPT = 64
REFUSED_FEATURES = {"deletionVectors", "columnMapping", "v2Checkpoint", "v2Checkpoint-preview"}


def open_table(site: Site, table: str) -> DeltaTable | None:
    """A fresh handle, for the caller alone; None where there is no table; refuses what cannot be read right."""
    path = site.table_path(table)
    if not (path / "_delta_log").is_dir():
        return None
    try:
        handle = DeltaTable(str(path), storage_options=delta_options(path))
    except TableNotFoundError:
        return None
    except (DeltaLibraryError, DeltaProtocolError, OSError) as error:
        remedy = "; if its newest checkpoint is damaged, remove that and _last_checkpoint: the log itself is whole"
        remedy = remedy if (path / "_delta_log" / "_last_checkpoint").exists() else ""
        raise DeltaError(f"site {site.name}: table {table} cannot be opened: {one_line(error)}{remedy}") from None
    return _readable(handle, site, table)


def _readable(handle: DeltaTable, site: Site, table: str) -> DeltaTable:
    """The handle; DeltaError where its table has what is not read right, lacks declared columns, or has an empty last commit."""
    protocol = handle.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())} & REFUSED_FEATURES
    if handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if features:
        raise DeltaError(f"site {site.name}: table {table} uses {', '.join(sorted(features))}, which is not read correctly")
    columns = [field.name for field in handle.schema().fields]
    if set(schemas.table(table).arrow.names) - set(columns):
        raise _made_with(columns, site, table)
    path = site.table_path(table)
    for number in () if is_object(path) else (handle.version(), handle.version() + 1):
        last = entry(path, number)
        if last.exists() and last.stat().st_size == 0:
            raise DeltaError(
                f"site {site.name}: table {table}: the last commit {last} is empty (power cut?); "
                "it was never acknowledged: remove that file"
            )
    return handle


def _made_with(columns: Sequence[str], site: Site, table: str) -> DeltaError:
    changed = ", ".join(sorted(set(columns) ^ set(schemas.table(table).arrow.names))) or "their order"
    return DeltaError(f"site {site.name}: table {table} was made with other columns ({changed}); use a new lake")


@dataclass
class _Kept:
    """A handle, the version that it was opened at, and what its last commit's file looked like."""

    handle: DeltaTable
    opened: int
    seen: object


class _Keeping(threading.local):
    """The handles of one thread, by directory of the table, the one used last at the end."""

    def __init__(self) -> None:
        self.handles: OrderedDict[Path, _Kept] = OrderedDict()


_keeping = _Keeping()


def current(site: Site, table: str) -> DeltaTable | None:
    """The handle that this thread keeps of a table, as of the last commit; as open_table() otherwise.

    It moves on when the table is asked for again: what is to stay as it is, open_table() gives.
    """
    path = site.table_path(table)
    kept = _keeping.handles.pop(path, None)
    if kept is not None:
        version = int(kept.handle.version())
        grown = entry(path, version + 1).exists()
        if _look(path, version) != kept.seen or kept.seen is None or version - kept.opened >= CHECKPOINT_EVERY:
            kept = None
        elif grown:
            with suppress(DeltaLibraryError, DeltaProtocolError, OSError):
                kept.handle.update_incremental()
            seen = _look(path, int(kept.handle.version())) if kept.handle.version() > version else None
            kept = _Kept(_readable(kept.handle, site, table), kept.opened, seen) if seen is not None else None
    if kept is None:
        handle = open_table(site, table)
        if handle is None:
            return None
        kept = _Kept(handle, int(handle.version()), _look(path, int(handle.version())))
    _keeping.handles[path] = kept
    while len(_keeping.handles) > KEPT:
        _keeping.handles.popitem(last=False)
    return kept.handle


def forget(site: Site, table: str) -> None:
    """Open the table afresh the next time."""
    _keeping.handles.pop(site.table_path(table), None)


def entry(path: Path, version: int) -> Path:
    """The file of a commit in the log of the table in a directory."""
    return path / "_delta_log" / f"{version:020}.json"


def _look(path: Path, version: int) -> object:
    """What tells the file of a commit from another one of its name; None where there is none (the log was cut)."""
    try:
        found = entry(path, version).stat()
    except OSError:
        return None
    return found.st_mtime, found.st_size, getattr(found, "st_ino", 0)


def ensure_table(site: Site, table: str) -> DeltaTable:
    """As current(); the table is made if it is not there, and two that make it at once are both served."""
    schema = schemas.table(table)
    handle = current(site, table)
    if handle is not None:
        columns = [field.name for field in handle.schema().fields]
        if columns != schema.arrow.names:
            raise _made_with(columns, site, table)
        return handle
    path = site.table_path(table)
    try:
        path.mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            str(path), schema=schema.arrow.remove_metadata(), mode="error", partition_by=list(schema.partition_by),
            description=schema.description, configuration=CONFIGURATION, storage_options=delta_options(path),
        )  # fmt: skip
        fsync_log(path, 0)
        fsync_dir(path)
        fsync_dir(path.parent)
    except DeltaLibraryError:
        pass  # another process made it in this moment; if not, opening says why
    except OSError as error:
        raise DeltaError(f"site {site.name}: table {table} cannot be made: {one_line(error)}") from None
    handle = current(site, table)
    if handle is None:
        raise DeltaError(f"site {site.name}: table {table} could not be made in {path}; is the disk full or read-only?")
    return handle


def applied(handle: DeltaTable, txn: tuple[str, int]) -> bool:
    """Whether an application transaction (application, version) is in the table already."""
    last = handle.transaction_version(txn[0])
    return last is not None and last >= txn[1]


def live_files(handle: DeltaTable, site: Site, table: str, prune: str | None = None) -> list[str]:
    """Paths of the live files relative to the table's directory, sorted (the library gives them as encoded URIs)."""
    root = f"{site.table_path(table).resolve()}/"  # the library follows symbolic links
    uris = handle.file_uris(file_pruning_predicate=prune)
    return sorted(unquote(uri.removeprefix("file://")).removeprefix(root) for uri in uris)


def fsync_log(path: Path, first: int) -> int:
    """Make the log durable from a version on (the handle does not know which version its commit became); its last version."""
    if is_object(path):
        return first
    number = first
    while (written := entry(path, number)).exists():
        fsync_file(written)
        number += 1
    fsync_dir(path / "_delta_log")
    return number - 1
