"""drp audit: storage against registry, now or between two points in time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument

if TYPE_CHECKING:
    import pyarrow as pa

    from lake.site import Lake, Site

#: Clocks of workers and of their disks may differ by so many seconds, and what a driver notes is written a little later.
MARGIN = 60.0
COLUMNS = ["site", "state", "path", "datasets", "bytes", "reason"]
UNITS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0}


class Duration(click.ParamType):
    """Seconds, or a number with s, m or h."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", str(value))
        if not found:
            self.fail(f"{value!r} is not a duration; write 90s, 10m or 2h", param, ctx)
        return float(found[1]) * UNITS[found[2]]


@click.command("audit")
@lake_argument
@click.argument("site", metavar="[SITE]", required=False)
@click.option("--deep", is_flag=True, help="Read files and compare checksums, not only sizes; goes on where the last one stopped.")
@click.option("--older-than", type=click.FloatRange(0), metavar="DAYS", help="Read what was not read within DAYS (0: everything).")
@click.option("--budget", type=Duration(), metavar="TIME", help="Stop reading after 90s, 10m, 2h (0: only say what was read).")
@click.option("--rate", type=click.FloatRange(0, min_open=True), metavar="MB/S", help="Read no faster than this.")
@click.option("--remove-orphans", is_flag=True, help="Remove files that nothing names (never anything registered).")
@click.option("--between", nargs=2, metavar="T0 T1", help="Compare the registry at two times or versions ('now' is the latest).")
@click.option("--listing", type=click.Path(path_type=Path, exists=True, dir_okay=False), metavar="FILE",
              help="With --between: a list of the site's files (CSV or parquet: path, bytes) made between T0 and T1.")  # fmt: skip
@format_option
def command(
    lake: Path, site: str | None, deep: bool, older_than: float | None, budget: float | None, rate: float | None,
    remove_orphans: bool, between: tuple[str, str] | None, listing: Path | None, form: str,
) -> None:  # fmt: skip
    """Compare the storage of SITE (default: every site) with its registry: lost, damaged, orphan.

    Exit code 1 when anything is lost, damaged or orphan. What is lost or damaged, the next drp run fetches from another
    site or makes again. A deep audit that was stopped or killed goes on when it is started again. With --between, the
    registry of T0 is compared with that of T1: what is gone without a tombstone, what has other content, what appeared.

    \b
    Examples:
      drp audit ./drp-demo
      drp audit ./drp-demo FRDF --deep
      drp audit ./drp-demo FRDF --deep --older-than 30 --budget 10m --rate 200     every night
      drp audit ./drp-demo --remove-orphans
      drp audit ./drp-demo FRDF --between 2026-09-10T12:00 now
      drp audit ./drp-demo FRDF --between 2026-09-10 2026-09-12 --listing dump.csv
    """
    from lake.site import Lake

    if not deep and (older_than, budget, rate) != (None, None, None):
        raise click.UsageError("--older-than, --budget and --rate are for an audit that reads: add --deep")
    if between and (deep or remove_orphans):
        raise click.UsageError("--between looks at the registry's history: leave out --deep and --remove-orphans")
    if listing and not (between and site):
        raise click.UsageError("--listing is compared with two moments of one site: give SITE and --between T0 T1")
    opened = Lake.open(lake)
    members = [opened.site(site)] if site else list(opened.sites.values())
    if between:
        found = _between(members, between, listing, form)
    else:
        limits = {"older_than": older_than, "budget": budget, "rate": rate and rate * 1e6}
        found = _audit(opened, members, deep, remove_orphans, limits, form)
    if found:
        raise SystemExit(1)


def _audit(lake: Lake, members: list[Site], deep: bool, remove_orphans: bool, limits: dict[str, float | None], form: str) -> bool:
    """Audit each site and print what is wrong; True when anything is."""
    from checks import audit

    driver, since = _driver(lake)
    if remove_orphans and driver:
        raise click.UsageError(f"{driver} is at work on this lake: pause it, or wait; nothing was removed")
    rows = []
    for member in members:
        name, spare = member.name, since(member.name)
        with Bars() as bars:
            report = audit.audit(member, deep, _progress(bars, name), spare, **limits)
        gone = audit.remove_orphans(member, spare) if remove_orphans else []
        counts = ", ".join(f"{count} {state}" for state, count in report.counts.items())
        click.echo(
            f"{name}: {report.files:,} files, {report.datasets:,} datasets, {report.bytes / 1e9:.3g} GB listed: {counts}"
            + (f"; {len(report.healed)} earlier findings are settled" if report.healed else "")
            + (f"; removed {len(gone)} orphans" if gone else ""),
            err=True,
        )
        if report.coverage:
            click.echo(f"{name}: {report.coverage.summary}", err=True)
        rows += [{"site": name, **vars(f)} for f in report.findings if f.path not in gone]
    if rows or form != "table":
        emit(rows, form, COLUMNS)
    return bool(rows)


def _between(members: list[Site], moments: tuple[str, str], listing: Path | None, form: str) -> bool:
    """Print what changed between two moments at each site; True when anything is gone, changed, lost or dark."""
    from checks import history

    rows, wrong = [], False
    listed = _listing(listing) if listing else None
    for member in members:
        found = history.between(member, *moments, listed)
        wrong |= not found.ok
        counts = found.counts
        click.echo(
            f"{member.name}: from version {found.first.version} ({found.first.at:%Y-%m-%d %H:%M:%S} UTC) to version "
            f"{found.second.version} ({found.second.at:%Y-%m-%d %H:%M:%S} UTC): "
            + ", ".join(f"{count:,} {state}" for state, count in counts.items()),
            err=True,
        )
        changes = found.changes
        if form == "table":  # what came is named only where a machine reads it
            import pyarrow.compute as pc

            changes = changes.filter(pc.is_in(changes["state"], ["gone", "changed"]))
        rows += [{"site": member.name, **row} for row in [*found.files.to_pylist(), *changes.to_pylist()]]
    if rows or form != "table":
        emit(rows, form, ["site", "state", "dataset_type", "dataset_id", "run", "path", "reason"])
    return wrong


def _listing(path: Path) -> pa.Table:
    """A list of files from CSV or parquet, its columns checked."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        table = parquet.read_table(path) if path.suffix == ".parquet" else csv.read_csv(path)
        return table.select(["path", "bytes"]).cast(pa.schema([("path", pa.string()), ("bytes", pa.int64())]))
    except (OSError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise click.UsageError(f"{path}: is not a list of files with the columns path and bytes ({reason})") from None


def _progress(bars: Bars, name: str) -> Callable[[int, int], None]:
    return lambda done, total: bars.update(name, "reading (MB)", done >> 20, total >> 20)


def _driver(lake: Lake) -> tuple[str | None, Callable[[str], float]]:
    """Who drives a campaign of the lake now, if anybody; and for how many seconds files at a site may have been in work.

    A file of a running task is written after the task began, and registered before it ends: only files written since
    the oldest task (or, between tasks, step) that is running may wait for their registry rows.
    """
    from pipelines.journal import campaigns, latest, now
    from pipelines.status import campaign_state

    states = {name: campaign_state(lake, name) for name in campaigns(lake)}
    driven = {name: state for name, state in states.items() if state["driver"]}

    def seconds(site: str) -> float:
        begun = []
        for name, state in driven.items():
            groups = [e for e in latest(lake, "group", 'step, site, "group"', name) if e["site"] == site]
            steps = latest(lake, "step", "step, site", name)
            running = [[e["noted_at"] for e in events if e["state"] == "running"] for events in (groups, steps)]
            begun.append(min(running[0] or running[1] or [state["since"]]))
        return (now() - min(begun)).total_seconds() + MARGIN if begun else 0.0

    return next((str(state["driver"]) for state in driven.values()), None), seconds
