"""Files on their way into a site: read once, hashed, written under temporary names, named without replacing any other."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import stat
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa

from lake import datastore
from lake.durable import fsync_dir
from lake.objects import is_object
from lake.site import LakeError, Site

Mode = Literal["copy", "link", "move", "direct"]
#: Directories with new names of which each is synced by itself; where there are more, one sync of the file system is quicker.
FOLDERS = 8
_LIBC = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD, _RENAME_NOREPLACE = -100, 1


@dataclass(frozen=True, slots=True)
class Known:
    """What the registry has of a dataset already."""

    path: str
    checksum: str
    bytes: int
    file_checksum: str


@dataclass(slots=True)
class Arriving:
    """A file: where it comes from and goes, and what is known of it so far. ``reason``: why it cannot be taken in.

    ``temporary`` is the name that it may be written under; ``new`` whether it stands at ``path`` since now.
    """

    source: str
    path: str
    expected: str | None
    known: Known | None
    temporary: str = ""
    staged: bool = False
    bytes: int = 0
    checksum: str = ""
    reason: str | None = None
    new: bool = False


def prepare(site: Site, files: Sequence[Arriving], token: str) -> None:
    """Make the directories that new files go to, and give each file its temporary name there."""
    folders: dict[str, str | None] = {}
    doubtful = set(datastore.outside(pa.array([file.path for file in files], pa.string())))
    for n, file in enumerate(files):
        folder = file.path.rpartition("/")[0]
        if folder not in folders and file.path not in doubtful:
            folders[folder] = _made(site, file.path)
        file.reason = _made(site, file.path) if file.path in doubtful else folders[folder]
        file.temporary = f"{site.root}/{folder}/{datastore.TEMPORARY}{token}-{n}"


def _made(site: Site, path: str) -> str | None:
    """Make the directory of a file; why that cannot be, or None."""
    try:
        site.path(path).parent.mkdir(parents=True, exist_ok=True)
    except LakeError as error:
        return str(error)
    except OSError as error:
        return f"{path}: {_why(error)}"
    return None


def bring(site: Site, files: Iterable[Arriving], mode: Mode) -> None:
    """Read each source and write what is new under its temporary name; what is wrong with one is its ``reason``."""
    for file in files:
        if file.reason is not None:
            continue
        try:
            _read(site, file, mode)
        except OSError as error:
            file.reason = f"{file.source}: {_why(error)}"
        except LakeError as error:
            file.reason = str(error)
        if file.reason is not None:
            discard([file])


def _read(site: Site, file: Arriving, mode: Mode) -> None:
    if file.known and mode == "move" and not os.path.exists(file.source):  # noqa: PTH110
        file.checksum = file.known.file_checksum
        file.reason = datastore.check(site, file.known.path, file.known.bytes, file.checksum)  # None: it was moved before
        return
    if mode == "direct":
        file.path = site.relative(os.path.abspath(file.source))  # noqa: PTH100
    local = file.known is None and mode != "direct" and not is_object(site.root)
    file.staged = linked = local and mode != "copy" and _linked(file)
    _stream(file, local and not linked)
    if file.expected not in (None, file.checksum):
        file.reason = f"{file.source} has the checksum {file.checksum}, {file.expected} was expected; the source is damaged"
    elif file.known and file.known.checksum != file.checksum:
        file.reason = f"registered with checksum {file.known.checksum} ({file.known.path}), {file.source} has {file.checksum}"
    elif file.known and (problem := datastore.check(site, file.known.path, file.known.bytes, file.known.file_checksum)):
        file.reason = f"is registered, but {problem}; drp run heals it"
    elif file.known is None and mode != "direct" and is_object(site.root):
        _put(site, file)


def _linked(file: Arriving) -> bool:
    """Whether the temporary name could be one more name of the source."""
    try:
        os.link(file.source, file.temporary)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            raise
        return False
    return True


def _stream(file: Arriving, write: bool) -> None:
    """Size and sha256 of the source; what is hashed is what is written."""
    source = os.open(file.source, os.O_RDONLY | os.O_NONBLOCK)
    target = -1
    try:
        found = os.fstat(source)
        if not stat.S_ISREG(found.st_mode):
            raise datastore.DatastoreError(f"{file.source} is not a file")
        if write:
            target = os.open(file.temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            file.staged = True
        at_once, digest = min(found.st_size + 1, datastore.CHUNK), hashlib.sha256()
        while piece := os.read(source, at_once):
            digest.update(piece)
            file.bytes += len(piece)
            while write and piece:
                piece = piece[os.write(target, piece) :]
        file.checksum = digest.hexdigest()
    finally:
        os.close(source)
        if target >= 0:
            os.close(target)


def _put(site: Site, file: Arriving) -> None:
    """Put a file into an object store, where it is durable at once; where its name is taken, under one that tells them apart."""
    for path in _names(file):
        if not site.path(path).exists():
            datastore.put_file(site, file.source, path, "copy", file.checksum)
            file.path, file.new = path, True
            return
        if datastore.check(site, path, file.bytes, file.checksum) is None:
            file.path = path
            return
    file.reason = _taken(file)


def place(site: Site, files: Iterable[Arriving]) -> None:
    """Make what was brought durable, give each file its name, and make the names durable."""
    if is_object(site.root):
        return
    files = list(files)
    mounted = _mounted(site, {file.path.rpartition("/")[0] for file in files if file.staged})
    sync(site)
    for other in mounted:
        _sync(site, other)
    named = [file for file in files if file.staged and file.reason is None]
    for file in named:
        try:
            _name(site, file)
        except OSError as error:
            file.reason = f"{file.path}: {_why(error)}"
        discard([file])
    # also of files that were found in place: who named them may not have come to this yet
    folders = {file.path.rpartition("/")[0] for file in named if file.reason is None}
    if len(folders) > FOLDERS:
        sync(site)
        for other in mounted:
            _sync(site, other)
        return
    for folder in sorted(folders):
        fsync_dir(site.path(folder))


def _name(site: Site, file: Arriving) -> None:
    for path in _names(file):
        try:
            rename_new(file.temporary, f"{site.root}/{path}")
            file.path, file.new, file.staged = path, True, False
            return
        except FileExistsError:
            if datastore.check(site, path, file.bytes, file.checksum) is None:
                file.path = path
                return
    file.reason = _taken(file)


def _names(file: Arriving) -> Iterable[str]:
    yield file.path
    yield datastore.alternative(file.path, file.checksum)


def _taken(file: Arriving) -> str:
    return f"{file.path} and its alternative are there with other content; look at them with drp audit"


def discard(files: Iterable[Arriving]) -> None:
    """Remove the temporary names that are left."""
    for file in files:
        if file.staged:
            with suppress(OSError):
                os.unlink(file.temporary)  # noqa: PTH108
            file.staged = False


def rename_new(old: str, new: str) -> None:
    """Rename a file without replacing another: FileExistsError. One call, where the file system knows that one."""
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


def sync(site: Site) -> None:
    """Make everything that was written to the site's file system durable."""
    _sync(site, site.root)


def _sync(site: Site, folder: Path) -> None:
    """Make everything that was written to the file system of a directory durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if _LIBC.syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise datastore.DatastoreError(f"site {site.name}: the file system of {folder} cannot be synced: {os.strerror(code)}")
    except AttributeError:  # another system than Linux
        os.sync()
    finally:
        os.close(descriptor)


def _mounted(site: Site, folders: Iterable[str]) -> list[Path]:
    """Of these directories of a site one for each file system but the root's: others may be mounted below it."""
    found = {_device(path): path for path in map(site.path, sorted(folders))}
    return [path for device, path in found.items() if device != _device(site.root)]


def _device(folder: Path) -> int:
    return folder.stat().st_dev


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
