"""File systems that files are written to: one call makes all of them durable, another names a file without replacing one.

Linux tells each descriptor of the errors since it was opened: one that is opened when all is written would not hear of what
was told to another process already.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from lake import datastore
from lake.objects import is_object
from lake.site import Site

_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


@dataclass(slots=True)
class Disk:
    """The file system of a directory of the site ``name``, open until close()."""

    name: str
    folder: Path
    descriptor: int

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)
        self.descriptor = -1


def opened(site: Site, folders: Iterable[Path]) -> list[Disk]:
    """The file system of a site's root, and those of directories that are mounted below it; none of an object store.

    A directory that is not there any more is left out: what is to be written there will say so.
    """
    if is_object(site.root):
        return []
    found: dict[int, Path] = {}
    for folder in (*sorted(folders), site.root):
        with suppress(FileNotFoundError):
            found[_device(folder)] = folder
    last = found.pop(_device(site.root))
    return [Disk(site.name, folder, os.open(folder, os.O_RDONLY)) for folder in (last, *found.values())]


def sync(disk: Disk) -> None:
    """Make everything that was written to a file system durable; DatastoreError tells of errors since it was opened."""
    try:
        if _LIBC.syncfs(disk.descriptor) != 0:
            why = os.strerror(ctypes.get_errno())
            raise datastore.DatastoreError(f"site {disk.name}: the file system of {disk.folder} cannot be synced: {why}")
    except AttributeError:  # another system than Linux
        os.sync()


def rename_new(old: str, new: str) -> None:
    """Rename a file or directory without replacing another: FileExistsError.

    One call, where the file system knows that one; OSError for a directory where it does not.
    """
    try:
        failed = _LIBC.renameat2(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE)
        code = ctypes.get_errno() if failed else 0
    except AttributeError:  # another system than Linux
        code = errno.ENOSYS
    if code in (errno.ENOSYS, errno.EINVAL):
        os.link(old, new)
        os.unlink(old)  # noqa: PTH108
    elif code:
        raise OSError(code, os.strerror(code), new)


def _device(folder: Path) -> int:
    return folder.stat().st_dev
