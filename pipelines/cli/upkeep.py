"""drp upkeep: what keeps a lake's tables fast and its disks clean, done now, for all sites or one."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import emit, format_option, lake_argument


@click.command("upkeep")
@lake_argument
@click.argument("site", metavar="[SITE]", required=False)
@click.option("--dry-run", is_flag=True, help="Only show what would be done.")
@click.option(
    "--keep", metavar="NAME", help="First keep the tables as they are now, as snapshot NAME: no upkeep removes its files."
)
@click.option("--drop", metavar="NAME", help="First drop the snapshot NAME.")
@format_option
def command(lake: Path, site: str | None, dry_run: bool, keep: str | None, drop: str | None, form: str) -> None:
    """Merge small files, remove old ones and old log entries, and what dead writers left behind.

    A running campaign does this by itself; nothing here disturbs it. What a table gave up stays for a day for those who
    still read it; what a snapshot names stays until the snapshot is dropped.

    \b
    Examples:
      drp upkeep ./drp-demo --dry-run
      drp upkeep ./drp-demo FRDF
      drp upkeep ./drp-demo --keep dr1
    """
    from lake import janitor, snapshot, upkeep
    from lake.site import Lake
    from pipelines.journal import who

    opened = Lake.open(lake)
    sites = [opened.site(site)] if site else list(opened.sites.values())
    if dry_run and (keep or drop):
        raise click.UsageError("--dry-run changes nothing: it goes with neither --keep nor --drop")
    if drop:
        holding = [each for each in sites if drop in snapshot.names(each)]
        if not holding:
            raise snapshot.SnapshotError(f"no site of {opened.root} keeps a snapshot {drop}")
        for each in holding:
            snapshot.drop(each, drop, who())
    if keep:
        for each in sites:
            click.echo(f"{each.name}: {snapshot.keep(each, keep, who())} files are kept as {keep}", err=True)
    rows = []
    for each in sites:
        rows += [vars(tended) for tended in upkeep.maintain(each, dry_run)]
        left = janitor.clean(each, dry_run)
        if left:
            freed = sum(leftover.bytes for leftover in left)
            rows.append(vars(upkeep.Tended(each.name, "(leftovers)", removed=len(left), freed=freed)))
    if rows or form != "table":
        emit(rows, form, ["site", "table", "merged", "removed", "freed", "log_entries"])
    else:
        click.echo("nothing to do")
