"""Step 1, isr: electrons, variance and masks of a synthetic detector whose truth is known."""

from __future__ import annotations

import fitsio
import numpy as np
import pytest
from step1_sky import DATA_ID, DETECTOR, SIDE, Camera, Scene, expose, inputs, run_isr, write_master

from pipelines.image import MASK, Image
from pipelines.quantum import Quantum
from pipelines.settings import SettingsError
from pipelines.step1 import isr
from pipelines.step1.saturation import long_runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("isr")
    scene = Scene()
    camera = expose(scene, root)
    return root, scene, camera, run_isr(root)


def test_electrons_and_variance_are_right(made):
    _, _, camera, image = made
    good = image.mask == 0
    pull = (image.image - camera.electrons)[good] / np.sqrt(image.variance[good])
    assert abs(pull.mean()) < 0.03
    assert abs(pull.std() - 1.0) < 0.03
    sky = good & (camera.electrons < 1510)
    assert abs((image.image - camera.electrons)[sky].mean()) < 1.0


def test_every_pixel_is_a_number(made):
    _, _, _, image = made
    assert np.isfinite(image.image).all() and np.isfinite(image.variance).all() and (image.variance > 0).all()


def test_defects_and_dead_flat_are_masked_and_filled(made):
    _, _, camera, image = made
    assert image.bad(MASK["BAD"])[camera.defects].all()
    assert image.bad(MASK["BAD"])[200, 200]
    assert image.bad(MASK["INTERPOLATED"])[camera.defects].all()
    assert abs(np.median((image.image - camera.electrons)[:, 77])) < 20  # 30,000 electrons too much before


def test_saturated_stars_and_their_trails_are_masked(made):
    _, _, camera, image = made
    full = camera.electrons * camera.flat > DETECTOR.gain * 60000
    assert full.sum() > 10 and image.bad(MASK["SAT"])[full & ~camera.defects].all()
    trail = image.bad(MASK["BLEED"])
    assert trail[300:360, 50].sum() > 15 and not trail[:, 60:].any()
    assert image.bad(MASK["SAT"]).sum() < 400


def test_cosmic_rays_are_found_and_stars_are_left_alone(made):
    _, scene, camera, image = made
    searched = ~image.bad(MASK["BAD"] | MASK["SAT"] | MASK["BLEED"])
    hit = (camera.cosmic / camera.flat > 8 * np.sqrt(image.variance)) & searched
    assert hit.sum() > 30
    assert image.bad(MASK["CR"])[hit].mean() > 0.85
    wrong = image.bad(MASK["CR"]) & (camera.cosmic == 0)
    for _ in range(2):  # pixels beside a track are taken with it
        near = np.pad(camera.cosmic > 0, 1)
        camera_near = np.lib.stride_tricks.sliding_window_view(near, (3, 3)).any(axis=(2, 3))
        wrong &= ~camera_near
    light = scene.light()
    assert light[wrong].sum() < 1e-3 * light.sum()


def test_result_is_a_function_of_the_inputs(made, tmp_path):
    root, _, _, image = made
    image.write(tmp_path / "a.fits")
    isr.run(Quantum("q", "isr", DATA_ID), inputs(root))["post_isr_image"].write(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    again = Image.read(tmp_path / "a.fits")
    assert again.meta["band"] == "r" and again.meta["visit"] == DATA_ID["visit"] and again.wcs == image.wcs
    assert again.meta["BUNIT"] == "electron" and again.meta["absolute"] in (False, "F", 0)


def test_missing_and_unfit_inputs_are_named(made, tmp_path):
    root, _, _, _ = made
    quantum = Quantum("q", "isr", DATA_ID)
    with pytest.raises(isr.IsrError, match=r"exposure 26010100001 detector 5: 0 valid flat frames.*certify"):
        isr.run(quantum, inputs(root, without=("flat",)))
    with pytest.raises(isr.IsrError, match="0 raws"):
        isr.run(quantum, inputs(root, without=("raw",)))
    isr.run(quantum, inputs(root, without=("dark", "defects")))
    for name in ("raw", "bias"):
        (tmp_path / f"{name}.fits").write_bytes((root / f"{name}.fits").read_bytes())
    write_master(tmp_path, "flat", np.ones((SIDE, SIDE + 24)), np.zeros((SIDE, SIDE + 24)))
    with pytest.raises(isr.IsrError, match=r"flat flat.fits is 424 x 400 pixels.*400 x 400: trim"):
        isr.run(quantum, inputs(tmp_path))
    other = Quantum("q", "isr", DATA_ID | {"detector": 4})
    with pytest.raises(isr.IsrError, match="says it is detector 5"):
        isr.run(other, inputs(root))


def test_masters_with_nan_only_cost_those_pixels(made, tmp_path):
    root, _, camera, _ = made
    for name in ("raw", "bias", "dark", "flat", "defects"):
        (tmp_path / f"{name}.fits").write_bytes((root / f"{name}.fits").read_bytes())
    flat = camera.flat.copy()
    flat[10:12, 10:12] = np.nan
    write_master(tmp_path, "flat", flat, np.zeros_like(flat))
    image = run_isr(tmp_path)
    assert np.isfinite(image.image).all()
    assert image.bad(MASK["BAD"])[10:12, 10:12].all() and not image.bad(MASK["BAD"])[13, 13]


def test_a_detector_without_a_good_pixel_is_masked_not_lost(tmp_path):
    masters = isr.Masters(*(_image(v) for v in (0.0, 0.0)))
    raw = np.full(DETECTOR.raw_shape, 1000, np.uint16)
    image = isr.reduce(raw, 10.0, DETECTOR, masters, isr.IsrConfig())
    assert image.bad(MASK["BAD"]).all() and np.isfinite(image.image).all() and np.isfinite(image.variance).all()


def _image(value: float) -> Image:
    plane = np.full((SIDE, SIDE), value, np.float32)
    return Image(plane, np.zeros_like(plane), np.zeros(plane.shape, np.int16))


def test_overscan_ignores_a_charged_row():
    raw = np.full(DETECTOR.raw_shape, 1000, np.uint16)
    raw[:, 400:] = 1000 + np.arange(SIDE)[:, None] // 100
    raw[50, 400:] = 9000
    level = isr.overscan(raw, DETECTOR, 3)
    assert abs(level[50] - 1000) < 1.0 and abs(level[399] - 1003) < 1.0


def test_wrong_settings_are_named(made):
    root, _, _, _ = made
    with pytest.raises(SettingsError, match=r"config\.isr: unknown setting 'sigma'"):
        isr.run(Quantum("q", "isr", DATA_ID, {"sigma": 3}), inputs(root))
    with pytest.raises(SettingsError, match="cosmic_rays must be like True"):
        isr.run(Quantum("q", "isr", DATA_ID, {"cosmic_rays": 1}), inputs(root))


def test_long_runs_finds_columns_not_rows():
    flags = np.zeros((20, 20), bool)
    flags[3:15, 4] = True
    flags[7, :] = True
    flags[18:, 9] = True
    runs = long_runs(flags, 10)
    assert runs.sum() == 12 and runs[3:15, 4].all()


def test_unreadable_raw_is_named(made, tmp_path):
    root, _, _, _ = made
    for name in ("bias", "flat"):
        (tmp_path / f"{name}.fits").write_bytes((root / f"{name}.fits").read_bytes())
    (tmp_path / "raw.fits").write_bytes(b"not a fits file")
    with pytest.raises(ValueError, match=r"raw\.fits"):
        isr.run(Quantum("q", "isr", DATA_ID), inputs(tmp_path))
    data = fitsio.read(str(root / "raw.fits"))
    assert data.shape == DETECTOR.raw_shape and isinstance(made[2], Camera)
