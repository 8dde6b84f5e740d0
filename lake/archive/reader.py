"""Read one member of a bundle: by offset and length, its checksum compared, without reading the bundle."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from hashlib import sha256

from lake.archive.container import Member, Opened
from lake.archive.shelf import ArchiveError, Shelf
from lake.query import connect, literal
from lake.site import Lake, one_line

#: Bundles whose index and open file are kept: who reads one member mostly reads its neighbours next.
OPEN = 16
_COLUMNS = "site, bundle_id, location, bundle_path, dataset_id, path, bytes, checksum, byte_offset"


@dataclass(frozen=True)
class Copy:
    """A member at its place: ``site`` keeps the bundle at ``bundle_path`` of its ``location``."""

    site: str
    bundle_id: str
    location: str
    bundle_path: str
    member: Member


class Reader:
    """Members of a lake's archive, by the path or the dataset_id of what is wanted. Use as a context manager.

    The first member of a bundle costs a look into the tables; those that follow cost one read of their bytes.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self._con = connect(lake)
        self._index: OrderedDict[tuple[str, str, str], dict[str, Copy]] = OrderedDict()
        self._files: dict[tuple[str, str, str], Opened] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._con.close()
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self, name: str) -> bytes:
        """The bytes of a member, by its path or the id of a dataset in it, as they were registered.

        Damaged copies are passed over. ArchiveError when nothing of this name is archived, or no copy is intact.
        """
        known = next((index[name] for index in reversed(self._index.values()) if name in index), None)
        wrong = {}
        for copy in [known] if known else []:
            content, problem = self._content(copy)
            if problem is None:
                return content
        for copy in self.copies(name):
            self._load(copy)
            content, problem = self._content(copy)
            if problem is None:
                return content
            wrong[copy.bundle_path] = problem
        if not wrong:
            raise ArchiveError(
                f"{name} is not in the archive of {self.lake.root}; give a dataset's path or id (drp archive --list)"
            )
        raise ArchiveError(f"{name}: no archived copy is intact: " + "; ".join(f"{p}: {why}" for p, why in wrong.items()))

    def copies(self, name: str) -> list[Copy]:
        """Every archived copy of a path or dataset, best first."""
        column = "path" if "/" in name else "dataset_id"
        rows = self._con.table(
            f"SELECT {_COLUMNS} FROM archive_copy WHERE {column} = $name ORDER BY state DESC, site", {"name": name}
        )
        found = {(row["site"], row["location"], row["bundle_id"]): _copy(row) for row in rows.to_pylist()}
        return list(found.values())

    def _load(self, copy: Copy) -> None:
        """Keep the index of the bundle that a copy lies in."""
        key = (copy.site, copy.location, copy.bundle_id)
        if key in self._index:
            self._index.move_to_end(key)
            return
        rows = self._con.table(
            f"SELECT dataset_id, path, bytes, checksum, byte_offset FROM archive_member "
            f"WHERE site = {literal(copy.site)} AND bundle_id = {literal(copy.bundle_id)}"
        )
        index: dict[str, Copy] = {}
        names = ("dataset_id", "path", "bytes", "checksum", "byte_offset")
        for dataset_id, path, size, checksum, offset in zip(*(rows[name].to_pylist() for name in names), strict=True):
            if path not in index:
                index[path] = Copy(*key[:1], copy.bundle_id, copy.location, copy.bundle_path, Member(path, size, checksum, offset))
            index[dataset_id] = index[path]
        self._index[key] = index
        while len(self._index) > OPEN:
            old, _ = self._index.popitem(last=False)
            if old in self._files:
                self._files.pop(old).close()

    def _content(self, copy: Copy) -> tuple[bytes, str | None]:
        """A member's bytes, and what is wrong with them."""
        key = (copy.site, copy.location, copy.bundle_id)
        try:
            if key not in self._files:
                path = Shelf(self.lake.site(copy.site), copy.location).file(copy.bundle_path)
                self._files[key] = Opened(path)
            content = b"".join(self._files[key].pieces(copy.member))
        except OSError as error:
            return b"", one_line(error)
        if sha256(content).hexdigest() != copy.member.checksum:
            return b"", f"damaged at byte {copy.member.offset}"
        return content, None


def _copy(row: dict[str, object]) -> Copy:
    member = Member(str(row["path"]), int(str(row["bytes"])), str(row["checksum"]), int(str(row["byte_offset"])))
    return Copy(str(row["site"]), str(row["bundle_id"]), str(row["location"]), str(row["bundle_path"]), member)
