"""Upkeep: merging under concurrent writers and kills, sweeping after the horizon, cutting logs, snapshots, the janitor."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import schemas
from lake import commit, delta, ingester, janitor, snapshot, upkeep
from lake.parquet import APPENDED, DeltaError, write_files
from lake.site import Lake, Site

ROOT = Path(__file__).parents[2]
START = datetime(2026, 1, 1, tzinfo=UTC)
LATER = 25 * 3600


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}}).central


def metric(value: float) -> pa.Table:
    row = {"campaign": "c", "metric": "m", "value": value, "noted_at": START + timedelta(seconds=value)}
    return pa.Table.from_pylist([row], schema=schemas.table("metric").arrow)


def event(n: int, state: str = "queued") -> pa.Table:
    row = dict.fromkeys(schemas.table("transfer").arrow.names) | {
        "rule_id": "r", "path": f"files/{n}", "source": "B", "destination": "A", "state": state, "attempt": 1, "bytes": 1,
        "noted_at": START,
    }  # fmt: skip
    return pa.Table.from_pylist([row], schema=schemas.table("transfer").arrow)


def fill(site: Site, count: int, start: int = 0) -> None:
    for n in range(start, start + count):
        delta.append(site, "metric", metric(float(n)), ("filler", n + 1))


def values(site: Site, paths: list[str] | None = None) -> list[float]:
    with delta.connect() as con:
        source = delta.scan("metric", delta.files(site, "metric") if paths is None else paths)
        return [row[0] for row in con.execute(f"SELECT value FROM ({source}) ORDER BY value").fetchall()]


def log_versions(site: Site, table: str = "metric") -> list[int]:
    return sorted(int(p.stem) for p in (site.table_path(table) / "_delta_log").glob("*.json"))


def pass_time(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let upkeep see the clock that much later."""
    real = time.time
    for module in (upkeep, janitor):
        monkeypatch.setattr(module, "time", type("Clock", (), {"time": staticmethod(lambda: real() + seconds)}))


def parts(site: Site) -> set[Path]:
    return set(site.table_path("metric").glob(f"{APPENDED}*"))


# -- merging -----------------------------------------------------------------------------------------------------------


def test_small_files_are_merged_by_the_one_rule(site: Site) -> None:
    fill(site, upkeep.MANY - 1)
    upkeep.tend(site)
    assert len(delta.files(site, "metric")) == upkeep.MANY - 1
    fill(site, 1, upkeep.MANY - 1)
    assert [(t.table, t.merged) for t in upkeep.maintain(site, dry_run=True)] == [("metric", upkeep.MANY)]
    assert len(delta.files(site, "metric")) == upkeep.MANY
    upkeep.tend(site)
    assert len(delta.files(site, "metric")) == 1 and values(site) == [float(n) for n in range(upkeep.MANY)]
    assert delta.append(site, "metric", metric(7.0), ("filler", 7)) is False, "what was applied stays known"


def test_a_bunch_is_bounded(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site, 33)
    size = Path(delta.files(site, "metric")[0]).stat().st_size
    monkeypatch.setattr(upkeep, "BUNCH", 10 * size + size // 2)
    assert upkeep.compact(site, "metric") == 33
    assert len(delta.files(site, "metric")) == 4 and values(site) == [float(n) for n in range(33)]


@pytest.mark.parametrize("moment", ["before the look", "after the look"])
def test_of_two_that_merge_the_same_files_one_gives_up(site: Site, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    fill(site, 40)
    real = commit.live_files

    def overtaken(*arguments: Any) -> list[str]:
        """Another process merges, just before or just after the commit looks which files are live."""
        monkeypatch.setattr(commit, "live_files", real)
        live = real(*arguments)
        assert upkeep.compact(site, "metric") == 40
        return live if moment == "after the look" else real(delta.open_table(site, "metric"), site, "metric")

    monkeypatch.setattr(commit, "live_files", overtaken)
    assert upkeep.compact(site, "metric") == 0
    assert values(site) == [float(n) for n in range(40)]
    assert len(parts(site)) == 41, "the loser's file is gone"


def test_merging_among_writers_and_other_mergers(site: Site) -> None:
    def write(start: int) -> None:
        fill_own(start)

    def fill_own(start: int) -> None:
        for n in range(start, start + 40):
            delta.append(site, "metric", metric(float(n)))

    def merge(_: int) -> None:
        for _ in range(12):
            upkeep.compact(site, "metric", at_least=2)

    with ThreadPoolExecutor(5) as pool:
        for done in [*(pool.submit(write, n) for n in (0, 100)), *(pool.submit(merge, n) for n in range(3))]:
            done.result()
    assert values(site) == [float(n) for n in [*range(40), *range(100, 140)]]


MERGE = """
import sys
from lake import upkeep
from lake.site import Lake
site = Lake.open(sys.argv[1]).central
upkeep.compact(site, "metric")
upkeep.sweep(site, "metric", hours=0)
upkeep.cut_log(site, "metric", hours=0)
"""


@pytest.mark.parametrize(
    "point", ["upkeep:read", "upkeep:written", "upkeep:merged", "upkeep:swept", "upkeep:swept:9", "upkeep:cut", "upkeep:cut:9"]
)
def test_death_at_a_point(site: Site, point: str) -> None:
    fill(site, 45)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "DRP_FAULT": point}
    died = subprocess.run([sys.executable, "-c", MERGE, site.root.parent], env=environment, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert values(site) == [float(n) for n in range(45)]
    fill(site, 45, 45)
    upkeep.compact(site, "metric", at_least=2)
    upkeep.sweep(site, "metric", hours=0)
    upkeep.cut_log(site, "metric", hours=0)
    assert values(site) == [float(n) for n in range(90)]
    assert delta.transaction_version(site, "metric", "filler") == 90


def test_a_damaged_page_is_named_not_made_to_look_sound(site: Site) -> None:
    fill(site, 40)
    damaged = Path(delta.files(site, "metric")[5])
    content = bytearray(damaged.read_bytes())
    content[30] ^= 1
    damaged.write_bytes(content)
    with pytest.raises(DeltaError, match=f"{damaged.name} cannot be read"):
        upkeep.compact(site, "metric")
    assert len(delta.files(site, "metric")) == 40
    upkeep.tend(site)  # does not stumble


# -- what stays, and what goes -----------------------------------------------------------------------------------------


def test_old_files_stay_for_their_readers_whatever_their_age(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site, 40)
    held = delta.files(site, "metric")
    before = delta.version(site, "metric")
    for path in held:
        os.utime(path, (0, 0))  # written long ago, given up just now
    upkeep.compact(site, "metric")
    assert upkeep.sweep(site, "metric") == (0, 0)
    assert values(site, held) == [float(n) for n in range(40)]
    from deltalake import DeltaTable

    old = DeltaTable(site.table_path("metric"), version=before).file_uris()
    assert len(old) == 40, "time travel"
    assert upkeep.sweep(site, "metric", hours=0)[0] == 40
    assert values(site) == [float(n) for n in range(40)]


def test_a_file_that_its_writer_has_not_committed_yet_stays(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site, 1)
    [written] = write_files(site, "metric", metric(5.0))
    assert upkeep.sweep(site, "metric", hours=0) == (0, 0)
    pass_time(monkeypatch, LATER)
    assert upkeep.sweep(site, "metric") == (1, written.bytes)
    assert values(site) == [0.0]


def test_logs_are_cut_at_a_checkpoint_and_the_table_goes_on(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site, 70)
    assert upkeep.cut_log(site, "metric") == 0, "everything is young"
    pass_time(monkeypatch, LATER)
    assert upkeep.cut_log(site, "metric", dry_run=True) == 40 and len(log_versions(site)) == 71
    assert upkeep.cut_log(site, "metric") == 40
    assert log_versions(site) == list(range(40, 71))
    assert values(site) == [float(n) for n in range(70)]
    assert delta.transaction_version(site, "metric", "filler") == 70
    fill(site, 1, 70)
    log = site.table_path("metric") / "_delta_log"
    (log / f"{60:020}.checkpoint.parquet").unlink()  # damaged later: the remedy that errors name still works
    (log / "_last_checkpoint").unlink()
    assert values(site) == [float(n) for n in range(71)]


def test_a_log_is_not_cut_without_a_sound_checkpoint(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site, 19)
    pass_time(monkeypatch, LATER)
    assert upkeep.cut_log(site, "metric") == 0, "no checkpoint"
    fill(site, 10, 19)
    assert upkeep.cut_log(site, "metric") == 0, "no second one to fall back to"
    fill(site, 41, 29)
    log = site.table_path("metric") / "_delta_log"
    damaged = log / f"{40:020}.checkpoint.parquet"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    with pytest.raises(DeltaError, match=f"{damaged.name} cannot be read"):
        upkeep.cut_log(site, "metric")
    assert log_versions(site) == list(range(71))


def test_the_ingester_finds_what_it_has_not_read(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    for n in range(70):
        delta.append(site, "transfer", event(n))
    pass_time(monkeypatch, LATER)
    assert upkeep.cut_log(site, "transfer") == 0, "it has read nothing"
    delta.append(site, "transfer", event(70), (ingester.APPLICATION, 25))
    assert upkeep.FOLLOWERS["transfer"] == ingester.APPLICATION
    assert upkeep.cut_log(site, "transfer") == 20
    version, paths = delta.added_since(site, "transfer", 25)
    assert version == 71 and len(paths) == 46
    for entry in (site.table_path("transfer") / "_delta_log").glob("000000000000000000[23]*.json"):
        entry.unlink()  # cut too far, by whomever
    version, paths = delta.added_since(site, "transfer", 25)
    assert version == 71 and len(paths) == 71, "all there is: too much rather than too little"


def test_a_snapshot_keeps_its_files(site: Site) -> None:
    fill(site, 40)
    assert snapshot.keep(site, "dr1", "op@host") == 40
    with pytest.raises(snapshot.SnapshotError, match="snapshot dr1 is there already"):
        snapshot.keep(site, "dr1", "op@host")
    fill(site, 10, 40)
    upkeep.compact(site, "metric")
    assert upkeep.sweep(site, "metric", hours=0)[0] == 10
    assert values(site, snapshot.files(site, "dr1", "metric")) == [float(n) for n in range(40)]
    with pytest.raises(snapshot.SnapshotError, match="no snapshot dr2; there are: dr1"):
        snapshot.files(site, "dr2", "metric")
    snapshot.drop(site, "dr1", "op@host")
    assert snapshot.names(site) == [] and upkeep.sweep(site, "metric", hours=0)[0] == 40
    assert snapshot.keep(site, "dr1", "op@host") == 3, "the name is free again; the snapshot table itself is kept, too"
    assert values(site) == [float(n) for n in range(50)]


# -- the janitor -------------------------------------------------------------------------------------------------------


def test_the_janitor_removes_leftovers_and_nothing_else(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(site, 1)
    folder = site.path("files/c/raw/1")
    folder.mkdir(parents=True)
    site.path("files/c/empty").mkdir()
    litter = [folder / ".tmp-ab-x.fits", site.table_path("metric") / "part-1.parquet#1", site.path("publish/.tmp-x")]
    litter.append(site.table_path("metric") / "_delta_log" / "_commit_1.json.tmp")
    site.path("files/c/.tmp-ab-0").mkdir()
    litter.append(site.path("files/c/.tmp-ab-0/x.fits"))
    kept = [folder / "x.fits", folder / "a name#1", site.table_path("metric") / "notes.txt"]
    for path in [*litter, *kept]:
        path.write_bytes(b"12345")
    outside = site.root.parent / "outside"
    outside.mkdir()
    (outside / ".tmp-x").write_bytes(b"1")
    site.path("files/link").symlink_to(outside)
    site.path("files/c/.tmp-mine").mkdir()  # an odd name, but of a file that is named
    kept.append(site.path("files/c/.tmp-mine/x.fits"))
    kept[-1].write_bytes(b"12345")
    named = ["files/c/raw/1/a name#1", "files/c/.tmp-mine/x.fits"]
    row = {"dataset_type": "raw", "state": "parked"}
    declared = schemas.table("parked").arrow
    filled: dict[str, Any] = {f.name: START if f.name == "noted_at" else "" for f in declared if not f.nullable}
    rows = [filled | row | {"dataset_id": path, "record": f'{{"path": "{path}"}}'} for path in named]
    delta.append(site, "parked", pa.Table.from_pylist(rows, schema=declared))

    assert janitor.clean(site) == [], "their writers may still live"
    pass_time(monkeypatch, LATER)
    waiting = site.path("publish/000000000001.arrow")
    waiting.write_bytes(b"")
    assert janitor.clean(site) == [], "a batch waits"
    waiting.unlink()
    found = janitor.clean(site, dry_run=True)
    assert {leftover.path for leftover in found} == {*map(site.relative, litter), "files/c/empty", "files/c/.tmp-ab-0"}
    assert all(path.exists() for path in litter)
    assert janitor.clean(site) == found
    assert not any(path.exists() for path in litter) and not site.path("files/c/empty").exists()
    assert all(path.exists() for path in kept) and (outside / ".tmp-x").exists()
    assert values(site) == [0.0] and janitor.clean(site) == []


def test_two_janitors_do_not_stumble_over_each_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one looks at, the other may remove at any moment."""
    litter, real = site.path("files/.tmp-x"), time.time
    litter.write_bytes(b"1")

    def looked() -> float:
        litter.unlink(missing_ok=True)
        return real() + LATER

    monkeypatch.setattr(janitor, "time", type("Clock", (), {"time": staticmethod(looked)}))
    assert [leftover.path for leftover in janitor.clean(site)] == ["files/.tmp-x"] and janitor.clean(site) == []


def test_the_janitor_comes_once_a_day(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    litter = site.path("files/.tmp-x")
    litter.write_bytes(b"1")
    upkeep.tend(site)
    os.utime(site.path(".lock/janitor"), (0, 0))
    upkeep.tend(site)
    assert litter.exists(), "young"
    os.utime(site.path(".lock/janitor"), (0, 0))
    pass_time(monkeypatch, LATER)
    upkeep.tend(site)
    assert not litter.exists()
