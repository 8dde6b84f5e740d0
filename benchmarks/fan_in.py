"""Small files to the central site by a rule: copied, verified and registered there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import click

from benchmarks import Quantity, _files, _rest

ABOUT = "1,500 files of 20 kB to the central site by a rule: copied, verified, registered (x10, x100: as many more files)."
OPTIONS: list[click.Parameter] = []
SIZE = 20_000
#: Rubin's 3x2 test: about 30 minutes for 1,500 files, polled by hand (RTN-100); published, not measured here.
SECONDS = {1: 3.0}


def run(scale: int) -> Iterator[Quantity]:
    """Seconds from the rule's statement to the central registry's agreement; ``scale`` multiplies the 1,500 files."""
    from lake import movement
    from lake.query import connect

    count = 1500 * scale
    with _files.lake() as lake:
        source = lake.site("FRDF")
        _files.fill(source, count, SIZE)
        _rest.wait(lake.root)
        begin = time.perf_counter()
        rule = movement.add_rule(lake, "bench", "fan-in", ["raw"], "true", "FRDF", "USDF")
        report = movement.run_rules(lake, [rule])
        seconds = time.perf_counter() - begin
        with connect(lake, ["USDF"]) as con:
            held = con.execute("SELECT count(*) FROM dataset").fetchall()[0][0]
    whole = report.ok and held == count
    wanted = SECONDS.get(scale)
    said, ok = (f"<= {wanted:g} s", whole and seconds <= wanted) if wanted else ("all registered", whole)
    yield Quantity("rule, copy, verify, register", "s", seconds, said, ok, count=count)
    yield Quantity("files", "1/s", count / seconds, count=count)
