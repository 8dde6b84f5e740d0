"""The campaign's memory at the central site: append-only event logs, batched, and their latest state as queries."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa

import schemas
from lake import delta, upkeep
from lake.site import Lake

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
#: After how many appends the central site's tables are looked after.
TEND_EVERY = 50


def who() -> str:
    """The person and machine that acts, for the event logs."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def now() -> datetime:
    """The time that events carry."""
    return datetime.now(UTC)


class Journal:
    """Appends events to the campaign tables; safe to share between threads. Events wait at most ``seconds`` in memory."""

    def __init__(self, lake: Lake, campaign: str, seconds: float = 2.0) -> None:
        self.lake, self.campaign, self.seconds = lake, campaign, seconds
        self._lock = threading.Lock()
        self._waiting: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self._flushed = time.monotonic()
        self._appends = 0

    def write(self, table: str, /, **event: Any) -> None:
        """Note an event; ``campaign`` and ``at`` are filled in."""
        with self._lock:
            self._waiting[table].append({"campaign": self.campaign, "noted_at": now(), **event})
            due = time.monotonic() - self._flushed > self.seconds
        if due:
            self.flush()

    def flush(self) -> None:
        """Append everything that waits."""
        with self._lock:
            self._flush()
            due = self._appends >= TEND_EVERY
            self._appends = 0 if due else self._appends
        if due:
            upkeep.tend(self.lake.central)

    def _flush(self) -> None:
        for table in list(self._waiting):
            rows = pa.Table.from_pylist(self._waiting[table], schema=schemas.table(table).arrow)
            delta.append(self.lake.central, table, rows)
            del self._waiting[table]
            self._appends += 1
        self._flushed = time.monotonic()


def latest(lake: Lake, table: str, keys: str, campaign: str) -> list[dict[str, Any]]:
    """The latest event per key (comma separated columns) of a campaign table."""
    with delta.cursor() as con:
        delta.view(con, lake.central, table)
        found = con.sql(
            f'SELECT * FROM "{table}" WHERE campaign = $campaign QUALIFY row_number() OVER '
            f"(PARTITION BY {keys} ORDER BY noted_at DESC) = 1 ORDER BY {keys}",
            params={"campaign": campaign},
        ).to_arrow_table()
    return plain(found)


def plain(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as Python values. Times go by their microseconds: Arrow would import pandas for them, which takes 0.2 s."""
    times = [field.name for field in table.schema if pa.types.is_timestamp(field.type)]
    for name in times:
        table = table.set_column(table.column_names.index(name), name, table[name].cast(pa.timestamp("us", "UTC")).cast(pa.int64()))
    rows: list[dict[str, Any]] = table.to_pylist()
    for row in rows:
        row |= {name: EPOCH + timedelta(microseconds=row[name]) for name in times if row[name] is not None}
    return rows


def campaigns(lake: Lake) -> list[str]:
    """Names of the campaigns that a lake holds, in alphabetical order."""
    with delta.cursor() as con:
        delta.view(con, lake.central, "campaign")
        return [row[0] for row in con.execute("SELECT DISTINCT campaign FROM campaign ORDER BY 1").fetchall()]


def definition_of(lake: Lake, campaign: str) -> str:
    """The YAML text with which a campaign runs."""
    text: str = latest(lake, "campaign", "campaign", campaign)[0]["definition"]
    return text
