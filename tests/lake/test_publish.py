"""Publication: a batch becomes visible whole and once, refused outputs fail their attempts, remade files heal."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from batches import add_visits, attempts, batch, datasets, images, make, of_tract, of_visit, tables

import schemas
from lake import datastore, delta, publish, registry, slices
from lake.publish import Batch, Publisher, PublishError
from lake.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make(tmp_path / "lake")


def rows(site: Site, table: str) -> list[dict[str, Any]]:
    with delta.connect() as con:
        found: list[dict[str, Any]] = delta.relation(con, site, table).order("ALL").to_arrow_table().to_pylist()
    return found


def on_disk(site: Site) -> set[str]:
    return {
        site.relative(path)
        for folder in ("files", "tables/catalogues")
        for path in site.path(folder).rglob("*")
        if path.is_file() and "_delta_log" not in path.parts
    }


def consistent(site: Site) -> None:
    """What must hold at any time: registered files exist, are live where they are slices, and no row is there twice."""
    registered = rows(site, "dataset")
    assert len({row["dataset_id"] for row in registered}) == len(registered)
    for row in registered:
        assert datastore.check(site, row["path"], row["file_bytes"], row["file_checksum"]) is None
    live = {
        site.relative(path) for name, s in schemas.tables().items() if s.subject == "catalogues" for path in delta.files(site, name)
    }
    assert live == {row["path"] for row in registered if slices.is_slice(row["path"])}
    for name, row_count in (("isolated_star", 3), ("visit_table", 1)):
        assert len(rows(site, name)) == row_count * sum(row["dataset_type"] == name for row in registered)


def test_a_batch_becomes_visible_whole(site: Site) -> None:
    done = batch(site, [1, 2], [9469, 9470])
    found = Publisher(site).publish(done)
    assert found["dataset_id"].to_pylist() == done.datasets["dataset_id"].to_pylist()
    assert set(found["verdict"].to_pylist()) == {"accepted"}
    consistent(site)
    assert len(rows(site, "dataset")) == 4 + 2 + 2
    assert [r["state"] for r in rows(site, "attempt")] == ["succeeded"] * 6
    assert list(site.path("publish").iterdir()) == []
    assert on_disk(site) == {row["path"] for row in rows(site, "dataset")}


def test_publishing_again_changes_nothing(site: Site) -> None:
    publisher = Publisher(site)
    publisher.publish(batch(site, [1], [9469]))
    before = rows(site, "dataset")
    again = batch(site, [1], [9469])
    assert set(publisher.publish(Batch(again.datasets, again.attempts.slice(0, 0)))["verdict"].to_pylist()) == {"present"}
    assert rows(site, "dataset") == before and len(rows(site, "attempt")) == 3
    consistent(site)
    version = delta.version(site, "attempt")
    assert publisher.publish(Batch(again.datasets, again.attempts.slice(0, 0))).num_rows == 4
    assert delta.version(site, "attempt") == version, "nothing to do is no commit"
    assert Publisher(site).publish(Batch(datasets([]), attempts([]))).num_rows == 0


def test_attempts_alone_are_published(site: Site) -> None:
    publisher = Publisher(site)
    done = batch(site, [1])
    for n in range(3):
        publisher.publish(Batch(datasets([]), done.attempts.slice(n % 2, 1)))
    assert len(rows(site, "attempt")) == 3


def test_other_content_under_one_id_fails_the_attempt(site: Site) -> None:
    publisher = Publisher(site)
    publisher.publish(batch(site, [1], [9469]))
    before, files = rows(site, "dataset"), on_disk(site)
    other = batch(site, [1, 2], [9469], value=7.0, content=" changed")
    found = publisher.publish(other)
    assert found["verdict"].to_pylist() == ["rejected"] * 2 + ["accepted"] * 2 + ["rejected", "accepted", "rejected"]
    assert "registered with checksum" in found["reason"][0].as_py()
    consistent(site)
    assert [row for row in rows(site, "dataset") if row["visit"] != 2] == before
    assert files < on_disk(site), "nothing that is registered was overwritten"
    states = {(a["quantum_id"], a["state"]) for a in rows(site, "attempt")}
    assert ("post_isr_image-1", "failed") in states and ("post_isr_image-2", "succeeded") in states
    failed = next(a for a in rows(site, "attempt") if a["state"] == "failed" and a["quantum_id"] == "isolated_star-9469")
    assert failed["reason"].startswith("output refused: isolated_star: registered with checksum")
    assert registry.parked(site, "rejected").num_rows == 4


def test_a_file_with_rows_that_are_registered_elsewhere_is_written_again_without_them(site: Site) -> None:
    publisher = Publisher(site)
    publisher.publish(batch(site, [1, 2]))
    found = publisher.publish(batch(site, [1, 2, 3]))
    assert found["verdict"].to_pylist() == ["present"] * 4 + ["accepted"] * 2 + ["present"] * 2 + ["accepted"]
    consistent(site)
    assert on_disk(site) == {row["path"] for row in rows(site, "dataset")}


def test_a_file_with_rows_that_wait_is_parted(site: Site) -> None:
    publisher = Publisher(site)
    found = publisher.publish(batch(site, [1, 8]))
    assert found["verdict"].to_pylist() == ["accepted"] * 2 + ["parked"] * 2 + ["accepted", "parked"]
    consistent(site)
    assert registry.parked(site).num_rows == 3
    add_visits(site, [8])
    assert set(registry.admit_parked(site)["verdict"].to_pylist()) == {"accepted"}
    consistent(site)
    assert on_disk(site) == {row["path"] for row in rows(site, "dataset")} and len(rows(site, "dataset")) == 6


@pytest.mark.parametrize("damage", ["altered", "truncated", "lost"])
def test_remade_files_take_the_place_of_damaged_ones(site: Site, damage: str) -> None:
    publisher = Publisher(site)
    publisher.publish(batch(site, [1], [9469]))
    for row in rows(site, "dataset"):
        path = site.path(row["path"])
        content = path.read_bytes()
        path.write_bytes(content[:-1] + b"?" if damage == "altered" else content[:20])
        if damage == "lost":
            path.unlink()
    remade = batch(site, [1], [9469])
    assert set(publisher.publish(remade)["verdict"].to_pylist()) == {"present"}
    consistent(site)
    assert on_disk(site) == {row["path"] for row in rows(site, "dataset")}


def test_a_file_that_is_not_there_is_no_dataset(site: Site) -> None:
    done = batch(site, [1, 2], [9469])
    lost = done.datasets["path"][0].as_py()
    site.path(lost).unlink()
    slice_path = done.datasets.filter(pa.compute.equal(done.datasets["dataset_type"], "isolated_star"))["path"][0].as_py()
    site.path(slice_path).write_bytes(b"x" * site.path(slice_path).stat().st_size)
    found = Publisher(site).publish(done)
    assert found["verdict"].to_pylist() == ["rejected"] + ["accepted"] * 5 + ["rejected"]
    assert found["reason"][0].as_py() == f"post_isr_image: lost: {lost} is not in storage"
    assert "not a readable file of slices" in found["reason"][6].as_py()
    consistent(site)


def test_a_damaged_page_in_a_file_to_be_parted_rejects_that_file_alone(site: Site) -> None:
    Publisher(site).publish(batch(site, [1]))
    done = batch(site, [1, 2], [9469])
    path = site.path(next(p for p in done.datasets["path"].to_pylist() if "visit_table" in p))
    content = bytearray(path.read_bytes())
    for place in range(pq.read_metadata(path).row_group(1).column(0).dictionary_page_offset + 4, len(content) // 2, 3):
        content[place] ^= 1
    path.write_bytes(content)
    found = Publisher(site).publish(done)
    kinds = dict(zip(done.datasets["dataset_id"].to_pylist(), done.datasets["dataset_type"].to_pylist(), strict=True))
    refused = {kinds[r["dataset_id"]] for r in found.to_pylist() if r["verdict"] == "rejected"}
    assert refused == {"visit_table"} and "accepted" in found["verdict"].to_pylist()
    consistent(site)


def test_a_batch_left_behind_is_applied_when_the_site_is_opened(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(Exception):
        pass

    def die(*args: Any) -> None:
        raise Death

    publisher = Publisher(site)
    for n, place in enumerate(("lake.registry.record", "lake.delta.append")):
        with monkeypatch.context() as patched, pytest.raises(Death):
            patched.setattr(place, die)
            publisher.publish(batch(site, [n + 1], [9469 + n]))
        assert len(list(site.path("publish").iterdir())) == 1
        assert Publisher(site).replayed == 1
        consistent(site)
        assert len(rows(site, "dataset")) == 4 * (n + 1) and len(rows(site, "attempt")) == 3 * (n + 1)
    with monkeypatch.context() as patched, pytest.raises(Death):
        patched.setattr("lake.registry.record", die)
        publisher.publish(batch(site, [3]))
    publisher.publish(batch(site, [], [9470]))
    assert len(rows(site, "dataset")) == 11, "the next batch finishes the one before it first"
    consistent(site)


def test_a_batch_file_that_is_not_one_is_named(site: Site) -> None:
    (site.path("publish") / "000000000007.arrow").write_bytes(b"nonsense")
    with pytest.raises(PublishError, match=r"000000000007.arrow cannot be read"):
        Publisher(site)


def test_a_full_disk_is_one_line_and_changes_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    publisher = Publisher(site)
    done = batch(site, [1], [9469])
    with monkeypatch.context() as patched, pytest.raises(PublishError, match=r"^site A: the batch .* No space left on device$"):
        patched.setattr("lake.publish.write_durable", full)
        publisher.publish(done)
    assert rows(site, "dataset") == [] and rows(site, "attempt") == []
    publisher.publish(done)
    consistent(site)


def test_many_batches_are_merged_and_stay_whole(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish, "TEND_EVERY", 35)
    publisher = Publisher(site)
    done = batch(site, [1])
    for n in range(36):  # the 35th merges
        publisher.publish(Batch(done.datasets.slice(n % 3, 1), done.attempts.slice(n % 2, 1)))
    assert len(delta.files(site, "attempt")) == 2 and len(rows(site, "attempt")) == 36
    consistent(site)


def test_order_of_batches_and_rows_does_not_matter(tmp_path: Path) -> None:
    found = []
    for seed in range(2):
        site = make(tmp_path / str(seed))
        publisher = Publisher(site)
        work = [([1], []), ([2], [9469]), ([3], [9470])]
        random.Random(seed).shuffle(work)
        for visits, tracts in work:
            done = batch(site, visits, tracts)
            order = random.Random(seed).sample(range(done.datasets.num_rows), done.datasets.num_rows)
            publisher.publish(Batch(done.datasets.take(pa.array(order)), done.attempts))
        found.append([{k: v for k, v in row.items() if k != "registered_at"} for row in rows(site, "dataset")])
        consistent(site)
    assert found[0] == found[1]


def test_images_and_tables_of_a_tract_share_a_batch(site: Site) -> None:
    made = images(site, [1]) + tables(site, [of_tract("isolated_star", 9469), of_visit("visit_table", 2)])
    assert set(Publisher(site).publish(Batch(datasets(made), attempts(made)))["verdict"].to_pylist()) == {"accepted"}
    consistent(site)
