"""Taking datasets out of a site's registry, so that it can be undone: tombstones, and files that stay until a horizon passes.

A dataset exists if and only if its registry row exists, so that nothing else decides: a tombstone is written first and
counts only once the row is gone. ``unstored`` is a dataset of which another site or the archive has a copy, ``purged`` one
whose last copy this was. A death at any moment leaves datasets that exist still, or that are out; settle() does the rest.
"""

from __future__ import annotations

import getpass
import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import datastore, delta, fault, registry, slices
from lake.archive.shelf import STORED, Shelf, bundles
from lake.arrangement import arranged
from lake.division import part_of
from lake.parquet import DeltaError, ordered
from lake.query import connect, identifier
from lake.site import Lake, LakeError, Site
from lake.sql import statement

#: Days after which the files of pruned datasets may go.
HORIZON = 7.0
#: States in which a dataset's file is kept though no registry row names it.
KEPT = ("unstored", "purged")


class PruneError(LakeError):
    """Datasets cannot be taken out or put back; the message names the first and the remedy."""


@dataclass(frozen=True)
class Leave:
    """What may go although something speaks against it."""

    last_copy: bool = False
    tagged: bool = False
    certified: bool = False
    wanted: bool = False


@dataclass(frozen=True)
class Plan:
    """``datasets``: what would go (columns of ``dataset``, ``replicas`` at other sites, ``archived`` copies, ``state``);
    ``refused``: what may not (the same with ``reason``)."""

    site: Site
    datasets: pa.Table
    refused: pa.Table


def plan(lake: Lake, site: Site, dataset_ids: Iterable[str], leave: Leave | None = None) -> Plan:
    """What would become of registered datasets; changes nothing."""
    leave = leave or Leave()
    with connect(lake) as con:
        sql = statement("prune_plan").replace("{site}", identifier(site.name))
        rows = con.table(sql, {"ids": sorted(set(dataset_ids)), "site": site.name, "bundles": _sound_bundles(lake)})
    last = pc.equal(pc.add(rows["replicas"], rows["archived"]), 0)
    reasons = pa.array([_refusal(row, leave) for row in rows.select(_REASONS).to_pylist()], pa.string())
    rows = rows.append_column("state", pc.if_else(last, "purged", "unstored")).append_column("reason", reasons)
    columns = schemas.table("dataset").arrow.names
    refused = pc.is_valid(rows["reason"])
    copies = ["replicas", "archived"]
    return Plan(
        site,
        rows.filter(pc.invert(refused)).select([*columns, *copies, "state"]),
        rows.filter(refused).select([*columns, *copies, "reason"]),
    )


def _sound_bundles(lake: Lake) -> list[str]:
    """The bundles of the archive whose members count as copies: found sound when last read, and still there, whole."""
    found = []
    for bundle in bundles(lake):
        with suppress(OSError):
            size = Shelf(lake.site(bundle.site), bundle.location).file(bundle.path).stat().st_size
            if bundle.state == STORED and size == bundle.bytes:
                found.append("/".join((bundle.site, bundle.bundle_id, bundle.location)))
    return found


_REASONS = ["replicas", "archived", "unsound", "tagged", "certified", "wanted", "shared", "path"]


def _refusal(row: dict[str, object], leave: Leave) -> str | None:
    if row["shared"] is not None:
        return f"its file {row['path']} also holds {row['shared']}, which would stay: take out all of a file or none"
    if row["tagged"] is not None and not leave.tagged:
        return f"is a member of the TAGGED collection {row['tagged']}"
    if row["certified"] is not None and not leave.certified:
        return f"is certified in {row['certified']}"
    if row["wanted"] is not None and not leave.wanted:
        return f"the rule {row['wanted']} wants it here"
    if not row["replicas"] and not row["archived"] and not leave.last_copy:
        unsound = ", but for an archived one that is damaged or not there (drp archive --verify)" if row["unsound"] else ""
        return f"is the last copy in the lake{unsound}"
    return None


def prune(lake: Lake, site: Site, dataset_ids: Iterable[str], reason: str, leave: Leave | None = None) -> tuple[str, Plan]:
    """Take datasets out of the registry; returns the operation's id, for undo(), and what was done.

    PruneError names the first that is refused; nothing is taken out then. The files stay until empty().
    """
    with site.lock():
        _settle(site)
        todo = plan(lake, site, dataset_ids, leave)
        if todo.refused.num_rows:
            first = todo.refused.slice(0, 1).to_pylist()[0]
            more = f" (and {todo.refused.num_rows - 1:,} more)" if todo.refused.num_rows > 1 else ""
            which = f"{first['dataset_type']} {first['dataset_id']}"
            raise PruneError(f"site {site.name}: {which}: {first['reason']}{more}; nothing was taken out")
        operation = str(uuid.uuid4())
        if todo.datasets.num_rows:
            _note(site, operation, todo.datasets, todo.datasets["state"], reason)
            fault.point("prune:noted")
            _take_out(site, todo.datasets, operation)
            fault.point("prune:out")
            _settle(site)
    return operation, todo


def undo(site: Site, operation: str, reason: str = "undone") -> pa.Table:
    """Register again what an operation (or its first letters) took out, where its files are still whole.

    Returns (dataset_id, verdict, reason) as registry.ingest() does: a dataset whose file is gone is rejected, the others
    come back. PruneError where no such operation is known. Doing it again does what is missing.
    """
    with delta.cursor() as con:
        delta.view(con, site, "tombstone")
        latest = _latest(con.sql("FROM tombstone").to_arrow_table())
    mine = latest.filter(pc.starts_with(latest["operation"], operation))
    found = mine["operation"].unique().to_pylist()
    if len(found) != 1:
        what = "nothing is left to undo of" if not found else f"{len(found)} operations begin with"
        raise PruneError(f"site {site.name}: {what} {operation!r}; drp prune --list shows what can be undone")
    out = mine.filter(pc.is_in(mine["state"], pa.array(KEPT)))
    rows = registry.from_records(out["record"])
    problems = [datastore.check(site, *each) for each in zip(*(rows[c].to_pylist() for c in _FILE), strict=True)]
    sound = pa.array([problem is None for problem in problems], pa.bool_())
    verdicts = registry.ingest(site, rows.filter(sound))
    fault.point("prune:registered")
    with site.lock():
        back = pa.table(
            {"dataset_id": verdicts.filter(pc.is_in(verdicts["verdict"], pa.array(["accepted", "present"])))["dataset_id"]}
        )
        restored = rows.filter(pc.is_in(rows["dataset_id"], back["dataset_id"]))
        if restored.num_rows:
            _note(site, found[0], restored, pa.array(["restored"] * restored.num_rows), reason)
    gone = rows.filter(pc.invert(sound))
    lost = pa.table(
        {
            "dataset_id": gone["dataset_id"],
            "verdict": pa.array(["rejected"] * gone.num_rows, pa.string()),
            "reason": pa.array([problem for problem in problems if problem is not None], pa.string()),
        }
    )
    return pa.concat_tables([verdicts, lost])


_FILE = ("path", "file_bytes", "file_checksum")


def empty(site: Site, older_than: float = HORIZON, dry_run: bool = False, reason: str | None = None) -> list[str]:
    """Remove the files of datasets that were taken out ``older_than`` days ago (for this ``reason`` only, if one is given);
    returns their paths. No undo after that. What has become the last copy since then stays: last_copies() names it.
    """
    with site.lock():
        old = _old(site, older_than, reason)
        old = old.filter(pc.invert(old["last"]))
        paths: list[str] = sorted(set(old["path"].to_pylist()))
        if paths and not dry_run:
            _settle(site)
            rows = registry.from_records(old["record"])
            _note(site, str(uuid.uuid4()), rows, pa.array(["emptied"] * rows.num_rows), f"older than {older_than:g} days")
            fault.point("prune:emptied")
            for path in paths:
                site.path(path).unlink(missing_ok=True)
                fault.point("prune:unlinked")
    return paths


def last_copies(site: Site, older_than: float = HORIZON) -> list[str]:
    """Files that empty() leaves: when they were taken out there was another copy, and now there is none."""
    old = _old(site, older_than)
    return sorted(set(old.filter(old["last"])["path"].to_pylist()))


def _old(site: Site, older_than: float, reason: str | None = None) -> pa.Table:
    before = datetime.fromtimestamp(time.time() - 86400 * older_than, UTC)
    lake = site.lake
    given = {"site": site.name, "before": before, "reason": reason, "bundles": _sound_bundles(lake)}
    with connect(lake) as con:
        return con.table(statement("prune_old").replace("{site}", identifier(site.name)), given)


def settle(site: Site) -> None:
    """Finish what a dead prune() left: files of slices without a registered dataset leave their catalogue table."""
    if site.table_path("tombstone").exists():
        with site.lock():
            _settle(site)


# -- steps, for who holds the site's lock ------------------------------------------------------------------------------


def _settle(site: Site) -> None:
    with delta.cursor() as con:
        for table in ("tombstone", "dataset"):
            delta.view(con, site, table)
        rows = con.sql(
            "SELECT DISTINCT path FROM (FROM tombstone ANTI JOIN dataset USING (path)) WHERE starts_with(path, $prefix) ORDER BY 1",
            params={"prefix": slices.PREFIX},
        ).fetchall()
    tables: dict[str, list[str]] = {}
    for (path,) in rows:
        tables.setdefault(slices.table_of(path), []).append(path)
    for table, paths in tables.items():
        root = site.relative(site.table_path(table)) + "/"
        delta.remove_files(site, table, [path.removeprefix(root) for path in paths])


def _take_out(site: Site, datasets: pa.Table, operation: str) -> None:
    """Rewrite the files of the registry that hold these rows, without them, in one commit."""
    kinds = ", ".join("'" + kind.replace("'", "''") + "'" for kind in sorted(datasets["dataset_type"].unique().to_pylist()))
    paths = delta.files(site, "dataset", f"dataset_type IN ({kinds})")
    with delta.cursor() as con:
        con.register("out", datasets.select(["dataset_id"]))
        con.execute(f"CREATE TEMP VIEW held AS {delta.scan('dataset', paths, filename=True)}")
        files = con.sql("SELECT filename, count(*) FROM held SEMI JOIN out USING (dataset_id) GROUP BY ALL ORDER BY 1").fetchall()
        affected = [name for name, _ in files]
        held = con.sql(f"SELECT count(*) FROM ({delta.scan('dataset', affected)})").fetchall()[0][0]

        def kept() -> Iterator[tuple[str, pa.Table]]:
            for name in affected:  # one by one: a file that lay in one part still does, and none becomes larger than it was
                rows = con.sql(f"FROM ({delta.scan('dataset', [name])}) ANTI JOIN out USING (dataset_id)").to_arrow_table()
                part = part_of(name)
                yield part.mark if part else "", _in_order(site, schemas.conform("dataset", rows))

        removed, count = [os.path.relpath(name, site.table_path("dataset")) for name in affected], held - sum(n for _, n in files)
        fault.point("prune:rewriting")
        try:
            delta.replace_files(site, "dataset", removed, count, kept(), operation)
        except delta.Overtaken:  # by upkeep
            _take_out(site, datasets, operation)


def _in_order(site: Site, rows: pa.Table) -> pa.Table:
    try:
        return arranged(site, "dataset", rows)
    except DeltaError:  # where visits point to cannot be read: no reason to stop half way
        return ordered(rows, registry.CLUSTER)


def _note(site: Site, operation: str, datasets: pa.Table, states: Sequence[str] | pa.Array, reason: str) -> None:
    """Append an event of each dataset."""
    columns = schemas.table("dataset").arrow.names
    rows = datasets.select(columns)
    latest = _latest_time(site)
    now = max(datetime.now(UTC), latest + timedelta(microseconds=1)) if latest else datetime.now(UTC)
    same = {
        "operation": operation, "reason": reason[:512], "who": _who(), "version": delta.version(site, "dataset"), "noted_at": now,
    }  # fmt: skip
    events = rows.select(["dataset_id", "dataset_type", "run", "path"])
    events = events.append_column("state", states).append_column("record", registry.to_records(rows))
    for name, value in same.items():
        events = events.append_column(name, pa.repeat(pa.scalar(value), rows.num_rows))
    delta.append(site, "tombstone", schemas.conform("tombstone", events))


def _latest_time(site: Site) -> datetime | None:
    with delta.cursor() as con:
        delta.view(con, site, "tombstone")
        found: datetime | None = con.sql("SELECT max(noted_at) AS latest FROM tombstone").to_arrow_table()["latest"][0].as_py()
    return found


def _latest(events: pa.Table) -> pa.Table:
    with delta.cursor() as con:
        con.register("events", events)
        return con.sql(
            "FROM events QUALIFY row_number() OVER (PARTITION BY dataset_id ORDER BY noted_at DESC) = 1 ORDER BY path, dataset_id"
        ).to_arrow_table()


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"[:64]
