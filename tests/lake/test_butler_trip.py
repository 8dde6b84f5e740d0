"""There and back with a real Butler: it imports our export and reads it, we import its export and have what we had."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import butler_lake
import pytest
from test_butler_export import assert_same

from benchmarks._peer import ENVIRONMENTS
from lake import delta, dimensions, slices
from lake.butler import export_butler, import_butler
from lake.butler.region import POLYGON, corners, encode
from lake.site import Lake, Site

BUTLER = ENVIRONMENTS / "butler" / "bin" / "python"
SCRIPT = Path(__file__).with_name("butler_there_and_back.py")

pytestmark = pytest.mark.skipif(not BUTLER.exists(), reason="no Butler to compare with: make peers")


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return butler_lake.make(tmp_path_factory.mktemp("lake") / "lake")


@pytest.fixture(scope="module")
def there(lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], Path]:
    """What the Butler sees after importing our export, and the directory of its own export."""
    folder = tmp_path_factory.mktemp("there")
    export_butler(lake.central, folder / "ours")
    export_butler(lake.central, folder / "in-place", transfer="none")
    command = [
        str(BUTLER),
        str(SCRIPT),
        str(folder / "ours"),
        str(folder / "in-place"),
        str(folder / "repo"),
        str(folder / "theirs"),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1]), folder / "theirs"


def datasets(site: Site) -> dict[str, dict[str, Any]]:
    with delta.cursor() as con:
        found = con.sql(f"SELECT * EXCLUDE (registered_at) FROM ({delta.select(site, 'dataset')})").to_arrow_table().to_pylist()
    return {row["dataset_id"]: row for row in found}


def test_the_butler_has_the_same_datasets(lake: Lake, there: tuple[dict[str, Any], Path]) -> None:
    ours, seen = datasets(lake.central), there[0]
    assert {d["id"] for d in seen["datasets"]} == set(ours)
    for dataset in seen["datasets"]:
        row = ours[dataset["id"]]
        assert (dataset["type"], dataset["run"]) == (row["dataset_type"], row["run"])
        assert dataset["data_id"] == {c: row[c] for c in butler_lake.DIMENSIONS[row["dataset_type"]]}
        if row["rows"] is None:
            assert seen["checksums"][dataset["id"]] == row["checksum"]
            assert seen["checksums_in_place"][dataset["id"]] == row["checksum"]


def test_the_butler_reads_tables_and_json(lake: Lake, there: tuple[dict[str, Any], Path]) -> None:
    read = there[0]["read"]
    ours = datasets(lake.central)
    assert len(read) == 4
    for dataset_id, content in read.items():
        row = ours[dataset_id]
        if row["dataset_type"] == "software":
            assert content == {"lake": "1.0", "data": [1, 2]}
        else:
            rows = slices.read_slice(lake.central, row["path"], dataset_id).to_pydict()
            assert {name: content[name] for name in rows} == rows


def test_a_butler_without_pipelines_holds_images_and_refuses_to_read_them(
    there: tuple[dict[str, Any], Path],
) -> None:
    said = there[0]["images"]
    assert len(said) == 7 and all(text.startswith("ValueError: Failure from formatter") for text in said), said


def test_tags_chains_and_validity_are_right_there(lake: Lake, there: tuple[dict[str, Any], Path]) -> None:
    ours, seen = datasets(lake.central), there[0]
    raws = {i for i, row in ours.items() if row["dataset_type"] == "raw" and row["detector"] == 1}
    assert set(seen["tagged"]) == raws and seen["chain"] == ["c/good", "c/step1", "c/calib"]
    flats = {row["detector"]: i for i, row in ours.items() if row["dataset_type"] == "flat"}
    assert {tuple(v) for v in seen["validity"]} == {(flats[0], 60000.0, 60030.123456789), (flats[1], None, None)}
    assert seen["flat_at_60020"] == flats[0] and seen["flat_at_60040"] is None


def test_regions_and_times_are_right_there(lake: Lake, there: tuple[dict[str, Any], Path]) -> None:
    seen = there[0]
    assert seen["polygons"] == len(seen["regions"]) == 4
    rows = dimensions.read(lake.central, "visit_detector_region")
    records = {(row["visit"], row["detector"]): row for row in rows.to_pylist()}
    for visit, detector, encoded in seen["regions"]:
        row = records[visit, detector]
        (given,) = corners([bytes.fromhex(encoded)])
        assert [tuple(c) for c in given] == [pytest.approx((row[f"ra{i}"], row[f"dec{i}"]), abs=1e-12) for i in range(4)]
    assert seen["detectors_in_visit"] == 4, "the region of a visit is around its detectors"
    assert seen["overlaps"] == [[1, d, 9469, 2] for d in (0, 1)], "the Butler's spatial join finds the patch"
    for exposure in dimensions.read(lake.central, "exposure", "exposure < 3").to_pylist():
        begin, end = seen["times"][str(exposure["exposure"])]
        assert (begin + end) / 2 == pytest.approx(exposure["mjd_mid"], abs=1e-11)
        assert (end - begin) * 86400 == pytest.approx(30.0, abs=1e-5)


def test_our_polygons_are_the_butlers_to_the_last_bit_but_one(there: tuple[dict[str, Any], Path]) -> None:
    import numpy as np

    for ra, dec, theirs in there[0]["squares"]:
        (ours,) = encode(np.array([ra]), np.array([dec])).to_pylist()
        encoded = bytes.fromhex(theirs)
        assert ours[:1] == encoded[:1] == POLYGON
        assert np.frombuffer(ours, "<f8", offset=1) == pytest.approx(np.frombuffer(encoded, "<f8", offset=1), abs=3e-16)


def test_what_comes_back_is_what_went_out(lake: Lake, there: tuple[dict[str, Any], Path]) -> None:
    again = import_butler(lake.central, there[1])
    assert again.ok and again.counted("dataset", "present") == 11, [o for o in again.found if o.reason]
    outcomes = import_butler(lake.site("B"), there[1])
    assert outcomes.ok, [o for o in outcomes.found if o.reason]
    assert_same(lake.central, lake.site("B"), outcomes)
