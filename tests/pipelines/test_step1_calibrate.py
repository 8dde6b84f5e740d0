"""Step 1, calibrate: sources, PSF, WCS and zero point of a synthetic detector whose truth is known."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial import cKDTree
from step1_sky import (
    CAMERA,
    DATA_ID,
    NOMINAL_ZERO_POINT,
    SIDE,
    Scene,
    expose,
    inputs,
    run_calibrate,
    run_isr,
    write_references,
)  # fmt: skip

import schemas
from pipelines.image import MASK, Image
from pipelines.quantum import Quantum
from pipelines.step1 import calibrate


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibrate")
    scene = Scene()
    expose(scene, root)
    run_isr(root)
    count = write_references(scene, root, motion=80.0)
    return root, scene, count, *run_calibrate(root, count)


def matched(scene: Scene, stars: pa.Table, snr: float = 50.0):
    """Rows of good, isolated sources above a signal to noise, and the true star of each."""
    rows = stars.to_pandas()
    tree = cKDTree(np.stack([scene.x, scene.y], axis=1))
    distance, star = tree.query(rows[["x", "y"]].to_numpy())
    pairs = tree.query_pairs(9.0, output_type="ndarray")
    near = np.zeros(len(scene.x))
    np.add.at(near, pairs.ravel(), scene.flux[pairs[:, ::-1].ravel()])
    alone = near[star] < 0.02 * scene.flux[star]
    good = (distance < 0.5) & alone & ~rows.flag_bad.to_numpy() & (rows.snr.to_numpy() > snr)
    return rows[good], star[good]


def test_tables_are_as_declared(made):
    _, _, _, _, stars, _ = made
    whole = schemas.conform("single_visit_star", stars.append_column("site", pa.array(["A"] * stars.num_rows)))
    assert whole.num_rows == stars.num_rows > 150
    ids = stars["sourceId"].to_numpy()
    assert (ids == DATA_ID["visit"] * 2**24 + 5 * 2**16 + np.arange(len(ids))).all()
    assert (np.diff(stars["y"].to_numpy()) >= 0).all()


def test_psf_flux_and_position_are_unbiased(made):
    _, scene, _, _, stars, _ = made
    rows, star = matched(scene, stars)
    assert len(rows) > 50
    ratio = rows.instFlux.to_numpy() / scene.flux[star]
    assert abs(np.median(ratio) - 1.0) < 0.005
    bright = rows.snr.to_numpy() > 200
    assert abs(np.median(ratio[bright]) - np.median(ratio[~bright])) < 0.003
    pull = (ratio - np.median(ratio)) * scene.flux[star] / rows.instFluxErr.to_numpy()
    assert 0.7 < 1.4826 * np.median(np.abs(pull)) < 1.5
    assert abs(np.median(rows.apFlux.to_numpy() / scene.flux[star]) - 1.0) < 0.01
    for axis, truth in (("x", scene.x), ("y", scene.y)):
        off = rows[axis].to_numpy() - truth[star]
        assert abs(np.median(off)) < 0.01
        assert 0.7 < 1.4826 * np.median(np.abs(off / rows[f"{axis}Err"].to_numpy())) < 1.5
        phase = truth[star] - np.rint(truth[star])
        assert abs(np.polyfit(phase[bright], off[bright], 1)[0]) < 0.01  # nothing pulls towards pixel centres


def test_flux_does_not_follow_the_psf_over_the_detector(made):
    _, scene, _, _, stars, _ = made
    rows, star = matched(scene, stars, 100.0)
    slope = np.polyfit(rows.x.to_numpy() / SIDE - 0.5, rows.instFlux.to_numpy() / scene.flux[star], 1)[0]
    assert abs(slope) < 0.005  # the width of the PSF varies by 6 %


def test_psf_is_that_of_the_stars(made):
    _, scene, _, image, stars, summary = made
    assert image.psf.fwhm(30, 200) < image.psf.fwhm(370, 200)
    assert summary["nPsfStar"] > 30 and stars["psf_candidate"].to_numpy().sum() == summary["nPsfStar"]
    assert abs(summary["psfFwhm"] / CAMERA.pixel_scale / (1.04 * scene.fwhm) - 1.0) < 0.05
    assert abs(summary["psfStarDeltaE1Median"]) < 0.01


def test_most_stars_are_found_and_few_others(made):
    _, scene, _, _, stars, summary = made
    tree = cKDTree(np.stack([stars["x"].to_numpy(), stars["y"].to_numpy()], axis=1))
    inside = (scene.x > 4) & (scene.y > 4) & (scene.x < SIDE - 5) & (scene.y < SIDE - 5) & (np.abs(scene.x - 77) > 4)
    snr = scene.flux / np.sqrt(scene.flux + 20 * summary["skyNoise"] ** 2)
    found = tree.query(np.stack([scene.x, scene.y], axis=1))[0] < 1.5
    assert found[inside & (snr > 12)].mean() > 0.93
    good = stars.filter(pa.compute.invert(stars["flag_bad"]))
    truth = cKDTree(np.stack([scene.x, scene.y], axis=1))
    distance = truth.query(np.stack([good["x"].to_numpy(), good["y"].to_numpy()], axis=1))[0]
    assert (distance > 2.0).mean() < 0.03


def test_wcs_and_zero_point_come_from_the_references(made):
    _, scene, _, image, stars, summary = made
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, SIDE - 1, 7), np.linspace(0, SIDE - 1, 7)))
    px, py = image.wcs.sky_to_pixel(*scene.sky_position(x, y))
    assert np.sqrt(np.mean((px - x) ** 2 + (py - y) ** 2)) < 0.03
    assert np.hypot(px - x, py - y).max() < 0.1
    assert abs(summary["zeroPoint"] - scene.zero_point) < 0.006
    assert 0.001 < summary["zeroPointErr"] < 0.006
    assert summary["absolute"] and summary["nAstrometricMatch"] > 50 and summary["nPhotometricMatch"] > 30
    assert summary["astromOffsetStd"] < 0.2 * CAMERA.pixel_scale
    assert image.meta["zeroPoint"] == summary["zeroPoint"] and image.meta["absolute"] is True
    ra, dec = image.wcs.pixel_to_sky(stars["x"].to_numpy(), stars["y"].to_numpy())
    assert np.allclose(ra, stars["coord_ra"].to_numpy()) and np.allclose(dec, stars["coord_dec"].to_numpy())


def test_sky_noise_and_depth_describe_the_image(made):
    _, scene, _, image, _, summary = made
    empty = image.image[(image.mask == 0)]
    spread = 1.4826 * np.median(np.abs(empty - np.median(empty)))
    assert abs(np.median(empty)) < 0.1 * spread
    assert abs(summary["skyNoise"] / np.sqrt(np.median(image.variance[image.mask == 0])) - 1.0) < 0.03
    assert abs(summary["skyBg"] / scene.sky - 1.0) < 0.01
    assert np.isfinite(image.image).all() and image.bad(MASK["DETECTED"]).mean() < 0.3


def test_proper_motion_brings_old_references_to_the_epoch(tmp_path, made):
    root = made[0]
    old = Scene(epoch=made[1].epoch - 40 * 365.25)
    for path in root.glob("*.fits"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    count = write_references(old, tmp_path, motion=400.0)  # 16 arcsec, 3 pixels, in 40 years
    _, _, summary = run_calibrate(tmp_path, count)
    assert summary["absolute"] and summary["nAstrometricMatch"] > 50


def test_saturated_and_edge_sources_are_flagged(made):
    _, scene, _, _, stars, _ = made
    rows = stars.to_pandas()
    star = rows.iloc[np.argmin(np.hypot(rows.x - scene.x[0], rows.y - scene.y[0]))]
    assert star.flag_saturated and star.flag_bad
    assert abs(star.instFlux / scene.flux[0] - 1.0) < 0.1  # from its wings
    assert rows.flag_edge[(rows.x < 1) | (rows.y < 1) | (rows.x > SIDE - 2) | (rows.y > SIDE - 2)].all()
    assert rows.flag_edge[np.abs(rows.x - 77) < 1].all()  # the bad column
    assert not rows.psf_candidate[rows.flag_bad].any()


def test_same_bytes_every_time(made, tmp_path):
    root, _, count, image, stars, _ = made
    again, rows, _ = run_calibrate(root, count)
    image.write(tmp_path / "a.fits")
    again.write(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    assert rows.equals(stars)


def test_without_references_the_pointing_and_nominal_zero_point_stand(made):
    _, scene, _, _, _, _ = made
    image, stars, summary = run_calibrate(made[0])
    assert image.wcs == scene.nominal and not summary["absolute"]
    assert summary["zeroPoint"] == pytest.approx(NOMINAL_ZERO_POINT) and summary["zeroPointErr"] is None
    assert summary["nAstrometricMatch"] == 0 and summary["astromOffsetStd"] is None and stars.num_rows > 150


def test_references_of_another_field_are_not_believed(made, tmp_path):
    root = made[0]
    for path in root.glob("*.fits"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    _, _, summary = run_calibrate(tmp_path, write_references(Scene(seed=77), tmp_path))
    assert not summary["absolute"] and summary["zeroPoint"] == pytest.approx(NOMINAL_ZERO_POINT)


def test_a_few_references_correct_the_pointing_and_keep_the_distortion(made, tmp_path):
    root, scene = made[0], made[1]
    for path in root.glob("*.fits"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    mag = np.sort(scene.zero_point - 2.5 * np.log10(scene.flux))
    image, _, summary = run_calibrate(tmp_path, write_references(scene, tmp_path, limit=mag[14]))
    assert summary["absolute"] and 6 <= summary["nAstrometricMatch"] <= 14
    x, y = image.wcs.sky_to_pixel(*scene.sky_position(np.array([100.0]), np.array([300.0])))
    assert np.hypot(x - 100, y - 300)[0] < 0.5


@pytest.mark.parametrize("stars", [0, 2])
def test_a_frame_with_next_to_no_stars_gives_a_whole_answer(tmp_path, stars):
    scene = Scene(stars=3, cosmic_rays=0)
    scene.x, scene.y, scene.flux = scene.x[1 : 1 + stars] % 300 + 50, scene.y[1 : 1 + stars] % 300 + 50, np.full(stars, 2e4)
    expose(scene, tmp_path)
    run_isr(tmp_path)
    image, rows, summary = run_calibrate(tmp_path)
    assert rows.num_rows - stars in (0, 1, 2) and summary["nPsfStar"] == 0 and not summary["absolute"]
    assert summary["magLim"] > 15 and summary["psfFwhm"] > 0 and np.isfinite(image.image).all()
    assert np.isfinite(image.psf.stamps).all()


def test_clouds_show_in_the_zero_point(tmp_path):
    scene = Scene(seed=3, zero_point=NOMINAL_ZERO_POINT - 2.0)
    scene.flux = scene.flux * 10 ** (-0.4 * 1.7)
    expose(scene, tmp_path)
    run_isr(tmp_path)
    _, _, summary = run_calibrate(tmp_path, write_references(scene, tmp_path))
    assert summary["absolute"] and abs(summary["zeroPoint"] - scene.zero_point) < 0.01


def test_close_pairs_are_told_apart(tmp_path):
    scene = Scene(seed=5, stars=150, cosmic_rays=0)
    n = 30
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(np.arange(6), np.arange(5)), axis=-1).reshape(-1, 2) * 60.0 + 50
    angle = rng.uniform(0, 2 * np.pi, n)
    x = grid[:, 0] + rng.uniform(-0.5, 0.5, n)
    y = grid[:, 1] + rng.uniform(-0.5, 0.5, n)
    pair_x, pair_y = x + 5.0 * np.cos(angle), y + 5.0 * np.sin(angle)  # 1.9 FWHM apart
    far = np.min(np.hypot(scene.x[:, None] - x, scene.y[:, None] - y), axis=1) > 14
    scene.x = np.concatenate([scene.x[far], x, pair_x])
    scene.y = np.concatenate([scene.y[far], y, pair_y])
    scene.flux = np.concatenate([scene.flux[far], np.full(n, 40000.0), np.full(n, 20000.0)])
    expose(scene, tmp_path)
    run_isr(tmp_path)
    _, stars, _ = run_calibrate(tmp_path)
    distance, row = cKDTree(np.stack([stars["x"].to_numpy(), stars["y"].to_numpy()], axis=1)).query(
        np.stack([np.concatenate([x, pair_x]), np.concatenate([y, pair_y])], axis=1)
    )
    usable = ~(stars["flag_edge"].to_numpy() | stars["flag_saturated"].to_numpy())[row]
    assert (distance < 0.3)[usable].mean() > 0.95
    ratio = stars["instFlux"].to_numpy()[row] / np.repeat([40000.0, 20000.0], n)
    both = usable & (distance < 0.3)
    assert abs(np.median(ratio[both & (np.arange(2 * n) < n)]) - 1) < 0.01
    assert abs(np.median(ratio[both & (np.arange(2 * n) >= n)]) - 1) < 0.02


def test_a_fully_masked_detector_fails_by_name(tmp_path):
    plane = np.zeros((SIDE, SIDE), np.float32)
    image = Image(plane, plane + 1, np.full((SIDE, SIDE), MASK["BAD"], np.int16), Scene().nominal)
    image.meta = {"instrument": "DemoCam", "visit": 1, "detector": 5, "mjd_mid": 6e4, "band": "r", "zeroPoint": 25.0}
    image.write(tmp_path / "post_isr_image.fits")
    with pytest.raises(calibrate.CalibrateError, match="DemoCam visit 26010100001 detector 5: no usable pixel"):
        calibrate.run(Quantum("q", "calibrate_image", DATA_ID), inputs(tmp_path))
