"""kill -9 of the driver and of its workers at random moments: the campaign always ends with the same content.

The default run kills a few times; DRP_FAULTS=long kills twenty times.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from campaign_state import content, violations

KILLS = 20 if os.environ.get("DRP_FAULTS") == "long" else 4
RUN = [sys.executable, "-c", "from pipelines.cli import main; main()", "run"]


def create(root: Path) -> None:
    from lake.site import Lake

    Lake.create(root, {"USDF": {"central": True}, "FRDF": {}})


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen([*RUN, str(root), "tiny"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers(pid: int) -> list[int]:
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    root = tmp_path_factory.mktemp("undisturbed") / "lake"
    create(root)
    began = time.monotonic()
    process = start(root)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert violations(root) == []
    return content(root), time.monotonic() - began


@pytest.mark.timeout(1800)
def test_killed_campaign_ends_with_the_same_content(undisturbed: tuple[dict[str, str], float], tmp_path: Path) -> None:
    wanted, seconds = undisturbed
    root = tmp_path / "lake"
    create(root)
    rng = random.Random(os.environ.get("DRP_SEED", "7"))
    killed = {"driver": 0, "worker": 0}
    finished = False
    while sum(killed.values()) < KILLS and not finished:
        process = start(root)
        deadline = time.monotonic() + rng.uniform(0.3, 1.0) * seconds / 2
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        finished = process.poll() is not None
        children = workers(process.pid)
        if not finished and children and rng.random() < 0.5:
            victim = rng.choice(children)
            try:
                os.kill(victim, signal.SIGKILL)
                killed["worker"] += 1
            except ProcessLookupError:
                pass
            time.sleep(rng.uniform(0.0, 1.0))
        if process.poll() is None:
            process.kill()
            killed["driver"] += 1
        process.communicate()
    process = start(root)
    output, _ = process.communicate()
    assert process.returncode == 0, output
    print(f"killed: {killed}")
    assert killed["driver"] > 0
    assert violations(root) == []
    assert content(root) == wanted
