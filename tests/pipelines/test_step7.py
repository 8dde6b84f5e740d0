"""Survey maps and metrics against small surveys whose answers are known."""

from pathlib import Path

import healsparse
import hpgeom
import numpy as np
import pytest
from step3_scene import SKYMAP, TRACT, gaussian_psf, image_inputs, table_ref

from pipelines import skymap
from pipelines.image import Image
from pipelines.quantum import DatasetRef, Inputs, NoWork, Quantum
from pipelines.step7 import maps, metrics
from pipelines.step7.config import ConfigError

NSIDE = 1024


def detector_row(visit: int, ra: float, dec: float, half: float = 0.4, **changes: object) -> dict[str, object]:
    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    row: dict[str, object] = {
        "site": "HERE", "day_obs": 20260101, "instrument": "Cam", "band": "r", "physical_filter": "r_demo",
        "visit": visit, "detector": 0, "expMidptMJD": 61000.0, "ra": ra % 360, "dec": dec, "zeroPoint": 27.0,
        "zeroPointErr": 0.002, "magLim": 20.0, "photometric": True,
    }  # fmt: skip
    for n, (dx, dy) in enumerate(corners):
        row |= {f"ra{n}": (ra + dx) % 360.0, f"dec{n}": dec + dy}
    return row | changes


def visit_row(visit: int, band: str = "r", **changes: object) -> dict[str, object]:
    row: dict[str, object] = {
        "site": "HERE", "day_obs": 20260101, "instrument": "Cam", "band": band, "physical_filter": f"{band}_demo",
        "visit": visit, "expMidptMJD": 61000.0, "expTime": 30.0, "ra": 0.0, "dec": 0.0, "photometric": True,
        "nDetector": 1, "psfFwhm": 12.0, "magLim": 20.0, "zeroPointScatter": 0.003,
    }  # fmt: skip
    return row | changes


def coadd(patch: int, variance: float) -> Image:
    """A flat coadd of one patch of the demo skymap; its left half has no data."""
    wcs = skymap.load(SKYMAP).patch_wcs(TRACT, patch)
    x0, y0, x1, y1 = skymap.load(SKYMAP).outer_box(patch)
    shape = (int(y1 - y0 + 1), int(x1 - x0 + 1))
    image = np.zeros(shape, np.float32)
    image[:, : shape[1] // 2] = np.nan
    noise = np.full(shape, variance, np.float32)
    meta = {"band": "r", "skymap": SKYMAP, "tract": TRACT, "patch": patch}
    return Image(image, noise, np.zeros(shape, np.int16), wcs, gaussian_psf(1.2, 0.0, shape), meta)


def survey_map(inputs: Inputs, root: Path, **config: object) -> healsparse.HealSparseMap:
    quantum = Quantum("s", "survey_maps", {"band": "r", "skymap": SKYMAP}, {"nside": NSIDE, **config})
    content = maps.run(quantum, inputs)["survey_map"]
    assert isinstance(content, bytes)
    (root / "map.hs").write_bytes(content)
    return healsparse.HealSparseMap.read(str(root / "map.hs"))


def test_exposures_overlap_and_wrap_at_ra_zero(tmp_path: Path) -> None:
    rows = [detector_row(1, 0.1, 0.7), detector_row(2, 359.9, 0.7, magLim=21.0), detector_row(3, 0.0, 0.7, band="g"),
            detector_row(4, 0.0, 0.7, zeroPoint=None)]  # fmt: skip
    refs = [table_ref(tmp_path, "visit_detector_table", [row], {"visit": row["visit"]}) for row in rows]
    sky = survey_map(Inputs(tmp_path, {"visit_detector_table": refs}), tmp_path)
    both, first, second = (sky.get_values_pos(ra, 0.7) for ra in (0.0, 0.45, 359.55))
    assert (both["n_exposure"], first["n_exposure"], second["n_exposure"]) == (2, 1, 1)
    assert first["depth_visits"] == pytest.approx(20.0) and second["depth_visits"] == pytest.approx(21.0)
    flux = [10 ** (-0.4 * m) for m in (20.0, 21.0)]
    assert both["depth_visits"] == pytest.approx(-2.5 * np.log10((flux[0] ** -2 + flux[1] ** -2) ** -0.5), abs=1e-4)
    assert both["coverage"] == 0 and both["depth"] == np.float32(hpgeom.UNSEEN)
    area = hpgeom.nside_to_pixel_area(NSIDE) * len(sky.valid_pixels)
    assert area == pytest.approx(0.8 * 1.0, rel=0.02)


def test_depth_and_coverage_of_coadds(tmp_path: Path) -> None:
    images = [coadd(3, 100.0), coadd(4, 400.0)]
    sky = survey_map(image_inputs(tmp_path, "deep_coadd", images), tmp_path)
    ra, dec = images[1].wcs.pixel_to_sky(300.0, 213.0)  # type: ignore[union-attr]
    value = sky.get_values_pos(float(ra), float(dec))
    expected = 31.4 - 2.5 * np.log10(5.0 * np.sqrt(400.0 * images[1].psf.noise_area(213.0, 213.0)[0]))  # type: ignore[union-attr]
    assert value["depth"] == pytest.approx(expected, abs=1e-3) and value["coverage"] == 1.0
    shape = images[0].shape
    ra, dec = images[0].wcs.pixel_to_sky(50.0, 213.0)  # type: ignore[union-attr]
    assert sky.get_values_pos(float(ra), float(dec))["n_exposure"] == sky.get_values_pos(200.0, -80.0)["n_exposure"]
    covered = hpgeom.nside_to_pixel_area(NSIDE) * sky[sky.valid_pixels]["coverage"].sum()
    # Halves of two neighbouring patches; the left patch's overlap with the right one's empty half is data.
    pixels = (shape[1] - shape[1] // 2) * shape[0] + (426 - 213) * 426
    assert covered == pytest.approx(pixels * (5 / 3600) ** 2, rel=0.02)


def test_same_map_same_bytes(tmp_path: Path) -> None:
    inputs = image_inputs(tmp_path, "deep_coadd", [coadd(4, 400.0)])
    quantum = Quantum("s", "survey_maps", {"band": "r", "skymap": SKYMAP}, {"nside": NSIDE})
    assert maps.run(quantum, inputs) == maps.run(quantum, inputs)


def test_nothing_to_map_and_wrong_settings(tmp_path: Path) -> None:
    with pytest.raises(NoWork, match="band r"):
        survey_map(Inputs(tmp_path, {}), tmp_path)
    with pytest.raises(ConfigError, match="nside must be a power of two, not 1000"):
        survey_map(Inputs(tmp_path, {}), tmp_path, nside=1000)
    with pytest.raises(ConfigError, match="unknown key 'n_side'"):
        survey_map(Inputs(tmp_path, {}), tmp_path, n_side=1024)


def measured(inputs: Inputs, **config: object) -> dict[tuple[str, str | None, int | None], tuple[float, str | None]]:
    table = metrics.run(Quantum("m", "survey_metrics", {"skymap": SKYMAP}, config), inputs)["survey_metric"]
    assert table.column_names == ["metric", "band", "tract", "value", "unit"]
    return {(r["metric"], r["band"], r["tract"]): (r["value"], r["unit"]) for r in table.to_pylist()}


def test_metrics(tmp_path: Path) -> None:
    star = {"site": "HERE", "tract": TRACT, "skymap": SKYMAP, "coord_ra": 1.0, "coord_dec": 1.0, "band": "r",
            "mag": 15.0, "magErr": 0.002, "nobs": 4, "chi2": 1.44}  # fmt: skip
    stars = [star | {"isolatedStarId": n, "reserved": n < 3} for n in range(10)]
    stars.append(star | {"isolatedStarId": 10, "magErr": 0.05, "chi2": 9.0, "reserved": True})
    thing = {"site": "HERE", "tract": TRACT, "skymap": SKYMAP, "patch": 4, "coord_ra": 1.0, "coord_dec": 1.0, "x": 1.0,
             "y": 1.0, "refBand": "r", "flag_edge": False, "flag_saturated": False}  # fmt: skip
    things = [thing | {"objectId": n, "detect_isPrimary": n != 4, "refExtendedness": float(n == 1),
                       "parentObjectId": 4 if n in (2, 3) else None} for n in range(5)]  # fmt: skip
    visits = [visit_row(1), visit_row(2, psfFwhm=14.0, photometric=False, zeroPointScatter=None), visit_row(3, "g")]
    refs: dict[str, list[DatasetRef]] = {
        "visit_table": [table_ref(tmp_path, "visit_table", [row], {"visit": row["visit"]}) for row in visits],
        "visit_detector_table": [table_ref(tmp_path, "visit_detector_table", [detector_row(1, 1.0, 1.0)], {"visit": 1})],
        "standard_star": [table_ref(tmp_path, "standard_star", stars, {"skymap": SKYMAP, "tract": TRACT})],
        "object": [table_ref(tmp_path, "object", things, {"skymap": SKYMAP, "tract": TRACT, "patch": 4})],
    }
    content = maps.run(Quantum("s", "survey_maps", {"band": "r", "skymap": SKYMAP}, {"nside": NSIDE}), Inputs(tmp_path, refs))[
        "survey_map"
    ]
    assert isinstance(content, bytes)
    (tmp_path / "r.hs").write_bytes(content)
    refs["survey_map"] = [DatasetRef("s", "survey_map", {"band": "r", "skymap": SKYMAP}, "r.hs")]
    got = measured(Inputs(tmp_path, refs))
    assert got["n_visit", None, None] == (3.0, None) and got["n_visit", "r", None] == (2.0, None)
    assert got["n_visit_photometric", "r", None] == (1.0, None)
    assert got["median_seeing", "r", None] == (13.0, "arcsec")
    assert got["zero_point_scatter", "r", None] == (pytest.approx(3.0), "mmag")
    assert got["repeatability_reserved", "r", None] == (pytest.approx(2 * 2.0 * 1.2), "mmag")
    assert got["n_reserved_star", "r", None][0] == 4 and got["n_standard_star", "r", None][0] == 11
    assert got["n_object", None, TRACT][0] == 4 and got["n_object", None, None][0] == 4
    assert got["n_object_deblended", None, TRACT][0] == 2
    assert got["extended_fraction", None, None][0] == pytest.approx(0.25)
    assert got["area_exposed", "r", None][0] == pytest.approx(0.64, rel=0.05)
    assert got["median_exposures", "r", None] == (1.0, None)
    assert got["n_dia_object", None, None] == (0.0, None)
    assert ("median_depth", "r", None) not in got


def test_metrics_of_nothing_are_counts_of_zero(tmp_path: Path) -> None:
    got = measured(Inputs(tmp_path, {}))
    assert {value for value, _ in got.values()} == {0.0}
    assert all(metric.startswith("n_") for metric, _, _ in got)
    with pytest.raises(ConfigError, match="positive number"):
        measured(Inputs(tmp_path, {}), bright_error=-1)
