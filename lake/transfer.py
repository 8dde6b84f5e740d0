"""The copy engine: one file from a replica to its place, streamed through sha256, verified before it gets its name.

It knows paths, sizes and checksums; which files, from where, how often and what is written down is movement's business.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from lake.datastore import TEMPORARY
from lake.fault import point
from lake.objects import is_object
from lake.site import fsync_dir

CHUNK = 1 << 20
#: Copies at a time; hashing and file access release the interpreter lock, so that more than one is worth while.
WORKERS = 4
#: Copies handed to the pool before the first must be done: bounds memory, not speed.
WINDOW = 256
#: Seconds between reports, at most.
FLUSH = 30.0


class ReplicaError(Exception):
    """The replica cannot serve: it is lost, unreadable, or not the file that was registered."""


class DestinationError(Exception):
    """The file cannot be written where it should go (full or read-only disk, no permission)."""


@dataclass(frozen=True)
class Order:
    """Bring the file at ``replica`` (of site ``source``) to ``target``; it must have these bytes and this sha256."""

    path: str
    source: str
    replica: Path
    target: Path
    bytes: int
    checksum: str


@dataclass(frozen=True)
class Delivery:
    """What became of an order: ``error`` is None when the target holds the file, durable and verified.

    ``copied`` is False where it was there already; ``replica_bad`` says that the error is the replica's.
    """

    order: Order
    seconds: float
    at: datetime
    copied: bool
    error: str | None = None
    replica_bad: bool = False


def copy_file(order: Order) -> bool:
    """Carry out one order; False when the target had the content already. Never holds more than CHUNK bytes.

    The name is durable only after an fsync of the directory (``deliver`` does it once for many files).
    A damaged file under the target's name is replaced. Raises ReplicaError, DestinationError.
    """
    if _has(order.target, order):
        return False
    # one name: a killed copy leaves no litter; an object is there whole or not at all, and goes if it is not what was ordered
    temporary = order.target if is_object(order.target) else order.target.with_name(TEMPORARY + order.target.name)
    try:
        source = order.replica.open("rb", buffering=0)
    except FileNotFoundError:
        raise ReplicaError(f"lost at {order.source}") from None
    except OSError as error:
        raise ReplicaError(f"cannot be read at {order.source}: {error.strerror}") from None
    with source:
        placed, size = False, order.replica.stat().st_size
        if size != order.bytes:
            raise ReplicaError(f"damaged at {order.source}: {size} bytes, registered {order.bytes}")
        try:
            order.target.parent.mkdir(parents=True, exist_ok=True)
            checksum = _stream(source, temporary, order)
            if checksum != order.checksum:
                raise ReplicaError(f"damaged at {order.source}: sha256 {checksum}, registered {order.checksum}")
            point("transfer:copied")
            if temporary != order.target:
                temporary.rename(order.target)
            point("transfer:renamed")
            placed = True
        except OSError as error:
            raise DestinationError(f"cannot be written: {error.strerror}") from None
        finally:
            if not placed:
                with suppress(OSError):  # what prevented the writing may prevent this too
                    temporary.unlink(missing_ok=True)
    return True


def deliver(orders: Iterable[Order], workers: int = WORKERS) -> Iterator[list[Delivery]]:
    """Carry out orders with a few threads; yields what was finished since the last time.

    The first time after a second, then ever less often, down to once in FLUSH seconds: each time costs its receiver
    commits. Each Delivery is durable when it is yielded. A failure is the Delivery's error, never an exception.
    """
    queue = iter(orders)
    with ThreadPoolExecutor(workers, thread_name_prefix="copy") as pool:
        running: set[Future[Delivery]] = set()
        finished: list[Delivery] = []
        begun = flushed = time.monotonic()
        try:
            while True:
                running |= {pool.submit(_attempt, order) for order in islice(queue, WINDOW - len(running))}
                if not running:
                    break
                done, running = wait(running, timeout=0.05)
                finished += [future.result() for future in done]
                now = time.monotonic()
                if finished and now - flushed > min(FLUSH, max(1.0, 0.1 * (now - begun))):
                    yield _durable(finished)
                    finished, flushed = [], time.monotonic()
        finally:
            pool.shutdown(cancel_futures=True)
    if finished:
        yield _durable(finished)


def _attempt(order: Order) -> Delivery:
    begin = time.monotonic()

    def delivery(copied: bool, error: str | None = None, replica_bad: bool = False) -> Delivery:
        return Delivery(order, time.monotonic() - begin, datetime.now(UTC), copied, error, replica_bad)

    try:
        return delivery(copy_file(order))
    except ReplicaError as error:
        return delivery(False, str(error), replica_bad=True)
    except DestinationError as error:
        return delivery(False, str(error))


def _durable(deliveries: list[Delivery]) -> list[Delivery]:
    folders = {d.order.path.rpartition("/")[0]: d.order.target.parent for d in deliveries if d.error is None}
    directories: set[Path] = set()
    for folder, target in folders.items():  # the new names, and those of directories that may be new below the site's root
        directories.update([target, *target.parents[: len(PurePosixPath(folder).parts)]])
    for directory in sorted(directories):
        fsync_dir(directory)
    return deliveries


def _stream(source: BinaryIO, temporary: Path, order: Order) -> str:
    """Copy the open replica to a temporary file, durable; the sha256 of what was read."""
    digest = hashlib.sha256()
    buffer = memoryview(bytearray(max(1, min(CHUNK, order.bytes))))
    with temporary.open("wb") as target:
        while True:
            try:
                count = source.readinto(buffer)  # type: ignore[attr-defined]
            except OSError as error:
                raise ReplicaError(f"cannot be read at {order.source}: {error.strerror}") from None
            if not count:
                break
            digest.update(buffer[:count])
            target.write(buffer[:count])
        if not is_object(temporary):
            target.flush()
            os.fsync(target.fileno())
    return digest.hexdigest()


def _has(target: Path, order: Order) -> bool:
    try:
        with target.open("rb") as file:
            if target.stat().st_size != order.bytes:
                return False
            return hashlib.file_digest(file, "sha256").hexdigest() == order.checksum
    except OSError:
        return False
