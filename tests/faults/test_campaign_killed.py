"""kill -9 of the driver and of its workers at random moments: the campaign always ends with the same content.

The default run kills a few times; DRP_FAULTS=long kills twenty times.
"""

from __future__ import annotations

import contextlib
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


def disturb(process: subprocess.Popen[str], rng: random.Random, seconds: float) -> dict[str, int]:
    """Let a run go on for a while, kill one of its workers or not, then kill the driver; counts what was killed."""
    killed = {"driver": 0, "worker": 0}
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    children = workers(process.pid) if process.poll() is None else []
    if children and rng.random() < 0.5:
        with contextlib.suppress(ProcessLookupError):
            os.kill(rng.choice(children), signal.SIGKILL)
            killed["worker"] = 1
        time.sleep(rng.uniform(0.0, 1.0))
    if process.poll() is None:
        process.kill()
        killed["driver"] = 1
    process.communicate()
    return killed


@pytest.mark.timeout(1800)
def test_killed_campaign_ends_with_the_same_content(undisturbed: tuple[dict[str, str], float], tmp_path: Path) -> None:
    """Campaigns are begun, killed and continued until there were KILLS kills; each must end as the undisturbed one did."""
    wanted, seconds = undisturbed
    rng = random.Random(os.environ.get("DRP_SEED", "7"))
    total = {"driver": 0, "worker": 0}
    campaigns = 0
    while sum(total.values()) < KILLS:
        root = tmp_path / f"lake{campaigns}"
        create(root)
        process = start(root)
        while process.poll() is None and sum(total.values()) < KILLS:
            killed = disturb(process, rng, rng.uniform(0.1, 0.4) * seconds)
            total = {kind: total[kind] + killed[kind] for kind in total}
            process = start(root)
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert violations(root) == []
        assert content(root) == wanted
        campaigns += 1
    print(f"killed {total['driver']} drivers and {total['worker']} workers in {campaigns} campaigns")
