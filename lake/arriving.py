"""Files on their way into a site: read once, hashed, written under temporary names, named without replacing any other."""

from __future__ import annotations

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

from lake import datastore, disk, fault
from lake.disk import Disk, rename_new, sync
from lake.durable import fsync_dir
from lake.objects import is_object
from lake.site import LakeError, Site

Mode = Literal["copy", "link", "move", "direct"]
#: Directories with new names of which each is synced by itself; where there are more, one sync of the file system is quicker.
FOLDERS = 8
#: Directories of a site that are not for files which come in: one of them could be taken for a commit.
OWN = ("tables", "publish", ".lock")


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

    ``temporary`` is the name that it may be written under, ``folder`` the temporary directory where that is, if its own is new;
    ``new`` whether it stands at ``path`` since now.
    """

    source: str
    path: str
    expected: str | None
    known: Known | None
    temporary: str = ""
    folder: str = ""
    staged: bool = False
    bytes: int = 0
    checksum: str = ""
    reason: str | None = None
    new: bool = False


def prepare(site: Site, files: Sequence[Arriving], token: str) -> list[Disk]:
    """Make the directories that new files go to, and give each file its temporary name there; the file systems, opened.

    Files of a directory that is not there yet get their own names in one that has a temporary name, so that place() names
    all of them at once.
    """
    folders: dict[str, tuple[str | None, Path | None]] = {}
    used: set[str] = set()
    doubtful = set(datastore.outside(pa.array([file.path for file in files], pa.string())))
    for n, file in enumerate(files):
        file.reason = _own(file.path)
        if file.reason is not None:
            continue
        folder, _, name = file.path.rpartition("/")
        at, new = f"{site.root}/{folder}", None
        if file.path in doubtful:
            file.reason, _ = _made(site, file.path, None)
        else:
            if folder not in folders:
                folders[folder] = _made(site, file.path, f"{datastore.TEMPORARY}{token}-{len(folders)}")
            file.reason, new = folders[folder]
        if new is not None:
            at = file.folder = str(new)
        file.temporary = f"{at}/{name}"
        if new is None or file.temporary in used:
            file.temporary = f"{at}/{datastore.TEMPORARY}{token}-{n}"
        used.add(file.temporary)
    made = (new or site.root / folder for folder, (reason, new) in folders.items() if reason is None)
    return disk.opened(site, made)


def _own(path: str) -> str | None:
    """Why a file may not have this path, or None."""
    top = path.partition("/")[0]
    return f"{path}: below {top}/ a site keeps what is its own; give it a path below files/" if top in OWN else None


def _made(site: Site, path: str, temporary: str | None) -> tuple[str | None, Path | None]:
    """Make the directory of a file, under a temporary name if it is new; why that cannot be, or None, and where it is then."""
    try:
        folder = site.path(path).parent
        if temporary is None or is_object(folder) or os.path.lexists(folder):
            folder.mkdir(parents=True, exist_ok=True)
            return None, None
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder = folder.with_name(temporary)
        folder.mkdir()
        return None, folder
    except LakeError as error:
        return str(error), None
    except OSError as error:
        return f"{path}: {_why(error)}", None


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
            _remove(file)


def _read(site: Site, file: Arriving, mode: Mode) -> None:
    if file.known and mode == "move" and not os.path.exists(file.source):  # noqa: PTH110
        file.checksum = file.known.file_checksum
        file.reason = datastore.check(site, file.known.path, file.known.bytes, file.checksum)  # None: it was moved before
        return
    if mode == "direct":
        file.path = site.relative(os.path.abspath(file.source))  # noqa: PTH100
        file.reason = _own(file.path)
        if file.reason is not None:
            return
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
    """Whether the temporary name could be one more name of the source: of a symbolic link the content is copied."""
    if os.path.islink(file.source):  # noqa: PTH114
        return False
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


def place(site: Site, files: Iterable[Arriving], disks: Sequence[Disk]) -> None:
    """Make what was brought durable, give each file its name, and make the names durable; ``disks`` as prepare() opened them."""
    if is_object(site.root):
        return
    files = list(files)
    for written in disks:
        sync(written)
    named = [file for file in files if file.staged and file.reason is None]
    folders = _name_folders(site, named)
    for file in named:
        if file.staged and file.reason is None:
            try:
                _name(site, file)
            except OSError as error:
                file.reason = f"{file.path}: {_why(error)}"
            # also of files that were found in place: who named them may not have come to this yet
            folders |= {file.path.rpartition("/")[0]} if file.reason is None else set()
    discard(files)
    if len(folders) > FOLDERS:
        for written in disks:
            sync(written)
        return
    for folder in sorted(folders):
        fsync_dir(site.root / folder)


def _name_folders(site: Site, files: Iterable[Arriving]) -> set[str]:
    """Give new directories their names, and all files in them; where the names of these are to be made durable.

    Where another made the directory meanwhile, files are left to be named one by one.
    """
    new: dict[str, list[Arriving]] = {}
    for file in files:
        if file.folder:
            new.setdefault(file.folder, []).append(file)
    above = set()
    for temporary, inside in new.items():
        path = inside[0].path.rpartition("/")[0]
        above.add(path.rpartition("/")[0])
        folder = f"{site.root}/{path}"
        names = {file.temporary: file.temporary.rpartition("/")[2] for file in inside}
        try:
            if set(os.listdir(temporary)) != set(names.values()):  # noqa: PTH208
                raise FileExistsError  # of what could not be read and not be removed either
            rename_new(temporary, folder)
        except OSError:
            with suppress(OSError):
                Path(folder).mkdir(exist_ok=True)
            if os.path.islink(folder):  # noqa: PTH114 - it came after prepare() had looked
                for file in inside:
                    file.reason = f"{file.path} leads through a symbolic link; only the site's root may be one"
            continue
        fault.point("intake:named")
        for file in inside:
            name = names[file.temporary]
            file.temporary = f"{folder}/{name}"
            if file.path.endswith(f"/{name}"):
                file.new, file.staged = True, False
    return above


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
    files = list(files)
    for file in files:
        _remove(file)
    for folder in {file.folder for file in files if file.folder}:
        with suppress(OSError):  # it has its name, or what could not be removed is in it
            os.rmdir(folder)  # noqa: PTH106


def _remove(file: Arriving) -> None:
    if file.staged:
        with suppress(OSError):
            os.unlink(file.temporary)  # noqa: PTH108
        file.staged = False


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno else str(error)
