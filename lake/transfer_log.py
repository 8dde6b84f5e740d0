"""The transfer log of a site: every transition of every file that comes here, append-only.

queued -> copying -> arrived -> verified -> ingested | parked, or failed (with the reason) and copying again; deleted when
the lifetime of its rule is over. What a file's latest event is, its attempt and state decide (macros.sql), never the
clock: clocks jump back, and events may be written twice or late. So a state follows only lower ones of the same attempt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

import schemas
from lake import delta
from lake.site import Site


@dataclass(frozen=True)
class Event:
    """One transition of one file under one rule; ``noted_at`` is now where it is not given."""

    rule_id: str
    path: str
    source: str
    destination: str
    state: str
    attempt: int
    bytes: int
    seconds: float | None = None
    reason: str | None = None
    adler32: str | None = None
    noted_at: datetime | None = None


def write(site: Site, events: Sequence[Event], txn: tuple[str, int] | None = None) -> bool:
    """Append events in one commit; False when ``txn`` says that it was done already."""
    if not events:
        return True
    now = datetime.now(UTC)
    schema = schemas.table("transfer").arrow
    columns = {name: [getattr(event, name) for event in events] for name in schema.names}
    columns["noted_at"] = [noted_at or now for noted_at in columns["noted_at"]]
    columns["reason"] = [reason and reason[:512] for reason in columns["reason"]]
    return delta.append(site, "transfer", pa.table(columns, schema=schema), txn)
