"""Running tasks on the real pool: successes, failures, retries, dead workers; what is published, and what the log says."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import toy

from lake import delta
from lake.site import Lake, Site
from pipelines.jobs import GraphError, Jobs
from pipelines.journal import Journal, latest
from pipelines.runner import SiteRunner, Stopped, Tally

#: 'visit.detector': what the task isr does there.
ACTS = {"1.1": "fail", "2.0": "nothing", "2.1": "once", "3.0": "kill", "4.0": "other"}


def make_runner(lake: Lake, site: str = "A", **given: Any) -> SiteRunner:
    stopping = given.pop("stopping", lambda: None)
    campaign = toy.campaign(workers=2, **given)
    return SiteRunner(lake.site(site), toy.pipeline(), campaign, Journal(lake, "toy"), "software", stopping)


def tally(one: SiteRunner, step: str) -> Tally:
    """Run a step; returns its counts afterwards."""
    one.run_step(step)
    return one.tallies()[step]


def attempts(site: Site) -> dict[str, list[tuple[int, str, str]]]:
    """Every event by 'visit.detector' of isr, in order: (attempt, state, reason)."""
    with delta.connect() as con:
        for table in ("attempt", "quantum"):
            delta.view(con, site, table)
        rows = con.execute(
            "SELECT visit || '.' || detector, attempt, state, coalesce(reason, '') FROM attempt JOIN quantum USING (quantum_id) "
            "WHERE quantum.task = 'isr' ORDER BY 1, attempt.noted_at, attempt"
        ).fetchall()
    found: dict[str, list[tuple[int, str, str]]] = {}
    for key, *event in rows:
        found.setdefault(key, []).append((event[0], event[1], event[2]))
    return found


def registered(site: Site, kind: str) -> list[tuple[int, int]]:
    with delta.connect() as con:
        delta.view(con, site, "dataset")
        return con.execute(f"SELECT visit, detector FROM dataset WHERE dataset_type = '{kind}' ORDER BY ALL").fetchall()


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake on which step 1 ran with every misdeed; the raw of visit 4, detector 1 was damaged before."""
    lake = toy.lake(tmp_path_factory.mktemp("ran") / "lake", 5, raws=True)
    raw = next(lake.central.path("files/toy/raw").rglob("*_4_d1.json"))
    raw.write_text("raw 4 X")
    scratch = tmp_path_factory.mktemp("scratch")
    one = make_runner(lake, config={"isr": {"acts": ACTS, "scratch": str(scratch)}}, attempts=2)
    try:
        assert one.predict() == 49
        assert one.predict() == 0
        assert tally(one, "step1") == Tally(quanta=10, done=6, failed=4)
        one.journal.flush()
    finally:
        one.close()
    return lake


def test_good_quanta_are_not_affected(ran: Lake) -> None:
    assert registered(ran.central, "post_isr_image") == [(1, 0), (2, 1), (3, 1), (5, 0), (5, 1)]
    events = attempts(ran.central)
    assert [events[key] for key in ("1.0", "5.0", "5.1")] == [[(1, "succeeded", "")]] * 3
    image = next(ran.central.path("files/toy/step1/post_isr_image").rglob("*_5_d1.json"))
    assert image.read_text() == "raw 5 1 flat flat new"


def test_failures_are_tried_again_so_often_and_say_why(ran: Lake) -> None:
    events = attempts(ran.central)
    assert [(n, state) for n, state, _ in events["1.1"]] == [(1, "failed"), (2, "failed")]
    reason = events["1.1"][0][2]
    assert reason.startswith("ValueError: the pixels are broken (toy.py:") and "\n" not in reason
    assert events["2.0"] == [(1, "no_work", "the shutter was closed")]
    assert [(n, state) for n, state, _ in events["2.1"]] == [(1, "failed"), (2, "succeeded")]


def test_wrong_outputs_and_damaged_inputs(ran: Lake) -> None:
    events = attempts(ran.central)
    assert [state for _, state, _ in events["4.0"]] == ["failed"] * 2
    assert "isr returned ['flat'], declared are ['post_isr_image']" in events["4.0"][0][2]
    assert [state for _, state, _ in events["4.1"]] == ["failed"] * 2
    assert "DamagedInput" in events["4.1"][0][2] and "_4_d1.json is damaged" in events["4.1"][0][2]


def test_only_the_killer_pays(ran: Lake) -> None:
    events = attempts(ran.central)
    assert events["3.0"] == [(1, "failed", "the worker process died"), (2, "failed", "the worker process died")]
    assert events["3.1"] == [(1, "succeeded", "")], "of the killer's own job"
    assert [key for key, found in events.items() if key != "3.0" and any("died" in reason for *_, reason in found)] == []


def test_jobs_are_in_the_log(ran: Lake) -> None:
    jobs = {(row["job"], row["attempt"]): row for row in latest(ran, "job", "job, attempt, state", "toy")}
    assert jobs["isr/exposure=5", 1]["state"] == "succeeded" and jobs["isr/exposure=5", 1]["quanta"] == 2
    assert jobs["isr/exposure=1", 2]["state"] == "failed" and "broken" in jobs["isr/exposure=1", 2]["why"]
    assert jobs["isr/exposure=1", 2]["quanta"] == 1, "only what failed is tried again"


def test_a_job_that_goes_on_and_a_step_that_is_blocked(ran: Lake) -> None:
    """The next step runs on what there is; what lacks its inputs is blocked or, where nothing was to be found, has no work."""
    one = make_runner(ran, attempts=2)
    try:
        assert [tally(one, "step1") for _ in range(2)] == [Tally(10, 6, 4)] * 2, "nothing is tried for ever"
        assert tally(one, "step2a") == Tally(quanta=5, done=4, failed=1)
        assert tally(one, "step2b") == Tally(2, 2, 0)
        before = delta.version(ran.central, "attempt")
        assert tally(one, "step2a") == Tally(5, 4, 1)
        assert delta.version(ran.central, "attempt") == before, "what is blocked for the same reason is not noted again"
    finally:
        one.close()
    with delta.connect() as con:
        delta.view(con, ran.central, "visit_table")
        assert con.execute("SELECT visit, nDetector FROM visit_table ORDER BY visit").fetchall() == [(1, 1), (2, 1), (3, 1), (5, 2)]
        delta.view(con, ran.central, "attempt")
        blocked = con.execute("SELECT reason FROM attempt WHERE state = 'blocked'").fetchall()
    assert blocked == [("lacks post_isr_image",)]


def test_nothing_to_do_without_any_light(tmp_path: Path) -> None:
    """All of a visit's images found nothing: its summary has no work, and so on down the line."""
    lake = toy.lake(tmp_path / "lake", 2, raws=True)
    one = make_runner(lake, config={"isr": {"acts": {"2.0": "nothing", "2.1": "nothing"}}})
    try:
        one.predict()
        for step in ("step1", "step2a", "step2b", "step3"):
            found = tally(one, step)
            assert found.done == found.quanta and not found.failed, step
    finally:
        one.close()
    with delta.connect() as con:
        delta.view(con, lake.central, "attempt")
        found = Counter(con.execute("SELECT task, state FROM attempt").fetchall())
    assert found == {
        ("isr", "succeeded"): 2, ("isr", "no_work"): 2, ("summarize", "succeeded"): 1, ("summarize", "no_work"): 1,
        ("stars", "succeeded"): 2, ("warp", "succeeded"): 3, ("warp", "no_work"): 2, ("coadd", "succeeded"): 3,
        ("coadd", "no_work"): 2,
    }  # fmt: skip


def test_attempts_are_counted_per_quantum(tmp_path: Path) -> None:
    """A quantum that failed in an earlier run is not given more attempts because its job's other quanta are new."""
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    first = make_runner(lake, config={"isr": {"acts": {"1.0": "fail"}}}, attempts=1)
    try:
        first.predict()
        first.run_task(first.pipeline.tasks[0])
    finally:
        first.close()
    with_more = make_runner(lake, config={"isr": {"acts": {"1.0": "fail"}}}, attempts=3)
    try:
        assert tally(with_more, "step1") == Tally(2, 1, 1)
    finally:
        with_more.close()
    assert [n for n, *_ in attempts(lake.central)["1.0"]] == [1, 2, 3]
    assert [n for n, *_ in attempts(lake.central)["1.1"]] == [1]


def test_memory_error(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    one = make_runner(lake, config={"isr": {"acts": {"1.0": "exhaust"}}}, attempts=1)
    try:
        one.predict()
        assert tally(one, "step1") == Tally(2, 1, 1)
    finally:
        one.close()
    assert attempts(lake.central)["1.0"] == [(1, "failed", "out of memory")]


def test_remaking_gives_the_same_dataset(tmp_path: Path) -> None:
    """run_task(only=...) runs a quantum that was done: the lost file is there again, and no row is there twice."""
    lake = toy.lake(tmp_path / "lake", 2, raws=True)
    one = make_runner(lake)
    try:
        one.predict()
        one.run_step("step1")
        image = next(lake.central.path("files/toy/step1/post_isr_image").rglob("*_2_d1.json"))
        content = image.read_bytes()
        image.unlink()
        with delta.connect() as con:
            delta.view(con, lake.central, "quantum")
            chosen = "task = 'isr' AND visit = 2 AND detector = 1"
            ((quantum,),) = con.execute(f"SELECT quantum_id FROM quantum WHERE {chosen}").fetchall()
        one.run_task(one.pipeline.tasks[0], [quantum])
    finally:
        one.close()
    assert image.read_bytes() == content
    assert len(registered(lake.central, "post_isr_image")) == 4
    assert [state for _, state, _ in attempts(lake.central)["2.1"]] == ["succeeded", "succeeded"]
    assert [state for _, state, _ in attempts(lake.central)["2.0"]] == ["succeeded"]


def test_stopping_publishes_what_is_finished(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 8, raws=True)
    asked = iter([None, None, "an operator said so"])
    one = make_runner(lake, stopping=lambda: next(asked, "still"))
    try:
        one.predict()
        with pytest.raises(Stopped, match="an operator said so"):
            one.run_step("step1")
    finally:
        one.close()
    finished = registered(lake.central, "post_isr_image")
    assert 0 < len(finished) < 16
    assert sorted(attempts(lake.central)) == [f"{v}.{d}" for v, d in finished]
    on_disk = list(lake.central.path("files/toy/step1").rglob("*.json"))
    assert len(on_disk) == len(finished), "a job that ran when the stop came was waited for and published"
    again = make_runner(lake)
    try:
        assert tally(again, "step1") == Tally(16, 16, 0)
    finally:
        again.close()


def test_a_quantum_without_expected_datasets_is_a_graph_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    one = make_runner(lake)
    one.predict()
    complete = Jobs._expected
    monkeypatch.setattr(Jobs, "_expected", lambda self, task, quanta: complete(self, task, quanta).slice(1))
    with pytest.raises(GraphError, match=r"isr at A: .*no outputs for 1 of 2 quanta"):
        one.run_step("step1")


def test_context_holds_the_records_of_the_data_id(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 3)
    one = Jobs(lake.central, toy.pipeline(), toy.campaign())
    context = one.context({"instrument": "Toy", "visit": 2, "exposure": 2})
    assert [row["visit"] for row in context["visit"]] == [2]
    assert [row["detector"] for row in context["detector"]] == [0, 1]
    assert set(context) == {"instrument", "visit", "detector"}
    context = one.context({"skymap": "toy_sky", "tract": 2, "band": "r"})
    assert [row["patch"] for row in context["patch"]] == [0, 1] and [row["tract"] for row in context["tract"]] == [2]
    assert one.context({"instrument": "Toy", "visit": 99})["visit"] == []
