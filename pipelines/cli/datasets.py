"""drp datasets: find datasets by data ID, collection, time and place."""

from __future__ import annotations

from pathlib import Path

import click

from pipelines.cli.output import emit, format_option, lake_argument

SHOWN = ("bytes", "path")


@click.command("datasets")
@lake_argument
@click.argument("types", nargs=-1, metavar="[TYPE]...")
@click.option("--where", default="", metavar="CONDITION", help="Which data IDs and records; see below.")
@click.option("--collection", "collections", multiple=True, metavar="NAME", help="In this collection only (may be repeated).")
@click.option("--find-first", is_flag=True, help="Of each type and data ID, only what the first collection has.")
@click.option("--site", "sites", multiple=True, metavar="SITE", help="At this site only (repeat for more).")
@click.option("--time", "mjd", type=float, metavar="MJD", help="What is valid then in CALIBRATION collections (TAI).")
@click.option("--circle", metavar="RA,DEC,RADIUS", help="Whose footprint touches a circle (degrees).")
@click.option("--polygon", metavar="RA,DEC,...", help="Whose footprint touches a convex polygon (degrees).")
@click.option("--limit", type=click.IntRange(0), metavar="N", help="At most N datasets.")
@format_option
def command(
    lake: Path, types: tuple[str, ...], where: str, collections: tuple[str, ...], find_first: bool, sites: tuple[str, ...],
    mjd: float | None, circle: str | None, polygon: str | None, limit: int | None, form: str,
) -> None:  # fmt: skip
    """List datasets, one row for each site that has it. TYPE may be a pattern such as "deep_*". Exit code 1 if there is none.

    \b
    CONDITION compares columns of a dataset (instrument, visit, detector, band, tract, run, ...) and of its dimension
    records (visit.mjd_mid, exposure.observation_type, detector.purpose, ...) with numbers and 'texts':
      =  !=  <  <=  >  >=   BETWEEN a AND b   LIKE 'x%'   IS [NOT] NULL   IN (1, 4..9, 20..40:2)   AND OR NOT ( )
    tract and patch of an image are those that its footprint touches.

    \b
    Examples:
      drp datasets ./drp-demo raw --where "visit IN (1..9) AND tract = 9469 AND band != 'g'" --site USDF
      drp datasets ./drp-demo "deep_*" --circle 0.1,0.7,0.05 --format csv
      drp datasets ./drp-demo flat --collection demo/calib --time 61294.3
    """
    from lake import region
    from lake.search import REFERENCE, search
    from lake.site import Lake

    if circle and polygon:
        raise click.UsageError("give a circle or a polygon, not both")
    place = region.circle(circle) if circle else region.polygon(polygon) if polygon else None
    columns = [*REFERENCE, *SHOWN] if form == "table" else []
    found = search(
        Lake.open(lake), types, where, collections,
        sites=sites or None, find_first=find_first, mjd=mjd, region=place, limit=limit, columns=columns,
    )  # fmt: skip
    names = found.column_names
    if form == "table":  # what distinguishes them, and where they are
        used = [name for name in names[: names.index("bytes")] if found[name].null_count < found.num_rows]
        names = [name for name in used if name != "dataset_id"] + [*SHOWN, *(["collection"] if collections else [])]
    emit(found.select(names).to_pylist(), form, names)
    click.echo(f"{found.num_rows:,} dataset{'' if found.num_rows == 1 else 's'}", err=True)
    if not found.num_rows:
        raise SystemExit(1)
