"""The ingester of a site: follows the transfer log and turns verified files into registered datasets, exactly once.

Its place, the log's Delta version, is kept in an application transaction of the log itself: there is no queue to lose
and no broker to run. A crash at any instruction repeats a stretch of the log at most, and each part of the work looks
first at what is there. What has to wait stands as parked in the log, with the reason, and nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from lake import delta, dimensions, registry, transfer_log
from lake.access import at
from lake.fault import point
from lake.query import connect
from lake.site import Site
from lake.sql import statement
from lake.transfer_log import Event

APPLICATION = "ingester"
ADMITTED = ("accepted", "present")
#: What was known at a site (by its root) when this process last looked whether something parked there can be admitted.
_looked: dict[Path, tuple[list[int], int]] = {}


@dataclass(frozen=True)
class Ingested:
    """What one pass did: datasets by verdict, datasets admitted from ``parked``, and files that are now ingested."""

    accepted: int = 0
    present: int = 0
    parked: int = 0
    rejected: int = 0
    admitted: int = 0
    files: int = 0


def ingest(site: Site) -> Ingested:
    """Admit what no longer has to wait, then take in what the transfer log reports as verified since the last time.

    Two that run at once take turns; a file is never taken in twice.
    """
    with site.lock(APPLICATION):
        place = delta.transaction_version(site, "transfer", APPLICATION)
        version, added = delta.added_since(site, "transfer", -1 if place is None else place)
        known = _known(site), delta.newest(site, "parked")
        admitted, released = (0, 0) if _looked.get(site.root) == known else _admit(site)
        verdicts, files = _take_in(site, version, added) if added else (Counter(), 0)
        _looked[site.root] = known[0], delta.newest(site, "parked")  # what is parked now was judged by what is known
    return Ingested(verdicts["accepted"], verdicts["present"], verdicts["parked"], verdicts["rejected"], admitted, files + released)


def _known(site: Site) -> list[int]:
    """A number per table that parked datasets wait for; one changes when something becomes known."""
    return [delta.newest(site, table) for table in (*dimensions.TABLES, "dataset_type")]


def _take_in(site: Site, version: int, added: Sequence[str]) -> tuple[Counter[str], int]:
    """Register the datasets of verified files; returns their verdicts, and how many files came to rest."""
    if not all(at(path).exists() for path in added):  # merged by compact, then swept: look at the whole log instead
        added = delta.files(site, "transfer")
    with delta.cursor() as con:
        con.execute(f"CREATE TEMP VIEW transfer AS {delta.scan('transfer', added)}")
        con.execute(f"CREATE TEMP VIEW manifest AS {delta.select(site, 'manifest')}")
        verified = con.sql(statement("verified_records")).to_arrow_table()
        if not verified.num_rows:
            return Counter(), 0
        con.register("verified", verified)
        given = con.sql("SELECT DISTINCT dataset_id, path, record FROM verified ORDER BY ALL").to_arrow_table()
        point("ingester:read")
        judged = registry.ingest(site, registry.from_records(given["record"]), (APPLICATION, version), parking="log")
        point("ingester:registered")
        con.register("judged", pa.table({"path": given["path"], **{c: judged[c] for c in judged.column_names}}))
        states = con.sql(statement("file_states")).to_arrow_table().to_pylist()
    registry.drop_unclaimed(site, sorted({row["path"] for row in states if row["unclaimed"]}))
    point("ingester:dropped")
    events = [Event(**{key: value for key, value in row.items() if key != "unclaimed"}) for row in states]
    transfer_log.write(site, events, (APPLICATION, version))
    point("ingester:logged")
    return Counter(judged["verdict"].to_pylist()), len({row["path"] for row in states if row["state"] == "ingested"})


def _admit(site: Site) -> tuple[int, int]:
    """Admit parked datasets whose dimension records are here by now; how many, and how many files that completed."""
    verdicts = registry.admit_parked(site)["verdict"].to_pylist()
    with delta.cursor() as con:
        if not con.execute(f"SELECT EXISTS (FROM ({delta.select(site, 'transfer')}) WHERE state = 'parked')").fetchall()[0][0]:
            return sum(verdict in ADMITTED for verdict in verdicts), 0
    point("ingester:admitted")
    with connect(site.lake, [site.name]) as con:
        released = con.table(statement("admitted_files")).to_pylist()
    reason = "its dimension records arrived"
    transfer_log.write(site, [Event(**row, state="ingested", reason=reason) for row in released])
    return sum(verdict in ADMITTED for verdict in verdicts), len({row["path"] for row in released})
