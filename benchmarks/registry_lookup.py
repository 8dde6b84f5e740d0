"""Look-ups in a registry, on an open connection that looks for new commits each time.

Scale 1 has 100,000 rows, scale 10 1,000,000, scale 100 10,000,000 (ten runs of a million). A tract holds 2,000 images, found by
the footprints of their visits. Butler has 20,000 rows on SQLite; its tract holds 2,000 too.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from benchmarks import Peer, Quantity, _peer

ABOUT = "One dataset, and all of a tract, in a registry of up to ten million rows; beside Butler with 20,000."
OPTIONS: list[click.Option] = []
PEER_ROWS = 20_000
REPEAT = 25


def run(scale: int) -> Iterator[Quantity]:
    """Median milliseconds of each look-up, all columns fetched."""
    from benchmarks import _registry
    from lake import query, registry
    from lake.search import look
    from lake.where import parse

    rows, runs = min(100_000 * scale, 1_000_000), max(1, scale // 10)
    visits, chance = rows // _registry.DETECTORS, random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        site = _registry.make(Path(folder) / "lake", visits)
        for number in range(runs):
            registry.ingest(site, _registry.datasets(rows, f"bench/{number}"), verify=False)
        with query.connect(site.lake, ["A"], "A") as con:

            def search(where: str) -> int:
                within = f"instrument = 'Cam' AND run = 'bench/{chance.randrange(runs)}'"
                return int(look(con, site, [_registry.TYPE], parse(f"{within} AND {where}")).num_rows)

            def one() -> int:
                return search(f"visit = {chance.randrange(visits)} AND detector = {chance.randrange(_registry.DETECTORS)}")

            def of_tract() -> int:
                return search(f"tract = {chance.randrange(visits // _registry.VISITS)}")

            point, found = _median(one)
            tract, in_tract = _median(of_tract)
    if (found, in_tract) != (1, _registry.VISITS * _registry.DETECTORS):
        raise click.ClickException(f"the look-ups found {found} and {in_tract} datasets")
    with tempfile.TemporaryDirectory() as folder:
        peer = _peer.measure("butler", "butler_lookup", PEER_ROWS, REPEAT, folder)
    query_peer = Peer("butler", peer["version"], 1e3 * peer["query"]) if peer else None
    tract_peer = Peer("butler", peer["version"], 1e3 * peer["tract"]) if peer else None
    count = rows * runs
    yield Quantity("one dataset", "ms", point, "<= 1x", point <= query_peer.figure if query_peer else None, query_peer, count)
    ok = 10 * tract <= tract_peer.figure if tract_peer else None
    yield Quantity("all of a tract", "ms", tract, "<= 0.1x", ok, tract_peer, count)


def _median(look: Callable[[], int]) -> tuple[float, int]:
    """Median milliseconds of a look-up, and how many datasets it found."""
    found, seconds = look(), []
    for _ in range(REPEAT):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds), found
