"""drp run: run or continue a campaign."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from pipelines.cli.output import Bars, campaign_option, known_campaign, lake_argument


@click.command("run")
@lake_argument
@click.argument("file", metavar="[CAMPAIGN.yaml]", required=False)
@campaign_option
@click.option("--through", metavar="STEP", help="Stop after this step.")
@click.option("--step", metavar="STEP", help="Run this step only.")
@click.option("--site", metavar="SITE", help="Run at this site only.")
def command(lake: Path, file: str | None, campaign: str | None, through: str | None, step: str | None, site: str | None) -> None:
    """Run or continue a campaign: place, process, fan in, solve, fan out, return.

    CAMPAIGN.yaml is needed the first time only; later runs go on from what the lake holds. A run may be stopped or killed
    at any moment: the same command continues.

    \b
    Examples:
      drp run ./my-lake campaign.yaml
      drp run ./my-lake --through step2b
      drp run ./my-lake --step step1 --site FRDF
    """
    from lake.site import Lake
    from pipelines import campaign as campaigns
    from pipelines import driver, journal

    opened = Lake.open(lake)
    if file is not None:
        chosen = campaigns.read(file)
    else:
        name = known_campaign(opened, campaign)
        chosen = campaigns.parse(journal.definition_of(opened, name), name)
    with Bars() as progress:
        outcome = driver.run(opened, chosen, through=through, step=step, site=site, progress=progress)
    sys.stdout.flush()
    report(chosen.name, outcome)
    if not outcome.ok:
        raise SystemExit(1)


def report(name: str, outcome: driver.Outcome) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Say in a few lines what a run did."""
    for line in outcome.healed:
        click.echo(line)
    if outcome.quanta_run or outcome.files_moved:
        click.echo(f"{name}: {outcome.quanta_run} quanta run, {outcome.files_moved} files moved")
    elif outcome.ok:
        click.echo(f"{name}: nothing {'else ' if outcome.healed else ''}to do, everything is in place")
    if outcome.stopped:
        click.echo(f"{name}: stopped: {outcome.stopped}", err=True)
    for problem in outcome.problems:
        click.echo(f"{name}: {problem}", err=True)
