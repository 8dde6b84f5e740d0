"""The time that an event carries: the clock's, or just after the newest event where the clock was set back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from lake import delta
from lake.site import Site


def next_event(site: Site, table: str) -> datetime:
    """A time later than that of every row of an event table: an event that is appended now is the latest."""
    now = datetime.now(UTC)
    with delta.cursor() as con:
        newest = con.sql(f"SELECT max(noted_at) AS newest FROM ({delta.select(site, table)})").to_arrow_table()["newest"][0].as_py()
    return now if newest is None or newest < now else newest + timedelta(microseconds=1)
