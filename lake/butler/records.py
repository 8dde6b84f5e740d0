"""Dimension records of a Butler's export as ours: which are known, which are new, and which say too little.

A Butler knows less than our tables hold: no detector has a size, no sky map a pixel scale. So a record that any site of the
lake knows is taken from there, which also keeps the sites' records the same to the last digit; a Butler's serves where none
does. One that lacks a value then is left out and named, and datasets that need it wait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta, dimensions
from lake.butler.definitions import ButlerError
from lake.butler.document import Document
from lake.butler.region import centres, corners
from lake.site import Site
from lake.sql import statement

_TEXT, _INT, _REAL = pa.string(), pa.int64(), pa.float64()
#: What is read of each element; other columns have no counterpart here.
ELEMENTS: dict[str, dict[str, pa.DataType]] = {
    "instrument": {"name": _TEXT, "class_name": _TEXT, "detector_max": _INT},
    "detector": {"instrument": _TEXT, "id": _INT, "full_name": _TEXT, "purpose": _TEXT},
    "physical_filter": {"instrument": _TEXT, "name": _TEXT, "band": _TEXT},
    "exposure": {
        "instrument": _TEXT, "id": _INT, "day_obs": _INT, "seq_num": _INT, "physical_filter": _TEXT, "observation_type": _TEXT,
        "target_name": _TEXT, "exposure_time": _REAL, "tracking_ra": _REAL, "tracking_dec": _REAL, "sky_angle": _REAL,
        "zenith_angle": _REAL, "datetime_begin": _TEXT, "datetime_end": _TEXT,
    },
    "visit": {
        "instrument": _TEXT, "id": _INT, "day_obs": _INT, "physical_filter": _TEXT, "exposure_time": _REAL,
        "zenith_angle": _REAL, "datetime_begin": _TEXT, "datetime_end": _TEXT,
    },
    "visit_definition": {"instrument": _TEXT, "exposure": _INT, "visit": _INT},
    "visit_detector_region": {"instrument": _TEXT, "visit": _INT, "detector": _INT, "region": pa.binary()},
    "skymap": {"name": _TEXT, "tract_max": _INT, "patch_nx_max": _INT},
    "tract": {"skymap": _TEXT, "id": _INT},
    "patch": {"skymap": _TEXT, "tract": _INT, "id": _INT},
}  # fmt: skip
#: Elements that say nothing which the others do not.
IMPLIED = ("band", "day_obs", "group", "visit_definition", "visit_system", "visit_system_membership")
#: Columns in which a record that is known here must agree with the Butler's, within a part in 10^9.
COMPARED = {
    "physical_filter": ("band",),
    "exposure": ("day_obs", "physical_filter", "observation_type", "exposure_time", "mjd_mid", "ra", "dec"),
    "visit": ("exposure", "day_obs", "physical_filter", "exposure_time", "mjd_mid"),
}


@dataclass
class Records:
    """What is to be added: the records that ``wanted`` (data IDs) need from the lake's other sites, then ``new`` by table.

    ``counts`` has (table or element, verdict, number, reason).
    """

    new: dict[str, pa.Table] = field(default_factory=dict)
    wanted: pa.Table | None = None
    counts: list[tuple[str, str, int, str | None]] = field(default_factory=list)


def convert(con: duckdb.DuckDBPyConnection, site: Site, document: Document, fill: Mapping[str, Mapping[str, Any]]) -> Records:
    """Compare an export's records with the site's; changes nothing. Leaves the views from_<table> on ``con``.

    ``fill`` gives values of columns that a Butler does not know. ButlerError when a record contradicts a known one.
    """
    found = Records()
    for element, records in document.records.items():
        if element in IMPLIED:
            found.counts.append((element, "implied", len(records), "said by the records of exposures and visits"))
        elif element not in ELEMENTS:
            found.counts.append((element, "no counterpart", len(records), f"there is no dimension {element} here"))
    for element, columns in ELEMENTS.items():
        con.register(f"butler_{element}", _table(document, element, columns))
    con.register("corners", _corners(con))
    con.execute(f"CREATE TEMP VIEW exposure_known AS {delta.select(site, 'exposure')}")
    con.execute(statement("butler_records_in"))
    for table in (t for t in dimensions.TABLES if t in ELEMENTS):
        _sort(con, site, document, table, fill.get(table, {}), found)
    found.wanted = con.sql(statement("butler_wanted")).to_arrow_table()
    return found


def insert(site: Site, found: Records) -> None:
    """Add what convert() found; those that other sites know come first, with all that belongs to them."""
    if found.wanted is not None:
        for other in _others(site):
            dimensions.copy(other, site, found.wanted)
    for table, rows in found.new.items():
        dimensions.insert(site, table, rows)


def _others(site: Site) -> list[Site]:
    return [other for other in site.lake.sites.values() if other.name != site.name]


def _table(document: Document, element: str, columns: Mapping[str, pa.DataType]) -> pa.Table:
    records = document.records.get(element, [])
    try:
        return pa.Table.from_pylist(records, schema=pa.schema(list(columns.items())))
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ButlerError(f"{document.path}: dimension {element}: {' '.join(str(error).split())}") from None


def _corners(con: duckdb.DuckDBPyConnection) -> pa.Table:
    rows = con.sql("FROM butler_visit_detector_region").to_arrow_table()
    vertices = corners(rows["region"].to_pylist())
    middle = centres(vertices)
    values = {"ra": middle[:, 0], "dec": middle[:, 1]}
    values |= {f"{c}{i}": vertices[:, i, n] for i in range(4) for n, c in enumerate(("ra", "dec"))}
    found = rows.drop_columns(["region"])
    for name, column in values.items():
        found = found.append_column(name, pa.array(column, mask=np.isnan(column)))
    return found


def _sort(
    con: duckdb.DuckDBPyConnection, site: Site, document: Document, table: str, fill: Mapping[str, Any], found: Records
) -> None:
    keys = schemas.table(table).primary_key
    listed = ", ".join(keys)
    lake = " UNION ALL ".join(f"SELECT * FROM ({delta.select(s, table)})" for s in (site, *_others(site)))
    con.execute(f"CREATE OR REPLACE TEMP VIEW stored AS {delta.select(site, table)}")
    con.execute(f"CREATE OR REPLACE TEMP VIEW in_lake AS FROM ({lake})")
    try:
        if differing := _differing(con, table, keys):
            raise ButlerError(f"{document.path}: {differing}; nothing was imported")
        given = con.sql(f"SELECT DISTINCT * FROM from_{table} ANTI JOIN in_lake USING ({listed}) ORDER BY ALL").to_arrow_table()
        total, absent = con.sql(
            f"SELECT count(*), count(*) FILTER (NOT EXISTS (SELECT 1 FROM stored s WHERE ({listed},) = "
            f"({', '.join(f's.{key}' for key in keys)},))) FROM (SELECT DISTINCT {listed} FROM from_{table})"
        ).fetchall()[0]
    except duckdb.Error as error:
        raise ButlerError(f"{document.path}: dimension {table}: {' '.join(str(error).split())[:300]}") from None
    whole, lacking = _filled(table, given, fill)
    if total - absent:
        found.counts.append((table, "present", total - absent, None))
    if absent - given.num_rows:
        found.counts.append((table, "new", absent - given.num_rows, "as other sites of the lake know them"))
    if whole.num_rows:
        found.counts.append((table, "new", whole.num_rows, None))
    for reason, count in lacking.items():
        found.counts.append((table, "incomplete", count, reason))
    found.new[table] = whole


def _differing(con: duckdb.DuckDBPyConnection, table: str, keys: Sequence[str]) -> str | None:
    """The first value in which a given record differs from one that the lake knows, in words."""
    listed = ", ".join(keys)
    for column in COMPARED.get(table, ()):
        kind = schemas.table(table).arrow.field(column).type
        same = f"g.{column} = s.{column}"
        if pa.types.is_floating(kind):
            same = f"abs(g.{column} - s.{column}) <= 1e-9 * greatest(1, abs(s.{column}))"
        rows = con.sql(
            f"SELECT {listed}, s.{column} AS ours, g.{column} AS theirs FROM from_{table} g JOIN in_lake s USING ({listed}) "
            f"WHERE NOT ({same}) ORDER BY ALL LIMIT 1"
        ).to_arrow_table()
        for row in rows.to_pylist():
            which = " ".join(f"{key} {row[key]}" for key in keys)
            return f"{table} {which}: {column} is {row['theirs']!r}, and {row['ours']!r} in this lake"
    return None


def _filled(table: str, given: pa.Table, fill: Mapping[str, Any]) -> tuple[pa.Table, dict[str, int]]:
    """Records with what ``fill`` adds: those that are whole, and how many lack what."""
    schema = schemas.table(table).arrow
    columns = {}
    for f in schema:
        column = given[f.name].cast(f.type) if f.name in given.column_names else pa.nulls(given.num_rows, f.type)
        columns[f.name] = column.fill_null(pa.scalar(fill[f.name], f.type)) if f.name in fill else column
    whole = pa.array([True] * given.num_rows, pa.bool_())
    lacking: dict[str, int] = {}
    missing = [f.name for f in schema if not f.nullable and columns[f.name].null_count]
    for name in missing:
        whole = pc.and_(whole, pc.is_valid(columns[name]))
    if missing:
        few = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
        lacking[f"no {few} (a Butler's records may not say; give values under records in a definitions file)"] = pc.sum(
            pc.invert(whole)
        ).as_py()
    return schemas.conform(
        table, pa.table(columns, schema=pa.schema([pa.field(f.name, f.type) for f in schema])).filter(whole)
    ), lacking
