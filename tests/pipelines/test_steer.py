"""An operator's decisions as events (what the driver makes of them is tested with the driver)."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

import schemas
from lake import delta
from lake.site import Lake, LakeError
from pipelines import steer
from pipelines.campaign import CampaignError
from pipelines.journal import Journal, latest, now


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake", {"A": {"central": True}, "B": {}})
    journal = Journal(lake, "c")
    journal.write("campaign", state="running", definition="name: c", who="me", why=None)
    for site, failed in (("A", 0), ("B", 3)):
        journal.write(
            "step", step="step1", site=site, state="reviewable", quanta=9, succeeded=9 - failed, failed=failed, who="me", why=None
        )
    journal.flush()
    return lake


def states(lake: Lake) -> dict[str, tuple[str, str | None, int]]:
    return {row["site"]: (row["state"], row["why"], row["failed"]) for row in latest(lake, "step", "step, site", "c")}


def test_accept_one_site(lake: Lake) -> None:
    assert steer.decide(lake, "c", "step1", "B", "accepted", "clouds") == ["step1 at B: accepted (3 of 9 quanta failed)"]
    assert states(lake) == {"A": ("reviewable", None, 0), "B": ("accepted", "clouds", 3)}


def test_a_step_of_parts_is_decided_in_all(lake: Lake) -> None:
    journal = Journal(lake, "c")
    for step, site in (("step2c.equations", "A"), ("step2c.equations", "B"), ("step2c.solution", "A")):
        counts = {"quanta": 2, "succeeded": 1, "failed": 1}
        journal.write("step", step=step, site=site, state="reviewable", **counts, who="me", why=None)
    rows = [
        {
            "quantum_id": step, "campaign": "c", "step": step, "task": "t", "job": "j", "attempt": 1, "state": "failed",
            "reason": "no", "noted_at": now(),
        }
        for step in ("step1", "step2c.equations", "step2c.solution")
    ]  # fmt: skip
    schema = schemas.table("attempt").arrow
    delta.append(lake.central, "attempt", pa.Table.from_pylist(rows, schema=schema))
    journal.flush()
    assert steer.decide(lake, "c", "step2c", None, "rejected", None) == [
        "step2c.equations at A: rejected (1 of 2 quanta failed)",
        "step2c.equations at B: rejected (1 of 2 quanta failed)",
        "step2c.solution at A: rejected (1 of 2 quanta failed)",
    ]
    assert steer.decide(lake, "c", "step2c.solution", None, "accepted", None) == [
        "step2c.solution at A: accepted (1 of 2 quanta failed)"
    ]
    assert steer.retry(lake, "c", "step2c", "A", None) == ["step2c at A: 2 quanta will be tried again"]
    said = {(row["step"], row["site"]): row["state"] for row in latest(lake, "step", "step, site", "c")}
    assert said["step2c.equations", "A"] == "waiting" and said["step2c.equations", "B"] == "rejected"
    assert said["step1", "A"] == "reviewable"


def test_reject_everywhere(lake: Lake) -> None:
    assert len(steer.decide(lake, "c", "step1", None, "rejected", "wrong flats")) == 2
    assert {state for state, *_ in states(lake).values()} == {"rejected"}


@pytest.mark.parametrize(
    ("step", "site", "error", "words"),
    [
        ("step7", None, CampaignError, "step7 has not started in campaign c"),
        ("step7", "B", CampaignError, "step7 has not started at B in campaign c"),
        ("stepx", None, CampaignError, "unknown step 'stepx'; known steps: step1"),
        ("step1", "C", LakeError, "no site 'C'.*A, B"),
    ],
)
def test_what_cannot_be_decided(lake: Lake, step: str, site: str | None, error: type[Exception], words: str) -> None:
    for act in (
        lambda: steer.decide(lake, "c", step, site, "accepted", None),
        lambda: steer.retry(lake, "c", step, site, None),
    ):
        with pytest.raises(error, match=words):
            act()
    assert len(latest(lake, "step", "step, site, noted_at", "c")) == 2


def test_states_of_a_campaign(lake: Lake) -> None:
    assert steer.set_state(lake, "c", "paused", "night") == "c: running -> paused"
    assert steer.set_state(lake, "c", "running", None) == "c: paused -> running"
    with pytest.raises(CampaignError, match="c is running, not paused"):
        steer.set_state(lake, "c", "running", None)
    assert steer.set_state(lake, "c", "cancelled", None) == "c: running -> cancelled"
    with pytest.raises(CampaignError, match="was cancelled"):
        steer.set_state(lake, "c", "paused", None)
    row = latest(lake, "campaign", "campaign", "c")[0]
    assert row["definition"] == "name: c" and "@" in row["who"]
