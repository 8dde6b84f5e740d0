"""kill -9 of those who bring files in, at random moments: new directories are whole, nothing is lost, nothing is there twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from points import LONG

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

from small_lake import make

from checks import audit
from lake import datastore, intake, janitor
from lake.search import search
from lake.site import Lake

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'lake'}"}
FOLDERS, INSIDE = 8, 25
WORK = """
import sys, pyarrow.parquet as pq
from lake import intake
from lake.site import Lake
intake.BATCH = 50
site, files = Lake.open(sys.argv[1]).central, pq.read_table(sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
intake.take_in(site, files, sys.argv[3])
print("done", flush=True)
"""


def given(folder: Path) -> pa.Table:
    """Files of their own content, for as many directories as are new."""
    folder.mkdir()
    rows = []
    for n in range(FOLDERS * INSIDE):
        source = folder / f"{n}.fits"
        source.write_bytes(f"content {n} ".encode() * 2000)
        place = {"source": str(source), "dataset_type": "raw", "run": "c/raw", "path": f"files/n{n // INSIDE}/{n}.fits"}
        rows.append(place | {"instrument": "Cam", "exposure": 1 + n // 100, "detector": n % 100})
    return pa.Table.from_pylist(rows)


def started(root: Path, table: Path, mode: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WORK, root, table, mode]
    process = subprocess.Popen(command, env=ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == "ready\n"
    return process


def whole(lake: Lake) -> int:
    """What holds at any moment: a row has its file, and none is there twice; how many there are."""
    rows = search(lake, ["raw"]).to_pylist()
    assert len({row["dataset_id"] for row in rows}) == len(rows) == len({row["path"] for row in rows})
    for row in rows:
        assert datastore.check(lake.central, row["path"], row["file_bytes"], row["file_checksum"]) is None
    return len(rows)


@pytest.mark.parametrize("seed", range(60 if LONG else 6))
def test_killed_at_random_moments(tmp_path: Path, seed: int, record_property: Callable[[str, object], None]) -> None:
    """One alone, one of two, or both of two; then the same call again."""
    moment, mode = random.Random(seed), ("copy", "link", "move")[seed % 3]
    lake, files = make(tmp_path / "lake", 3, 100), given(tmp_path / "given")
    tables = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    pq.write_table(files, tables[0])
    pq.write_table(files.take(list(range(files.num_rows))[::-1]), tables[1])
    both = [started(lake.root, table, mode) for table in tables[: 1 if mode == "move" else 2]]
    for process in both:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    time.sleep(moment.uniform(0, 0.5))
    for process in both if seed % 2 else both[:1]:
        process.send_signal(signal.SIGKILL)
    said = [process.communicate(timeout=120)[0] for process in both]
    assert seed % 2 or said[1:] in ([], ["done\n"]), "the other one is not disturbed"
    known = whole(lake)
    found = intake.take_in(lake.central, files, mode)["verdict"].to_pylist()
    assert whole(lake) == files.num_rows and found.count("present") >= known
    assert set(found) <= {"accepted", "present"}
    assert len(list((tmp_path / "given").iterdir())) == (0 if mode == "move" else files.num_rows)
    left = audit.remove_orphans(lake.central)  # rows that were written and never committed, nothing else
    assert all(path.startswith("tables/registry/dataset/dataset_type=raw/part-") for path in left), left
    janitor.clean(lake.central, older_than=-1)
    assert audit.audit(lake.central).findings == [] and not list(lake.central.root.rglob(".tmp-*"))
    assert whole(lake) == files.num_rows
    record_property("fault", ("bringing files in killed at random moments", len(both) if seed % 2 else 1))
