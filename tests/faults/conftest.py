"""The tiny campaign, run once to its end without disturbance; for tests to copy and to compare with."""

from __future__ import annotations

import time

import pytest
from campaign_state import Finished, content, drp, violations


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
