"""Reading registered files for their checksums: in parallel, from the disk, no faster than asked, in slices."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lake.access import source
from lake.objects import is_object
from lake.site import Site

#: Threads that read: hashing releases the interpreter's lock, and disks like company.
WORKERS = max(4, min(16, os.cpu_count() or 1))
PIECE = 2**20
#: Files that are being read or wait for their turn, per thread: enough to keep small files flowing.
AHEAD = 16
LOST = "is not in storage"


class Pace:
    """Lets bytes through at ``rate`` bytes/s over all threads (None: as they come); a stopped one lets nothing through."""

    def __init__(self, rate: float | None = None) -> None:
        self.rate = rate
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._free_at = time.monotonic()

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may be read; InterruptedError once stopped."""
        wait = 0.0
        if self.rate is not None:
            with self._lock:
                now = time.monotonic()
                self._free_at = max(self._free_at, now) + count / self.rate
                wait = self._free_at - now
        if self.stopped.wait(wait) if wait > 0 else self.stopped.is_set():
            raise InterruptedError("the audit was stopped")


def sha256(path: Path, pace: Pace) -> str:
    """sha256 of a file's bytes on the disk: pages that the system keeps in memory are dropped first, where it lets us."""
    digest, buffer = hashlib.sha256(), memoryview(bytearray(PIECE))
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise") and not is_object(path):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
        while count := file.readinto(buffer):
            digest.update(buffer[:count])
            pace.take(count)
    return digest.hexdigest()


def difference(site: Site, path: str, size: int, checksum: str, pace: Pace) -> str | None:
    """In what a registered file differs from its registry row, in words; None where it does not."""
    target = site.path(path)
    try:
        found = target.stat().st_size
        if found != size:
            return f"has {found} bytes, {size} are registered"
        seen = sha256(target, pace)
    except InterruptedError:
        raise
    except FileNotFoundError:
        return LOST
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return None if seen == checksum else f"has the checksum {seen[:12]}..., {checksum[:12]}... is registered"


def differences(
    site: Site, files: Iterable[tuple[str, int, str]], pace: Pace, until: float = float("inf")
) -> Generator[tuple[str | None, float], None, None]:
    """difference() of each (path, bytes, sha256) and the time at which its reading began; in order, by several threads.

    Ends early once time.monotonic() says ``until``; what was begun by then is finished. Closing it stops the threads.
    """
    waiting: deque[Future[tuple[str | None, float]]] = deque()
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="audit") as pool:
        try:
            for path, size, checksum in files:
                if time.monotonic() >= until:
                    break
                waiting.append(pool.submit(_timed, site, path, size, checksum, pace))
                if len(waiting) >= AHEAD * WORKERS:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            if waiting:
                pace.stopped.set()
                pool.shutdown(wait=True, cancel_futures=True)


def _timed(site: Site, path: str, size: int, checksum: str, pace: Pace) -> tuple[str | None, float]:
    began = time.time()
    return difference(site, path, size, checksum, pace), began


def altered(site: Site, files: pa.Table) -> dict[str, str]:
    """Files whose size or sha256 is not the registered one, with the difference in words; ``files`` as registered()."""
    rows = list(zip(*(files[name].to_pylist() for name in ("path", "file_bytes", "file_checksum")), strict=True))
    found = differences(site, rows, Pace())
    return {row[0]: problem for row, (problem, _) in zip(rows, found, strict=True) if problem is not None}


def rotten(site: Site, paths: list[str]) -> dict[str, str]:
    """Parquet files of event tables (no registry knows their checksum) that fail their page checksums."""
    with ThreadPoolExecutor(WORKERS, thread_name_prefix="audit") as pool:
        found = zip(paths, pool.map(lambda path: _rot(site.path(path)), paths), strict=True)
        return {path: problem for path, problem in found if problem is not None}


def _rot(path: Path) -> str | None:
    try:
        with pq.ParquetFile(source(path), page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (OSError, pa.ArrowInvalid) as error:
        return f"cannot be read: {' '.join(str(error).split())[:200]}"
    return None
