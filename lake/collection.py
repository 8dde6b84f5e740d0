"""Collections: runs, tagged sets, chains that are searched in order, and calibrations that are valid for a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

import duckdb
import pyarrow as pa

import schemas
from lake import delta
from lake.site import LakeError, Site
from lake.sql import statement

KINDS = ("RUN", "TAGGED", "CALIBRATION", "CHAINED")


class CollectionError(LakeError):
    """A collection does not exist or is not as asked; the message names it."""


def register_collections(site: Site, collections: Iterable[tuple[str, str, str | None]]) -> int:
    """Make collections known: (name, kind, children), children comma separated for CHAINED; returns how many changed.

    A chain may get other children. CollectionError when a name is known as another kind, or the kind does not exist.
    """
    now = datetime.now(UTC)
    new = []
    with site.lock("collections"):
        known = collections_now(site)
        for name, kind, children in collections:
            if kind not in KINDS or (kind == "CHAINED") != (children is not None):
                raise CollectionError(f"collection {name}: kind {kind} with children {children!r}; only CHAINED has children")
            if name in known and known[name][0] != kind:
                raise CollectionError(f"site {site.name}: collection {name} is {known[name][0]}, not {kind}; use another name")
            if known.get(name) != (kind, children):
                new.append({"collection": name, "kind": kind, "children": children, "noted_at": now})
                known[name] = (kind, children)
        if new:
            delta.append(site, "collection", pa.Table.from_pylist(new, schema=schemas.table("collection").arrow))
    return len(new)


def collections_now(site: Site) -> dict[str, tuple[str, str | None]]:
    """The collections known at a site: name -> (kind, children)."""
    with delta.cursor() as con:
        rows = con.sql(
            f"SELECT collection, arg_max(kind, noted_at), arg_max_null(children, noted_at) "
            f"FROM ({delta.select(site, 'collection')}) GROUP BY collection ORDER BY collection"
        ).fetchall()
    return {name: (kind, children) for name, kind, children in rows}


def resolve(site: Site, names: Sequence[str]) -> list[tuple[str, str]]:
    """The collections that a search of ``names`` looks into, in order, as (name, kind); chains are opened.

    CollectionError names one that is unknown, or a chain that holds itself.
    """
    known = collections_now(site)
    found: dict[str, str] = {}

    def visit(name: str, above: tuple[str, ...]) -> None:
        if name not in known:
            raise CollectionError(f"site {site.name}: no collection {name!r}; known: {', '.join(known)}")
        if name in above:
            raise CollectionError(f"site {site.name}: the chain {' -> '.join([*above, name])} goes round in a circle")
        kind, children = known[name]
        if kind == "CHAINED":
            for child in filter(None, (children or "").split(",")):
                visit(child, (*above, name))
        else:
            found.setdefault(name, kind)

    for name in names:
        visit(name, ())
    return list(found.items())


def find(
    con: duckdb.DuckDBPyConnection,
    site: Site,
    names: Sequence[str],
    types: Iterable[str] | None = None,
    where: str = "true",
) -> duckdb.DuckDBPyRelation:
    """Datasets in the collections ``names``: of each type and data ID the one of the first collection that has it.

    Columns of ``dataset`` and ``collection``. Calibrations have a time to them: see calibrations().
    """
    searched = [(position, *each) for position, each in enumerate(resolve(site, names))]
    prune = None if types is None else "dataset_type IN (" + ", ".join(f"'{t}'" for t in sorted(types)) + ")"
    con.register(
        "searched",
        pa.Table.from_pylist([dict(zip(("position", "collection", "kind"), s, strict=True)) for s in searched]),
    )
    con.execute(f"CREATE OR REPLACE TEMP VIEW dataset AS FROM ({delta.select(site, 'dataset', prune)}) WHERE {prune or 'true'}")
    con.execute(f"CREATE OR REPLACE TEMP VIEW association AS {delta.select(site, 'association')}")
    return con.sql(f"FROM ({statement('collection_members')}) WHERE {where}")


def tag(site: Site, collection: str, dataset_ids: Iterable[str], removed: bool = False) -> None:
    """Take datasets into a TAGGED collection, or (``removed``) out of it."""
    if collections_now(site).get(collection, (None,))[0] != "TAGGED":
        raise CollectionError(f"site {site.name}: {collection} is not a TAGGED collection; register it first")
    ids = sorted(dataset_ids)
    now = datetime.now(UTC)
    rows = pa.table(
        {
            "collection": [collection] * len(ids),
            "dataset_id": ids,
            "removed": [removed] * len(ids),
            "noted_at": [now] * len(ids),
        },
        schema=schemas.table("association").arrow,
    )
    delta.append(site, "association", rows)


def certify(site: Site, collection: str, datasets: pa.Table, valid_begin: float, valid_end: float) -> int:
    """Make calibration datasets valid for valid_begin <= MJD (TAI) < valid_end; returns how many were not so already.

    ``datasets`` has dataset_id, dataset_type, instrument, detector, physical_filter. CollectionError when another
    dataset is valid at a time in between for the same detector and filter: nothing is certified then.
    """
    if not valid_begin < valid_end:
        raise CollectionError(f"collection {collection}: validity from {valid_begin} to {valid_end} is empty")
    if collections_now(site).get(collection, (None,))[0] != "CALIBRATION":
        raise CollectionError(f"site {site.name}: {collection} is not a CALIBRATION collection; register it first")
    keys = ["dataset_id", "dataset_type", "instrument", "detector", "physical_filter"]
    given = datasets.select([c for c in keys if c in datasets.column_names])
    for column, value in (("collection", collection), ("valid_begin", valid_begin), ("valid_end", valid_end)):
        given = given.append_column(column, pa.array([value] * given.num_rows))
    return add_certifications(site, schemas.conform("certification", given))


def add_certifications(site: Site, rows: pa.Table) -> int:
    """As certify(), for rows of the table ``certification`` (for instance those of another site)."""
    with site.lock("collections"), delta.cursor() as con:
        con.register("given", rows)
        delta.view(con, site, "certification")
        overlap = con.sql(statement("overlapping_certifications")).to_arrow_table().to_pylist()
        if overlap:
            raise CollectionError(f"site {site.name}: {_overlap(overlap[0])}")
        new = con.sql("SELECT DISTINCT * FROM given EXCEPT FROM certification ORDER BY ALL").to_arrow_table()
        if new.num_rows:
            delta.append(site, "certification", schemas.conform("certification", new))
    return int(new.num_rows)


def _overlap(row: dict[str, object]) -> str:
    which = " ".join(f"{c} {row[c]}" for c in ("instrument", "detector", "physical_filter") if row[c] is not None)
    return (
        f"{row['dataset_type']} {which}: {row['dataset_id']} for MJD {row['valid_begin']} to {row['valid_end']} "
        f"overlaps {row['other_id']} for {row['other_begin']} to {row['other_end']} in {row['collection']}"
    )


def calibrations(con: duckdb.DuckDBPyConnection, site: Site, collection: str, mjd: float) -> duckdb.DuckDBPyRelation:
    """Calibration datasets valid at a time: the columns of ``dataset``, with valid_begin and valid_end."""
    return con.sql(
        f"SELECT d.*, c.valid_begin, c.valid_end FROM ({delta.select(site, 'dataset')}) d "
        f"JOIN ({delta.select(site, 'certification')}) c USING (dataset_id) "
        "WHERE c.collection = $collection AND $mjd >= c.valid_begin AND $mjd < c.valid_end "
        "ORDER BY d.dataset_type, d.detector",
        params={"collection": collection, "mjd": mjd},
    )


def copy_definitions(source: Site, destination: Site, datasets: pa.Table) -> None:
    """Take to ``destination`` what registers of ``source`` say about these datasets' runs and validity."""
    ids = pa.table({"dataset_id": datasets["dataset_id"].unique()})
    runs = set(datasets["run"].unique().to_pylist())
    with delta.cursor() as con:
        con.register("wanted", ids)
        certified = con.sql(
            f"FROM ({delta.select(source, 'certification')}) SEMI JOIN wanted USING (dataset_id) ORDER BY ALL"
        ).to_arrow_table()
    runs |= set(certified["collection"].unique().to_pylist())
    known = collections_now(source)
    register_collections(destination, [(name, *known[name]) for name in sorted(runs) if name in known])
    if certified.num_rows:
        add_certifications(destination, schemas.conform("certification", certified))
