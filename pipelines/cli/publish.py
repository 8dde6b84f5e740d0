"""drp publish: send a release to a distribution site, show what was published, withdraw it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument

if TYPE_CHECKING:
    from lake.site import Lake, Site

COLUMNS = ("release", "destination", "source", "state", "datasets", "files", "bytes", "collections", "who", "why", "noted_at")


@click.command("publish")
@lake_argument
@click.argument("release", metavar="[RELEASE]", required=False)
@click.option("--to", "destination", metavar="SITE", help="The distribution site.")
@click.option("--from", "source", metavar="SITE", help="The site that has the datasets (default: the central site).")
@click.option("--collection", "collections", metavar="NAME", multiple=True, help="RUN, TAGGED or CHAINED; may be repeated.")
@click.option("--types", metavar="TYPE,...", help="Dataset types (default: all).")
@click.option("--tracts", metavar="N,...", help="Tracts (default: all, and what has no tract).")
@click.option("--where", default="true", show_default=True, metavar="SQL", help="Which of them: a condition over table dataset.")
@click.option("--withdraw", is_flag=True, help="End RELEASE at the site, and delete what nothing else wants there.")
@click.option("--why", metavar="TEXT", help="The reason of a withdrawal, kept with it.")
@click.option("--manifest", is_flag=True, help="List what RELEASE consists of: types, ids, paths, sizes, checksums.")
@format_option
def command(
    lake: Path, release: str | None, destination: str | None, source: str | None, collections: tuple[str, ...],
    types: str | None, tracts: str | None, where: str, withdraw: bool, why: str | None, manifest: bool, form: str,
) -> None:  # fmt: skip
    """Send datasets to a distribution site (an IDAC) under the name RELEASE; without RELEASE, list what is published.

    What is sent is frozen in the manifest of a rule; the same command continues an interrupted one. A distribution site is a
    site of the lake that processes no tracts: to add one, write it under 'sites:' in LAKE/lake.yaml and make its directory. Exit
    code 1 when something could not be sent, or has to stay.

    \b
    Examples:
      drp publish ./drp-demo DP1 --to IDAC-UK --collection dp1 --types object,deep_coadd
      drp publish ./drp-demo DP1-9469 --to IDAC-UK --tracts 9469 --types object,object_forced_source
      drp publish ./drp-demo
      drp publish ./drp-demo DP1 --to IDAC-UK --manifest --format csv
      drp publish ./drp-demo DP1 --to IDAC-UK --withdraw --why "superseded by DP2"
    """
    from lake import release as releases
    from lake.site import Lake
    from pipelines.journal import who

    opened = Lake.open(lake)
    if release is None:
        if withdraw or manifest or destination:
            raise click.UsageError("name the RELEASE")
        emit([vars(each) for each in releases.releases(opened)], form, COLUMNS)
        return
    there = _destination(opened, release, destination)
    if manifest:
        found = [each for each in releases.releases(opened) if (each.release, each.destination) == (release, there.name)]
        if not found:
            raise click.UsageError(f"no release {release!r} at {there.name}; drp publish {lake} lists them")
        rows = releases.manifest(opened, found[0])
        emit(rows.to_pylist(), form, rows.column_names)
        return
    if withdraw:
        now = releases.withdraw(opened, release, there, who(), why)
    else:
        here = opened.site(source) if source else opened.central
        kinds = _types(here, types)
        condition = f"({where}) AND tract IN ({', '.join(map(str, _tracts(tracts)))})" if tracts else where
        with Bars() as bars:
            now = releases.publish(
                opened, release, here, there, collections, kinds, condition, who(),
                lambda done, total: bars.update(there.name, f"publish {release}", done, total),
            )  # fmt: skip
    emit([vars(now)], form, COLUMNS[:-1])
    if now.state not in (releases.PUBLISHED, releases.WITHDRAWN):
        raise SystemExit(1)


def _destination(lake: Lake, release: str, name: str | None) -> Site:
    """The distribution site; UsageError where it is none, or is not there."""
    from pipelines import campaign as campaigns
    from pipelines.journal import campaigns as known
    from pipelines.journal import definition_of

    if name is None:
        raise click.UsageError(f"--to: name the distribution site of {release}; the lake's sites are {', '.join(lake.sites)}")
    if name not in lake.sites:
        raise click.UsageError(
            f"--to: no site {name!r} in {lake.root}; its sites are {', '.join(lake.sites)}. To add one, write '{name}: {{}}' under "
            f"'sites:' in {lake.root}/lake.yaml and mkdir -p {lake.root / name}/tables (a new lake gets its sites by drp init)"
        )
    for each in known(lake):
        share = campaigns.parse(definition_of(lake, each), each).sites.get(name)
        if share is not None and share.processed:
            raise click.UsageError(f"--to: {name} processes tracts of campaign {each}; publish to a site that processes none")
    return lake.sites[name]


def _types(site: Site, types: str | None) -> list[str] | None:
    from lake import registry

    if types is None:
        return None
    wanted, known = [kind.strip() for kind in types.split(",") if kind.strip()], registry.dataset_types(site)
    unknown = [kind for kind in wanted if kind not in known]
    if unknown or not wanted:
        raise click.UsageError(
            f"dataset type {(unknown or [types])[0]!r} is not known at {site.name}; known: {', '.join(sorted(known))}"
        )
    return wanted


def _tracts(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--tracts {text!r}: must be tract numbers, separated by commas") from None
