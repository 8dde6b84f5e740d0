"""The storage audit: what a site's registry says against what its storage holds.

``lost``: registered, not in storage. ``damaged``: other size or (deep) other checksum than registered. ``orphan``: in
storage, and nothing names it. What an audit finds, and what became of it, is appended to the table ``finding``; the
latest row of a path counts. The registry is seen before and after the listing: only what is in both states can be lost,
only what is in neither can be an orphan, so that an audit may run beside a campaign.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from checks import deep as deep_audit
from checks import history, reading, storage
from checks.deep import Coverage, Progress
from lake import delta, publish
from lake.site import Site

OPEN = ("lost", "damaged", "orphan")
#: Seconds without a change after which an unfinished file has no writer any more.
STALE = 15 * 60.0
SQL = Path(__file__).parent


@dataclass(frozen=True)
class Finding:
    """Something wrong with the file at ``path``; ``bytes`` are those found, None where there is no file."""

    path: str
    state: str
    datasets: int
    bytes: int | None
    reason: str


@dataclass(frozen=True)
class AuditReport:
    """What was looked at (registered files, datasets in them, their bytes), what is wrong, and what no longer is."""

    site: str
    deep: bool
    files: int
    datasets: int
    bytes: int
    findings: list[Finding] = field(default_factory=list)
    healed: list[str] = field(default_factory=list)
    coverage: Coverage | None = None

    @property
    def counts(self) -> dict[str, int]:
        """Findings by state."""
        found = Counter(finding.state for finding in self.findings)
        return {state: found[state] for state in OPEN}

    @property
    def ok(self) -> bool:
        return not self.findings


def audit(
    site: Site,
    deep: bool = False,
    progress: Progress = lambda done, total: None,
    spare: float = 0.0,
    *,
    older_than: float | None = None,
    budget: float | None = None,
    rate: float | None = None,
) -> AuditReport:
    """Compare storage and registry; ``deep`` reads the bytes of what is due (sha256, page checksums): see deep.read().

    ``spare``: seconds for which a file without a registry row counts as new, not as orphan (while a driver works).
    ``progress(bytes done, bytes in all)`` is called while files are read. A batch that a dead committer left is
    published first. Raises LakeError where storage or registry cannot be read at all.
    """
    publish.Publisher(site)
    earlier = {row["path"]: row["state"] for row in _findings(site).to_pylist() if row["state"] in OPEN}
    files, wrong, accounted = _differences(site, spare, earlier)
    again = files.filter(pc.is_in(files["path"], pa.array(set(earlier).difference(wrong), pa.string())))
    _judge(wrong, again, reading.altered(site, again))
    coverage = None
    if deep:

        def note(problems: dict[str, str]) -> None:
            read = files.filter(pc.is_in(files["path"], pa.array(problems, pa.string())))
            _judge(wrong, read, problems)
            _append(site, [wrong[path] for path in problems if earlier.get(path) != wrong[path].state], deep)
            earlier.update({path: wrong[path].state for path in problems})

        events = storage.live(site)
        events = events.filter(pc.invert(pc.or_(events["catalogue"], pc.is_in(events["path"], pa.array(wrong, pa.string())))))
        rotten = reading.rotten(site, events["path"].to_pylist())
        wrong |= {path: Finding(path, "damaged", 0, _size(site, path), reason) for path, reason in rotten.items()}
        limits = {"older_than": older_than, "budget": budget, "rate": rate}
        coverage = deep_audit.read(site, files, set(wrong), note, progress, **limits)
    settled = _settled(site, earlier, wrong, accounted)
    found = sorted(wrong.values(), key=lambda finding: finding.path)
    _append(site, [f for f in found if earlier.get(f.path) != f.state] + list(settled.values()), deep)
    sums = {name: pc.sum(files[name]).as_py() or 0 for name in ("datasets", "file_bytes")}
    return AuditReport(site.name, deep, files.num_rows, sums["datasets"], sums["file_bytes"], found, sorted(settled), coverage)


def _judge(wrong: dict[str, Finding], files: pa.Table, problems: dict[str, str]) -> None:
    """Add what reading ``files`` showed to the findings."""
    rows = {row["path"]: row for row in files.select(["path", "datasets", "file_bytes"]).to_pylist()}
    for path, reason in problems.items():
        state = "lost" if reason == reading.LOST else "damaged"
        wrong[path] = Finding(path, state, rows[path]["datasets"], None if state == "lost" else rows[path]["file_bytes"], reason)


def quick(site: Site, spare: float = 0.0) -> list[Finding]:
    """What is lost, damaged or orphan by a listing alone, and what an audit found damaged and nobody healed yet."""
    _, wrong, _ = _differences(site, spare)
    for row in _findings(site).to_pylist():
        path = row["path"]
        if row["state"] == "damaged" and path not in wrong and (size := _size(site, path)) is not None:
            wrong[path] = Finding(path, "damaged", row["datasets"], size, row["reason"])
    return sorted(wrong.values(), key=lambda finding: finding.path)


def broken(site: Site) -> list[str]:
    """Registered files that are missing or have another size now, or that an audit found damaged and nobody healed."""
    found = storage.listing(site)
    with delta.cursor() as con:
        con.register("registered", storage.registered(site))
        con.register("storage", found)
        con.register("finding", _findings(site))
        rows = con.execute(
            "SELECT path FROM registered r LEFT JOIN storage s USING (path) "
            "WHERE s.bytes IS DISTINCT FROM r.file_bytes "
            "UNION SELECT path FROM finding SEMI JOIN registered USING (path) WHERE state = 'damaged' ORDER BY path"
        )
        return [row[0] for row in rows.fetchall()]


def still_broken(site: Site, paths: Iterable[str]) -> list[str]:
    """Those of ``paths`` that are missing, or not of the registered size and sha256, now."""
    wanted = sorted(set(paths))
    files = storage.registered(site)
    files = files.filter(pc.is_in(files["path"], pa.array(wanted, pa.string())))
    known = set(files["path"].to_pylist())
    gone = [path for path in wanted if path not in known and not site.path(path).exists()]
    return sorted([*gone, *reading.altered(site, files)])


def record(site: Site, paths: Iterable[str], state: str, reason: str | None = None, deep: bool = True) -> None:
    """Append a finding for each path: lost, damaged, orphan, healed or removed."""
    wanted = sorted(set(paths))
    files = storage.registered(site)
    datasets = dict(zip(files["path"].to_pylist(), files["datasets"].to_pylist(), strict=True))
    why = reason or ("is as registered again" if state == "healed" else state)
    _append(site, [Finding(p, state, datasets.get(p, 0), _size(site, p), why) for p in wanted], deep)


def remove_orphans(site: Site, spare: float = 0.0) -> list[str]:
    """Remove what nothing names; returns the paths that went.

    Files younger than ``spare`` seconds stay, and unfinished ones that may still be in work. A file that a catalogue
    table holds without a registered dataset leaves the table first. Nothing that is registered, waits or is on its way
    is touched. LakeError where upkeep is at work for longer than one waits for a lock.
    """
    publish.Publisher(site)
    with site.lock("upkeep"), site.lock():  # what upkeep has written and not committed yet is named by nothing either
        orphans = [f for f in _differences(site, spare)[1].values() if f.state == "orphan"]
        held = storage.live(site).to_pylist()
        tables = {row["path"]: row["table"] for row in held}
        for table in sorted({tables[f.path] for f in orphans if f.path in tables}):
            root = site.relative(site.table_path(table)) + "/"
            delta.remove_files(site, table, [f.path.removeprefix(root) for f in orphans if tables.get(f.path) == table])
        for orphan in orphans:
            site.path(orphan.path).unlink(missing_ok=True)
        _append(site, [Finding(f.path, "removed", 0, f.bytes, f"orphan: {f.reason}") for f in orphans], False)
    return [orphan.path for orphan in orphans]


def _differences(site: Site, spare: float, asked: Iterable[str] = ()) -> tuple[pa.Table, dict[str, Finding], set[str]]:
    """The registered files; what differs without reading them, by path; and those of ``asked`` that something accounts for."""
    before = delta.version(site, "dataset")
    found = storage.listing(site)
    files = storage.registered(site)
    with delta.connect() as con:
        for table in storage.NAMING:
            storage.view(con, site, table)
        con.register("storage", found)
        con.register("registered", files)
        con.register("live", storage.live(site))
        con.execute(f"CREATE TEMP TABLE named AS {(SQL / 'named.sql').read_text()}")
        different = con.sql((SQL / "differences.sql").read_text(), params={"spare": spare, "stale": STALE})
        rows = different.to_arrow_table().to_pylist()
        con.register("asked", pa.table({"path": pa.array(asked, pa.string())}))
        accounted = con.sql(
            "FROM asked SEMI JOIN (SELECT path FROM registered UNION ALL SELECT path FROM live WHERE NOT catalogue "
            "UNION ALL SELECT path FROM named) USING (path)"
        ).to_arrow_table()["path"]
    strays = [row["path"] for row in rows if row["state"] == "orphan" and row["path"].startswith("tables/")]
    merged = storage.retired(site, strays)
    wrong = {row["path"]: Finding(**row) for row in rows if row["path"] not in merged}
    return files, _steady(site, before, wrong), set(accounted.to_pylist())


def _steady(site: Site, before: int, wrong: dict[str, Finding]) -> dict[str, Finding]:
    """What is wrong not only because something happened while we looked: the registry was at version ``before`` then.

    Lost is what was registered before and after, and is still not there; an orphan was registered neither before nor
    after, and is still there.
    """
    known = history.registered_at(site, before, [f.path for f in wrong.values() if f.state == "orphan"])
    there = {path: f.state == "damaged" or _size(site, path) is not None for path, f in wrong.items()}
    return {path: f for path, f in wrong.items() if there[path] == (f.state != "lost") and path not in known}


def _settled(site: Site, earlier: dict[str, str], wrong: dict[str, Finding], accounted: set[str]) -> dict[str, Finding]:
    """Earlier findings that hold no more, as the events that say so."""
    settled = {}
    for path, state in earlier.items():
        size = _size(site, path)
        if path in wrong or (state == "orphan" and size is not None and path not in accounted):
            continue
        if size is None:
            settled[path] = Finding(path, "removed", 0, None, "is gone, and nothing names it")
        else:
            settled[path] = Finding(path, "healed", 0, size, f"was {state}, is as registered")
    return settled


def _size(site: Site, path: str) -> int | None:
    try:
        return site.path(path).stat().st_size
    except OSError:
        return None


def _findings(site: Site) -> pa.Table:
    """The latest finding of every path: path, state, datasets, reason."""
    with delta.cursor() as con:
        storage.view(con, site, "finding")
        return con.sql(
            "SELECT path, state, datasets, reason FROM finding "
            "QUALIFY row_number() OVER (PARTITION BY path ORDER BY noted_at DESC) = 1 ORDER BY path"
        ).to_arrow_table()


def _append(site: Site, findings: Iterable[Finding], deep: bool) -> None:
    now = datetime.now(UTC)
    rows: list[dict[str, Any]] = [{**vars(f), "reason": f.reason[:512], "deep": deep, "noted_at": now} for f in findings]
    if rows:
        delta.append(site, "finding", pa.Table.from_pylist(rows, schema=schemas.table("finding").arrow))
