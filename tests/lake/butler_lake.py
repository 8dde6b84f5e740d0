"""A lake with a little of everything that a Butler knows too: records of all kinds, images, tables, tags, validity, a chain."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa

import schemas
from lake import collection, datastore, dimensions, registry, slices
from lake.site import Lake, Site

NIGHT = 20260101
RUN, CALIB = "c/step1", "c/calib/20260101"
TYPES = {
    "raw": (("instrument", "exposure", "detector"), "fits"),
    "flat": (("instrument", "detector", "physical_filter"), "fits"),
    "software": (("instrument",), "json"),
    "visit_table": (("instrument", "visit"), "table"),
    "isolated_star": (("skymap", "tract"), "table"),
    "deep_coadd": (("band", "skymap", "tract", "patch"), "fits"),
}
DIMENSIONS = {name: dimensions for name, (dimensions, _) in TYPES.items()}


def make(root: Path) -> Lake:
    """Site A (central) has two science visits, a dark exposure and the datasets; site B has nothing."""
    lake = Lake.create(root, {"A": {"central": True}, "B": {}})
    add_records(lake.central)
    add_datasets(lake.central)
    return lake


def add_records(site: Site) -> None:
    registry.register_dataset_types(site, TYPES)
    put(site, "instrument", [{"instrument": "Cam", "class_name": "Cam.yaml", "detector_count": 2}])
    put(
        site,
        "detector",
        [{"instrument": "Cam", "detector": d, "full_name": f"S{d}", "purpose": "SCIENCE", "width": 8, "height": 9} for d in (0, 1)],
    )
    put(site, "physical_filter", [{"instrument": "Cam", "physical_filter": "r_cam", "band": "r"}])
    night = {"instrument": "Cam", "day_obs": NIGHT, "exposure_time": 30.0, "airmass": 1.25}
    science = {"physical_filter": "r_cam", "band": "r", "ra": 150.1, "dec": 2.2, "rotation": 12.5}
    exposures = [
        night | science | {"exposure": v, "seq_num": v, "observation_type": "science", "target_name": "it's é"} for v in (1, 2)
    ]
    dark = night | {"exposure": 3, "observation_type": "dark"}
    put(site, "exposure", [row | {"mjd_mid": 60000.1 + row["exposure"] / 7} for row in (*exposures, dark)])
    put(site, "visit", [night | science | {"visit": v, "exposure": v, "mjd_mid": 60000.1 + v / 7} for v in (1, 2)])
    put(
        site,
        "visit_detector_region",
        [
            {"instrument": "Cam", "visit": v, "detector": d, "ra": 150.05 + d / 10, "dec": 2.0 + v}
            | square(150 + d / 10, 1.95 + v, 0.1)
            for v in (1, 2)
            for d in (0, 1)
        ],
    )  # fmt: skip
    put(
        site,
        "skymap",
        [
            {"skymap": "sky", "rings": 120, "pixel_scale": 0.2, "tract_overlap": 0.02, "patch_inner": 4, "patch_border": 1,
             "patches_per_side": 2, "tracts": 10000}
        ],
    )  # fmt: skip
    limits = {"ra": 150.5, "dec": 2.5, "dec_min": 2.0, "dec_max": 3.0, "ra_min": 150.0, "ra_max": 151.0, "width": 8}
    put(site, "tract", [{"skymap": "sky", "tract": 9469, **limits, **square(150, 2, 1)}])
    box = dict.fromkeys(("x0", "y0", "x1", "y1", "inner_x0", "inner_y0", "inner_x1", "inner_y1"), 1)
    put(
        site,
        "patch",
        [{"skymap": "sky", "tract": 9469, "patch": p, **box, **square(150 + p % 2 / 2, 2 + p // 2 / 2, 0.5)} for p in range(4)],
    )


def add_datasets(site: Site) -> None:
    visit = {"instrument": "Cam", "physical_filter": "r_cam", "band": "r", "day_obs": NIGHT}
    rows = [
        *(visit | {"dataset_type": "raw", "run": RUN, "exposure": v, "visit": v, "detector": d} for v in (1, 2) for d in (0, 1)),
        *({"dataset_type": "flat", "run": CALIB, "instrument": "Cam", "physical_filter": "r_cam", "band": "r", "detector": d}
          for d in (0, 1)),
        {"dataset_type": "software", "run": RUN, "instrument": "Cam"},
        {"dataset_type": "deep_coadd", "run": RUN, "band": "r", "skymap": "sky", "tract": 9469, "patch": 3},
    ]  # fmt: skip
    for row in rows:
        row |= written(site, row)
    tables = [
        *(visit | {"dataset_type": "visit_table", "run": RUN, "exposure": v, "visit": v} for v in (1, 2)),
        {"dataset_type": "isolated_star", "run": RUN, "skymap": "sky", "tract": 9469},
    ]
    for kind in ("visit_table", "isolated_star"):
        mine = [row for row in tables if row["dataset_type"] == kind]
        ids = registry.with_ids(None, table(mine), DIMENSIONS)["dataset_id"].to_pylist()
        parts = [(i, {**row, "site": site.name}, catalogue(kind, row, site.name)) for i, row in zip(ids, mine, strict=True)]
        for row, record in zip(mine, slices.write_slices(site, kind, parts), strict=True):
            row |= {k: v for k, v in vars(record).items() if k != "dataset_id"}
    collection.register_collections(
        site,
        [
            (RUN, "RUN", None), (CALIB, "RUN", None), ("c/good", "TAGGED", None), ("c/calib", "CALIBRATION", None),
            ("c/all", "CHAINED", f"c/good,{RUN},c/calib"),
        ],
    )  # fmt: skip
    given = registry.with_ids(None, table([row | {"origin": site.name} for row in (*rows, *tables)]), DIMENSIONS)
    ingest(site, given)
    members = given.to_pylist()
    collection.associate(site, "c/good", [m["dataset_id"] for m in members if m["dataset_type"] == "raw" and m["detector"] == 1])
    flats = [m for m in members if m["dataset_type"] == "flat"]
    for flat, (begin, end) in zip(flats, ((60000.0, 60030.123456789), (-math.inf, math.inf)), strict=True):
        collection.certify(site, "c/calib", given.filter(pa.compute.equal(given["dataset_id"], flat["dataset_id"])), begin, end)


def register(site: Site, rows: list[dict[str, Any]]) -> None:
    """Write the files of these rows of ``dataset`` and register them."""
    whole = [row | written(site, row) | {"origin": site.name} for row in rows]
    ingest(site, registry.with_ids(None, table(whole), DIMENSIONS))


def ingest(site: Site, given: pa.Table) -> None:
    verdicts = registry.ingest(site, given)
    assert set(verdicts["verdict"].to_pylist()) == {"accepted"}, verdicts.to_pylist()


def written(site: Site, row: dict[str, Any]) -> dict[str, Any]:
    """Write the file of a dataset, its content made of its data ID; returns the columns that say so."""
    storage = TYPES[row["dataset_type"]][1]
    content = json.dumps({"lake": "1.0", "data": [1, 2]}) if storage == "json" else f"pixels of {sorted(row.items())}"
    path = datastore.template(row["run"], row["dataset_type"], row, storage)
    record = datastore.write_file(site, path, content.encode())
    return {"path": record.path, "bytes": record.bytes, "checksum": record.checksum,
            "file_bytes": record.bytes, "file_checksum": record.checksum}  # fmt: skip


def catalogue(kind: str, row: dict[str, Any], site: str) -> pa.Table:
    """Three rows of a catalogue for one data ID (one for a table of visits)."""
    schema = schemas.table(kind).arrow
    blank = {pa.string(): "x", pa.bool_(): True}
    known = {"site": site, **{c: row[c] for c in schemas.DATA_ID if row.get(c) is not None}}
    key = schemas.table(kind).primary_key[-1]
    rows = [
        {f.name: known.get(f.name, blank.get(f.type, 1)) for f in schema} | ({key: i} if key not in known else {})
        for i in range(1 if key in known else 3)
    ]
    return pa.Table.from_pylist(rows, schema=schema)


def table(rows: list[dict[str, Any]]) -> pa.Table:
    """Rows of ``dataset`` without registered_at and, as yet, without ids."""
    schema = pa.schema([f for f in schemas.table("dataset").arrow if f.name != "registered_at"])
    return pa.Table.from_pylist([dict.fromkeys(schema.names) | {"dataset_id": ""} | row for row in rows], schema=schema)


def square(ra: float, dec: float, size: float) -> dict[str, float]:
    """Corners of a box on the sky, its lower left corner given, in degrees."""
    corners = [(ra, dec), (ra + size, dec), (ra + size, dec + size), (ra, dec + size)]
    return {f"{c}{i}": corner[n] for i, corner in enumerate(corners) for n, c in enumerate(("ra", "dec"))}


def put(site: Site, name: str, rows: list[dict[str, Any]]) -> None:
    dimensions.insert(site, name, pa.Table.from_pylist(rows))
