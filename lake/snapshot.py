"""Snapshots: the files that a site's tables consist of at one moment, kept under a name for as long as anybody wants them.

Files of tables never change, so a list of them is all that it takes to read a table as it was: no log has to be kept for
it. upkeep removes no file that a snapshot names.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

import schemas
from lake import delta
from lake.site import LakeError, Site

KEPT, DROPPED = "kept", "dropped"


class SnapshotError(LakeError):
    """A snapshot that is not there, or is there already; the message names it."""


def keep(site: Site, name: str, who: str) -> int:
    """Keep every table of the site as it is now under a name; returns the number of files. SnapshotError when it is taken."""
    if name in names(site):
        raise SnapshotError(f"site {site.name}: snapshot {name} is there already; choose another name, or drop it first")
    at = datetime.now(UTC)
    rows = []
    with site.lock():  # publication is not half-way
        for table in schemas.tables():
            for path in delta.files(site, table):
                rows.append(_row(name, KEPT, who, at) | {"table_name": table, "path": site.relative(path)})
    if not rows:
        raise SnapshotError(f"site {site.name}: there is nothing to keep as snapshot {name}")
    delta.append(site, "snapshot", pa.Table.from_pylist(rows, schema=schemas.table("snapshot").arrow))
    return len(rows)


def drop(site: Site, name: str, who: str) -> None:
    """No longer keep what only this snapshot names; upkeep removes it. SnapshotError when there is no such snapshot."""
    if name not in names(site):
        raise SnapshotError(f"site {site.name}: no snapshot {name}; there are: {', '.join(names(site)) or 'none'}")
    row = _row(name, DROPPED, who, datetime.now(UTC))
    delta.append(site, "snapshot", pa.Table.from_pylist([row], schema=schemas.table("snapshot").arrow))


def names(site: Site) -> list[str]:
    """The snapshots that are kept at a site, in alphabetical order."""
    return sorted({name for name, _, _ in _now(site)})


def files(site: Site, name: str, table: str) -> list[str]:
    """The files of a table in a snapshot, absolute and sorted, as delta.files() gives those of the present."""
    if name not in names(site):
        raise SnapshotError(f"site {site.name}: no snapshot {name}; there are: {', '.join(names(site)) or 'none'}")
    return sorted(str(site.path(path)) for snapshot, held, path in _now(site) if (snapshot, held) == (name, table))


def paths(site: Site, table: str) -> set[Path]:
    """The files of a table that any snapshot keeps."""
    return {site.path(path) for _, held, path in _now(site) if held == table}


def _row(name: str, state: str, who: str, at: datetime) -> dict[str, str | datetime | None]:
    return {"snapshot": name, "state": state, "table_name": None, "path": None, "who": who, "noted_at": at}


def _now(site: Site) -> list[tuple[str, str, str]]:
    """(snapshot, table, path) of what is kept: noted since the snapshot was last dropped."""
    with delta.cursor() as con:
        delta.view(con, site, "snapshot")
        kept: list[tuple[str, str, str]] = con.execute(
            "SELECT snapshot, table_name, path FROM snapshot "
            f"WHERE state = '{KEPT}' AND noted_at > coalesce((SELECT max(noted_at) FROM snapshot d "
            f"WHERE d.snapshot = snapshot.snapshot AND d.state = '{DROPPED}'), '-infinity'::TIMESTAMPTZ)"
        ).fetchall()
    return kept
