"""One driver per campaign (law 5): a lease in the campaign tables, renewed while the driver lives.

A lease is taken by an append that carries the application transaction (lease/<campaign>, n): of two drivers that race for
the same n, Delta refuses one. A holder that died on this machine is seen to be dead at once; elsewhere its lease runs out.
"""

from __future__ import annotations

import os
import socket
import threading
import uuid
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

import schemas
from lake import delta
from lake.site import Lake, LakeError
from pipelines.journal import now, plain, who

LASTS = timedelta(seconds=60)
RENEW = 20.0


class LeaseError(RuntimeError):
    """Another driver holds the campaign; the message names it."""


def _start_time(pid: int) -> str | None:
    """Start time of a process in clock ticks since boot, so that a recycled pid is not taken for the holder."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _identity() -> str:
    return f"{who()} pid {os.getpid()} start {_start_time(os.getpid())}"


def dead(holder: str) -> bool:
    """True when the holder ran on this machine and its process is gone."""
    name, _, process = holder.partition(" pid ")
    pid, _, start = process.partition(" start ")
    if name.rpartition("@")[2] != socket.gethostname() or not pid.isdigit():
        return False
    return _start_time(int(pid)) != start


def current(lake: Lake, campaign: str) -> dict[str, Any] | None:
    """The latest lease event of a campaign, or None."""
    with delta.cursor() as con:
        delta.view(con, lake.central, "lease")
        rows = con.sql(
            "SELECT * FROM lease WHERE campaign = $c ORDER BY noted_at DESC LIMIT 1", params={"c": campaign}
        ).to_arrow_table()
    found = plain(rows)
    return found[0] if found else None


class Lease:
    """Context manager that holds the campaign's lease and renews it in a thread.

    ``lost`` is set when another driver has it, or when it could not be renewed and is about to run out.
    """

    def __init__(self, lake: Lake, campaign: str) -> None:
        self.lake, self.campaign = lake, campaign
        self.token = str(uuid.uuid4())
        self.lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    @property
    def _app(self) -> str:
        return f"lease/{self.campaign}"

    def _number(self) -> int:
        """The number of the last event; to be read before the event itself, so that who was overtaken is refused."""
        return delta.transaction_version(self.lake.central, "lease", self._app) or 0

    def _append(self, state: str, number: int) -> bool:
        at = now()
        row = {
            "campaign": self.campaign, "token": self.token, "holder": _identity(), "state": state,
            "expires_at": at + LASTS, "noted_at": at,
        }  # fmt: skip
        rows = pa.Table.from_pylist([row], schema=schemas.table("lease").arrow)
        done = delta.append(self.lake.central, "lease", rows, (self._app, number))
        if done:
            self._expires = at + LASTS
        return done

    def __enter__(self) -> Lease:
        number = self._number()
        held = current(self.lake, self.campaign)
        if held and held["state"] == "held" and held["expires_at"] > now() and not dead(held["holder"]):
            raise LeaseError(
                f"campaign {self.campaign} is driven by {held['holder'].partition(' start ')[0]} "
                f"(lease until {held['expires_at']:%H:%M:%S} UTC); stop it there, or wait until its lease runs out"
            )
        if not self._append("held", number + 1):
            raise LeaseError(f"campaign {self.campaign}: another driver started at the same moment; look with drp status")
        self._thread.start()
        return self

    def _renew(self) -> None:
        while not self._stop.wait(RENEW):
            try:
                number, held = self._number(), current(self.lake, self.campaign)
                if held is None or held["token"] != self.token or not self._append("held", number + 1):
                    return self.lost.set()
            except (LakeError, OSError, duckdb.Error):
                if now() + timedelta(seconds=RENEW) > self._expires:  # the next try would come too late
                    return self.lost.set()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if not self.lost.is_set():
            with suppress(LakeError, OSError):  # a holder that is gone counts as dead anyway
                self._append("released", self._number() + 1)
