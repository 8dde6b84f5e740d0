"""Finding datasets: conditions mean what they say and hide no SQL, places and times are found, errors point at the word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import NIGHT
from small_lake import add_visit_tables, insert, make, register, visit_row

from lake import collection, datastore, region, registry
from lake.search import SearchError, search
from lake.site import Lake, LakeError
from lake.where import WhereError, parse


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """Raws of visits 1 to 6 (3 detectors each), a visit table of 1 and 2; tract 9469 has the even visits."""
    lake = make(tmp_path_factory.mktemp("search") / "lake", 6, 3, raws=True)
    add_visit_tables(lake.central, range(1, 3))
    return lake


def visits(lake: Lake, where: str, *types: str, **options: Any) -> list[tuple[Any, ...]]:
    found = search(lake, types or ("raw",), where, **options)
    return sorted(set(zip(found["visit"].to_pylist(), strict=True)))


def numbers(lake: Lake, where: str, *types: str) -> list[int]:
    return [v for (v,) in visits(lake, where, *types)]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("", [1, 2, 3, 4, 5, 6]),
        ("visit = 3", [3]),
        ("instrument = 'Cam' AND visit IN (1..2, 5)", [1, 2, 5]),
        ("visit IN (1..6:2)", [1, 3, 5]),
        ("visit in (2..3) or not visit < 6", [2, 3, 6]),
        ("NOT (visit > 2 OR visit = 1)", [2]),
        ("visit NOT IN (1, 2, 3) AND detector = 0", [4, 5, 6]),
        ("4 < visit", [5, 6]),
        ("visit BETWEEN 2 AND 3", [2, 3]),
        ("visit.mjd_mid > 60004.5", [5, 6]),
        ("visit.mjd_mid >= 6.0005e4 AND visit.exposure_time = 30", [5, 6]),
        ("exposure.observation_type = 'science' AND visit = 1", [1]),
        ("exposure.observation_type = 'bias'", []),
        ("visit = exposure AND visit < 2", [1]),
        ("band != 'r'", []),
        ("band = 'r' AND physical_filter LIKE 'r%' AND patch IS NOT NULL AND visit = 1", [1]),
        ("tract = 9469", [2, 4, 6]),
        ("tract = 9469 AND patch = 0 AND detector = 1", [2, 4, 6]),
        ("tract IN (9469..9470) AND visit > 4", [5, 6]),
        ("tract = 1", []),
        (f"day_obs = {NIGHT} AND visit = -1", []),
    ],
)
def test_conditions(lake: Lake, where: str, expected: list[int]) -> None:
    assert numbers(lake, where) == expected


def test_a_place_finds_whole_visits_too(lake: Lake) -> None:
    assert numbers(lake, "tract = 9469", "visit_table") == [2]
    found = search(lake, ["raw", "visit_*"], "tract = 9470", sites=["USDF"])
    assert found.num_rows == 3 * 3 + 1 and found["tract"].null_count == found.num_rows, "rows are as registered, each once"
    assert search(lake, limit=2).num_rows == 2
    with pytest.raises(SearchError, match="no dataset type 'raw'; known: none"):
        search(lake, ["raw"], sites=["LANCS"])


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("visit =", "a number was expected at position 8, there is the end"),
        ("visit = 'x'", "a number was expected at position 9"),
        ("band = 3", "a text in quotes was expected at position 8"),
        ("vist = 3", "a column of dataset .* was expected at position 1, there is 'vist'"),
        ("visit.nothing = 3", "a column of visit"),
        ("secrets.x = 3", "a record of instrument"),
        ("visit = 3 band = 'r'", "AND, OR or the end was expected at position 11"),
        ("visit IN (1..", "a number was expected at position 14"),
        ("visit IN 1", "a list in parentheses"),
        ("visit IN (1..9:0)", "a stride of 1 or more"),
        ("visit.mjd_mid IN (1..9)", "a whole number for a range"),
        ("(visit = 1", "a closing parenthesis"),
        ("band = 'r", "a closing quote was expected at position 8"),
        ("visit = 1; DROP TABLE dataset", "there is ';'"),
        ("visit = 1 -- x", "AND, OR or the end"),
        ("visit NOT 3", "IN, LIKE or BETWEEN"),
        ("visit = band", "a column of the same kind"),
        ("visit = 99999999999999999999", "a smaller number"),
        ("(" * 60 + "visit = 1", "at most 50 levels"),
    ],
)
def test_errors_show_the_place(lake: Lake, where: str, said: str) -> None:
    with pytest.raises(WhereError, match=said) as error:
        search(lake, ["raw"], where)
    assert "\n" not in str(error.value)


def test_texts_stay_texts(lake: Lake) -> None:
    for text in ("r' OR '1'='1", "r''; DROP TABLE dataset; --", "$w0", "\\", "é"):
        condition = parse("band = '{}'".format(text.replace("'", "''")))
        assert condition.params == {"w0": text} and condition.sql == '"d"."band" = $w0'
        assert numbers(lake, "band = '{}'".format(text.replace("'", "''"))) == []


def test_what_is_unknown_is_named(lake: Lake) -> None:
    for wrong, said in (
        ({"types": ["rw"]}, "no dataset type 'rw'; known: flat, raw, visit_table"),
        ({"collections": ["x"]}, "no collection 'x'"),
        ({"sites": ["X"]}, "no site 'X'"),
        ({"find_first": True}, "need collections"),
    ):
        with pytest.raises(LakeError, match=said):
            search(lake, **wrong)  # type: ignore[arg-type]


def test_collections_and_times(tmp_path: Path) -> None:
    lake = make(tmp_path / "lake", 2, 1)
    site = lake.central
    for run in ("new", "old"):
        rows = []
        for visit in (1, 2) if run == "old" else (1,):
            file = datastore.write_file(site, f"files/{run}/{visit}", b"x")
            row = visit_row("raw", run, visit, detector=0, path=file.path, bytes=1, file_bytes=1)
            rows.append(row | {"checksum": file.checksum, "file_checksum": file.checksum})
        register(site, rows)
    collection.register_collections(
        site, [("new", "RUN", None), ("old", "RUN", None), ("all", "CHAINED", "new,old"), ("calib", "CALIBRATION", None)]
    )
    assert [r["run"] for r in search(lake, ["raw"], collections=["all"]).to_pylist()] == ["new", "old", "old"]
    first = search(lake, ["raw"], collections=["all"], find_first=True)
    assert [(r["visit"], r["run"], r["collection"]) for r in first.to_pylist()] == [(1, "new", "new"), (2, "old", "old")]
    assert search(lake, ["raw"], "visit = 1", ["all"], find_first=True)["run"].to_pylist() == ["new"]
    collection.certify(site, "calib", first.slice(0, 1), 60000.0, 60010.0)
    collection.certify(site, "calib", first.slice(1, 1), 60010.0, 60020.0)
    for mjd, visit in ((60000.0, [1]), (60010.0, [2]), (60020.0, [])):
        assert search(lake, ["raw"], collections=["calib"], mjd=mjd)["visit"].to_pylist() == visit
    with pytest.raises(SearchError, match="depends on the time"):
        search(lake, collections=["calib"])


SQUARE = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]


def square(ra: float, dec: float, side: float = 1.0) -> np.ndarray:
    """Corners of a footprint of ``side`` degrees at the equator."""
    return region.vectors([ra + side * x for x, _ in SQUARE], [dec + side * y for _, y in SQUARE])


def test_regions_touch() -> None:
    footprints = np.stack([square(0, 0), square(3, 0), square(359.9, 0.2), square(0, 89.9)])
    reversed_ = footprints[:, ::-1]
    for corners in (footprints, reversed_):
        for text, expected in (
            ("0,0,0.1", [True, False, True, False]),
            ("1.5,0,0.99", [False, False, False, False]),
            ("1.5,0,1.01", [True, True, False, False]),
            ("0.6,0.6,0.1", [False, False, False, False]),
            ("0.6,0.6,0.15", [True, False, False, False]),
            ("180,90,0.5", [False, False, False, True]),
            ("20,0,30", [True, True, True, False]),
        ):
            assert region.circle(text).overlaps(corners).tolist() == expected, text
        for text, expected in (
            ("-0.1,-0.1,0.1,-0.1,0,0.1", [True, False, True, False]),
            ("1,-3,2,-3,2,3,1,3", [False, False, False, False]),
            ("-10,-10,10,-10,10,10,-10,10", [True, True, True, False]),
            ("0.4,-3,2,0,0.4,3", [True, False, False, False]),
        ):
            assert region.polygon(text).overlaps(corners).tolist() == expected, text


@pytest.mark.parametrize("text", ["1,2", "a,b,c", "0,91,1", "0,0,0", "0,0,nan", "0,0,50"])
def test_circles_that_are_none(text: str) -> None:
    with pytest.raises(LakeError, match=f"region '{text}'"):
        region.circle(text)


@pytest.mark.parametrize("text", ["0,0,1,1", "0,0,1,0,0.2,0.2,0,1", "0,0,1,0,1", "0,0,100,0,100,80,0,80"])
def test_polygons_that_are_none(text: str) -> None:
    with pytest.raises(LakeError, match="region"):
        region.polygon(text)


def test_datasets_in_a_region(lake: Lake) -> None:
    site = lake.central
    rows = []
    for visit in range(1, 4):
        for detector in range(3):
            ra, dec = 10.0 * visit + detector, 0.0
            corners = {f"ra{i}": ra + x for i, (x, _) in enumerate(SQUARE)} | {
                f"dec{i}": dec + y for i, (_, y) in enumerate(SQUARE)
            }
            rows.append({"instrument": "Cam", "visit": visit, "detector": detector, "ra": ra, "dec": dec} | corners)
    insert(site, "visit_detector_region", rows)
    found = search(lake, ["raw"], region=region.circle("11,0,0.1"))
    assert [(r["visit"], r["detector"]) for r in found.to_pylist()] == [(1, 1)]
    found = search(lake, ["raw", "visit_table"], "visit > 1", region=region.circle("21.5,0,0.2"))
    assert sorted((r["dataset_type"], r["visit"], r["detector"] or 0) for r in found.to_pylist()) == [
        ("raw", 2, 1), ("raw", 2, 2), ("visit_table", 2, 0),
    ]  # fmt: skip
    assert registry.dataset_types(site)  # the lake is whole
