"""drp import-butler: a Butler's export into a site."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from pipelines.cli.exchange import show
from pipelines.cli.output import Bars, format_option, lake_argument


@click.command("import-butler")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("export", metavar="EXPORT", type=click.Path(path_type=Path))
@click.option(
    "--transfer", type=click.Choice(["copy", "link", "in-place"]), default="copy", show_default=True,
    help="How files get into the site; in-place: they lie below the site's files already.",
)  # fmt: skip
@click.option("--anywhere", is_flag=True, help="Take files that lie outside the directory of EXPORT too.")
@click.option("--definitions", metavar="FILE", type=click.Path(path_type=Path), help="YAML: values that a Butler does not know.")
@format_option
def command(
    lake: Path, site: str, export: Path, transfer: Literal["copy", "link", "in-place"], anywhere: bool,
    definitions: Path | None, form: str,
) -> None:  # fmt: skip
    """Take a Butler's EXPORT (export.yaml, or its directory) into SITE.

    Everything in it is counted with a verdict; what is not here afterwards has the reason. The exit code is 1 then.
    Giving the same export again changes nothing.

    \b
    Examples:
      drp import-butler ./my-lake USDF ./from-butler
      drp import-butler ./my-lake USDF ./from-butler/export.yaml --transfer link --definitions detectors.yaml
    """
    from lake.butler import import_butler, read_definitions
    from lake.site import Lake

    opened = Lake.open(lake).site(site)
    with Bars() as bars:
        outcomes = import_butler(
            opened,
            export,
            transfer=transfer,
            anywhere=anywhere,
            definitions=read_definitions(definitions),
            progress=lambda n, total: bars.update(site, "datasets", n, total),
        )
    show(site, outcomes, form)
