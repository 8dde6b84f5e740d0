"""drp simulate: make the raw exposures of a campaign."""

from __future__ import annotations

import os
from pathlib import Path

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument


@click.command("simulate")
@lake_argument
@click.argument("file", metavar="CAMPAIGN.yaml")
@click.option("--plan", "only_plan", is_flag=True, help="List the visits that would be simulated, and make nothing.")
@click.option("--workers", type=click.IntRange(1), default=os.cpu_count() or 2, help="Processes (default: all cores).")
@format_option
def command(lake: Path, file: str, only_plan: bool, workers: int, form: str) -> None:
    """Make the raw exposures, calibrations and reference stars that CAMPAIGN.yaml describes under 'simulate'.

    They go to one site of LAKE (the central one, unless simulate.site names another); what is there already stays. The
    raws are synthetic and say so in their headers. CAMPAIGN.yaml may be the name of a campaign that comes with the project.

    \b
    Examples:
      drp simulate ./my-lake six_tract
      drp simulate ./my-lake campaign.yaml --plan --format csv
    """
    from lake.site import Lake
    from pipelines import campaign as campaigns
    from pipelines import execute
    from pipelines.simulate import simulate, survey

    chosen = campaigns.read(file)
    if chosen.simulate is None:
        raise campaigns.CampaignError(f"{file}: campaign {chosen.name} has no section 'simulate'")
    if only_plan:
        columns = ("visit", "day_obs", "mjd_mid", "tract", "band", "ra", "dec", "rotation", "airmass", "exposure_time")
        emit([{c: getattr(v, c) for c in columns} for v in survey.plan(survey.mapping(chosen)).visits], form)
        return
    opened = Lake.open(lake)
    os.environ.update(execute.WORKER_ENVIRONMENT)
    with execute.pool(workers) as executor, Bars() as bars:
        bars.phase("simulate")
        summary = simulate(opened, chosen, executor, lambda done, total: bars.update("simulate", "datasets", done, total))
    emit([{"dataset_type": kind, "new": n} for kind, n in sorted(summary.new.items())], form, ("dataset_type", "new"))
    made = f"{sum(summary.new.values())} datasets made, {summary.bytes / 1e6:.1f} MB, in {summary.seconds:.1f} s"
    click.echo(f"{chosen.name} at {summary.site}: {made}; {summary.present} were there", err=True)
