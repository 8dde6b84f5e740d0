"""drp export, drp import: the registry of a site as a few small files; and what all exchange commands share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.output import emit, format_option, lake_argument

if TYPE_CHECKING:
    from lake.outcome import Outcomes


def selection_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that choose datasets: --collection, --type, --where."""
    for option in (
        click.option("--where", metavar="SQL", default="true", help="Condition on the columns of dataset."),
        click.option("--type", "types", metavar="NAME", multiple=True, help="Dataset type; may be repeated. Default: all."),
        click.option(
            "--collection", "collections", metavar="NAME", multiple=True, help="Collection; may be repeated. Default: all."
        ),
    ):
        function = option(function)
    return function


def show(site: str, outcomes: Outcomes, form: str) -> None:
    """Print what became of everything, and end with exit code 1 if something is not here."""
    emit([asdict(o) for o in outcomes.found], form, ("what", "name", "verdict", "count", "reason"))
    counts: dict[str, int] = {}
    for outcome in outcomes.found:
        if outcome.what == "dataset":
            counts[outcome.verdict] = counts.get(outcome.verdict, 0) + outcome.count
    click.echo(f"{site}: datasets: " + (", ".join(f"{n} {v}" for v, n in sorted(counts.items())) or "none"), err=True)
    if not outcomes.ok:
        raise SystemExit(1)


@click.command("export")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("directory", metavar="DIRECTORY", type=click.Path(path_type=Path))
@selection_options
@format_option
def export_command(
    lake: Path, site: str, directory: Path, collections: tuple[str, ...], types: tuple[str, ...], where: str, form: str
) -> None:
    """Write the registry of SITE, not the files of its datasets, to DIRECTORY, for 'drp import'.

    \b
    Example:
      drp export ./my-lake USDF ./usdf-registry --type raw --where "tract = 9469"
    """
    from lake.exchange import export_registry
    from lake.selection import Selection
    from lake.site import Lake

    counts = export_registry(Lake.open(lake).site(site), directory, Selection(collections or None, types or None, where))
    emit([{"table": name, "rows": rows} for name, rows in counts.items()], form, ("table", "rows"))


@click.command("import")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("directory", metavar="DIRECTORY", type=click.Path(path_type=Path))
@click.option("--no-verify", is_flag=True, help="Do not look whether the files are there and have their size.")
@format_option
def import_command(lake: Path, site: str, directory: Path, no_verify: bool, form: str) -> None:
    """Take what 'drp export' wrote into SITE, where the files of the datasets already lie under the same paths.

    \b
    Example:
      drp import ./my-lake LANCS ./usdf-registry
    """
    from lake.exchange import import_registry
    from lake.site import Lake

    show(site, import_registry(Lake.open(lake).site(site), directory, verify=not no_verify), form)
