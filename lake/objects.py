"""Object stores: a site's root may be ``s3://bucket/prefix`` as well as a directory.

``ObjectPath`` has the part of pathlib.Path that the lake uses, so that the same code serves both kinds of root. What it
cannot do is named: there are no directories to make or to sync (a put is durable and whole when it returns), no links
and no locks. DuckDB reads objects through a file system that attach() registers, delta-rs by itself.
"""

from __future__ import annotations

import fnmatch
import io
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, cast

from lake.bucket import Bucket, StoreError, errors, know, store

#: Bytes of a part of a multipart upload: what a writer holds in memory.
PART = 8 * 2**20


@dataclass(frozen=True)
class _Stat:
    st_size: int
    st_mtime: float


@dataclass(frozen=True)
class ObjectPath:
    """An object, or a prefix of objects, of a bucket; ``key`` is relative to the bucket's root."""

    bucket: Bucket
    key: str = ""

    @classmethod
    def root(cls, url: str, endpoint: str | None = None, site: str = "") -> Path:
        """The root of a site, to be used as if it were a Path."""
        bucket = Bucket(url.rstrip("/"), endpoint, site)
        know(bucket)
        return cast(Path, cls(bucket))

    # -- names ---------------------------------------------------------------------------------------------------------

    @property
    def _whole(self) -> str:
        """The key within the bucket, the root's prefix included."""
        prefix = self.bucket.url.removeprefix("s3://").partition("/")[2]
        return "/".join(part for part in (prefix, self.key) if part)

    def __str__(self) -> str:
        return f"{self.bucket.url}/{self.key}" if self.key else self.bucket.url

    def joinpath(self, *parts: str | PurePosixPath) -> ObjectPath:
        return ObjectPath(self.bucket, str(PurePosixPath(self.key, *parts)) if parts else self.key)

    def __truediv__(self, part: str | PurePosixPath) -> ObjectPath:
        return self.joinpath(part)

    def __lt__(self, other: ObjectPath) -> bool:
        return str(self) < str(other)

    name = property(lambda self: PurePosixPath(self.key).name)
    stem = property(lambda self: PurePosixPath(self.key).stem)
    suffix = property(lambda self: PurePosixPath(self.key).suffix)

    @property
    def parent(self) -> ObjectPath:
        above = str(PurePosixPath(self.key).parent)
        return ObjectPath(self.bucket, "" if above == "." else above)

    @property
    def parents(self) -> list[ObjectPath]:
        return [ObjectPath(self.bucket, "" if str(p) == "." else str(p)) for p in PurePosixPath(self.key).parents]

    def with_name(self, name: str) -> ObjectPath:
        return self.parent / name

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        if other.bucket.url != self.bucket.url:
            raise ValueError(f"{self} is not below {other}")
        return PurePosixPath(self.key).relative_to(other.key)

    def resolve(self) -> ObjectPath:
        return self

    # -- looking -------------------------------------------------------------------------------------------------------

    def stat(self) -> _Stat:
        with errors(self):
            import obstore

            head = obstore.head(store(self.bucket), self._whole)
            return _Stat(head["size"], head["last_modified"].timestamp())

    def is_file(self) -> bool:
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    exists = is_file

    def is_dir(self) -> bool:
        return any(True for _ in self.listing(1))

    def listing(self, chunk: int = 1000) -> Iterator[tuple[str, int, float]]:
        """Every object below: (path relative to this one, bytes, time of last change), in the order of the store."""
        import obstore

        skip = len(self._whole) + 1 if self._whole else 0
        with errors(self):
            for found in obstore.list(store(self.bucket), prefix=self._whole or None, chunk_size=chunk):
                for each in found:
                    yield each["path"][skip:], each["size"], each["last_modified"].timestamp()

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        for rel, _, _ in self.listing():
            if fnmatch.fnmatchcase(rel.rpartition("/")[2], pattern):
                yield self / rel

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        import obstore

        with errors(self):
            found = obstore.list_with_delimiter(store(self.bucket), prefix=self._whole or None)
        for each in found["objects"]:
            name = each["path"].rpartition("/")[2]
            if fnmatch.fnmatchcase(name, pattern):
                yield self / name

    # -- reading and writing -------------------------------------------------------------------------------------------

    def open(self, mode: str = "rb", buffering: int = -1) -> io.RawIOBase:
        import obstore

        with errors(self):
            if mode == "rb":
                return _Reader(self, obstore.open_reader(store(self.bucket), self._whole, buffer_size=PART))
            if mode == "wb":
                return _Writer(self, obstore.open_writer(store(self.bucket), self._whole, buffer_size=PART))
        raise ValueError(f"{self}: objects are opened as rb or wb, not {mode}")

    def read_bytes(self) -> bytes:
        import obstore

        with errors(self):
            return bytes(obstore.get(store(self.bucket), self._whole).bytes())

    def read_range(self, offset: int, count: int) -> bytes:
        """``count`` bytes from ``offset`` on; StoreError where the object ends before."""
        import obstore

        with errors(self):
            return bytes(obstore.get_range(store(self.bucket), self._whole, start=offset, length=count))

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, data: bytes) -> int:
        import obstore

        with errors(self):
            obstore.put(store(self.bucket), self._whole, data)
        return len(data)

    def upload(self, source: Path) -> None:
        """Put a local file here; it is whole and durable when this returns."""
        import obstore

        with errors(self), source.open("rb") as file:
            obstore.put(store(self.bucket), self._whole, file)

    def replace(self, target: ObjectPath) -> None:
        import obstore

        with errors(self):
            obstore.copy(store(self.bucket), self._whole, target._whole)
        self.unlink()

    rename = replace

    def unlink(self, missing_ok: bool = False) -> None:
        import obstore

        if not missing_ok:
            self.stat()  # not every store says that there was nothing to delete
        with suppress(FileNotFoundError), errors(self):
            obstore.delete(store(self.bucket), self._whole)

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: names of objects need no directories."""

    def claim(self) -> None:
        """See that a new site can be here: StoreError where something is there already, or where the store does not refuse
        to overwrite when asked (without that, two writers would silently lose each other's commits)."""
        import obstore

        there, probe = store(self.bucket), self / f".probe-{uuid.uuid4().hex}"

        def accepted(mode: Any) -> bool:
            try:
                obstore.put(there, probe._whole, b"probe", mode=mode)
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                return False
            except (NotImplementedError, obstore.exceptions.NotSupportedError):
                return True
            return True

        with errors(self):
            accepted("create")
            try:
                if accepted("create") or accepted({"e_tag": "stale"}):
                    raise StoreError(f"{self}: the store has no conditional put, so commits would be lost; use another store")
                if any(rel != probe.key for rel, _, _ in self.listing()):
                    raise StoreError(f"{self}: there are objects already; choose another bucket or prefix")
            finally:
                probe.unlink(missing_ok=True)


class _Reader(io.RawIOBase):
    """An object being read; seeks cost nothing, reads are fetched ahead in large parts."""

    def __init__(self, path: ObjectPath, source: Any) -> None:
        self._path, self._source = path, source
        self.size: int = source.size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._source.seek(offset, whence))

    def tell(self) -> int:
        return int(self._source.tell())

    def read(self, size: int | None = -1) -> bytes:
        with errors(self._path):
            return bytes(self._source.read(None if size is None or size < 0 else size))

    def readall(self) -> bytes:
        return self.read()

    def readinto(self, buffer: Any) -> int:
        piece = self.read(len(buffer))
        buffer[: len(piece)] = piece
        return len(piece)


class _Writer(io.RawIOBase):
    """An object being written; it is there, whole, once this is closed."""

    def __init__(self, path: ObjectPath, sink: Any) -> None:
        self._path, self._sink = path, sink

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        with errors(self._path):
            self._sink.write(bytes(data))
        return len(data)

    def close(self) -> None:
        if not self.closed:
            with errors(self._path):
                self._sink.close()
        super().close()


def is_object(path: Path) -> bool:
    """Whether a path of the lake is an object's."""
    return isinstance(path, ObjectPath)
