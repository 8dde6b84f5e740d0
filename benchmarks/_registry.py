"""A lake for the benchmarks of the registry: an instrument of 100 detectors, visits on a row of tracts, files in place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import schemas
from lake import delta, dimensions, registry, upkeep
from lake.parquet import key_order, ordered
from lake.site import Lake, Site

DETECTORS = 100
#: Visits in a tract: two thousand images.
VISITS = 20
#: Visits whose footprints come together; rows of the registry that do, and of the small files that wait to be merged.
NIGHTS = 10_000
BATCH, SMALL, TAIL = 500_000, 1_000, 31
TYPE = "bench_image"
DIMENSIONS = ("instrument", "visit", "detector")
#: A file system allows some ten thousand names of one file.
LINKS = 30_000


def make(root: Path, visits: int, scattered: bool = False) -> Site:
    """A lake of one site that knows ``visits`` visits, twenty in each tract: in sequence, or scattered, so
    that no two of a tract are neighbours."""
    site = Lake.create(root, {"A": {"central": True}}).central
    registry.register_dataset_types(site, {TYPE: (DIMENSIONS, "json")})
    number = np.arange(visits)
    insert(site, "instrument", {"instrument": ["Cam"], "detector_count": [DETECTORS]})
    insert(site, "detector", {"instrument": "Cam", "detector": np.arange(DETECTORS), "width": 10, "height": 10})
    insert(site, "physical_filter", {"instrument": ["Cam"], "physical_filter": ["r_cam"], "band": ["r"]})
    night = {"instrument": "Cam", "day_obs": 20260101, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    insert(site, "exposure", night | {"exposure": number, "observation_type": "science"})
    tract = number % max(1, visits // VISITS) if scattered else number // VISITS
    place = {"mjd_mid": 6e4 + number / 2000, "ra": 2.0 * (tract % 180), "dec": -60.0 + 2.0 * (tract // 180 % 60)}
    insert(site, "visit", night | {"visit": number, "exposure": number} | place)
    _footprints(site, tract)
    return site


def _footprints(site: Site, tract: np.ndarray) -> None:
    """Footprints of visits on tracts, ten thousand visits in a file; appended in the order in which dimensions.insert() would."""
    for start in range(0, len(tract), NIGHTS):
        part = np.arange(start, min(start + NIGHTS, len(tract)))
        of_visit = {"visit": np.repeat(part, DETECTORS), "tract": np.repeat(tract[part], DETECTORS)}
        place = {"detector": np.tile(np.arange(DETECTORS), len(part)), "skymap": "sky", "patch": 0}
        rows = schemas.conform("visit_detector_patch", _table({"instrument": "Cam"} | of_visit | place))
        delta.append(site, "visit_detector_patch", ordered(rows, key_order("visit_detector_patch")))


def insert(site: Site, table: str, columns: dict[str, Any]) -> None:
    """Dimension records from columns; a single value stands in every row."""
    dimensions.insert(site, table, schemas.conform(table, _table(columns)))


def _table(columns: dict[str, Any]) -> pa.Table:
    count = max(len(v) for v in columns.values() if isinstance(v, (np.ndarray, list)))
    return pa.table({c: v if isinstance(v, (np.ndarray, list)) else pa.repeat(v, count) for c, v in columns.items()})


def paths(count: int, start: int = 0) -> list[str]:
    """A path per dataset, a directory per visit."""
    return [f"files/bench/{n // DETECTORS}/{n}.json" for n in range(start, start + count)]


def write_files(site: Site, count: int, content: bytes = b"0123456789") -> None:
    """The files at paths(count): names of a few files that hold ``content``."""
    base = ""
    for n, path in enumerate(paths(count)):
        target = f"{site.root}/{path}"
        if n % DETECTORS == 0:
            Path(target).parent.mkdir(parents=True)
        if n % LINKS == 0:
            Path(target).write_bytes(content)
            base = target
        else:
            os.link(base, target)


def fill(site: Site, count: int, run: str) -> None:
    """Register ``count`` datasets, so that they lie as in a site that is looked after: in large files that upkeep merged, and the
    last of them in small ones, as many as it leaves."""
    large = count - TAIL * SMALL
    batches = 2 * -(-large // (2 * BATCH))
    ends = [large * n // batches for n in range(batches + 1)]
    for start, end in pairwise(ends):
        registry.ingest(site, datasets(end - start, run, start=start), verify=False)
    upkeep.maintain(site)
    for start in range(large, count, SMALL):
        registry.ingest(site, datasets(SMALL, run, start=start), verify=False)


def datasets(count: int, run: str, held: Sequence[str] | None = None, size: int = 10, start: int = 0) -> pa.Table:
    """``count`` rows for registry.ingest() (ids are computed there), each with a checksum of its own, from number ``start`` on."""
    number = np.arange(start, start + count)
    sums = np.random.default_rng(1 + start).bytes(32 * count).hex()
    checksums = pa.array([sums[i : i + 64] for i in range(0, len(sums), 64)])
    columns: dict[str, Any] = {
        "dataset_type": TYPE, "run": run, "instrument": "Cam", "physical_filter": "r_cam", "band": "r", "day_obs": 20260101,
        "origin": "A", "bytes": size, "file_bytes": size,
    }  # fmt: skip
    whole = {c: pa.repeat(v, count) for c, v in columns.items()} | {
        "exposure": number // DETECTORS, "visit": number // DETECTORS, "detector": number % DETECTORS,
        "path": held or paths(count, start), "checksum": checksums, "file_checksum": checksums,
    }  # fmt: skip
    return pa.table(whole)
