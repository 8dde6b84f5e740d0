"""Files of a site: written once, under a temporary name, durable, with their sha256; never changed afterwards."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import sizes
from lake.durable import fsync_dir, fsync_file
from lake.objects import ObjectPath, is_object
from lake.site import LakeError, Site

CHUNK = 4 * 2**20
#: Names of unfinished files start so; one older than its writer is a leftover.
TEMPORARY = ".tmp-"
#: Characters that a name of a file has not.
_UNUSUAL = re.compile(r"[^A-Za-z0-9_.+-]")
#: Columns of a data ID whose values stand in names after the first letter of the column.
_LETTERED = ("detector", "tract", "patch")
SUFFIX = {"fits": ".fits", "json": ".json", "table": ".parquet"}


class DatastoreError(LakeError):
    """A file cannot be written or is not what it should be; the message names it and the remedy."""

    exit_code = 1


@dataclass(frozen=True)
class FileRecord:
    """A finished file: ``path`` relative to the site's root, ``checksum`` its sha256 in hexadecimal."""

    path: str
    bytes: int
    checksum: str


def template(run: str, dataset_type: str, data_id: Mapping[str, Any], storage: str = "fits") -> str:
    """The path of a file dataset: ``files/<run>/<dataset_type>/<night or tract>/<type>_<values>.<ext>``.

    The directory is day_obs where the data ID has one, else the tract; names list the values of the data ID in
    canonical order, without those that a visit implies.
    """
    known = {c: value for c in schemas.DATA_ID if (value := data_id.get(c)) is not None}
    implied = {"exposure", "physical_filter", "band", "day_obs"} if "visit" in known else {"day_obs"}
    implied |= {"band"} if "physical_filter" in known else set()
    values = [f"{c[0]}{v}" if c in _LETTERED else str(v) for c, v in known.items() if c not in implied]
    name = _UNUSUAL.sub("-", "_".join([dataset_type, *values])) + SUFFIX[storage]
    return f"{_folder(run, dataset_type, known.get('day_obs', known.get('tract')))}/{name}"


def templates(rows: pa.Table, storage: Mapping[str, str]) -> pa.ChunkedArray:
    """As template(), of each of many rows with run, dataset_type and the data ID columns; ``storage`` is by dataset type."""
    by_visit = rows["visit"].is_valid()
    implied = {"exposure": by_visit, "physical_filter": by_visit, "band": pc.or_(by_visit, rows["physical_filter"].is_valid())}
    parts = [rows["dataset_type"]]
    for column in schemas.DATA_ID:
        if column != "day_obs":
            text = rows[column].cast(pa.string())
            text = pc.binary_join_element_wise(column[0], text, "") if column in _LETTERED else text
            parts.append(pc.if_else(implied[column], None, text) if column in implied else text)
    names = pc.replace_substring_regex(pc.binary_join_element_wise(*parts, "_", null_handling="skip"), _UNUSUAL.pattern, "-")
    part = pc.coalesce(rows["day_obs"], rows["tract"])
    folders = map(_folder, *(column.to_pylist() for column in (rows["run"], rows["dataset_type"], part)))
    endings = pa.array([SUFFIX[kind] for kind in storage.values()], pa.string())
    endings = endings.take(pc.index_in(rows["dataset_type"], pa.array(storage, pa.string())))
    return pc.binary_join_element_wise(pc.binary_join_element_wise(pa.array(folders, pa.string()), names, "/"), endings, "")


@lru_cache(1024)
def _folder(run: str, dataset_type: str, part: int | None) -> str:
    return str(PurePosixPath("files", run, dataset_type, *([str(part)] if part is not None else [])))


def write_file(site: Site, rel: str, content: bytes | Callable[[Path], None]) -> FileRecord:
    """Write a new file at ``rel``: bytes, or a function that writes the path it is given.

    An immutable file is never overwritten. The same bytes are there already: they stay. Other bytes are there (a
    leftover, or a damaged file): the new ones go to a name with ``~`` and their checksum, and the committer decides
    which one counts.
    """
    target = site.path(rel)
    temporary = staging(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            content(temporary)
        fsync_file(temporary)
        record = FileRecord(rel, temporary.stat().st_size, checksum(temporary))
        if target.exists():
            if target.stat().st_size == record.bytes and checksum(target) == record.checksum:
                return record
            record = FileRecord(alternative(rel, record.checksum), record.bytes, record.checksum)
        settle(temporary, site.path(record.path))
        return record
    except OSError as error:
        raise _failure(site, rel, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def alternative(rel: str, checksum: str) -> str:
    """The name for other bytes than those that stand at ``rel``."""
    path = PurePosixPath(rel)
    return str(path.with_name(f"{path.stem.partition('~')[0]}~{checksum[:12]}{path.suffix}"))


def put_file(
    site: Site,
    source: str | Path,
    rel: str,
    mode: Literal["copy", "link", "move"] = "copy",
    expected: str | None = None,
    progress: Callable[[int], None] = lambda n: None,
) -> FileRecord:
    """Bring a file in at exactly ``rel``, its sha256 computed while it streams; ``progress(bytes)`` per piece copied.

    With ``expected`` (a checksum), other content is refused, and a damaged file that stands at ``rel`` is replaced.
    Without it, other content at ``rel`` is refused. ``link`` shares the bytes with the source (same file system),
    ``move`` takes the source away when the new file is durable.
    """
    source, target = Path(source), site.path(rel)
    temporary = staging(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode == "link":
            try:
                if is_object(target):
                    raise OSError(errno.EXDEV, "no links in object stores")
                os.link(source, temporary)
            except OSError as error:
                if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                    raise
                mode = "copy"
        record = _stream(source, None if mode == "link" else temporary, rel, progress)
        if expected is not None and record.checksum != expected:
            raise DatastoreError(
                f"site {site.name}: {source} has the checksum {record.checksum}, {expected} was expected; the source is damaged"
            )
        if target.exists() and checksum(target) == record.checksum:
            temporary.unlink(missing_ok=True)
        elif target.exists() and expected is None:
            raise DatastoreError(f"site {site.name}: {rel} is there with other content; files are never overwritten")
        else:
            settle(temporary, target)
        if mode == "move":
            source.unlink()
        return record
    except OSError as error:
        raise _failure(site, rel, error) from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def checksum(path: str | Path) -> str:
    """sha256 of a file, read in pieces."""
    path = Path(path) if isinstance(path, str) else path
    with path.open("rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check(site: Site, rel: str, size: int, sha256: str | None = None) -> str | None:
    """What is wrong with a registered file: None, or 'lost: ...' or 'damaged: ...'. Reads it only for ``sha256``.

    A symbolic link in a file's place is damage: what it leads to is not the site's.
    """
    try:
        path = site.path(rel)
        status = path.stat() if is_object(path) else path.lstat()
    except LakeError as error:
        return f"damaged: {error}"
    except OSError:
        return f"lost: {rel} is not in storage"
    if not is_object(path) and stat.S_ISLNK(status.st_mode):
        return f"damaged: {rel} is a symbolic link"
    found = status.st_size
    if found != size:
        return f"damaged: {rel} has {found} bytes, {size} are registered"
    if sha256 is not None and (seen := checksum(path)) != sha256:
        return f"damaged: {rel} has the checksum {seen}, {sha256} is registered"
    return None


def suspects(site: Site, paths: pa.ChunkedArray, expected: pa.ChunkedArray, free: Callable[[], object] = lambda: None) -> list[str]:
    """Those of many files that are not in storage with these sizes, or not below the site's root: check() says why.

    ``free`` as in sizes.differing().
    """
    if is_object(site.root):  # an object store is asked by name, one by one
        return [path for path, size in zip(paths.to_pylist(), expected.to_pylist(), strict=True) if _differs(site, path, size)]
    return sizes.differing(site.root, paths, expected, free)


def _differs(site: Site, path: str, size: int) -> bool:
    try:
        return check(site, path, size) is not None
    except LakeError:
        return True


def outside(paths: pa.Array | pa.ChunkedArray) -> list[str]:
    """Those of many paths that Site.path() may refuse."""
    wrong: list[str] = pc.filter(paths, pc.match_substring_regex(paths, r"^/|(^|/)\.{0,2}(/|$)|\x00")).to_pylist()
    return wrong


def staging(target: Path) -> Path:
    """Where a new file is written before it gets its name: beside that, or in local scratch for an object."""
    name = f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{target.name}"
    return Path(tempfile.gettempdir()) / name if is_object(target) else target.with_name(name)


def settle(temporary: Path, target: Path) -> None:
    """Give a finished file its name, durably."""
    if isinstance(target, ObjectPath):
        target.upload(temporary)
    else:
        temporary.replace(target)
        fsync_dir(target.parent)


def _stream(source: Path, target: Path | None, rel: str, progress: Callable[[int], None]) -> FileRecord:
    digest, size = hashlib.sha256(), 0
    output = target.open("xb") if target is not None else None
    try:
        with source.open("rb", buffering=0) as file:
            while piece := file.read(CHUNK):
                digest.update(piece)
                size += len(piece)
                if output is not None:
                    output.write(piece)
                progress(len(piece))
        if output is not None:
            output.flush()
            os.fsync(output.fileno())
    finally:
        if output is not None:
            output.close()
    return FileRecord(rel, size, digest.hexdigest())


def _failure(site: Site, rel: str, error: OSError) -> DatastoreError:
    remedy = {errno.ENOSPC: "free space", errno.EROFS: "the disk is read-only", errno.EACCES: "check permissions"}
    why = os.strerror(error.errno) if error.errno else str(error)
    where = f" ({error.filename})" if error.filename and not str(error.filename).endswith(Path(rel).name) else ""
    return DatastoreError(f"site {site.name}: {rel}: {why}{where}; {remedy.get(error.errno or 0, 'nothing was written')}")
