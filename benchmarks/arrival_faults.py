"""Arrivals of which one in 50 belongs to a visit that nobody here has heard of yet, against arrivals without any such."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

from benchmarks import Peer, Quantity, _files

if TYPE_CHECKING:
    from lake.site import Lake

ABOUT = "5,000 arrivals (x10, x100), one in 50 of an unknown visit, against none."
OPTIONS: list[click.Parameter] = [
    click.Option(["--message"], type=int, default=500, show_default=True, help="Arrivals reported, and taken in, at a time."),
]
ARRIVALS = 5000
BAD_IN = 50
SIZE = 200


class Arrivals:
    """Files that lie at the central site, reported in messages; ``late`` are the visits whose records are not there yet."""

    def __init__(self, lake: Lake, count: int, size: int, late: bool) -> None:
        from lake import movement

        source, self.lake, self.site = lake.site("FRDF"), lake, lake.central
        self.count, self.seconds = count, 0.0
        rows = _files.fill(source, self.count, SIZE)
        self.rule = movement.add_rule(lake, "bench", "arrivals", ["raw"], "true", "FRDF", "USDF")
        visits = rows["visit"].unique().to_pylist()
        self.late = [visit for visit in visits if late and visit % BAD_IN == 0]
        _files.know(self.site, 0)
        _files.add_visits(self.site, sorted(set(visits).difference(self.late)))
        shutil.copytree(source.path("files"), self.site.path("files"), dirs_exist_ok=True)
        paths = rows.sort_by([("detector", "ascending"), ("visit", "ascending")])[
            "path"
        ].to_pylist()  # each message has every visit
        self.messages = [paths[n : n + size] for n in range(0, self.count, size)]

    def take(self, message: list[str]) -> None:
        from lake import transfer_log
        from lake.ingester import ingest
        from lake.transfer_log import Event

        begin = time.perf_counter()
        transfer_log.write(self.site, [Event(self.rule.rule_id, path, "FRDF", "USDF", "verified", 1, SIZE) for path in message])
        ingest(self.site)
        self.seconds += time.perf_counter() - begin

    def registered(self) -> int:
        from lake.query import connect

        with connect(self.lake, ["USDF"]) as con:
            found: int = con.execute("SELECT count(DISTINCT dataset_id) FROM dataset").fetchall()[0][0]
        return found


def run(scale: int, message: int) -> Iterator[Quantity]:
    """Time ratio (message by message in turn, so that both see the same machine), then what is lost in the end."""
    from lake.ingester import ingest

    with ExitStack() as stack:
        good, bad = (Arrivals(stack.enter_context(_files.lake()), ARRIVALS * scale, message, late) for late in (False, True))
        for one, other in zip(good.messages, bad.messages, strict=True):
            good.take(one)
            bad.take(other)
        waiting = bad.count - bad.registered()
        _files.add_visits(bad.site, bad.late)
        begin = time.perf_counter()
        ingest(bad.site)
        seconds = time.perf_counter() - begin
        lost = bad.count - bad.registered()
    peer = Peer("none unknown", "here", good.seconds)
    yield Quantity("arrivals, 1 in 50 unknown", "s", bad.seconds, "<= 1.1x", bad.seconds <= 1.1 * good.seconds, peer, bad.count)
    yield Quantity("waiting for their visit's record", "", waiting, "1 in 50", waiting == bad.count // BAD_IN, count=bad.count)
    yield Quantity("admitted when the records came", "s", seconds, count=waiting)
    yield Quantity("lost in the end", "", lost, "0", lost == 0, count=bad.count)
