"""The ledger puts every dataset into one state, and reconciles only when nothing is left to explain."""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path
from typing import Any

import paper_lake
import pyarrow as pa
import pytest
from paper_lake import files, flip

import schemas
from checks import counting, ledger, ledger_sum
from checks.audit import quick
from checks.ledger_sum import sql
from lake import archive, delta, movement, prune, query, registry, transfer_log, upkeep
from lake.search import search
from lake.site import Lake, LakeError, Site
from lake.transfer_log import Event
from pipelines import placement, steer
from pipelines.journal import now


def row(found: ledger.Ledger, site: str, step: str, kind: str) -> dict[str, Any]:
    return next(r for r in found.rows if (r["site"], r["step"], r["dataset_type"]) == (site, step, kind))


def adds_up(found: ledger.Ledger) -> bool:
    """Expected is the sum of its states, in every row."""
    states = [s for s in ledger.STATES if s not in ("unexpected", "orphan")]
    return all(r["expected"] == sum(r[s] for s in states) for r in found.rows)


def like(site: Site, kind: str, **changed: Any) -> pa.Table:
    """A registered dataset of a type with some columns changed, its id computed."""
    with delta.connect() as con:
        given = registry.datasets(con, site, types=[kind]).order("dataset_id").limit(1).to_arrow_table().to_pylist()[0]
    table = pa.Table.from_pylist([{**given, **changed}], schema=schemas.table("dataset").arrow)
    kinds = registry.dataset_types(site)
    return registry.with_ids(None, table, {name: kind.dimensions for name, kind in kinds.items()})


def attempt(site: Site, task: str, state: str, where: str = "true") -> int:
    """Append an event to quanta of a task; returns how many."""
    with delta.connect() as con:
        quanta = con.sql(f"FROM ({delta.select(site, 'quantum')}) WHERE task = '{task}' AND {where}").to_arrow_table()
    rows = [
        {**{c: q[c] for c in ("quantum_id", "campaign", "step", "task", "job")}, "attempt": 2, "state": state}
        | {"reason": "because", "noted_at": now()}
        for q in quanta.to_pylist()
    ]
    delta.append(site, "attempt", pa.Table.from_pylist(rows, schema=schemas.table("attempt").arrow))
    return len(rows)


@pytest.fixture
def begun(half: Lake, tmp_path: Path) -> Lake:
    shutil.copytree(half.root, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")


def test_a_finished_campaign_reconciles(finished: Lake) -> None:
    found = ledger.ledger(finished, "paper")
    assert found.reconciled and found.summary.startswith("reconciled: ")
    assert adds_up(found) and found.totals["visible"] == found.totals["expected"] > 500
    assert found.raw_count == 16 and found.raws == []
    assert {r["step"] for r in found.rows} == {name for _, names in placement.PLANS["catalogue"] for name in names} - {"rules"}
    assert {name for plan in placement.PLANS.values() for _, names in plan for name in names} == set(ledger.STEPS) - {
        "rule",
        "storage",
    }
    assert row(found, "USDF", "return", "object")["visible"] == 4
    assert [r["step"] for r in found.rows] == sorted((r["step"] for r in found.rows), key=ledger.STEPS.index)


@pytest.mark.parametrize("mode", ["catalogue", "partial"])
def test_steps_stand_in_the_order_of_the_plan(mode: str) -> None:
    plan = [name for _, names in placement.PLANS[mode] for name in names]
    known = ledger.order({"calibration": {"mode": mode}})
    assert [step for step in known if step in plan] == plan and set(known) == set(ledger.STEPS)
    assert ledger.order({}) == ledger.STEPS


def test_lost_and_damaged_files_are_named(lake: Lake) -> None:
    site = lake.site("FRDF")
    gone, short, stray = files(site, "visit_image")[0], files(site, "object")[0], site.path("files/paper/step4/x.fits")
    site.path(gone).unlink()
    os.truncate(site.path(short), 5)
    stray.write_bytes(b"stray")
    found = ledger.ledger(lake, "paper")
    assert not found.reconciled and adds_up(found)
    assert "FRDF step4 visit_image: 1 lost" in found.summary and gone in found.summary
    held = row(found, "FRDF", "step3", "object")
    assert held["damaged"] > 0 and held["damaged"] + held["visible"] == held["expected"]
    assert found.totals["orphan"] == 1
    assert len(found.raws) == 1 and found.raws[0]["state"] == "lost" and found.raws[0]["stopped_type"] == "visit_image"
    assert ledger.ledger(lake, "paper", None).reconciled


def test_same_size_damage_counts_once_an_audit_found_it(lake: Lake) -> None:
    from checks import audit

    site = lake.central
    flip(site.path(files(site, "raw")[0]))
    assert ledger.ledger(lake, "paper").reconciled
    audit.audit(site, deep=True)
    assert row(ledger.ledger(lake, "paper"), "USDF", "place", "raw")["damaged"] == 1


def test_failures_are_unsuccessful_until_accepted(begun: Lake) -> None:
    found = ledger.ledger(begun, "paper")
    assert adds_up(found) and not found.reconciled
    failed = [r for r in found.rows if r["unsuccessful"]]
    assert {r["dataset_type"] for r in failed} == {
        "post_isr_image", "preliminary_visit_image", "single_visit_star", "preliminary_detector_summary",
    }  # fmt: skip
    assert all(r["step"] == "step1" and not r["reconciled"] for r in failed)
    assert sum(r["predicted_only"] for r in found.rows) > 0
    assert sum(r["waiting"] for r in found.rows if r["step"] == "step3") > 0
    for site in {r["site"] for r in failed}:
        steer.decide(begun, "paper", "step1", site, "accepted", "cloud of dust")
    accepted = [r for r in ledger.ledger(begun, "paper").rows if r["unsuccessful"]]
    assert len(accepted) == len(failed) and all(r["accepted"] and r["reconciled"] for r in accepted)
    raws = {(r["state"], r["stopped_type"]) for r in found.raws}
    assert ("unsuccessful", "post_isr_image") in raws and all(state != "complete" for state, _ in raws)


def test_more_failures_than_were_accepted_are_open_again(begun: Lake) -> None:
    steer.decide(begun, "paper", "step1", "USDF", "accepted", "fine")
    assert attempt(begun.central, "isr", "reset") and attempt(begun.central, "isr", "failed")
    assert not any(r["accepted"] for r in ledger.ledger(begun, "paper").rows if r["site"] == "USDF")


def test_tolerated_failures_reconcile(begun: Lake) -> None:
    text = paper_lake.TEXT + "tolerate: {step1: 0.9}\n"
    event = {"campaign": "paper", "state": "running", "definition": text, "who": "op@host", "why": None, "noted_at": now()}
    delta.append(begun.central, "campaign", pa.Table.from_pylist([event], schema=schemas.table("campaign").arrow))
    assert all(r["reconciled"] for r in ledger.ledger(begun, "paper").rows if r["unsuccessful"])


def test_success_without_a_dataset_is_a_loss(begun: Lake) -> None:
    count = attempt(begun.central, "consolidate_visit", "succeeded")
    found = row(ledger.ledger(begun, "paper"), "USDF", "step2a", "preliminary_visit_summary")
    assert found["lost"] == found["expected"] == count
    assert "succeeded, but it is not registered" in found["reason"]


def test_a_dataset_whose_producer_failed_is_cursed(lake: Lake) -> None:
    assert attempt(lake.central, "survey_metrics", "reset") == attempt(lake.central, "survey_metrics", "failed") == 1
    found = ledger.ledger(lake, "paper")
    assert row(found, "USDF", "step7", "survey_metric")["cursed"] == 1 and not found.reconciled and adds_up(found)


def test_what_a_rule_has_not_brought_yet_is_in_transit(lake: Lake) -> None:
    movement.add_rule(lake, "paper", "return/extra", ["difference_image"], "tract = 9470", "FRDF", "USDF")
    found = ledger.ledger(lake, "paper")
    held = row(found, "USDF", "return", "difference_image")
    assert held["in_transit"] == held["expected"] > 0 and "REPLICATING" in held["reason"] and not found.reconciled
    movement.run_rules(lake, movement.rules(lake))
    assert ledger.ledger(lake, "paper").reconciled


def test_what_a_rule_brought_and_waits_is_parked(lake: Lake) -> None:
    """Of that only the transfer log tells: the ledger, registry.parked() and parked_now say so, too, until it is registered."""
    rule = movement.add_rule(lake, "paper", "return/extra", ["difference_image"], "tract = 9470", "FRDF", "USDF")
    with query.connect(lake, ["USDF"]) as con:
        rows = con.table("SELECT path, dataset_id FROM manifest WHERE rule_id = $rule ORDER BY path", {"rule": rule.rule_id})
    events = [
        Event(rule.rule_id, path, "FRDF", "USDF", "parked", 1, 1, reason="visit 9 unknown") for path in rows["path"].to_pylist()
    ]
    transfer_log.write(lake.central, events)
    found = ledger.ledger(lake, "paper")
    held = row(found, "USDF", "return", "difference_image")
    assert held["parked"] == held["expected"] == rows.num_rows > 0 and adds_up(found) and not found.reconciled
    assert held["reason"] == "visit 9 unknown"
    waiting = registry.parked(lake.central)
    assert sorted(waiting["dataset_id"].to_pylist()) == sorted(rows["dataset_id"].to_pylist())
    with query.connect(lake) as con:
        said = con.table("SELECT site, dataset_id, visit, tract, state, reason FROM parked_now ORDER BY dataset_id").to_pylist()
    columns = ("dataset_id", "visit", "tract", "state", "reason")
    expected = sorted(waiting.select(columns).to_pylist(), key=lambda r: r["dataset_id"])
    assert said == [{"site": "USDF"} | r for r in expected]
    movement.run_rules(lake, movement.rules(lake))
    assert ledger.ledger(lake, "paper").reconciled and registry.parked(lake.central).num_rows == 0


def test_parked_and_rejected_rows_stay_in_the_ledger(lake: Lake) -> None:
    site = lake.site("FRDF")
    unknown = like(site, "raw", exposure=7, visit=7, origin="FRDF")
    other = like(site, "object", checksum="0" * 64)
    verdicts = registry.ingest(site, pa.concat_tables([unknown, other]))["verdict"].to_pylist()
    assert verdicts == ["parked", "rejected"]
    found = ledger.ledger(lake, "paper")
    assert row(found, "FRDF", "place", "raw")["parked"] == 1 and adds_up(found)
    assert row(found, "FRDF", "step3", "object")["rejected"] == 1
    assert "visit 7" in row(found, "FRDF", "place", "raw")["reason"] or "exposure 7" in found.summary
    assert not found.reconciled


def test_datasets_that_nothing_asked_for_are_unexpected(lake: Lake) -> None:
    site = lake.central
    assert registry.ingest(site, like(site, "raw", detector=0, exposure=1, visit=1, origin="FRDF"))["verdict"].to_pylist() == [
        "parked"
    ]
    registry.register_dataset_types(site, {"odd": (("instrument",), "json")})
    odd = like(site, "software", dataset_type="odd", run="paper/step9", origin="FRDF")
    assert registry.ingest(site, odd)["verdict"].to_pylist() == ["accepted"]
    found = row(ledger.ledger(lake, "paper"), "USDF", "step9", "odd")
    assert found["unexpected"] == 1 and found["expected"] == 0 and not found["reconciled"]


def test_a_campaign_that_was_not_begun_does_not_reconcile(begun: Lake, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="no campaign 'nonesuch'"):
        ledger.ledger(begun, "nonesuch")
    empty = paper_lake.make(tmp_path / "empty", through="place")
    found = ledger.ledger(empty, "paper")
    assert not found.reconciled and "no work is predicted" in found.summary


# -- counting in parts: always the same as one full count ---------------------------------------------------------------


FULL = (
    "expected_dataset", "attempt", "dataset", "collection", "certification", "parked", "rule", "manifest", "transfer",
    "tombstone",
)  # fmt: skip


def full_count(lake: Lake) -> tuple[dict[tuple[str, ...], int], set[tuple[object, ...]]]:
    """Datasets by (site, step, type, state), and unfinished raws, by standing.sql over whole tables in one go."""
    parts = []
    with delta.connect() as con:
        for site in lake.sites.values():
            for table in FULL:
                delta.view(con, site, table)
            con.execute(f"CREATE OR REPLACE TEMP VIEW archive_copy AS {ledger._archive(lake)}")
            found = [{"path": f.path, "state": f.state, "reason": f.reason} for f in quick(site)]
            kind = pa.schema([("path", pa.string()), ("state", pa.string()), ("reason", pa.string())])
            con.register("storage_finding", pa.Table.from_pylist(found, schema=kind))
            parts.append(con.sql(sql("standing"), params={"campaign": "paper", "site": site.name}).to_arrow_table())
        con.register("standing", pa.concat_tables(parts))
        con.register("step_order", pa.table({"step": list(ledger.STEPS), "position": list(range(len(ledger.STEPS)))}))
        delta.view(con, lake.central, "visit_detector_patch")
        con.execute("CREATE TEMP VIEW touched AS SELECT DISTINCT visit FROM visit_detector_patch WHERE tract IN (9469, 9470)")
        counts = con.execute("SELECT site, step, dataset_type, state, count(*) FROM standing GROUP BY ALL").fetchall()
        copies = con.execute("SELECT site, step, dataset_type, 'in_archive', count(*) FROM standing WHERE in_archive GROUP BY ALL")
        counts += copies.fetchall()
        raws = con.sql(sql("raw_trace")).to_arrow_table().to_pylist()
    keys = ("exposure", "detector", "origin", "state", "products", "reached", "stopped_site", "stopped_type", "reason", "explained")
    return {tuple(row[:4]): row[4] for row in counts}, {tuple(r[k] for k in keys) for r in raws if r["state"] != "complete"}


def counted(found: ledger.Ledger) -> tuple[dict[tuple[str, ...], int], set[tuple[object, ...]]]:
    states = [*(s for s in ledger.STATES if s != "orphan"), "in_archive"]
    rows = {(r["site"], r["step"], r["dataset_type"], s): r[s] for r in found.rows for s in states if r[s]}
    keys = ("exposure", "detector", "origin", "state", "products", "reached", "stopped_site", "stopped_type", "reason", "explained")
    assert found.unfinished == len(found.raws)
    return rows, {tuple(r[k] for k in keys) for r in found.raws}


def _drop(lake: Lake, site: Site, chance: random.Random) -> None:
    """Rows of a dataset type vanish from the registry, all but a few of them."""
    kind = chance.choice(["raw", "source", "visit_image", "object", "preliminary_visit_summary"])
    with delta.connect() as con:
        rows = con.sql(f"FROM ({delta.select(site, 'dataset')}) WHERE dataset_type = '{kind}' ORDER BY dataset_id").to_arrow_table()
    root = site.table_path("dataset")
    parts = [Path(p).relative_to(root).as_posix() for p in delta.files(site, "dataset", f"dataset_type = '{kind}'")]
    delta.remove_files(site, "dataset", parts)
    keep = sorted(chance.sample(range(rows.num_rows), rows.num_rows // 2))
    delta.append(site, "dataset", schemas.conform("dataset", rows.take(keep)))


def _events(lake: Lake, site: Site, chance: random.Random) -> None:
    task = chance.choice(["isr", "subtract_images", "measure_objects", "survey_metrics", "finalize_visit"])
    attempt(
        site, task, chance.choice(["failed", "succeeded", "no_work", "reset", "blocked"]), f"visit % {chance.randint(1, 3)} = 0"
    )


def _waits(lake: Lake, site: Site, chance: random.Random) -> None:
    number = chance.randint(7, 10**6)
    registry.ingest(site, like(site, "raw", exposure=number, visit=number, origin=site.name))
    registry.ingest(site, like(site, "object", checksum=f"{number:064}"))


def _moves(lake: Lake, site: Site, chance: random.Random) -> None:
    other = next(s for s in lake.sites.values() if s != site)
    kind = chance.choice(["difference_image", "visit_image", "raw"])
    movement.add_rule(lake, "paper", f"rule/{chance.random()}", [kind], "true", site.name, other.name)
    if chance.random() < 0.5:
        movement.run_rules(lake, movement.rules(lake))


def _rots(lake: Lake, site: Site, chance: random.Random) -> None:
    path = site.path(chance.choice(files(site, chance.choice(["object", "source", "visit_image"]))))
    path.unlink() if chance.random() < 0.5 else os.truncate(path, 3)


def _archives(lake: Lake, site: Site, chance: random.Random) -> None:
    """Some datasets go to the archive; some of these, and some others, are taken out of the registry; one stays."""
    kind = chance.choice(["raw", "visit_image", "direct_warp"])
    shelf = archive.Shelf(chance.choice(list(lake.sites.values())))
    archive.archive(lake, site, shelf, [kind], f"visit % {chance.randint(1, 2)} = 0")
    found = search(lake, [kind], sites=[site.name])["dataset_id"].to_pylist()[1:]
    leave = prune.Leave(last_copy=chance.random() < 0.5, certified=True, tagged=True, wanted=True)
    prune.prune(lake, site, prune.plan(lake, site, found, leave).datasets["dataset_id"].to_pylist(), "room", leave)


def _tidies(lake: Lake, site: Site, chance: random.Random) -> None:
    with site.lock():
        upkeep.compact(site, "dataset", at_least=2)


@pytest.mark.parametrize("seed", range(40 if os.environ.get("DRP_FAULTS") == "long" else 1))
def test_kept_sums_never_differ_from_a_full_count(lake: Lake, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr(counting, "KEEP_FROM", 1)
    chance = random.Random(seed)
    assert counted(ledger.ledger(lake, "paper")) == full_count(lake)
    changes = [_drop, _events, _waits, _moves, _rots, _tidies, _archives]
    for change in chance.sample(changes, 2):
        change(lake, chance.choice(list(lake.sites.values())), chance)
        monkeypatch.setattr(counting, "AT_ONCE", chance.choice([1, 50, 10**6]))
        monkeypatch.setattr(counting, "IN_ONE_JOIN", chance.choice([1, 100, 10**6]))
        assert counted(ledger.ledger(lake, "paper")) == full_count(lake), change.__name__


def test_what_is_settled_is_not_counted_again(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "KEEP_FROM", 1)
    again: list[str] = []
    count = counting.SiteCount._count

    def noted(self: counting.SiteCount, kinds: list[str], *known: set[str]) -> None:
        again.extend(f"{self.site.name} {kind}" for kind in kinds)
        count(self, kinds, *known)

    monkeypatch.setattr(counting.SiteCount, "_count", noted)
    first = ledger.ledger(lake, "paper")
    assert len(again) == len(set(again)) > 40
    again.clear()
    second = ledger.ledger(lake, "paper")
    assert again == [] and second.rows == first.rows and second.summary == first.summary
    attempt(lake.central, "isr", "failed")
    assert ledger.ledger(lake, "paper").rows == first.rows and again == ["USDF post_isr_image"]
    again.clear()
    gone = files(lake.central, "visit_image")[0]
    lake.central.path(gone).unlink()
    assert ledger.ledger(lake, "paper").totals["lost"] == 1 and again == ["USDF visit_image"]


def test_a_ledger_needs_no_place_to_keep_its_sums(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counting, "KEEP_FROM", 1)

    def full(*_: object, **__: object) -> bool:
        raise delta.DeltaError("no space")

    monkeypatch.setattr(ledger_sum.delta, "append", full)
    assert ledger.ledger(lake, "paper").reconciled


def test_the_phase_of_what_a_rule_brings_is_that_of_its_last_revision() -> None:
    """Whatever the clocks said; and of a rule that has had its time only where no other wants the dataset."""
    rules = [
        ("a", 1, "step1/x", "OK", "2026-01-02"), ("a", 2, "step2b/x", "OK", "2026-01-01"),
        ("b", 1, "step3/x", "EXPIRED", "2026-01-03"),
        ("c", 1, "step4/x", "OK", "2026-01-02"), ("c", 2, "step5/x", "EXPIRED", "2026-01-01"),
    ]  # fmt: skip
    wanted = [("one", "a"), ("one", "b"), ("two", "b"), ("three", "c"), ("three", "b")]
    with delta.connect() as con:
        con.execute("CREATE TABLE rule (rule_id VARCHAR, revision BIGINT, name VARCHAR, state VARCHAR, noted_at TIMESTAMPTZ)")
        con.executemany("INSERT INTO rule VALUES (?, ?, ?, ?, ?)", rules)
        con.execute("CREATE TABLE manifest_all (dataset_id VARCHAR, rule_id VARCHAR, dataset_type VARCHAR)")
        con.executemany("INSERT INTO manifest_all VALUES (?, ?, 'raw')", wanted)
        found = dict(con.execute(sql("manifest_type"), {"kinds": ["raw"]}).fetchall())
    assert found == {"one": "step2b", "two": "step3", "three": "step3"}
