"""drp ingest: bring files of any dataset type into a site, as a table lists them."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument

COLUMNS = ("source", "dataset_type", "verdict", "reason", "path", "dataset_id")
MODES = ("copy", "link", "move", "direct")
STORAGE = ("fits", "json")


@click.command("ingest")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("table", metavar="TABLE_FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--mode", type=click.Choice(MODES), default="copy", show_default=True, help="What becomes of the files; see below.")
@click.option(
    "--prefix", metavar="DIR", type=click.Path(path_type=Path), default=Path(), help="Where relative sources are (default: here)."
)
@click.option(
    "--register", "declared", metavar="TYPE=DIMENSION,...[:fits|json]", multiple=True, help="Declare a dataset type first."
)
@click.option("--all", "everything", is_flag=True, help="List every file's verdict in a table, not only those refused or waiting.")
@format_option
def command(
    lake: Path, site: str, table: Path, mode: str, prefix: Path, declared: tuple[str, ...], everything: bool, form: str
) -> None:
    """Bring files into SITE and register each as a dataset. Exit code 1 when one was rejected, or waits for its dimension record.

    TABLE_FILE is CSV, Parquet or JSON lines (.csv, .parquet, .jsonl), a row per file: source (its path), dataset_type, run,
    and the data ID columns that are needed (instrument, visit, detector, tract, ...; what a visit or exposure implies may be
    left out). Optional: checksum (sha256 that the file must have), path (its place below the site's root).

    Every file gets a verdict of its own: accepted, present (it was there before), parked (waits for a dimension record) or
    rejected, with the reason. The same command again changes nothing, and continues what was interrupted.

    \b
    --mode copy    files stay where they are
           link    as hard links on the same file system, else copied
           move    a source is removed when its dataset is registered
           direct  files lie below the site's root already, and stay there

    \b
    Examples:
      drp ingest ./my-lake USDF files.csv
      drp ingest ./my-lake USDF night1.parquet --mode move --format csv > verdicts.csv
      drp ingest ./my-lake USDF masks.jsonl --prefix /data/masks --register "star_mask=instrument,visit,detector:fits"
    """
    from lake import intake, intake_table, registry
    from lake.site import Lake

    member = Lake.open(lake).site(site)
    files = intake_table.read(table, prefix)
    if declared:
        registry.register_dataset_types(member, dict(_type(text) for text in declared))
    with Bars() as bars:
        found = intake.take_in(member, files, mode, lambda done, total: bars.update(site, "files", done, total))  # type: ignore[arg-type]
    for name in ("source", "dataset_type"):
        found = found.append_column(name, files[name])
    rows = found.select(list(COLUMNS)).to_pylist()
    refused = [row for row in rows if row["verdict"] not in ("accepted", "present")]
    if form != "table" or everything:
        emit(rows, form, COLUMNS)
    elif refused:
        emit(refused, form, COLUMNS[:4])
    counts = {verdict: sum(row["verdict"] == verdict for row in rows) for verdict in sorted({row["verdict"] for row in rows})}
    said = ", ".join(f"{count:,} {verdict}" for verdict, count in counts.items())
    click.echo(f"{site}: {len(rows):,} file{'' if len(rows) == 1 else 's'}{': ' if said else ''}{said}", err=True)
    if refused:
        raise SystemExit(1)


def _type(text: str) -> tuple[str, tuple[list[str], str]]:
    """A dataset type as the option declares it: its name, its dimensions and its storage."""
    name, _, rest = text.partition("=")
    dimensions, _, storage = rest.partition(":")
    found = [each.strip() for each in dimensions.split(",") if each.strip()]
    if not name or not found or (storage or "fits") not in STORAGE:
        raise click.UsageError(f"--register {text!r}: must be TYPE=DIMENSION,...[:{'|'.join(STORAGE)}]")
    return name.strip(), (found, storage or "fits")
