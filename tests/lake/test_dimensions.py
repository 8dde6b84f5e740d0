"""Dimension records: added once, never changed, and taken along with the datasets that need them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from batches import add_visits, datasets, filled, images, make, of_tract, put

import schemas
from lake import delta, dimensions
from lake.dimensions import DimensionError
from lake.site import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return make(tmp_path / "lake")


def keys(site: Site, table: str) -> list[tuple[Any, ...]]:
    return [tuple(row[c] for c in schemas.table(table).primary_key) for row in dimensions.read(site, table).to_pylist()]


def test_records_are_added_once(site: Site) -> None:
    rows = [{"instrument": "Cam", "physical_filter": f, "band": "g"} for f in ("g1", "g2", "g1")]
    assert put(site, "physical_filter", rows) == 2
    version = delta.version(site, "physical_filter")
    assert put(site, "physical_filter", rows) == 0 and delta.version(site, "physical_filter") == version
    assert keys(site, "physical_filter") == [("Cam", "g1"), ("Cam", "g2"), ("Cam", "r_cam")]
    assert dimensions.read(site, "physical_filter", "band = 'r'").num_rows == 1


def test_a_record_is_never_changed(site: Site) -> None:
    new = {"instrument": "Cam", "physical_filter": "i_cam", "band": "i"}
    with pytest.raises(DimensionError, match="physical_filter instrument Cam physical_filter r_cam: band is 'r' and 'z'"):
        put(site, "physical_filter", [new, {"instrument": "Cam", "physical_filter": "r_cam", "band": "z"}])
    with pytest.raises(DimensionError, match=r"band is '[iy]' and '[iy]'"):
        put(site, "physical_filter", [new, new | {"band": "y"}])
    assert keys(site, "physical_filter") == [("Cam", "r_cam")], "nothing of a refused call is added"


def test_nulls_and_nans_are_values(site: Site) -> None:
    row = {"instrument": "Cam", "exposure": 50, "day_obs": 1, "observation_type": "dark", "exposure_time": float("nan")}
    assert put(site, "exposure", [row]) == 1
    assert put(site, "exposure", [row]) == 0
    with pytest.raises(DimensionError, match=r"exposure 50: airmass is None and 1.5"):
        put(site, "exposure", [row | {"airmass": 1.5}])


def test_wrong_tables_and_columns_are_refused(site: Site) -> None:
    with pytest.raises(DimensionError, match="'dataset' is not a dimension table; they are instrument"):
        put(site, "dataset", [{}])
    with pytest.raises(schemas.SchemaError, match="'band' is missing"):
        put(site, "physical_filter", [{"instrument": "Cam", "physical_filter": "x"}])


def test_records_travel_with_the_datasets_that_need_them(site: Site) -> None:
    other = site.lake.site("B")
    put(site, "visit_detector_region", [filled("visit_detector_region", instrument="Cam", visit=v, detector=0) for v in (1, 2)])
    put(site, "patch", [filled("patch", skymap="sky", tract=t, patch=p) for t in (9469, 9470) for p in (0, 1)])
    put(site, "visit_detector_patch", [
        filled("visit_detector_patch", instrument="Cam", visit=v, detector=0, skymap="sky", tract=t, patch=0)
        for v, t in ((1, 9469), (2, 9470))
    ])  # fmt: skip
    moved = datasets(images(site, [1]))
    new = dimensions.copy(site, other, moved)
    assert new == {
        "instrument": 1, "detector": 2, "physical_filter": 1, "exposure": 1, "visit": 1, "visit_detector_region": 1, "skymap": 1,
        "tract": 1, "patch": 2, "visit_detector_patch": 1,
    }  # fmt: skip
    assert keys(other, "visit") == [("Cam", 1)] and keys(other, "tract") == [("sky", 9469)]
    assert sum(dimensions.copy(site, other, moved).values()) == 0
    row = of_tract("isolated_star", 9470, path="x", bytes=0, checksum="", file_bytes=0, file_checksum="", origin="A")
    new = dimensions.copy(site, other, datasets([row]))
    assert {table: n for table, n in new.items() if n} == {"tract": 1, "patch": 2}
    for table in dimensions.TABLES:
        assert set(keys(other, table)) <= set(keys(site, table))


def test_a_contradiction_between_sites_is_named(site: Site) -> None:
    other = site.lake.site("B")
    put(other, "instrument", [{"instrument": "Cam", "detector_count": 99}])
    with pytest.raises(DimensionError, match="site B: instrument instrument Cam: detector_count is 99 and 2"):
        dimensions.copy(site, other, datasets(images(site, [1])))


def test_many_records_are_one_commit(site: Site) -> None:
    version = delta.version(site, "visit")
    add_visits(site, range(100, 5100))
    assert delta.version(site, "visit") == version + 1
    with delta.connect() as con:
        rows = dimensions.relation(con, site, "visit", "visit >= 5000").to_arrow_table()
    assert rows["visit"].to_pylist() == list(range(5000, 5100))
    assert isinstance(rows, pa.Table)
