"""drp sql: read-only SQL over every table of every site."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import click

from pipelines.cli.output import emit, format_option, lake_argument


@click.command("sql")
@lake_argument
@click.argument("statement", metavar="[SQL]", required=False)
@click.option("-f", "--file", metavar="FILE", help="Read the statement from FILE (- for stdin).")
@click.option("--site", "sites", metavar="SITE", multiple=True, help="Look at this site's lake only (repeat for more).")
@format_option
def command(lake: Path, statement: str | None, file: str | None, sites: tuple[str, ...], form: str) -> None:
    """Ask anything of every table of every site, in DuckDB's SQL. Nothing can be changed.

    \b
    A table's name is the union over the sites with a leading column site; "SITE".table is one site's own.
    SHOW TABLES lists tables and views; rule_now, transfer_now, parked_now, quantum_state, step_now and the like
    are views of the present state. Words that SQL reserves need quotes, such as "group".

    \b
    Examples:
      drp sql ./drp-demo "SELECT site, dataset_type, count(*) FROM dataset GROUP BY ALL ORDER BY ALL"
      drp sql ./drp-demo "SELECT task, state, count(*) FROM quantum_state GROUP BY ALL" --format csv
      drp sql ./drp-demo "DESCRIBE object"
      drp sql ./drp-demo -f question.sql
    """
    if (statement is None) == (file is None):
        raise click.UsageError("give one statement, as an argument or with -f FILE")
    if file is not None:
        try:
            statement = sys.stdin.read() if file == "-" else Path(file).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise click.UsageError(f"{file}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    from lake import query

    with query.connect(lake, sites or None) as con:
        answer = con.table(statement or "")
    names = _unique(answer.column_names)
    rows = answer.rename_columns(names).to_pylist()
    emit([{name: _shown(value, form) for name, value in row.items()} for row in rows], form, names)


def _shown(value: Any, form: str) -> Any:
    """Numbers with the digits that an analyst needs; JSON knows no NaN and no infinity."""
    if not isinstance(value, float):
        return value
    if form == "json":
        return value if math.isfinite(value) else None
    return f"{value:.10g}" if form == "table" else value


def _unique(names: list[str]) -> list[str]:
    """Column names, a repeated one with its number (SELECT 1 AS a, 2 AS a)."""
    return [name if name not in names[:i] else f"{name}_{names[:i].count(name) + 1}" for i, name in enumerate(names)]
