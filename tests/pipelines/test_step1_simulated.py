"""Step 1 on exposures of the project's simulator, judged by the truth that no step may read."""

from __future__ import annotations

import fitsio
import numpy as np
import pyarrow.parquet as pq
import pytest
from scipy.spatial import cKDTree

from pipelines.image import Image
from pipelines.quantum import DatasetRef, Inputs, Quantum
from pipelines.simulate import calibrations, catalogues, electronics, exposure, optics, sky, survey
from pipelines.step1 import calibrate, isr

PLAN = survey.plan(
    {
        "name": "step1", "instrument": "DemoCam", "skymap": "demo_rings", "tracts": [9469],
        "simulate": {"seed": 5, "bands": ["g", "r", "i"], "epochs": 2, "nights": [20260910, 20260912]},
    }
)  # fmt: skip


@pytest.fixture(scope="module", params=[(0, 4), (3, 8)], ids=["centre", "corner"])
def made(request, tmp_path_factory):
    """Visit, detector and what step 1 makes of them."""
    visit, detector = PLAN.visits[request.param[0]], request.param[1]
    root = tmp_path_factory.mktemp("simulated")
    raw, header = exposure.render(PLAN, visit, detector)
    fitsio.write(str(root / "raw.fits"), raw, header=[{"name": k, "value": v} for k, v in header.items()])
    calibrations.master_bias(PLAN, detector).write(root / "bias.fits")
    calibrations.master_dark(PLAN, detector).write(root / "dark.fits")
    calibrations.master_flat(PLAN, visit.epoch, visit.physical_filter, detector).write(root / "flat.fits")
    calibrations.defects(PLAN, detector).write(root / "defects.fits")
    data_id = {"instrument": "DemoCam", "exposure": visit.visit, "visit": visit.visit, "detector": detector}
    refs = {k: [DatasetRef(k, k, data_id, f"{k}.fits")] for k in ("raw", "bias", "dark", "flat", "defects")}
    refs["reference_star"] = []
    for tract in sky.tracts_near(PLAN, visit.ra, visit.dec, 1.3):
        path = root / f"tables/site=A/tract={tract}/stars.parquet"
        path.parent.mkdir(parents=True)
        stars = catalogues.reference_stars(PLAN, tract, "A").drop_columns(["site", "tract"])
        pq.write_table(stars, path)
        sky_id = {"skymap": "demo_rings", "tract": tract}
        relative = str(path.relative_to(root))
        refs["reference_star"].append(DatasetRef("r", "reference_star", sky_id, relative, rows=stars.num_rows))
    post = isr.run(Quantum("q", "isr", data_id), Inputs(root, refs))["post_isr_image"]
    assert isinstance(post, Image)
    post.write(root / "post.fits")
    refs["post_isr_image"] = [DatasetRef("p", "post_isr_image", data_id, "post.fits")]
    return visit, detector, calibrate.run(Quantum("q", "calibrate_image", data_id), Inputs(root, refs))


def test_zero_point_and_wcs_against_truth(made):
    visit, detector, products = made
    summary = products["preliminary_detector_summary"].to_pylist()[0]
    truth = catalogues.truth_photo_calib(PLAN, visit, "A").to_pylist()
    zero_point = next(row["zeroPoint"] for row in truth if row["detector"] == detector)
    assert summary["absolute"] and abs(summary["zeroPoint"] - zero_point) < 0.010
    wcs = optics.true_wcs(PLAN, visit, detector)
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, 399, 9), np.linspace(0, 399, 9)))
    px, py = wcs.sky_to_pixel(*products["preliminary_visit_image"].wcs.pixel_to_sky(x, y))
    assert np.sqrt(np.mean((px - x) ** 2 + (py - y) ** 2)) < 0.05


def test_psf_fluxes_and_positions_against_truth(made):
    visit, detector, products = made
    true, x, y = exposure.on_detector(PLAN, visit, detector, margin=15)
    place = PLAN.instrument.detector(detector).to_focal_plane(x, y, PLAN.instrument.pixel_scale)
    electrons = exposure.fluxes(PLAN, visit, true, *place)
    flat = calibrations.master_flat(PLAN, visit.epoch, visit.physical_filter, detector).image
    gain = electronics.response(PLAN, visit.epoch, visit.physical_filter, detector) / flat
    stars = products["single_visit_star"].to_pandas()
    tree = cKDTree(np.stack([x, y], axis=1))
    distance, i = tree.query(stars[["x", "y"]].to_numpy())
    pairs = tree.query_pairs(10.0, output_type="ndarray")
    near = np.zeros(len(x))
    np.add.at(near, pairs.ravel(), electrons[pairs[:, ::-1].ravel()])
    good = (distance < 0.3) & (true.kind[i] != sky.GALAXY) & (near[i] < 0.02 * electrons[i])
    good &= ~stars.flag_bad.to_numpy() & (stars.snr.to_numpy() > 50)
    assert good.sum() > 25
    stars, i = stars[good], i[good]
    expected = electrons[i] * gain[np.rint(stars.y).astype(int), np.rint(stars.x).astype(int)]
    assert abs(np.median(stars.instFlux.to_numpy() / expected) - 1.0) < 0.006
    assert abs(np.median(stars.x.to_numpy() - x[i])) < 0.01 and abs(np.median(stars.y.to_numpy() - y[i])) < 0.01
    assert (stars.extendedness == 0).mean() > 0.97
