"""Metric tables that suites judge: small tables made by DuckDB, a row per site, table, tract, ... ; and the rows behind a failure.

A measure is a function of a Subject that gives an Arrow table; most are a .sql file in ``checks/metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import schemas
from checks import audit
from checks.ledger import Ledger
from checks.ledger import ledger as make_ledger
from lake.query import Connection, identifier
from lake.site import Lake

METRICS = Path(__file__).parent / "metrics"
#: Rows behind a failure that are looked up, at most.
LIMIT = 20
#: Tables outside the catalogues whose primary keys must be unique (event logs repeat theirs by design).
KEYED = ("dataset", "dataset_type", "quantum", "expected_dataset")

Row = dict[str, Any]


@dataclass
class Subject:
    """What is judged: a campaign on a lake. The ledger is made once, when a measure needs it first."""

    lake: Lake
    campaign: str
    con: Connection
    definition: Mapping[str, Any]
    spare: float = 0.0
    _ledger: Ledger | None = field(default=None, repr=False)

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            self._ledger = make_ledger(self.lake, self.campaign, spare=self.spare)
        return self._ledger

    def know(self, made: Ledger) -> None:
        """Take a ledger that was made already."""
        self._ledger = made

    def sql(self, name: str) -> pa.Table:
        """The answer to ``checks/metrics/<name>.sql``."""
        text = (METRICS / f"{name}.sql").read_text().replace("{central}", identifier(self.lake.central.name))
        return self.con.table(text, {"campaign": self.campaign} if "$campaign" in text else None)

    def held(self, table: str) -> bool:
        """Whether any site has rows in a table."""
        return bool(self.con.table(f"SELECT 1 FROM {identifier(table)} LIMIT 1").num_rows)


def measure(subject: Subject, name: str) -> pa.Table:
    """The metric table of this name."""
    return MEASURES[name](subject) if name in MEASURES else subject.sql(name)


@cache
def ranges() -> dict[str, Any]:
    """The physical ranges of suites.yaml."""
    found: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "suites.yaml").read_text())["ranges"]
    return found


def _rows(subject: Subject, sql: str, parameters: Row | None = None) -> list[Row]:
    rows: list[Row] = subject.con.table(sql, parameters).to_pylist()
    return rows


# -- storage, completeness ---------------------------------------------------------------------------------------------


def storage(subject: Subject) -> pa.Table:
    """One row per site: registered files that are lost or damaged (by a listing, and by earlier deep audits), orphans."""
    rows = []
    for site in subject.lake.sites.values():
        states = [finding.state for finding in audit.quick(site, subject.spare)]
        rows.append({"site": site.name, **{state: states.count(state) for state in audit.OPEN}})
    return pa.Table.from_pylist(rows)


def completeness(subject: Subject) -> pa.Table:
    """The ledger's rows with how much of each is not explained."""
    fine = ("visible", "shadowed", "predicted_only")
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
    row = {"origin": "all", "raws": found.raw_count, "complete": found.raw_count - len(found.raws), "unaccounted": lost}
    return pa.Table.from_pylist([row])


# -- keys --------------------------------------------------------------------------------------------------------------


def keyed_tables() -> list[schemas.TableSchema]:
    """Tables whose primary key names one row."""
    return [t for t in schemas.tables().values() if t.subject in ("dimensions", "catalogues") or t.name in KEYED]


def _key(table: schemas.TableSchema) -> str:
    """The primary key as SQL; rows that two sites made of one data ID are two rows (and compared by site_independence)."""
    site = ("site",) if "site" in table.arrow.names else ()
    return ", ".join(f'"{c}"' for c in dict.fromkeys([*site, *table.primary_key]))


def keys(subject: Subject) -> pa.Table:
    """Rows, rows too many for the primary key, and rows with a null in it, per site's own table."""
    parts = []
    for site in subject.lake.sites:
        for table in keyed_tables():
            key = _key(table)
            null = " OR ".join(f'"{c}" IS NULL' for c in table.primary_key)
            parts.append(
                f"SELECT '{site}' AS site, '{table.name}' AS \"table\", count(*) AS \"rows\", "
                f"count(*) - count(DISTINCT ({key})) AS duplicates, count(*) FILTER ({null}) AS nulls "
                f"FROM {identifier(site)}.{identifier(table.name)}"
            )
    return subject.con.table(f'FROM ({" UNION ALL ".join(parts)}) WHERE "rows" > 0 ORDER BY site, "table"')


def repeated_keys(subject: Subject, failed: Row) -> list[Row]:
    """The keys that occur more than once in a site's table, or hold a null."""
    table = schemas.table(failed["table"])
    key = _key(table)
    null = " OR ".join(f'"{c}" IS NULL' for c in table.primary_key)
    return _rows(
        subject,
        f'SELECT \'{failed["site"]}\' AS "of site", \'{table.name}\' AS "table", {key}, count(*) AS "rows" '
        f"FROM {identifier(failed['site'])}.{identifier(table.name)} "
        f"GROUP BY {key} HAVING count(*) > 1 OR {null} ORDER BY {key} LIMIT {LIMIT}",
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


def odd_values(subject: Subject, failed: Row) -> list[Row]:
    """Keys and values of rows that are out of range or miss a required value."""
    table, column = schemas.table(failed["table"]), failed["column"]
    limit = limits()[table.name][column]
    key = ", ".join(f'"{c}"' for c in dict.fromkeys([*table.primary_key, column]))
    return _rows(
        subject,
        f"SELECT '{failed['site']}' AS \"of site\", '{table.name}' AS \"table\", {key} FROM {identifier(table.name)} "
        f"WHERE site = '{failed['site']}' AND {_where(table.name)} "
        f"AND (({_outside(column, limit)}) OR ({_missing(column, limit)})) ORDER BY ALL LIMIT {LIMIT}",
    )


# -- site independence -------------------------------------------------------------------------------------------------


def site_independence(subject: Subject) -> pa.Table:
    """Datasets that two sites both made: how many, how many with other content, and catalogue rows that differ.

    A pair of sites that should have made the same (``also`` of the campaign) has a row even where there is nothing.
    """
    rows = subject.sql("site_independence").to_pylist()
    for row in rows:
        row["rows_differing"] = _rows_differing(subject, row) if row["dataset_type"] in schemas.tables() else 0
    owner = {t: name for name, share in subject.definition["sites"].items() for t in (share or {}).get("tracts", [])}
    pairs = {
        tuple(sorted((name, owner[tract])))
        for name, share in subject.definition["sites"].items()
        for tract in (share or {}).get("also", [])
    }
    for site, other in sorted(pairs - {(row["site"], row["other"]) for row in rows}):
        blank = {"dataset_type": "any", "compared": 0, "differing": 0, "rows_differing": 0}
        rows.append({"site": site, "other": other, **blank})
    return pa.Table.from_pylist(rows)


def _rows_differing(subject: Subject, row: Row) -> int:
    """Rows of one table that one of two sites has and the other has not, within the datasets that both made."""
    text = _comparison(subject, row)
    return int(subject.con.table(f"SELECT count(*) AS n FROM ({text})", {"campaign": subject.campaign})["n"][0].as_py())


def _comparison(subject: Subject, row: Row) -> str:
    """SQL for those rows, from both sides, with the site that has each."""
    table = schemas.table(row["dataset_type"])
    a, b, name = identifier(row["site"]), identifier(row["other"]), identifier(table.name)
    columns = ", ".join(f'"{c}"' for c in table.arrow.names if c != "site")
    key = ", ".join(f'"{c}"' for c in schemas.DATA_ID if c in _dimensions(subject, row))
    shared = (
        f"SELECT DISTINCT {key} FROM {a}.dataset SEMI JOIN (FROM {b}.dataset WHERE origin = '{row['other']}') "
        f"USING (dataset_id) WHERE origin = '{row['site']}' AND dataset_type = '{table.name}' "
        f"AND starts_with(run, $campaign || '/')"
    )
    left = f"SELECT {columns} FROM {a}.{name} SEMI JOIN shared USING ({key}) WHERE site = '{row['site']}'"
    right = f"SELECT {columns} FROM {b}.{name} SEMI JOIN shared USING ({key}) WHERE site = '{row['other']}'"
    return (
        f"WITH shared AS ({shared}) SELECT '{row['site']}' AS site, * FROM ({left} EXCEPT ALL {right}) "
        f"UNION ALL SELECT '{row['other']}' AS site, * FROM ({right} EXCEPT ALL {left})"
    )


def _dimensions(subject: Subject, row: Row) -> tuple[str, ...]:
    found = subject.con.table(
        f"SELECT dimensions FROM {identifier(row['site'])}.dataset_type WHERE dataset_type = $t", {"t": row["dataset_type"]}
    )
    return tuple(str(found["dimensions"][0].as_py()).split(","))


def different_rows(subject: Subject, failed: Row) -> list[Row]:
    """The catalogue rows, or else the datasets, in which two sites differ."""
    if failed["dataset_type"] in schemas.tables() and failed["rows_differing"]:
        text = f"FROM ({_comparison(subject, failed)}) ORDER BY ALL LIMIT {LIMIT}"
        return _rows(subject, text, {"campaign": subject.campaign})
    return [row for row in subject.sql("different").to_pylist() if row["dataset_type"] == failed["dataset_type"]]


def broken_files(subject: Subject, failed: Row) -> list[Row]:
    """The findings behind a site's counts."""
    found = audit.quick(subject.lake.site(failed["site"]), subject.spare)
    return [{"site": failed["site"], **vars(f)} for f in found if f.state != "orphan"][:LIMIT]


def unaccounted_raws(subject: Subject, failed: Row) -> list[Row]:
    """The raws that nothing accounts for."""
    return [raw for raw in subject.ledger.raws if not raw["explained"]][:LIMIT]


MEASURES: dict[str, Callable[[Subject], pa.Table]] = {
    "storage": storage, "completeness": completeness, "raws": raws, "keys": keys, "ranges": values,
    "site_independence": site_independence,
}  # fmt: skip

#: What looks up the rows behind a failing row of a metric table, where that row does not say it all.
BEHIND: dict[str, Callable[[Subject, Row], list[Row]]] = {
    "storage": broken_files, "raws": unaccounted_raws, "keys": repeated_keys, "ranges": odd_values,
    "site_independence": different_rows,
}  # fmt: skip
