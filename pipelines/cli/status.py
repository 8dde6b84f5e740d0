"""drp status: how a campaign stands."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pipelines.cli.output import campaign_option, emit, format_option, known_campaign, lake_argument


@click.command("status")
@lake_argument
@campaign_option
@click.option("--step", metavar="STEP", help="Show the failed quanta of this step and why.")
@click.option("--site", metavar="SITE", help="At this site only.")
@click.option("--quantum", metavar="ID", help="Show everything that happened to one quantum (the start of its id will do).")
@click.option("--watch", is_flag=True, help="Show again every two seconds until interrupted.")
@format_option
def command(
    lake: Path, campaign: str | None, step: str | None, site: str | None, quantum: str | None, watch: bool, form: str
) -> None:
    """Show steps x sites x states; with --step, failed quanta and their reasons; with --quantum, one quantum's history.

    \b
    Examples:
      drp status ./drp-demo
      drp status ./drp-demo --step step1 --site FRDF
      drp status ./drp-demo --quantum 3f2a
    """
    from lake.site import Lake
    from pipelines import status
    from pipelines.campaign import CampaignError
    from pipelines.definition import steps

    opened = Lake.open(lake)
    if step is not None:
        try:
            steps(step)
        except ValueError as error:
            raise CampaignError(str(error)) from None
    if site is not None:
        opened.site(site)
    name = known_campaign(opened, campaign)
    while True:
        if quantum is not None:
            rows = status.quantum(opened, quantum)
            if not rows:
                raise CampaignError(f"no quantum {quantum!r} has been tried in campaign {name}")
        elif step is not None:
            rows = status.failures(opened, name, step, site)
        else:
            rows = status.steps(opened, name, site)
        if watch:
            click.clear()
        if form == "table":
            state = status.campaign_state(opened, name)
            click.echo(
                f"{name}: {state['state']} since {state['since']:%Y-%m-%d %H:%M:%S} UTC"
                + (f", driven by {state['driver']}" if state["driver"] else "")
                + (f" ({state['why']})" if state["why"] else "")
            )
            if not rows:
                click.echo(f"no failed quanta{f' in {step}' if step else ''}" if step else "no quanta predicted yet")
        if rows or form != "table":
            emit(rows, form)
        if not watch:
            return
        time.sleep(2.0)
