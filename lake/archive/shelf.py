"""Shelves: where the bundles of a site's archive lie, and the two tables that say what is in them.

A bundle counts if and only if its row in ``archive_bundle`` says so; that row is written last, after the file is durable and
read back and its members are in ``archive_member``. A file without that row is an orphan, and members without it are nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa

import schemas
from lake import delta, fault
from lake.archive.container import SUFFIX, Contents, Member
from lake.clock import next_event
from lake.datastore import TEMPORARY
from lake.objects import is_object
from lake.query import connect, literal
from lake.site import Lake, LakeError, Site
from lake.sql import statement

#: Below a site's root, or nothing where a directory outside the lake was given.
FOLDER = "files/archive"
#: Seconds without a change after which an unfinished bundle in a shared directory has no writer any more.
STALE = 3600.0
STORED, DAMAGED, LOST, REPLACED = "stored", "damaged", "lost", "replaced"


class ArchiveError(LakeError):
    """The archive cannot do what was asked; the message names the bundle or file, and the remedy."""

    exit_code = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle as ``archive_bundle`` has it now: ``site`` keeps it, ``source`` had the files."""

    site: str
    bundle_id: str
    source: str
    location: str
    path: str
    bytes: int
    checksum: str
    members: int
    datasets: int
    state: str
    reason: str | None
    noted_at: datetime | None = None


@dataclass(frozen=True)
class Shelf:
    """A place for bundles: below the root of the site that keeps the tables, or in ``location``, a directory elsewhere."""

    site: Site
    location: str = ""

    @classmethod
    def at(cls, site: Site, directory: str | Path | None = None) -> Shelf:
        """The shelf of a site, or one in a directory that exists; ArchiveError if it does not, or lies inside the lake."""
        if directory is None:
            return cls(site)
        folder = Path(directory).absolute()
        if not folder.is_dir():
            raise ArchiveError(f"{directory} is no site and no directory; name a site, or make the directory (mount it) first")
        if folder.resolve().is_relative_to(site.home.resolve()):
            raise ArchiveError(f"{directory} lies inside the lake, whose files are named by its sites; name a site instead")
        return cls(site, str(folder))

    @property
    def folder(self) -> Path:
        return Path(self.location) if self.location else self.site.path(FOLDER)

    def path_of(self, bundle_id: str) -> str:
        """The path of a bundle, as it is written in ``archive_bundle``."""
        name = PurePosixPath(bundle_id[:2], bundle_id + SUFFIX)
        return str(name if self.location else FOLDER / name)

    def file(self, path: str) -> Path:
        """The bundle file at a path of the table; LakeError if it would leave the shelf."""
        if not self.location:
            return self.site.path(path)
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts:
            raise ArchiveError(f"bundle path {path!r} is not below {self.location}")
        return Path(self.location, path)

    def sweep(self) -> None:
        """Remove the unfinished files of an archiver that died; the caller holds the lock."""
        if is_object(self.folder):  # an object is there whole or not at all
            return
        for unfinished in self.folder.glob(f"*/{TEMPORARY}*{SUFFIX}"):
            if not self.location or time.time() - unfinished.stat().st_mtime > STALE:  # another lake may write there now
                unfinished.unlink(missing_ok=True)

    def note(self, *events: Bundle) -> None:
        """Append events of bundles, now."""
        now, schema = next_event(self.site, "archive_bundle"), schemas.table("archive_bundle").arrow
        rows: list[dict[str, Any]] = [vars(e) | {"reason": e.reason and e.reason[:512], "noted_at": now} for e in events]
        if rows:
            delta.append(self.site, "archive_bundle", pa.Table.from_pylist(rows, schema=schema))

    def count(self, bundle: Bundle, contents: Contents, written: Iterable[Member]) -> None:
        """Make a durable, verified bundle count: its members first, once and for all, then the bundle."""
        records = contents.records.select(["dataset_id", "dataset_type", "path"])
        with delta.cursor() as con:
            con.register("records", records)
            con.register("written", pa.Table.from_pylist([vars(member) for member in written]))
            rows = con.sql(
                'SELECT $bundle AS bundle_id, r.dataset_id, r.dataset_type, r.path, w."offset" AS byte_offset, w.bytes, '
                "w.checksum FROM records r JOIN written w USING (path) ORDER BY byte_offset, r.dataset_id",
                params={"bundle": bundle.bundle_id},
            ).to_arrow_table()
        delta.append(self.site, "archive_member", schemas.conform("archive_member", rows), (f"archive/{bundle.bundle_id}", 1))
        fault.point("archive:members")
        self.note(bundle)
        fault.point("archive:counted")


def bundles(lake: Lake, site: str | None = None) -> list[Bundle]:
    """Every bundle of a lake as it stands, or those that one site keeps; in order of site, location and path."""
    columns = ", ".join(Bundle.__dataclass_fields__)
    sites = list(lake.sites.values()) if site is None else [lake.site(site)]
    events = " UNION ALL ".join(f"SELECT {literal(s.name)} AS site, * FROM ({delta.select(s, 'archive_bundle')})" for s in sites)
    with delta.cursor() as con:
        con.execute(f"CREATE TEMP VIEW archive_bundle AS {events}")
        now = f"SELECT {columns} FROM ({statement('views/archive_bundle_now')}) ORDER BY site, location, path"
        return [Bundle(**row) for row in con.sql(now).to_arrow_table().to_pylist()]


def members(bundle: Bundle, lake: Lake) -> list[Member]:
    """The files in a bundle, in their order, as the keeper's table has them."""
    with delta.cursor() as con:
        source = delta.select(lake.site(bundle.site), "archive_member", f"bundle_id = '{bundle.bundle_id}'")
        rows = con.sql(
            f"SELECT path, any_value(bytes), any_value(checksum), any_value(byte_offset) AS byte_offset FROM ({source}) "
            "WHERE bundle_id = $bundle GROUP BY path ORDER BY byte_offset",
            params={"bundle": bundle.bundle_id},
        ).fetchall()
    return [Member(*row) for row in rows]


def let_go(lake: Lake, shelf: Shelf) -> list[Bundle]:
    """Remove damaged bundles of a shelf whose every member is in a sound one there; the caller holds the lock."""
    site = shelf.site.name
    damaged = [b for b in bundles(lake, site) if b.location == shelf.location and b.state == DAMAGED]
    gone = []
    for bundle in damaged:
        with connect(lake, [site]) as con:
            needed = con.execute(
                "SELECT count(*) FROM (SELECT path, checksum FROM archive_copy WHERE bundle_id = $bundle AND location = $location "
                "EXCEPT SELECT path, checksum FROM archive_copy WHERE location = $location AND state = 'stored')",
                {"bundle": bundle.bundle_id, "location": shelf.location},
            ).fetchall()[0][0]
        if not needed:
            shelf.note(replace(bundle, state=REPLACED, reason="its members are in other bundles"))
            fault.point("archive:replaced")
            shelf.file(bundle.path).unlink(missing_ok=True)
            gone.append(bundle)
    return gone
