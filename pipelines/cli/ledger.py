"""drp ledger: expected against present."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import campaign_option, emit, format_option, known_campaign, lake_argument


@click.command("ledger")
@lake_argument
@campaign_option
@click.option("--site", metavar="SITE", help="Show this site only (everything is reconciled all the same).")
@click.option("--step", metavar="STEP", help="Show this step or phase only.")
@click.option("--raws", is_flag=True, help="Show the raws that did not reach every product, and where each stopped.")
@click.option("--no-storage", is_flag=True, help="Take the registries' word: do not list the files.")
@format_option
def command(lake: Path, campaign: str | None, site: str | None, step: str | None, raws: bool, no_storage: bool, form: str) -> None:
    """Expected against present, per site, step and dataset type, and what explains the difference.

    Exit code 0 only if everything reconciles: what is expected is there, or found nothing to do, or failed and was
    accepted (drp accept), or was taken out and is in the archive; every raw is accounted for down to the last product that
    should hold it. in_archive counts what is registered here and in the archive too.

    \b
    Examples:
      drp ledger ./drp-demo
      drp ledger ./drp-demo --site FRDF --step step4
      drp ledger ./drp-demo --raws --format csv
    """
    from checks import audit, ledger
    from lake.site import Lake

    opened = Lake.open(lake)
    if site is not None:
        opened.site(site)
    steps = [name for name in ledger.STEPS if step is None or name == step or name.startswith(f"{step}.")]
    if not steps:
        raise click.UsageError(f"no step {step!r}; known: {', '.join(ledger.STEPS)}")
    verdict = ledger.ledger(opened, known_campaign(opened, campaign), None if no_storage else audit.quick)
    if raws:
        emit(
            verdict.raws,
            form,
            ["exposure", "detector", "origin", "state", "reached", "stopped_site", "stopped_type", "reason"],
        )
    else:
        rows = [row for row in verdict.rows if site in (None, row["site"]) and row["step"] in steps]
        states = [s for s in ledger.STATES if form != "table" or s == "visible" or any(row[s] for row in rows)]
        more = [name for name in ("in_archive", "accepted") if form != "table" or any(row[name] for row in rows)]
        emit(rows, form, ["site", "step", "dataset_type", "expected", *states, "bytes", *more, "reconciled"])
    click.echo(verdict.summary, err=True)
    if not verdict.reconciled:
        raise SystemExit(1)
