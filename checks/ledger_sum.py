"""Sums of the ledger that are kept: good for as long as everything that they were counted from is unchanged.

Per site, campaign and dataset type the table ``ledger_sum`` keeps the counts by step and state, and a digest of what
they were made from: the parquet files of the registered and expected rows of the type, how many events concern it
(made_from.sql), and the statements that count. Another digest, and the type is counted again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

import schemas
from lake import delta
from lake.site import LakeError, Site
from lake.sql import statement

#: Sums are kept with the (exposure, detector) whose products are not all there: no more than so many.
KEEP_STOPPED = 2_000
#: The statements that count (with the words of lake/sql/macros.sql): other statements, other sums.
COUNTED_BY = ("expected_type", "manifest_type", "plain", "standing", "twins")
#: States that a dataset may stay in. In any other, something is about to happen: such a type is not worth keeping.
SETTLED = {"visible", "shadowed", "predicted_only", "unsuccessful", "cursed", "archived", "unexpected"}


@cache
def sql(name: str) -> str:
    """The text of a statement of this room."""
    return Path(__file__).with_name(f"{name}.sql").read_text()


def made_from(con: duckdb.DuckDBPyConnection, campaign: str, parts: Mapping[str, list[str]]) -> dict[str, str]:
    """By dataset type, a digest of all that its ledger is counted from; ``parts`` are its files, ``con`` as for made_from.sql."""
    statements = [statement("macros"), *(sql(name) for name in COUNTED_BY)]
    events: dict[str, list[tuple[object, ...]]] = {}
    for kind, *event in con.execute(sql("made_from")).fetchall():
        events.setdefault(kind, []).append(tuple(event))
    common = events.pop(None, [])  # type: ignore[call-overload]
    return {
        kind: hashlib.sha256(json.dumps([campaign, kind, statements, files, common, events.get(kind, [])]).encode()).hexdigest()
        for kind, files in parts.items()
    }


def latest(con: duckdb.DuckDBPyConnection, site: Site, campaign: str) -> dict[str, tuple[str, str]]:
    """What is kept of each type: the digest of what it was made from, and the sums."""
    rows = con.execute(
        f"SELECT dataset_type, made_from, sums FROM ({delta.select(site, 'ledger_sum')}) WHERE campaign = $campaign "
        "QUALIFY row_number() OVER (PARTITION BY dataset_type ORDER BY noted_at DESC) = 1",
        {"campaign": campaign},
    ).fetchall()
    return {kind: (digest, sums) for kind, digest, sums in rows}


def restore(con: duckdb.DuckDBPyConnection, site: Site, sums: str) -> None:
    """Put kept sums back into ``tally`` and ``stopped``."""
    for table, rows in json.loads(sums).items():
        if rows:
            columns = [pa.array(values) for values in zip(*[[site.name, *row] for row in rows], strict=True)]
            con.register("kept", pa.table(columns, names=[f"c{number}" for number in range(len(columns))]))
            con.execute(f"INSERT INTO {table} FROM kept")


def keep(con: duckdb.DuckDBPyConnection, site: Site, campaign: str, digests: Mapping[str, str]) -> None:
    """Keep what ``tally`` and ``stopped`` hold of the given types, where they are settled."""
    tally, stopped = _by_type(con, "tally", site), _by_type(con, "stopped", site)
    rows = []
    for kind, digest in digests.items():
        sums = {"tally": tally.get(kind, []), "stopped": stopped.get(kind, [])}
        if {row[2] for row in sums["tally"]} <= SETTLED and len(sums["stopped"]) <= KEEP_STOPPED:
            said = {"sums": json.dumps(sums), "noted_at": datetime.now(UTC)}
            rows.append({"campaign": campaign, "dataset_type": kind, "made_from": digest} | said)
    if rows:
        with suppress(LakeError):  # a lake that cannot be written to is counted all the same
            delta.append(site, "ledger_sum", pa.Table.from_pylist(rows, schema=schemas.table("ledger_sum").arrow))


def _by_type(con: duckdb.DuckDBPyConnection, table: str, site: Site) -> dict[str, list[tuple[object, ...]]]:
    """A site's rows of a table (without the site) by dataset type: of each a few more than are kept, at most."""
    query = (
        f"SELECT * EXCLUDE (site), dataset_type AS kind FROM {table} WHERE site = $site "
        "QUALIFY row_number() OVER (PARTITION BY dataset_type) <= $most ORDER BY ALL"
    )
    found: dict[str, list[tuple[object, ...]]] = {}
    for *row, kind in con.execute(query, {"site": site.name, "most": KEEP_STOPPED + 1}).fetchall():
        found.setdefault(kind, []).append(tuple(row))
    return found
