"""Metric tables that suites judge: small tables made by DuckDB, a row per site, table, tract, ... ; and the rows behind a failure.

A measure is a function of a Subject that gives an Arrow table; most are a .sql file in ``checks/metrics``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import schemas
from checks import audit, comparison
from checks.subject import LIMIT, Row, Subject
from lake.query import identifier

#: Tables outside the catalogues whose primary keys must be unique (event logs repeat theirs by design).
KEYED = ("dataset", "dataset_type", "quantum", "expected_dataset")


def measure(subject: Subject, name: str) -> pa.Table:
    """The metric table of this name."""
    return MEASURES[name](subject) if name in MEASURES else subject.sql(name)


@cache
def ranges() -> dict[str, Any]:
    """The physical ranges of suites.yaml."""
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "suites.yaml").read_text())["ranges"]
    return found


# -- storage, completeness ---------------------------------------------------------------------------------------------


def storage(subject: Subject) -> pa.Table:
    """One row per site: registered files that are lost or damaged (by a listing, and by earlier deep audits), orphans."""
    rows = []
    for site in subject.lake.sites.values():
        states = [finding.state for finding in subject.findings(site)]
        rows.append({"site": site.name, **{state: states.count(state) for state in audit.OPEN}})
    return pa.Table.from_pylist(rows)


def completeness(subject: Subject) -> pa.Table:
    """The ledger's rows with how much of each is not explained."""
    fine = ("visible", "shadowed", "predicted_only", "archived")
    rows = [
        {
            **{name: row[name] for name in ("site", "step", "dataset_type", "expected", "visible")},
            "unexplained": 0 if row["reconciled"] else row["expected"] + row["unexpected"] - sum(row[state] for state in fine),
            "reason": row["reason"],
        }
        for row in subject.ledger.rows
    ]
    return pa.Table.from_pylist(rows)


def raws(subject: Subject) -> pa.Table:
    """One row: raws placed, those that reached every product, those that nothing accounts for."""
    found = subject.ledger
    lost = sum(not raw["explained"] for raw in found.raws)
    row = {"origin": "all", "raws": found.raw_count, "complete": found.raw_count - found.unfinished, "unaccounted": lost}
    return pa.Table.from_pylist([row])


# -- keys --------------------------------------------------------------------------------------------------------------


def keyed_tables() -> list[schemas.TableSchema]:
    """Tables whose primary key names one row."""
    return [t for t in schemas.tables().values() if t.subject in ("dimensions", "catalogues") or t.name in KEYED]


def _key(table: schemas.TableSchema) -> str:
    """The primary key as SQL; rows that two sites made of one data ID are two rows (and compared by site_independence)."""
    site = ("site",) if "site" in table.arrow.names else ()
    return ", ".join(f'"{c}"' for c in dict.fromkeys([*site, *table.primary_key]))


def _null_key(table: schemas.TableSchema) -> str:
    """SQL for a null where the key must not have one."""
    needed = [f'"{c}" IS NULL' for c in table.primary_key if not table.arrow.field(c).nullable]
    return " OR ".join(needed) or "false"


def keys(subject: Subject) -> pa.Table:
    """Rows, rows too many for the primary key, and rows with a null in it, per site's own table."""
    parts = [
        f"SELECT '{site}' AS site, '{table.name}' AS \"table\", sum(n)::BIGINT AS \"rows\", sum(n - 1)::BIGINT AS duplicates, "
        f"coalesce(sum(n) FILTER ({_null_key(table)}), 0)::BIGINT AS nulls "
        f"FROM (SELECT {_key(table)}, count(*) AS n FROM {identifier(site)}.{identifier(table.name)} GROUP BY ALL)"
        for site in subject.lake.sites
        for table in keyed_tables()
    ]
    return subject.con.table(f'FROM ({" UNION ALL ".join(parts)}) WHERE "rows" > 0 ORDER BY site, "table"')


def repeated_keys(subject: Subject, failed: Row, judged: str) -> list[Row]:
    """The keys that occur more than once in a site's table, or hold a null."""
    table = schemas.table(failed["table"])
    return subject.rows(
        f"SELECT '{failed['site']}' AS at_site, '{table.name}' AS \"table\", {_key(table)}, count(*) AS \"rows\" "
        f"FROM {identifier(failed['site'])}.{identifier(table.name)} "
        f"GROUP BY ALL HAVING count(*) > 1 OR {_null_key(table)} ORDER BY ALL LIMIT {LIMIT}",
    )


# -- ranges ------------------------------------------------------------------------------------------------------------


def limits() -> dict[str, dict[str, Row]]:
    """Limits by table and column: those of ``everywhere`` for each catalogue that has the column, and the table's own."""
    found: dict[str, dict[str, Row]] = {}
    for name, table in schemas.tables().items():
        if table.subject == "catalogues" and not name.startswith("truth_"):
            own = {c: limit for c, limit in ranges()["tables"].get(name, {}).items() if c != "where"}
            usual = {c: limit for c, limit in ranges()["everywhere"].items() if c in table.arrow.names}
            if own or usual:
                found[name] = {**usual, **own}
    return found


def values(subject: Subject) -> pa.Table:
    """Per site, table and column: rows judged, values outside the physical range, missing where required, extremes."""
    parts = []
    for name, columns in limits().items():
        measured = ", ".join(
            "{" + f"'column': '{c}', 'outside': count(*) FILTER ({_outside(c, limit)}), "
            f"'missing': count(*) FILTER ({_missing(c, limit)}), "
            f"'least': min(\"{c}\")::DOUBLE, 'most': max(\"{c}\")::DOUBLE" + "}"
            for c, limit in columns.items()
        )
        parts.append(
            f'SELECT site, \'{name}\' AS "table", "rows", unnest(m, recursive := true) FROM (SELECT site, '
            f'count(*) AS "rows", [{measured}] AS m FROM {identifier(name)} WHERE {_where(name)} GROUP BY site)'
        )
    return subject.con.table(f'FROM ({" UNION ALL ".join(parts)}) ORDER BY site, "table", "column"')


def _where(table: str) -> str:
    return str(ranges()["tables"].get(table, {}).get("where", "true"))


def _outside(column: str, limit: Row) -> str:
    return f'NOT isnan("{column}"::DOUBLE) AND ("{column}" < {limit["min"]} OR "{column}" > {limit["max"]})'


def _missing(column: str, limit: Row) -> str:
    return f'"{column}" IS NULL OR isnan("{column}"::DOUBLE)' if limit.get("required") else "false"


def odd_values(subject: Subject, failed: Row, judged: str) -> list[Row]:
    """Keys and values of rows that are out of range or miss a required value."""
    table, column = schemas.table(failed["table"]), failed["column"]
    limit = limits()[table.name][column]
    key = ", ".join(f'"{c}"' for c in dict.fromkeys([*table.primary_key, column]))
    return subject.rows(
        f"SELECT '{failed['site']}' AS at_site, '{table.name}' AS \"table\", {key} FROM {identifier(table.name)} "
        f"WHERE site = '{failed['site']}' AND {_where(table.name)} "
        f"AND (({_outside(column, limit)}) OR ({_missing(column, limit)})) ORDER BY ALL LIMIT {LIMIT}",
    )


# -- rows behind a failure ----------------------------------------------------------------------------------------------


def broken_files(subject: Subject, failed: Row, judged: str) -> list[Row]:
    """The findings behind a site's count of one state."""
    found = subject.findings(subject.lake.site(failed["site"]))
    return [{"site": failed["site"], **vars(f)} for f in found if f.state == judged][:LIMIT]


def unaccounted_raws(subject: Subject, failed: Row, judged: str) -> list[Row]:
    """The raws that nothing accounts for."""
    return [raw for raw in subject.ledger.raws if not raw["explained"]][:LIMIT]


MEASURES: dict[str, Callable[[Subject], pa.Table]] = {
    "storage": storage, "completeness": completeness, "raws": raws, "keys": keys, "ranges": values,
    "site_independence": comparison.site_independence,
}  # fmt: skip

#: What looks up the rows behind a failing row of a metric table (by the column judged), where that row does not say it all.
BEHIND: dict[str, Callable[[Subject, Row, str], list[Row]]] = {
    "storage": broken_files, "raws": unaccounted_raws, "keys": repeated_keys, "ranges": odd_values,
    "site_independence": comparison.different_rows,
}  # fmt: skip
