"""drp collection: list and show collections; tag, certify and chain."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pipelines.cli.output import emit, format_option, lake_argument

if TYPE_CHECKING:
    import pyarrow as pa

    from lake.site import Site

SHOWN = {
    "CHAINED": ("site", "collection", "position", "child", "kind"),
    "CALIBRATION": ("site", "collection", "dataset_type", "instrument", "detector", "physical_filter", "valid_begin", "valid_end",
                    "dataset_id"),
}  # fmt: skip
COUNTED = ("site", "collection", "dataset_type", "datasets", "bytes")
KINDS = ("RUN", "TAGGED", "CALIBRATION", "CHAINED")


@click.group("collection")
def command() -> None:
    """Collections of datasets: list, show, tag, certify and chain them.

    RUN: where datasets were made; TAGGED: chosen ones; CALIBRATION: valid for a time; CHAINED: others, searched in order.
    A collection belongs to a site; rules bring it to others with its datasets.

    \b
    Examples:
      drp collection list ./drp-demo
      drp collection associate ./drp-demo USDF best raw --where "visit IN (1..9)"
      drp collection certify ./drp-demo USDF demo/calib flat --where "band = 'r'" --begin 61294 --end 61324
      drp collection chain ./drp-demo USDF demo demo/step3 demo/step1 demo/raw
    """


def chosen(function: Callable[..., Any]) -> Callable[..., Any]:
    """The arguments that say which datasets: as for drp datasets."""
    for decorate in reversed((
        click.argument("site", metavar="SITE"),
        click.argument("name", metavar="COLLECTION"),
        click.argument("types", nargs=-1, metavar="[TYPE]..."),
        click.option("--where", default="", metavar="CONDITION", help="Which of them: as in drp datasets."),
        click.option("--collection", "collections", multiple=True, metavar="NAME", help="What is in this one (may be repeated)."),
    )):  # fmt: skip
        function = decorate(function)
    return function


@command.command("list")
@lake_argument
@click.option("--site", "sites", multiple=True, metavar="SITE", help="At this site only (repeat for more).")
@click.option("--kind", type=click.Choice(KINDS, case_sensitive=False), help="Of this kind only.")
@format_option
def list_(lake: Path, sites: tuple[str, ...], kind: str | None, form: str) -> None:
    """List the collections of every site, with what chains search.

    \b
    Example:
      drp collection list ./drp-demo --kind CHAINED --site USDF
    """
    from lake import collection
    from lake.site import Lake

    opened = Lake.open(lake)
    rows = [
        {"site": site.name, "collection": name, "kind": known, "children": children}
        for site in ([opened.site(name) for name in sites] or opened.sites.values())
        for name, (known, children) in collection.collections_now(site).items()
        if kind in (None, known)
    ]
    emit(rows, form, ("site", "collection", "kind", "children"))


@command.command("show")
@lake_argument
@click.argument("name", metavar="COLLECTION")
@click.option("--site", metavar="SITE", help="As it is at this site (default: the central site).")
@format_option
def show(lake: Path, name: str, site: str | None, form: str) -> None:
    """Show what a collection holds.

    Of RUN and TAGGED: how many datasets of each type; of CALIBRATION: ranges of validity, MJD (TAI); of CHAINED: what it
    searches, in order.

    \b
    Examples:
      drp collection show ./drp-demo demo
      drp collection show ./drp-demo demo/calib --site FRDF --format csv
    """
    from lake import collection
    from lake.site import Lake

    opened = Lake.open(lake)
    member = opened.site(site) if site else opened.central
    known = collection.collections_now(member)
    collection.resolve(member, [name])
    kind, children = known[name]
    if kind == "CHAINED":
        each = [child for child in (children or "").split(",") if child]
        rows = [{"position": n, "child": child, "kind": known[child][0]} for n, child in enumerate(each, 1)]
    else:
        rows = collection.contents(member, name).to_pylist()
    emit([{"site": member.name, "collection": name} | row for row in rows], form, SHOWN.get(kind, COUNTED))


@command.command("associate")
@lake_argument
@chosen
def associate(lake: Path, site: str, name: str, types: tuple[str, ...], where: str, collections: tuple[str, ...]) -> None:
    """Take datasets into a TAGGED collection, made where it is not known. Exit code 1 if there is none of this choice.

    Of each dataset type and data ID a collection has one dataset; with another one everything is refused, and both are named.

    \b
    Example:
      drp collection associate ./drp-demo USDF best raw --where "visit IN (1..9)" --collection demo/raw
    """
    from lake import collection

    member, found = _chosen(lake, site, types, where, collections)
    changed = collection.associate(member, name, found["dataset_id"].to_pylist(), make=True)
    _say(name, site, f"{changed:,} of {found.num_rows:,} datasets added")


@command.command("disassociate")
@lake_argument
@chosen
def disassociate(lake: Path, site: str, name: str, types: tuple[str, ...], where: str, collections: tuple[str, ...]) -> None:
    """Take datasets out of a TAGGED collection; they stay at SITE. Exit code 1 if there is none of this choice.

    \b
    Example:
      drp collection disassociate ./drp-demo USDF best raw --where "visit = 7"
    """
    from lake import collection

    member, found = _chosen(lake, site, types, where, collections or (name,))
    changed = collection.disassociate(member, name, found["dataset_id"].to_pylist())
    _say(name, site, f"{changed:,} of {found.num_rows:,} datasets taken out")


@command.command("certify")
@lake_argument
@chosen
@click.option("--begin", type=float, required=True, metavar="MJD", help="Valid from this time (TAI) on.")
@click.option("--end", type=float, required=True, metavar="MJD", help="Valid until before this time (TAI).")
def certify(
    lake: Path, site: str, name: str, types: tuple[str, ...], where: str, collections: tuple[str, ...], begin: float, end: float
) -> None:
    """Make calibration datasets valid for a time, in a CALIBRATION collection, made where it is not known.

    They are valid from --begin until before --end. A time for which another dataset of the same detector and filter is valid
    is refused: decertify that first.

    \b
    Example:
      drp collection certify ./drp-demo USDF demo/calib flat --where "band = 'r'" --begin 61294 --end 61324
    """
    from lake import collection

    _time(begin, end)
    member, found = _chosen(lake, site, types, where, collections)
    changed = collection.certify(member, name, found, begin, end, make=True)
    _say(name, site, f"{changed:,} of {found.num_rows:,} datasets certified for MJD {begin} to {end}")


@command.command("decertify")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("name", metavar="COLLECTION")
@click.argument("kind", metavar="TYPE")
@click.option("--where", metavar="CONDITION", help="Only these of them: as in drp datasets.")
@click.option("--begin", type=float, default=-math.inf, metavar="MJD", help="From this time (TAI) on (default: ever).")
@click.option("--end", type=float, default=math.inf, metavar="MJD", help="Until before this time (TAI; default: ever).")
def decertify(lake: Path, site: str, name: str, kind: str, where: str | None, begin: float, end: float) -> None:
    """End the validity of datasets for a time. Exit code 1 if nothing was valid then.

    What they have before --begin and after --end stays.

    \b
    Example:
      drp collection decertify ./drp-demo USDF demo/calib flat --where "detector = 3" --begin 61300
    """
    from lake import collection

    _time(begin, end)
    member, found = _chosen(lake, site, (kind,), where or "", ())
    ids = None if where is None else found["dataset_id"].to_pylist()
    changed = collection.decertify(member, name, kind, begin, end, ids)
    _say(name, site, f"{changed:,} range{'' if changed == 1 else 's'} of {kind} ended or shortened")
    if not changed:
        raise SystemExit(1)


@command.command("chain")
@lake_argument
@click.argument("site", metavar="SITE")
@click.argument("name", metavar="COLLECTION")
@click.argument("children", nargs=-1, required=True, metavar="CHILD...")
@click.option(
    "--mode", type=click.Choice(["redefine", "extend", "prepend", "remove"]), default="redefine", show_default=True,
    help="Search CHILD... alone, after or before what it has, or no longer.",
)  # fmt: skip
def chain(lake: Path, site: str, name: str, children: tuple[str, ...], mode: str) -> None:
    """Let a CHAINED collection, made where it is not known, search others in this order.

    \b
    Examples:
      drp collection chain ./drp-demo USDF demo demo/step3 demo/step1 demo/raw
      drp collection chain ./drp-demo USDF demo demo/step3b --mode prepend
    """
    from lake import collection
    from lake.site import Lake

    now = collection.chain(Lake.open(lake).site(site), name, children, mode)  # type: ignore[arg-type]
    _say(name, site, f"searches {', '.join(now)}")


def _chosen(lake: Path, site: str, types: tuple[str, ...], where: str, collections: tuple[str, ...]) -> tuple[Site, pa.Table]:
    """The site and the datasets; ends with exit code 1 where there is none, and is misuse where nothing says which."""
    from lake.search import search
    from lake.site import Lake

    opened = Lake.open(lake)
    member = opened.site(site)
    if not (types or where or collections):
        raise click.UsageError("say which datasets: TYPE, --where, --collection")
    found = search(opened, types, where, collections, sites=[site])
    if not found.num_rows:
        click.echo(f"drp: {site} has no dataset of this choice; drp datasets {lake} shows what there is", err=True)
        raise SystemExit(1)
    return member, found


def _time(begin: float, end: float) -> None:
    if not begin < end:
        raise click.UsageError(f"--begin {begin} --end {end}: the time between them is empty")


def _say(name: str, site: str, what: str) -> None:
    click.echo(f"{name} at {site}: {what}", err=True)
