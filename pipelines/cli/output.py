"""What commands share: the lake argument, the --format option, tables on stdout and progress on stderr."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

lake_argument = click.argument("lake", metavar="LAKE", type=click.Path(path_type=Path))
format_option = click.option(
    "--format", "form", type=click.Choice(["table", "json", "csv"]), default="table", show_default=True, help="Form of the output."
)
campaign_option = click.option("--campaign", metavar="NAME", help="Which campaign, where a lake holds several.")


def emit(rows: Iterable[Mapping[str, Any]], form: str, columns: Sequence[str] | None = None, title: str | None = None) -> None:
    """Print rows on stdout as a table, as JSON (a list of objects) or as CSV."""
    rows = [dict(row) for row in rows]
    names = list(columns or (rows[0] if rows else []))
    if form == "json":
        click.echo(json.dumps(rows, indent=1, default=str))
    elif form == "csv":
        writer = csv.DictWriter(sys.stdout, names, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        from rich.console import Console
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=title, title_justify="left", header_style="bold")
        for name in names:
            numeric = bool(rows) and all(isinstance(row.get(name), (int, float, type(None))) for row in rows)
            table.add_column(name, justify="right" if numeric else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(_cell(row.get(name))) for name in names))
        console = Console()
        if not console.is_terminal:
            console = Console(width=max(160, console.width))
        console.print(table)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return str(value)


class Bars:
    """Progress bars on a terminal (one per site and task), or a line per phase elsewhere. Use as a context manager."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._tasks: dict[str, Any] = {}
        self._start = time.monotonic()

    def __enter__(self) -> Bars:
        if self._terminal:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

            self._bars = Progress(
                TextColumn("{task.fields[site]:>10}"), TextColumn("{task.description:<26}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True),
            )  # fmt: skip
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal:
            self._bars.stop()

    def phase(self, name: str) -> None:
        self.say(f"[{time.monotonic() - self._start:6.1f} s] {name}")

    def update(self, site: str, what: str, done: int, total: int) -> None:
        if not self._terminal:
            return
        if site not in self._tasks:
            self._tasks[site] = self._bars.add_task(what, site=site, total=total)
        self._bars.update(self._tasks[site], description=what, completed=done, total=total)

    def say(self, text: str) -> None:
        if self._terminal:
            self._bars.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)


def known_campaign(lake: Any, name: str | None) -> str:
    """The campaign meant: the named one, or the lake's only one; ClickException otherwise."""
    from pipelines.journal import campaigns

    found = campaigns(lake)
    if name is not None and name not in found:
        raise click.UsageError(f"no campaign {name!r} in {lake.root}; known: {', '.join(found) or 'none yet'}")
    if name is None and len(found) != 1:
        raise click.UsageError(
            f"{lake.root} holds {len(found)} campaigns ({', '.join(found) or 'none: start one with drp run LAKE CAMPAIGN.yaml'})"
            + ("; name one with --campaign" if found else "")
        )
    return name or found[0]
