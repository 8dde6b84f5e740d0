"""Look-ups without SQL answer what SQL answers, see every commit, and read little."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_lake import add_dimensions, add_raws, add_visit_tables, make, register, visit_row

from lake import datastore, delta, lookup, query, row_groups, search, upkeep
from lake.parquet import DeltaError
from lake.site import Lake, Site
from lake.where import parse

BIG = 2**40


def add(site: Site, run: str, visit: int, **values: object) -> None:
    """A dataset of its own file."""
    file = datastore.write_file(site, f"files/{run}/{visit}/{values.get('tract', 'none')}", b"x")
    row = visit_row("raw", run, visit, path=file.path, bytes=1, file_bytes=1, checksum=file.checksum, file_checksum=file.checksum)
    register(site, [row | values])


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Raws of visits 1 to 6, three detectors each, in files of four rows a row group; visit tables; another run, another commit."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lake.parquet.ROW_GROUPS", {"dataset": 4, "visit_detector_patch": 2})
        lake = make(tmp_path_factory.mktemp("lookup") / "lake", 2, 3)
        add_dimensions(lake.central, range(3, 7))
        add_raws(lake.central, range(1, 7), 3)
        add_visit_tables(lake.central, range(1, 4))
        for visit in (1, 2):
            add(lake.central, "other", visit, detector=0)
    return lake


@pytest.mark.parametrize(
    "where",
    [
        "", "visit = 3", "visit = 3 AND detector = 1 AND run = 'other'", "visit IN (1..2, 5) AND detector IN (0, 2)",
        "visit IN (5, 1)",
        "visit BETWEEN 2 AND 3", "visit BETWEEN 3 AND 2", "visit > 2 AND visit < 5", "4 <= visit", "2 > visit", "visit >= -1",
        "run = 'other'", "run IN ('other', 'none')", "band = 'r' AND instrument = 'Cam'", "band = 'é'",
        "detector = 0 AND visit = 1",
        f"detector = {BIG}", f"visit < {BIG}", "rows = 1", "dataset_type = 'raw' AND visit = 1", "(visit = 1 AND (detector = 2))",
        "tract = 9469", "tract IN (9469, 9470) AND patch = 0", "tract = 9470 AND visit = 3 AND detector = 1", "skymap = 'sky'",
        "tract = 1", "patch = 0 AND run = 'other'", "tract = 9469 AND visit = 3",
    ],
)  # fmt: skip
@pytest.mark.parametrize("types", [["raw"], ["visit_table"], ["raw", "visit_table"], None, []])
def test_sql_says_the_same(lake: Lake, where: str, types: list[str] | None, monkeypatch: pytest.MonkeyPatch) -> None:
    condition, site = parse(where), lake.central
    assert condition.demands is not None
    for columns in ((), search.REFERENCE, ("path", "visit")):
        with query.connect(lake, [site.name], site.name) as con, monkeypatch.context() as patch:
            found = search.look(con, site, types, condition, columns=columns)
            assert con.row_groups(site.name, "dataset")._version is not None, "it was looked up without SQL"
            patch.setattr(search, "look_up", lambda *_: None)
            expected = search.look(con, site, types, condition, columns=columns)
            assert found.schema.equals(expected.schema) and found.equals(expected)
            assert found.column_names == ["site", *(columns or found.column_names[1:])]


@pytest.mark.parametrize(
    "where",
    [
        "visit = 1 OR visit = 2", "NOT visit = 1", "visit != 1", "visit NOT IN (1)", "visit IN (1..5:2)", "band LIKE 'r%'",
        "patch IS NULL", "visit = exposure", "visit = 1.5", "visit.mjd_mid > 60001", "exposure.exposure = 1", "band > 'a'",
        "band BETWEEN 'a' AND 'z'", f"visit < {2**63 - 1}",
    ],
)  # fmt: skip
def test_the_rest_is_for_sql(where: str) -> None:
    assert parse(where).demands is None


def test_too_much_is_for_sql(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    with query.connect(lake, [site.name], site.name) as con:
        few, all_ = parse("visit = 3 AND run = 'other'"), parse("tract = 9469")
        expected = [search.look(con, site, ["raw"], each) for each in (few, all_)]
        for limit in ("MOST_ROWS", "MOST_FILES"):
            with monkeypatch.context() as patch:
                patch.setattr(row_groups, limit, 0)
                assert con.row_groups(site.name, "dataset").rows(all_.demands or (), ["visit"]).num_rows == 0  # type: ignore[union-attr]
                assert con.row_groups(site.name, "dataset").rows([], ["visit"]) is None
                assert [search.look(con, site, ["raw"], each) for each in (few, all_)] == expected


def test_a_column_that_is_asked_for_without_bounds_orders_the_answer(lake: Lake) -> None:
    order = ", ".join(lookup.ORDER)
    with query.connect(lake, ["USDF"], "USDF") as con:
        found = lookup.look_up(con, "USDF", ["raw"], [("detector", [(None, None)])], ["detector"])
        rows = con.execute(
            f"SELECT detector FROM dataset WHERE dataset_type = 'raw' AND detector IS NOT NULL ORDER BY {order}"
        ).fetchall()
    assert found is not None and len(set(rows)) > 1
    assert found["detector"].to_pylist() == [detector for (detector,) in rows]


def test_a_commit_is_seen_at_the_next_look_up(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", 2, 3, raws=True)
    site = lake.central
    with query.connect(lake, [site.name], site.name) as con:

        def count(where: str) -> int:
            return int(search.look(con, site, ["raw"], parse(where)).num_rows)

        assert (count("visit = 1"), count("visit = 9"), count("tract = 9470")) == (3, 0, 3)
        add_dimensions(site, range(9, 10))
        add(site, "other", 9, detector=0)
        assert (count("visit = 1"), count("visit = 9"), count("tract = 9470")) == (3, 1, 4)
        assert upkeep.compact(site, "dataset", at_least=2) == 2
        assert (count("visit = 1"), count("visit = 9"), count("tract = 9470")) == (3, 1, 4)
        for number in range(3):
            add(site, f"run{number}", 1, detector=0)
            assert count("visit = 1") == 4 + number


def test_a_log_that_was_cut_is_listed_anew(tmp_path: Path) -> None:
    site = make(tmp_path / "lake", 2, 3, raws=True).central
    known = delta.newest(site, "dataset")
    log = site.table_path("dataset") / "_delta_log"
    assert delta.newest(site, "dataset", known) == known == delta.version(site, "dataset")
    for number in range(known + 1):
        (log / f"{number:020}.json").rename(log / f"{number + known + 3:020}.json")
    assert delta.newest(site, "dataset", known) == 2 * known + 3
    assert delta.newest(site, "parked", 5) == -1


def test_only_row_groups_that_can_match_are_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site, read = lake.central, []
    plain = pq.ParquetFile.read_row_groups

    def noted(file: pq.ParquetFile, groups: list[int], **options: object) -> pa.Table:
        read.append((file.num_row_groups, groups))
        return plain(file, groups, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)
    with query.connect(lake, [site.name], site.name) as con:
        found = search.look(con, site, ["raw"], parse("visit = 1 AND detector = 2"))
    assert found.num_rows == 1 and {len(groups) for _, groups in read} == {1} and max(number for number, _ in read) > 1


def test_columns_of_one_value_are_not_read(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site, read = lake.central, set[str]()
    plain = pq.ParquetFile.read_row_groups

    def noted(file: pq.ParquetFile, groups: list[int], columns: list[str], **options: object) -> pa.Table:
        read.update(columns)
        return plain(file, groups, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", noted)
    with query.connect(lake, [site.name], site.name) as con:
        found = search.look(con, site, ["raw"], parse("instrument = 'Cam' AND visit = 1 AND detector < 2"))
    assert found.num_rows == 3 and {*found["instrument"].to_pylist()} == {"Cam"} and {*found["tract"].to_pylist()} == {None}
    assert {"dataset_id", "detector", "path"} <= read and not read & {
        "instrument",
        "run",
        "origin",
        "registered_at",
        "tract",
        "rows",
    }


@pytest.mark.parametrize(("files", "groups"), [(1, 4096), (64, 1)])
def test_few_files_stay_open(lake: Lake, files: int, groups: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site, conditions = lake.central, [parse(where) for where in ("visit = 1", "tract = 9469", "run = 'other'", "")]
    with query.connect(lake, [site.name], site.name) as con:
        expected = [search.look(con, site, None, condition) for condition in conditions]
    monkeypatch.setattr(row_groups, "OPEN_FILES", files)
    monkeypatch.setattr(row_groups, "OPEN_GROUPS", groups)
    with query.connect(lake, [site.name], site.name) as con:
        assert [search.look(con, site, None, condition) for condition in conditions] == expected
        assert len(con.row_groups(site.name, "dataset")._opened) == 1 < len(delta.files(site, "dataset"))


def test_a_file_that_was_restored_is_read_again(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", 2, 3, raws=True)
    site = lake.central
    (file,) = map(Path, delta.files(site, "dataset"))
    content = file.read_bytes()
    ids = pq.read_metadata(file).row_group(0).column(0)
    with query.connect(lake, [site.name], site.name) as con:
        expected = search.look(con, site, ["raw"], parse("visit = 1"))
        with file.open("r+b") as damaged:
            damaged.seek(ids.data_page_offset)
            damaged.write(b"?" * ids.total_compressed_size)
        with pytest.raises(DeltaError, match="cannot be read"):
            search.look(con, site, ["raw"], parse("visit = 1"))
        file.unlink()
        file.write_bytes(content)
        assert search.look(con, site, ["raw"], parse("visit = 1")).equals(expected)


def test_footprints_of_a_tract_lie_together(tmp_path: Path) -> None:
    site = make(tmp_path / "lake", 6, 3).central
    add_dimensions(site, range(7, 9))

    def tracts() -> list[list[int]]:
        return [pq.read_table(path, partitioning=None)["tract"].to_pylist() for path in delta.files(site, "visit_detector_patch")]

    before = tracts()
    assert len(before) == 2 and all(len(set(each)) > 1 and each == sorted(each) for each in before)
    assert upkeep.compact(site, "visit_detector_patch", at_least=2) == 2
    assert tracts() == [sorted(tract for each in before for tract in each)]


def test_damage_is_one_line(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", 2, 3, raws=True)
    site = lake.central
    (file,) = map(Path, delta.files(site, "dataset"))
    content = bytearray(file.read_bytes())
    ids = pq.read_metadata(file).row_group(0).column(0)
    content[ids.data_page_offset + ids.total_compressed_size - 10] ^= 1
    file.write_bytes(content)
    with pytest.raises(DeltaError, match=f"table dataset: {file} cannot be read: .*; restore it") as error:
        search.search(lake, ["raw"], "visit = 1", sites=[site.name])
    assert "\n" not in str(error.value)
    file.write_bytes(b"PAR1")
    with pytest.raises(DeltaError, match=r"table dataset: .* cannot be read"):
        search.search(lake, ["raw"], "visit = 1", sites=[site.name])


def test_columns_that_are_none_are_named(lake: Lake) -> None:
    with pytest.raises(search.SearchError, match="dataset has no column 'vist'; it has dataset_id"):
        search.search(lake, ["raw"], columns=["vist"])
