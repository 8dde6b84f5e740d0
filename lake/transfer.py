"""The copy engine: one file from a replica to its place, streamed through sha256, verified before it gets its name.

adler32, which Rucio keeps, is computed in the same pass. A large file whose copying ended early goes on where it was.

It knows paths, sizes and checksums; which files, from where, how often and what is written down is movement's business.
"""

from __future__ import annotations

import hashlib
import os
import time
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from io import FileIO
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lake.datastore import TEMPORARY
from lake.durable import fsync_dir
from lake.fault import point
from lake.link import Link
from lake.objects import is_object

CHUNK = 1 << 20
#: Copies at a time; hashing and file access release the interpreter lock, so that more than one is worth while.
WORKERS = 4
#: Copies handed to the pool before the first must be done: bounds memory, not speed.
WINDOW = 256
#: Seconds between reports, at most.
FLUSH = 30.0
#: Bytes from which on an unfinished copy is kept, to be gone on with.
RESUMABLE = 64 << 20


class ReplicaError(Exception):
    """The replica cannot serve: it is lost, unreadable, or not the file that was registered."""


class DestinationError(Exception):
    """The file cannot be written where it should go (full or read-only disk, no permission)."""


@dataclass(frozen=True)
class Order:
    """Bring the file at ``replica`` (of site ``source``) to ``target``; it must have these bytes and this sha256.

    ``link`` limits how much may come at a time.
    """

    path: str
    source: str
    replica: Path
    target: Path
    bytes: int
    checksum: str
    link: Link | None = None


@dataclass(frozen=True)
class Copied:
    """A file that is where it should be; ``copied`` is False where it was there already. ``adler32`` is hexadecimal."""

    copied: bool
    adler32: str


@dataclass(frozen=True)
class Delivery:
    """What became of an order: ``done`` when the target holds the file, durable and verified, else ``error`` says why not.

    ``replica_bad`` says that the error is the replica's.
    """

    order: Order
    seconds: float
    at: datetime
    done: Copied | None = None
    error: str | None = None
    replica_bad: bool = False


class Digest:
    """sha256 and adler32 of what passes."""

    def __init__(self) -> None:
        self._sha256, self._adler32 = hashlib.sha256(), 1

    def update(self, piece: memoryview) -> None:
        self._sha256.update(piece)
        self._adler32 = zlib.adler32(piece, self._adler32)

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()

    @property
    def adler32(self) -> str:
        return f"{self._adler32:08x}"


def copy_file(order: Order) -> Copied:
    """Carry out one order. Never holds more than CHUNK bytes.

    The name is durable only after an fsync of the directory (``deliver`` does it once for many files).
    A damaged file under the target's name is replaced. Raises ReplicaError, DestinationError.
    """
    if (there := _has(order.target, order)) is not None:
        return Copied(False, there)
    # one name: a killed copy leaves no litter; an object is there whole or not at all, and goes if it is not what was ordered
    temporary = order.target if is_object(order.target) else order.target.with_name(TEMPORARY + order.target.name)
    try:
        size = order.replica.stat().st_size
        source = order.replica.open("rb", buffering=0)
    except FileNotFoundError:
        raise ReplicaError(f"lost at {order.source}") from None
    except OSError as error:
        raise ReplicaError(f"cannot be read at {order.source}: {error.strerror or error}") from None
    placed, keep = False, False
    with source:
        if size != order.bytes:
            raise ReplicaError(f"damaged at {order.source}: {size} bytes, registered {order.bytes}")
        try:
            order.target.parent.mkdir(parents=True, exist_ok=True)
            keep = order.bytes >= RESUMABLE and not is_object(temporary)  # what there is when the source fails may serve again
            kept, digest = _stream(source, temporary, order)
            if kept and digest.sha256 != order.checksum:  # what was kept may be what is bad: once more, from the beginning
                temporary.unlink()
                source.seek(0)
                _, digest = _stream(source, temporary, order)
            keep = False
            if digest.sha256 != order.checksum:
                raise ReplicaError(f"damaged at {order.source}: sha256 {digest.sha256}, registered {order.checksum}")
            point("transfer:copied")
            if temporary != order.target:
                temporary.rename(order.target)
            point("transfer:renamed")
            placed = True
        except OSError as error:
            keep = False
            raise DestinationError(f"cannot be written: {error.strerror or error}") from None
        finally:
            if not placed and not keep:
                with suppress(OSError):  # what prevented the writing may prevent this too
                    temporary.unlink(missing_ok=True)
    return Copied(True, digest.adler32)


def deliver(orders: Iterable[Order], workers: int = WORKERS) -> Iterator[list[Delivery]]:
    """Carry out orders with a few threads; yields what was finished since the last time.

    The first time after a second, then ever less often, down to once in FLUSH seconds: each time costs its receiver
    commits. Each Delivery is durable when it is yielded. A failure is the Delivery's error, never an exception. Orders
    begin as they come, but those whose link has as many streams as it may have let others pass.
    """
    queue = iter(orders)
    waiting: deque[Order] = deque()
    busy: Counter[Link | None] = Counter()
    with ThreadPoolExecutor(workers, thread_name_prefix="copy") as pool:
        running: set[Future[Delivery]] = set()
        finished: list[Delivery] = []
        begun = flushed = time.monotonic()
        try:
            while True:
                waiting += islice(queue, WINDOW - len(running) - len(waiting))
                for order in _free(waiting, busy):
                    running.add(pool.submit(_attempt, order))
                if not running:
                    break
                done, running = wait(running, timeout=0.05, return_when=FIRST_COMPLETED if waiting else ALL_COMPLETED)
                for delivery in [future.result() for future in done]:
                    busy[delivery.order.link] -= 1
                    finished.append(delivery)
                now = time.monotonic()
                if finished and now - flushed > min(FLUSH, max(1.0, 0.1 * (now - begun))):
                    yield _durable(finished)
                    finished, flushed = [], time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
    if finished:
        yield _durable(finished)


def _free(waiting: deque[Order], busy: Counter[Link | None]) -> list[Order]:
    """Take from ``waiting`` the orders that may begin, in their order; ``busy`` counts by link what runs."""
    begun, held = [], []
    while waiting:
        order = waiting.popleft()
        if order.link is None or order.link.streams is None or busy[order.link] < order.link.streams:
            busy[order.link] += 1
            begun.append(order)
        else:
            held.append(order)
    waiting.extend(held)
    return begun


def _attempt(order: Order) -> Delivery:
    begin = time.monotonic()

    def delivery(done: Copied | None, error: str | None = None, replica_bad: bool = False) -> Delivery:
        return Delivery(order, time.monotonic() - begin, datetime.now(UTC), done, error, replica_bad)

    try:
        return delivery(copy_file(order))
    except ReplicaError as error:
        return delivery(None, str(error), replica_bad=True)
    except DestinationError as error:
        return delivery(None, str(error))


def _durable(deliveries: list[Delivery]) -> list[Delivery]:
    folders = {d.order.path.rpartition("/")[0]: d.order.target.parent for d in deliveries if d.error is None}
    directories: set[Path] = set()
    for folder, target in folders.items():  # the new names, and those of directories that may be new below the site's root
        directories.update([target, *target.parents[: len(PurePosixPath(folder).parts)]])
    for directory in sorted(directories):
        fsync_dir(directory)
    return deliveries


def _stream(source: BinaryIO, temporary: Path, order: Order) -> tuple[int, Digest]:
    """Copy the open replica to a temporary file, durable; how much of it an earlier try had left, and the digest of all.

    What was left is read again, so that the digest is that of the bytes which are there.
    """
    digest, kept = Digest(), 0
    buffer = memoryview(bytearray(max(1, min(CHUNK, order.bytes))))
    resumed = _resumable(temporary, order)
    with temporary.open("r+b" if resumed else "wb", buffering=0) as target:
        if resumed:
            while count := target.readinto(buffer):
                digest.update(buffer[:count])
                kept += count
            source.seek(kept)
        while True:
            try:
                count = source.readinto(buffer)  # type: ignore[attr-defined]
            except OSError as error:
                raise ReplicaError(f"cannot be read at {order.source}: {error.strerror or error}") from None
            if not count:
                break
            if order.link is not None:
                order.link.take(count)
            digest.update(buffer[:count])
            _write_all(target, buffer[:count])
            point("transfer:chunk")
        if not is_object(temporary):
            os.fsync(target.fileno())
    return kept, digest


def _write_all(file: FileIO, piece: memoryview) -> None:
    """Write a piece to an unbuffered file, which may take it in parts."""
    while piece:
        piece = piece[file.write(piece) :]


def _resumable(temporary: Path, order: Order) -> bool:
    """Whether an earlier try left a part of the file that is worth going on with."""
    try:
        return not is_object(temporary) and RESUMABLE <= temporary.stat().st_size <= order.bytes
    except OSError:
        return False


def _has(target: Path, order: Order) -> str | None:
    """The adler32 of the target if it is the file wanted already."""
    try:
        with target.open("rb", buffering=0) as file:
            if target.stat().st_size != order.bytes:
                return None
            digest, buffer = Digest(), memoryview(bytearray(max(1, min(CHUNK, order.bytes))))
            while count := file.readinto(buffer):
                digest.update(buffer[:count])
    except OSError:
        return None
    return digest.adler32 if digest.sha256 == order.checksum else None
