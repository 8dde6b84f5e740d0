"""Out of the archive: bring members back to a site, whole and verified, and let its registry judge their datasets."""

from __future__ import annotations

import errno
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from zipfile import BadZipFile

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import datastore, delta, fault, registry
from lake.archive import container
from lake.archive.container import Member
from lake.archive.reader import Copy
from lake.archive.shelf import ArchiveError, Shelf
from lake.companions import copy_companions
from lake.durable import fsync_dir
from lake.objects import is_object
from lake.query import connect
from lake.site import Lake, LakeError, Site, one_line
from lake.slices import PREFIX

WORKERS = 4
Progress = Callable[[int, int], None]


@dataclass
class Recalled:
    """``restored`` maps the path of a file that was brought back to the bundle it came from, ``failed`` one to the reason why
    not; ``present`` files were there, whole. ``verdicts`` counts the datasets in them, as the registry judged them."""

    restored: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    present: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)


def recall(
    lake: Lake,
    site: Site,
    paths: Iterable[str] | None = None,
    types: Sequence[str] | None = None,
    where: str = "true",
    progress: Progress = lambda done, total: None,
) -> Recalled:
    """Bring archived files back to ``site``: these paths, or those that hold datasets of these types that meet a SQL condition
    over the columns of ``dataset`` (as the bundles themselves have them).

    A file that is there whole is left alone, one that is lost or damaged is replaced, one that stands in the way is not
    touched. Datasets that are not registered are ingested: each gets its verdict. ``progress(files done, files)``.
    """
    with site.lock("movement"):
        copies = _copies(lake, paths, types)
        result = Recalled(failed={path: "is not in the archive" for path in set(paths or ()).difference(copies)})
        standing = _registered(site, list(copies))
        records, unread = _records(lake, copies, types, where)
        known = set(records["path"].to_pylist())
        chosen = [path for path in copies if path in known or (where == "true" and path in standing)]
        result.failed |= {p: why for p, why in unread.items() if p not in known and p not in chosen}
        with ThreadPoolExecutor(WORKERS, thread_name_prefix="recall") as pool:
            brought = pool.map(lambda path: _bring(lake, site, copies[path], standing.get(path)), chosen)
            for done, (path, (came_from, problem)) in enumerate(zip(chosen, brought, strict=True), 1):
                if problem is not None:
                    result.failed[path] = problem
                elif came_from is None:
                    result.present += 1
                else:
                    result.restored[path] = came_from
                progress(done, len(chosen))
        folders = {site.path(parent) for path in result.restored for parent in list(PurePosixPath(path).parents)[:-1]}
        for folder in sorted(folders):
            fsync_dir(folder)
        fault.point("archive:recalled")
        good = pa.array([path for path in chosen if path not in result.failed], pa.string())
        _ingest(lake, site, records.filter(pc.is_in(records["path"], good)), copies, result)
    return result


def _copies(lake: Lake, paths: Iterable[str] | None, types: Sequence[str] | None) -> dict[str, list[Copy]]:
    """Archived copies by path, best first."""
    with connect(lake) as con:
        rows = con.table(
            "SELECT DISTINCT ON (path, site, location, bundle_id) * EXCLUDE (dataset_id, dataset_type) FROM archive_copy "
            "WHERE ($paths IS NULL OR path IN (SELECT unnest($paths::VARCHAR[]))) "
            "AND ($types IS NULL OR dataset_type IN (SELECT unnest($types::VARCHAR[]))) "
            "ORDER BY path, state DESC, site, location, bundle_id",
            {"paths": None if paths is None else list(paths), "types": None if types is None else list(types)},
        )
    found: dict[str, list[Copy]] = {}
    for row in rows.to_pylist():
        member = Member(row["path"], row["bytes"], row["checksum"], row["byte_offset"])
        found.setdefault(row["path"], []).append(Copy(row["site"], row["bundle_id"], row["location"], row["bundle_path"], member))
    return found


def _registered(site: Site, paths: Sequence[str]) -> dict[str, str]:
    """The sha256 registered at the site for each of the paths that is."""
    with connect(site.lake, [site.name]) as con:
        rows = con.execute(
            "SELECT path, min(file_checksum) FROM dataset WHERE path IN (SELECT unnest($paths::VARCHAR[])) GROUP BY path",
            {"paths": list(paths)},
        ).fetchall()
    return dict(rows)


def _records(
    lake: Lake, copies: Mapping[str, list[Copy]], types: Sequence[str] | None, where: str
) -> tuple[pa.Table, dict[str, str]]:
    """Registry rows of the files that are chosen, from the bundles; and of which files no bundle tells, with the reason."""
    wanted = {path: list(listed) for path, listed in copies.items()}
    found: list[pa.Table] = []
    unread: dict[str, str] = {}
    while wanted:
        by_bundle: dict[tuple[str, str, str], list[str]] = {}
        for path, listed in wanted.items():
            copy = listed.pop(0)
            by_bundle.setdefault((copy.site, copy.location, copy.bundle_path), []).append(path)
        again: dict[str, list[Copy]] = {}
        for (keeper, location, bundle), held in by_bundle.items():
            try:
                rows = container.records(Shelf(lake.site(keeper), location).file(bundle))
                found.append(_chosen(rows.filter(pc.is_in(rows["path"], pa.array(held, pa.string()))), types, where))
            except (OSError, BadZipFile, KeyError, pa.ArrowInvalid) as error:
                unread |= {path: f"bundle {bundle} at {location or keeper}: {one_line(error)}" for path in held}
                again |= {path: wanted[path] for path in held if wanted[path]}
        wanted = again
    schema = pa.schema([schemas.table("dataset").arrow.field(name) for name in container.COLUMNS])
    return pa.concat_tables([schema.empty_table(), *(table.cast(schema) for table in found)]), unread


def _chosen(records: pa.Table, types: Sequence[str] | None, where: str) -> pa.Table:
    """The rows of all files in which a dataset meets the condition."""
    with delta.connect() as con:
        con.execute("SET enable_external_access = false; SET lock_configuration = true")
        con.register("dataset", records)
        try:
            return con.sql(
                f"FROM dataset SEMI JOIN (SELECT path FROM dataset WHERE ($types IS NULL OR dataset_type IN "
                f"(SELECT unnest($types::VARCHAR[]))) AND (\n{where}\n)) USING (path) ORDER BY path, dataset_id",
                params={"types": None if types is None else list(types)},
            ).to_arrow_table()
        except duckdb.Error as error:
            said = " ".join(str(error).split("\n\n")[0].split("\nLINE ")[0].split())
            raise ArchiveError(f"the condition {' '.join(where.split())!r} cannot be used: {said}") from None


def _bring(lake: Lake, site: Site, copies: Sequence[Copy], registered: str | None) -> tuple[str | None, str | None]:
    """Put one file in its place: (the bundle it came from, or None if it was there whole; what went wrong)."""
    member = copies[0].member
    try:
        target = _place(site, member.path)
    except LakeError as error:
        return None, str(error)
    problem = datastore.check(site, member.path, member.bytes, member.checksum)
    if problem is None:
        return None, None
    if registered is not None and registered != member.checksum:
        return None, f"another file is registered at {site.name} under this path (sha256 {registered})"
    if registered is None and target.exists():
        return None, "an unregistered file with other content stands there; drp audit --remove-orphans takes it away"
    wrong = []
    for copy in copies:
        try:
            if (why := _copy(lake, copy, target)) is None:
                return copy.bundle_path, None
        except OSError as error:
            why = one_line(error)
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
                return None, f"cannot be written: {why}"
        wrong.append(f"{copy.bundle_path} at {copy.location or copy.site}: {why}")
    return None, "; ".join(wrong)


def _place(site: Site, path: str) -> Path:
    """Where a member goes; LakeError if that is not below the site's files or catalogues, links followed."""
    target = site.path(path)
    if PurePosixPath(path).parts[0] != "files" and not path.startswith(PREFIX):
        raise ArchiveError(f"{path} is neither below files/ nor a catalogue's file")
    if not is_object(target) and not target.parent.resolve().is_relative_to(site.root.resolve()):
        raise ArchiveError(f"{path} would leave the site by a link")
    return target


def _copy(lake: Lake, copy: Copy, target: Path) -> str | None:
    """Stream a member to its place under a temporary name; what is wrong with it, where its checksum is another."""
    temporary = datastore.staging(target)
    digest = hashlib.sha256()
    with container.Opened(Shelf(lake.site(copy.site), copy.location).file(copy.bundle_path)) as bundle:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                for piece in bundle.pieces(copy.member):
                    digest.update(piece)
                    file.write(piece)
                file.flush()
                os.fsync(file.fileno())
            if digest.hexdigest() != copy.member.checksum:
                return f"damaged at byte {copy.member.offset}"
            datastore.settle(temporary, target)
            return None
        finally:
            with suppress(OSError):
                temporary.unlink()


def _ingest(lake: Lake, site: Site, records: pa.Table, copies: Mapping[str, list[Copy]], result: Recalled) -> None:
    """Register what came back, with the dimension records it needs; what is refused goes again."""
    if not records.num_rows:
        return
    keepers = {path: copies[path][0].site for path in records["path"].unique().to_pylist()}
    for keeper in sorted(set(keepers.values()) - {site.name}):
        mine = pa.array([path for path, name in keepers.items() if name == keeper], pa.string())
        copy_companions(lake.site(keeper), site, _whole(records.filter(pc.is_in(records["path"], mine))))
    verdicts = registry.ingest(site, records)
    result.verdicts.update(verdicts["verdict"].to_pylist())
    rows = zip(*(t.to_pylist() for t in (records["path"], verdicts["verdict"], verdicts["reason"])), strict=True)
    refused = {path: reason for path, verdict, reason in rows if verdict == "rejected"}
    result.failed |= refused
    unclaimed = [path for path in refused if result.restored.pop(path, None)]
    registry.drop_unclaimed(site, unclaimed)


def _whole(records: pa.Table) -> pa.Table:
    """Records as rows of ``dataset``, which have a time."""
    stamp = pa.array([registry.utc_now()] * records.num_rows, pa.timestamp("us", "UTC"))
    return schemas.conform("dataset", records.append_column("registered_at", stamp))
