"""A lake for the benchmarks of the registry: an instrument of 100 detectors, visits on a row of tracts, files in place."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import schemas
from lake import dimensions, registry
from lake.site import Lake, Site

DETECTORS = 100
#: Visits in a tract: two thousand images.
VISITS = 20
TYPE = "bench_image"
DIMENSIONS = ("instrument", "visit", "detector")
#: A file system allows some ten thousand names of one file.
LINKS = 30_000


def make(root: Path, visits: int) -> Site:
    """A lake of one site that knows ``visits`` visits, twenty in each tract."""
    site = Lake.create(root, {"A": {"central": True}}).central
    registry.register_dataset_types(site, {TYPE: (DIMENSIONS, "json")})
    number = np.arange(visits)
    insert(site, "instrument", {"instrument": ["Cam"], "detector_count": [DETECTORS]})
    insert(site, "detector", {"instrument": "Cam", "detector": np.arange(DETECTORS), "width": 10, "height": 10})
    insert(site, "physical_filter", {"instrument": ["Cam"], "physical_filter": ["r_cam"], "band": ["r"]})
    night = {"instrument": "Cam", "day_obs": 20260101, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    insert(site, "exposure", night | {"exposure": number, "observation_type": "science"})
    place = {"mjd_mid": 6e4 + number / 2000, "ra": 2.0 * (number // VISITS % 180), "dec": 0.0}
    insert(site, "visit", night | {"visit": number, "exposure": number} | place)
    _footprints(site, visits, "sky", number // VISITS)
    return site


def scatter(site: Site, visits: int) -> None:
    """Place the visits on the tracts of another skymap, too, one after the other: no two of a tract are neighbours."""
    _footprints(site, visits, "scattered", np.arange(visits) % (visits // VISITS))


def _footprints(site: Site, visits: int, skymap: str, tract: np.ndarray) -> None:
    of_visit = {"visit": np.repeat(np.arange(visits), DETECTORS), "tract": np.repeat(tract, DETECTORS)}
    place = {"detector": np.tile(np.arange(DETECTORS), visits), "skymap": skymap, "patch": 0}
    insert(site, "visit_detector_patch", {"instrument": "Cam"} | of_visit | place)


def insert(site: Site, table: str, columns: dict[str, Any]) -> None:
    """Dimension records from columns; a single value stands in every row."""
    count = max(len(v) for v in columns.values() if isinstance(v, (np.ndarray, list)))
    whole = {c: v if isinstance(v, (np.ndarray, list)) else pa.repeat(v, count) for c, v in columns.items()}
    dimensions.insert(site, table, schemas.conform(table, pa.table(whole)))


def paths(count: int) -> list[str]:
    """A path per dataset, a directory per visit."""
    return [f"files/bench/{n // DETECTORS}/{n}.json" for n in range(count)]


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


def datasets(count: int, run: str, held: Sequence[str] | None = None, size: int = 10) -> pa.Table:
    """``count`` rows for registry.ingest() (ids are computed there), each with a checksum of its own."""
    number = np.arange(count)
    sums = np.random.default_rng(1).bytes(32 * count).hex()
    checksums = pa.array([sums[i : i + 64] for i in range(0, len(sums), 64)])
    columns: dict[str, Any] = {
        "dataset_type": TYPE, "run": run, "instrument": "Cam", "physical_filter": "r_cam", "band": "r", "day_obs": 20260101,
        "origin": "A", "bytes": size, "file_bytes": size,
    }  # fmt: skip
    whole = {c: pa.repeat(v, count) for c, v in columns.items()} | {
        "exposure": number // DETECTORS, "visit": number // DETECTORS, "detector": number % DETECTORS,
        "path": held or paths(count), "checksum": checksums, "file_checksum": checksums,
    }  # fmt: skip
    return pa.table(whole)
