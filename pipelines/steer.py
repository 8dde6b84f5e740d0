"""An operator's decisions about a campaign, as events in its log. The driver reads them; nothing is changed in place."""

from __future__ import annotations

import pyarrow as pa

import schemas
from lake import delta
from lake.site import Lake
from pipelines import definition
from pipelines.campaign import CampaignError
from pipelines.journal import Journal, definition_of, latest, now, who


def _steps(lake: Lake, campaign: str, step: str, site: str | None) -> list[dict[str, object]]:
    """The latest event of a step (of every part of it) at the sites meant; CampaignError when it has not been reached."""
    try:
        meant = definition.steps(step)
    except ValueError as error:
        raise CampaignError(str(error)) from None
    if site is not None:
        lake.site(site)
    rows = [row for row in latest(lake, "step", "step, site", campaign) if row["step"] in meant and site in (None, row["site"])]
    if not rows:
        raise CampaignError(f"{step} has not started{f' at {site}' if site else ''} in campaign {campaign}")
    return rows


def decide(lake: Lake, campaign: str, step: str, site: str | None, state: str, why: str | None) -> list[str]:
    """Accept or reject a step at one or all sites; returns a line per site. A running step cannot be decided."""
    rows = _steps(lake, campaign, step, site)
    for row in rows:
        if row["state"] == "running" and state == "accepted":
            raise CampaignError(f"{row['step']} at {row['site']} is running; wait, or pause the campaign first")
    journal = Journal(lake, campaign)
    lines = []
    for row in rows:
        journal.write(
            "step", step=row["step"], site=row["site"], state=state, quanta=row["quanta"], succeeded=row["succeeded"],
            failed=row["failed"], who=who(), why=why,
        )  # fmt: skip
        lines.append(f"{row['step']} at {row['site']}: {state} ({row['failed'] or 0} of {row['quanta'] or 0} quanta failed)")
    journal.flush()
    return lines


def retry(lake: Lake, campaign: str, step: str, site: str | None, why: str | None) -> list[str]:
    """Reset the count of attempts of the failed and blocked quanta of a step, and take back its rejection; a line per site."""
    journal = Journal(lake, campaign)
    for row in _steps(lake, campaign, step, site):
        if row["state"] in ("rejected", "reviewable"):
            event = {c: row[c] for c in ("step", "site", "quanta", "succeeded", "failed")}
            journal.write("step", **event, state="waiting", who=who(), why=why)
    journal.flush()
    lines = []
    for name, target in lake.sites.items():
        if site not in (None, name):
            continue
        with delta.cursor() as con:
            delta.view(con, target, "attempt")
            failed = con.sql(
                "SELECT quantum_id, step, task, job FROM attempt "
                "WHERE campaign = $campaign AND step IN (SELECT unnest($steps)) GROUP BY ALL "
                "HAVING NOT bool_or(state IN ('succeeded', 'no_work')) AND arg_max(state, noted_at) IN ('failed', 'blocked') "
                "ORDER BY 1",
                params={"campaign": campaign, "steps": list(definition.steps(step))},
            ).to_arrow_table()
        rows = [
            {
                "quantum_id": row["quantum_id"], "campaign": campaign, "step": row["step"], "task": row["task"], "job": row["job"],
                "attempt": 0, "state": "reset", "reason": f"{who()}: {why or 'retry'}", "noted_at": now(),
            }
            for row in failed.to_pylist()
        ]  # fmt: skip
        if rows:
            delta.append(target, "attempt", pa.Table.from_pylist(rows, schema=schemas.table("attempt").arrow))
        lines.append(f"{step} at {name}: {len(rows)} quanta will be tried again")
    return lines


def set_state(lake: Lake, campaign: str, state: str, why: str | None) -> str:
    """Pause, resume or cancel a campaign; returns a line that says so."""
    current = latest(lake, "campaign", "campaign", campaign)[0]["state"]
    if current == "cancelled":
        raise CampaignError(f"campaign {campaign} was cancelled; it cannot be changed any more")
    if state == "running" and current != "paused":
        raise CampaignError(f"campaign {campaign} is {current}, not paused")
    journal = Journal(lake, campaign)
    journal.write("campaign", state=state, definition=definition_of(lake, campaign), who=who(), why=why)
    journal.flush()
    return f"{campaign}: {current} -> {state}"
