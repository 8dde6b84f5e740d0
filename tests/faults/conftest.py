"""The tiny campaign, run once to its end without disturbance; for tests to copy and to compare with."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from campaign_state import content, violations

ROOT = Path(__file__).parents[2]


def drp(*words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    run = [sys.executable, "-c", "from pipelines.cli import main; main()", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, timeout=600, cwd=ROOT)


@dataclass(frozen=True)
class Finished:
    """A finished campaign: its lake, what it consists of, and how long it took."""

    root: Path
    content: dict[str, str]
    seconds: float


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from lake.site import Lake

    root = tmp_path_factory.mktemp("finished") / "lake"
    Lake.create(root, {"USDF": {"central": True}, "FRDF": {}})
    began = time.monotonic()
    done = drp("run", root, "tiny")
    assert done.returncode == 0, done.stderr
    assert violations(root) == []
    return Finished(root, content(root), time.monotonic() - began)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many faults were injected, of which kind, and what became of them."""
    noted = [
        (*value, outcome)
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, [])
        for name, value in report.user_properties
        if name == "fault"
    ]
    if noted:
        terminalreporter.section("faults injected")
        for kind, number, outcome in noted:
            terminalreporter.write_line(f"{number:6}  {kind}{'' if outcome == 'passed' else ' (TEST FAILED)'}")
        terminalreporter.write_line(f"{sum(n for _, n, _ in noted):6}  in all")
