"""A lake of three sites with dimension records and raw files at the central one, for tests that move things."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

import schemas
from lake import datastore, dimensions, registry, slices
from lake.site import Lake, Site

TYPES = {
    "raw": (("instrument", "exposure", "detector"), "fits"),
    "flat": (("instrument", "detector", "physical_filter"), "fits"),
    "visit_table": (("instrument", "visit"), "table"),
}
DIMENSIONS = {name: dimensions for name, (dimensions, _) in TYPES.items()}
NIGHT = 20260101


def make(root: Path, visits: int = 2, detectors: int = 3, raws: bool = False) -> Lake:
    """USDF, central, LANCS and FRDF; USDF knows ``visits`` visits (1..n, tract 9469 + visit % 2) and has their raws."""
    shutil.copytree(_template(visits, detectors, raws), root)
    return Lake.open(root)


@cache
def _template(visits: int, detectors: int, raws: bool) -> Path:
    """The lake that make() copies, made once: a lake does not know where it lies."""
    folder = tempfile.TemporaryDirectory(prefix="small-lake-")
    atexit.register(folder.cleanup)
    lake = Lake.create(Path(folder.name) / "lake", {"USDF": {"central": True}, "LANCS": {}, "FRDF": {}})
    registry.register_dataset_types(lake.central, TYPES)
    add_dimensions(lake.central, range(1, visits + 1), detectors)
    if raws:
        add_raws(lake.central, range(1, visits + 1), detectors)
    return lake.root


def add_dimensions(site: Site, visits: range, detectors: int = 3) -> None:
    """The records of an instrument and its visits, and of two tracts."""
    insert(site, "instrument", [{"instrument": "Cam", "detector_count": detectors}])
    insert(site, "detector", [{"instrument": "Cam", "detector": d, "width": 10, "height": 10} for d in range(detectors)])
    insert(site, "physical_filter", [{"instrument": "Cam", "physical_filter": "r_cam", "band": "r"}])
    night = {"instrument": "Cam", "day_obs": NIGHT, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    insert(site, "exposure", [night | {"exposure": v, "observation_type": "science"} for v in visits])
    insert(
        site,
        "visit",
        [night | {"visit": v, "exposure": v, "mjd_mid": 60000.0 + v, "ra": 0.0, "dec": 0.0} for v in visits],
    )
    insert(
        site,
        "visit_detector_patch",
        [
            {"instrument": "Cam", "visit": v, "detector": d, "skymap": "sky", "tract": 9469 + v % 2, "patch": 0}
            for v in visits
            for d in range(detectors)
        ],
    )


def insert(site: Site, table: str, rows: list[dict[str, Any]]) -> None:
    dimensions.insert(site, table, schemas.conform(table, pa.Table.from_pylist(rows)))


def visit_row(kind: str, run: str, visit: int, **values: Any) -> dict[str, Any]:
    """A row of ``dataset`` for a visit, without its file."""
    row = dict.fromkeys(schemas.table("dataset").arrow.names)
    return row | {
        "dataset_type": kind, "run": run, "instrument": "Cam", "exposure": visit, "visit": visit,
        "physical_filter": "r_cam", "band": "r", "day_obs": NIGHT, "origin": "USDF", "dataset_id": "",
    } | values  # fmt: skip


def add_raws(site: Site, visits: range, detectors: int = 3, size: int = 2000) -> list[str]:
    """Write and register a raw per (visit, detector), content by its name; returns the paths."""
    rows = []
    for visit in visits:
        for detector in range(detectors):
            row = visit_row("raw", "c/raw", visit, detector=detector, origin=site.name)
            path = datastore.template("c/raw", "raw", row)
            seed = hashlib.sha256(path.encode()).digest()
            target = site.path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((seed * (size // 32 + 1))[:size])
            checksum = datastore.checksum(target)
            rows.append(row | {"path": path, "bytes": size, "file_bytes": size, "checksum": checksum, "file_checksum": checksum})
    register(site, rows)
    return [row["path"] for row in rows]


def add_visit_tables(site: Site, visits: range, exposure_time: float = 30.0) -> str:
    """Register the table slices ``visit_table`` of visits, all in one file; returns its path."""
    rows = [visit_row("visit_table", "c/step2e", visit, origin=site.name) for visit in visits]
    ids = registry.with_ids(None, table(rows), DIMENSIONS)["dataset_id"].to_pylist()
    parts = []
    for visit, dataset_id in zip(visits, ids, strict=True):
        declared = schemas.table("visit_table").arrow
        values = {f.name: "x" if f.type == pa.string() else 1 for f in declared if not f.nullable}
        known = {"site": site.name, "day_obs": NIGHT, "visit": visit, "instrument": "Cam", "band": "r"}
        values |= {name: value for name, value in known.items() if name in declared.names}
        rows_of = pa.Table.from_pylist([values | {"exposureTime": exposure_time}]).select(
            [c for c in values | {"exposureTime": 0} if c in declared.names]
        )
        parts.append((dataset_id, {"day_obs": NIGHT}, schemas.conform("visit_table", rows_of)))
    records = slices.write_slices(site, "visit_table", parts)
    register(site, [row | vars(record) for row, record in zip(rows, records, strict=True)])
    return records[0].path


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=schemas.table("dataset").arrow)


def register(site: Site, rows: list[dict[str, Any]]) -> None:
    """Register datasets whose files are there; every one must be accepted."""
    verdicts = registry.ingest(site, registry.with_ids(None, table(rows), DIMENSIONS))
    assert set(verdicts["verdict"].to_pylist()) == {"accepted"}, verdicts.to_pylist()[:3]
