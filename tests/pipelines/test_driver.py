"""The driver on the toy survey at two sites: to the end, again, in part, with failures, decisions, faults and interruptions."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml

from lake import delta
from lake.parquet import DeltaError
from lake.site import Lake
from pipelines import definition, driver, execute, inception, lease, placement, status, steer
from pipelines.campaign import Campaign, CampaignError
from pipelines.driver import Driver, Outcome, Silent
from pipelines.journal import Journal, latest
from pipelines.lease import Lease
from pipelines.runner import SiteRunner

#: The toy survey without its central step and without movement: every site has its raws.
PLAN = (("steps", ("step1", "step2a", "step2b")), ("steps", ("step3", "step4")))


@pytest.fixture
def lake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lake:
    monkeypatch.setattr(definition, "load", lambda path=None: toy.pipeline())
    monkeypatch.setattr(placement, "PLANS", {"catalogue": PLAN})
    monkeypatch.setattr(inception, "check", lambda *_: None)
    monkeypatch.setattr(inception, "fill", lambda *_: None)
    monkeypatch.setattr(execute, "pool", ThreadPoolExecutor)  # quick to start; real pools are tested with the runner
    return toy.lake(tmp_path / "lake", 3, raws=True, at="AB")


def campaign(**given: Any) -> Campaign:
    return replace(toy.campaign({"A": (1,), "B": (2,)}, workers=1, **given), text="name: toy")


def run(lake: Lake, *arguments: str | None, **given: Any) -> Outcome:
    return Driver(lake, campaign(**given)).run(*arguments)


def state(lake: Lake) -> tuple[str, str | None]:
    row = latest(lake, "campaign", "campaign", "toy")[0]
    return row["state"], row["why"]


def steps(lake: Lake) -> dict[tuple[str, str], str]:
    return {(row["step"], row["site"]): row["state"] for row in latest(lake, "step", "step, site", "toy")}


def versions(lake: Lake) -> dict[tuple[str, str], int]:
    tables = ("quantum", "expected_dataset", "attempt", "dataset", "campaign", "step", "job")
    return {(name, table): delta.version(site, table) for name, site in lake.sites.items() for table in tables}


def lease_state(lake: Lake) -> str:
    held = lease.current(lake, "toy")
    assert held is not None
    return str(held["state"])


def test_to_the_end_and_again(lake: Lake) -> None:
    first = run(lake)
    assert first.ok and first.quanta_run == done(lake) > 20
    assert state(lake) == ("done", None)
    assert set(steps(lake).values()) == {"accepted"} and len(steps(lake)) == 10
    assert {"recover", "inception", "step1 A", "step4 B"} <= set(first.seconds)
    before = versions(lake)
    again = run(lake)
    assert again.ok and (again.quanta_run, again.files_moved, again.healed) == (0, 0, [])
    assert versions(lake) == before, "a second run writes nothing but its lease"
    assert lease_state(lake) == "released"


def done(lake: Lake) -> int:
    """How many quanta have an attempt that succeeded or found no work, at both sites."""
    found = 0
    for site in lake.sites.values():
        with delta.connect() as con:
            delta.view(con, site, "attempt")
            ((count,),) = con.execute("SELECT count(DISTINCT quantum_id) FROM attempt WHERE state <> 'failed'").fetchall()
        found += count
    return found


def test_in_part(lake: Lake) -> None:
    assert run(lake, "step2a").ok
    assert state(lake) == ("stopped", None)
    assert {step for step, _ in steps(lake)} == {"step1", "step2a"}
    assert run(lake, None, "step2b", "B").ok
    assert ("step2b", "B") in steps(lake) and ("step2b", "A") not in steps(lake)
    assert run(lake).ok and state(lake)[0] == "done"
    assert run(lake, "step1").ok and state(lake)[0] == "done", "a look at a part of what is done does not undo it"


def test_a_step_of_parts_is_run_in_all(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = definition.steps("step2c")
    document = yaml.safe_load(toy.PIPELINE)
    del document["tasks"]["solve"]
    for part in parts:
        name = part.replace(".", "_")
        document["dataset_types"][name] = {"dimensions": ["skymap", "tract"], "storage": "json"}
        document["tasks"][name] = {
            "step": part, "site": "central", "function": "toy:note", "dimensions": ["skymap", "tract"],
            "inputs": {"isolated_star": {}}, "outputs": [name],
        }  # fmt: skip
    monkeypatch.setattr(toy, "PIPELINE", yaml.safe_dump(document, sort_keys=False))
    monkeypatch.setattr(placement, "PLANS", {"catalogue": (PLAN[0], ("central", parts), PLAN[1])})

    def drive(*arguments: str | None) -> bool:
        alone = replace(toy.campaign(workers=1), text="name: toy")  # all stars are where they are needed
        return Driver(lake, alone).run(*arguments).ok

    before = {"step1", "step2a", "step2b"}
    assert drive("step2b") and drive(None, "step2c.solution")
    assert {step for step, _ in steps(lake)} - before == {"step2c.solution"}
    assert drive(None, "step2c") and {step for step, _ in steps(lake)} - before == set(parts)
    assert drive("step2c") and {step for step, _ in steps(lake)} - before == set(parts)
    assert drive() and ("step3", "A") in steps(lake)


@pytest.mark.parametrize("arguments", [("step9", None, None), (None, "step9", None)])
def test_unknown_steps(lake: Lake, arguments: tuple[str | None, ...]) -> None:
    with pytest.raises(CampaignError, match="unknown step 'step9'; known steps: step1, step2a"):
        run(lake, *arguments)
    assert delta.version(lake.central, "lease") == -1, "nothing was touched"


def test_failures_are_for_an_operator(lake: Lake) -> None:
    """Site A's step 1 stops its later steps, not those of B; accepting it lets the campaign go on, for good."""
    broken = {"isr": {"acts": {"2.0": "fail"}}}
    outcome = run(lake, config=broken, attempts=1)
    assert outcome.problems == ["step1 at A: 1 of 6 quanta failed; look with drp status --step step1, then drp retry or drp accept"]
    assert state(lake) == ("failed", outcome.problems[0])
    assert steps(lake)["step1", "A"] == "reviewable" and ("step2a", "A") not in steps(lake)
    assert steps(lake)["step2b", "B"] == "accepted" and ("step3", "B") not in steps(lake), "the plan waits for all sites"
    assert steer.decide(lake, "toy", "step1", "A", "accepted", "a closed detector") == [
        "step1 at A: accepted (1 of 6 quanta failed)"
    ]
    outcome = run(lake, config=broken, attempts=1)
    assert [p.partition(";")[0] for p in outcome.problems] == ["step3 at A: 2 of 10 quanta failed"], "a warp, and its only coadd"
    steer.decide(lake, "toy", "step3", None, "accepted", None)
    outcome = run(lake, config=broken, attempts=1)
    assert [p.partition(":")[0] for p in outcome.problems] == ["step4 at A"]
    steer.decide(lake, "toy", "step4", None, "accepted", None)
    assert run(lake, config=broken, attempts=1).ok
    before = versions(lake)
    assert run(lake, config=broken, attempts=1).ok, "accepted once is accepted"
    assert versions(lake) == before


def test_retry(lake: Lake) -> None:
    broken = {"isr": {"acts": {"2.0": "fail"}}}
    assert not run(lake, config=broken, attempts=2).ok
    assert not run(lake, config=broken, attempts=2).ok
    lines = steer.retry(lake, "toy", "step1", None, "mended")
    assert lines == ["step1 at A: 1 quanta will be tried again", "step1 at B: 0 quanta will be tried again"]
    outcome = run(lake)
    assert outcome.ok and state(lake)[0] == "done"


def test_tolerated_failures(lake: Lake) -> None:
    broken = {"isr": {"acts": {"2.0": "fail"}}}
    given: dict[str, Any] = {"config": broken, "attempts": 1, "tolerate": {"step1": 0.2, "step3": 0.2, "step4": 0.2}}
    assert run(lake, **given).ok
    before = versions(lake)
    assert run(lake, **given).ok and versions(lake) == before


def test_a_rejected_step_holds_the_campaign(lake: Lake) -> None:
    assert run(lake, "step2b").ok
    steer.decide(lake, "toy", "step2b", "B", "rejected", "looks odd")
    outcome = run(lake)
    assert len(outcome.problems) == 1 and outcome.problems[0].startswith("step2b at B was rejected by ")
    assert outcome.problems[0].endswith("(looks odd); drp retry or drp accept it")
    assert ("step3", "B") not in steps(lake)
    steer.retry(lake, "toy", "step2b", "B", None)
    assert run(lake).ok


def test_another_definition_under_the_same_name(lake: Lake) -> None:
    assert run(lake, "step1").ok
    with pytest.raises(CampaignError, match="exists with another definition"):
        Driver(lake, replace(campaign(), text="name: toy\nworkers: 4")).run()
    assert lease_state(lake) == "released"


def test_pause_and_resume(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paused while it runs, it stops after the running jobs; it cannot be run until it is resumed."""
    monkeypatch.setattr(driver, "LOOK", 0.0)

    class Pausing(Silent):
        def update(self, site: str, what: str, done: int, total: int) -> None:
            if what == "isr" and done and state(lake)[0] == "running":
                steer.set_state(lake, "toy", "paused", "maintenance")

    outcome = Driver(lake, campaign(), Pausing()).run()
    assert outcome.stopped == "the campaign was paused by an operator" and not outcome.ok
    assert state(lake) == ("paused", "maintenance")
    assert status.campaign_state(lake, "toy")["state"] == "paused"
    with pytest.raises(CampaignError, match=r"was paused by .* \(maintenance\); drp resume"):
        run(lake)
    assert steer.set_state(lake, "toy", "running", None) == "toy: paused -> running"
    assert run(lake).ok
    with pytest.raises(CampaignError, match="toy is done, not paused"):
        steer.set_state(lake, "toy", "running", None)


def test_cancelled_is_for_good(lake: Lake) -> None:
    assert run(lake, "step1").ok
    steer.set_state(lake, "toy", "cancelled", "superseded")
    with pytest.raises(CampaignError, match=r"was cancelled \(superseded\)"):
        run(lake)
    with pytest.raises(CampaignError, match="cannot be changed any more"):
        steer.set_state(lake, "toy", "running", None)


@pytest.fixture
def closed(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of sites whose pools were closed."""
    names: list[str] = []
    close = SiteRunner.close

    def noted(self: SiteRunner) -> None:
        names.append(self.site.name)
        close(self)

    monkeypatch.setattr(SiteRunner, "close", noted)
    yield names


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """At site B, running a step raises."""
    run_step = SiteRunner.run_step

    def broken(self: SiteRunner, step: str) -> None:
        if self.site.name == "B":
            raise error
        run_step(self, step)

    monkeypatch.setattr(SiteRunner, "run_step", broken)


def test_a_bug_in_one_site_ends_the_run_in_order(lake: Lake, monkeypatch: pytest.MonkeyPatch, closed: list[str]) -> None:
    failing(monkeypatch, ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError):
        run(lake)
    assert closed == ["A", "B"]
    assert lease_state(lake) == "released"
    assert state(lake) == ("failed", "ZeroDivisionError: a bug")


def test_a_site_whose_storage_fails_stops_alone(lake: Lake, monkeypatch: pytest.MonkeyPatch, closed: list[str]) -> None:
    failing(monkeypatch, DeltaError("site B: table attempt cannot be written: No space left on device"))
    outcome = run(lake)
    assert outcome.problems == ["site B: table attempt cannot be written: No space left on device"]
    assert steps(lake)["step2b", "A"] == "accepted"
    assert closed == ["A", "B"] and lease_state(lake) == "released"
    assert state(lake)[0] == "failed"
    monkeypatch.undo()


def test_an_interruption_stops_after_the_running_jobs(lake: Lake, monkeypatch: pytest.MonkeyPatch, closed: list[str]) -> None:
    interrupted = []

    def interrupt(*arguments: Any, **given: Any) -> Any:
        interrupted.append(True)
        raise KeyboardInterrupt

    monkeypatch.setattr(driver, "wait", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(lake)
    assert interrupted and closed == ["A", "B"] and lease_state(lake) == "released"
    assert state(lake)[0] == "stopped"


def test_a_driver_that_lost_its_lease_stops_and_says_nothing_more(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK", 0.0)

    class Losing(Silent):
        def update(self, site: str, what: str, done: int, total: int) -> None:
            one.lease.lost.set()

    one = Driver(lake, campaign(), Losing())
    outcome = one.run()
    assert outcome.stopped == "the lease was lost to another driver"
    assert state(lake) == ("running", None), "the campaign's state is the other driver's to tell"
    assert lease_state(lake) == "held"


def test_a_second_driver_is_refused_before_it_writes(lake: Lake) -> None:
    with Lease(lake, "toy"):
        before = versions(lake)
        with pytest.raises(lease.LeaseError, match="campaign toy is driven by"):
            run(lake)
        assert versions(lake) == before


def test_decisions_about_steps_that_have_not_begun_or_are_running(lake: Lake) -> None:
    with pytest.raises(CampaignError, match="step1 has not started in campaign toy"):
        steer.decide(lake, "toy", "step1", None, "accepted", None)
    with pytest.raises(CampaignError, match="unknown step 'step9'"):
        steer.decide(lake, "toy", "step9", None, "accepted", None)
    log = Journal(lake, "toy")
    log.write("step", step="step1", site="A", state="running", quanta=6, succeeded=0, failed=0, who="me", why=None)
    log.flush()
    with pytest.raises(CampaignError, match="step1 at A is running"):
        steer.decide(lake, "toy", "step1", None, "accepted", None)
