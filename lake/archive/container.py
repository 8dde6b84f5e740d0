"""A bundle: an uncompressed ZIP64 of files under their own paths, followed by an index of its own.

Any unzip opens it, and finds a member by the directory at the end without reading the rest; each member's bytes are as they
are, so that an offset and a length are enough to read one. ``drp-index/SHA256SUMS`` is what sha256sum -c reads,
``drp-index/datasets.csv`` the registry rows of the members. The bytes of a bundle depend on these alone: not on the time,
the site or the user.
"""

from __future__ import annotations

import hashlib
import io
import os
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, BinaryIO

import pyarrow as pa
import pyarrow.csv

import schemas
from lake import datastore
from lake.access import source
from lake.identity import NAMESPACE
from lake.objects import ObjectPath

SUMS, DATASETS = "drp-index/SHA256SUMS", "drp-index/datasets.csv"
SUFFIX = ".zip"
#: Columns of ``dataset`` that datasets.csv holds: what is the same wherever and whenever the dataset is registered.
COLUMNS = tuple(name for name in schemas.table("dataset").arrow.names if name != "registered_at")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_READ_ONLY = 0o100444 << 16


@dataclass(frozen=True)
class Member:
    """A file in a bundle: its path below a site's root, size, sha256, and where its bytes begin (-1: not written yet)."""

    path: str
    bytes: int
    checksum: str
    offset: int = -1


@dataclass(frozen=True)
class Contents:
    """What a bundle is to hold: ``members`` in their order, ``records`` the registry rows (COLUMNS) of the datasets in them."""

    members: tuple[Member, ...]
    records: pa.Table

    @cached_property
    def sums(self) -> bytes:
        """SHA256SUMS; the line of a name that sha256sum would escape begins with a backslash, as it expects."""
        return "".join(_sum_line(member) for member in self.members).encode()

    @cached_property
    def csv(self) -> bytes:
        """datasets.csv; a value that is null is empty."""
        sink = io.BytesIO()
        pa.csv.write_csv(self.records.select(list(COLUMNS)), sink)
        return sink.getvalue()

    @cached_property
    def bundle_id(self) -> str:
        """UUIDv5 of what the bundle holds."""
        return str(uuid.uuid5(NAMESPACE, hashlib.sha256(self.sums + b"\0" + self.csv).hexdigest()))


def _sum_line(member: Member) -> str:
    escaped = member.path.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    lead = "\\" if escaped != member.path else ""
    return f"{lead}{member.checksum}  {escaped}\n"


class SourceError(Exception):
    """A file to be bundled is not there, or has another size; ``path`` names it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(reason)
        self.path, self.reason = path, reason


def write(target: Path, contents: Contents, file_of: Callable[[str], Path], progress: Callable[[int], None]) -> list[Member]:
    """Write a new bundle, durable; returns its members with their offsets, the two of the index last.

    ``file_of`` gives the file of a member's path, ``progress(bytes)`` is called per piece written. Checksums are not looked
    at here: check() reads what has arrived. Raises SourceError, and OSError where ``target`` cannot be written.
    """
    written = []
    with target.open("xb") as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as bundle:
        for member in contents.members:
            with _open(file_of(member.path), member) as original:
                with bundle.open(_entry(member.path, member.bytes), "w") as entry:
                    written.append(replace(member, offset=file.tell()))
                    left = member.bytes
                    while left and (piece := original.read(min(left, datastore.CHUNK))):
                        entry.write(piece)
                        left -= len(piece)
                        progress(len(piece))
                if left:
                    raise SourceError(member.path, "was cut short while it was read")
        for name, content in ((SUMS, contents.sums), (DATASETS, contents.csv)):
            with bundle.open(_entry(name, len(content)), "w") as entry:
                written.append(Member(name, len(content), hashlib.sha256(content).hexdigest(), file.tell()))
                entry.write(content)
        bundle.close()
        file.flush()
        os.fsync(file.fileno())
    return written


def _entry(name: str, size: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system, entry.external_attr, entry.file_size = 3, _READ_ONLY, size
    return entry


def _open(path: Path, member: Member) -> BinaryIO:
    try:
        size = path.stat().st_size
        if size != member.bytes:
            raise SourceError(member.path, f"has {size} bytes, {member.bytes} are registered")
        return path.open("rb", buffering=0)  # type: ignore[return-value]
    except FileNotFoundError:
        raise SourceError(member.path, "is not in storage") from None
    except OSError as error:
        raise SourceError(member.path, f"cannot be read ({error.strerror or error})") from None


def check(path: Path, members: Sequence[Member], progress: Callable[[int], None]) -> tuple[str, dict[str, str]]:
    """The sha256 of a bundle, and what is wrong with its members (in order of their place), by path: every byte is read.

    ``progress(bytes)`` is called per member read. OSError when the bundle cannot be read.
    """
    wrong, place = {}, 0
    with ThreadPoolExecutor(1) as pool, path.open("rb", buffering=0) as file:
        whole = pool.submit(datastore.checksum, path)
        for member in members:
            _take(file, member.offset - place)
            if (found := _take(file, member.bytes)) != member.checksum:
                wrong[member.path] = f"has the checksum {found}, {member.checksum} is registered"
            place = member.offset + member.bytes
            progress(member.bytes)
        return whole.result(), wrong


def _take(file: IO[bytes], count: int) -> str:
    """The sha256 of the next bytes of a file: fewer, where it ends before."""
    digest = hashlib.sha256()
    while count and (piece := file.read(min(datastore.CHUNK, count))):
        digest.update(piece)
        count -= len(piece)
    return digest.hexdigest()


class Opened:
    """A bundle open for reading at any place, on a disk or in an object store. OSError where it is not there."""

    def __init__(self, path: Path) -> None:
        self._object = path if isinstance(path, ObjectPath) else None
        self._file = -1 if self._object else os.open(path, os.O_RDONLY)

    def pieces(self, member: Member) -> Iterator[bytes]:
        """The bytes of a member, read at its place; fewer, where the bundle is cut short."""
        done = 0
        while done < member.bytes:
            count, begin = min(datastore.CHUNK, member.bytes - done), member.offset + done
            piece = self._object.read_range(begin, count) if self._object else os.pread(self._file, count, begin)
            if not piece:
                return
            yield piece
            done += len(piece)

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def records(path: Path) -> pa.Table:
    """The registry rows (COLUMNS) that a bundle itself holds; needs no table. OSError or ValueError when it is not readable."""
    schema = schemas.table("dataset").arrow
    with zipfile.ZipFile(source(path)) as bundle:
        content = bundle.read(DATASETS)  # the CRC of the directory is compared
    options = pa.csv.ConvertOptions(
        column_types={name: schema.field(name).type for name in COLUMNS},
        strings_can_be_null=True, quoted_strings_can_be_null=False, null_values=[""], include_columns=list(COLUMNS),
    )  # fmt: skip
    table: pa.Table = pa.csv.read_csv(pa.py_buffer(content), convert_options=options)
    return table
