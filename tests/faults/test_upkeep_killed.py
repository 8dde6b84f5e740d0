"""Writers that merge small files as they go, several at a table, killed at random moments: no row is lost, none is there twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from lake import delta, upkeep
from lake.site import Lake, Site

ROOT = Path(__file__).parents[2]
ROUNDS = 30 if os.environ.get("DRP_FAULTS") == "long" else 3
WRITERS = ("0", "1", "2")

#: Appends metric "m<writer>" = 0, 1, 2, ... from where it stopped, and merges what there is, without any lock, every few rows.
WRITE = """
import sys
from datetime import UTC, datetime
import pyarrow as pa
import schemas
from lake import delta, upkeep
from lake.site import Lake
site, me = Lake.open(sys.argv[1]).central, sys.argv[2]
n = delta.transaction_version(site, "metric", "writer" + me) or 0
while True:
    n += 1
    row = {"campaign": "c", "metric": "m" + me, "value": float(n), "noted_at": datetime.now(UTC)}
    delta.append(site, "metric", pa.Table.from_pylist([row], schema=schemas.table("metric").arrow), ("writer" + me, n))
    print(n, flush=True)
    if n % 4 == 0:
        upkeep.compact(site, "metric", at_least=2)
"""

#: The same with twelve footprints of a visit at a time, on many tracts, in files of thirty rows that divide the sky.
DIVIDE = """
import sys
import pyarrow as pa
import schemas
from lake import delta, division, merging
from lake.site import Lake
merging.File.weight = property(lambda file: file.rows)
division.SMALL, division.FULL, division.MOST = 1, 30, 240
site, me = Lake.open(sys.argv[1]).central, sys.argv[2]
n = delta.transaction_version(site, "visit_detector_patch", "writer" + me) or 0
while True:
    n += 1
    row = {"instrument": "m" + me, "visit": n, "detector": 0, "skymap": "sky"}
    rows = [row | {"tract": 7 * (n + patch) % 40, "patch": patch} for patch in range(12)]
    rows = pa.Table.from_pylist(rows, schema=schemas.table("visit_detector_patch").arrow)
    delta.append(site, "visit_detector_patch", rows, ("writer" + me, n))
    print(n, flush=True)
    if n % 4 == 0:
        division.divide(site, "visit_detector_patch", enough=60)
"""
#: By table: the program, the columns that tell writer and number, and how many rows a number has.
PROGRAMS = {"metric": (WRITE, "metric, value", 1), "visit_detector_patch": (DIVIDE, "instrument, visit", 12)}


def rows(site: Site, table: str) -> Counter[tuple[str, float]]:
    with delta.connect() as con:
        return Counter(con.execute(f"SELECT {PROGRAMS[table][1]} FROM ({delta.select(site, table)})").fetchall())


@pytest.mark.parametrize("table", PROGRAMS)
def test_killed_among_others(tmp_path: Path, table: str) -> None:
    lake = Lake.create(tmp_path / "lake", {"A": {"central": True}})
    program, _, each = PROGRAMS[table]
    site, chance = lake.central, random.Random(os.environ.get("DRP_SEED", "7"))
    acknowledged, kills = dict.fromkeys(WRITERS, 0), 0
    for _ in range(ROUNDS):
        running = {
            me: subprocess.Popen(
                [sys.executable, "-c", program, str(lake.root), me], env={**os.environ, "PYTHONPATH": str(ROOT)}, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
            for me in WRITERS
        }  # fmt: skip
        for process in running.values():  # all are at work
            assert process.stdout is not None
            process.stdout.readline()
        for process in running.values():
            time.sleep(chance.uniform(0, 0.5))
            process.kill()
            kills += 1
        for me, process in running.items():
            out, error = process.communicate()
            assert error == "", error
            acknowledged[me] = max([acknowledged[me], *map(int, out.split())])
        found = rows(site, table)
        assert set(found.values()) == {each}, "a row is there twice, or only some of a commit"
        for me in WRITERS:
            mine = sorted(value for metric, value in found if metric == f"m{me}")
            assert mine == [float(n) for n in range(1, len(mine) + 1)] and len(mine) >= acknowledged[me], "a row is lost"
            assert delta.transaction_version(site, table, f"writer{me}") == len(mine)
        upkeep.compact(site, table, at_least=2)
        swept, _ = upkeep.sweep(site, table, hours=0)
        upkeep.cut_log(site, table, hours=0)
        assert rows(site, table) == found and swept
    print(f"{kills} writers killed, {sum(acknowledged.values())} acknowledged rows: none lost, none twice")
