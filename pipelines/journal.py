"""The campaign's memory at the central site: append-only event logs, batched, and their latest state as queries."""

from __future__ import annotations

import getpass
import os
import socket
import threading
import time
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

import schemas
from lake import delta
from lake.site import Lake


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

    def write(self, table: str, /, **event: Any) -> None:
        """Note an event; ``campaign`` and ``at`` are filled in."""
        with self._lock:
            self._waiting[table].append({"campaign": self.campaign, "noted_at": now(), **event})
            if time.monotonic() - self._flushed > self.seconds:
                self._flush()

    def flush(self) -> None:
        """Append everything that waits."""
        with self._lock:
            self._flush()

    def _flush(self) -> None:
        for table in list(self._waiting):
            rows = pa.Table.from_pylist(self._waiting[table], schema=schemas.table(table).arrow)
            delta.append(self.lake.central, table, rows)
            del self._waiting[table]
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
    rows: list[dict[str, Any]] = found.to_pylist()
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
