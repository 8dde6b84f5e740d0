"""Merged files lie by place on the sky: a scattered tract in few row groups, and every answer as plain SQL has it."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from small_lake import DIMENSIONS, NIGHT, insert, make, table, visit_row

import schemas
from lake import arrangement, datastore, delta, division, listing, prune, query, registry, search, upkeep
from lake.listing import Listed
from lake.merging import File
from lake.parquet import DeltaError
from lake.prune import Leave
from lake.site import Lake, Site
from lake.where import parse

GROUP, DETECTORS, TRACTS = 8, 3, 4
HAPPENS = ["new", "new", "again", "twice", "merge", "merge", "divide", "divide", "as before", "out", "back"]
EVERYTHING = Leave(last_copy=True, certified=True, tagged=True, wanted=True)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lake.parquet.ROW_GROUPS", {"dataset": GROUP, "visit_detector_patch": 5})
    monkeypatch.setattr("lake.listing.ROWS_OF_VALUE", 1)


def shrink(patch: pytest.MonkeyPatch) -> None:
    """A row group is full with a few rows, a file with thirty."""
    patch.setattr("lake.parquet.ROW_GROUPS", {"dataset": GROUP, "visit_detector_patch": 5})
    patch.setattr("lake.listing.ROWS_OF_VALUE", 1)
    patch.setattr(File, "weight", property(lambda file: file.rows))
    patch.setattr(division, "SMALL", 1)
    patch.setattr(division, "FULL", 30)
    patch.setattr(division, "MOST", 240)


def add_visits(site: Site, visits: range) -> None:
    """Visits that point to a few tracts in turn, five degrees apart; of each, all detectors touch its tract."""
    night = {"instrument": "Cam", "day_obs": NIGHT, "physical_filter": "r_cam", "band": "r", "exposure_time": 30.0}
    insert(site, "exposure", [night | {"exposure": v, "observation_type": "science"} for v in visits])
    places = [
        {"visit": v, "exposure": v, "mjd_mid": 6e4 + v, "ra": 357.0 + 5.0 * (v % TRACTS) - 360.0 * (v % TRACTS > 0)} for v in visits
    ]
    insert(site, "visit", [night | each | {"dec": -2.0} for each in places])
    footprints = [{"instrument": "Cam", "visit": v, "detector": d, "skymap": "sky", "tract": v % TRACTS, "patch": d} for v in visits
                  for d in range(DETECTORS)]  # fmt: skip
    insert(site, "visit_detector_patch", footprints)


def rows(site: Site, run: str, visits: list[int]) -> pa.Table:
    """Rows of raws of visits, all detectors, each with its file."""
    found = []
    for visit in visits:
        for detector in range(DETECTORS):
            file = datastore.write_file(site, f"files/{run}/{visit}/{detector}", b"x")
            known = {"path": file.path, "bytes": 1, "file_bytes": 1, "checksum": file.checksum, "file_checksum": file.checksum}
            found.append(visit_row("raw", run, visit, detector=detector, **known))
    return registry.with_ids(None, table(found), DIMENSIONS)


def merge_as_before(site: Site, patch: pytest.MonkeyPatch) -> None:
    """What upkeep made of small files before it knew where visits point to."""
    with patch.context() as old:
        old.setattr("lake.parquet.listings", lambda *_: {})
        old.setattr("lake.parquet.UNPACKED", {})
        old.setattr(upkeep, "PLACED", {})
        by = [(c, "ascending") for c in ("instrument", "exposure", "visit", "detector", "run", "dataset_id")]
        old.setattr(upkeep, "arranged", lambda site, table, rows: rows.sort_by(by))
        upkeep.compact(site, "dataset", at_least=2)


SKY = """SELECT {columns} FROM dataset d WHERE dataset_type = 'raw' AND (d.tract = {tract} OR (d.tract IS NULL AND EXISTS (
    FROM visit_detector_patch p WHERE p.instrument = d.instrument AND p.visit = d.visit
    AND (d.detector IS NULL OR p.detector = d.detector) AND p.tract = {tract})))"""


@pytest.mark.parametrize("seed", range(12))
def test_a_lake_of_any_history_answers_as_sql_does(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    lake, chance, visits = make(tmp_path / "lake", 1, DETECTORS), random.Random(seed), range(100, 124)
    site = lake.central
    add_visits(site, visits)
    taken: list[str] = []
    with query.connect(lake, ["USDF"], "USDF") as con:
        for step in range(12):
            match chance.choice(HAPPENS) if step else "new":
                case "new":
                    registry.ingest(site, rows(site, f"run{step}", sorted(chance.sample(visits, 6))))
                case "again":
                    registry.ingest(site, rows(site, f"run{step}", chance.sample(visits, 6)))
                    registry.ingest(site, rows(site, f"run{step}", chance.sample(visits, 6)))
                case "twice":  # what ingest never does
                    delta.append(site, "dataset", con.table("SELECT * FROM USDF.dataset WHERE visit % 5 = 0"))
                case "merge":
                    upkeep.compact(site, "dataset", at_least=2)
                case "divide":
                    with monkeypatch.context() as patch:
                        shrink(patch)
                        division.divide(site, "dataset")
                        division.divide(site, "visit_detector_patch")
                case "as before":
                    merge_as_before(site, monkeypatch)
                case "out":
                    held = con.table(f"SELECT DISTINCT dataset_id FROM dataset WHERE visit % 4 = {step % 4} ORDER BY ALL")
                    if held.num_rows:
                        taken.append(prune.prune(lake, site, held["dataset_id"].to_pylist(), "room", EVERYTHING)[0])
                case "back":
                    while taken:
                        prune.undo(site, taken.pop())
            visit, run = chance.choice(visits), f"run{chance.randrange(step + 1)}"
            tests = [
                f"visit = {visit}", f"exposure = {visit} AND detector = 1", f"visit IN ({visit}, 103, 999) AND run = '{run}'",
                f"visit > {visit}", f"visit BETWEEN {visit} AND {visit + 2} AND detector = 0", "detector = 2",
            ]  # fmt: skip
            for columns in (search.REFERENCE, ("dataset_id", "path", "visit", "registered_at")):
                shown = ", ".join(columns)
                sql = [f"SELECT {shown} FROM dataset WHERE dataset_type = 'raw' AND {test}" for test in tests]
                tract = chance.randrange(TRACTS)
                for test, plain in zip([*tests, f"tract = {tract}"], [*sql, SKY.format(columns=shown, tract=tract)], strict=True):
                    found = search.look(con, site, ["raw"], parse(test), columns=columns).drop_columns(["site"])
                    by = [(c, "ascending") for c in ("visit", "dataset_id")]
                    assert found.sort_by(by).equals(con.table(plain).cast(found.schema).sort_by(by)), (step, test)


def test_a_visit_that_has_two_records_or_none_changes_no_row(tmp_path: Path) -> None:
    site = make(tmp_path / "lake", 1, DETECTORS).central
    given = rows(site, "run", [103, 101])
    assert arrangement.arranged(site, "dataset", given).num_rows == given.num_rows
    add_visits(site, range(100, 104))
    with delta.cursor() as con:
        twice = delta.relation(con, site, "visit").to_arrow_table()
    delta.append(site, "visit", schemas.conform("visit", twice))
    found = arrangement.arranged(site, "dataset", given)
    assert sorted(found["dataset_id"].to_pylist()) == sorted(given["dataset_id"].to_pylist())
    assert arrangement.arranged(site, "dataset", given.slice(0, 0)).num_rows == 0


def test_a_damaged_visit_table_stops_merging_in_one_line(tmp_path: Path) -> None:
    site = make(tmp_path / "lake", 2, DETECTORS, raws=True).central
    registry.ingest(site, rows(site, "run", [1]))
    (path,) = map(Path, delta.files(site, "visit"))
    before = delta.files(site, "dataset")
    path.write_bytes(b"PAR1")
    with pytest.raises(DeltaError, match=r"^site USDF: table visit cannot be read: .*; restore it$"):
        upkeep.compact(site, "dataset", at_least=2)
    upkeep.tend(site)
    assert delta.files(site, "dataset") == before


def test_a_damaged_visit_table_stops_no_prune_half_way(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", 2, DETECTORS, raws=True)
    site = lake.central
    registry.ingest(site, rows(site, "run", [1]))
    with delta.cursor() as con:
        held = [i for (i,) in delta.relation(con, site, "dataset").project("dataset_id").fetchall()]
    (path,) = map(Path, delta.files(site, "visit"))
    path.write_bytes(b"PAR1")
    prune.prune(lake, site, held[:1], "room", EVERYTHING)
    with delta.cursor() as con:
        left = [i for (i,) in delta.relation(con, site, "dataset").project("dataset_id").fetchall()]
    assert sorted(left) == sorted(held[1:])


def groups_read(lake: Lake, where: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """How many datasets a look-up finds, and out of how many row groups of the registry."""
    read, plain = [], pq.ParquetFile.read_row_groups

    def noted(file: pq.ParquetFile, groups: list[int], **options: object) -> pa.Table:
        read.extend(groups if "dataset_id" in file.schema_arrow.names else [])
        return plain(file, groups, **options)

    with monkeypatch.context() as patch, query.connect(lake, ["USDF"], "USDF") as con:
        patch.setattr(pq.ParquetFile, "read_row_groups", noted)
        return search.look(con, lake.central, ["raw"], parse(where)).num_rows, len(set(read))


def test_a_scattered_tract_lies_together_and_a_visit_is_still_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = make(tmp_path / "lake", 1, DETECTORS)
    site = lake.central
    add_visits(site, range(100, 132))
    for night in range(4):
        registry.ingest(site, rows(site, f"run{night}", list(range(100 + 8 * night, 108 + 8 * night))))
    merge_as_before(site, monkeypatch)
    wanted = 32 // TRACTS * DETECTORS
    assert groups_read(lake, "tract = 1", monkeypatch) == (wanted, 32 * DETECTORS // GROUP)
    registry.ingest(site, rows(site, "new", [131]))
    assert upkeep.compact(site, "dataset", at_least=2) == 2
    assert len(delta.files(site, "dataset")) == 1
    found, read = groups_read(lake, "tract = 1", monkeypatch)
    assert found == wanted and read <= wanted // GROUP + 1
    found, read = groups_read(lake, "visit = 105 AND detector = 1", monkeypatch)
    assert found == 1 and read <= 2
    found, read = groups_read(lake, "exposure = 106", monkeypatch)
    assert found == DETECTORS and read <= 2
    assert groups_read(lake, "visit = 999", monkeypatch) == (0, 0)


def test_rows_without_a_known_place_come_last(tmp_path: Path) -> None:
    site = make(tmp_path / "lake", 1, DETECTORS).central
    add_visits(site, range(100, 104))
    given = rows(site, "run", [103, 109, 102, 101])
    both = table([given.slice(0, 1).to_pylist()[0] | {"visit": None}, *given.to_pylist()])
    found = arrangement.arranged(site, "dataset", both)
    assert found.num_rows == 13 and sorted(map(str, found.to_pylist())) == sorted(map(str, both.to_pylist()))
    assert {*found["visit"][-4:].to_pylist()} == {109, None}
    assert len(pc.run_end_encode(found["visit"].slice(0, 9).combine_chunks()).values) == 3


@pytest.mark.parametrize("seed", range(5))
def test_a_listing_says_which_row_groups_have_a_value(seed: int) -> None:
    chance = np.random.default_rng(seed)
    files, columns = [], []
    for _ in range(4):
        values = chance.integers(-50, 50, chance.integers(1, 90)) * 10 ** chance.integers(0, 16)
        column = pa.array(values, mask=chance.random(len(values)) < 0.2)
        found = listing.listings("dataset", pa.table({"visit": column, "exposure": column}), 10)
        footer = {name.encode(): entry.encode() for name, entry in found.items()}
        columns.append(column)
        files.append((-(-len(column) // 10), listing.listing(footer, "visit")))
    listed = Listed.of(files)
    known = np.repeat([entry is not None for _, entry in files], [count for count, _ in files])
    assert known.any()
    groups = [column.slice(n, 10).drop_null().to_numpy() for column in columns for n in range(0, len(column), 10)]
    value = int(np.concatenate(groups)[0])
    for low, high in [(value, value), (value - 5, value + 5), (None, value), (value, None), (None, None), (5, -5)]:
        inside = [bool((((low is None) | (g >= (low or 0))) & ((high is None) | (g <= (high or 0)))).any()) for g in groups]
        assert (listed.may_have([(low, high)])[known] == np.array(inside)[known]).all()
        assert listed.may_have([(low, high)])[~known].all()


@pytest.mark.parametrize("entry", ["no list", "YWJj"])
def test_a_damaged_listing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entry: str) -> None:
    lake = make(tmp_path / "lake", 1, DETECTORS)
    add_visits(lake.central, range(100, 104))
    monkeypatch.setattr("lake.parquet.listings", lambda *_: {"row groups by visit": entry})
    registry.ingest(lake.central, rows(lake.central, "run", [101, 102]))
    with pytest.raises(
        DeltaError, match=r"table dataset: .* cannot be read: its list of visit is damaged: .*; restore it"
    ) as error:
        search.search(lake, ["raw"], "visit = 101", sites=["USDF"])
    assert "\n" not in str(error.value)
