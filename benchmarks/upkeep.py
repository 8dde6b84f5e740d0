"""How the length of a table's log tells on its commits and readers, with and without upkeep: 100, 1,000, 10,000 commits.

Each commit appends ten events, as a journal does; every 50 commits the table is looked after, or never.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, median

from benchmarks import Peer, Quantity

ABOUT = "Commits, reading and files of a table after 1e2, 1e3, 1e4 commits, with upkeep and without."
OPTIONS: list[object] = []
EVERY = 50


def run(scale: int) -> Iterator[Quantity]:
    """Quantities with upkeep; the peer is the same table without it."""
    commits = 100 * scale
    kept, left = _grow(commits, True), _grow(commits, False)
    for name, unit in (
        ("a commit, the last 100", "ms"), ("a commit and its share of upkeep", "ms"), ("opening, listing files", "ms"),
        ("reading all rows", "ms"), ("live files", "1"),
    ):  # fmt: skip
        yield Quantity(name, unit, kept[name], peer=Peer("no upkeep", "", left[name]), count=commits)
    for name, unit in (("the longest upkeep", "ms"), ("log entries once a day has passed", "1")):
        yield Quantity(name, unit, kept[name], count=commits)


def _grow(commits: int, upkeep_on: bool) -> dict[str, float]:
    import pyarrow as pa

    import schemas
    from lake import delta, upkeep
    from lake.site import Lake
    from pipelines.journal import now

    def rows(n: int) -> pa.Table:
        event = {"campaign": "c", "step": "step1", "site": "A", "attempt": 1, "state": "succeeded", "quanta": 10, "seconds": 1.0}
        listed = [event | {"job": f"isr/visit={10 * n + i}", "why": None, "noted_at": now()} for i in range(10)]
        return pa.Table.from_pylist(listed, schema=schemas.table("job").arrow)

    with tempfile.TemporaryDirectory(prefix="drp-upkeep-") as folder:
        site = Lake.create(Path(folder) / "lake", {"A": {"central": True}}).central
        taken, cared = [], [0.0]
        for n in range(commits):
            begun = time.monotonic()
            delta.append(site, "job", rows(n), ("journal", n + 1))
            taken.append(time.monotonic() - begun)
            if upkeep_on and (n + 1) % EVERY == 0:
                begun = time.monotonic()
                upkeep.tend(site)
                cared.append(time.monotonic() - begun)
        found = {
            "a commit, the last 100": 1e3 * median(taken[-100:]),
            "a commit and its share of upkeep": 1e3 * (mean(taken[-100:]) + (mean(cared[-2:]) / EVERY if upkeep_on else 0)),
            "the longest upkeep": 1e3 * max(cared),
            "opening, listing files": 1e3 * _best(lambda: delta.files(site, "job")),
            "reading all rows": 1e3 * _best(lambda: _read(site)),
            "live files": float(len(delta.files(site, "job"))),
        }
        if upkeep_on:
            upkeep.cut_log(site, "job", hours=0)
            found["log entries once a day has passed"] = float(len(list((site.table_path("job") / "_delta_log").glob("*.json"))))
        return found


def _read(site: object) -> None:
    from lake import delta

    with delta.cursor() as con:
        con.execute(f"SELECT count(DISTINCT job), max(noted_at)::VARCHAR FROM ({delta.select(site, 'job')})").fetchall()  # type: ignore[arg-type]


def _best(call: object) -> float:
    taken = []
    for _ in range(3):
        begun = time.monotonic()
        call()  # type: ignore[operator]
        taken.append(time.monotonic() - begun)
    return min(taken)
