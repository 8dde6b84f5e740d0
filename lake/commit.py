"""Commits to Delta tables: opened afresh, guarded by an application transaction, retried, durable when acknowledged.

The library lets two writers take the same file out of a table, each putting its own copy of the rows back. So every
commit that takes files out carries the application transaction REMOVAL with the next number: of two, one is refused.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError, DeltaProtocolError, TableNotFoundError
from deltalake.exceptions import DeltaError as DeltaLibraryError
from deltalake.transaction import AddAction, RemoveAction

import schemas
from lake.access import delta_options
from lake.durable import fsync_dir, fsync_file
from lake.objects import is_object
from lake.parquet import AddFile, DeltaError, partition_of
from lake.site import LakeError, Site, one_line

#: The library removes nothing by itself: lake.upkeep does, durably. Checkpoints remember removed files for as long as that waits.
CONFIGURATION = {
    "delta.enableExpiredLogCleanup": "false",
    "delta.logRetentionDuration": "interval 1000 days",
    "delta.deletedFileRetentionDuration": "interval 1 days",
}
#: A handle reads every commit since the last checkpoint (0.25 ms each): make one after so many commits.
CHECKPOINT_EVERY = 20
REMOVAL = "removal"
ATTEMPTS = 12
#: Checkpoints are made here, after the commit and durable: one that fails must not make the commit look failed.
_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
REFUSED_FEATURES = {"deletionVectors", "columnMapping", "v2Checkpoint", "v2Checkpoint-preview"}


class Overtaken(DeltaError):
    """Files that were to be taken out of a table are not in it any more: another writer was first, nothing was changed."""


def open_table(site: Site, table: str) -> DeltaTable | None:
    """A fresh handle (an old one gets slower); None where there is no table; refuses what cannot be read right."""
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
    protocol = handle.protocol()
    features = {*(protocol.reader_features or ()), *(protocol.writer_features or ())} & REFUSED_FEATURES
    if handle.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        features.add("columnMapping")
    if features:
        raise DeltaError(f"site {site.name}: table {table} uses {', '.join(sorted(features))}, which is not read correctly")
    for number in () if is_object(path) else (handle.version(), handle.version() + 1):
        last = path / "_delta_log" / f"{number:020}.json"
        if last.exists() and last.stat().st_size == 0:
            raise DeltaError(
                f"site {site.name}: table {table}: the last commit {last} is empty (power cut?); "
                "it was never acknowledged: remove that file"
            )
    return handle


def ensure_table(site: Site, table: str) -> DeltaTable:
    """The table's handle, made if it is not there; two that make it at once are both served."""
    schema = schemas.table(table)
    handle = open_table(site, table)
    if handle is not None:
        columns = [field.name for field in handle.schema().fields]
        if columns != schema.arrow.names:
            changed = ", ".join(sorted(set(columns) ^ set(schema.arrow.names))) or "their order"
            raise DeltaError(f"site {site.name}: table {table} was made with other columns ({changed}); use a new lake")
        return handle
    path = site.table_path(table)
    try:
        path.mkdir(parents=True, exist_ok=True)
        DeltaTable.create(
            str(path), schema=schema.arrow.remove_metadata(), mode="error", partition_by=list(schema.partition_by),
            description=schema.description, configuration=CONFIGURATION, storage_options=delta_options(path),
        )  # fmt: skip
        _fsync_log(path, 0)
        fsync_dir(path)
        fsync_dir(path.parent)
    except DeltaLibraryError:
        pass  # another process made it in this moment; if not, opening says why
    except OSError as error:
        raise DeltaError(f"site {site.name}: table {table} cannot be made: {one_line(error)}") from None
    handle = open_table(site, table)
    if handle is None:
        raise DeltaError(f"site {site.name}: table {table} could not be made in {path}; is the disk full or read-only?")
    return handle


def applied(handle: DeltaTable, txn: tuple[str, int]) -> bool:
    """Whether an application transaction (application, version) is in the table already."""
    last = handle.transaction_version(txn[0])
    return last is not None and last >= txn[1]


def commit(
    site: Site,
    table: str,
    added: Sequence[AddFile],
    removed: Sequence[str],
    txn: tuple[str, int] | None,
    metadata: Mapping[str, str] | None,
    *,
    data_change: bool = True,
    skip_live: bool = False,
    handle: DeltaTable | None = None,
) -> bool:
    """One commit of files; False when ``txn`` was applied before.

    The guard holds only when the handle that was asked for the transaction is the one that commits: a given ``handle``
    serves the first try, every other try opens its own. ``skip_live`` leaves out files that are in the table.
    Overtaken when a file of ``removed`` is not in the table.
    """
    schema = schemas.table(table)
    now = int(time.time() * 1000)
    for attempt in range(ATTEMPTS):
        handle = ensure_table(site, table) if attempt or handle is None else handle
        if txn is not None and applied(handle, txn):
            return False
        transactions = [Transaction(*txn)] if txn is not None else []
        if removed:
            if gone := set(removed).difference(live_files(handle, site, table)):
                raise Overtaken(f"site {site.name}: table {table}: {min(gone)} is not in it any more")
            transactions.append(Transaction(REMOVAL, 1 + (handle.transaction_version(REMOVAL) or 0)))
        live = _live(handle, site, table, added) if skip_live else set()
        actions: list[AddAction | RemoveAction] = [
            AddAction(f.path, f.bytes, dict(f.partition), now, data_change, f.stats or json.dumps({"numRecords": f.rows}))
            for f in added
            if f.path not in live
        ]
        actions += [RemoveAction(path, data_change, now, partition_values={**partition_of(path)}) for path in removed]
        if not actions and txn is None:
            return True
        before = int(handle.version())
        try:
            handle.create_write_transaction(
                actions,
                "append",
                schema.arrow.remove_metadata(),
                list(schema.partition_by),
                commit_properties=CommitProperties(custom_metadata=dict(metadata or {}), app_transactions=transactions or None),
                post_commithook_properties=_HOOKS,
            )
        except CommitFailedError as error:
            if attempt == ATTEMPTS - 1:
                raise DeltaError(f"site {site.name}: table {table}: commit failed {ATTEMPTS} times: {one_line(error)}") from None
            time.sleep(random.uniform(0, 0.01) * 2 ** min(attempt, 6))
            continue
        except (DeltaLibraryError, OSError) as error:
            raise DeltaError(f"site {site.name}: table {table} cannot be written: {one_line(error)}") from None
        after = _fsync_log(site.table_path(table), before + 1)
        if before // CHECKPOINT_EVERY < after // CHECKPOINT_EVERY:
            with suppress(LakeError, OSError):  # the log is whole without it
                checkpoint(site, table)
        return True
    raise AssertionError("unreachable")


def _live(handle: DeltaTable, site: Site, table: str, added: Sequence[AddFile]) -> set[str]:
    """Which of the files to be added are live already (only their partitions are listed)."""
    schema = schemas.table(table)
    prune = " AND ".join(
        f"{c} IN ({', '.join(sorted({_literal(schema.arrow.field(c).type, f.partition[c]) for f in added}))})"
        for c in schema.partition_by
    )
    return set(live_files(handle, site, table, prune or None)) if added else set()


def live_files(handle: DeltaTable, site: Site, table: str, prune: str | None = None) -> list[str]:
    """Paths of the live files relative to the table's directory, sorted (the library gives them as encoded URIs)."""
    root = f"{site.table_path(table).resolve()}/"  # the library follows symbolic links
    uris = handle.file_uris(file_pruning_predicate=prune)
    return sorted(unquote(uri.removeprefix("file://")).removeprefix(root) for uri in uris)


def _literal(kind: pa.DataType, value: str) -> str:
    return f"'{value}'" if kind == pa.string() else value


def checkpoint(site: Site, table: str) -> None:
    """Write down the whole state of a table at its latest version, durable; DeltaError when it fails."""
    handle = ensure_table(site, table)
    log = site.table_path(table) / "_delta_log"
    target = log / f"{int(handle.version()):020}.checkpoint.parquet"
    if target.exists():
        return
    try:
        handle.create_checkpoint()
    except (DeltaLibraryError, OSError) as error:
        raise DeltaError(f"site {site.name}: table {table}: no checkpoint can be made: {one_line(error)}") from None
    fsync_file(target)
    fsync_file(log / "_last_checkpoint")
    fsync_dir(log)


def _fsync_log(path: Path, first: int) -> int:
    """Make the log durable from a version on (the handle does not know which version its commit became); its last version."""
    if is_object(path):
        return first
    log = path / "_delta_log"
    number = first
    while (entry := log / f"{number:020}.json").exists():
        fsync_file(entry)
        number += 1
    fsync_dir(log)
    return number - 1
