"""A deep audit reads what is due, remembers what it read, goes on where it stopped, and never claims what it did not read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from paper_lake import files, flip

import schemas
from checks import audit, deep, reading, storage
from checks.deep import Coverage
from lake import datastore, delta, registry
from lake.site import Lake, Site


def read(site: Site, **limits: float) -> Coverage:
    report = audit.audit(site, deep=True, **limits)  # type: ignore[arg-type]
    assert report.coverage is not None
    return report.coverage


def rows(site: Site) -> list[dict[str, object]]:
    with delta.connect() as con:
        return delta.relation(con, site, "audit_coverage").order("noted_at, left_files DESC").to_arrow_table().to_pylist()


def test_everything_is_read_and_remembered_in_few_rows(lake: Lake) -> None:
    site = lake.central
    registered = storage.registered(site)
    found = read(site)
    assert (found.files, found.left_files) == (registered.num_rows, 0)
    assert found.recent_files == found.all_files and found.recent_bytes == found.all_bytes == found.bytes
    assert len(rows(site)) == 1 and rows(site)[0]["files"] == registered.num_rows
    assert read(site).files == registered.num_rows  # the last one came to its end: a new one reads everything again
    assert read(site, older_than=1.0).files == 0 and read(site, older_than=0.0).files == registered.num_rows
    assert "100.0% of the files" in found.summary


def test_what_is_registered_later_is_due_alone(lake: Lake) -> None:
    site = lake.central
    read(site)
    row = _new(site, files(site, "raw")[0], 7)
    found = read(site, older_than=30.0)
    assert found.files == 1 and found.recent_files == found.all_files
    assert rows(site)[-1]["first_path"] == row


def test_an_audit_without_budget_goes_on_where_it_stopped(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.site("FRDF")
    count = storage.registered(site).num_rows
    ticks = iter(range(10**6))
    with monkeypatch.context() as slow:
        slow.setattr(reading, "AHEAD", 1)
        slow.setattr(reading.time, "monotonic", lambda: float(next(ticks)))  # every look at the clock takes a second
        first = read(site, budget=60.0)
    assert 0 < first.files < count and first.left_files == count - first.files and not first.resumed
    second = read(site)
    assert second.resumed and second.since == first.since and second.files == first.left_files and second.left_files == 0
    assert second.recent_files == second.all_files == count
    assert not read(site, budget=0.0).files


def test_a_killed_audit_goes_on(lake: Lake) -> None:
    site = lake.site("FRDF")
    count = storage.registered(site).num_rows
    code = (
        "import sys; from checks import audit, deep; from lake.site import Lake; deep.NOTE_EVERY = 0.05\n"
        "audit.audit(Lake.open(sys.argv[1]).site('FRDF'), deep=True, rate=float(sys.argv[2]))"
    )
    size = sum(storage.registered(site)["file_bytes"].to_pylist())
    child = subprocess.Popen([sys.executable, "-c", code, str(lake.root), str(size / 20)])
    deadline = time.monotonic() + 60
    while delta.version(site, "audit_coverage") < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    done = sum(row["files"] for row in rows(site))  # type: ignore[misc]
    assert 0 < done < count
    found = read(site)
    assert found.resumed and found.files == count - done and found.recent_files == count


def test_a_range_counts_only_for_exactly_the_files_that_were_read(lake: Lake) -> None:
    site = lake.central
    read(site)
    whole = deep.coverage(site, storage.registered(site))
    assert whole["read_at"].null_count == 0
    less = storage.registered(site).slice(1)
    assert deep.coverage(site, less)["read_at"].null_count == less.num_rows
    earlier = min(whole["registered_at"].to_pylist()) + timedelta(microseconds=1)
    stranger = {"path": "files/x", "file_bytes": 1, "file_checksum": "0" * 64, "datasets": 1, "registered_at": earlier}
    more = pa.concat_tables([storage.registered(site), pa.Table.from_pylist([stranger], schema=less.schema)])
    assert deep.coverage(site, more)["read_at"].null_count == more.num_rows  # registered by a clock that went back


def test_what_is_wrong_was_not_read_soundly(lake: Lake) -> None:
    site = lake.site("FRDF")
    flipped, gone = files(site, "visit_image")[:2]
    good = site.path(flipped).read_bytes()
    flip(site.path(flipped))
    site.path(gone).unlink()
    report = audit.audit(site, deep=True)
    assert report.counts == {"lost": 1, "damaged": 1, "orphan": 0} and report.coverage is not None
    assert report.coverage.recent_files == report.coverage.all_files - 2
    again = audit.audit(site, deep=True, older_than=30.0)
    assert again.counts == report.counts and again.coverage is not None and again.coverage.files == 0
    site.path(flipped).write_bytes(good)
    healed = audit.audit(site, deep=True, older_than=30.0)
    assert healed.healed == [flipped] and healed.coverage is not None and healed.coverage.files == 1


def test_no_faster_than_asked_and_stopped_at_once(lake: Lake) -> None:
    pace = reading.Pace(10e6)
    start = time.monotonic()
    for _ in range(4):
        pace.take(500_000)
    assert time.monotonic() - start >= 0.19
    pace.stopped.set()
    with pytest.raises(InterruptedError):
        pace.take(10**9)
    site = lake.central
    wanted = [(p, site.path(p).stat().st_size, datastore.checksum(site.path(p))) for p in files(site, "raw")]
    found = reading.differences(site, wanted, reading.Pace())
    assert next(found)[0] is None
    found.close()
    assert [problem for problem, _ in reading.differences(site, wanted, reading.Pace())] == [None] * len(wanted)


def test_a_time_in_the_future_is_not_taken_for_a_reading(lake: Lake) -> None:
    site = lake.central
    read(site)
    assert all(row["noted_at"] <= datetime.now(UTC) for row in rows(site))  # type: ignore[operator]


def _new(site: Site, like: str, number: int) -> str:
    """Register a copy of a raw as another calibration of the same campaign; returns its path."""
    with delta.connect() as con:
        row = registry.datasets(con, site, "path = $p", {"p": like}).to_arrow_table()
    path = f"files/paper/calib/bias/bias_new{number}.fits"
    site.path(path).parent.mkdir(parents=True, exist_ok=True)
    os.link(site.path(like), site.path(path))
    values = {"path": path, "dataset_type": "raw", "run": f"paper/more{number}"}
    for name, value in values.items():
        row = row.set_column(row.column_names.index(name), name, pa.array([value]))
    row = registry.with_ids(None, schemas.conform("dataset", row), {"raw": ("instrument", "exposure", "detector")})
    assert registry.ingest(site, row)["verdict"].to_pylist() == ["accepted"]
    return path
