"""kill -9 of a prune, an undo and an empty at every point: datasets exist or are out, never half, and a second call finishes."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from points import some

from checks import audit
from lake import delta, query
from lake.publish import Publisher
from lake.site import Lake

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'lake'}"}
SETUP = """
import sys, small_lake
from pathlib import Path
lake = small_lake.make(Path(sys.argv[1]), 2, 2, raws=True)
small_lake.add_visit_tables(lake.central, range(1, 3))
"""
#: Takes out all visit tables and the raws of visit 1, puts them back, takes them out again, and removes their files.
WORK = """
import sys
from lake import prune
from lake.search import search
from lake.site import Lake
lake = Lake.open(sys.argv[1])
site = lake.central
def out():
    found = search(lake, ["visit_table"])["dataset_id"].to_pylist() + search(lake, ["raw"], "visit = 1")["dataset_id"].to_pylist()
    return prune.prune(lake, site, found, "test", prune.Leave(last_copy=True))[0]
if sys.argv[2] == "prune":
    out()
elif sys.argv[2] == "undo":
    prune.undo(site, open(sys.argv[1] + "/operation").read())
elif sys.argv[2] == "empty":
    prune.empty(site, 0.0)
else:
    open(sys.argv[1] + "/operation", "w").write(out())
print("done")
"""
POINTS = {
    "prune": ["prune:noted", "prune:rewriting", "prune:out"],
    "undo": ["registry:dataset", "prune:registered"],
    "empty": ["prune:emptied", "prune:unlinked", "prune:unlinked:2"],
}


#: Puts everything into the archive, and takes it out where the bundle is the only other copy; or brings it back.
ARCHIVED = """
import sys
from lake import archive, prune
from lake.search import search
from lake.site import Lake
lake = Lake.open(sys.argv[1])
site = lake.central
if sys.argv[2] == "archive":
    archive.archive(lake, site, archive.Shelf(site))
elif sys.argv[2] == "prune":
    prune.prune(lake, site, search(lake, ["raw", "visit_table"])["dataset_id"].to_pylist(), "test")
elif sys.argv[2] == "empty":
    prune.empty(site, 0.0)
else:
    archive.recall(lake, site)
print("done")
"""


def run(script: str, *words: object, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT if fault is None else {**ENVIRONMENT, "DRP_FAULT": fault}
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], env=environment, capture_output=True, text=True, timeout=120
    )


def state(root: Path) -> tuple[set[str], int]:
    """Registered datasets, and how many rows the catalogue shows; every registered one has its file."""
    site = Lake.open(root).central
    with delta.connect() as con:
        rows = delta.relation(con, site, "dataset").select("dataset_id, path").fetchall()
    assert len({i for i, _ in rows}) == len(rows) and all(site.path(path).exists() for _, path in rows)
    with query.connect(root) as con:
        return {i for i, _ in rows}, con.table("FROM visit_table").num_rows


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A lake before each kind of work."""
    root = tmp_path_factory.mktemp("prune") / "lake"
    done = run(SETUP, root)
    assert done.returncode == 0, done.stderr
    out = Path(shutil.copytree(root, root.with_name("out")))
    assert run(WORK, out, "first").stdout == "done\n"
    return {"prune": root, "undo": out, "empty": out}


@pytest.mark.parametrize(("work", "point"), some([(work, point) for work, points in POINTS.items() for point in points]))
def test_death_at_a_point(tmp_path: Path, ready: dict[str, Path], work: str, point: str) -> None:
    root = Path(shutil.copytree(ready[work], tmp_path / "lake"))
    all_in, all_out = state(ready["prune"]), state(ready["undo"])
    assert len(all_in[0]) == 6 and len(all_out[0]) == 2 and (all_in[1], all_out[1]) == (2, 0)
    died = run(WORK, root, work, fault=point)
    assert died.returncode == -signal.SIGKILL and died.stdout == "", died.stderr
    site = Lake.open(root).central
    assert state(root)[0] in (all_in[0], all_out[0]), "all or none are out, whatever the tombstones say"
    Publisher(site)  # as every run does first
    assert state(root) in (all_in, all_out)
    if work != "empty":
        assert audit.audit(site).findings == []
    again = run(WORK, root, work)
    assert again.returncode == 0, again.stderr
    assert state(root) == (all_in if work == "undo" else all_out)
    if work == "empty":  # what was noted as removed and is still there is an orphan, which anybody may remove
        audit.remove_orphans(site)
    assert audit.audit(site).findings == []


@pytest.mark.parametrize(
    ("work", "point"),
    some([("prune", "prune:noted"), ("prune", "prune:rewriting"), ("prune", "prune:out"), ("empty", "prune:emptied"),
          ("empty", "prune:unlinked:2"), ("recall", "archive:recalled"), ("recall", "registry:dataset")]),
)  # fmt: skip
def test_what_only_the_archive_has_goes_and_comes_back(tmp_path: Path, ready: dict[str, Path], work: str, point: str) -> None:
    root = Path(shutil.copytree(ready["prune"], tmp_path / "lake"))
    before = state(root)
    assert run(ARCHIVED, root, "archive").stdout == "done\n"
    steps = ["prune", "empty", "recall"]
    for step in steps[: steps.index(work)]:
        assert run(ARCHIVED, root, step).stdout == "done\n"
    died = run(ARCHIVED, root, work, fault=point)
    assert died.returncode == -signal.SIGKILL and died.stdout == "", died.stderr
    for step in steps[steps.index(work) :]:
        assert run(ARCHIVED, root, step).stdout == "done\n"
        assert state(root) == (before if step == "recall" else (set(), 0))
    site = Lake.open(root).central
    audit.remove_orphans(site)  # what an emptying that died had noted as removed
    assert audit.audit(site, deep=True).findings == [] and state(root) == before
