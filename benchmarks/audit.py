"""The storage audit of a large site, by listing and deep.

Scale 1, 10 and 100 are 1e4, 1e5 and 1e6 small files, 1,000 to a directory, all registered, listed against the registry;
and 0.25, 1 and 4 GB in files of 4 MB, read from the disk (the system's copies in memory are dropped first). Of reading
alone (cat) and hashing (sha256sum) the slower one is the limit, with which the deep audit is compared. The Butler is
asked about 1e4 files, at 100 about 2e4. What is wrong is made wrong first: the audit must name it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

import schemas
from benchmarks import Peer, Quantity, _peer
from lake.site import Site

ABOUT = "The storage audit: files/s by listing, against Butler's stored_many; MB/s deep, against reading and sha256sum."
OPTIONS: list[click.Parameter] = [
    click.Option(["--scratch"], type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where files are made."),
]
SITE, PER_FOLDER, LARGE = "USDF", 1000, 4 * 2**20
READ = {1: 2**28, 10: 2**30, 100: 2**32}
ROUNDS = 2


def run(scale: int, scratch: Path | None) -> Iterator[Quantity]:
    """Files/s of an audit by listing, MB/s of a deep one, and those of the peers."""
    folder = Path(tempfile.mkdtemp(prefix="audit-", dir=scratch))
    try:
        yield from _listing(folder, scale)
        yield from _deep(folder, scale)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _listing(folder: Path, scale: int) -> Iterator[Quantity]:
    from checks import audit

    count = 10_000 * scale
    site = _site(folder / "small")
    paths = [f"files/big/step1/visit_image/{f}/visit_image_{n:09}.fits" for f in range(count // PER_FOLDER) for n in _numbers(f)]
    _files(site, paths)
    _register(site, paths, [n % 1000 for n in range(count)], ["0" * 64] * count)
    site.path(paths[0]).unlink()
    os.truncate(site.path(paths[1]), 7777)
    site.path("files/big/stray.fits").write_bytes(b"stray")
    seconds, report = _timed(lambda: audit.audit(site))
    if {f.path: f.state for f in report.findings} != {paths[0]: "lost", paths[1]: "damaged", "files/big/stray.fits": "orphan"}:
        raise click.ClickException(f"the audit found {report.counts}, one of each was made")
    (folder / "butler").mkdir()
    found = _peer.measure("butler", "butler_stored", min(count, 10_000 if scale < 100 else 20_000), folder / "butler")
    peer = Peer("butler", found["version"], found["files"] / found["seconds"]) if found else None
    rate = count / seconds
    ok = None if peer is None else rate / peer.figure >= 10
    yield Quantity("audit by listing", "files/s", rate, ">= 10x", ok, peer, count)
    if found:
        said = ", ".join(f"{name}: {'stored' if stored else 'not stored'}" for name, stored in found["stored"].items())
        click.echo(f"butler's stored_many says of a file that is {said}", err=True)


def _deep(folder: Path, scale: int) -> Iterator[Quantity]:
    from checks import audit
    from lake import datastore

    site = _site(folder / "large")
    count = READ[scale] // LARGE
    paths = [f"files/big/step1/visit_image/0/visit_image_{n:09}.fits" for n in range(count)]
    site.path(paths[0]).parent.mkdir(parents=True)
    sums = [datastore.write_file(site, path, os.urandom(LARGE)).checksum for path in paths]
    _register(site, paths, [LARGE] * count, sums)
    listed = folder / "listed"
    listed.write_text("".join(f"{site.path(path)}\0" for path in paths))

    def ours() -> None:
        report = audit.audit(site, deep=True, older_than=0.0)
        if not report.ok or report.coverage is None or report.coverage.bytes != count * LARGE:
            raise click.ClickException(f"the deep audit found {report.counts} and read {report.coverage}")

    ways = {"ours": ours, "cat": lambda: _all(listed, "cat"), "sha256sum": lambda: _all(listed, "sha256sum")}
    best = dict.fromkeys(ways, 0.0)
    for _ in range(ROUNDS):
        for name, way in ways.items():
            _forget(site, paths)
            best[name] = max(best[name], count * LARGE / _timed(way)[0] / 1e6)
    version = subprocess.run(["cat", "--version"], capture_output=True, text=True).stdout.split("\n")[0].split()[-1]
    slower = min(("cat", "sha256sum"), key=best.__getitem__)
    for name, limit in (("cat", "reading"), ("sha256sum", "hashing")):
        peer = Peer(f"xargs -P{os.cpu_count()} {name}", version, best[name])
        wanted = ">= 0.8x" if name == slower else ""
        ok = best["ours"] >= 0.8 * best[name] if wanted else None
        yield Quantity(f"deep audit against {limit} alone", "MB/s", best["ours"], wanted, ok, peer, count)


def _all(listed: Path, command: str) -> None:
    """Run a command over all files, as many at a time as there are cores."""
    words = ["xargs", "-0", "-a", str(listed), "-n", "8", "-P", str(os.cpu_count()), command]
    subprocess.run(words, stdout=subprocess.DEVNULL, check=True)


def _forget(site: Site, paths: list[str]) -> None:
    """Drop what the system keeps of the files in memory."""
    for path in paths:
        with site.path(path).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    began = time.perf_counter()
    result = work()
    return time.perf_counter() - began, result


def _site(root: Path) -> Site:
    from lake.site import Lake

    return Lake.create(root, {SITE: {"central": True}}).central


def _numbers(folder: int) -> range:
    return range(folder * PER_FOLDER, (folder + 1) * PER_FOLDER)


def _files(site: Site, paths: list[str]) -> None:
    """Sparse files of up to 999 bytes."""
    for number, path in enumerate(paths):
        if number % PER_FOLDER == 0:
            site.path(path).parent.mkdir(parents=True)
        descriptor = os.open(site.root / path, os.O_CREAT | os.O_WRONLY, 0o644)
        os.ftruncate(descriptor, number % 1000)
        os.close(descriptor)


def _register(site: Site, paths: list[str], sizes: list[int], sums: list[str]) -> None:
    """Rows of the registry for the files, in batches, past the checks of ingest (which have a benchmark of their own)."""
    from lake import delta

    for start in range(0, len(paths), 100_000):
        part = slice(start, start + 100_000)
        rows = len(paths[part])
        table = pa.table({
            "dataset_id": pa.array([f"{n:08x}-0000-5000-8000-000000000000" for n in range(start, start + rows)]),
            "dataset_type": ["visit_image"] * rows, "run": ["big/step4"] * rows, "path": paths[part], "bytes": sizes[part],
            "checksum": sums[part], "file_bytes": sizes[part], "file_checksum": sums[part], "origin": [SITE] * rows,
            "registered_at": pa.array([datetime.now(UTC)] * rows, pa.timestamp("us", "UTC")),
        })  # fmt: skip
        delta.append(site, "dataset", schemas.conform("dataset", table))
