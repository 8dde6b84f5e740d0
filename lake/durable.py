"""Files that survive a power cut: their content and their names are on the disk when these functions return."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from lake.objects import is_object


def fsync_dir(directory: Path) -> None:
    """Make the names in a directory durable (an object's name is when it is put)."""
    if is_object(directory):
        return
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: Path) -> None:
    """Make a file's content durable (an object's is when it is put)."""
    if is_object(path):
        return
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_durable(path: Path, data: bytes) -> None:
    """Write a small file so that after a crash it is there whole or not at all."""
    if is_object(path):
        path.write_bytes(data)
        return
    fd, temporary = tempfile.mkstemp(prefix=".tmp-", dir=path.parent)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)
