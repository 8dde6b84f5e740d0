"""Commits to Delta tables: guarded by an application transaction, retried, durable when acknowledged.

The library lets two writers take the same file out of a table, each putting its own copy of the rows back. So every
commit that takes files out carries the application transaction REMOVAL with the next number: of two, one is refused.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.exceptions import CommitFailedError
from deltalake.exceptions import DeltaError as DeltaLibraryError
from deltalake.transaction import AddAction, RemoveAction

import schemas
from lake.durable import fsync_dir, fsync_file
from lake.handle import CHECKPOINT_EVERY, applied, ensure_table, forget, fsync_log, live_files, open_table
from lake.parquet import AddFile, DeltaError, partition_of
from lake.site import LakeError, Site, one_line

REMOVAL = "removal"
ATTEMPTS = 12
#: Checkpoints are made here, after the commit and durable: one that fails must not make the commit look failed.
_HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)


class Overtaken(DeltaError):
    """Files that were to be taken out of a table are not in it any more: another writer was first, nothing was changed."""


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
        if removed:
            handle = open_table(site, table) or ensure_table(site, table)  # nothing else may move it on between two looks
        elif attempt or handle is None:
            handle = ensure_table(site, table)
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
            forget(site, table)
            time.sleep(random.uniform(0, 0.01) * 2 ** min(attempt, 6))
            continue
        except (DeltaLibraryError, OSError) as error:
            raise DeltaError(f"site {site.name}: table {table} cannot be written: {one_line(error)}") from None
        after = fsync_log(site.table_path(table), before + 1)
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


def _literal(kind: pa.DataType, value: str) -> str:
    return f"'{value}'" if kind == pa.string() else value


def checkpoint(site: Site, table: str) -> None:
    """Write down the whole state of a table at its latest version, durable; DeltaError when it fails."""
    handle = open_table(site, table) or ensure_table(site, table)
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
