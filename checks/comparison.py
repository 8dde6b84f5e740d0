"""Two sites that made the same: datasets by checksum, catalogue rows one by one."""

from __future__ import annotations

import pyarrow as pa

import schemas
from checks.subject import LIMIT, Row, Subject
from lake.query import identifier


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
    """Rows of one table that one of two sites has and the other has not, within the datasets that both made.

    Equal sums of row hashes (64 bits each, all columns) are taken for equal rows; only else are rows matched one by one.
    """
    given = {"campaign": subject.campaign}
    shared, left, right = _sides(subject, row)
    hashed = f"WITH shared AS ({shared}) SELECT " + ", ".join(
        f"(SELECT {{'rows': count(*), 'sum': sum(hash(side)::HUGEINT)}} FROM ({rows}) side)" for rows in (left, right)
    )
    a, b = subject.con.execute(hashed, given).fetchall()[0]
    if a == b:
        return 0
    text = _comparison(subject, row)
    return int(subject.con.table(f"SELECT count(*) AS n FROM ({text})", given)["n"][0].as_py())


def _sides(subject: Subject, row: Row) -> tuple[str, str, str]:
    """SQL for the data IDs that two sites both made of a table dataset, and for each one's rows (from ``shared``)."""
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
    return shared, left, right


def _comparison(subject: Subject, row: Row) -> str:
    """SQL for the rows that only one of the two sites has, with that site."""
    shared, left, right = _sides(subject, row)
    return (
        f"WITH shared AS ({shared}) SELECT '{row['site']}' AS site, * FROM ({left} EXCEPT ALL {right}) "
        f"UNION ALL SELECT '{row['other']}' AS site, * FROM ({right} EXCEPT ALL {left})"
    )


def _dimensions(subject: Subject, row: Row) -> tuple[str, ...]:
    found = subject.con.table(
        f"SELECT dimensions FROM {identifier(row['site'])}.dataset_type WHERE dataset_type = $t", {"t": row["dataset_type"]}
    )
    return tuple(str(found["dimensions"][0].as_py()).split(","))


def different_rows(subject: Subject, failed: Row, judged: str) -> list[Row]:
    """The catalogue rows, or else the datasets, in which two sites differ."""
    if failed["dataset_type"] in schemas.tables() and failed["rows_differing"]:
        text = f"FROM ({_comparison(subject, failed)}) ORDER BY ALL LIMIT {LIMIT}"
        return subject.rows(text, {"campaign": subject.campaign})
    return [row for row in subject.sql("different").to_pylist() if row["dataset_type"] == failed["dataset_type"]]
