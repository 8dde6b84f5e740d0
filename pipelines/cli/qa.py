"""drp qa: expectation suites."""

from __future__ import annotations

import json
from itertools import groupby
from pathlib import Path

import click

from pipelines.cli.output import campaign_option, emit, format_option, known_campaign, lake_argument


@click.command("qa")
@lake_argument
@campaign_option
@click.option("--suite", metavar="NAME", help="Judge by this suite only.")
@click.option("--no-keep", is_flag=True, help="Do not write verdicts and metrics down at the central site.")
@format_option
def command(lake: Path, campaign: str | None, suite: str | None, no_keep: bool, form: str) -> None:
    """Judge a campaign by its expectation suites: storage, keys, ranges, photometry, astrometry, site independence, completeness.

    Exit code 1 when an expectation is not met, or could not be judged. Verdicts, and the rows at fault, go to the table
    validation; the numbers behind them to metric.

    \b
    Examples:
      drp qa ./drp-demo
      drp qa ./drp-demo --suite photometry
      drp sql ./drp-demo "SELECT * FROM validation WHERE NOT success"
    """
    from checks import suites
    from lake.site import Lake

    opened = Lake.open(lake)
    verdict = suites.judge(opened, known_campaign(opened, campaign), suite, keep=not no_keep)
    rows = [
        {
            "suite": check.suite,
            "expectation": check.expectation,
            "verdict": "error" if check.error else "met" if check.success else "NOT met",
            "observed": check.error or check.observed,
            "offenders": check.offenders,
        }
        for check in verdict.rows
    ]
    if form == "csv":
        rows = [{**row, "offenders": json.dumps(row["offenders"], default=str)} for row in rows]
    emit(rows, form, ["suite", "expectation", "verdict", "observed", *(["offenders"] if form != "table" else [])])
    for check in verdict.rows if form == "table" else []:
        for names, group in groupby(check.offenders, tuple):  # rows of one kind in one table
            emit(group, form, names, f"{check.suite}: {check.expectation}")
    click.echo(verdict.summary, err=True)
    if not verdict.success:
        raise SystemExit(1)
