"""The final calibration of a visit: which solution is taken, fluxes in nJy, positions by the final WCS."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from step2b_sky import CAMERA, MAP, Sky, TableInputs, make, table

import schemas
from pipelines.quantum import NoWork, Quantum
from pipelines.step2d import finalize
from pipelines.wcs import SkyWcs

VISIT = 2026010100


def run(inputs: dict[str, pa.Table], context: dict[str, Any] | None = None) -> dict[str, pa.Table]:
    quantum = Quantum("q", "finalize_visit", {"instrument": "DemoCam", "visit": VISIT}, {}, context or {})
    return finalize.run(quantum, TableInputs(inputs))


def one_visit(sky: Sky) -> dict[str, pa.Table]:
    """The visit's own inputs of steps 1 and 2a, with a preliminary zero point of 27 and a depth of 20."""
    inputs = {
        name: rows.filter(pa.array(rows["visit"].to_numpy() == VISIT))
        for name, rows in sky.inputs.items()
        if "visit" in rows.column_names
    }
    summary = inputs["preliminary_visit_summary"]
    for column, value in {"zeroPoint": 27.0, "magLim": 20.0, "skyNoise": 10.0, "psfSigma": 1.2}.items():
        field = summary.schema.field(column)
        summary = summary.set_column(summary.column_names.index(column), field, pa.array([value] * summary.num_rows))
    return {**inputs, "preliminary_visit_summary": summary}


def photometry(**columns: Any) -> pa.Table:
    rows: dict[str, Any] = {
        "day_obs": [20260101] * 9, "instrument": ["DemoCam"] * 9, "band": ["g"] * 9, "physical_filter": ["g_demo"] * 9,
        "visit": [VISIT] * 9, "detector": list(range(9)), "zeroPoint": [27.1 + 0.01 * d for d in range(9)],
        "zeroPointErr": [0.002] * 9, "nStar": [100] * 9, "photometric": [True] * 9, "few_stars": [False] * 9,
        "extrapolated": [False] * 9, "absolute": [True] * 9,
    }  # fmt: skip
    return table("photo_calib", rows | columns)


def fits(sky: Sky, choices: list[tuple[int, int, int, bool]]) -> pa.Table:
    """Rows (tract, detector, stars, absolute) with the true WCS, moved by a pixel for every hundred tracts past 9400."""
    wcs = [sky.truth[VISIT, d].shifted((t - 9400) / 100.0, 0.0).to_json() for t, d, _, _ in choices]
    tract, detector, stars, absolute = zip(*choices, strict=True)
    n = len(choices)
    columns = {
        "tract": tract, "skymap": [MAP.name] * n, "visit": [VISIT] * n, "detector": detector, "band": ["g"] * n, "wcs": wcs,
        "nStar": stars, "rms": [0.1] * n, "absolute": absolute,
    }  # fmt: skip
    return table("visit_wcs", columns)


@pytest.fixture(scope="module")
def sky() -> Sky:
    return make(visits=2)


@pytest.fixture(scope="module")
def inputs(sky: Sky) -> dict[str, pa.Table]:
    return one_visit(sky)


def test_payloads_are_as_declared(sky: Sky, inputs: dict[str, pa.Table]) -> None:
    for name, rows in run({**inputs, "photo_calib": photometry(), "visit_wcs": fits(sky, [(9469, 0, 50, True)])}).items():
        schemas.check(
            name, rows.append_column("site", pa.array(["A"] * rows.num_rows)).select(schemas.table(name).arrow.names).schema
        )


def test_the_solutions_that_are_taken(sky: Sky, inputs: dict[str, pa.Table]) -> None:
    choices = [
        (9469, 0, 50, True), (9470, 0, 60, True),  # more stars
        (9469, 1, 50, True), (9470, 1, 50, True),  # the lower tract
        (9469, 2, 90, False), (9470, 2, 50, True),  # tied to the sky
    ]  # fmt: skip
    rows = run({**inputs, "photo_calib": photometry(), "visit_wcs": fits(sky, choices)})["visit_summary"].to_pylist()
    assert [row["wcs_tract"] for row in rows[:4]] == [9470, 9469, 9470, None]
    assert [row["wcs_source"] for row in rows[:4]] == ["fit", "fit", "fit", "preliminary"]
    assert {row["photo_source"] for row in rows} == {"global"}
    assert rows[3]["zeroPoint"] == pytest.approx(27.13) and rows[3]["magLim"] == pytest.approx(20.13)
    assert rows[0]["absolute"] and rows[0]["astromOffsetStd"] == 0.1


def test_fluxes_are_in_nanojansky(inputs: dict[str, pa.Table]) -> None:
    sources = run({**inputs, "photo_calib": photometry()})["source"]
    given = inputs["single_visit_star"].sort_by("sourceId")
    assert sources["sourceId"].equals(given["sourceId"])
    detector = sources["detector"].to_numpy()
    magnitude = 27.1 + 0.01 * detector - 2.5 * np.log10(given["instFlux"].to_numpy())
    assert np.allclose(31.4 - 2.5 * np.log10(sources["psfFlux"].to_numpy()), magnitude, atol=1e-9)
    ratio = sources["psfFluxErr"].to_numpy() / sources["psfFlux"].to_numpy()
    assert np.allclose(ratio, given["instFluxErr"].to_numpy() / given["instFlux"].to_numpy())


def test_positions_are_those_of_the_final_wcs(sky: Sky, inputs: dict[str, pa.Table]) -> None:
    result = run({**inputs, "visit_wcs": fits(sky, [(9400, d, 50, True) for d in range(9)])})
    for row in result["source"].to_pylist()[::50]:
        ra, dec = sky.truth[VISIT, row["detector"]].pixel_to_sky(row["x"], row["y"])
        assert (row["coord_ra"], row["coord_dec"]) == (pytest.approx(float(ra)), pytest.approx(float(dec)))


def test_corners_are_the_outer_edges_of_the_detector(inputs: dict[str, pa.Table]) -> None:
    context = {"detector": [{"instrument": "DemoCam", "detector": d, "width": 400, "height": 400} for d in range(9)]}
    for given in ({}, context):
        row = run(inputs, given)["visit_summary"].to_pylist()[4]
        wcs = SkyWcs.from_json(row["wcs"])
        x, y = wcs.sky_to_pixel(np.array([row[f"ra{k}"] for k in range(4)]), np.array([row[f"dec{k}"] for k in range(4)]))
        assert np.allclose(x, [-0.5, 399.5, 399.5, -0.5], atol=1e-6) and np.allclose(y, [-0.5, -0.5, 399.5, 399.5], atol=1e-6)
        assert CAMERA.detector(4).width == 400


def test_without_a_global_solution_the_preliminary_one_stays(inputs: dict[str, pa.Table]) -> None:
    for tables in (inputs, {**inputs, "photo_calib": photometry(nStar=[0] * 9)}):
        rows = run(tables)["visit_summary"].to_pylist()
        assert {(row["photo_source"], row["zeroPoint"], row["photometric"]) for row in rows} == {("preliminary", 27.0, False)}
        assert {row["magLim"] for row in rows} == {20.0}


def test_a_visit_of_which_nothing_is_left(inputs: dict[str, pa.Table]) -> None:
    with pytest.raises(NoWork, match=str(VISIT)):
        run({"single_visit_star": inputs["single_visit_star"]})
