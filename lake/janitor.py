"""The janitor: removes what dead writers left under temporary names, and directories that nothing is in any more.

A leftover is a file whose name says that it is unfinished (this project's, delta-rs', its object store's) and that nobody
has touched for HORIZON. What a registered or parked dataset names stays whatever its name, and so does everything as long as
a batch waits in ``publish/``. Finished files that nothing names are an audit's business, not the janitor's.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa

from lake import delta
from lake.datastore import TEMPORARY
from lake.objects import ObjectPath
from lake.site import Site

ROOTS = ("files", "tables", "publish")
#: Names of unfinished files.
UNFINISHED = re.compile(r"\.tmp-.*|.*#\d+|.*\.tmp")
#: Seconds after which a writer that has not touched its file is dead, however long a file takes.
HORIZON = 24 * 3600.0


@dataclass(frozen=True)
class Leftover:
    """A file or an empty directory (0 bytes) to be removed; ``path`` relative to the site's root."""

    path: str
    bytes: int
    directory: bool = False


def clean(site: Site, dry_run: bool = False, older_than: float = HORIZON) -> list[Leftover]:
    """Remove the leftovers of a site (or, with ``dry_run``, only say what they are), in order of their paths."""
    if any(site.path("publish").glob("*.arrow")):
        return []
    found = [leftover for root in ROOTS for leftover in _leftovers(site, site.path(root), older_than)]
    named = _named(site, [leftover.path for leftover in found if not leftover.directory])
    named |= {str(folder) for path in named for folder in PurePosixPath(path).parents}
    gone = [leftover for leftover in found if leftover.path not in named]
    for leftover in gone if not dry_run else ():
        with suppress(FileNotFoundError, OSError):  # gone by itself, or a directory that is used again
            path = site.path(leftover.path)
            path.rmdir() if leftover.directory else path.unlink()
    return sorted(gone, key=lambda leftover: leftover.path)


def daily(site: Site) -> None:
    """clean(), where the last time is longer ago than HORIZON (or was never: then from now on)."""
    stamp = site.home / site.name / ".lock" / "janitor"
    if stamp.exists() and time.time() - stamp.stat().st_mtime > HORIZON:
        clean(site)
        stamp.touch()
    elif not stamp.exists():
        stamp.touch()


def _leftovers(site: Site, folder: Path, older_than: float, unfinished: bool = False) -> Iterator[Leftover]:
    """Below a directory: unfinished files and empty directories, untouched for ``older_than`` seconds. Links are not followed.

    In a directory that is ``unfinished`` itself all files are, and it goes with the last of them.
    """
    if isinstance(folder, ObjectPath):
        for rel, size, changed in folder.listing():
            if UNFINISHED.fullmatch(rel.rpartition("/")[2]) and time.time() - changed > older_than:
                yield Leftover(site.relative(folder / rel), size)
        return
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    staying = len(entries)
    for entry in entries:
        path = Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _leftovers(site, path, older_than, unfinished or entry.name.startswith(TEMPORARY))
        elif (unfinished or UNFINISHED.fullmatch(entry.name)) and (old := _old(path, older_than)):
            yield Leftover(site.relative(path), old.st_size)
            staying -= 1
    if (not entries or (unfinished and not staying)) and folder.parent != site.root and _old(folder, older_than):
        yield Leftover(site.relative(folder), 0, directory=True)


def _old(path: Path, older_than: float) -> os.stat_result | None:
    """What there is, if content, name and number of links are that old (a linked file brings an old mtime along)."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found if time.time() - max(found.st_mtime, found.st_ctime) > older_than else None


def _named(site: Site, paths: list[str]) -> set[str]:
    """Which of these paths a registered, parked or travelling dataset has."""
    if not paths:
        return set()
    with delta.cursor() as con:
        con.register("found", pa.table({"path": pa.array(paths, pa.string())}))
        for table in ("dataset", "parked", "transfer"):
            delta.view(con, site, table)
        rows = con.execute(
            "SELECT path FROM found WHERE path IN (SELECT path FROM dataset) OR path IN (SELECT path FROM transfer) "
            "OR path IN (SELECT record ->> 'path' FROM parked)"
        ).fetchall()
    return {row[0] for row in rows}
