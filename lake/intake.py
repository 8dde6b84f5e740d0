"""Bring many files in and register them: copied, linked, moved, or where they are; a verdict for every row.

The files of a batch are written under temporary names by a few threads, made durable together (one sync of the file
system costs less than thousands of single ones), get their names, and are registered in one commit. A source that is
moved goes last, when its row is durable. A death at any moment leaves temporary files, or files that the same call
finds in place when it is made again.
"""

from __future__ import annotations

import os
import uuid
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import arriving, collection, datastore, delta, dimensions, fault, registry
from lake.arriving import Arriving, Known, Mode
from lake.disk import Disk
from lake.identity import padded
from lake.site import LakeError, Site

MODES = ("copy", "link", "move", "direct")
#: Files that are made durable and registered together.
BATCH = 5000
#: More threads than this only wait for each other at the lock of the directory that they write into.
THREADS = 2
#: Batches that are on their way while one is registered.
AHEAD = 2
#: Files that a thread takes from the queue at once.
AT_ONCE = 50
RESULT = pa.schema([("dataset_id", pa.string()), ("verdict", pa.string()), ("reason", pa.string()), ("path", pa.string())])


class IntakeError(LakeError):
    """Files cannot be taken in as they are given; the message names the first and the remedy."""

    exit_code = 2


def take_in(
    site: Site, files: pa.Table, mode: Mode = "copy", progress: Callable[[int, int], None] = lambda n, of: None
) -> pa.Table:
    """Bring files in and register each as a dataset; returns (dataset_id, verdict, reason, path) in the order of the rows.

    ``files`` has source (a path), dataset_type, run, the data ID columns that are needed (what a visit or exposure
    implies may be left out), and may have checksum (sha256 that a source must have) and path (below the site's root;
    else datastore.template() names it). ``direct`` registers files that are below the site's root already. Verdicts are
    those of registry.ingest(); a dataset that is registered with other content is rejected, and both are named. Doing
    it again is safe at any time. The runs of what was taken in become RUN collections. IntakeError where the table itself
    cannot be used.
    """
    if mode not in MODES:
        raise IntakeError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    rows = _completed(site, files)
    kinds = {name: kind for name, (kind, _) in collection.collections_now(site).items()}
    for run in pc.unique(rows["run"]).to_pylist():
        if kinds.get(run, "RUN") != "RUN":
            raise IntakeError(f"site {site.name}: run {run} is a {kinds[run]} collection; datasets are made in RUN collections")
    parts, done = [RESULT.empty_table()], 0
    with closing(_brought(site, rows, mode)) as batches:
        for batch, arrived, placed in batches:
            parts.append(_settled(site, batch, arrived, mode, placed))
            done += batch.num_rows
            progress(done, rows.num_rows)
    found = pa.concat_tables(parts)
    runs = pc.unique(rows["run"].filter(pc.is_in(found["verdict"], pa.array(["accepted", "present"])))).to_pylist()
    if not kinds.keys() >= set(runs):
        collection.register_collections(site, [(run, "RUN", None) for run in runs])
    return found


def _completed(site: Site, files: pa.Table) -> pa.Table:
    """The given rows with all columns of ``dataset`` that are known before a file is read, and their ids."""
    declared = schemas.table("dataset").arrow
    optional = ("checksum", "path")
    for column in ("source", "dataset_type", "run"):
        if column not in files.column_names or files[column].null_count:
            raise IntakeError(f"site {site.name}: every file needs a value in the column {column}")
    for column in files.column_names:
        if column not in ("source", "dataset_type", "run", *optional, *schemas.DATA_ID):
            raise IntakeError(f"site {site.name}: the column {column} has no meaning here; known: source, dataset_type, run, "
                              f"checksum, path and {', '.join(schemas.DATA_ID)}")  # fmt: skip
    for column in optional:
        if column not in files.column_names:
            files = files.append_column(column, pa.nulls(files.num_rows, pa.string()))
    given = padded(files).drop_columns(["ordinal"])
    try:
        kinds = {c: pa.string() if c == "source" else declared.field(c).type for c in given.column_names}
        given = given.cast(pa.schema(kinds))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise IntakeError(f"site {site.name}: {error}") from None
    rows = dimensions.implied(site, given)
    types = registry.dataset_types(site)
    stored = {name: kind.storage for name, kind in types.items() if kind.storage != "table"}
    wrong = rows.filter(pc.invert(pc.is_in(rows["dataset_type"], pa.array(stored, pa.string()))))
    if wrong.num_rows:
        name = wrong["dataset_type"][0].as_py()
        why = (
            "is a slice of a catalogue table"
            if name in types
            else f"is not known; known: {', '.join(stored) or 'none'}, others are declared by drp ingest --register"
        )
        raise IntakeError(f"site {site.name}: {wrong['source'][0]}: dataset type {name} {why}")
    paths = pc.coalesce(pc.if_else(pc.equal(rows["path"], ""), None, rows["path"]), datastore.templates(rows, stored))
    rows = rows.set_column(rows.column_names.index("path"), "path", paths)
    return registry.with_ids(None, rows, {name: kind.dimensions for name, kind in types.items()})


def _brought(site: Site, rows: pa.Table, mode: Mode) -> Generator[tuple[pa.Table, list[Arriving], Callable[[], None]]]:
    """The batches, copied, and what waits until a batch is in its place: while the caller registers one, the next are copied.

    Not so when files are moved: a source that two rows name must be there for both, or be known as moved.
    """
    ahead = 0 if mode == "move" else AHEAD
    waiting: deque[tuple[pa.Table, list[Arriving], list[Disk], list[Future[None]], Future[None]]] = deque()

    def first() -> tuple[pa.Table, list[Arriving], Callable[[], None]]:
        batch, files, _, copying, placing = waiting[0]
        for part in copying:
            part.result()
        return batch, files, placing.result

    copiers = ThreadPoolExecutor(THREADS, thread_name_prefix="intake")
    placer = ThreadPoolExecutor(1, thread_name_prefix="placing")
    with placer, copiers:
        try:
            for begin in range(0, rows.num_rows, BATCH):
                batch = rows.slice(begin, BATCH)
                files, disks = _files(site, batch, mode)
                parts = [files[n : n + AT_ONCE] for n in range(0, len(files), AT_ONCE)]
                copying = [copiers.submit(arriving.bring, site, part, mode) for part in parts]
                waiting.append((batch, files, disks, copying, placer.submit(_place, site, files, disks, copying)))
                if len(waiting) > ahead:
                    yield first()
                    waiting.popleft()
            while waiting:
                yield first()
                waiting.popleft()
        finally:  # what an error, or a reader who has seen enough, leaves behind
            copiers.shutdown(cancel_futures=True)
            placer.shutdown(cancel_futures=True)
            for _, files, disks, _, _ in waiting:
                arriving.discard(files)
                _close(disks)


def _place(site: Site, files: list[Arriving], disks: list[Disk], copying: list[Future[None]]) -> None:
    for part in copying:
        part.result()
    fault.point("intake:copied")
    arriving.place(site, files, disks)
    fault.point("intake:placed")
    _close(disks)


def _close(disks: list[Disk]) -> None:
    for written in disks:
        written.close()


def _files(site: Site, rows: pa.Table, mode: Mode) -> tuple[list[Arriving], list[Disk]]:
    """What is known of the files of a batch before they are read, and the file systems that they are written to."""
    known = _known(site, rows)
    columns = (rows[c].to_pylist() for c in ("dataset_id", "source", "path", "checksum"))
    files = [Arriving(source, path, sha, known.get(i)) for i, source, path, sha in zip(*columns, strict=True)]
    coming = [file for file in files if file.known is None] if mode != "direct" else []
    return files, arriving.prepare(site, coming, uuid.uuid4().hex[:12])


def _settled(site: Site, rows: pa.Table, files: list[Arriving], mode: Mode, placed: Callable[[], None]) -> pa.Table:
    """Register the datasets of files, once they are placed; the verdicts. What is refused goes, and so does what was moved."""
    verdicts = _register(site, rows, files, placed)
    fault.point("intake:registered")
    judged = list(zip(files, verdicts["verdict"].to_pylist(), strict=True))
    registry.drop_unclaimed(site, [file.path for file, verdict in judged if file.new and verdict in ("rejected", "present")])
    for file, verdict in judged:
        if mode == "move" and verdict in ("accepted", "present", "parked"):
            with suppress(FileNotFoundError):
                os.unlink(file.source)  # noqa: PTH108
            fault.point("intake:moved")
    meanwhile = pa.array([verdict == "present" and file.known is None for file, verdict in judged])
    known = _known(site, rows.filter(meanwhile)) if pc.any(meanwhile).as_py() else {}
    ids = rows["dataset_id"].to_pylist()
    paths = [(known.get(each) or file.known or file).path for each, file in zip(ids, files, strict=True)]
    return verdicts.append_column("path", pa.array(paths, pa.string()))


def _known(site: Site, rows: pa.Table) -> dict[str, Known]:
    """Those datasets that are registered already, by id."""
    with delta.cursor() as con:
        con.register("given", rows.select(["dataset_id"]))
        con.execute(f"CREATE TEMP VIEW held AS {registry.candidates(site, rows)}")
        held = con.sql(
            "SELECT dataset_id, path, checksum, file_bytes, file_checksum FROM held SEMI JOIN given USING (dataset_id)"
        ).fetchall()
    return {dataset_id: Known(*known) for dataset_id, *known in held}


class _Otherwise(Exception):
    """A file got another name than it was judged by, or none."""


def _register(site: Site, rows: pa.Table, files: list[Arriving], placed: Callable[[], None]) -> pa.Table:
    """Register what arrived; it is judged while it gets its names, and again where that did not go as expected."""
    expected = [(file.path, file.reason) for file in files]

    def ready() -> None:
        placed()
        if expected != [(file.path, file.reason) for file in files]:
            raise _Otherwise

    try:
        return _registered(site, rows, files, ready)
    except _Otherwise:
        return _registered(site, rows, files, placed)


def _registered(site: Site, rows: pa.Table, files: list[Arriving], ready: Callable[[], None]) -> pa.Table:
    """Verdicts on what arrived, when it is ready; the others are present, or rejected for their reason."""
    facts = {
        "path": [f.path for f in files], "checksum": [f.checksum for f in files], "file_checksum": [f.checksum for f in files],
        "bytes": [f.bytes for f in files], "file_bytes": [f.bytes for f in files], "origin": [site.name] * len(files),
    }  # fmt: skip
    ids, rows = rows["dataset_id"], rows.drop_columns(["dataset_id", "source", "path", "checksum"])  # it makes the ids itself
    for name, values in facts.items():
        rows = rows.append_column(name, pa.array(values))
    coming = pa.array([file.reason is None and file.known is None for file in files])
    if pc.all(coming).as_py():
        return registry.ingest(site, rows, ready=ready)
    if pc.any(coming).as_py():
        judged = registry.ingest(site, rows.filter(coming), ready=ready)
    else:
        ready()
        judged = registry.VERDICTS.empty_table()
    reasons = pa.array([file.reason for file in files], pa.string())
    verdicts = pc.if_else(pc.is_null(reasons), "present", "rejected")
    own = pa.table([ids.combine_chunks(), verdicts, reasons], schema=registry.VERDICTS)
    columns = [
        pc.replace_with_mask(mine.combine_chunks(), coming, theirs.combine_chunks())
        for mine, theirs in zip(own.columns, judged.columns, strict=True)
    ]
    return pa.table(columns, schema=registry.VERDICTS)
