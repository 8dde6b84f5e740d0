"""The ingester of a site: follows the transfer log and turns verified files into registered datasets, exactly once.

It keeps its place, the log's Delta version, in an application transaction of the log itself, so that there is no queue to lose
and no broker to run. A crash at any instruction repeats a stretch of the log at most, and every part of the work looks first
at what is there.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta, registry, slices
from lake.fault import point
from lake.query import connect
from lake.site import Site
from lake.sql import statement

APPLICATION = "ingester"

#: The structure of a manifest's or parked row's ``record``, for DuckDB's from_json.
RECORD = json.dumps({field.name: delta.SQL_TYPES[field.type] for field in schemas.table("dataset").arrow})


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
    """Take in what the transfer log reports as verified since the last time, then admit what no longer has to wait.

    Two that run at once take turns; a file is never taken in twice.
    """
    with site.lock(APPLICATION):
        verdicts: Counter[str] = Counter()
        files = 0
        place = delta.transaction_version(site, "transfer", APPLICATION)
        version, paths = delta.added_since(site, "transfer", -1 if place is None else place)
        if paths:
            verdicts, files = _take_in(site, version, paths)
        admitted, released = _admit(site, version)
    return Ingested(
        verdicts["accepted"], verdicts["present"], verdicts["parked"], verdicts["rejected"], admitted, files + released
    )
