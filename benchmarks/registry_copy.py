"""Ingest with copy of small files: each read, checksummed, written, made durable and registered.

Scale 1 brings in 2,000 files of 20 kB, scale 10 20,000, scale 100 100,000 (2 GB). Butler copies 2,000 of the same size with
transfer="copy"; it computes no checksum and does not make what it wrote durable.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import pyarrow as pa

from benchmarks import Peer, Quantity, _peer

ABOUT = "Ingest with copy of files of 20 kB, checksum verified; beside Butler's copy."
OPTIONS: list[click.Option] = []
WANTED = 5.0
SIZE = 20_000
PEER_FILES = 2000


def run(scale: int) -> Iterator[Quantity]:
    """Files per second of copy and of hard links (as a move begins)."""
    from benchmarks import _registry
    from lake import intake

    count = min(PEER_FILES * scale, 100_000)
    rates = {}
    for mode in ("copy", "link"):
        with tempfile.TemporaryDirectory() as folder:
            site = _registry.make(Path(folder) / "lake", count // _registry.DETECTORS)
            given = Path(folder) / "given"
            given.mkdir()
            content = os.urandom(SIZE - 8)
            for n in range(count):
                (given / f"{n}.json").write_bytes(n.to_bytes(8, "big") + content)
            rows = pa.table(
                {
                    "source": [f"{given}/{n}.json" for n in range(count)],
                    "dataset_type": pa.repeat(_registry.TYPE, count),
                    "run": pa.repeat("bench/copy", count),
                    "instrument": pa.repeat("Cam", count),
                    "visit": [n // _registry.DETECTORS for n in range(count)],
                    "detector": [n % _registry.DETECTORS for n in range(count)],
                }
            )
            began = time.perf_counter()
            verdicts = intake.take_in(site, rows, mode)["verdict"].unique().to_pylist()  # type: ignore[arg-type]
            rates[mode] = count / (time.perf_counter() - began)
            if verdicts != ["accepted"]:
                raise click.ClickException(f"the registry said {verdicts}")
    with tempfile.TemporaryDirectory() as folder:
        found = _peer.measure("butler", "butler_ingest", PEER_FILES, "copy", SIZE, folder, "before")
    peer = Peer("butler", found["version"], found["datasets"] / found["seconds"]) if found else None
    ok = rates["copy"] >= WANTED * peer.figure if peer else None
    yield Quantity("copied, checksummed, durable", "files/s", rates["copy"], f">= {WANTED:.0f}x", ok, peer, count)
    yield Quantity("linked, checksummed, durable", "files/s", rates["link"], count=count)
