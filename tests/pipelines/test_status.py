"""How a campaign stands: steps by site, failures with their reasons, one quantum's history, and who drives."""

from __future__ import annotations

import pyarrow as pa
import pytest
import toy

import schemas
from lake import delta
from lake.site import Lake
from pipelines import lease, status, steer
from pipelines.journal import Journal, latest, now
from pipelines.lease import Lease
from pipelines.runner import SiteRunner

TEXT = "name: toy\ninstrument: TinyCam\nskymap: tiny_rings\nattempts: 2\nsites: {A: {tracts: [1, 2]}}\n"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Step 1 ran: one image failed twice, one found nothing; step 2a ran: one visit is blocked."""
    lake = toy.lake(tmp_path_factory.mktemp("status") / "lake", 3, raws=True)
    journal = Journal(lake, "toy")
    journal.write("campaign", state="running", definition=TEXT, who="op@host", why=None)
    acts = {"1.0": "fail", "1.1": "fail", "2.0": "nothing"}
    runner = SiteRunner(lake.central, toy.pipeline(), toy.campaign(config={"isr": {"acts": acts}}, attempts=2), journal, "software")
    try:
        runner.predict()
        for step in ("step1", "step2a"):
            runner.run_step(step)
            tally = runner.tallies()[step]
            state = "reviewable" if tally.failed else "accepted"
            journal.write(
                "step", step=step, site="A", state=state, quanta=tally.quanta, succeeded=tally.done, failed=tally.failed,
                who="op@host", why=None,
            )  # fmt: skip
    finally:
        runner.close()
    journal.flush()
    return lake


def test_steps(lake: Lake) -> None:
    rows = {row["step"]: row for row in status.steps(lake, "toy")}
    counts = ("quanta", "succeeded", "no_work", "failed", "blocked", "waiting")
    assert [rows["step1"][c] for c in counts] == [6, 3, 1, 2, 0, 0]
    assert [rows["step2a"][c] for c in counts] == [3, 2, 0, 0, 1, 0]
    assert [rows["step4"][c] for c in counts] == [8, 0, 0, 0, 0, 8]
    assert (rows["step1"]["state"], rows["step4"]["state"], rows["step1"]["site"]) == ("reviewable", "waiting", "A")
    assert rows["step1"]["cpu_seconds"] is not None
    assert status.steps(lake, "toy", "B") == []


def test_failures(lake: Lake) -> None:
    rows = status.failures(lake, "toy", "step1")
    assert [(row["visit"], row["detector"], row["tried"]) for row in rows] == [(1, 0, 2), (1, 1, 2)]
    assert all(row["reason"].startswith("ValueError: the pixels are broken") for row in rows)
    (blocked,) = status.failures(lake, "toy", "step2a")
    assert (blocked["visit"], blocked["tried"], blocked["reason"]) == (1, 0, "lacks post_isr_image")
    assert len(status.failures(lake, "toy", None)) == 3
    assert status.failures(lake, "toy", "step3") == []


def test_a_quantums_history(lake: Lake) -> None:
    quantum = status.failures(lake, "toy", "step1")[0]["quantum_id"]
    rows = status.quantum(lake, quantum[:8])
    assert [(row["site"], row["attempt"], row["state"]) for row in rows] == [("A", 1, "failed"), ("A", 2, "failed")]
    assert status.quantum(lake, "nosuch") == []


def test_who_drives(lake: Lake) -> None:
    assert status.campaign_state(lake, "toy")["state"] == "interrupted", "running, but nobody drives"
    with Lease(lake, "toy"):
        driven = status.campaign_state(lake, "toy")
        assert driven["state"] == "running" and "pid" in driven["driver"] and "start" not in driven["driver"]
    assert lease.current(lake, "toy")["state"] == "released"


def test_retry_gives_another_round(lake: Lake) -> None:
    lines = steer.retry(lake, "toy", "step1", "A", "the dome was shut")
    assert lines == ["step1 at A: 2 quanta will be tried again"]
    row = next(row for row in status.steps(lake, "toy") if row["step"] == "step1")
    assert (row["failed"], row["waiting"]) == (0, 2)
    assert [r["state"] for r in latest(lake, "step", "step, site", "toy") if r["step"] == "step1"] == ["waiting"]
    quantum = status.quantum(lake, "")[-1]
    assert quantum["state"] == "reset" and quantum["reason"].endswith("the dome was shut")


def test_failures_of_a_step_of_parts(lake: Lake) -> None:
    with delta.cursor() as con:
        delta.view(con, lake.central, "quantum")
        [row] = (
            con.sql("SELECT quantum_id, step, task, job FROM quantum WHERE step = 'step2c.solution'").to_arrow_table().to_pylist()
        )
    tries = [
        {**row, "campaign": "toy", "attempt": number, "state": "failed", "reason": "no star", "noted_at": now()}
        for number in (1, 2)
    ]
    delta.append(lake.central, "attempt", pa.Table.from_pylist(tries, schema=schemas.table("attempt").arrow))
    for name in ("step2c", "step2c.solution"):
        [failed] = status.failures(lake, "toy", name)
        assert (failed["step"], failed["tried"], failed["reason"]) == ("step2c.solution", 2, "no star")
    assert status.failures(lake, "toy", "step2c.standards") == status.failures(lake, "toy", "step2") == []
