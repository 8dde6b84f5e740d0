"""The deep audit: which registered files are due, reading them, and remembering what was read and when.

Files are read in order of (registered_at, path). Every few seconds of reading leave one row in ``audit_coverage``, so an
audit that is stopped, or killed, goes on where it was; the table grows with reading time, not with files.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from checks import reading, storage
from lake import delta
from lake.site import Site

Progress = Callable[[int, int], None]
#: Seconds of reading after which what was read is noted: a kill loses no more than that.
NOTE_EVERY = 10.0
#: Days within which files should have been read, where nothing else is said.
DAYS = 30.0
MODULUS = 2**62


@dataclass(frozen=True)
class Coverage:
    """What a deep audit read (files, bytes, seconds; all that was not read since ``since`` was due) and left unread.

    ``recent_*`` were read within the last ``days`` days, by whichever audit, of ``all_*`` registered; ``oldest`` is when
    the file that was not read for longest was read, None where one was never read (or there is none).
    """

    since: datetime
    resumed: bool
    files: int
    bytes: int
    seconds: float
    left_files: int
    left_bytes: int
    days: float
    recent_files: int
    recent_bytes: int
    all_files: int
    all_bytes: int
    oldest: datetime | None

    @property
    def summary(self) -> str:
        """One line: what was read, how fast, what is left, and how much was read lately."""
        rate = f" at {self.bytes / self.seconds / 1e6:,.0f} MB/s" if self.bytes and self.seconds else ""
        begun = f" (of an audit begun {self.since:%Y-%m-%d %H:%M} UTC)" if self.resumed else ""
        left = f", {self.left_files:,} files ({self.left_bytes / 1e9:.3g} GB) left to read" if self.left_files else ""
        share = self.recent_bytes / self.all_bytes if self.all_bytes else 1.0
        files = self.recent_files / self.all_files if self.all_files else 1.0
        oldest = f", the oldest reading is of {self.oldest:%Y-%m-%d %H:%M} UTC" if self.oldest else ""
        return (
            f"read {self.files:,} files, {self.bytes / 1e9:.3g} GB{rate}{begun}{left}; sound and read within {self.days:g} days: "
            f"{files:.1%} of the files, {share:.1%} of the bytes{oldest}"
        )


def read(
    site: Site,
    registered: pa.Table,
    wrong: set[str],
    note: Callable[[dict[str, str]], None],
    progress: Progress = lambda done, total: None,
    *,
    older_than: float | None = None,
    budget: float | None = None,
    rate: float | None = None,
) -> Coverage:
    """Read what is due, except ``wrong`` paths; ``note`` is given what differs (path -> words) before it counts as looked at.

    Due is what no deep audit read for ``older_than`` days; without it, everything, or, where the last deep audit did not
    come to its end, what it left. ``budget`` (s) ends it early; ``rate`` (bytes/s) is not exceeded.
    """
    start, began = time.monotonic(), datetime.now(UTC)
    files = coverage(site, registered)
    bad = pc.is_in(files["path"], pa.array(wrong, pa.string()))
    given = began if older_than is None else began - timedelta(days=older_than)
    unfinished = _unfinished(site) if older_than is None else None
    due = _due(files, bad, unfinished or given)
    if unfinished and not due.num_rows:
        unfinished, due = None, _due(files, bad, given)
    log = _Log(site, unfinished or given, due.num_rows, note)
    pace, until = reading.Pace(rate), start + (float("inf") if budget is None else budget)
    total, done = pc.sum(due["file_bytes"]).as_py() or 0, 0
    wanted = ((row["path"], row["file_bytes"], row["file_checksum"]) for row in _rows(due))
    with closing(reading.differences(site, wanted, pace, until)) as found:
        try:
            for row, (problem, at) in zip(_rows(due), found, strict=False):
                log.read(row, problem, at)
                done += row["file_bytes"]
                progress(done, total)
        finally:
            log.write()
    seconds = time.monotonic() - start
    days = DAYS if older_than is None else older_than
    recent = began - timedelta(days=days)
    files = coverage(site, registered)
    sound = files.filter(pc.invert(pc.is_in(files["path"], pa.array(wrong | log.wrong, pa.string()))))
    lately = sound.filter(pc.fill_null(pc.greater_equal(sound["read_at"], pa.scalar(recent, sound["read_at"].type)), False))
    return Coverage(
        since=unfinished or given,
        resumed=unfinished is not None,
        files=due.num_rows - log.left,
        bytes=done,
        seconds=seconds,
        left_files=log.left,
        left_bytes=total - done,
        days=days,
        recent_files=lately.num_rows,
        recent_bytes=_bytes(lately),
        all_files=files.num_rows,
        all_bytes=_bytes(files),
        oldest=None if sound["read_at"].null_count else pc.min(sound["read_at"]).as_py(),
    )


def coverage(site: Site, registered: pa.Table) -> pa.Table:
    """Every registered file in the order in which it is read, with ``read_at``, when a deep audit last did (or null)."""
    with delta.connect() as con:
        storage.view(con, site, "audit_coverage")
        con.register("registered", registered)
        return con.sql((Path(__file__).with_name("coverage.sql")).read_text()).to_arrow_table()


def _bytes(files: pa.Table) -> int:
    return pc.sum(files["file_bytes"]).as_py() or 0


def _due(files: pa.Table, bad: pa.ChunkedArray, since: datetime) -> pa.Table:
    old = pc.fill_null(pc.less(files["read_at"], pa.scalar(since, files["read_at"].type)), True)
    return files.filter(pc.and_(old, pc.invert(bad)))


def _rows(files: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in files.to_batches(max_chunksize=65_536):
        yield from batch.to_pylist()


def _unfinished(site: Site) -> datetime | None:
    """Since when files are due in the last deep audit, if that left something unread."""
    with delta.cursor() as con:
        storage.view(con, site, "audit_coverage")
        latest = "SELECT due_since, left_files FROM audit_coverage ORDER BY noted_at DESC, left_files LIMIT 1"
        found = con.sql(latest).to_arrow_table().to_pylist()
    return found[0]["due_since"] if found and found[0]["left_files"] else None


class _Log:
    """What was read so far: unbroken ranges of sound files become rows of ``audit_coverage``, differences are noted first."""

    def __init__(self, site: Site, since: datetime, left: int, note: Callable[[dict[str, str]], None]) -> None:
        self.left, self.wrong = left, set[str]()
        self._site, self._since, self._note = site, since, note
        self._ranges: list[dict[str, Any]] = []
        self._problems: dict[str, str] = {}
        self._last = -1
        self._written = time.monotonic()

    def read(self, row: dict[str, Any], problem: str | None, at: float) -> None:
        self.left -= 1
        if problem is not None:
            self._problems[row["path"]] = problem
            self.wrong.add(row["path"])
        elif self._ranges and row["n"] == self._last + 1:
            self._extend(row, at)
        else:
            first = {
                "first_at": row["registered_at"],
                "first_path": row["path"],
                "files": 0,
                "bytes": 0,
                "digest": 0,
                "noted_at": at,
            }
            self._ranges.append(first)
            self._extend(row, at)
        if time.monotonic() - self._written > NOTE_EVERY:
            self.write()

    def _extend(self, row: dict[str, Any], at: float) -> None:
        held = self._ranges[-1]
        held |= {"last_at": row["registered_at"], "last_path": row["path"], "left_files": self.left}
        held |= {"files": held["files"] + 1, "bytes": held["bytes"] + row["file_bytes"]}
        held |= {"digest": (held["digest"] + row["hash"]) % MODULUS, "noted_at": min(held["noted_at"], at)}
        self._last = row["n"]

    def write(self) -> None:
        """Make durable what was read: the differences, then the ranges."""
        if self._problems:
            self._note(self._problems)
        if self._ranges:
            for held in self._ranges:
                held |= {"due_since": self._since, "noted_at": datetime.fromtimestamp(held["noted_at"], UTC)}
            schema = schemas.table("audit_coverage").arrow
            delta.append(self._site, "audit_coverage", pa.Table.from_pylist(self._ranges, schema=schema))
        self._ranges, self._problems, self._last, self._written = [], {}, -1, time.monotonic()
