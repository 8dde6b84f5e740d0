"""drp audit: storage against registry."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument

#: While a driver is at work, files younger than this may be waiting for their registry rows.
SPARE = 3600.0


@click.command("audit")
@lake_argument
@click.argument("site", metavar="[SITE]", required=False)
@click.option("--deep", is_flag=True, help="Read every file and compare checksums, not only sizes.")
@click.option("--remove-orphans", is_flag=True, help="Remove files that nothing names (never anything registered).")
@format_option
def command(lake: Path, site: str | None, deep: bool, remove_orphans: bool, form: str) -> None:
    """Compare the storage of SITE (default: every site) with its registry: lost, damaged, orphan.

    Exit code 1 when anything is lost, damaged or orphan. What is lost or damaged, the next drp run fetches from another
    site or makes again.

    \b
    Examples:
      drp audit ./drp-demo
      drp audit ./drp-demo FRDF --deep
      drp audit ./drp-demo --remove-orphans
    """
    from checks import audit
    from lake.site import Lake

    opened = Lake.open(lake)
    driver = _driver(opened)
    if remove_orphans and driver:
        raise click.UsageError(f"{driver} is at work on this lake: pause it, or wait; nothing was removed")
    spare = SPARE if driver else 0.0
    rows = []
    for member in [opened.site(site)] if site else opened.sites.values():
        name = member.name
        with Bars() as bars:
            report = audit.audit(member, deep, _progress(bars, name), spare)
        gone = audit.remove_orphans(member, spare) if remove_orphans else []
        counts = ", ".join(f"{count} {state}" for state, count in report.counts.items())
        click.echo(
            f"{name}: {report.files:,} files, {report.datasets:,} datasets, {report.bytes / 1e9:.3g} GB "
            f"{'read and compared' if deep else 'listed'}: {counts}"
            + (f"; {len(report.healed)} earlier findings are settled" if report.healed else "")
            + (f"; removed {len(gone)} orphans" if gone else ""),
            err=True,
        )
        rows += [{"site": name, **vars(f)} for f in report.findings if f.path not in gone]
    if rows or form != "table":
        emit(rows, form, ["site", "state", "path", "datasets", "bytes", "reason"])
    if rows:
        raise SystemExit(1)


def _progress(bars: Bars, name: str) -> Callable[[int, int], None]:
    return lambda done, total: bars.update(name, "reading (MB)", done >> 20, total >> 20)


def _driver(lake: object) -> str | None:
    """Who drives a campaign of the lake now, if anybody."""
    from pipelines.journal import campaigns
    from pipelines.status import campaign_state

    holders = (campaign_state(lake, name)["driver"] for name in campaigns(lake))  # type: ignore[arg-type]
    return next((holder for holder in holders if holder), None)
