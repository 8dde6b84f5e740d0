"""kill -9 of the driver and of its workers at random moments: the campaign always ends with the same content.

The default run kills a few times; DRP_FAULTS=long kills twenty times. DRP_SEED chooses other moments.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from campaign_state import ROOT, Finished, content, drp, violations
from points import LONG
from s3_server import serving

from lake import query
from lake.site import Lake

KILLS = 20 if LONG else 2


RUN = [sys.executable, "-c", "from pipelines.cli import main; main()", "run"]


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*RUN, str(root), "tiny"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)


def workers(pid: int) -> list[int]:
    """Processes that the driver's threads started."""
    found: list[int] = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += map(int, listed.read_text().split())
        except OSError:
            continue
    return found


@pytest.mark.timeout(1800)
def test_killed_campaign_ends_with_the_same_content(finished: Finished, tmp_path: Path) -> None:
    root = tmp_path / "lake"
    _killed(finished, Lake.create(root, {"USDF": {"central": True}, "FRDF": {}}).root, finished.seconds)


@contextmanager
def in_a_bucket(root: Path) -> Iterator[Lake]:
    """A lake with one site on a real S3 server, as long as that runs."""
    with serving() as given, pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        place = {"root": "s3://drp-frdf/lake", "endpoint": given["DRP_S3_ENDPOINT"]}
        yield Lake.create(root, {"USDF": {"central": True}, "FRDF": place})


@pytest.mark.skipif(not LONG, reason="long: DRP_FAULTS=long")
@pytest.mark.timeout(3600)
def test_killed_campaign_in_a_bucket_ends_with_the_same_content(finished: Finished, tmp_path: Path) -> None:
    with in_a_bucket(tmp_path / "lake") as lake:
        _killed(finished, lake.root, 2.0 * finished.seconds)


def test_what_is_made_in_a_bucket_is_the_same(finished: Finished, tmp_path: Path) -> None:
    """The first step, with a driver that is killed in it: every dataset of a site on S3 is that of a site in a directory."""
    made = "SELECT dataset_id, checksum FROM dataset WHERE run IN ('tiny/raw', 'tiny/calib', 'tiny/step1') ORDER BY ALL"
    with in_a_bucket(tmp_path / "lake") as lake:
        first = subprocess.Popen([*RUN, str(lake.root), "tiny", "--through", "step1"], stderr=subprocess.DEVNULL, cwd=ROOT)
        time.sleep(5.0)
        first.kill()
        first.wait()
        done = drp("run", lake.root, "tiny", "--through", "step1")
        assert done.returncode == 0, done.stderr
        there = query.query(lake.root, made, sites=["FRDF"]).to_pylist()
        assert drp("audit", lake.root, "--deep", "--remove-orphans").returncode == 0
    assert there == query.query(finished.root, made, sites=["FRDF"]).to_pylist() and there


def _killed(finished: Finished, root: Path, seconds: float) -> None:
    """Run the campaign in ``root``, which takes about ``seconds``, with kills, and compare what it ends with."""
    chance = random.Random(os.environ.get("DRP_SEED", "7"))
    killed = {"driver": 0, "worker": 0}
    process = start(root)
    for number in range(KILLS):
        deadline = time.monotonic() + chance.uniform(0.2, 1.0) * seconds * 1.5 / KILLS + 2.0
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        children = workers(process.pid)
        if number % 2 and children:  # the driver goes on without it
            try:
                os.kill(chance.choice(children), signal.SIGKILL)
                killed["worker"] += 1
            except ProcessLookupError:
                pass
        elif process.poll() is None:
            process.kill()
            process.communicate()
            killed["driver"] += 1
            process = start(root)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert killed["driver"] > 0, killed
    assert violations(root) == []
    assert content(root) == finished.content, killed
    audited = drp("audit", root, "--deep", "--remove-orphans")
    assert audited.returncode == 0, f"only orphans, and they can be removed: {audited.stdout}"
    ledger = drp("ledger", root)
    assert ledger.returncode == 0, ledger.stderr
    again = drp("run", root)
    assert (again.returncode, again.stdout) == (0, "tiny: nothing to do, everything is in place\n")
