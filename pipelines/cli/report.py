"""drp report: the campaign report."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import campaign_option, known_campaign, lake_argument


@click.command("report")
@lake_argument
@campaign_option
@click.option("-o", "--output", "file", type=click.Path(path_type=Path), help="The file to write; default LAKE/report.html.")
def command(lake: Path, campaign: str | None, file: Path | None) -> None:
    """Write the campaign report: one HTML file that works offline, with verdicts, plots, and the rows behind what failed.

    \b
    Examples:
      drp report ./drp-demo
      drp report ./drp-demo -o /tmp/campaign.html
    """
    from checks import report
    from lake.site import Lake

    opened = Lake.open(lake)
    click.echo(report.write(opened, known_campaign(opened, campaign), file or lake / "report.html"))
