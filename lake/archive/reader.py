"""Read one member of a bundle: by offset and length, its checksum compared, without reading the bundle."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha256

import pyarrow as pa

from lake import delta
from lake.archive.container import Member, Opened
from lake.archive.shelf import DAMAGED, STORED, ArchiveError, Bundle, Shelf, bundles
from lake.query import literal
from lake.site import Lake, one_line

#: Bundles whose index and open file are kept: who reads one member mostly reads its neighbours next.
OPEN = 16
#: A bundle's keeper, location and id.
Place = tuple[str, str, str]


@dataclass(frozen=True)
class Copy:
    """A member at its place: ``site`` keeps the bundle at ``bundle_path`` of its ``location``."""

    site: str
    bundle_id: str
    location: str
    bundle_path: str
    member: Member

    @property
    def place(self) -> Place:
        """Which bundle it lies in."""
        return self.site, self.location, self.bundle_id


class _Index:
    """The members of one bundle, in columns: an object for each of them would cost a second for a large bundle."""

    def __init__(self, bundle: Copy, members: pa.Table) -> None:
        self._bundle, self._paths = bundle, members["path"].to_pylist()
        self._bytes, self._offsets = members["bytes"].to_numpy(), members["byte_offset"].to_numpy()
        self._checksums = members["checksum"].to_pylist()
        rows = range(members.num_rows)
        self._rows = dict(zip(members["dataset_id"].to_pylist(), rows, strict=True)) | dict(zip(self._paths, rows, strict=True))

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def __getitem__(self, name: str) -> Copy:
        row = self._rows[name]
        member = Member(self._paths[row], int(self._bytes[row]), self._checksums[row], int(self._offsets[row]))
        return replace(self._bundle, member=member)


class Reader:
    """Members of a lake's archive, by the path or the dataset_id of what is wanted. Use as a context manager.

    The first two members of a bundle cost a look into the tables each; from then on one costs the reading of its bytes.
    """

    def __init__(self, lake: Lake) -> None:
        self.lake = lake
        self._index: OrderedDict[Place, _Index | None] = OrderedDict()
        self._files: dict[Place, Opened] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()

    def read(self, name: str) -> bytes:
        """The bytes of a member, by its path or the id of a dataset in it, as they were registered.

        Damaged copies are passed over. ArchiveError when nothing of this name is archived, or no copy is intact.
        """
        for index in reversed(self._index.values()):
            if index is not None and name in index:
                content, problem = self._content(index[name])
                if problem is None:
                    return content
        wrong = {}
        for copy in self.copies(name):
            content, problem = self._content(copy)
            if problem is None:
                self._remember(copy)
                return content
            wrong[copy.bundle_path] = problem
        if not wrong:
            raise ArchiveError(f"{name} is not in the archive of {self.lake.root}; give a dataset's path or id")
        raise ArchiveError(f"{name}: no archived copy is intact: " + "; ".join(f"{p}: {why}" for p, why in wrong.items()))

    def copies(self, name: str) -> list[Copy]:
        """Every archived copy of a path or dataset, those in sound bundles first."""
        column = "path" if "/" in name else "dataset_id"
        held: dict[tuple[str, str], list[Bundle]] = {}
        for bundle in bundles(self.lake):
            if bundle.state in (STORED, DAMAGED):
                held.setdefault((bundle.site, bundle.bundle_id), []).append(bundle)
        found = []
        for site in dict.fromkeys(site for site, _ in held):
            for row in self._members(site, f"{column} = {literal(name)}").to_pylist():
                member = Member(row["path"], row["bytes"], row["checksum"], row["byte_offset"])
                for bundle in held.get((site, row["bundle_id"]), []):
                    copy = Copy(site, bundle.bundle_id, bundle.location, bundle.path, member)
                    found.append((bundle.state != STORED, copy))
        return [copy for _, copy in sorted(found, key=lambda each: each[0])]

    def _members(self, site: str, condition: str) -> pa.Table:
        """Rows of a keeper's ``archive_member``."""
        source = delta.select(self.lake.site(site), "archive_member", condition)
        with delta.cursor() as con:
            return con.sql(f"SELECT * FROM ({source}) WHERE {condition}").to_arrow_table()

    def _remember(self, copy: Copy) -> None:
        """Note that a bundle was read from; the second time, keep where all of its members are."""
        if copy.place not in self._index:
            self._index[copy.place] = None
        elif self._index[copy.place] is None:
            self._index[copy.place] = _Index(copy, self._members(copy.site, f"bundle_id = {literal(copy.bundle_id)}"))
        self._index.move_to_end(copy.place)
        while len(self._index) > OPEN:
            old, _ = self._index.popitem(last=False)
            if old in self._files:
                self._files.pop(old).close()

    def _content(self, copy: Copy) -> tuple[bytes, str | None]:
        """A member's bytes, and what is wrong with them."""
        try:
            if copy.place not in self._files:
                path = Shelf(self.lake.site(copy.site), copy.location).file(copy.bundle_path)
                self._files[copy.place] = Opened(path)
            content = b"".join(self._files[copy.place].pieces(copy.member))
        except OSError as error:
            return b"", one_line(error)
        if sha256(content).hexdigest() != copy.member.checksum:
            return b"", f"damaged at byte {copy.member.offset}"
        return content, None
