"""The registry: ids equal to Python's, a verdict for every row, parked rows admitted, nothing twice."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from batches import DIMENSIONS, RUN, TYPES, add_visits, datasets, images, make, of_tract, of_visit, put, tables

import schemas
from lake import delta, judgement, query, registry, sizes
from lake.registry import NAMESPACE, RegistryError, from_records, ingest, parked, to_records, uuid5, with_ids
from lake.site import Lake, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make(tmp_path / "lake")


def registered(site: Site, where: str = "true") -> list[dict[str, Any]]:
    with delta.connect() as con:
        rows: list[dict[str, Any]] = registry.datasets(con, site, where).order("dataset_id").to_arrow_table().to_pylist()
    return rows


def verdicts(table: pa.Table) -> list[str]:
    assert table.column_names == ["dataset_id", "verdict", "reason"]
    found: list[str] = table["verdict"].to_pylist()
    return found


def changed(row: dict[str, Any], **values: Any) -> dict[str, Any]:
    return row | values


def test_uuid5_is_the_standard_one() -> None:
    names = ["", "a", "é|x=1", "x" * 500] + [f"raw|c/raw|exposure={n}" for n in range(300)]
    assert uuid5(pa.array(names)).to_pylist() == [str(uuid.uuid5(NAMESPACE, name)) for name in names]


def test_ids_come_from_type_run_and_required_dimensions_in_order() -> None:
    types = {"warp": ["patch", "tract", "skymap", "visit"], "flat": ["physical_filter", "detector"], "map": []}
    rows = [
        {"dataset_type": "flat", "run": "c/calib", "detector": 3, "physical_filter": "g x", "visit": None},
        {"dataset_type": "warp", "run": "c/3", "visit": 10**12, "skymap": "s", "tract": 1, "patch": 0, "detector": 9},
        {"dataset_type": "map", "run": "c/7"},
        {"dataset_type": "flat", "run": "c/calib", "detector": None, "physical_filter": "g x"},
    ]
    names = ["flat|c/calib|detector=3|physical_filter=g x", f"warp|c/3|visit={10**12}|skymap=s|tract=1|patch=0", "map|c/7",
             "flat|c/calib|detector=?|physical_filter=g x"]  # fmt: skip
    table = with_ids(None, pa.Table.from_pylist([dict.fromkeys(rows[1]) | dict.fromkeys(rows[0]) | row for row in rows]), types)
    assert table.column_names[0] == "dataset_id"
    assert table["dataset_id"].to_pylist() == [str(uuid.uuid5(NAMESPACE, name)) for name in names]
    assert table["run"].to_pylist() == [row["run"] for row in rows]
    with delta.connect() as con:
        assert with_ids(con, table, types) == table
    with pytest.raises(RegistryError, match="map is not declared; known: flat"):
        with_ids(None, table, {"flat": ["detector"], "warp": ["visit"]})


def test_dataset_types_conflict_or_are_known(site: Site) -> None:
    assert registry.register_dataset_types(site, TYPES) == 0
    assert registry.register_dataset_types(site, {"flat": (["physical_filter", "detector", "instrument"], "fits")}) == 1
    assert registry.dataset_types(site)["flat"].dimensions == ("instrument", "detector", "physical_filter")
    with pytest.raises(RegistryError, match=r"flat is known as .instrument, detector, physical_filter; fits"):
        registry.register_dataset_types(site, {"new": ([], "json"), "flat": (["detector"], "fits")})
    for bad in ((["sky"], "fits"), (["tract"], "xml")):
        with pytest.raises(RegistryError, match=r"new: '(xml|sky)' is not"):
            registry.register_dataset_types(site, {"new": bad})
    assert "new" not in registry.dataset_types(site)


def test_a_batch_is_accepted_once(site: Site) -> None:
    table = datasets(images(site, [1, 2]))
    assert verdicts(ingest(site, table, ("t", 1))) == ["accepted"] * 4
    assert verdicts(ingest(site, table, ("t", 1))) == ["present"] * 4
    assert verdicts(ingest(site, table)) == ["present"] * 4
    rows = registered(site)
    assert [r["dataset_id"] for r in rows] == sorted(table["dataset_id"].to_pylist())
    assert all(r["registered_at"] is not None and r["run"] == RUN for r in rows)
    assert registered(site, "visit = 2 AND detector = 1")[0]["path"] == table["path"][3].as_py()
    assert parked(site).num_rows == 0 and verdicts(ingest(site, table.slice(0, 0), ("t", 9))) == []


def test_one_bad_row_stops_no_other(site: Site) -> None:
    good = images(site, [1])
    ingest(site, datasets(good[:1]))
    rows = [
        changed(good[0], checksum="f" * 64),
        good[1],
        changed(good[0], detector=None),
        changed(images(site, [2])[0], visit=77, exposure=77),
        changed(images(site, [2])[1], detector=9),
        changed(good[1], run="c/other", path="files/nothing"),
        changed(good[1], run="c/other", file_bytes=5),
    ]
    table = datasets(rows)
    ids = table["dataset_id"].to_pylist()
    ids[6] = str(uuid.uuid4())
    table = table.set_column(table.column_names.index("dataset_id"), "dataset_id", pa.array(ids))
    found = ingest(site, table)
    assert verdicts(found) == ["rejected", "accepted", "rejected", "parked", "parked", "rejected", "rejected"]
    reasons = found["reason"].to_pylist()
    assert good[0]["checksum"] in reasons[0] and "f" * 64 in reasons[0]
    assert reasons[1] is None
    assert "no value for detector" in reasons[2]
    assert reasons[3] == "exposure 77 is not known at A" and reasons[4] == "detector 9 is not known at A"
    assert reasons[5] == "post_isr_image: lost: files/nothing is not in storage"
    assert "not that of its data ID" in reasons[6]
    assert len(registered(site)) == 2
    assert sorted(parked(site)["dataset_id"].to_pylist()) == sorted(ids[3:5])
    assert parked(site, "rejected").num_rows == 4


def test_rows_written_ahead_of_their_verdict_are_in_the_table_or_gone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    good, lost = images(site, [1])
    both = datasets([good, lost])
    site.path(lost["path"]).unlink()
    assert verdicts(ingest(site, both)) == ["accepted", "rejected"]
    monkeypatch.setattr(registry, "catalogue_files", lambda *_: {"object": [delta.AddFile("nothing.parquet", {}, 1, 1)]})
    with pytest.raises(delta.DeltaError, match=r"nothing.parquet is missing"):
        ingest(site, datasets(images(site, [2])))
    assert [row["path"] for row in registered(site)] == [good["path"]]
    assert delta.files(site, "dataset") == [str(path) for path in site.table_path("dataset").rglob("part-*.parquet")]


def test_an_error_is_told_also_while_another_process_looks_at_files(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "SHARED", 1)
    monkeypatch.setattr(sizes.os, "sched_getaffinity", lambda _: {0, 1})
    rows = datasets(images(site, [1]))
    with monkeypatch.context() as patch:
        patch.setattr(judgement, "_remarkable", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            ingest(site, rows)
    assert set(ingest(site, rows)["verdict"].to_pylist()) == {"accepted"}


def test_the_same_data_id_in_another_run_is_another_dataset(site: Site) -> None:
    rows = images(site, [1])
    ingest(site, datasets(rows))
    assert verdicts(ingest(site, datasets([*rows, *(changed(row, run="it's/another") for row in rows)]))) == [
        "present", "present", "accepted", "accepted",
    ]  # fmt: skip
    assert verdicts(ingest(site, datasets([changed(rows[0], run="it's/another", checksum="f" * 64)]))) == ["rejected"]


def test_a_batch_is_compared_with_files_of_its_runs_alone(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the file of another run has the same visits; files written without statistics of runs are looked into."""
    rows, listed = images(site, [1, 2]), []
    plain = delta.files

    def noted(site: Site, table: str, prune: str | None = None) -> list[str]:
        found = plain(site, table, prune)
        listed.extend(found if table == "dataset" else [])
        return found

    with monkeypatch.context() as patch:
        patch.setattr("lake.parquet.SOUGHT", {})
        ingest(site, datasets(changed(row, run="old") for row in rows))
    (old,) = plain(site, "dataset")
    monkeypatch.setattr(delta, "files", noted)
    for run in ("one", "two", "it's/another"):
        listed.clear()
        assert set(verdicts(ingest(site, datasets(changed(row, run=run) for row in rows)))) == {"accepted"}
        assert listed == [old]
    for run in ("old", "one", "it's/another"):
        listed.clear()
        assert set(verdicts(ingest(site, datasets(changed(row, run=run) for row in rows)))) == {"present"}
        assert old in listed and len(listed) == (1 if run == "old" else 2)


@pytest.mark.parametrize(
    ("column", "value"), [("instrument", "O'Cam"), ("physical_filter", "r'cam"), ("exposure", 77), ("visit", 77), ("detector", 9)]
)
def test_what_a_batch_has_in_all_its_rows_is_looked_for_too(site: Site, column: str, value: Any) -> None:
    """Alone in its batch, or beside rows that are known: the same is said."""
    good, wrong = images(site, [1])
    wrong |= {column: value}
    reason = f"{column} {value} is not known at A"
    assert judgement.judge(site, datasets([wrong])).verdicts["reason"].to_pylist() == [reason]
    assert judgement.judge(site, datasets([wrong, good])).verdicts["reason"].to_pylist() == [reason, None]
    assert judgement.judge(site, datasets([good | {column: None}, wrong])).verdicts["reason"].to_pylist()[1] == reason


def test_a_type_that_is_not_known_waits(site: Site) -> None:
    row = changed(images(site, [1])[0], dataset_type="visit_image")
    table = with_ids(None, datasets([changed(row, dataset_type="post_isr_image")]).set_column(
        1, "dataset_type", pa.array(["visit_image"])), {"visit_image": ["instrument", "visit", "detector"]})  # fmt: skip
    assert ingest(site, table)["reason"].to_pylist() == ["dataset type visit_image is not known at A"]
    registry.register_dataset_types(site, {"visit_image": (["instrument", "visit", "detector"], "fits")})
    assert verdicts(registry.admit_parked(site)) == ["accepted"]


def test_parked_rows_are_admitted_when_their_record_arrives(site: Site) -> None:
    rows = images(site, [2, 8, 9])
    assert verdicts(ingest(site, datasets(rows))) == ["accepted"] * 2 + ["parked"] * 4
    ingest(site, datasets(rows))
    assert parked(site).num_rows == 4, "noted once, however often it comes"
    with delta.connect() as con:
        assert delta.relation(con, site, "parked").count("*").fetchall() == [(4,)]
    add_visits(site, [8])
    assert sorted(verdicts(registry.admit_parked(site))) == ["accepted", "accepted", "parked", "parked"]
    assert len(registered(site)) == 4 and set(parked(site)["visit"].to_pylist()) == {9}
    assert parked(site, "admitted")["reason"].unique().to_pylist() == ["its dimension records arrived"]
    add_visits(site, [9])
    assert verdicts(ingest(site, datasets(rows))) == ["present"] * 4 + ["accepted"] * 2
    assert parked(site).num_rows == 0 and registry.admit_parked(site).num_rows == 0


def test_what_waited_is_admitted_also_when_the_clock_was_set_back(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        ahead = timedelta(hours=2)

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + cls.ahead

    monkeypatch.setattr(judgement, "datetime", Clock)
    rows = images(site, [8])
    ingest(site, datasets(rows))
    Clock.ahead = timedelta()
    add_visits(site, [8])
    assert verdicts(registry.admit_parked(site)) == ["accepted"] * 2
    again = [changed(row, checksum="e" * 64) for row in rows]
    assert verdicts(ingest(site, datasets(again))) == ["rejected"] * 2
    assert parked(site).num_rows == 0 and parked(site, "admitted").num_rows == 2
    with query.connect(Lake.open(site.root.parent), [site.name]) as con:
        assert sorted(con.execute("SELECT state FROM parked_now").fetchall()) == [("admitted",)] * 2 + [("rejected",)] * 2


def test_slices_join_their_table_with_their_rows(site: Site) -> None:
    rows = tables(site, [of_tract("isolated_star", t) for t in (9469, 9470, 1)] + [of_visit("visit_table", 1)])
    found = ingest(site, datasets(rows))
    assert verdicts(found) == ["accepted", "accepted", "parked", "accepted"]
    assert found["reason"][2].as_py() == "tract 1 is not known at A"
    assert delta.files(site, "isolated_star") == sorted(str(site.path(row["path"])) for row in rows[:2])
    from batches import filled

    put(site, "tract", [filled("tract", skymap="sky", tract=1)])
    registry.admit_parked(site)
    assert len(delta.files(site, "isolated_star")) == 3 and len(delta.files(site, "visit_table")) == 1


def test_a_row_twice_in_a_batch(site: Site) -> None:
    one, two = images(site, [1])
    late = images(site, [8])[0]
    rows = [one, one, two, changed(two, checksum="e" * 64), late, late]
    assert verdicts(ingest(site, datasets(rows))) == ["accepted", "present", "accepted", "rejected", "parked", "parked"]
    assert len(registered(site)) == 2 and parked(site).num_rows == 1


def test_a_death_between_two_commits_is_made_good(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Death(Exception):
        pass

    rows = images(site, [1, 8])
    for n, place in enumerate(("registry:parked", "registry:dataset")):

        def die(name: str, place: str = place) -> None:
            if name == place:
                raise Death

        table = datasets(changed(row, run=f"c/{place}") for row in rows)
        with monkeypatch.context() as patched, pytest.raises(Death):
            patched.setattr("lake.fault.point", die)
            ingest(site, table, ("t", n + 1))
        assert (delta.transaction_version(site, "dataset", "t") == n + 1) == (place == "registry:dataset")
        ingest(site, table, ("t", n + 1))
        assert len(registered(site, f"run = 'c/{place}'")) == 2
        assert len([r for r in parked(site).to_pylist() if r["run"] == f"c/{place}"]) == 2


def test_a_death_while_admitting_is_made_good(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    ingest(site, datasets(images(site, [8])))
    add_visits(site, [8])

    def die(name: str) -> None:
        if name == "registry:dataset":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("lake.fault.point", die)
        registry.admit_parked(site)
    assert len(registered(site)) == 2 and parked(site).num_rows == 2
    assert verdicts(registry.admit_parked(site)) == ["present", "present"]
    assert parked(site).num_rows == 0 and len(registered(site)) == 2


def test_records_come_back_as_they_were(site: Site) -> None:
    ingest(site, datasets(images(site, [1]) + tables(site, [of_tract("isolated_star", 9470)])))
    rows = schemas.conform("dataset", pa.Table.from_pylist(registered(site), schema=schemas.table("dataset").arrow))
    assert from_records(to_records(rows)) == rows
    assert from_records(to_records(rows).slice(0, 0)).num_rows == 0


def test_queries_are_pruned_by_type(site: Site) -> None:
    ingest(site, datasets(images(site, [1, 2]) + tables(site, [of_tract("isolated_star", 9470)])))
    with delta.connect() as con:
        assert registry.datasets(con, site, types=["isolated_star"]).count("*").fetchall() == [(1,)]
        assert registry.datasets(con, site, types=[]).fetchall() == []
        found = registry.datasets(con, site, "visit > $v", {"v": 1}, types=["post_isr_image"])
        assert found.count("*").fetchall() == [(2,)]


def test_a_hundred_thousand_rows_in_seconds(site: Site) -> None:
    import time

    n = 100_000
    put(site, "detector", [{"instrument": "Cam", "detector": d, "width": 8, "height": 8} for d in range(2, 1000)])
    add_visits(site, range(4, 110))
    index = pa.array(range(n))
    visit = pc.add(pc.divide(index, 1000), 1)
    table = pa.table({
        "dataset_type": ["post_isr_image"] * n, "run": [RUN] * n, "instrument": ["Cam"] * n, "exposure": visit, "visit": visit,
        "detector": pc.subtract(index, pc.multiply(pc.subtract(visit, 1), 1000)).cast(pa.int32()),
        "path": pc.binary_join_element_wise("files/", index.cast(pa.string()), ""), "bytes": [1] * n,
        "checksum": ["c" * 64] * n, "file_bytes": [1] * n, "file_checksum": ["c" * 64] * n, "origin": ["A"] * n,
    })  # fmt: skip
    table = with_ids(None, table, DIMENSIONS)
    for wanted in ("accepted", "present"):
        start = time.perf_counter()
        assert set(verdicts(ingest(site, table, verify=False))) == {wanted}
        assert time.perf_counter() - start < 20, "about a second on a quiet machine"
