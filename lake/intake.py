"""Bring many files in and register them: copied, linked, moved, or where they are; a verdict for every row.

The files of a batch are written under temporary names by a few threads, made durable together (one sync of the file
system costs less than thousands of single ones), get their names, and are registered in one commit. A source that is
moved goes last, when its row is durable. A death at any moment leaves temporary files, or files that the same call
finds in place when it is made again.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import datastore, delta, fault, registry
from lake.durable import fsync_dir
from lake.identity import padded
from lake.objects import is_object
from lake.site import LakeError, Site
from lake.sql import statement

Mode = Literal["copy", "link", "move", "direct"]
MODES = ("copy", "link", "move", "direct")
#: Files that are made durable and registered together.
BATCH = 5000
#: More threads than this only wait for each other at the lock of the directory that they write into.
THREADS = 2
#: Files that a thread takes from the queue at once.
AT_ONCE = 50
RESULT = pa.schema([("dataset_id", pa.string()), ("verdict", pa.string()), ("reason", pa.string()), ("path", pa.string())])


class IntakeError(LakeError):
    """Files cannot be taken in as they are given; the message names the first and the remedy."""


class _Known(NamedTuple):
    """A dataset that is registered already."""

    path: str
    checksum: str
    bytes: int
    file_checksum: str


@dataclass
class _File:
    """A file on its way: where it comes from, where it goes, and what is known of it so far."""

    source: str
    path: str
    expected: str | None
    known: _Known | None
    temporary: str = ""
    bytes: int = 0
    checksum: str = ""
    reason: str | None = None
    new: bool = False


def take_in(
    site: Site, files: pa.Table, mode: Mode = "copy", progress: Callable[[int, int], None] = lambda n, of: None
) -> pa.Table:
    """Bring files in and register each as a dataset; returns (dataset_id, verdict, reason, path) in the order of the rows.

    ``files`` has source (a path), dataset_type, run, the data ID columns that are needed (what a visit or exposure
    implies may be left out), and may have checksum (sha256 that a source must have) and path (below the site's root;
    else datastore.template() names it). ``direct`` registers files that are below the site's root already. Verdicts are
    those of registry.ingest(); a dataset that is registered with other content is rejected, and both are named. Doing
    it again is safe at any time. IntakeError where the table itself cannot be used.
    """
    if mode not in MODES:
        raise IntakeError(f"mode {mode!r} is not one of {', '.join(MODES)}")
    rows = _completed(site, files)
    parts = []
    for begin in range(0, rows.num_rows, BATCH):
        parts.append(_batch(site, rows.slice(begin, BATCH), mode))
        progress(min(begin + BATCH, rows.num_rows), rows.num_rows)
    return pa.concat_tables(parts) if parts else RESULT.empty_table()


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
    given = padded(files)
    try:
        kinds = {"source": pa.string(), "ordinal": pa.int64()}
        given = given.cast(pa.schema([pa.field(c, kinds[c] if c in kinds else declared.field(c).type) for c in given.column_names]))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise IntakeError(f"site {site.name}: {error}") from None
    with delta.cursor() as con:
        con.register("given", given)
        for table in ("visit", "exposure", "physical_filter"):
            delta.view(con, site, table)
        rows = con.sql(statement("completed")).to_arrow_table().drop_columns(["ordinal"])
    types = registry.dataset_types(site)
    files_of = pa.array([name for name, kind in types.items() if kind.storage != "table"], pa.string())
    wrong = rows.filter(pc.invert(pc.is_in(rows["dataset_type"], files_of)))
    if wrong.num_rows:
        name = wrong["dataset_type"][0].as_py()
        why = "is a slice of a catalogue table" if name in types else "is not known; register it first"
        raise IntakeError(f"site {site.name}: {wrong['source'][0]}: dataset type {name} {why}")
    names = [
        row["path"] or datastore.template(row["run"], row["dataset_type"], row, types[row["dataset_type"]].storage)
        for row in rows.select(["path", "run", "dataset_type", *schemas.DATA_ID]).to_pylist()
    ]
    rows = rows.set_column(rows.column_names.index("path"), "path", pa.array(names, pa.string()))
    return registry.with_ids(None, rows, {name: kind.dimensions for name, kind in types.items()})


def _batch(site: Site, rows: pa.Table, mode: Mode) -> pa.Table:
    known = _known(site, rows)
    ids = rows["dataset_id"].to_pylist()
    sources, paths, sums = (rows[c].to_pylist() for c in ("source", "path", "checksum"))
    files = [_File(source, path, sha, known.get(i)) for i, source, path, sha in zip(ids, sources, paths, sums, strict=True)]
    with ThreadPoolExecutor(THREADS, thread_name_prefix="intake") as pool:
        list(pool.map(lambda begin: _attempt(site, files[begin : begin + AT_ONCE], mode), range(0, len(files), AT_ONCE)))
        fault.point("intake:copied")
        _sync(site)
        for file in files:
            if file.temporary:
                _place(site, file)
        for folder in sorted({file.path.rpartition("/")[0] for file in files if file.new}):
            fsync_dir(site.path(folder))
        fault.point("intake:placed")
        coming = pa.array([file.reason is None and file.known is None for file in files])
        verdicts = _register(site, rows, files, coming)
        fault.point("intake:registered")
        for file, verdict in zip(files, verdicts["verdict"].to_pylist(), strict=True):
            if verdict == "rejected" and file.new and (file.known is None or file.known.path != file.path):
                site.path(file.path).unlink(missing_ok=True)
            elif mode == "move" and verdict in ("accepted", "present", "parked"):
                with suppress(FileNotFoundError):
                    os.unlink(file.source)  # noqa: PTH108
                fault.point("intake:moved")
    return verdicts.append_column("path", pa.array([f.known.path if f.known else f.path for f in files], pa.string()))


def _known(site: Site, rows: pa.Table) -> dict[str, _Known]:
    """Those datasets that are registered already, by id."""
    with delta.cursor() as con:
        con.register("given", rows.select(["dataset_id"]))
        con.execute(f"CREATE TEMP VIEW held AS {registry.candidates(site, rows)}")
        held = con.sql(
            "SELECT dataset_id, path, checksum, file_bytes, file_checksum FROM held SEMI JOIN given USING (dataset_id)"
        ).fetchall()
    return {dataset_id: _Known(*known) for dataset_id, *known in held}


def _attempt(site: Site, files: list[_File], mode: Mode) -> None:
    for file in files:
        try:
            _read(site, file, mode)
        except OSError as error:
            file.reason = f"{file.source}: {os.strerror(error.errno) if error.errno else error}"
        except LakeError as error:
            file.reason = str(error)


def _read(site: Site, file: _File, mode: Mode) -> None:
    """Read a source; write it under a temporary name, unless it is in place, registered already or not as expected."""
    if file.known and mode == "move" and not Path(file.source).exists():
        file.checksum = file.known.file_checksum
        file.reason = datastore.check(site, file.known.path, file.known.bytes, file.checksum)  # None: it was moved before
        return
    if mode == "direct":
        file.path = site.relative(Path(file.source).absolute())
    with open(file.source, "rb", buffering=0) as source:  # noqa: PTH123
        data = source.read(datastore.CHUNK)
        whole = len(data) < datastore.CHUNK
        file.bytes = os.fstat(source.fileno()).st_size
    file.checksum = hashlib.sha256(data).hexdigest() if whole else datastore.checksum(file.source)
    if file.expected not in (None, file.checksum):
        file.reason = f"{file.source} has the checksum {file.checksum}, {file.expected} was expected; the source is damaged"
    elif file.known and file.known.checksum != file.checksum:
        file.reason = f"registered with checksum {file.known.checksum} ({file.known.path}), {file.source} has {file.checksum}"
    elif file.known and (problem := datastore.check(site, file.known.path, file.known.bytes, file.known.file_checksum)):
        file.reason = f"is registered, but {problem}; drp run heals it"
    elif not file.known and mode != "direct":
        target = str(site.path(file.path))
        if is_object(site.root) or not whole:  # large files are streamed, and objects put, one by one
            datastore.put_file(site, file.source, file.path, "copy" if mode == "copy" else "link", file.checksum)
            file.new = True
            return
        temporary = f"{target.rpartition('/')[0]}/{datastore.TEMPORARY}{uuid.uuid4().hex[:12]}"
        try:
            _write(temporary, data, file.source if mode != "copy" else None)
        except FileNotFoundError:
            Path(target).parent.mkdir(parents=True, exist_ok=True)
            _write(temporary, data, file.source if mode != "copy" else None)
        file.temporary = temporary


def _write(temporary: str, data: bytes, linked: str | None) -> None:
    if linked is not None:
        try:
            os.link(linked, temporary)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(descriptor, data)
    finally:
        os.close(descriptor)


def _place(site: Site, file: _File) -> None:
    """Give a finished file its name; where other content has that, one that tells them apart."""
    try:
        for path in (file.path, datastore.alternative(file.path, file.checksum)):
            try:
                os.link(file.temporary, f"{site.root}/{path}")  # never in the place of another
                file.path, file.new = path, True
                return
            except FileExistsError:
                if datastore.check(site, path, file.bytes, file.checksum) is None:
                    file.path = path
                    return
        file.reason = f"{file.path} and its alternative are there with other content; look at them with drp audit"
    except OSError as error:
        file.reason = f"{file.path}: {os.strerror(error.errno) if error.errno else error}"
    finally:
        with suppress(OSError):
            os.unlink(file.temporary)  # noqa: PTH108


def _register(site: Site, rows: pa.Table, files: list[_File], coming: pa.Array) -> pa.Table:
    """Register what arrived; the others are present, or rejected for their reason."""
    facts = {
        "path": [f.path for f in files], "checksum": [f.checksum for f in files], "file_checksum": [f.checksum for f in files],
        "bytes": [f.bytes for f in files], "file_bytes": [f.bytes for f in files], "origin": [site.name] * len(files),
    }  # fmt: skip
    rows = rows.drop_columns(["source", "path", "checksum"])
    for name, values in facts.items():
        rows = rows.append_column(name, pa.array(values))
    judged = registry.ingest(site, rows.filter(coming)) if pc.any(coming).as_py() else registry.VERDICTS.empty_table()
    found = iter(judged.to_pylist())
    result = []
    for file, dataset_id, here in zip(files, rows["dataset_id"].to_pylist(), coming.to_pylist(), strict=True):
        own = {"dataset_id": dataset_id, "verdict": "rejected" if file.reason else "present", "reason": file.reason}
        result.append(next(found) if here else own)
    return pa.Table.from_pylist(result, schema=registry.VERDICTS)


def _sync(site: Site) -> None:
    """Make everything that was written to the site's file system durable."""
    if is_object(site.root):
        return
    descriptor = os.open(site.root, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            raise IntakeError(f"site {site.name}: its file system cannot be synced: {os.strerror(ctypes.get_errno())}")
    except AttributeError:  # not Linux
        os.sync()
    finally:
        os.close(descriptor)
