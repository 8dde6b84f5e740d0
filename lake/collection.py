"""Collections: runs, tagged sets, chains that are searched in order, and calibrations that are valid for a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta
from lake.clock import next_event
from lake.site import LakeError, Site
from lake.sql import statement

KINDS = ("RUN", "TAGGED", "CALIBRATION", "CHAINED")


class CollectionError(LakeError):
    """A collection does not exist or is not as asked; the message names it."""


def register_collections(site: Site, collections: Iterable[tuple[str, str, str | None]]) -> int:
    """Make collections known: (name, kind, children), children comma separated for CHAINED; returns how many changed.

    A chain may get other children. CollectionError when a name is known as another kind, or the kind does not exist.
    """
    with site.lock("collections"):
        return _register(site, collections)


def _register(site: Site, collections: Iterable[tuple[str, str, str | None]]) -> int:
    now, new, known = next_event(site, "collection"), [], collections_now(site)
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


def chain(
    site: Site, name: str, children: Sequence[str], mode: Literal["redefine", "extend", "prepend", "remove"] = "redefine"
) -> list[str]:
    """Make a CHAINED collection search ``children`` in this order, or add them to its own, or take them out; what it has then.

    CollectionError when a child is not known or not in it, when nothing is left, or when the chain would hold itself;
    nothing changes then.
    """
    with site.lock("collections"):
        known = collections_now(site)
        kind, text = known.get(name, ("CHAINED", ""))
        held = [child for child in (text or "").split(",") if child and child not in children]
        unknown = [child for child in children if child not in known]
        if unknown:
            raise CollectionError(f"site {site.name}: no collection {unknown[0]!r}; known: {', '.join(known) or 'none'}")
        given = list(dict.fromkeys(children))
        if mode == "remove" and (absent := [child for child in given if child not in (text or "").split(",")]):
            raise CollectionError(f"site {site.name}: {absent[0]} is not in the chain {name}; it has {text or 'nothing'}")
        now = {"redefine": given, "extend": held + given, "prepend": given + held, "remove": held}[mode]
        if not now or "," in name:
            raise CollectionError(
                f"site {site.name}: {name}: " + ("a name has no comma" if now else "a chain has children; none are left")
            )
        if kind == "CHAINED":
            _open(site, known | {name: ("CHAINED", ",".join(now))}, [name])
        _register(site, [(name, "CHAINED", ",".join(now))])
    return now


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
    return _open(site, collections_now(site), names)


def _open(site: Site, known: Mapping[str, tuple[str, str | None]], names: Sequence[str]) -> list[tuple[str, str]]:
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


def install_members(
    con: duckdb.DuckDBPyConnection, site: Site, names: Sequence[str], types: Iterable[str] | None = None, mjd: float | None = None
) -> None:
    """Make the table ``members`` on ``con``: what a search of collections looks at (lake/sql/collection_members.sql).

    Columns of ``dataset``, ``collection``, ``place`` (1: found first) and ``shadowed_by``. CALIBRATION collections are
    looked into where a time is given: MJD (TAI).
    """
    searched = [{"position": n, "collection": name, "kind": kind} for n, (name, kind) in enumerate(resolve(site, names))]
    if mjd is None and all(row["kind"] == "CALIBRATION" for row in searched):
        raise CollectionError(f"{', '.join(names)}: what is valid in a CALIBRATION collection depends on the time: give one")
    prune = "true" if types is None else "dataset_type IN (" + ", ".join(f"'{t}'" for t in sorted(types)) + ")"
    con.register("searched", pa.Table.from_pylist(searched))
    source = delta.select(site, "dataset", None if types is None else prune)
    con.execute(f"CREATE OR REPLACE TEMP VIEW dataset AS FROM ({source}) WHERE {prune}")
    con.execute(f"CREATE OR REPLACE TEMP VIEW association AS {delta.select(site, 'association')}")
    con.execute(f"CREATE OR REPLACE TEMP VIEW certification_now AS {certified(site)}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE members AS {statement('collection_members')}", {"mjd": mjd})


def find(
    con: duckdb.DuckDBPyConnection,
    site: Site,
    names: Sequence[str],
    types: Iterable[str] | None = None,
    where: str = "true",
    mjd: float | None = None,
) -> duckdb.DuckDBPyRelation:
    """Datasets in the collections ``names``: of each type and data ID the one of the first collection that has it.

    Columns of ``dataset`` and ``collection``.
    """
    install_members(con, site, names, types, mjd)
    return con.sql(f"SELECT * EXCLUDE (place, shadowed_by) FROM members WHERE place = 1 AND ({where})")


def shadowed(
    con: duckdb.DuckDBPyConnection, site: Site, names: Sequence[str], types: Iterable[str] | None = None
) -> duckdb.DuckDBPyRelation:
    """Datasets that a search does not find because a collection before theirs (``shadowed_by``) has another one."""
    install_members(con, site, names, types)
    return con.sql("SELECT * EXCLUDE (place) FROM members WHERE shadowed_by IS NOT NULL ORDER BY dataset_type, dataset_id")


def associate(site: Site, collection: str, dataset_ids: Iterable[str], make: bool = False) -> int:
    """Take datasets into a TAGGED collection (with ``make``, also one that is not known yet); returns how many were not in it.

    CollectionError names a dataset that is not registered, or two of one type and data ID, of which a collection can
    have one only; nothing changes then.
    """
    return _associate(site, collection, dataset_ids, removed=False, make=make)


def disassociate(site: Site, collection: str, dataset_ids: Iterable[str]) -> int:
    """Take datasets out of a TAGGED collection; returns how many were in it."""
    return _associate(site, collection, dataset_ids, removed=True)


def _associate(site: Site, collection: str, dataset_ids: Iterable[str], removed: bool, make: bool = False) -> int:
    given = pa.table({"dataset_id": pa.array(sorted(set(dataset_ids)), pa.string())})
    with site.lock("collections"), delta.cursor() as con:
        _expect(site, collection, "TAGGED", make)
        con.register("given", given)
        for table in ("association", "dataset"):
            delta.view(con, site, table)
        if not removed:
            unknown = con.sql("FROM given ANTI JOIN dataset USING (dataset_id) ORDER BY 1 LIMIT 1").fetchall()
            if unknown:
                raise CollectionError(f"site {site.name}: dataset {unknown[0][0]} is not registered; nothing was associated")
            clash = con.sql(statement("tag_conflicts"), params={"collection": collection}).fetchall()
            if clash:
                kind, one, run, other, other_run = clash[0]
                raise CollectionError(
                    f"site {site.name}: {collection} cannot hold both {kind} {one} of {run} and {other} of {other_run}: "
                    "they have the same data ID; disassociate one first"
                )
        changed = con.sql(
            "SELECT $collection AS collection, dataset_id, $removed AS removed, $now::TIMESTAMPTZ AS noted_at FROM given "
            "LEFT JOIN (SELECT dataset_id, arg_max(removed, noted_at) AS out FROM association WHERE collection = $collection "
            "GROUP BY 1) USING (dataset_id) WHERE coalesce(out, true) <> $removed ORDER BY dataset_id",
            params={"collection": collection, "removed": removed, "now": next_event(site, "association")},
        ).to_arrow_table()
        if make:
            _register(site, [(collection, "TAGGED", None)])
        delta.append(site, "association", schemas.conform("association", changed))
    return int(changed.num_rows)


def _expect(site: Site, collection: str, kind: str, make: bool = False) -> None:
    found = collections_now(site).get(collection, (None, None))[0]
    if found != kind and not (make and found is None):
        found = found or "not registered"
        raise CollectionError(f"site {site.name}: {collection} is not a {kind} collection ({found}); register it first")


# -- calibrations ------------------------------------------------------------------------------------------------------


def certify(site: Site, collection: str, datasets: pa.Table, valid_begin: float, valid_end: float, make: bool = False) -> int:
    """Make calibration datasets valid for valid_begin <= MJD (TAI) < valid_end; returns how many were not so already.

    With ``make``, in a CALIBRATION collection that need not be known yet.
    ``datasets`` has dataset_id, dataset_type, instrument, detector, physical_filter. CollectionError when another
    dataset is valid at a time in between for the same detector and filter: nothing is certified then.
    """
    if not valid_begin < valid_end:
        raise CollectionError(f"collection {collection}: validity from {valid_begin} to {valid_end} is empty")
    _expect(site, collection, "CALIBRATION", make)
    keys = ["dataset_id", "dataset_type", "instrument", "detector", "physical_filter"]
    given = datasets.select([c for c in keys if c in datasets.column_names])
    for column, value in (("collection", collection), ("valid_begin", valid_begin), ("valid_end", valid_end)):
        given = given.append_column(column, pa.array([value] * given.num_rows))
    return add_certifications(site, schemas.conform("certification", given), collection if make else None)


def add_certifications(site: Site, rows: pa.Table, make: str | None = None) -> int:
    """As certify(), for rows of the table ``certification`` that say what is valid (removed and noted_at are set here)."""
    with site.lock("collections"), delta.cursor() as con:
        con.register("given", rows.drop_columns(["removed", "noted_at"]))
        delta.view(con, site, "certification")
        noted = next_event(site, "certification")
        con.execute(f"CREATE OR REPLACE TEMP VIEW certification AS {certified(site)}")
        overlap = con.sql(statement("overlapping_certifications")).to_arrow_table().to_pylist()
        if overlap:
            raise CollectionError(f"site {site.name}: {_overlap(overlap[0])}")
        new = con.sql(
            "SELECT *, false AS removed, $noted::TIMESTAMPTZ AS noted_at "
            "FROM (SELECT DISTINCT * FROM given EXCEPT FROM certification) ORDER BY ALL",
            params={"noted": noted},
        ).to_arrow_table()
        if make is not None:
            _register(site, [(make, "CALIBRATION", None)])
        delta.append(site, "certification", schemas.conform("certification", new))
    return int(new.num_rows)


def decertify(
    site: Site,
    collection: str,
    dataset_type: str,
    begin: float = -math.inf,
    end: float = math.inf,
    dataset_ids: Iterable[str] | None = None,
) -> int:
    """End the validity of a type's datasets (or some of them) for begin <= MJD (TAI) < end; returns how many ranges changed.

    What a range has outside of that time stays valid. All in one commit; what was valid before can still be seen in the
    events.
    """
    if not begin < end:
        raise CollectionError(f"collection {collection}: the time from {begin} to {end} is empty")
    chosen = None if dataset_ids is None else sorted(set(dataset_ids))
    with site.lock("collections"), delta.cursor() as con:
        _expect(site, collection, "CALIBRATION")
        delta.view(con, site, "certification")
        noted = next_event(site, "certification")
        con.execute(f"CREATE OR REPLACE TEMP VIEW certification_now AS {certified(site)}")
        events = con.sql(
            statement("decertification"),
            params={"collection": collection, "type": dataset_type, "begin": begin, "end": end, "ids": chosen, "noted": noted},
        ).to_arrow_table()
        delta.append(site, "certification", schemas.conform("certification", events))
    return int(pc.sum(events["removed"]).as_py() or 0)


def certified(site: Site) -> str:
    """SQL for the ranges of validity as they are now: the table ``certification`` without its events."""
    events = f"SELECT true AS site, * FROM ({delta.select(site, 'certification')})"
    return f"WITH certification AS ({events}) SELECT * EXCLUDE (site) FROM ({statement('views/certification_now')})"


def install_memberships(con: duckdb.DuckDBPyConnection, site: Site) -> None:
    """Make the views association_now (collection, dataset_id) and certification_now on ``con``: what belongs to TAGGED and
    CALIBRATION collections now."""
    con.execute(
        "CREATE OR REPLACE TEMP VIEW association_now AS SELECT collection, dataset_id "
        f"FROM ({delta.select(site, 'association')}) GROUP BY ALL HAVING NOT arg_max(removed, noted_at)"
    )
    con.execute(f"CREATE OR REPLACE TEMP VIEW certification_now AS {certified(site)}")


def contents(site: Site, name: str) -> pa.Table:
    """What a RUN or TAGGED collection holds, as dataset_type, datasets, bytes; or the ranges of a CALIBRATION collection."""
    kind = collections_now(site).get(name, ("RUN", None))[0]
    with delta.cursor() as con:
        install_memberships(con, site)
        if kind == "CALIBRATION":
            return con.sql(
                "SELECT dataset_type, instrument, detector, physical_filter, valid_begin, valid_end, dataset_id "
                "FROM certification_now WHERE collection = $name ORDER BY ALL",
                params={"name": name},
            ).to_arrow_table()
        test = "run = $name" if kind == "RUN" else "dataset_id IN (SELECT dataset_id FROM association_now WHERE collection = $name)"
        return con.sql(
            "SELECT dataset_type, count(*) AS datasets, sum(bytes)::BIGINT AS bytes "
            f"FROM ({delta.select(site, 'dataset')}) WHERE {test} GROUP BY dataset_type ORDER BY dataset_type",
            params={"name": name},
        ).to_arrow_table()


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
        f"JOIN ({certified(site)}) c USING (dataset_id) "
        "WHERE c.collection = $collection AND $mjd >= c.valid_begin AND $mjd < c.valid_end "
        "ORDER BY d.dataset_type, d.detector",
        params={"collection": collection, "mjd": mjd},
    )
