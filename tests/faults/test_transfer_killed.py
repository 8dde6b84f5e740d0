"""kill -9 of a run of rules at every point where it matters: run again, nothing is lost and nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake
from points import LONG, some

from lake import datastore, delta, movement, query
from lake.ingester import ingest
from lake.site import Lake

#: What is run and killed: raws and table slices to LANCS, the slices by two rules that share their file.
RUN = """
import sys
from lake import movement
from lake.site import Lake
lake = Lake.open(sys.argv[1])
rules = movement.add_rules(lake, [
    movement.RuleSpec("c", "raws", ("raw",), "true", "USDF", "LANCS"),
    movement.RuleSpec("c", "one", ("visit_table",), "visit = 1", "USDF", "LANCS"),
    movement.RuleSpec("c", "all", ("visit_table",), "true", "USDF", "LANCS"),
])
report = movement.run_rules(lake, rules)
assert report.ok, report.stuck
"""

POINTS = [
    "movement:manifest",
    "movement:rule",
    "movement:companions",
    "movement:copying",
    "transfer:copied",
    "transfer:copied:4",
    "transfer:renamed",
    "transfer:renamed:7",
    "movement:verified",
    "ingester:read",
    "registry:dataset",
    "ingester:registered",
    "ingester:dropped",
    "ingester:logged",
    "movement:concluded",
]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = small_lake.make(tmp_path / "lake", raws=True)
    small_lake.add_visit_tables(lake.central, range(1, 3))
    return lake


def start(lake: Lake, fault: str = "") -> subprocess.Popen:
    environment = {**os.environ, "DRP_FAULT": fault} if fault else dict(os.environ)
    root = Path(movement.__file__).parents[1]
    return subprocess.Popen([sys.executable, "-c", RUN, str(lake.root)], env=environment, cwd=root, stderr=subprocess.PIPE)


def run_here(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["run", str(lake.root)])
    exec(RUN, {})  # noqa: S102


def check(lake: Lake) -> None:
    """Everything is at LANCS, whole, once; the logs say so; nothing else lies about."""
    site = lake.site("LANCS")
    with query.connect(lake) as con:
        there = con.execute('SELECT dataset_id, path FROM "LANCS".dataset ORDER BY ALL').fetchall()
        assert there == con.execute('SELECT dataset_id, path FROM "USDF".dataset ORDER BY ALL').fetchall()
        assert len(there) == 8
        for path, checksum in con.execute('SELECT DISTINCT path, file_checksum FROM "LANCS".dataset').fetchall():
            assert datastore.checksum(site.path(path)) == checksum
        assert con.execute('SELECT count(*) FROM "LANCS".visit_table').fetchall() == [(2,)]
        assert con.execute("SELECT DISTINCT state FROM rule_now").fetchall() == [("OK",)]
        assert con.execute("SELECT DISTINCT state FROM transfer_now").fetchall() == [("ingested",)]
        assert con.execute("SELECT rule_id, dataset_id FROM manifest GROUP BY ALL HAVING count(*) > 1").fetchall() == []
        once = "SELECT rule_id, path FROM transfer WHERE state = 'ingested' GROUP BY ALL HAVING count(*) > 1"
        assert con.execute(once).fetchall() == []
        for table in ("visit", "detector", "visit_detector_patch", "dataset_type", "collection"):
            rows = con.table(f'FROM "LANCS".{table}')
            assert rows.num_rows == len({str(row) for row in rows.to_pylist()}), table
    files = {path.relative_to(site.root).as_posix() for path in site.path("files").rglob("*") if path.is_file()}
    files |= {path.relative_to(site.root).as_posix() for path in site.root.rglob("visit_table-*.parquet")}
    assert files == {path for _, path in there}
    assert not list(site.root.rglob(".tmp-*"))


@pytest.mark.parametrize("fault", some(POINTS))
def test_killed_and_run_again(lake: Lake, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = start(lake, fault)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read().decode()
    run_here(lake, monkeypatch)
    check(lake)
    versions = [delta.version(lake.site("LANCS"), table) for table in ("rule", "manifest", "transfer", "dataset")]
    run_here(lake, monkeypatch)
    assert [delta.version(lake.site("LANCS"), table) for table in ("rule", "manifest", "transfer", "dataset")] == versions


@pytest.mark.parametrize("fault", some(["registry:dataset", "registry:parked", "registry:admitted", "ingester:admitted"], 2))
def test_killed_while_parked_rows_are_admitted(lake: Lake, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dimension records come late: the first run parks everything, the second is killed while it admits."""
    monkeypatch.setattr("lake.companions.dimensions.copy", lambda *_: {})
    with pytest.raises(AssertionError, match="parked"):
        run_here(lake, monkeypatch)
    monkeypatch.undo()
    small_lake.add_dimensions(lake.site("LANCS"), range(1, 3))
    killed = start(lake, fault)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read().decode()
    run_here(lake, monkeypatch)
    check(lake)
    with query.connect(lake, ["LANCS"]) as con:
        assert con.execute("SELECT state, count(*) FROM parked_now GROUP BY ALL").fetchall() == [("admitted", 8)]


def test_ingesters_race_with_a_killed_one(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    killed = start(lake, "movement:verified")
    assert killed.wait() == -signal.SIGKILL
    racers = [start(lake), start(lake)]
    taken = ingest(lake.site("LANCS"))
    assert [racer.wait() for racer in racers] == [0, 0], [racer.stderr.read().decode() for racer in racers]
    assert taken.rejected == 0
    check(lake)


def test_killed_at_random_moments(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = random.Random(20260101)
    for _ in range(200 if LONG else 3):
        process = start(lake)
        time.sleep(seed.uniform(0.3, 3.0))
        process.kill()
        process.wait()
    run_here(lake, monkeypatch)
    check(lake)
