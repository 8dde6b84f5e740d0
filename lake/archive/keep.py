"""Into the archive: choose files, bundle them, read the bundle back, and only then let it count.

A run may be killed at any moment. What counts is in the tables; a run that comes after it chooses what is not, and removes
what a dead one left unfinished. The same choice gives the same bundles, byte by byte.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lake import datastore, fault
from lake.archive import container
from lake.archive.container import Contents, Member, SourceError
from lake.archive.shelf import STORED, ArchiveError, Bundle, Shelf, let_go
from lake.durable import fsync_dir
from lake.objects import is_object
from lake.query import QueryError, connect, identifier
from lake.rule import only_types
from lake.site import Lake, Site, one_line
from lake.sql import statement

#: Bytes that a bundle holds at least, but for the last one.
TARGET = 10**9
Progress = Callable[[int, int], None]


@dataclass
class Kept:
    """What a run archived: ``bundles`` that count now, ``files`` and ``bytes`` in them; ``left`` files that do not fill a
    bundle yet; ``failed`` maps the path of a file that could not be archived to the reason."""

    bundles: list[Bundle] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    left: int = 0
    failed: dict[str, str] = field(default_factory=dict)


def archive(
    lake: Lake,
    site: Site,
    shelf: Shelf,
    types: Sequence[str] | None = None,
    where: str = "true",
    target: int = TARGET,
    full_only: bool = False,
    progress: Progress = lambda done, total: None,
) -> Kept:
    """Bundle the files of ``site`` that hold datasets of these types (None: all) which meet a SQL condition over ``dataset``.

    What is on the shelf already, whole, is not archived again. ``target``: bytes of a bundle; ``full_only`` leaves out what
    would make a smaller last one. ``progress(bytes done, bytes in all)``: each byte is written once and read back once.
    Raises ArchiveError for a condition that cannot be used, or when the shelf cannot be written.
    """
    if target < 1:
        raise ArchiveError(f"a bundle of {target} bytes cannot be; give a positive size")
    kept = Kept()
    with shelf.site.lock("archive"):
        shelf.sweep()
        records = _candidates(lake, site, shelf, types, where)
        groups, kept.left = _groups(records, target, full_only)
        total, done = 2 * sum(size for _, size in groups), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            progress(min(done, total), total)

        for rows, _ in groups:
            bundle = store(site, shelf, rows, kept.failed, advance)
            if bundle is not None:
                kept.bundles.append(bundle)
                kept.files += bundle.members
                kept.bytes += bundle.bytes
        let_go(lake, shelf)
    return kept


def _candidates(lake: Lake, site: Site, shelf: Shelf, types: Sequence[str] | None, where: str) -> pa.Table:
    """Registry rows of the files to be archived, ordered by path (some 0.5 kB of memory each)."""
    sql = statement("archive_candidates").replace("{keeper}", identifier(shelf.site.name)).replace("{predicate}", where)
    names = list(dict.fromkeys([site.name, shelf.site.name]))
    with connect(lake, names, site.name, only_types(types) if types and where == "true" else None) as con:
        try:
            return con.table(sql, {"types": None if types is None else list(types), "location": shelf.location})
        except QueryError as error:
            raise ArchiveError(f"the condition {' '.join(where.split())!r} cannot be used: {error}") from None


def _groups(records: pa.Table, target: int, full_only: bool) -> tuple[list[tuple[pa.Table, int]], int]:
    """Rows by bundle, with the bytes of their files: a bundle is closed by the file with which it reaches the target."""
    if not records.num_rows:
        return [], 0
    path = records["path"].combine_chunks()
    first = np.flatnonzero(np.r_[True, pc.not_equal(path[1:], path[:-1]).to_numpy(zero_copy_only=False)])
    filled = np.cumsum(records["file_bytes"].to_numpy()[first], dtype=np.int64)
    groups: list[tuple[pa.Table, int]] = []
    begin = 0
    while begin < len(first):
        before = int(filled[begin - 1]) if begin else 0
        end = int(np.searchsorted(filled, before + target)) + 1
        if end > len(first) and full_only:
            return groups, len(first) - begin
        end = min(end, len(first))
        row, stop = int(first[begin]), int(first[end]) if end < len(first) else records.num_rows
        groups.append((records.slice(row, stop - row), int(filled[end - 1]) - before))
        begin = end
    return groups, 0


def contents_of(records: pa.Table) -> Contents:
    """The bundle of registry rows that are ordered by path: one member per file."""
    names = ["path", "file_bytes", "file_checksum"]
    files = records.select(names).group_by(names, use_threads=False).aggregate([])
    rows = zip(*(files[name].to_pylist() for name in names), strict=True)
    return Contents(tuple(Member(*row) for row in rows), records.select(list(container.COLUMNS)))


def store(site: Site, shelf: Shelf, records: pa.Table, failed: dict[str, str], advance: Callable[[int], None]) -> Bundle | None:
    """One bundle on the shelf; files that are not what the registry says are left out, with the reason in ``failed``."""
    for left in _without_failed(records, failed):
        contents = contents_of(left)
        path = shelf.path_of(contents.bundle_id)
        target = shelf.file(path)
        temporary = datastore.staging(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                written = container.write(temporary, contents, site.path, advance)
            except SourceError as error:
                failed[error.path] = error.reason
                continue
            fault.point("archive:written")
            checksum, wrong = container.check(temporary, written, advance)
            if wrong:
                failed |= _blamed(site, shelf, contents, wrong)
                continue
            fault.point("archive:verified")
            size = temporary.stat().st_size
            datastore.settle(temporary, target)
            if is_object(target) and datastore.checksum(target) != checksum:
                raise ArchiveError(f"{target} reads back otherwise than it was put; check that store")
            for folder in (target.parent, shelf.folder, *([] if shelf.location else [shelf.folder.parent])):
                fsync_dir(folder)
            fault.point("archive:renamed")
        except OSError as error:
            raise _failure(target, error) from None
        finally:
            with suppress(OSError):
                temporary.unlink()
        bundle = Bundle(
            shelf.site.name, contents.bundle_id, site.name, shelf.location, path, size, checksum, len(contents.members),
            left.num_rows, STORED, None,
        )  # fmt: skip
        shelf.count(bundle, contents, written)
        return bundle
    return None


def _without_failed(records: pa.Table, failed: dict[str, str]) -> Iterator[pa.Table]:
    """The rows, and each time more files have failed, what is left of them; ends when nothing is."""
    while records.num_rows:
        yield records
        records = records.filter(pc.invert(pc.is_in(records["path"], pa.array(list(failed), pa.string()))))


def _blamed(site: Site, shelf: Shelf, contents: Contents, wrong: dict[str, str]) -> dict[str, str]:
    """Members that were read back wrong, because their files are; ArchiveError where the files are right."""
    found = {}
    for member in (m for m in contents.members if m.path in wrong):
        problem = datastore.check(site, member.path, member.bytes, member.checksum)
        if problem is None:
            raise ArchiveError(f"{shelf.folder}: {member.path} was written, and reads back otherwise; check that disk")
        found[member.path] = wrong[member.path]
    if not found:
        raise ArchiveError(f"{shelf.folder}: the index of a bundle reads back otherwise than it was written; check that disk")
    return found


def _failure(target: Path, error: OSError) -> ArchiveError:
    remedy = {errno.ENOSPC: "free space there", errno.EROFS: "the disk is read-only", errno.EACCES: "check permissions"}
    return ArchiveError(f"{target}: {one_line(error)}; {remedy.get(error.errno or 0, 'nothing of this bundle counts')}")
