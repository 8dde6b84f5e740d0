"""drp export-butler: datasets of a site as a Butler's export."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pipelines.cli.exchange import selection_options
from pipelines.cli.output import Bars, emit, format_option, lake_argument


@click.command("export-butler")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("directory", metavar="DIRECTORY", type=click.Path(path_type=Path))
@selection_options
@click.option(
    "--transfer", type=click.Choice(["copy", "link", "none"]), default="copy", show_default=True,
    help="How files get to DIRECTORY; none: the export names the site's own files.",
)  # fmt: skip
@click.option("--definitions", metavar="FILE", type=click.Path(path_type=Path), help="YAML: storage classes and formatters.")
@format_option
def command(
    lake: Path,
    site: str,
    directory: Path,
    collections: tuple[str, ...],
    types: tuple[str, ...],
    where: str,
    transfer: Literal["copy", "link", "none"],
    definitions: Path | None,
    form: str,
) -> None:
    """Write datasets of SITE to DIRECTORY as a Butler's export: export.yaml (format 1.0.2) and files.

    \b
    Examples:
      drp export-butler ./my-lake USDF ./out --collection wasp19/raw
      drp export-butler ./my-lake USDF ./out --type object --where "tract = 9469"
      butler import REPO ./out --transfer copy
    """
    from lake.butler import export_butler, read_definitions
    from lake.selection import Selection
    from lake.site import Lake

    opened = Lake.open(lake).site(site)
    with Bars() as bars:
        done = export_butler(
            opened,
            directory,
            Selection(collections or None, types or None, where),
            transfer=transfer,
            definitions=read_definitions(definitions),
            progress=lambda n, total: bars.update(site, "files", n, total),
        )
    emit(
        [
            *({"what": "dimension", "name": name, "count": count} for name, count in done.records.items() if count),
            *({"what": "dataset", "name": name, "count": count} for name, count in done.datasets.items()),
        ],
        form,
        ("what", "name", "count"),
    )
    datasets = sum(done.datasets.values())
    click.echo(
        f"{done.path}: {datasets} datasets in {done.collections} collections; {done.files} files, {done.bytes} bytes", err=True
    )
