"""Slices: deterministic files, one row group per dataset, content checksums that depend on nothing but the rows."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import filled, make, rows_of

import schemas
from lake import delta, slices
from lake.parquet import DeltaError
from lake.site import Site
from lake.slices import SliceError, add_file, checksum, contents, extract, read_slice, write_slices


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make(tmp_path / "lake")


def stars(tract: int, count: int = 5, value: float = 0.5) -> pa.Table:
    return rows_of("isolated_star", count, value, site="A", tract=tract, skymap="sky", isolatedStarId=tract * 100)


def three(shuffled: bool = False) -> list:
    parts = [("id-2", {"tract": 2}, stars(2)), ("id-1", {"tract": 1}, stars(1)), ("id-0", {"tract": 2}, stars(3).slice(0, 0))]
    if shuffled:
        parts = [(i, k, t.take(pa.array(random.Random(1).sample(range(len(t)), len(t)), pa.int64()))) for i, k, t in parts][::-1]
    return parts


def test_one_file_per_partition_one_row_group_per_dataset(site: Site) -> None:
    two, one, empty = write_slices(site, "isolated_star", three())
    assert two.path == empty.path != one.path
    assert two.path.startswith("tables/catalogues/isolated_star/site=A/tract=2/isolated_star-")
    assert (two.rows, one.rows, empty.rows, empty.bytes) == (5, 5, 0, 0) and two.bytes > 100
    assert two.file_bytes == site.path(two.path).stat().st_size
    assert contents(site, two.path) == [("id-0", 0), ("id-2", 5)]
    assert pq.read_metadata(site.path(two.path)).num_row_groups == 1
    assert read_slice(site, two.path, "id-2").num_rows == 5 and read_slice(site, two.path, "id-0").num_rows == 0
    with pytest.raises(SliceError, match="does not hold the dataset id-1"):
        read_slice(site, two.path, "id-1")


def test_the_same_work_writes_the_same_bytes(site: Site, tmp_path: Path) -> None:
    first = write_slices(site, "isolated_star", three())
    second = write_slices(make(tmp_path / "another"), "isolated_star", three(shuffled=True))
    assert sorted(first, key=lambda r: r.dataset_id) == sorted(second, key=lambda r: r.dataset_id)
    again = write_slices(site, "isolated_star", three())
    assert again == first
    changed = write_slices(site, "isolated_star", [("id-1", {"tract": 1}, stars(1, value=0.25))])
    assert changed[0].path == first[1].path.replace(".parquet", f"~{changed[0].file_checksum[:12]}.parquet")
    assert changed[0].checksum != first[1].checksum


def test_slices_become_rows_of_the_table(site: Site) -> None:
    records = write_slices(site, "isolated_star", three())
    files = [add_file(site, path) for path in sorted({r.path for r in records})]
    assert [f.partition for f in files] == [{"site": "A", "tract": "1"}, {"site": "A", "tract": "2"}]
    delta.add_files(site, "isolated_star", files)
    assert delta.files(site, "isolated_star", "isolatedStarId >= 200") == [str(site.path(records[0].path))]
    with delta.connect() as con:
        rows = delta.relation(con, site, "isolated_star").order("isolatedStarId").to_arrow_table()
    assert schemas.conform("isolated_star", rows) == pa.concat_tables([stars(1), stars(2)])


def test_a_slice_without_any_row_is_a_file_too(site: Site) -> None:
    (record,) = write_slices(site, "isolated_star", [("id", {"tract": 7}, stars(7).slice(0, 0))])
    assert record.rows == 0 and contents(site, record.path) == [("id", 0)]
    delta.add_files(site, "isolated_star", [add_file(site, record.path)])
    with delta.connect() as con:
        assert delta.relation(con, site, "isolated_star").fetchall() == []


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        ([("id", {"tract": 1}, stars(2))], "whose tract is not 1"),
        ([("id", {"tract": 1, "skymap": "other"}, stars(1))], "whose skymap is not other"),
        ([("id", {}, stars(1))], "partition column 'tract'"),
        ([("id", {"tract": 1}, pa.concat_tables([stars(1), stars(1)]))], "two rows have the same key"),
        ([("id", {"tract": 1}, stars(1)), ("id", {"tract": 1}, stars(1, 2))], "given twice"),
        ([("id", {"tract": 1, "site": "B"}, stars(1))], "whose site is not B"),
    ],
)
def test_rows_that_cannot_be_a_dataset_are_refused(site: Site, parts: list, named: str) -> None:
    with pytest.raises(SliceError, match=named):
        write_slices(site, "isolated_star", parts)


def test_wrong_columns_are_refused(site: Site) -> None:
    with pytest.raises(schemas.SchemaError, match="'nobs'"):
        write_slices(site, "isolated_star", [("id", {"tract": 1}, stars(1).drop_columns(["nobs"]))])
    with pytest.raises(DeltaError, match="cannot be a partition value"):
        write_slices(site, "isolated_star", [("id", {"tract": 1, "site": "A B"}, stars(1).drop_columns(["site"]))])


def test_a_damaged_page_is_seen(site: Site) -> None:
    (record,) = write_slices(site, "isolated_star", [("id", {"tract": 1}, stars(1, 500))])
    path = site.path(record.path)
    content = bytearray(path.read_bytes())
    chunk = pq.read_metadata(path).row_group(0).column(1)
    content[(chunk.dictionary_page_offset or chunk.data_page_offset) + chunk.total_compressed_size - 8] ^= 1
    path.write_bytes(content)
    with pytest.raises(SliceError, match="damaged"):
        read_slice(site, record.path, "id")
    path.write_bytes(content[:100])
    with pytest.raises(SliceError, match="not a readable file of slices"):
        contents(site, record.path)


def test_some_datasets_can_be_taken_out_of_a_file(site: Site) -> None:
    parts = [(f"id-{n}", {"tract": 1}, stars(n)) for n in (1,)] + [
        ("id-9", {"tract": 1}, rows_of("isolated_star", 2, site="A", tract=1, skymap="sky", isolatedStarId=900))
    ]
    both = write_slices(site, "isolated_star", parts)
    assert both[0].path == both[1].path
    (kept,) = extract(site, both[0].path, ["id-9"])
    assert kept == write_slices(site, "isolated_star", parts[1:])[0]
    assert kept.checksum == both[1].checksum and kept.path != both[1].path
    with pytest.raises(SliceError, match="id-5"):
        extract(site, both[0].path, ["id-5"])


def test_content_checksums_depend_on_the_rows_alone() -> None:
    schema = pa.schema([("a", pa.int32()), ("s", pa.string()), ("f", pa.float64()), ("b", pa.bool_())])
    rows = [
        {"a": 1, "s": "é", "f": 0.5, "b": True},
        {"a": None, "s": None, "f": None, "b": None},
        {"a": 3, "s": "", "f": 2.0, "b": False},
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1, 2)])
    under_null = table.set_column(0, "a", pa.Array.from_buffers(
        pa.int32(), 3, [table["a"].chunk(0).buffers()[0], pa.py_buffer(np.array([1, 77, 3], np.int32).tobytes())]
    ))  # fmt: skip
    assert under_null["a"].to_pylist() == [1, None, 3]
    assert checksum(table) == checksum(chunked) == checksum(under_null) == checksum(table.slice(0))
    padded = pa.concat_tables([table, table]).combine_chunks().slice(3, 3)
    assert checksum(padded) == checksum(table)
    for change in ({"a": 2}, {"s": "e"}, {"f": 0.25}, {"b": None}, {"s": None}):
        assert checksum(pa.Table.from_pylist([rows[0] | change, *rows[1:]], schema=schema)) != checksum(table)
    swapped = pa.table({"x": ["ab", "c"]}), pa.table({"x": ["a", "bc"]})
    assert checksum(swapped[0]) != checksum(swapped[1])
    zero = pa.Table.from_pylist([{"a": 0}], schema=pa.schema([("a", pa.int32())]))
    null = pa.Table.from_pylist([{"a": None}], schema=pa.schema([("a", pa.int32())]))
    assert checksum(zero) != checksum(null)


def test_every_catalogue_table_can_hold_a_slice(site: Site) -> None:
    for name, schema in schemas.tables().items():
        if schema.subject == "catalogues":
            row = filled(name, site="A")
            table = schemas.conform(name, pa.Table.from_pylist([row], schema=pa.schema([schema.arrow.field(c) for c in row])))
            keys = {c: row[c] for c in schema.partition_by}
            (record,) = write_slices(site, name, [("id", keys, table)])
            assert record.rows == 1 and slices.table_of(record.path) == name and slices.is_slice(record.path)
            delta.add_files(site, name, [add_file(site, record.path)])
