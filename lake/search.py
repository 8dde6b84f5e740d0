"""Find datasets: by a condition, in collections, at a time, in a region of the sky."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

import schemas
from lake import collection, registry
from lake.lookup import ORDER, look_up
from lake.query import Connection, connect, identifier
from lake.region import LARGEST, Region, vectors
from lake.site import Lake, LakeError, Site
from lake.sql import statement
from lake.where import RECORDS, SKY, Condition, parse

#: What names a dataset, as others return references to datasets.
REFERENCE = ("dataset_id", "dataset_type", "run", *schemas.DATA_ID)
#: Footprints: the table, and the data ID columns that it has corners for.
FOOTPRINTS = {
    "visit_detector_region": ("instrument", "visit", "detector"),
    "patch": ("skymap", "tract", "patch"),
    "tract": ("skymap", "tract"),
}


class SearchError(LakeError):
    """What is looked for cannot exist; the message names it and what there is."""


def search(
    lake: Lake,
    types: Sequence[str] = (),
    where: str = "",
    collections: Sequence[str] = (),
    *,
    sites: Iterable[str] | None = None,
    find_first: bool = False,
    mjd: float | None = None,
    region: Region | None = None,
    limit: int | None = None,
    columns: Sequence[str] = (),
) -> pa.Table:
    """Datasets registered at some or all sites: ``site``, the columns of ``dataset``, and ``collection`` where some are given.

    ``types`` are names or patterns (``deep_*``; none: all), ``where`` is a condition (lake.where), ``mjd`` the time for
    which CALIBRATION collections are looked into, ``region`` what a dataset's footprint must touch. With ``find_first``,
    of each type and data ID only the one in the first collection that has it. ``columns`` of ``dataset`` are returned (none
    named: all), which costs less where they are few, such as those of a REFERENCE. LakeError names what is unknown or wrong.
    """
    condition = parse(where)
    if (find_first or mjd is not None) and not collections:
        raise SearchError("find-first and a time need collections to look into: name one")
    chosen = [lake.site(name) for name in sites] if sites else list(lake.sites.values())
    known = {site.name: set(registry.dataset_types(site)) for site in chosen}
    wanted = _types(types, set().union(*known.values()))
    with_collections = [s for s in chosen if set(collections) <= set(collection.collections_now(s))] if collections else chosen
    parts = []
    for site in with_collections or chosen[:1]:
        with connect(lake, [site.name], site.name) as con:
            parts.append(look(con, site, wanted, condition, collections, find_first, mjd, region, limit, columns))
    return pa.concat_tables(parts).slice(0, limit)


def look(
    con: Connection,
    site: Site,
    types: Sequence[str] | None,
    condition: Condition,
    collections: Sequence[str] = (),
    find_first: bool = False,
    mjd: float | None = None,
    region: Region | None = None,
    limit: int | None = None,
    columns: Sequence[str] = (),
) -> pa.Table:
    """As search(), at one site, on a connection that has it for its home and may stay open; ``types`` are names (None: all)."""
    unknown = [name for name in columns if name not in schemas.table("dataset").arrow.names]
    if unknown:
        raise SearchError(f"dataset has no column {unknown[0]!r}; it has {', '.join(schemas.table('dataset').arrow.names)}")
    if condition.demands is not None and not collections and region is None:
        found = look_up(con, site.name, types, condition.demands, columns or schemas.table("dataset").arrow.names)
        if found is not None:
            found = found.slice(0, limit)
            return found.add_column(0, "site", pa.repeat(site.name, found.num_rows))
    params: dict[str, Any] = dict(condition.params)
    tests = [condition.sql]
    source = f"SELECT * FROM {identifier(site.name)}.dataset"
    if types is not None:
        source += f" WHERE dataset_type IN ({', '.join(f'$t{n}' for n in range(len(types))) or 'NULL'})"
        params |= {f"t{n}": name for n, name in enumerate(types)}
    steps, chosen = "", f"({source})"
    if collections:
        steps, chosen = _members(site, source, collections, find_first, params | {"mjd": mjd}, params), "chosen"
    if region is not None:
        tests.append(_touches(con, region, params))
    joins = "".join(f" LEFT JOIN {table} ON {_equal(table)}" for table in sorted(condition.records))
    test = " AND ".join(f"({each})" for each in tests)
    if condition.on_sky:
        steps = f"{steps}, " if steps else f"WITH chosen AS NOT MATERIALIZED {chosen}, "
        own = ", ".join(f"if(d.imaged, NULL, d.{c}) AS {c}" for c in SKY)
        sql = (
            f"{steps}placed AS NOT MATERIALIZED ({statement('placed_datasets')}) "
            f"SELECT DISTINCT d.* EXCLUDE (imaged) REPLACE ({own}) FROM placed d{joins} WHERE {test}"
        )
    else:
        sql = f"{steps} SELECT d.* FROM {chosen} d{joins} WHERE {test}"
    order = ", ".join([*ORDER, *(["collection"] if collections else [])])
    shown = ", ".join([identifier(name) for name in columns] + ["collection"] * bool(collections)) if columns else "*"
    sql = f"SELECT '{site.name}' AS site, {shown} FROM ({sql}) ORDER BY {order}"
    return con.table(sql if limit is None else f"{sql} LIMIT {int(limit)}", params)


def _types(given: Sequence[str], known: set[str]) -> list[str] | None:
    """The dataset types that names and patterns mean; None for all."""
    if not given:
        return None
    found: set[str] = set()
    for pattern in given:
        matching = fnmatch.filter(known, pattern)
        if not matching:
            raise SearchError(f"no dataset type {pattern!r}; known: {', '.join(sorted(known)) or 'none'}")
        found.update(matching)
    return sorted(found)


def _equal(table: str) -> str:
    """How a dimension record is found; that of a visit's exposure has the visit's number where a visit is one exposure."""
    return " AND ".join(f'"{table}"."{c}" = d."{c}"' for c in RECORDS[table])


def _members(
    site: Site, source: str, collections: Sequence[str], find_first: bool, given: dict[str, Any], params: dict[str, Any]
) -> str:
    """The WITH clause that makes ``chosen`` of what is in collections."""
    searched = collection.resolve(site, collections)
    if given["mjd"] is None and all(kind == "CALIBRATION" for _, kind in searched):
        raise SearchError(f"{', '.join(collections)}: what is valid in a CALIBRATION collection depends on the time: give one")
    params |= {"mjd": given["mjd"], "names": [name for name, _ in searched], "kinds": [kind for _, kind in searched]}
    return (
        f"WITH dataset AS ({source}), searched AS (SELECT unnest($names::VARCHAR[]) AS collection, "
        f"unnest($kinds::VARCHAR[]) AS kind, unnest(range({len(searched)})) AS position), "
        f"chosen AS (SELECT * EXCLUDE (place, shadowed_by) FROM ({statement('collection_members').replace('$mjd', '$mjd::DOUBLE')})"
        f"{' WHERE place = 1' if find_first else ''})"
    )


def _touches(con: Connection, region: Region, params: dict[str, Any]) -> str:
    """SQL that holds for datasets ``d`` whose footprint touches a region: each part of the sky that their data ID names."""
    x, y, z = (float(c) for c in region.centre)
    near = {"x": x, "y": y, "z": z, "cosine": float(np.cos(np.radians(min(region.reach + LARGEST, 180.0))))}
    corners = ", ".join(f"ra{i}, dec{i}" for i in range(4))
    inside = {}
    for table, keys in FOOTPRINTS.items():
        rows = con.table(
            f"SELECT {', '.join(keys)}, {corners} FROM {table} WHERE cos(radians(dec0)) * (cos(radians(ra0)) * $x "
            "+ sin(radians(ra0)) * $y) + sin(radians(dec0)) * $z >= $cosine",
            near,
        )
        ra, dec = (np.stack([rows[f"{c}{i}"].to_numpy() for i in range(4)], axis=1) for c in ("ra", "dec"))
        found = rows.select(keys).filter(pa.array(region.overlaps(vectors(ra, dec))))
        for key in keys:
            params[f"{table}_{key}"] = found[key].to_pylist()
        columns = ", ".join(
            f"unnest(${table}_{key}::{'VARCHAR' if key in ('instrument', 'skymap') else 'BIGINT'}[])" for key in keys
        )
        inside[table] = f"({', '.join(f'd.{key}' for key in keys)}) IN (SELECT {columns})"
    params["visits"] = params["visit_detector_region_visit"]
    params["cameras"] = params["visit_detector_region_instrument"]
    visits = "(d.instrument, d.visit) IN (SELECT DISTINCT unnest($cameras::VARCHAR[]), unnest($visits::BIGINT[]))"
    return (
        f"(d.visit IS NOT NULL OR d.tract IS NOT NULL) "
        f"AND (d.visit IS NULL OR (d.detector IS NULL AND {visits}) OR {inside['visit_detector_region']}) "
        f"AND (d.tract IS NULL OR (d.patch IS NULL AND {inside['tract']}) OR {inside['patch']})"
    )
