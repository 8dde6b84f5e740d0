"""Reading members of a bundle of the archive, and making one; beside Butler's zip and beside tar.

Scale 1 is a bundle of 2,000 members of 20 kB, 10 one of 20,000, 100 one of 200,000 of 4 kB. Butler's zip has the same members
up to 20,000, which is what it makes and takes in in about two minutes.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks import Peer, Quantity
from benchmarks._peer import measure

if TYPE_CHECKING:
    from lake.site import Lake

ABOUT = "A member read from a bundle (Butler: from a zip); a bundle made and verified (tar and sha256sum)."
OPTIONS = [click.Option(["--folder"], type=click.Path(path_type=Path), help="Where scratch data goes (default: the system's).")]
SIZES = {1: (2_000, 20_000), 10: (20_000, 20_000), 100: (200_000, 4_000)}
BUTLER_MOST = 20_000
DETECTORS = 200
SECONDS = 5.0


def run(scale: int, folder: Path | None) -> Iterator[Quantity]:
    """Reads per second of one member and of the first one; MB/s of making a bundle and of verifying it."""
    from lake import archive

    members, size = SIZES[scale]
    with tempfile.TemporaryDirectory(prefix="drp-bundle-", dir=folder) as scratch:
        lake, names = _lake(Path(scratch) / "lake", members, size)
        megabytes = members * size / 1e6
        shelf = archive.Shelf(lake.central)
        began = time.perf_counter()
        [bundle] = archive.archive(lake, lake.central, shelf, target=2 * members * size).bundles
        made = time.perf_counter() - began
        began = time.perf_counter()
        assert archive.verify(lake).ok
        verified = time.perf_counter() - began
        packed = _tar(lake.central.root, Path(scratch) / "peer.tar")
        warm, first, index = _read(lake, names)
        shutil.rmtree(lake.root)
        butler = measure("butler", "butler_zip", min(members, BUTLER_MOST), size, SECONDS, _new(Path(scratch) / "butler"))
    tar = Peer("tar+sha256sum", _version(), megabytes / packed)
    zipped = butler and Peer("butler zip", butler["version"], 1 / butler["read_seconds"])
    kept = butler and Peer("butler zip", butler["version"], butler["members"] / (butler["make_seconds"] + butler["ingest_seconds"]))
    ratio = butler and warm * butler["read_seconds"]
    yield Quantity("member read", "1/s", warm, ">= 100x", ratio >= 100 if ratio else None, zipped, members)
    yield Quantity("member read, the first of a Reader", "1/s", first, "", None, zipped, members)
    yield Quantity("index of the bundle, taken in once", "s", index, "", None, None, members)
    yield Quantity("milliseconds per member", "ms", 1e3 / warm, "< 1", warm > 1000, None, members)
    yield Quantity("bundle made, verified, registered", "1/s", members / made, "", None, kept, members)
    yield Quantity("bundle made, verified, registered", "MB/s", megabytes / made, "", None, tar, members)
    yield Quantity("bundle verified", "MB/s", megabytes / verified, "", None, None, members)
    yield Quantity("bytes beside the members", "B", (bundle.bytes - members * size) / members, "", None, None, members)


def _read(lake: Lake, names: list[str]) -> tuple[float, float, float]:
    """Members per second: of a Reader that has read two before, at random; and of one that was just opened. And the seconds
    that the second member takes, with which the index of its bundle is taken in."""
    from lake import archive

    chance, first = random.Random(1), []
    for _ in range(5):
        began = time.perf_counter()
        with archive.Reader(lake) as reader:
            reader.read(chance.choice(names))
        first.append(time.perf_counter() - began)
    with archive.Reader(lake) as reader:
        reader.read(names[0])
        began = time.perf_counter()
        reader.read(names[1])
        index = time.perf_counter() - began
        count, began = 0, time.perf_counter()
        while time.perf_counter() - began < SECONDS:
            for name in chance.choices(names, k=100):
                reader.read(name)
            count += 100
        return count / (time.perf_counter() - began), 1 / sorted(first)[2], index


def _tar(root: Path, target: Path) -> float:
    """Seconds to pack the same files with tar, each one's sha256 and that of the whole taken, on the disk when it ends."""
    command = (
        f"find files/bench -type f -print0 | sort -z > {target}.list && tar -cf {target} --null -T {target}.list "
        f"&& sync {target} && xargs -0 sha256sum < {target}.list > {target}.sums && sha256sum {target} >> {target}.sums"
    )
    began = time.perf_counter()
    subprocess.run(command, shell=True, check=True, cwd=root)
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def _version() -> str:
    return subprocess.run(["tar", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0].split()[-1]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _lake(root: Path, members: int, size: int) -> tuple[Lake, list[str]]:
    """A lake of one site with ``members`` registered files of random bytes; their paths."""
    import hashlib

    import pyarrow as pa

    import schemas
    from lake import datastore, dimensions, registry
    from lake.site import Lake

    lake = Lake.create(root, {"A": {"central": True}})
    site = lake.central
    registry.register_dataset_types(site, {"raw": (("instrument", "exposure", "detector"), "fits")})
    night = {"instrument": "Cam", "day_obs": 20260101, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    exposures = range(1, -(-members // DETECTORS) + 1)
    insert: Callable[[str, list[dict[str, object]]], int] = lambda table, rows: dimensions.insert(  # noqa: E731
        site, table, schemas.conform(table, pa.Table.from_pylist(rows))
    )
    insert("instrument", [{"instrument": "Cam", "detector_count": DETECTORS}])
    insert("detector", [{"instrument": "Cam", "detector": d, "width": 10, "height": 10} for d in range(DETECTORS)])
    insert("physical_filter", [{"instrument": "Cam", "physical_filter": "r_cam", "band": "r"}])
    insert("exposure", [night | {"exposure": e, "observation_type": "science"} for e in exposures])
    insert("visit", [night | {"visit": e, "exposure": e, "mjd_mid": 6e4, "ra": 0.0, "dec": 0.0} for e in exposures])
    blank = dict.fromkeys(schemas.table("dataset").arrow.names)
    common = blank | night | {"dataset_type": "raw", "run": "bench/raw", "origin": "A", "dataset_id": "", "bytes": size}
    common = {name: value for name, value in (common | {"file_bytes": size}).items() if name in blank}
    rows = []
    for number in range(members):
        exposure, detector = exposures[number // DETECTORS], number % DETECTORS
        row = common | {"exposure": exposure, "visit": exposure, "detector": detector}
        path = datastore.template("bench/raw", "raw", row).replace("20260101/", f"20260101/{exposure}/")
        content = os.urandom(size)
        target = site.path(path)
        if not detector:
            target.parent.mkdir(parents=True)
        target.write_bytes(content)
        checksum = hashlib.sha256(content).hexdigest()
        rows.append(row | {"path": path, "checksum": checksum, "file_checksum": checksum})
    table = pa.Table.from_pylist(rows, schema=schemas.table("dataset").arrow)
    verdicts = registry.ingest(site, registry.with_ids(None, table, {"raw": ("instrument", "exposure", "detector")}))
    assert verdicts["verdict"].unique().to_pylist() == ["accepted"], verdicts.slice(0, 1).to_pylist()
    return lake, [row["path"] for row in rows]
