"""drp demo: the six-tract reference campaign, from nothing to report."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pipelines.cli.output import Bars


@click.command("demo")
@click.argument("lake", metavar="[LAKE]", default="./drp-demo", type=click.Path(path_type=Path))
@click.option("--campaign", "file", default="six_tract", show_default=True, help="Campaign file, or the name of a shipped one.")
@click.option("--sites", "places", type=click.Path(path_type=Path), help="YAML file of the sites (as for drp init).")
def command(lake: Path, file: str, places: Path | None) -> None:
    """Run the six-tract campaign over three sites into LAKE (default ./drp-demo), then judge it and report.

    The raw exposures are simulated and say so. A demo that was interrupted continues.

    \b
    Examples:
      drp demo
      drp demo /data/try --campaign tiny
    """
    from lake.site import Lake, read_sites
    from pipelines import campaign, driver
    from pipelines.cli import run

    start = time.monotonic()
    chosen = campaign.read(file)
    shipped = Path(campaign.__file__).with_name("campaigns")
    sites = read_sites(places or shipped / "sites.yaml")
    sites = {name: given for name, given in sites.items() if name in chosen.sites}
    opened = Lake.open(lake) if (lake / "lake.yaml").exists() else Lake.create(lake, sites)
    with Bars() as progress:
        outcome = driver.run(opened, chosen, progress=progress)
    run.report(chosen.name, outcome)
    if not outcome.ok:
        raise SystemExit(1)
    from checks import ledger, report, suites

    verdict = ledger.ledger(opened, chosen.name)
    judged = suites.judge(opened, chosen.name)
    page = report.write(opened, chosen.name, lake / "report.html", verdict, judged)
    click.echo(f"qa: {judged.summary}")
    click.echo(f"ledger: {verdict.summary}")
    click.echo(f"report: {page}")
    click.echo(f"took {time.monotonic() - start:.0f} s")
    if not (verdict.reconciled and judged.success):
        raise SystemExit(1)
