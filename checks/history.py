"""A site's registry as it was: Delta keeps its versions, so that two points in time can be compared, and a listing with both.

A dump of the catalogue before a storage listing and one after it tell what is lost (in both, not listed) from what came
or went in the meantime; here every version of the table ``dataset`` is such a dump.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from checks import storage
from lake import delta
from lake.handle import live_files, open_table
from lake.site import LakeError, Site, one_line

SQL = Path(__file__).parent
TABLE = "dataset"


@dataclass(frozen=True)
class Moment:
    """A version of the registry, when it was committed, and the parquet files that it is made of."""

    version: int
    at: datetime
    files: frozenset[str]


@dataclass(frozen=True)
class Between:
    """What changed from ``first`` to ``second``: between.sql; with a listing, ``files`` that are lost or dark: around.sql."""

    site: str
    first: Moment
    second: Moment
    changes: pa.Table
    files: pa.Table

    @property
    def counts(self) -> dict[str, int]:
        """Datasets and files by state."""
        states = pa.chunked_array([*self.changes["state"].chunks, *self.files["state"].chunks], pa.string())
        found = {row["values"]: row["counts"] for row in pc.value_counts(states).to_pylist()}
        return {state: found.get(state, 0) for state in ("appeared", "removed", "gone", "changed", "lost", "dark")}

    @property
    def ok(self) -> bool:
        """True when nothing is gone without a word, nothing has other content, and no file is lost or dark."""
        return not self.files.num_rows and not self.counts["gone"] + self.counts["changed"]


def between(site: Site, first: str, second: str, listing: pa.Table | None = None) -> Between:
    """Compare two moments of a site's registry: versions of the table ``dataset``, or times (ISO 8601; UTC if not said).

    ``listing`` (path, bytes) is a list of the site's files that was made between the two. LakeError names a moment that
    cannot be read any more, or that is not before the other.
    """
    a, b = moment(site, first), moment(site, second)
    if a.version > b.version:
        raise LakeError(
            f"site {site.name}: {first} (version {a.version}) is after {second} (version {b.version}); give the earlier one first"
        )
    with delta.connect() as con:
        _view(con, "before", a.files - b.files)
        _view(con, "after", b.files - a.files)
        con.execute(f"CREATE TEMP VIEW tombstone AS {delta.select(site, 'tombstone')}")
        changes = con.sql((SQL / "between.sql").read_text()).to_arrow_table()
        lost = pa.table({name: pa.array([], kind) for name, kind in FILES.items()})
        if listing is not None:
            for name, files in (("registered_before", a.files), ("registered_after", b.files)):
                rows = delta.scan(TABLE, sorted(files))
                con.execute(f"CREATE TEMP TABLE {name} AS SELECT path, count(*) AS datasets FROM ({rows}) GROUP BY path")
            for table in storage.NAMING:
                storage.view(con, site, table)
            con.execute(f"CREATE TEMP TABLE named AS {(SQL / 'named.sql').read_text()}")
            con.register("listed", listing)
            lost = con.sql((SQL / "around.sql").read_text()).to_arrow_table()
    return Between(site.name, a, b, changes, lost)


FILES = {"state": pa.string(), "path": pa.string(), "datasets": pa.int64(), "bytes": pa.int64(), "reason": pa.string()}


def _view(con: duckdb.DuckDBPyConnection, name: str, files: Iterable[str]) -> None:
    con.execute(f'CREATE TEMP VIEW "{name}" AS {delta.scan(TABLE, sorted(files))}')


def registered_at(site: Site, version: int, paths: list[str]) -> set[str]:
    """Those of ``paths`` that were registered at a version of the registry (-1: nothing was)."""
    if not paths or version < 0 or delta.version(site, TABLE) == version:
        return set()  # where the registry has not changed since, what is not registered now was not registered then
    handle, root = open_table(site, TABLE), site.table_path(TABLE)
    if handle is None:
        return set()
    handle.load_as_version(version)
    readable = [str(root / path) for path in live_files(handle, site, TABLE) if (root / path).exists()]
    with delta.cursor() as con:
        con.register("asked", pa.table({"path": pa.array(paths, pa.string())}))
        _view(con, "before", readable)
        return {row[0] for row in con.execute('SELECT path FROM asked SEMI JOIN "before" USING (path)').fetchall()}


def moment(site: Site, text: str) -> Moment:
    """The state of a site's registry at a version (a number), at a time, or ``now``; LakeError when it cannot be had."""
    handle = open_table(site, TABLE)
    if handle is None:
        raise LakeError(f"site {site.name}: nothing was ever registered here")
    latest = int(handle.version())
    try:
        if text.isdecimal():
            if int(text) > latest:
                raise LakeError(f"site {site.name}: the registry has no version {text}; the latest is {latest}")
            handle.load_as_version(int(text))
        elif text != "now":
            handle.load_as_version(_time(text))
    except LakeError:
        raise
    except Exception as error:  # the library has no common class for what it raises here
        raise LakeError(f"site {site.name}: the registry as of {text} cannot be had: {one_line(error)}") from None
    root = site.table_path(TABLE)
    files = [root / path for path in live_files(handle, site, TABLE)]
    missing = [path for path in files if not path.exists()]
    if missing:
        raise LakeError(
            f"site {site.name}: {len(missing)} of {len(files)} files of the registry's version {handle.version()} were removed "
            "after they had been merged into others; choose a later moment (drp audit --between keeps to what maintenance left)"
        )
    log = root / "_delta_log" / f"{handle.version():020}.json"
    at = datetime.fromtimestamp(log.stat().st_mtime, UTC) if log.exists() else datetime.fromtimestamp(0, UTC)
    return Moment(int(handle.version()), at, frozenset(map(str, files)))


def _time(text: str) -> datetime:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise LakeError(f"{text!r} is neither a version of the registry, nor a time such as 2026-09-10T12:00, nor 'now'") from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)
