"""The ledger puts every dataset into one state, and reconciles only when nothing is left to explain."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import paper_lake
import pyarrow as pa
import pytest
from paper_lake import files, flip

import schemas
from checks import ledger
from lake import delta, movement, registry
from lake.site import Lake, LakeError, Site
from pipelines import steer
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
    assert {r["step"] for r in found.rows} == set(ledger.STEPS) - {"rule", "storage"}
    assert row(found, "USDF", "return", "object")["visible"] == 4
    assert [r["step"] for r in found.rows] == sorted((r["step"] for r in found.rows), key=ledger.STEPS.index)


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
