"""kill -9 of the archiver and of a recall at every point where it matters: no half bundle counts, run again, nothing is twice."""

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

from checks import audit
from lake import archive, datastore, delta, query
from lake.site import Lake

ARCHIVE = """
import sys
from lake import archive
from lake.site import Lake
lake = Lake.open(sys.argv[1])
archive.archive(lake, lake.central, archive.Shelf(lake.central), target=5000)
"""
RECALL = """
import sys
from lake import archive
from lake.site import Lake
lake = Lake.open(sys.argv[1])
assert not archive.recall(lake, lake.site("LANCS")).failed
"""
POINTS = ["archive:written", "archive:verified", "archive:renamed", "archive:members", "archive:counted"]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = small_lake.make(tmp_path / "lake", raws=True)
    small_lake.add_visit_tables(lake.central, range(1, 3))
    return lake


def start(lake: Lake, code: str, fault: str = "") -> subprocess.Popen:
    environment = {**os.environ, "DRP_FAULT": fault} if fault else dict(os.environ)
    root = Path(archive.__file__).parents[2]
    return subprocess.Popen([sys.executable, "-c", code, str(lake.root)], env=environment, cwd=root, stderr=subprocess.PIPE)


def sound(lake: Lake) -> None:
    """What counts can be read, whatever else lies about."""
    assert archive.verify(lake).ok
    with query.connect(lake) as con, archive.Reader(lake) as reader:
        for path, checksum in con.execute("SELECT path, any_value(checksum) FROM archive_copy GROUP BY path").fetchall():
            assert reader.read(path) == lake.central.path(path).read_bytes()
            assert datastore.checksum(lake.central.path(path)) == checksum


def check(lake: Lake) -> None:
    """Every file is in one bundle, once; nothing else lies about, and the audit agrees."""
    sound(lake)
    with query.connect(lake) as con:
        there = con.execute("SELECT dataset_id, count(*) FROM archive_copy GROUP BY dataset_id").fetchall()
        assert len(there) == 8 and {count for _, count in there} == {1}
        twice = "SELECT bundle_id, dataset_id FROM archive_member GROUP BY ALL HAVING count(*) > 1"
        assert con.execute(twice).fetchall() == []
    files = {
        path.relative_to(lake.central.root).as_posix() for path in lake.central.path("files/archive").rglob("*") if path.is_file()
    }
    assert files == {bundle.path for bundle in archive.bundles(lake)} and len(files) == 3
    assert audit.audit(lake.central, deep=True).findings == []


@pytest.mark.parametrize("fault", some([*POINTS[:-1], "archive:counted:2"]))
def test_killed_and_run_again(lake: Lake, fault: str) -> None:
    killed = start(lake, ARCHIVE, fault)
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read().decode()
    before = archive.bundles(lake)
    sound(lake)
    archive.archive(lake, lake.central, archive.Shelf(lake.central), target=5000)
    audit.remove_orphans(lake.central)  # rows that were written and never committed
    check(lake)
    assert {bundle.bundle_id for bundle in before} <= {bundle.bundle_id for bundle in archive.bundles(lake)}


def test_a_bundle_that_was_not_counted_is_an_orphan(lake: Lake) -> None:
    """Killed before the row, then other files are chosen: what was left goes with the audit's orphans, nothing else does."""
    assert start(lake, ARCHIVE, "archive:members").wait() == -signal.SIGKILL
    archive.archive(lake, lake.central, archive.Shelf(lake.central), target=10**6)
    assert [finding.state for finding in audit.audit(lake.central).findings] == ["orphan"]
    [gone] = audit.remove_orphans(lake.central)
    assert gone.startswith("files/archive/")
    sound(lake)
    with query.connect(lake) as con:
        assert con.execute("SELECT count(DISTINCT dataset_id), count(*) FROM archive_copy").fetchall() == [(8, 8)]


@pytest.mark.parametrize("fault", some(["archive:recalled", "registry:dataset"], 2))
def test_a_recall_that_was_killed(lake: Lake, fault: str) -> None:
    archive.archive(lake, lake.central, archive.Shelf(lake.central))
    assert start(lake, RECALL, fault).wait() == -signal.SIGKILL
    lancs = lake.site("LANCS")
    back = archive.recall(lake, lancs)
    assert back.failed == {} and back.present == 7
    assert audit.audit(lancs, deep=True).findings == []
    with delta.cursor() as con:
        assert con.sql(f"SELECT count(*), count(DISTINCT dataset_id) FROM ({delta.select(lancs, 'dataset')})").fetchall() == [
            (8, 8)
        ]


def test_two_archivers_take_turns(lake: Lake) -> None:
    racers = [start(lake, ARCHIVE), start(lake, ARCHIVE)]
    assert [racer.wait() for racer in racers] == [0, 0], [racer.stderr.read().decode() for racer in racers]
    check(lake)


def test_killed_at_random_moments(lake: Lake) -> None:
    seed = random.Random(20260101)
    for _ in range(50 if LONG else 2):
        process = start(lake, ARCHIVE)
        time.sleep(seed.uniform(0.2, 1.5))
        process.kill()
        process.wait()
        sound(lake)
    archive.archive(lake, lake.central, archive.Shelf(lake.central), target=5000)
    audit.remove_orphans(lake.central)  # rows that were written and never committed
    check(lake)
