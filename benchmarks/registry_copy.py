"""Ingest with copy of small files: each read, checksummed, written, made durable and registered.

Scale 1 brings in 2,000 files of 20 kB seven times, scale 10 20,000 three times, scale 100 100,000 (2 GB) once. Butler copies
2,000 of the same size with transfer="copy" as often, in turn with ours; it computes no checksum and does not make what it
wrote durable. Said is the median of each, the least and most on stderr. The sources of both are on disk when the
clock starts, the file system makes files at its usual speed before the first one, and nothing is removed until all is measured
(benchmarks/_rest.py). Two more lines say what bounds ours: the same without waiting for the disk, and ``cp -r`` with a
sync of its file system, which neither hashes nor registers.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Literal
from unittest import mock

import click
import pyarrow as pa

from benchmarks import Peer, Quantity, _peer, _rest

ABOUT = "Ingest with copy of files of 20 kB, checksum verified; beside Butler's copy."
OPTIONS: list[click.Option] = []
WANTED = 5.0
SIZE = 20_000
PEER_FILES = 2000
REPEATS = {1: 7, 10: 3, 100: 1}


def run(scale: int) -> Iterator[Quantity]:
    """Files per second of copy and of hard links (as a move begins), of copies that nobody waits for, and of cp."""
    from lake import arriving

    count = min(PEER_FILES * scale, 100_000)
    rates: dict[str, list[float]] = {"copied": [], "linked": [], "unsafe": [], "plain": [], "butler": []}
    version = ""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        given = _given(folder / "given", count)
        _rest.wait(folder)
        for n in range(REPEATS[scale]):
            rates["copied"].append(_taken_in(folder / f"copied-{n}", given, count, "copy"))
            found = _peer.measure("butler", "butler_ingest", PEER_FILES, "copy", SIZE, folder / f"butler-{n}", "before")
            if found:
                version = found["version"]
                rates["butler"].append(found["datasets"] / found["seconds"])
            rates["linked"].append(_taken_in(folder / f"linked-{n}", given, count, "link"))
            with mock.patch.object(arriving, "sync"), mock.patch.object(arriving, "fsync_dir"):
                rates["unsafe"].append(_taken_in(folder / f"unsafe-{n}", given, count, "copy"))
            rates["plain"].append(_cp(given, folder / f"cp-{n}", count))
    for name, measured in rates.items():
        if len(measured) > 1:
            click.echo(f"{name}: {min(measured):,.0f} to {max(measured):,.0f} files/s", err=True)
    middle = {name: median(measured) for name, measured in rates.items() if measured}
    peer = Peer("butler", version, middle["butler"]) if version else None
    ok = middle["copied"] >= WANTED * peer.figure if peer else None
    yield Quantity("copied, checksummed, durable", "files/s", middle["copied"], f">= {WANTED:.0f}x", ok, peer, count)
    yield Quantity("linked, checksummed, durable", "files/s", middle["linked"], count=count)
    yield Quantity("copied, checksummed, not durable", "files/s", middle["unsafe"], count=count)
    yield Quantity("cp -r and sync -f of these files", "files/s", middle["plain"], count=count)


def _given(folder: Path, count: int) -> Path:
    """Files to be taken in, no two alike."""
    folder.mkdir()
    content = os.urandom(SIZE - 8)
    for n in range(count):
        (folder / f"{n}.json").write_bytes(n.to_bytes(8, "big") + content)
    return folder


def _cp(given: Path, folder: Path, count: int) -> float:
    """Files per second of cp, and a sync of the file system."""
    os.sync()
    began = time.perf_counter()
    subprocess.run(["cp", "-r", given, folder], check=True)
    subprocess.run(["sync", "-f", folder], check=True)
    return count / (time.perf_counter() - began)


def _taken_in(root: Path, given: Path, count: int, mode: Literal["copy", "link"]) -> float:
    """Files per second that a new site takes in."""
    from benchmarks import _registry
    from lake import collection, intake

    site = _registry.make(root, count // _registry.DETECTORS)
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
    collection.register_collections(site, [("bench/copy", "RUN", None)])  # as Butler's is
    os.sync()
    began = time.perf_counter()
    verdicts = intake.take_in(site, rows, mode)["verdict"].unique().to_pylist()
    rate = count / (time.perf_counter() - began)
    if verdicts != ["accepted"]:
        raise click.ClickException(f"the registry said {verdicts}")
    return rate
