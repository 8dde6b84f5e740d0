"""Maintenance without an operator: small files are merged, what no reader needs any more goes, leftovers of crashes go.

The rule is one: a partition of a table of appended rows that has MANY small files gets them merged (what becomes of large
ones is said in lake.division); files that merging took out of a table, and log entries that are older than a checkpoint, stay
for another HORIZON. tend() is called where rows are appended (the committer every so many batches, the journal, the driver
after a step); maintain() is ``drp upkeep``. No lock of a writer is held: of two that rearrange the same files one is refused
and gives up (see lake.commit).

Nothing goes that a snapshot names (lake.snapshot), that the ingester has not read yet, or that is the only readable state.
Files of catalogues are never touched here: the registry names them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from lake import delta, division, janitor, snapshot
from lake.access import source
from lake.arrangement import PLACED, arranged
from lake.division import SKY, part_of
from lake.durable import fsync_dir, fsync_file
from lake.fault import point
from lake.handle import live_files
from lake.merging import File, Reader, by_partition
from lake.parquet import APPENDED, DeltaError
from lake.site import LakeError, Site, one_line

#: Hours for which readers and time travel find old lists of files. Rows carry their times: what was known when, SQL can tell.
HORIZON = 24
#: A partition with so many small files gets them merged.
MANY = 32
SMALL = 16 * 2**20
#: Merged at a time, at most: bounds memory, and how long an attempt takes that another writer overtakes.
BUNCH = 128 * 2**20
#: Table: the application whose transaction says how far it has followed the log.
FOLLOWERS = {"transfer": "ingester"}


@dataclass(frozen=True)
class Tended:
    """What was done to a table: files merged; old files, their bytes, and log entries removed."""

    site: str
    table: str
    merged: int = 0
    removed: int = 0
    freed: int = 0
    log_entries: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.merged or self.removed or self.log_entries)


def tend(*sites: Site) -> None:
    """Keep sites in order on the way: skipped where another does it at the moment, tried again next time where it fails."""
    for site in sites:
        with suppress(LakeError, OSError), site.lock("upkeep", timeout=0):
            for table in tables(site):
                with suppress(LakeError, OSError):  # a table that is damaged is no reason to let the others go
                    _tend(site, table, enough=BUNCH)
            janitor.daily(site)


def maintain(site: Site, dry_run: bool = False, hours: int = HORIZON) -> list[Tended]:
    """All upkeep of a site's tables; with ``dry_run`` only what it would do. LakeError and DeltaError name what is wrong."""
    with site.lock("upkeep"):
        return [tended for table in tables(site) if (tended := _tend(site, table, dry_run, hours)).anything]


def tables(site: Site) -> list[str]:
    """The Delta tables that a site has."""
    return [name for name in schemas.tables() if (site.table_path(name) / "_delta_log").is_dir()]


def _tend(site: Site, table: str, dry_run: bool = False, hours: int = HORIZON, enough: int | None = None) -> Tended:
    merged = removed = freed = 0
    if schemas.table(table).subject != "catalogues":
        merged = compact(site, table, dry_run=dry_run) + division.divide(site, table, enough, dry_run)
        removed, freed = sweep(site, table, hours, dry_run)
    return Tended(site.name, table, merged, removed, freed, cut_log(site, table, hours, dry_run))


# -- small files -------------------------------------------------------------------------------------------------------


def compact(site: Site, table: str, at_least: int = MANY, dry_run: bool = False) -> int:
    """Merge the small files of each partition that has ``at_least`` of them; returns how many files were merged.

    Old files stay on disk for those who still read them, until sweep(). Nothing happens where another writer was first.
    DeltaError for a catalogue, and for a file whose pages fail their checksums: merged, its damage would look sound.
    """
    if schemas.table(table).subject == "catalogues":
        raise DeltaError(f"site {site.name}: table {table}: the registry names its files, they stay as they are")
    merged, placed = 0, table in PLACED
    for files in by_partition(site, table):
        own = [file for file in files if part_of(file.path) is None]
        group = [file for file in own if (file.weight < division.SMALL if placed else file.bytes < SMALL)]
        for bunch in _bunches(group) if len(group) >= at_least else ():
            if not dry_run:
                try:
                    _merge(site, table, bunch)
                except delta.Overtaken:
                    continue
                point("upkeep:merged")
            merged += len(bunch)
    return merged


def _bunches(files: Iterable[File]) -> Iterator[list[File]]:
    bunch: list[File] = []
    for file in files:
        if bunch and sum(each.bytes for each in bunch) + file.bytes > BUNCH:
            yield bunch
            bunch = []
        bunch.append(file)
    if len(bunch) > 1:
        yield bunch


def _merge(site: Site, table: str, files: Sequence[File]) -> None:
    rows = []
    for file in files:
        with Reader(site, table, file) as reader:
            rows.append(reader.rows())
    point("upkeep:read")
    merged = arranged(site, table, pa.concat_tables(rows))
    count = sum(file.rows for file in files)
    delta.replace_files(site, table, [file.path for file in files], count, [(SKY.mark if table in PLACED else "", merged)])


# -- what nobody needs any more ----------------------------------------------------------------------------------------


def sweep(site: Site, table: str, hours: int = HORIZON, dry_run: bool = False) -> tuple[int, int]:
    """Remove files of appended rows that the table gave up ``hours`` ago, or never had; how many, and their bytes.

    The former come from compact(), the latter from a writer that died before its commit (HORIZON ago, to be sure).
    """
    folder = site.table_path(table)
    found = {path: path.stat() for path in folder.rglob(f"{APPENDED}*.parquet")}  # before the log is read: it knows them all
    handle = delta.open_table(site, table)
    if handle is None:
        return 0, 0
    stay = {folder / path for path in live_files(handle, site, table)} | snapshot.paths(site, table)
    given_up, long_ago = (
        {folder / unquote(p) for p in handle.vacuum(h, dry_run=True, enforce_retention_duration=False)} for h in (0, hours)
    )
    dead = time.time() - 3600 * HORIZON
    removed = freed = 0
    for path, file in found.items():
        if path in stay or not (
            path in long_ago if path in given_up else max(file.st_mtime, getattr(file, "st_ctime", 0.0)) < dead
        ):
            continue
        if not dry_run:
            path.unlink(missing_ok=True)
            point("upkeep:swept")
        removed, freed = removed + 1, freed + file.st_size
    return removed, freed


def cut_log(site: Site, table: str, hours: int = HORIZON, dry_run: bool = False) -> int:
    """Remove log entries that the table can be opened and followed without; returns how many.

    It is cut at a checkpoint that is older than ``hours``, durable and readable, with another one after it: a checkpoint
    that is damaged later can then be removed, too. Entries that a follower has not read stay.
    """
    log = site.table_path(table) / "_delta_log"
    entries = {int(path.name[:20]): path for path in log.glob("*.json") if path.stem.isdigit()}
    checkpoints = {int(path.name[:20]): path for path in log.glob("*.checkpoint.parquet") if path.name[:20].isdigit()}
    hint = log / "_last_checkpoint"
    last = int(json.loads(hint.read_text())["version"]) if hint.exists() else max(checkpoints, default=-1)
    oldest = time.time() - hours * 3600
    passed = sorted(v for v in checkpoints if v in entries and entries[v].stat().st_mtime <= oldest)[:-1]
    if table in FOLLOWERS:
        follower = delta.transaction_version(site, table, FOLLOWERS[table])
        passed = [v for v in passed if follower is not None and v <= follower + 1]
    if not passed or passed[-1] > last or not any(v < passed[-1] for v in entries):
        return 0
    keep = passed[-1]
    if not dry_run:
        for version in (v for v in checkpoints if v >= keep):
            _prove(site, table, checkpoints[version])
        fsync_dir(log)
        for version in sorted(v for v in checkpoints if v < keep):
            checkpoints[version].unlink(missing_ok=True)
        for version in sorted(v for v in entries if v < keep):  # the oldest first: what is left has no hole
            entries[version].unlink(missing_ok=True)
            point("upkeep:cut")
    return sum(v < keep for v in entries)


def _prove(site: Site, table: str, checkpoint: Path) -> None:
    """A checkpoint that the table will depend on is durable, and can be read to its last page."""
    try:
        pq.read_table(source(checkpoint))
        fsync_file(checkpoint)
    except (OSError, pa.ArrowInvalid) as error:
        raise DeltaError(f"site {site.name}: table {table}: {checkpoint} cannot be read: {one_line(error)}; remove it") from None
