"""Dimension records: what data IDs refer to. Records are added, never changed."""

from __future__ import annotations

import duckdb
import pyarrow as pa

import schemas
from lake import delta
from lake.identity import ordinals
from lake.parquet import key_order
from lake.site import LakeError, Site
from lake.sql import statement

#: In the order in which they refer to each other.
TABLES = (
    "instrument", "detector", "physical_filter", "exposure", "visit", "visit_detector_region", "skymap", "tract",
    "patch", "visit_detector_patch",
)  # fmt: skip


class DimensionError(LakeError):
    """A dimension record contradicts one that is known; the message names it."""


def insert(site: Site, table: str, records: pa.Table) -> int:
    """Add the records whose key is not known yet; returns how many.

    ``records`` has the declared columns. A record that differs from the known one of the same key is refused
    (DimensionError), and all the others with it. Parked datasets are admitted by registry.admit_parked(), not here.
    """
    if table not in TABLES:
        raise DimensionError(f"{table!r} is not a dimension table; they are {', '.join(TABLES)}")
    records = schemas.conform(table, records)
    if not records.num_rows:
        return 0
    with site.lock("dimensions"):
        return _insert(site, table, records)


def implied(site: Site, rows: pa.Table) -> pa.Table:
    """Rows with the parts of their data IDs that a visit or an exposure implies, as far as its record is here, where none is given.

    ``rows`` has instrument, exposure, visit, physical_filter, band and day_obs, and may have others; their order stays.
    """
    with delta.cursor() as con:
        con.register("given", rows.append_column("ordinal", ordinals(rows.num_rows)))
        for table in ("visit", "exposure", "physical_filter"):
            delta.view(con, site, table)
        return con.sql(statement("completed")).to_arrow_table().drop_columns(["ordinal"])


def _insert(site: Site, table: str, records: pa.Table) -> int:
    schema = schemas.table(table)
    keys, order = (", ".join(f'"{c}"' for c in columns) for columns in (schema.primary_key, key_order(table)))
    with delta.cursor() as con:
        con.register("given", records)
        con.execute(f"CREATE TEMP VIEW stored AS {delta.select(site, table)}")
        con.execute(f"CREATE TEMP TABLE known AS FROM stored SEMI JOIN given USING ({keys})")
        con.execute("CREATE TEMP TABLE distinct_given AS SELECT DISTINCT * FROM given")
        conflict = con.sql(
            f"SELECT {keys} FROM distinct_given GROUP BY ALL HAVING count(*) > 1 UNION ALL "
            f"SELECT {keys} FROM (FROM distinct_given SEMI JOIN known USING ({keys}) EXCEPT FROM known) "
            f"ORDER BY ALL LIMIT 1"
        ).to_arrow_table()
        if conflict.num_rows:
            raise DimensionError(f"site {site.name}: {_difference(con, table, conflict)}")
        new = con.sql(f"FROM distinct_given ANTI JOIN known USING ({keys}) ORDER BY {order}").to_arrow_table()
    if new.num_rows:
        delta.append(site, table, schemas.conform(table, new))
    return int(new.num_rows)


def _difference(con: duckdb.DuckDBPyConnection, table: str, key: pa.Table) -> str:
    """What two records of one key disagree about."""
    con.register("conflict", key)
    keys = ", ".join(f'"{c}"' for c in key.column_names)
    rows = con.sql(
        f"FROM known SEMI JOIN conflict USING ({keys}) UNION ALL FROM distinct_given SEMI JOIN conflict USING ({keys})"
    ).to_arrow_table()
    named = " ".join(f"{c} {v}" for c, v in key.to_pylist()[0].items())
    for column in rows.column_names:
        values = rows[column].unique().to_pylist()
        if len(values) > 1:
            return f"{table} {named}: {column} is {values[0]!r} and {values[1]!r}; records are never changed"
    return f"{table} {named}: two records differ"


def read(site: Site, table: str, where: str = "true") -> pa.Table:
    """Records that meet a SQL condition, ordered by key."""
    with delta.cursor() as con:
        return schemas.conform(table, relation(con, site, table, where).to_arrow_table())


def relation(con: duckdb.DuckDBPyConnection, site: Site, table: str, where: str = "true") -> duckdb.DuckDBPyRelation:
    """As read(), as a relation on ``con``."""
    keys = ", ".join(f'"{c}"' for c in schemas.table(table).primary_key)
    return con.sql(f"SELECT * FROM ({delta.select(site, table)}) WHERE {where} ORDER BY {keys}")


def copy(source: Site, destination: Site, datasets: pa.Table) -> dict[str, int]:
    """Take to ``destination`` the dimension records that ``datasets`` need; returns how many were new there, by table.

    ``datasets`` has at least the data ID columns. A visit takes its exposure, filter, regions and patches; a tract
    takes its patches; an instrument takes its detectors and filters (lake/sql/needed_dimensions.sql).
    """
    with delta.cursor() as con:
        con.register("datasets", datasets.select(list(schemas.DATA_ID)))
        for table in TABLES:
            delta.view(con, source, table)
        con.execute(statement("needed_dimensions"))
        found = {table: con.sql(f"FROM needed_{table}").to_arrow_table() for table in TABLES}
    return {table: insert(destination, table, records) for table, records in found.items()}
