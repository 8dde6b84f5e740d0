"""A lake of two sites and finished work to publish there: images and slices of two catalogue tables."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa

import schemas
from lake import datastore, dimensions, registry, slices
from lake.publish import Batch
from lake.site import Lake, Site

NIGHT = 20260101
RUN = "c/step1"
TYPES = {
    "post_isr_image": (("instrument", "exposure", "detector"), "fits"),
    "visit_table": (("instrument", "visit"), "table"),
    "isolated_star": (("skymap", "tract"), "table"),
}
DIMENSIONS = {name: dimensions for name, (dimensions, _) in TYPES.items()}


@cache
def _made() -> tempfile.TemporaryDirectory[str]:
    """One lake as make() gives it, to be copied: making a dozen tables takes longer than most tests."""
    folder = tempfile.TemporaryDirectory()
    _make(Path(folder.name) / "lake")
    return folder


def make(root: Path) -> Site:
    """A new lake; its central site A knows visits 1, 2, 3 and tracts 9469, 9470."""
    shutil.copytree(Path(_made().name) / "lake", root)
    return Lake.open(root).central


def _make(root: Path) -> None:
    site = Lake.create(root, {"A": {"central": True}, "B": {}}).central
    registry.register_dataset_types(site, TYPES)
    put(site, "instrument", [{"instrument": "Cam", "detector_count": 2}])
    put(site, "detector", [{"instrument": "Cam", "detector": d, "width": 8, "height": 8} for d in range(2)])
    put(site, "physical_filter", [{"instrument": "Cam", "physical_filter": "r_cam", "band": "r"}])
    put(site, "skymap", [filled("skymap", skymap="sky")])
    put(site, "tract", [filled("tract", skymap="sky", tract=t) for t in (9469, 9470)])
    add_visits(site, [1, 2, 3])


def add_visits(site: Site, visits: Iterable[int]) -> None:
    """Make visits known, each of one exposure."""
    night = {"instrument": "Cam", "day_obs": NIGHT, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    visits = list(visits)
    put(site, "exposure", [night | {"exposure": v, "observation_type": "science"} for v in visits])
    put(site, "visit", [night | {"visit": v, "exposure": v, "mjd_mid": 6e4, "ra": 0.0, "dec": 0.0} for v in visits])


def put(site: Site, table: str, rows: list[dict[str, Any]]) -> int:
    return dimensions.insert(site, table, pa.Table.from_pylist(rows))


def filled(table: str, **values: Any) -> dict[str, Any]:
    """A row of a table with a value in every column that must have one."""
    blank = {pa.string(): "x", pa.bool_(): False, pa.timestamp("us", "UTC"): datetime(2026, 1, 1, tzinfo=UTC)}
    row = {f.name: blank.get(f.type, 1) for f in schemas.table(table).arrow if not f.nullable}
    return row | {name: value for name, value in values.items() if name in schemas.table(table).arrow.names}


def rows_of(table: str, count: int, value: float = 0.0, **values: Any) -> pa.Table:
    """``count`` rows for a slice, told apart by the primary key; ``value`` is in their first column of type double."""
    schema = schemas.table(table).arrow
    key = next(c for c in reversed(schemas.table(table).primary_key))
    double = next(f.name for f in schema if f.type == pa.float64())
    rows = [filled(table, **({key: values.get(key, 0) + i, double: value} | values | {key: values.get(key, 0) + i}))
            for i in range(count)]  # fmt: skip
    return (
        schemas.conform(table, pa.Table.from_pylist(rows, schema=pa.schema([schema.field(c) for c in rows[0]])))
        if rows
        else (schema.empty_table())
    )


def of_visit(kind: str, visit: int, **values: Any) -> dict[str, Any]:
    return {
        "dataset_type": kind, "run": RUN, "instrument": "Cam", "exposure": visit, "visit": visit, "physical_filter": "r_cam",
        "band": "r", "day_obs": NIGHT, "quantum_id": f"{kind}-{visit}",
    } | values  # fmt: skip


def of_tract(kind: str, tract: int, **values: Any) -> dict[str, Any]:
    return {"dataset_type": kind, "run": RUN, "skymap": "sky", "tract": tract, "quantum_id": f"{kind}-{tract}"} | values


def datasets(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """Dataset rows as a table without registered_at, ids filled in."""
    schema = pa.schema([f for f in schemas.table("dataset").arrow if f.name != "registered_at"])
    full = [dict.fromkeys(schema.names) | row for row in rows]
    return registry.with_ids(None, pa.Table.from_pylist(full, schema=schema), DIMENSIONS)


def images(site: Site, visits: Iterable[int], content: str = "") -> list[dict[str, Any]]:
    """Write an image per visit and detector; their rows."""
    rows = []
    for visit in visits:
        for detector in range(2):
            row = of_visit("post_isr_image", visit, detector=detector, origin=site.name)
            path = datastore.template(RUN, "post_isr_image", row)
            file = datastore.write_file(site, path, f"pixels of {visit} {detector}{content}".encode())
            rows.append(row | {"path": file.path, "bytes": file.bytes, "checksum": file.checksum,
                               "file_bytes": file.bytes, "file_checksum": file.checksum})  # fmt: skip
    return rows


def tables(site: Site, rows: list[dict[str, Any]], count: int = 3, value: float = 0.0) -> list[dict[str, Any]]:
    """Write the slices of these dataset rows, those of one table as one job would; the rows with their files."""
    ids = datasets(row | {"path": "", "bytes": 0, "checksum": "", "file_bytes": 0, "file_checksum": "", "origin": site.name}
                   for row in rows)["dataset_id"].to_pylist()  # fmt: skip
    done: dict[str, dict[str, Any]] = {}
    for table in sorted({row["dataset_type"] for row in rows}):
        parts = []
        for dataset_id, row in zip(ids, rows, strict=True):
            if row["dataset_type"] == table:
                first = row.get("visit") or row["tract"] * 100
                one = 1 if table == "visit_table" and count else count
                keys = {"isolatedStarId": first} if table == "isolated_star" else {"visit": first}
                data = {c: row[c] for c in ("tract", "skymap", "day_obs", "instrument", "band") if c in row}
                parts.append((dataset_id, {c: row[c] for c in ("tract", "day_obs") if c in row},
                              rows_of(table, one, value, site=site.name, **data, **keys)))  # fmt: skip
        for record in slices.write_slices(site, table, parts):
            done[record.dataset_id] = vars(record)
    return [row | {"origin": site.name} | done[i] for i, row in zip(ids, rows, strict=True)]


def attempts(rows: Iterable[dict[str, Any]]) -> pa.Table:
    """One succeeded attempt per quantum of these dataset rows."""
    quanta = sorted({row["quantum_id"] for row in rows})
    return pa.Table.from_pylist(
        [filled("attempt", quantum_id=q, campaign="c", attempt=1, state="succeeded") for q in quanta],
        schema=schemas.table("attempt").arrow,
    )


def batch(site: Site, visits: Iterable[int], tracts: Iterable[int] = (), value: float = 0.0, content: str = "") -> Batch:
    """Finished work over visits (two images and a slice of visit_table each) and tracts (a slice of isolated_star each)."""
    visits = list(visits)
    rows = images(site, visits, content)
    slice_rows = [of_visit("visit_table", v) for v in visits] + [of_tract("isolated_star", t) for t in tracts]
    rows += tables(site, slice_rows, value=value) if slice_rows else []
    return Batch(datasets(rows), attempts(rows))
