"""The storage audit finds what is lost, damaged or stray, and nothing else."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pytest
from paper_lake import files, flip

from checks import audit, storage
from lake import datastore, delta, publish, registry, slices, transfer_log, upkeep
from lake.site import Lake, Site
from lake.transfer_log import Event
from pipelines import registration


def findings(site: Site) -> list[tuple[str, str]]:
    with delta.connect() as con:
        return delta.relation(con, site, "finding").order("noted_at, path").project("path, state").fetchall()


def states(report: audit.AuditReport) -> dict[str, str]:
    return {finding.path: finding.state for finding in report.findings}


def rows_of_visit_5(site: Site) -> int:
    with delta.connect() as con:
        return len(con.sql(f"FROM ({delta.select(site, 'visit_table')}) WHERE visit = 5").fetchall())


def test_a_sound_site_has_no_findings(lake: Lake) -> None:
    for site in lake.sites.values():
        report = audit.audit(site, deep=True)
        assert report.ok and report.findings == [] and report.files > 50 and report.bytes > 10**5
        assert findings(site) == [] and audit.broken(site) == []


def test_each_kind_of_damage_gets_its_name(lake: Lake) -> None:
    site = lake.site("FRDF")
    lost, short, altered = files(site, "visit_image")[:3]
    flipped = files(site, "object")[0]
    site.path(lost).unlink()
    os.truncate(site.path(short), 10)
    flip(site.path(altered))
    flip(site.path(flipped))
    stray = "files/paper/step1/stray.fits"
    site.path(stray).write_bytes(b"nobody knows me")
    report = audit.audit(site, deep=True)
    expected = {lost: "lost", short: "damaged", altered: "damaged", flipped: "damaged", stray: "orphan"}
    assert states(report) == expected
    assert report.counts == {"lost": 1, "damaged": 3, "orphan": 1}
    assert dict(findings(site)) == expected
    assert audit.broken(site) == sorted([lost, short, altered, flipped])
    assert audit.still_broken(site, expected) == sorted([lost, short, altered, flipped])


def test_a_quick_audit_does_not_forget_what_a_deep_one_found(lake: Lake) -> None:
    site = lake.central
    path = files(site, "raw")[0]
    good = site.path(path).read_bytes()
    flip(site.path(path))
    assert states(audit.audit(site)) == {}
    assert states(audit.audit(site, deep=True)) == {path: "damaged"}
    assert states(audit.audit(site)) == {path: "damaged"}
    site.path(path).write_bytes(good)
    assert audit.broken(site) == [path] and audit.still_broken(site, [path]) == []
    report = audit.audit(site)
    assert report.ok and report.healed == [path]
    assert [state for _, state in findings(site)] == ["damaged", "healed"]
    assert audit.broken(site) == []


def test_only_changes_are_recorded(lake: Lake) -> None:
    site = lake.central
    site.path(files(site, "raw")[0]).unlink()
    for _ in range(3):
        assert audit.audit(site).counts["lost"] == 1
    assert len(findings(site)) == 1
    audit.record(site, [files(site, "raw")[0]], "healed", "fetched again")
    assert len(findings(site)) == 2


def test_files_that_wait_or_travel_are_no_orphans(lake: Lake) -> None:
    site = lake.site("FRDF")
    path = files(site, "raw")[0]
    with delta.connect() as con:
        row = registry.datasets(con, site, "path = $p", {"p": path}).to_arrow_table()
    unknown = row.set_column(row.column_names.index("visit"), "visit", pa.array([77], pa.int64()))
    unknown = unknown.set_column(row.column_names.index("exposure"), "exposure", pa.array([77], pa.int64()))
    waiting = path.replace("raw_", "rawer_")
    site.path(waiting).write_bytes(site.path(path).read_bytes())
    unknown = unknown.set_column(row.column_names.index("path"), "path", pa.array([waiting]))
    unknown = registry.with_ids(None, unknown, {"raw": ("instrument", "exposure", "detector")})
    assert registry.ingest(site, unknown)["verdict"].to_pylist() == ["parked"]
    assert audit.audit(site).ok


def test_a_clock_that_was_set_back_makes_no_orphan_of_what_came_again(lake: Lake) -> None:
    """A first attempt failed while the clock was an hour fast; what the second one brought waits, and must not be removed."""
    site, path, now = lake.central, "files/paper/raw/again.fits", datetime.now(UTC)
    site.path(path).parent.mkdir(parents=True, exist_ok=True)
    site.path(path).write_bytes(b"waits")
    failed = Event("rule", path, "FRDF", "USDF", "failed", 1, 5, reason="broken pipe", noted_at=now + timedelta(hours=1))
    transfer_log.write(site, [failed, Event("rule", path, "FRDF", "USDF", "parked", 2, 5, noted_at=now)])
    assert audit.audit(site).ok and audit.remove_orphans(site) == [] and site.path(path).exists()
    transfer_log.write(site, [Event("rule", path, "FRDF", "USDF", "failed", 2, 5, noted_at=now)])
    assert states(audit.audit(site)) == {path: "orphan"}


def pass_time(monkeypatch: pytest.MonkeyPatch, *young: Path) -> None:
    """An hour goes by, and then these files are written."""
    then = time.time() + 3600
    monkeypatch.setattr(storage, "time", SimpleNamespace(time=lambda: then))
    for path in young:
        os.utime(path, (then, then))


def test_temporary_files_are_orphans_once_they_are_stale(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    young, old = site.path("files/.tmp-1234-a.fits"), site.path("tables/quality/.tmp-5678-b.parquet")
    young_too, old_too = (site.path(f"files/.tmp-1234-{n}/c.fits") for n in range(2))  # of directories that are new
    for path in (young, old, young_too, old_too):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    pass_time(monkeypatch, young, young_too)
    assert states(audit.audit(site)) == {site.relative(path): "orphan" for path in (old, old_too)}
    assert sorted(audit.remove_orphans(site)) == sorted(map(site.relative, (old, old_too)))
    assert young.exists() and young_too.exists() and not old.exists() and not old_too.exists() and audit.audit(site).ok


def test_a_link_is_as_old_as_it_is_not_as_its_file(lake: Lake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files that are brought in as links, or moved, were written long ago."""
    site = lake.central
    source = tmp_path / "old.fits"
    source.write_bytes(b"old")
    os.utime(source, (1, 1))
    links = [site.path(path) for path in ("files/.tmp-12-0", "files/.tmp-34-0/x.fits", "files/x.fits")]
    for path in links:
        path.parent.mkdir(exist_ok=True)
        os.link(source, path)
    assert audit.audit(site, spare=600).ok and audit.remove_orphans(site, spare=600) == []
    pass_time(monkeypatch)
    assert sorted(audit.remove_orphans(site, spare=600)) == sorted(map(site.relative, links)) and source.exists()


def test_orphans_go_and_nothing_registered_does(lake: Lake) -> None:
    site = lake.central
    before = {p for p in site.root.rglob("*") if p.is_file()}
    stray = site.path("files/paper/step4/visit_image/20260910/left_over.fits")
    stray.write_bytes(b"left by a dead worker")
    unpublished = slices.write_slices(site, "visit_table", [_slice(lake)])[0].path
    unregistered = slices.write_slices(site, "visit_table", [_slice(lake, "b")])[0].path
    delta.add_files(site, "visit_table", [slices.add_file(site, unregistered)])
    uncommitted = site.path("tables/registry/dataset/dataset_type=raw/part-dead.parquet")
    uncommitted.write_bytes(b"a writer died before its commit")
    strays = sorted([site.relative(stray), unpublished, unregistered, site.relative(uncommitted)])
    assert sorted(states(audit.audit(site))) == strays
    assert rows_of_visit_5(site) == 1
    assert sorted(audit.remove_orphans(site)) == strays
    assert audit.audit(site, deep=True).ok and audit.remove_orphans(site) == []
    assert all(p.exists() for p in before)
    assert rows_of_visit_5(site) == 0
    assert {state for _, state in findings(site)} == {"orphan", "removed"}


def test_files_of_a_driver_at_work_are_spared(lake: Lake) -> None:
    site = lake.central
    new = site.path("files/paper/step4/new.fits")
    new.write_bytes(b"not published yet")
    assert audit.audit(site, spare=3600).ok
    assert audit.remove_orphans(site, spare=3600) == [] and new.exists()


def test_what_compaction_left_is_not_an_orphan(lake: Lake) -> None:
    site = lake.central
    with site.lock():
        assert upkeep.compact(site, "transfer", at_least=2) > 1
    assert audit.audit(site, deep=True).ok


def test_a_batch_that_a_dead_committer_left_is_published_not_removed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    data_id = {"instrument": "TinyCam", "detector": 0}
    record = datastore.write_file(site, datastore.template("paper/calib", "bias", data_id), b"a late bias")
    row = registration.file_row(site, "bias", "paper/calib", data_id, record)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying, pytest.raises(KeyboardInterrupt):
        dying.setattr(publish.Publisher, "_apply", die)
        registration.publish_rows(publish.Publisher(site), registration.rows_with_ids([row]))
    assert len(list(site.path("publish").glob("*.arrow"))) == 1 and record.path not in files(site, "bias")
    assert audit.remove_orphans(site) == []
    assert record.path in files(site, "bias") and site.path(record.path).exists() and audit.audit(site, deep=True).ok


def test_a_registered_slice_that_its_table_does_not_hold_is_damaged(lake: Lake) -> None:
    site = lake.site("FRDF")
    path = files(site, "dia_object")[0]
    delta.remove_files(site, "dia_object", [path.removeprefix("tables/catalogues/dia_object/")])
    report = audit.audit(site)
    assert states(report) == {path: "damaged"} and "does not hold it" in report.findings[0].reason


def test_a_registry_with_a_missing_part_is_reported_not_stumbled_over(lake: Lake) -> None:
    site = lake.site("FRDF")
    part = Path(next(p for p in delta.files(site, "attempt")))
    part.unlink()
    report = audit.audit(site, deep=True)
    assert states(report) == {site.relative(part): "lost"}


def _slice(lake: Lake, name: str = "a") -> tuple[str, dict[str, object], pa.Table]:
    site = lake.central
    path = files(site, "visit_table")[0]
    held = slices.contents(site, path)[0][0]
    rows = slices.read_slice(site, path, held)
    rows = rows.set_column(rows.column_names.index("visit"), "visit", pa.array([5], pa.int64()))
    return f"0000-{name}", {"day_obs": 20260910}, rows
