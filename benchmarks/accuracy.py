"""Accuracy of a campaign on simulated raws, against the simulator's truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import Quantity

ABOUT = "Results of a simulated campaign against the truth: zero points, WCS, coadd fluxes, transients, variables."
OPTIONS = [
    click.Option(["--lake"], type=click.Path(path_type=Path), default="./drp-demo", show_default=True, help="The lake."),
    click.Option(["--campaign"], help="Which campaign, where the lake holds several."),
]


def run(scale: int, lake: Path, campaign: str | None) -> Iterator[Quantity]:
    """One quantity per figure; LakeError or a usage error where there is nothing to compare."""
    from lake.site import Lake, LakeError
    from pipelines import accuracy
    from pipelines import campaign as campaigns
    from pipelines.cli.output import known_campaign
    from pipelines.journal import definition_of

    try:
        opened = Lake.open(lake)
        name = known_campaign(opened, campaign)
        figures = accuracy.measure(opened, campaigns.parse(definition_of(opened, name), name).tracts)
    except LakeError as error:
        raise click.ClickException(str(error)) from None
    for figure in figures:
        yield Quantity(figure.name, figure.unit, figure.value, figure.wanted, figure.ok, count=figure.count)
