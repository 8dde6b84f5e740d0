"""drp ingest-raws: register raw frames and calibrations at a site."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument

if TYPE_CHECKING:
    from lake.site import Lake
    from pipelines.ingest_raws import Target


@click.command("ingest-raws")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("files", metavar="FILES...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--campaign", metavar="NAME", required=True, help="Campaign the frames are for: its name or its YAML file.")
@click.option("--instrument", metavar="NAME", help="Instrument, where no campaign definition names it.")
@click.option("--skymap", metavar="NAME", help="Skymap, where no campaign definition names it.")
@click.option("--validity", type=float, default=30.0, show_default=True, help="Days around their night for which masters hold.")
@click.option("--all", "everything", is_flag=True, help="List every file's verdict, not only those refused.")
@format_option
def command(
    lake: Path,
    site: str,
    files: tuple[Path, ...],
    campaign: str,
    instrument: str | None,
    skymap: str | None,
    validity: float,
    everything: bool,
    form: str,
) -> None:
    """Bring raw frames into SITE: science frames as raws, bias, dark and flat frames as certified master frames.

    Every file gets a verdict of its own. One line per file that was refused is printed; the others go in all the same.
    The exit code is 1 when a file was refused. Giving the same files again changes nothing.

    \b
    Examples:
      drp ingest-raws ./my-lake USDF night1/*.fits --campaign wasp19
      drp ingest-raws ./my-lake USDF *.fits --campaign test --instrument SaraArc --skymap sara_rings
    """
    from lake.site import Lake
    from pipelines.ingest_raws import ingest_raws

    opened = Lake.open(lake)
    target = _target(opened, campaign, instrument, skymap)
    with Bars() as bars:
        verdicts = ingest_raws(
            opened,
            opened.site(site),
            files,
            target,
            lambda done, total: bars.update(site, "frames", done, total),
            validity,
        )
    refused = [v for v in verdicts if not v.ok]
    if everything or form != "table":
        shown = verdicts if everything else refused
        emit(
            [{"file": v.path, "verdict": v.verdict, "reason": v.reason} for v in shown],
            form,
            ("file", "verdict", "reason"),
        )
    for v in refused:
        click.echo(f"{v.path}: {v.verdict}: {v.reason}", err=True)
    counts = {name: sum(v.verdict == name for v in verdicts) for name in sorted({v.verdict for v in verdicts})}
    click.echo(f"{site}: {len(verdicts)} files: " + ", ".join(f"{n} {name}" for name, n in counts.items()), err=True)
    if refused:
        raise SystemExit(1)


def _target(lake: Lake, name: str, instrument: str | None, skymap: str | None) -> Target:
    """The campaign in the lake, or in a file, or one made of the options; UsageError when something is left open."""
    from types import SimpleNamespace

    from pipelines import campaign as campaigns
    from pipelines import journal

    if name in journal.campaigns(lake):
        found: Target = campaigns.parse(journal.definition_of(lake, name), name)
    elif instrument is not None and skymap is not None:
        return SimpleNamespace(name=name, instrument=instrument, skymap=skymap)
    else:
        try:
            found = campaigns.read(name)
        except campaigns.CampaignError as error:
            raise click.UsageError(f"{error}; give a campaign, or both --instrument and --skymap") from None
    for option, given, known in (("instrument", instrument, found.instrument), ("skymap", skymap, found.skymap)):
        if given is not None and given != known:
            raise click.UsageError(f"--{option} {given}: campaign {found.name} has {option} {known}")
    return found
