"""A lake of two sites for benchmarks of movement: visits, and files at one site, registered and ready to travel."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa

import schemas
from lake import datastore, dimensions, registry
from lake.site import Lake, Site

#: A frame per exposure and detector, as Rubin's raws.
TYPES = {"raw": (("instrument", "exposure", "detector"), "fits")}
DETECTORS = 50
NIGHT = 20260101
RUN = "bench/raw"


@contextmanager
def lake() -> Iterator[Lake]:
    """An empty lake of a central site and one that is not, in a directory that goes away."""
    with TemporaryDirectory(prefix="drp-bench-") as folder:
        made = Lake.create(Path(folder) / "lake", {"USDF": {"central": True}, "FRDF": {}})
        yield made


def know(site: Site, visits: int) -> None:
    """Dataset types, instrument and ``visits`` visits of one night (numbers from 1)."""
    registry.register_dataset_types(site, TYPES)
    cam = {"instrument": "Cam"}
    insert(site, "instrument", [cam | {"detector_count": DETECTORS}])
    insert(site, "detector", [cam | {"detector": d, "width": 10, "height": 10} for d in range(DETECTORS)])
    insert(site, "physical_filter", [cam | {"physical_filter": "r_cam", "band": "r"}])
    add_visits(site, range(1, visits + 1))


def add_visits(site: Site, visits: Iterable[int]) -> None:
    """The exposure and visit records of these numbers."""
    visits = list(visits)
    night = {"instrument": "Cam", "day_obs": NIGHT, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    insert(site, "exposure", [night | {"exposure": v, "observation_type": "science"} for v in visits])
    rows = [night | {"visit": v, "exposure": v, "mjd_mid": 60000.0 + v, "ra": 0.0, "dec": 0.0} for v in visits]
    insert(site, "visit", rows)


def insert(site: Site, table: str, rows: list[dict[str, object]]) -> None:
    if rows:
        dimensions.insert(site, table, schemas.conform(table, pa.Table.from_pylist(rows)))


def fill(site: Site, count: int, size: int) -> pa.Table:
    """Write ``count`` files of ``size`` bytes and register them as raws; returns their rows."""
    know(site, -(-count // DETECTORS))
    noise = np.random.default_rng(7).bytes(min(size, 8 << 20))
    rows = []
    for number in range(count):
        row = dict.fromkeys(schemas.table("dataset").arrow.names) | {
            "dataset_type": "raw", "run": RUN, "instrument": "Cam", "exposure": number // DETECTORS + 1,
            "visit": number // DETECTORS + 1, "detector": number % DETECTORS, "physical_filter": "r_cam", "band": "r",
            "day_obs": NIGHT, "origin": site.name, "dataset_id": "", "bytes": size, "file_bytes": size,
        }  # fmt: skip
        rows.append(row | {"path": datastore.template(RUN, "raw", row)})
    for folder in {str(site.path(row["path"]).parent) for row in rows}:
        Path(folder).mkdir(parents=True, exist_ok=True)

    def write(row: dict[str, object]) -> str:
        path = site.path(str(row["path"]))
        head = f"{row['path']}\n".encode()
        with path.open("wb") as file:
            left = size - file.write(head[:size])
            while left > 0:
                left -= file.write(noise[:left])
        return datastore.checksum(path)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, checksum in zip(rows, pool.map(write, rows), strict=True):
            row["checksum"] = row["file_checksum"] = checksum
    table = pa.Table.from_pylist(rows, schema=schemas.table("dataset").arrow)
    table = registry.with_ids(None, table, {name: dims for name, (dims, _) in TYPES.items()})
    verdicts = registry.ingest(site, table)["verdict"].unique().to_pylist()
    if verdicts != ["accepted"]:
        raise RuntimeError(f"the benchmark's own files were not accepted: {verdicts}")
    return table
