"""Files of either kind of root, for libraries that know only one: delta-rs, pyarrow, DuckDB, and readers of local files."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import Any, cast

import duckdb

from lake.bucket import SCHEMES, opened, owner
from lake.objects import PART, ObjectPath, is_object

#: Bytes of objects' local copies that a process keeps between two jobs.
SCRATCH = 2 * 2**30


def at(uri: str) -> Path:
    """The path that a string names: of a root that this process has opened, or of the local disk."""
    bucket = owner(uri)
    return Path(uri) if bucket is None else cast(Path, ObjectPath(bucket, uri.removeprefix(bucket.url).lstrip("/")))


def delta_options(path: Path) -> dict[str, str] | None:
    """What delta-rs needs to know to use a table at ``path``; None for a local one."""
    return path.bucket.options() if isinstance(path, ObjectPath) else None


def source(path: Path) -> Any:
    """What pyarrow reads parquet from: the local path itself, or the open object."""
    return path.open("rb") if is_object(path) else path


@contextmanager
def storing(path: Path) -> Iterator[Path]:
    """A local path to write a new file to: ``path`` itself, or a scratch file that is put there when all went well."""
    if not isinstance(path, ObjectPath):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="drp-") as folder:
        local = Path(folder) / path.name
        yield local
        path.upload(local)


def local(path: Path) -> Path:
    """A local file with the content of ``path``: itself, or a copy of the object in this process's scratch directory.

    A copy stays until trim(); who verifies it and finds it wrong unlinks it, so that it is fetched again.
    """
    if not isinstance(path, ObjectPath):
        return path
    copy = _scratch() / uuid.uuid5(uuid.NAMESPACE_URL, path.bucket.url).hex / path.key
    if not copy.exists():
        copy.parent.mkdir(parents=True, exist_ok=True)
        with path.open("rb") as source, copy.with_name(f".tmp-{copy.name}").open("wb") as target:
            shutil.copyfileobj(source, target, PART)
        copy.with_name(f".tmp-{copy.name}").replace(copy)
    return copy


def trim(most: int = SCRATCH) -> None:
    """Empty this process's scratch directory when it holds more than ``most`` bytes; no copy may be in use then."""
    if _scratch.cache_info().currsize and sum(f.stat().st_size for f in _scratch().rglob("*") if f.is_file()) > most:
        for folder in _scratch().iterdir():
            shutil.rmtree(folder, ignore_errors=True)


@cache
def _scratch() -> Path:
    folder = tempfile.mkdtemp(prefix="drp-scratch-")
    Finalize(None, shutil.rmtree, args=(folder, True), exitpriority=0)  # workers of a pool run no atexit handlers
    return Path(folder)


def attach(con: duckdb.DuckDBPyConnection) -> None:
    """Let a DuckDB connection read the objects of all roots that this process opens; nothing where there are none."""
    if opened() and not any(name == "s3" for name in con.list_filesystems()):
        con.register_filesystem(_file_system())


@cache
def _file_system() -> Any:
    import fsspec

    class Objects(fsspec.AbstractFileSystem):  # type: ignore[misc]
        """Read-only, uncached."""

        protocol = "s3"
        cachable = False

        def info(self, path: str, **_: Any) -> dict[str, Any]:
            return {"name": path, "size": at(_uri(path)).stat().st_size, "type": "file"}

        def modified(self, path: str) -> datetime:
            return datetime.fromtimestamp(at(_uri(path)).stat().st_mtime, UTC)

        def glob(self, path: str, **_: Any) -> list[str]:
            return [path]

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
            return _Ranges(cast(ObjectPath, at(_uri(path))))

    return Objects()


class _Ranges:
    """An object that several threads of DuckDB read at once: each seeks, then reads, and has a position of its own.

    A position is kept by the thread's number: Python forgets a thread's locals between two calls from DuckDB's threads.
    """

    def __init__(self, path: ObjectPath) -> None:
        self._path, self._size = path, int(path.stat().st_size)
        self._position: dict[int, int] = {}

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.tell(), os.SEEK_END: self._size}[whence]
        self._position[threading.get_ident()] = start + offset
        return start + offset

    def tell(self) -> int:
        return self._position.get(threading.get_ident(), 0)

    def read(self, size: int = -1) -> bytes:
        start = self.tell()
        count = min(size if size >= 0 else self._size, self._size - start)
        data = self._path.read_range(start, count) if count > 0 else b""
        self.seek(start + len(data))
        return data

    def close(self) -> None:
        """Nothing: a range is a request of its own."""


def _uri(path: str) -> str:
    return path if path.startswith(SCHEMES) else f"s3://{path}"
