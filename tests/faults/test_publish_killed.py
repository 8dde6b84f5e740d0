"""kill -9 of a committer at every point of a publication, and at random moments: nothing twice, nothing lost."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from points import some

import schemas
from lake import datastore, delta, slices
from lake.publish import Publisher
from lake.site import Lake, Site

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'lake'}"}

#: Visit 8 was parked and is known by now, visit 9 is not known: the batch accepts, parks and admits.
SETUP = """
import sys, batches
from pathlib import Path
from lake.publish import Publisher
site = batches.make(Path(sys.argv[1]))
early = batches.batch(site, [8])
Publisher(site).publish(type(early)(early.datasets, early.attempts.slice(0, 0)))
batches.add_visits(site, [8])
"""
WORK = """
import sys, batches
from lake.publish import Publisher
from lake.site import Lake
site = Lake.open(sys.argv[1]).central
publisher = Publisher(site)
print("ready", flush=True)
publisher.publish(batches.batch(site, [1, 2, 8, 9], [9469, 9470]))
print("published", flush=True)
"""
POINTS = [
    "publish:start", "publish:prepared", "publish:written", "publish:catalogue", "publish:catalogue:2", "registry:parked",
    "registry:dataset", "registry:admitted", "publish:registered", "publish:attempted", "publish:removed",
]  # fmt: skip


def run(script: str, root: Path, fault: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = ENVIRONMENT if fault is None else {**ENVIRONMENT, "DRP_FAULT": fault}
    return subprocess.run([sys.executable, "-c", script, root], env=environment, capture_output=True, text=True, timeout=120)


def rows(site: Site, table: str) -> list[dict[str, Any]]:
    with delta.connect() as con:
        found: list[dict[str, Any]] = delta.relation(con, site, table).order("ALL").to_arrow_table().to_pylist()
    return found


def whole(site: Site) -> None:
    """What holds at any moment, crash or not: every row has its bytes, and none is there twice."""
    registered = rows(site, "dataset")
    assert len({row["dataset_id"] for row in registered}) == len(registered)
    live = {site.relative(p) for name, s in schemas.tables().items() if s.subject == "catalogues" for p in delta.files(site, name)}
    for row in registered:
        assert datastore.check(site, row["path"], row["file_bytes"], row["file_checksum"]) is None
        assert not slices.is_slice(row["path"]) or row["path"] in live
    assert len(rows(site, "attempt")) == len({(a["quantum_id"], a["attempt"], a["state"]) for a in rows(site, "attempt")})


def content(site: Site) -> dict[str, Any]:
    """Everything that a batch leaves, without times."""
    tables = ("dataset", "attempt", "parked", "isolated_star", "visit_table")
    found = {
        table: sorted(
            str({k: v for k, v in row.items() if k not in ("registered_at", "noted_at", "record")}) for row in rows(site, table)
        )
        for table in tables
    }
    live = {site.relative(p) for name in tables[3:] for p in delta.files(site, name)}
    assert live == {row["path"] for row in rows(site, "dataset") if slices.is_slice(row["path"])}, "orphans in a catalogue"
    return found


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake in which the work is about to begin; tests copy it."""
    root = tmp_path_factory.mktemp("ready") / "lake"
    done = run(SETUP, root)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture(scope="module")
def undisturbed(ready: Path) -> dict[str, Any]:
    root = Path(shutil.copytree(ready, ready.with_name("undisturbed")))
    done = run(WORK, root)
    assert done.stdout == "ready\npublished\n", done.stderr
    return content(Lake.open(root).central)


def resumed(root: Path) -> dict[str, Any]:
    """As the driver does after a crash: open the site, run again what has no attempt, look."""
    site = Lake.open(root).central
    whole(site)
    Publisher(site)
    whole(site)
    assert list(site.path("publish").iterdir()) == []
    done = {row["quantum_id"] for row in rows(site, "attempt")}
    if "isolated_star-9470" not in done:
        again = run(WORK, root)
        assert again.returncode == 0, again.stderr
    return content(site)


@pytest.mark.parametrize("point", some(POINTS, 2))
def test_death_at_a_point(tmp_path: Path, ready: Path, undisturbed: dict[str, Any], point: str) -> None:
    root = Path(shutil.copytree(ready, tmp_path / "lake"))
    died = run(WORK, root, point)
    assert died.returncode == -signal.SIGKILL and died.stdout == "ready\n", died.stderr
    assert resumed(root) == undisturbed


def test_death_while_replaying(tmp_path: Path, ready: Path, undisturbed: dict[str, Any]) -> None:
    root = Path(shutil.copytree(ready, tmp_path / "lake"))
    for point in ("publish:written", "publish:catalogue", "registry:parked", "registry:dataset", "publish:attempted"):
        assert run(WORK, root, point).returncode == -signal.SIGKILL
    assert resumed(root) == undisturbed


def test_death_at_random_moments(tmp_path: Path, ready: Path, undisturbed: dict[str, Any]) -> None:
    chance = random.Random(20260101)
    for n in range(4):
        root = Path(shutil.copytree(ready, tmp_path / str(n)))
        with subprocess.Popen(
            [sys.executable, "-c", WORK, root], env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.4))
            process.kill()
        assert resumed(root) == undisturbed
