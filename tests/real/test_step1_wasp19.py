"""Step 1 on real frames: WASP-19, SARA South 0.6 m, crowded and undersampled; no WCS, no reference stars."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial import cKDTree

from pipelines import instrument, master_frames
from pipelines.image import MASK, Image
from pipelines.quantum import DatasetRef, Inputs, Quantum
from pipelines.raw import read_raw
from pipelines.step1 import calibrate, isr

DATA = Path(os.environ.get("DRP_REAL_DATA", Path(__file__).parents[3] / "shared/data")) / "sara_wasp19_raw"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason=f"real frames are not at {DATA} (set DRP_REAL_DATA)")


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """Post-ISR image, preliminary image, stars and summary of two frames four minutes apart."""
    root = tmp_path_factory.mktemp("wasp19")
    camera = instrument.load("SaraArc")
    detector = camera.detector(0)
    raw = {kind: read_raw(DATA / f"{kind}.fits", camera) for kind in ("bias", "dark", "flat")}
    bias = master_frames.master_bias([raw["bias"][0]], camera, detector)
    dark = master_frames.master_dark([raw["dark"][0]], [raw["dark"][1]["exposure_time"]], bias, camera, detector)
    flat = master_frames.master_flat([raw["flat"][0]], [raw["flat"][1]["exposure_time"]], bias, dark, camera, detector)
    for kind, master in (("bias", bias), ("dark", dark), ("flat", flat)):
        master.write(root / f"{kind}.fits")
    return [_process(root, DATA / f"raw/wasp19-00{n}.fits", camera) for n in (1, 6)]


def _process(root: Path, raw: Path, camera: instrument.Instrument):
    exposure = read_raw(raw, camera)[1]["exposure"]
    data_id = {"instrument": camera.name, "exposure": exposure, "visit": exposure, "detector": 0}
    refs = {kind: [DatasetRef(kind, kind, {}, f"{kind}.fits")] for kind in ("bias", "dark", "flat")}
    refs["raw"] = [DatasetRef("raw", "raw", data_id, str(raw))]
    post = isr.run(Quantum("q", "isr", data_id), Inputs(root, refs))["post_isr_image"]
    assert isinstance(post, Image)
    post.write(root / f"post-{exposure}.fits")
    refs["post_isr_image"] = [DatasetRef("p", "post_isr_image", data_id, f"post-{exposure}.fits")]
    made = calibrate.run(Quantum("q", "calibrate_image", data_id), Inputs(root, refs))
    summary = made["preliminary_detector_summary"].to_pylist()[0]
    return post, made["preliminary_visit_image"], made["single_visit_star"].to_pandas(), summary


def test_frames_are_clean_and_the_saturated_row_is_out(frames):
    for post, image, _, summary in frames:
        assert np.isfinite(post.image).all() and np.isfinite(image.image).all()
        assert post.bad(MASK["CR"]).mean() < 1e-3 and post.bad(MASK["SAT"]).mean() < 1e-3
        assert 40 < summary["skyBg"] < 80
        # Read noise and gain of the instrument file explain the noise of the sky.
        assert abs(summary["skyNoise"] / np.sqrt(np.median(post.variance[post.mask == 0])) - 1) < 0.15


def test_the_psf_is_that_of_a_crowded_undersampled_field(frames):
    for _, _, stars, summary in frames:
        assert summary["nPsfStar"] > 80 and 1.8 < summary["psfFwhm"] / 0.6 < 3.0
        assert summary["nSource"] > 1500 and (stars.snr[~stars.flag_bad] > 50).sum() > 250


def test_products_say_that_nothing_is_absolute(frames):
    for post, image, _, summary in frames:
        assert summary["absolute"] is False and summary["nAstrometricMatch"] == 0
        assert image.wcs == post.wcs and 24 < summary["zeroPoint"] < 26.5


def test_two_frames_agree_on_positions_and_fluxes(frames):
    one, two = (f[2][(~f[2].flag_bad) & (f[2].snr > 100)] for f in frames)
    tree = cKDTree(one[["x", "y"]].to_numpy())
    distance, i = tree.query(two[["x", "y"]].to_numpy(), distance_upper_bound=4.0)
    pair = np.isfinite(distance)
    assert pair.mean() > 0.9
    old, new = one.iloc[i[pair]], two[pair]
    terms = np.stack([np.ones(pair.sum()), old.x, old.y], axis=1)
    for axis in ("x", "y"):
        off = new[axis].to_numpy() - old[axis].to_numpy()
        off -= terms @ np.linalg.lstsq(terms, off, rcond=None)[0]
        assert 1.4826 * np.median(np.abs(off)) < 0.1  # pixels; the air moves stars by about 0.05 in 25 s
    change = -2.5 * np.log10(new.instFlux.to_numpy() / old.instFlux.to_numpy())
    change -= np.median(change)
    error = 1.0857 * np.hypot(1 / new.snr.to_numpy(), 1 / old.snr.to_numpy())
    assert 1.4826 * np.median(np.abs(change / error)) < 2.5
