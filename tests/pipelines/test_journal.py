"""The campaign's event logs: batched, from several threads, and their latest state."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lake import delta
from lake.site import Lake
from pipelines import journal
from pipelines.journal import Journal, latest


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}, "B": {}})


def step(state: str, **more: object) -> dict[str, object]:
    return {"step": "step1", "site": "B", "quanta": 4, "succeeded": 3, "failed": 1, "who": "me", "why": None, "state": state} | more


def test_events_wait_and_are_flushed_together(lake: Lake) -> None:
    log = Journal(lake, "c", seconds=1000)
    for n in range(50):
        log.write("step", **step("running", site=f"S{n}"))
    assert delta.version(lake.central, "step") == -1
    log.flush()
    assert delta.version(lake.central, "step") == 1, "one commit, after that which made the table"
    assert len(latest(lake, "step", "step, site", "c")) == 50
    log.flush()
    assert delta.version(lake.central, "step") == 1


def test_events_do_not_wait_for_ever(lake: Lake) -> None:
    log = Journal(lake, "c", seconds=0.0)
    log.write("step", **step("running"))
    assert [row["state"] for row in latest(lake, "step", "step, site", "c")] == ["running"]


def test_the_latest_event_counts(lake: Lake) -> None:
    log = Journal(lake, "c")
    for state in ("running", "reviewable", "accepted"):
        log.write("step", **step(state))
    log.write("step", **step("running", site="A"))
    log.flush()
    Journal(lake, "other", seconds=0.0).write("step", **step("failed"))
    rows = latest(lake, "step", "step, site", "c")
    assert [(row["site"], row["state"], row["failed"]) for row in rows] == [("A", "running", 1), ("B", "accepted", 1)]
    assert latest(lake, "step", "step, site", "nobody") == []


def test_threads_share_a_journal(lake: Lake) -> None:
    log = Journal(lake, "c", seconds=0.01)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda n: log.write("step", **step("running", site=f"S{n}")), range(100)))
    log.flush()
    assert len(latest(lake, "step", "step, site", "c")) == 100


def test_events_outlive_a_failing_flush(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    log = Journal(lake, "c", seconds=1000)
    log.write("step", **step("running"))
    monkeypatch.setattr(delta, "append", lambda *_: (_ for _ in ()).throw(delta.DeltaError("full")))
    with pytest.raises(delta.DeltaError):
        log.flush()
    monkeypatch.undo()
    log.flush()
    log.flush()
    assert len(latest(lake, "step", "step, site", "c")) == 1


def test_campaigns_and_their_definitions(lake: Lake) -> None:
    assert journal.campaigns(lake) == []
    for name in ("b", "a", "b"):
        log = Journal(lake, name)
        log.write("campaign", state="created", definition=f"name: {name}", who="me", why=None)
        log.flush()
    assert journal.campaigns(lake) == ["a", "b"]
    assert journal.definition_of(lake, "b") == "name: b"
    assert "@" in journal.who()
