"""How a campaign stands: who drives it, every step at every site, failed quanta with their reasons, one quantum's history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lake.site import Lake
from pipelines import campaign as campaigns
from pipelines import graph, lease
from pipelines.journal import definition_of, latest, now, plain

Rows = list[dict[str, Any]]


def campaign_state(lake: Lake, name: str) -> dict[str, Any]:
    """State of the campaign, who set it and why, and the live driver (None when there is none)."""
    event = latest(lake, "campaign", "campaign", name)[0]
    held = lease.current(lake, name)
    alive = held is not None and held["state"] == "held" and held["expires_at"] > now() and not lease.dead(held["holder"])
    driver = held["holder"].partition(" start ")[0] if held and alive else None
    state = "interrupted" if event["state"] == "running" and not alive else event["state"]
    return {
        "campaign": name,
        "state": state,
        "since": event["noted_at"],
        "who": event["who"],
        "why": event["why"],
        "driver": driver,
    }


def steps(lake: Lake, name: str, site: str | None = None) -> Rows:
    """One row per step and site: its state and the counts of its quanta."""
    given = campaigns.parse(definition_of(lake, name), name)
    states = {(row["step"], row["site"]): row["state"] for row in latest(lake, "step", "step, site", name)}
    folder = Path(__file__).parent
    sql = (folder / "runner.sql").read_text() + (folder / "status.sql").read_text()
    rows: Rows = []
    for member in given.sites:
        if site in (None, member):
            with graph.connect(lake.site(member), ["quantum", "attempt"]) as con:
                counts = con.sql(sql, params={"campaign": name, "attempts": given.attempts}).to_arrow_table().to_pylist()
            rows += [
                {"step": c["step"], "site": member, "state": states.get((c["step"], member), "waiting")}
                | {k: v for k, v in c.items() if k != "step"}
                for c in counts
            ]
    return sorted(rows, key=lambda row: (row["step"], row["site"]))


def failures(lake: Lake, name: str, step: str | None, site: str | None = None) -> Rows:
    """Failed and blocked quanta with their data IDs and reasons, at most 200 per site."""
    given = campaigns.parse(definition_of(lake, name), name)
    sql = Path(__file__).with_name("runner.sql").read_text() + (
        "SELECT step, task, quantum_id, visit, detector, band, tract, patch, tried, reason FROM state "
        "WHERE failed AND ($step IS NULL OR step = $step OR starts_with(step, $step || '.')) "
        "ORDER BY step, tried = 0, task, job, quantum_id LIMIT 200"
    )
    rows: Rows = []
    for member in given.sites:
        if site in (None, member):
            with graph.connect(lake.site(member), ["quantum", "attempt"]) as con:
                found = con.sql(sql, params={"campaign": name, "attempts": given.attempts, "step": step}).to_arrow_table()
            rows += [{"site": member, **row} for row in found.to_pylist()]
    return rows


def quantum(lake: Lake, quantum_id: str) -> Rows:
    """Every event of the quanta whose id starts with the given text, at every site, in order."""
    rows: Rows = []
    for member in lake.sites.values():
        with graph.connect(member, ["attempt"]) as con:
            found = con.sql(
                "SELECT noted_at, quantum_id, task, job, attempt, state, seconds, peak_memory_mb, host, reason FROM attempt "
                "WHERE starts_with(quantum_id, $id) ORDER BY noted_at",
                params={"id": quantum_id},
            ).to_arrow_table()
        rows += [{"site": member.name, **row} for row in plain(found)]
    return rows
