"""drp transfers: what is on its way, how far, how fast, and what keeps the rest."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from pipelines.cli.output import campaign_option, emit, format_option, lake_argument

BY_RULE = """
    SELECT name AS rule, source, destination, state, files, ingested, queued, copying, verified, parked, failed, bytes,
           bytes_done, rate, eta, reason
    FROM rule_progress
    WHERE $campaign IS NULL OR campaign = $campaign
    ORDER BY destination, name
"""
BY_LINK = """
    SELECT source, destination, count(*) AS rules, count(*) FILTER (state = 'OK') AS ok,
           count(*) FILTER (state = 'STUCK') AS stuck, sum(files)::BIGINT AS files, sum(ingested)::BIGINT AS ingested,
           sum(queued)::BIGINT AS queued, sum(copying)::BIGINT AS copying, sum(verified)::BIGINT AS verified,
           sum(parked)::BIGINT AS parked, sum(failed)::BIGINT AS failed,
           sum(bytes)::BIGINT AS bytes, sum(bytes_done)::BIGINT AS bytes_done,
           max(rate) AS rate, max(eta) AS eta
    FROM rule_progress
    WHERE $campaign IS NULL OR campaign = $campaign
    GROUP BY source, destination
    ORDER BY source, destination
"""
FAILURES = """
    SELECT r.name AS rule, t.path, t.source, t.destination, t.state, t.attempt, t.bytes, t.reason, t.noted_at
    FROM transfer_now t
    JOIN rule_now r USING (site, rule_id)
    WHERE t.state IN ('failed', 'parked') AND ($campaign IS NULL OR r.campaign = $campaign)
    ORDER BY t.destination, r.name, t.path
"""
BY_PHASE = Path(__file__).with_name("phases.sql")
STUCK = "SELECT rule_id FROM rule_now WHERE state = 'STUCK' AND ($campaign IS NULL OR campaign = $campaign)"


@click.command("transfers")
@lake_argument
@click.option(
    "--by",
    type=click.Choice(["rule", "link", "phase"]),
    default="rule",
    show_default=True,
    help="A line per rule, per link, or per phase and dataset type with the total of the calibration.",
)
@click.option("--failed", is_flag=True, help="A line per file that failed or is parked, with the reason, instead.")
@click.option("--watch", is_flag=True, help="Show again every two seconds until interrupted.")
@campaign_option
@format_option
def command(lake: Path, by: str, failed: bool, watch: bool, campaign: str | None, form: str) -> None:
    """How far the transfers are: files, bytes, rate and time left, per rule or link, or what each phase moved. Exit code 1 if a
    rule is STUCK.

    \b
    Examples:
      drp transfers ./drp-demo
      drp transfers ./drp-demo --by link --format json
      drp transfers ./drp-demo --by phase
      drp transfers ./drp-demo --failed
      drp transfers ./drp-demo --watch
    """
    from lake import query

    question = FAILURES if failed else {"rule": BY_RULE, "link": BY_LINK, "phase": BY_PHASE.read_text()}[by]
    parameters: dict[str, Any] = {"campaign": campaign}
    if question is not FAILURES and by == "phase":
        from pipelines import definition, placement

        parameters |= {"phases": [*placement.PHASES, placement.OWN], "calibration": definition.load().types("step2c")}
    with query.connect(lake) as con:
        while True:
            answer = con.table(question, parameters)
            stuck = con.table(STUCK, {"campaign": campaign}).num_rows
            rows = answer.to_pylist()
            if watch:
                click.clear()
            emit([readable(row) for row in rows] if form == "table" else rows, form, answer.column_names)
            if not watch:
                break
            time.sleep(2.0)
    if stuck:
        raise SystemExit(1)


def readable(row: dict[str, Any]) -> dict[str, Any]:
    """A row with sizes, rates and times as people write them."""
    for name in row.keys() & {"bytes", "bytes_done"}:
        row[name] = size(row[name])
    if row.get("rate") is not None:
        row["rate"] = f"{size(row['rate'])}/s"
    if row.get("eta") is not None:
        seconds = round(row["eta"])
        row["eta"] = f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}" if seconds else "done"
    return row


def size(count: float) -> str:
    """A number of bytes in decimal units."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(count) < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"
