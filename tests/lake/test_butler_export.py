"""Datasets go out as a Butler's export: what is in it, what never is, and that half an export is none."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import butler_lake
import numpy as np
import pyarrow.parquet as pq
import pytest

import schemas
from lake import delta, slices
from lake.butler import ButlerError, document, export_butler, import_butler, region, text
from lake.outcome import Outcomes
from lake.selection import Selection
from lake.site import Lake, LakeError, Site

#: ConvexPolygon of (10, 0), (10.1, 0), (10.1, 0.1), (10, 0.1) deg as lsst-sphgeom 30.2026.4000 encodes it.
SQUARE = (
    "70171c818c8b83ef3f89730b7e1a3ac63f0000000000000000ea8a19d00c81ef3f0893afb86a72c63f0000000000000000"
    "101212ab0981ef3f967e187b6872c63f1feb251070985c3f85e139678883ef3f395b1346183ac63f1feb251070985c3f"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return butler_lake.make(tmp_path_factory.mktemp("lake") / "lake").central


def test_regions_are_encoded_as_sphgeom_does() -> None:
    ra, dec = np.array([[10, 10.1, 10.1, 10]]), np.array([[0, 0, 0.1, 0.1]])
    (ours,) = region.encode(ra, dec).to_pylist()
    theirs = bytes.fromhex(SQUARE)
    assert ours[:1] == theirs[:1] and len(ours) == len(theirs)
    assert struct.unpack("<12d", ours[1:]) == pytest.approx(struct.unpack("<12d", theirs[1:]), abs=3e-16)
    (other_way,) = region.encode(ra[:, ::-1], dec[:, ::-1]).to_pylist()
    back = region.corners([other_way])[0]
    assert {tuple(np.round(c, 9)) for c in back} == {(10, 0), (10.1, 0), (10.1, 0.1), (10, 0.1)}


def test_what_is_not_a_convex_polygon_has_no_region() -> None:
    ra = np.array([[0.0, 0, 0, 0], [10, 10.1, 10.05, 10.02], [359.9, 0.1, 0.1, 359.9], [0, 90, 180, 270]])
    dec = np.array([[0.0, 0, 0, 0], [0, 0, 0.02, 0.1], [-1, -1, 1, 1], [89, 89, 89, 89]])
    assert [r is None for r in region.encode(ra, dec).to_pylist()] == [True, True, False, False]
    assert np.isnan(region.corners([None, b"c123", bytes.fromhex(SQUARE)[:-24]])).all()


def test_a_visit_is_the_hull_of_its_detectors() -> None:
    ra = np.array([10.0, 10.1, 10.1, 10, 10.2, 10.3, 10.3, 10.2])
    dec = np.array([0, 0, 0.1, 0.1, 0, 0, 0.1, 0.1])
    (hull,) = region.hulls(ra, dec, np.zeros(8, np.int64)).to_pylist()
    corners = {tuple(np.round(c, 9)) for n in (4, 5, 6) if len(hull) == 1 + 24 * n for c in region.corners([hull], n)[0]}
    assert {(10, 0), (10.3, 0), (10.3, 0.1), (10, 0.1)} <= corners
    assert region.hulls(np.zeros(4), np.zeros(4), np.zeros(4, np.int64)).to_pylist() == [None]


def test_numbers_and_text_are_read_back_as_they_were(tmp_path: Path) -> None:
    import yaml

    with delta.cursor() as con:
        rows = con.sql(
            "SELECT * FROM (VALUES (1e-7::DOUBLE, 30.0::DOUBLE, 'no'), (1e22, 0.1, 'a: \"b\" # é'), (NULL, 'inf', NULL)) t(a, b, c)"
        )
        written = "".join(text.rows(rows))
    assert yaml.safe_load(written) == [
        {"a": 1e-7, "b": 30.0, "c": "no"},
        {"a": 1e22, "b": 0.1, "c": 'a: "b" # é'},
        {"a": None, "b": None, "c": None},
    ]


def test_an_export_has_everything_that_its_datasets_need(site: Site, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = export_butler(site, tmp_path / "out", progress=lambda n, total: seen.append((n, total)))
    assert done.datasets == {"deep_coadd": 1, "flat": 2, "isolated_star": 1, "raw": 4, "software": 1, "visit_table": 2}
    assert seen[-1] == (11, 11) and done.files == 11
    found = document.read(tmp_path / "out")
    assert {name: len(r) for name, r in found.records.items()} == {k: v for k, v in done.records.items() if v}
    assert found.collections["c/all"] == ("CHAINED", ("c/good", "c/step1", "c/calib"))
    assert list(found.collections)[-1] == "c/all", "a chain comes after what it holds"
    assert len(found.tags["c/good"]) == 2
    assert sorted((b is None, e is None) for _, b, e, _ in found.validity) == [(False, False), (True, True)]
    for dataset in found.datasets:
        assert (tmp_path / "out" / dataset.path).is_file()
    (star,) = [d for d in found.datasets if d.dataset_type == "isolated_star"]
    table = pq.read_table(tmp_path / "out" / star.path, partitioning=None)
    assert table["tract"].to_pylist() == [9469] * 3 and table["site"].to_pylist() == ["A"] * 3


def test_what_is_chosen_decides_what_goes_along(site: Site, tmp_path: Path) -> None:
    def exported(name: str, **chosen: object) -> document.Document:
        export_butler(site, tmp_path / name, Selection(**chosen), transfer="none")  # type: ignore[arg-type]
        return document.read(tmp_path / name)

    tagged = exported("tagged", collections=["c/good"])
    assert [d.data_id["detector"] for d in tagged.datasets] == [1, 1]
    assert set(tagged.collections) == {"c/good", "c/step1"} and "tract" not in tagged.records
    assert all(Path(d.path).is_absolute() for d in tagged.datasets)
    calib = exported("calib", collections=["c/calib"])
    assert {d.dataset_type for d in calib.datasets} == {"flat"} and len(calib.validity) == 2
    assert "exposure" not in calib.records
    one = exported("one", types=["raw", "visit_table"], where="visit = 2")
    assert {d.dataset_type for d in one.datasets} == {"raw", "visit_table"} and len(one.records["visit"]) == 1
    assert not one.tags["c/good"][1:]


@pytest.mark.parametrize(
    ("chosen", "said"),
    [
        ({"where": "colour = 'red'"}, "condition .*colour"),
        ({"types": ["nothing"]}, "no dataset type 'nothing'"),
        ({"collections": ["nowhere"]}, "no collection 'nowhere'"),
    ],
)
def test_what_cannot_be_chosen_is_named(site: Site, tmp_path: Path, chosen: dict[str, object], said: str) -> None:
    with pytest.raises(LakeError, match=said):
        export_butler(site, tmp_path / "out", Selection(**chosen))  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_a_damaged_file_ends_an_export_that_then_is_none(tmp_path: Path) -> None:
    site = butler_lake.make(tmp_path / "lake").central
    with delta.cursor() as con:
        paths = con.sql(f"SELECT dataset_type, path FROM ({delta.select(site, 'dataset')}) ORDER BY ALL").fetchall()
    for kind in ("raw", "isolated_star"):
        path = site.path(next(p for k, p in paths if k == kind))
        whole = path.read_bytes()
        at = len(whole) // 2
        if kind == "isolated_star":
            column = pq.read_metadata(path).row_group(0).column(0)
            at = (column.dictionary_page_offset or column.data_page_offset) + column.total_compressed_size - 2
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(LakeError, match=r"damaged|checksum"):
            export_butler(site, tmp_path / f"out-{kind}", Selection(types=[kind]))
        assert not list((tmp_path / f"out-{kind}").glob("*export.yaml*"))
        path.write_bytes(whole)


def test_an_export_is_not_written_over_another(site: Site, tmp_path: Path) -> None:
    export_butler(site, tmp_path / "out", Selection(types=["software"]), transfer="link")
    (linked,) = (tmp_path / "out").rglob("software*.json")
    assert linked.stat().st_nlink == 2
    with pytest.raises(ButlerError, match="is there already"):
        export_butler(site, tmp_path / "out")


def test_a_frame_without_filter_and_back(tmp_path: Path) -> None:
    """A Butler wants a filter for every exposure: ours without one has the filter "unknown" there, and none again here."""
    site = butler_lake.make(tmp_path / "lake").central
    row = {"dataset_type": "raw", "run": "c/step1", "instrument": "Cam", "exposure": 3, "detector": 0, "day_obs": butler_lake.NIGHT}
    butler_lake.register(site, [row])
    export_butler(site, tmp_path / "out", Selection(where="exposure = 3"))
    found = document.read(tmp_path / "out")
    assert found.records["exposure"][0]["physical_filter"] == "unknown"
    assert {"instrument": "Cam", "name": "unknown", "band": "unknown"} in found.records["physical_filter"]
    other = Lake.create(tmp_path / "other", {"X": {"central": True}}).central
    butler_lake.put(
        other, "detector", [{"instrument": "Cam", "detector": d, "full_name": f"S{d}", "width": 8, "height": 9} for d in (0, 1)]
    )
    import_butler(other, tmp_path / "out")
    with delta.cursor() as con:
        (seen,) = con.sql(f"SELECT physical_filter, band, day_obs FROM ({delta.select(other, 'exposure')})").fetchall()
    assert seen == (None, None, butler_lake.NIGHT)


def test_out_and_in_again_is_the_same(site: Site, tmp_path: Path) -> None:
    export_butler(site, tmp_path / "out")
    outcomes = import_butler(site.lake.site("B"), tmp_path / "out")
    assert outcomes.ok, [o for o in outcomes.found if o.reason]
    assert_same(site, site.lake.site("B"), outcomes)


def assert_same(one: Site, other: Site, outcomes: Outcomes) -> None:
    """The same datasets with the same ids, data IDs, content, tags and validity, all of them new."""
    assert outcomes.counted("dataset", "accepted") == 11 and outcomes.counted("validity", "new") == 2
    columns = f"dataset_id, dataset_type, run, {', '.join(schemas.DATA_ID)}, rows, checksum"
    tables = {
        "dataset": columns,
        "association": "collection, dataset_id, removed",
        "certification": "collection, dataset_id, dataset_type, instrument, detector, physical_filter, valid_begin, valid_end",
    }
    with delta.cursor() as con:
        for table, listed in tables.items():
            ours, theirs = (
                con.sql(f"SELECT {listed} FROM ({delta.select(s, table)}) ORDER BY ALL").fetchall() for s in (one, other)
            )
            assert ours == theirs and ours, table
        slices_of = con.sql(
            f"SELECT dataset_id, path FROM ({delta.select(other, 'dataset')}) WHERE dataset_type = 'visit_table'"
        ).fetchall()
    for dataset_id, path in slices_of:
        assert slices.read_slice(other, path, dataset_id).num_rows == 1
    assert math.isinf(ours[-1][-1]) or any(math.isinf(row[-1]) for row in ours)
