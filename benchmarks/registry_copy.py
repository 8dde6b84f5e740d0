"""Ingest with copy of small files: each read, checksummed, written, made durable and registered.

Scale 1 brings in 2,000 files of 20 kB, scale 10 20,000, scale 100 100,000 (2 GB). Butler copies 2,000 of the same size with
transfer="copy"; it computes no checksum and does not make what it wrote durable. The sources of both are on disk when the
clock starts. Two more lines say what bounds ours: the same without waiting for the disk, and ``cp -r`` with a sync of its
file system, which neither hashes nor registers. Nothing is removed until all is measured: a file system without journal
makes files ten times more slowly for minutes after many were removed.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal
from unittest import mock

import click
import pyarrow as pa

from benchmarks import Peer, Quantity, _peer

ABOUT = "Ingest with copy of files of 20 kB, checksum verified; beside Butler's copy."
OPTIONS: list[click.Option] = []
WANTED = 5.0
SIZE = 20_000
PEER_FILES = 2000


def run(scale: int) -> Iterator[Quantity]:
    """Files per second of copy and of hard links (as a move begins), of copies that nobody waits for, and of cp."""
    from lake import arriving

    count = min(PEER_FILES * scale, 100_000)
    with tempfile.TemporaryDirectory() as folder:
        given = Path(folder) / "given"
        given.mkdir()
        content = os.urandom(SIZE - 8)
        for n in range(count):
            (given / f"{n}.json").write_bytes(n.to_bytes(8, "big") + content)
        copied = _taken_in(Path(folder) / "copied", given, count, "copy")
        found = _peer.measure("butler", "butler_ingest", PEER_FILES, "copy", SIZE, folder, "before")
        linked = _taken_in(Path(folder) / "linked", given, count, "link")
        with mock.patch.object(arriving, "sync"), mock.patch.object(arriving, "fsync_dir"):
            unsafe = _taken_in(Path(folder) / "unsafe", given, count, "copy")
        os.sync()
        began = time.perf_counter()
        subprocess.run(["cp", "-r", given, f"{folder}/cp"], check=True)
        subprocess.run(["sync", "-f", f"{folder}/cp"], check=True)
        plain = count / (time.perf_counter() - began)
    peer = Peer("butler", found["version"], found["datasets"] / found["seconds"]) if found else None
    ok = copied >= WANTED * peer.figure if peer else None
    yield Quantity("copied, checksummed, durable", "files/s", copied, f">= {WANTED:.0f}x", ok, peer, count)
    yield Quantity("linked, checksummed, durable", "files/s", linked, count=count)
    yield Quantity("copied, checksummed, not durable", "files/s", unsafe, count=count)
    yield Quantity("cp -r and sync -f of these files", "files/s", plain, count=count)


def _taken_in(root: Path, given: Path, count: int, mode: Literal["copy", "link"]) -> float:
    """Files per second that a new site takes in."""
    from benchmarks import _registry
    from lake import intake

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
    os.sync()
    began = time.perf_counter()
    verdicts = intake.take_in(site, rows, mode)["verdict"].unique().to_pylist()
    rate = count / (time.perf_counter() - began)
    if verdicts != ["accepted"]:
        raise click.ClickException(f"the registry said {verdicts}")
    return rate
