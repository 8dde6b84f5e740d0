"""Bulk registration of files in place: ids computed, sizes looked at, every dimension value and duplicate checked.

Scale 1 registers a batch of 100,000 rows, scale 10 of 1,000,000, scale 100 ten such batches; batches are repeated into one
registry (each the same files in a run of its own). Butler ingests 20,000 files with transfer="direct" in turn with the first of
them. Said are the medians, the least and most on stderr. What is claimed is like for like: both clocks start with paths and
data IDs. Butler is measured with references made beforehand, too; ours still makes its ids.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import click

from benchmarks import Peer, Quantity, _peer

ABOUT = "Bulk ingest of dataset rows, registered in place, checks on; beside Butler's direct ingest."
OPTIONS: list[click.Option] = []
WANTED = 100.0
PEER_FILES = 20_000
BATCHES, PEER_BATCHES = {1: 5, 10: 5, 100: 10}, 3


def run(scale: int) -> Iterator[Quantity]:
    """Rows per second of the first ingest, and of one that finds everything present."""
    from benchmarks import _registry
    from lake import registry

    rows = min(100_000 * scale, 1_000_000)
    rates: dict[str, list[float]] = {"first": [], "again": [], "inside": [], "before": []}
    version = ""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        site = _registry.make(folder / "lake", rows // _registry.DETECTORS)
        _registry.write_files(site, rows)
        for batch in range(BATCHES[scale]):
            given = _registry.datasets(rows, f"bench/{batch}")
            os.sync()
            for name, expected in (("first", "accepted"), ("again", "present")):
                began = time.perf_counter()
                verdicts = registry.ingest(site, given)["verdict"].unique().to_pylist()
                rates[name].append(rows / (time.perf_counter() - began))
                if verdicts != [expected]:
                    raise click.ClickException(f"the registry said {verdicts}")
            for where in ("inside", "before") if batch < PEER_BATCHES else ():
                own = folder / f"butler-{where}-{batch}"
                found = _peer.measure("butler", "butler_ingest", PEER_FILES, "direct", 10, own, where)
                if found:
                    version = found["version"]
                    rates[where].append(found["datasets"] / found["seconds"])
    for name, measured in rates.items():
        if measured:
            click.echo(f"{name}: {min(measured):,.0f} to {max(measured):,.0f} rows/s", err=True)
    middle = {name: median(measured) for name, measured in rates.items() if measured}
    peer, prepared = (Peer("butler", version, middle[where]) if version else None for where in ("inside", "before"))
    ok = middle["first"] >= WANTED * peer.figure if peer else None
    yield Quantity("registered in place, from data IDs", "rows/s", middle["first"], f">= {WANTED:.0f}x", ok, peer, rows)
    yield Quantity("the same, Butler's references made beforehand", "rows/s", middle["first"], peer=prepared, count=rows)
    yield Quantity("the same rows again", "rows/s", middle["again"], count=rows)
