"""Inputs read each dataset from the file that it is registered in, whatever else lies in the files they open."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

import schemas
from lake import slices
from lake.site import Lake
from pipelines.quantum import DatasetRef, Inputs


def stars(patches: list[int]) -> list[tuple[str, dict[str, int], pa.Table]]:
    schema = schemas.table("object").arrow
    blank = {pa.string(): "x", pa.bool_(): False}
    parts = []
    for patch in patches:
        row = {f.name: blank.get(f.type, 1) for f in schema if not f.nullable}
        rows = [row | {"site": "A", "skymap": "sky", "tract": 5, "patch": patch, "objectId": 10 * patch + n} for n in range(3)]
        table = schemas.conform("object", pa.Table.from_pylist(rows, schema=pa.schema([schema.field(c) for c in rows[0]])))
        parts.append((f"patch-{patch}", {"tract": 5}, table))
    return parts


def test_a_dataset_is_read_once_though_two_files_hold_it(tmp_path: Path) -> None:
    site = Lake.create(tmp_path / "lake", {"A": {"central": True}}).central
    own = slices.write_slices(site, "object", stars([0, 1]))
    other = slices.write_slices(site, "object", stars([0, 1, 2]))
    assert own[0].path != other[2].path
    refs = [
        DatasetRef(
            r.dataset_id, "object", {"skymap": "sky", "tract": 5, "patch": patch}, r.path, r.rows, r.file_bytes, r.file_checksum
        )
        for patch, r in enumerate([own[0], own[1], other[2]])
    ]
    rows = Inputs(site.root, {"object": refs}).table("object")
    assert rows["objectId"].to_pylist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]
