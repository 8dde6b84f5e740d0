"""Bulk registration of files in place: ids computed, sizes looked at, every dimension value and duplicate checked.

Scale 1 registers a batch of 100,000 rows, scale 10 of 1,000,000, scale 100 ten such batches into one registry (each the
same files in a run of its own). Butler ingests 20,000 files with transfer="direct". What is claimed is like for like: both
clocks start with paths and data IDs. Butler is measured with references made beforehand, too; ours still makes its ids.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from benchmarks import Peer, Quantity, _peer

ABOUT = "Bulk ingest of dataset rows, registered in place, checks on; beside Butler's direct ingest."
OPTIONS: list[click.Option] = []
WANTED = 100.0
PEER_FILES = 20_000


def run(scale: int) -> Iterator[Quantity]:
    """Rows per second of the first ingest, and of one that finds everything present."""
    from benchmarks import _registry
    from lake import registry

    rows, batches = min(100_000 * scale, 1_000_000), max(1, scale // 10)
    with tempfile.TemporaryDirectory() as folder:
        site = _registry.make(Path(folder) / "lake", rows // _registry.DETECTORS)
        _registry.write_files(site, rows)
        first = again = 0.0
        for batch in range(batches):
            given = _registry.datasets(rows, f"bench/{batch}")
            began = time.perf_counter()
            verdicts = registry.ingest(site, given)["verdict"].unique().to_pylist()
            middle = time.perf_counter()
            repeated = registry.ingest(site, given)["verdict"].unique().to_pylist()
            again += time.perf_counter() - middle
            first += middle - began
            if verdicts != ["accepted"] or repeated != ["present"]:
                raise click.ClickException(f"the registry said {verdicts} and {repeated}")
    with tempfile.TemporaryDirectory() as folder:
        peer = _butler(folder, "inside")
    with tempfile.TemporaryDirectory() as folder:
        prepared = _butler(folder, "before")
    count, rate = rows * batches, rows * batches / first
    ok = rate >= WANTED * peer.figure if peer else None
    yield Quantity("registered in place, from data IDs", "rows/s", rate, f">= {WANTED:.0f}x", ok, peer, count)
    yield Quantity("the same, Butler's references made beforehand", "rows/s", rate, peer=prepared, count=count)
    yield Quantity("the same rows again", "rows/s", count / again, count=count)


def _butler(folder: str, references: str) -> Peer | None:
    found = _peer.measure("butler", "butler_ingest", PEER_FILES, "direct", 10, folder, references)
    return Peer("butler", found["version"], found["datasets"] / found["seconds"]) if found else None
