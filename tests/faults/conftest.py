"""The tiny campaign, run once to its end without disturbance; for tests to copy and to compare with."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from pathlib import Path

import pytest
from campaign_state import Finished, content, drp, violations


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Made by the first of the run's processes that asks for it, for all of them."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "finished"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "seconds").exists():
            _make(folder)
    return Finished(folder / "lake", content(folder / "lake"), float((folder / "seconds").read_text()))


def _make(folder: Path) -> None:
    from lake.site import Lake

    root = folder / "lake"
    shutil.rmtree(root, ignore_errors=True)
    Lake.create(root, {"USDF": {"central": True}, "FRDF": {}})
    began = time.monotonic()
    done = drp("run", root, "tiny")
    assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - began
    assert violations(root) == []
    (folder / "seconds").write_text(str(seconds))


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
