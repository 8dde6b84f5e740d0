"""Files in bulk to another site by rules, against ``cp -r`` of the same tree and ``sha256sum`` of the copy."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from benchmarks import Peer, Quantity, _files

ABOUT = "Small files (10,000 of 10 kB x scale/1) and large ones (10 of 10 MB x scale) by a rule, against cp -r + sha256sum."
OPTIONS = [
    click.Option(["--only"], type=click.Choice(["small", "large"]), help="One of the two parts."),
]
#: By scale: (files, bytes of each). Large files are 0.1, 1 and 10 GB in all.
SMALL = {1: (10_000, 10_000), 10: (100_000, 10_000), 100: (300_000, 10_000)}
LARGE = {1: (10, 10_000_000), 10: (10, 100_000_000), 100: (20, 500_000_000)}


def run(scale: int, only: str | None) -> Iterator[Quantity]:
    """Files per second of the small files (no claim: see docs/movement.md), bytes per second of the large ones."""
    if only != "large":
        yield from _compare("small", *SMALL[scale])
    if only != "small":
        yield from _compare("large", *LARGE[scale])


def _compare(what: str, count: int, size: int) -> Iterator[Quantity]:
    from lake import movement

    with _files.lake() as lake:
        source = lake.site("FRDF")
        _files.fill(source, count, size)
        _settle()
        peer = _cp(source.path("files"))
        _settle()
        begin = time.perf_counter()
        rule = movement.add_rule(lake, "bench", what, ["raw"], "true", "FRDF", "USDF")
        report = movement.run_rules(lake, [rule])
        seconds = time.perf_counter() - begin
        if not report.ok or report.files != count:
            raise click.ClickException(f"{report.files} of {count} files came: {report.rules[0].reason}")
    if what == "small":
        said = Peer("cp -r + sha256sum", _version(), count / peer)
        yield Quantity("small files: rule to registry", "1/s", count / seconds, peer=said, count=count)
    else:
        ours, theirs = count * size / seconds / 1e6, count * size / peer / 1e6
        said = Peer("cp -r + sha256sum", _version(), theirs)
        claimed = count * size >= 1e9  # below, the tables that a first rule makes are most of the time
        ok = ours / theirs >= 0.8 if claimed else None
        yield Quantity("large files: rule to registry", "MB/s", ours, ">= 0.8" if claimed else "", ok, said, count)


def _cp(tree: Path) -> float:
    """Seconds to copy the tree and read the copy for its checksums, with the tools of the system."""
    with TemporaryDirectory(prefix="drp-cp-", dir=tree.parent) as folder:
        begin = time.perf_counter()
        subprocess.run(["cp", "-r", str(tree), folder], check=True)
        command = f"find {folder} -type f -print0 | xargs -0 -n 500 sha256sum > {folder}.sums"
        subprocess.run(command, shell=True, check=True)
        seconds = time.perf_counter() - begin
        Path(f"{folder}.sums").unlink()
    return seconds


def _settle() -> None:
    """Let the disk finish what is not part of the measurement."""
    if shutil.which("sync"):
        subprocess.run(["sync"], check=True)


def _version() -> str:
    return subprocess.run(["cp", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0].split()[-1]
