"""Delta tables: exactly-once appends, refusals, pruning, tailing, upkeep, and what a crash may leave."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import schemas
from lake import delta, handle, upkeep
from lake.parquet import DeltaError, ordered, partitions, statistics, write_files
from lake.site import Lake, Site

START = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Lake.create(tmp_path / "a lake, é", {"A": {"central": True}}).central


def metrics(*values: float, **columns: Any) -> pa.Table:
    rows = [
        {"campaign": "c", "metric": "m", "value": v, "noted_at": START + timedelta(seconds=i)} | columns
        for i, v in enumerate(values)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.table("metric").arrow)


def expected(kinds: list[str], tracts: list[int | None]) -> pa.Table:
    rows = [
        {"dataset_id": f"{k}{t}", "dataset_type": k, "run": "r", "quantum_id": "q", "step": "s", "task": "t", "tract": t}
        for k, t in zip(kinds, tracts, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=schemas.table("expected_dataset").arrow)


def values(site: Site, table: str = "metric", column: str = "value") -> list[Any]:
    with delta.connect() as con:
        return sorted(row[0] for row in delta.relation(con, site, table).select(f'"{column}"').fetchall())


def test_a_table_that_is_not_there_is_empty(site: Site) -> None:
    assert delta.version(site, "metric") == -1 and delta.files(site, "metric") == []
    assert delta.transaction_version(site, "metric", "app") is None
    assert delta.added_since(site, "metric", -1) == (-1, [])
    with delta.connect() as con:
        empty = delta.relation(con, site, "metric").to_arrow_table()
    schemas.check("metric", empty.schema)
    assert empty.num_rows == 0


def test_rows_come_back_as_declared(site: Site) -> None:
    given = metrics(1.5, -2.0, math.inf)
    assert delta.append(site, "metric", given, metadata={"campaign": "c"})
    with delta.connect() as con:
        found = delta.relation(con, site, "metric").order("noted_at").to_arrow_table()
    schemas.check("metric", found.schema)
    assert found.to_pylist() == given.to_pylist()
    assert delta.append(site, "metric", given.slice(0, 0)) and delta.version(site, "metric") == 1


@pytest.mark.parametrize(
    "spoil",
    [
        lambda t: t.drop_columns(["unit"]),
        lambda t: t.append_column("more", t["value"]),
        lambda t: t.set_column(t.column_names.index("tract"), "tract", pa.array([None], pa.int64())),
        lambda t: t.set_column(t.column_names.index("value"), "value", pa.array(["1"])),
        lambda t: t.select(t.column_names[::-1]),
        lambda t: t.set_column(0, "campaign", pa.array([None], pa.string())),
    ],
    ids=["missing", "undeclared", "wider type", "text", "other order", "null in a key"],
)
def test_what_is_not_as_declared_is_refused(site: Site, spoil: Any) -> None:
    with pytest.raises(schemas.SchemaError, match="'metric'"):
        delta.append(site, "metric", spoil(metrics(1.0)))
    assert delta.version(site, "metric") == -1


def test_a_transaction_is_applied_once(site: Site) -> None:
    assert delta.append(site, "metric", metrics(1.0), ("app", 1))
    assert not delta.append(site, "metric", metrics(2.0), ("app", 1))
    assert delta.append(site, "metric", metrics(3.0), ("other", 1))
    assert delta.append(site, "metric", metrics().slice(0, 0), ("app", 5))
    assert not delta.append(site, "metric", metrics(4.0), ("app", 4))
    assert delta.transaction_version(site, "metric", "app") == 5
    assert values(site) == [1.0, 3.0]
    assert sorted(map(str, site.table_path("metric").rglob("*.parquet"))) == delta.files(site, "metric")


def test_racing_writers_lose_and_double_nothing(site: Site) -> None:
    def write(n: int) -> bool:
        return delta.append(site, "metric", metrics(float(n)), ("racer", 1) if n % 2 else None)

    with ThreadPoolExecutor(8) as pool:
        won = list(pool.map(write, range(24)))
    assert sum(won[1::2]) == 1, "one of those with the same transaction"
    assert all(won[0::2])
    winner = won[1::2].index(True) * 2 + 1
    assert values(site) == sorted([float(n) for n in range(0, 24, 2)] + [float(winner)])


def test_partitions_are_pruned_by_value_and_by_statistics(site: Site) -> None:
    delta.append(site, "expected_dataset", expected(["object", "raw", "object"], [5, None, 7]))
    delta.append(site, "expected_dataset", expected(["object"], [90]))
    assert len(delta.files(site, "expected_dataset")) == 3
    assert len(delta.files(site, "expected_dataset", "dataset_type = 'object'")) == 2
    assert len(delta.files(site, "expected_dataset", "dataset_type = 'object' AND tract >= 8 AND tract <= 100")) == 1
    assert delta.files(site, "expected_dataset", "dataset_type IN ('flat')") == []
    assert values(site, "expected_dataset", "dataset_id") == ["object5", "object7", "object90", "rawNone"]
    with pytest.raises(DeltaError, match="dataset_type 'a b'"):
        delta.append(site, "expected_dataset", expected(["a b"], [1]))


@pytest.mark.parametrize("most", [1, 2, 5])
def test_rows_are_put_in_order_unless_they_are(most: int) -> None:
    random, kinds, copied = np.random.default_rng(3), {"text": pa.string(), "number": pa.int64(), "other": pa.int32()}, 0
    for count in [0, 1, 2, 3, 4, 5, 30] * 20:
        values = [[None if v == most else v for v in random.integers(0, most + 1, count).tolist()] for _ in kinds]
        columns = [pa.array(v, pa.int64()).cast(kind) for v, kind in zip(values, kinds.values(), strict=True)]
        table = pa.table([*columns, pa.array(range(count))], [*kinds, "place"])
        table = pa.concat_tables([table.slice(0, count // 2), table.slice(count // 2)])
        rows = list(zip(*values, strict=True))
        wanted = sorted(range(count), key=[tuple((v is None, v or 0) for v in row) for row in rows].__getitem__)
        found = ordered(table, list(kinds))
        assert found["place"].to_pylist() == wanted and ordered(found, list(kinds)) is found
        assert found is table or wanted != sorted(wanted)
        copied += found is not table
    assert 20 < copied < 140, "some were in order, others not"


def test_partitions_keep_the_order_of_rows() -> None:
    data = expected(["b", "a", "b", "a", "b"], [9, 8, 1, 7, 5])
    parts = [(values, rows["tract"].to_pylist()) for values, rows in partitions("expected_dataset", data)]
    assert parts == [({"dataset_type": "a"}, [8, 7]), ({"dataset_type": "b"}, [9, 1, 5])]


def test_statistics_hold_for_every_row_or_are_left_out(site: Site) -> None:
    schema = schemas.table("certification").arrow
    rows = [
        {"collection": "c", "dataset_id": i, "dataset_type": "flat", "instrument": "Cam", "detector": d,
         "valid_begin": b, "valid_end": math.inf} for i, d, b in (("x", None, 3.0), ("a", 4, -1.0))
    ]  # fmt: skip
    (file,) = write_files(site, "certification", pa.Table.from_pylist(rows, schema=schema))
    stats = json.loads(file.stats or "")
    assert stats["numRecords"] == 2 and stats["nullCount"]["detector"] == 1
    assert stats["minValues"] == {"collection": "c", "dataset_id": "a", "instrument": "Cam", "detector": 4, "valid_begin": -1.0}
    assert stats["maxValues"]["valid_begin"] == 3.0 and "valid_end" not in stats["maxValues"]
    assert statistics("certification", pq.read_metadata(site.table_path("certification") / file.path)) == file.stats


def test_page_checksums_are_written(site: Site) -> None:
    delta.append(site, "metric", metrics(*range(1000)))
    (path,) = map(Path, delta.files(site, "metric"))
    content = path.read_bytes()
    good = pq.ParquetFile(path).read(["value"])
    chunk = pq.read_metadata(path).row_group(0).column(6)
    start, size = chunk.dictionary_page_offset or chunk.data_page_offset, chunk.total_compressed_size
    caught = 0
    for offset in range(start, start + size, size // 40):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 4]) + content[offset + 1 :])
        try:
            assert pq.ParquetFile(path, page_checksum_verification=True).read(["value"]) == good
        except OSError:
            caught += 1
    assert caught > 30


def test_files_are_added_once_and_removed(site: Site) -> None:
    files = write_files(site, "metric", metrics(1.0, 2.0))
    assert delta.add_files(site, "metric", files, ("publish", 1))
    assert not delta.add_files(site, "metric", files, ("publish", 1))
    assert delta.add_files(site, "metric", files), "live already: nothing to do"
    assert values(site) == [1.0, 2.0]
    with pytest.raises(DeltaError, match="is missing or is not"):
        delta.add_files(site, "metric", [delta.AddFile("part-x.parquet", {}, 5, 1)])
    assert delta.remove_files(site, "metric", [files[0].path, "part-x.parquet"]) == 1
    assert values(site) == [] and site.table_path("metric").joinpath(files[0].path).exists()


def test_the_log_can_be_followed_through_compaction(site: Site) -> None:
    for n in range(40):
        delta.append(site, "metric", metrics(float(n)))
    version, paths = delta.added_since(site, "metric", 30)
    assert version == 40 and len(paths) == 10
    assert upkeep.compact(site, "metric") == 40
    assert len(delta.files(site, "metric")) == 1
    assert delta.added_since(site, "metric", 40) == (41, [])
    assert values(site) == [float(n) for n in range(40)]
    assert upkeep.sweep(site, "metric") == (0, 0), "readers may still hold the old list"
    assert upkeep.sweep(site, "metric", hours=0)[0] == 40
    assert values(site) == [float(n) for n in range(40)]
    assert upkeep.compact(site, "metric") == 0
    with pytest.raises(DeltaError, match="the registry names its files"):
        upkeep.compact(site, "isolated_star")


def test_an_empty_last_commit_is_refused(site: Site) -> None:
    delta.append(site, "metric", metrics(1.0))
    log = site.table_path("metric") / "_delta_log"
    (log / f"{2:020}.json").write_bytes(b"")
    with pytest.raises(DeltaError, match="remove that file"):
        delta.files(site, "metric")
    (log / f"{2:020}.json").unlink()
    assert delta.append(site, "metric", metrics(2.0)) and values(site) == [1.0, 2.0]


def test_a_damaged_checkpoint_is_named_and_can_be_removed(site: Site) -> None:
    for n in range(21):
        delta.append(site, "metric", metrics(float(n)))
    log = site.table_path("metric") / "_delta_log"
    (checkpoint,) = log.glob("*.checkpoint.parquet")
    checkpoint.write_bytes(b"")
    with pytest.raises(DeltaError, match="remove that and _last_checkpoint"):
        delta.files(site, "metric")
    checkpoint.unlink()
    (log / "_last_checkpoint").unlink()
    assert values(site) == [float(n) for n in range(21)]


@pytest.mark.parametrize(
    ("configuration", "features"),
    [
        ({"delta.columnMapping.mode": "name"}, {"minReaderVersion": 2, "minWriterVersion": 5}),
        ({}, {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["deletionVectors"],
              "writerFeatures": ["deletionVectors"]}),
    ],
)  # fmt: skip
def test_tables_that_would_be_read_wrongly_are_refused(site: Site, configuration: dict, features: dict) -> None:
    delta.append(site, "metric", metrics(1.0))
    first = site.table_path("metric") / "_delta_log" / f"{0:020}.json"
    lines = [json.loads(line) for line in first.read_text().splitlines()]
    for line in lines:
        if "protocol" in line:
            line["protocol"] = features
        if "metaData" in line:
            line["metaData"]["configuration"] |= configuration
    first.write_text("\n".join(json.dumps(line) for line in lines))
    with pytest.raises(DeltaError, match=r"site A: table metric (uses|cannot be opened)"):
        delta.files(site, "metric")


def test_a_table_made_with_other_columns_is_not_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    delta.append(site, "metric", metrics(1.0))
    old = schemas.table("metric")
    wider = schemas.TableSchema(
        old.name, old.subject, old.description, old.arrow.append(pa.field("more", pa.int32())), old.primary_key, ()
    )
    monkeypatch.setitem(schemas.tables(), "metric", wider)
    with pytest.raises(DeltaError, match=r"other columns \(more\)"):
        delta.append(site, "metric", metrics(1.0))
    handle.forget(site, "metric")
    with pytest.raises(DeltaError, match=r"other columns \(more\); use a new lake"):
        delta.select(site, "metric")


def test_a_read_only_site_gives_one_line(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    delta.append(site, "metric", metrics(1.0))
    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(DeltaError, match=r"^site A: table metric cannot be written: No space left on device$"):
        delta.append(site, "metric", metrics(2.0))
    assert values(site) == [1.0]


def test_a_site_behind_a_symbolic_link(tmp_path: Path) -> None:
    """A site's directory may lie on another disk, and the lake be known by several names."""
    lake = Lake.create(tmp_path / "lake", {"A": {"central": True}})
    (tmp_path / "lake" / "A").rename(tmp_path / "disk")
    (tmp_path / "lake" / "A").symlink_to(tmp_path / "disk")
    (tmp_path / "name").symlink_to(tmp_path / "lake")
    for root in (lake.root, tmp_path / "name"):
        site = Lake.open(root).central
        assert delta.append(site, "metric", metrics(1.0))
        assert all(path.startswith(str(root)) for path in delta.files(site, "metric"))
    with delta.connect() as con:
        delta.view(con, lake.central, "metric")
        assert con.execute("SELECT count(*) FROM metric").fetchall() == [(2,)]
