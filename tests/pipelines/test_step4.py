"""Step 4 on a synthetic sky: recovery of transients, artefacts, fluxes, edges of the template, determinism."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from difference_sky import (
    SIZE,
    TRACT,
    ZERO_POINT,
    Site,
    Sources,
    Visit,
    coadd,
    detector_wcs,
    field_sources,
    make_visits,
    moffat_psf,
    observe,
)

import schemas
from pipelines import skymap
from pipelines.image import MASK, Image
from pipelines.photometry import forced, nanojansky_per_electron
from pipelines.quantum import NoWork, Payload, Quantum
from pipelines.step4 import forced as forced_photometry
from pipelines.step4 import reprocess, subtract
from pipelines.step4.template import template_for

FWHMS = [2.4, 2.6, 2.8, 3.0, 3.2]


def quantum(task: str, visit: int = 0, tract: int = TRACT, **config: object) -> Quantum:
    data_id = {"instrument": "TestCam", "visit": visit, "detector": 4, "skymap": "demo_rings", "tract": tract}
    return Quantum("q", task, data_id, config)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, list[Visit], list[Sources]]:
    """Five visits of seeing 2.4 to 3.2 pixels with 30 transients each, and the template of the same visits without them."""
    site = Site(tmp_path_factory.mktemp("site"))
    visits, constant = make_visits(FWHMS), field_sources(1, 400, 60)
    rng = np.random.default_rng(5)
    transients = []
    for visit in visits:
        ra, dec = visit.wcs.pixel_to_sky(*rng.uniform(15, SIZE - 15, (2, 30)))
        transients.append(Sources(ra, dec, rng.uniform(1.5e4, 8e4, 30)))
        site.put("visit_image", observe(visit, constant, transients[-1]), visit=visit.number, detector=4)
    for patch in coadd([observe(v, constant) for v in visits], [v.psf for v in visits]):
        site.put("template_coadd", patch, tract=TRACT, patch=patch.meta["patch"])
    return site, visits, transients


def subtracted(site: Site, visit: int, **config: object) -> dict[str, Payload]:
    inputs = site.inputs("visit_image", "template_coadd", visit=visit, tract=TRACT)
    return subtract.run(quantum("subtract_images", visit, **config), inputs)


def test_transients_are_found_with_few_artefacts_and_true_fluxes(
    sky: tuple[Site, list[Visit], list[Sources]],
) -> None:
    site, visits, transients = sky
    found = expected = false = 0
    pulls = []
    for visit, truth in zip(visits, transients, strict=True):
        result = subtracted(site, visit.number)
        image, table = result["difference_image"], result["dia_source"]
        assert isinstance(image, Image) and isinstance(table, pa.Table)
        x, y = visit.wcs.sky_to_pixel(truth.ra, truth.dec)
        fluxes = forced(image, x, y)
        usable = ~fluxes.flag & (truth.flux > 10 * fluxes.error)
        distance = np.hypot(table["x"].to_numpy()[:, None] - x, table["y"].to_numpy()[:, None] - y)
        expected += usable.sum()
        found += (distance.min(axis=0) < 1.5)[usable].sum()
        false += (distance.min(axis=1) >= 1.5).sum()
        clean = ~table["flag_bad"].to_numpy() & ~table["isDipole"].to_numpy() & (distance.min(axis=1) < 1.5)
        assert np.hypot(*(np.sort(distance[clean], axis=1)[:, :1].T, 0)).mean() < 0.25
        pulls.append(((fluxes.flux - truth.flux) / fluxes.error)[usable])
        assert not table["flag_bad"].to_numpy()[distance.min(axis=1) < 1.5].mean() > 0.1
    assert expected > 100
    assert found >= 0.97 * expected
    assert false <= 3 * len(visits)
    assert abs(np.median(np.concatenate(pulls))) < 0.25
    assert 0.7 < 1.4826 * np.median(np.abs(np.concatenate(pulls))) < 1.3


def test_blank_sky_of_the_difference_is_white_and_its_errors_are_right(
    sky: tuple[Site, list[Visit], list[Sources]],
) -> None:
    site, visits, _ = sky
    rng = np.random.default_rng(3)
    for visit in (visits[0], visits[-1]):  # science convolved, template convolved
        image = subtracted(site, visit.number)["difference_image"]
        assert isinstance(image, Image)
        fluxes = forced(image, *rng.uniform(20, SIZE - 20, (2, 2000)))
        good = ~fluxes.flag
        scatter = 1.4826 * np.median(np.abs((fluxes.flux / fluxes.error)[good]))
        assert scatter == pytest.approx(1.0, abs=0.1)
        pixels = np.where(image.bad() | ~np.isfinite(image.image), 0, image.image / np.sqrt(image.variance))
        pixels[np.abs(pixels) > 4] = 0
        assert abs((pixels[:, 1:] * pixels[:, :-1]).mean() / (pixels**2).mean()) < 0.25


def test_image_and_sources_are_written_the_same_twice(sky: tuple[Site, list[Visit], list[Sources]], tmp_path: Path) -> None:
    site, _, _ = sky
    first, second = subtracted(site, 1), subtracted(site, 1)
    for name, result in (("a", first), ("b", second)):
        result["difference_image"].write(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert first["dia_source"].equals(second["dia_source"])
    back = Image.read(tmp_path / "a")
    assert back.meta["tract"] == TRACT and back.psf is not None and back.meta["BUNIT"] == "nJy"


def test_dia_source_has_the_declared_columns_and_unique_ids(sky: tuple[Site, list[Visit], list[Sources]]) -> None:
    site, visits, _ = sky
    tables = [subtracted(site, v.number)["dia_source"] for v in visits]
    site_column = pa.array(["X"] * tables[0].num_rows)
    schemas.check("dia_source", schemas.conform("dia_source", tables[0].append_column("site", site_column)).schema)
    ids = np.concatenate([t["diaSourceId"].to_numpy() for t in tables])
    assert len(np.unique(ids)) == len(ids) and (ids > 0).all()
    assert (subtract.source_ids(1, 2, 3, 1)[0] >> 12) != (subtract.source_ids(1, 2, 4, 1)[0] >> 12)
    with pytest.raises(ValueError, match="visit 7 detector 4 failed"):
        subtract.source_ids(7, 4, TRACT, 5000)


def test_sources_of_another_tract_are_left_to_it(sky: tuple[Site, list[Visit], list[Sources]]) -> None:
    site, _, _ = sky
    inputs = site.inputs("visit_image", "template_coadd", visit=2)
    neighbour = subtract.run(quantum("subtract_images", 2, TRACT + 1), inputs)
    assert neighbour["dia_source"].num_rows == 0
    assert neighbour["dia_source"].column_names == [c for c in schemas.table("dia_source").arrow.names if c != "site"]


def test_no_template_is_no_work(sky: tuple[Site, list[Visit], list[Sources]]) -> None:
    site, _, _ = sky
    with pytest.raises(NoWork):
        subtract.run(quantum("subtract_images", 2), site.inputs("visit_image", visit=2))


def test_where_the_template_ends_there_is_no_data_and_no_source(
    sky: tuple[Site, list[Visit], list[Sources]], tmp_path: Path
) -> None:
    site, _, _ = sky
    science = site.inputs("visit_image", visit=2).image("visit_image")
    whole = site.inputs("template_coadd", patch=4).image("template_coadd")
    assert whole.wcs is not None and whole.psf is not None
    cut = 220
    part = Image(
        whole.image[:, cut:], whole.variance[:, cut:], whole.mask[:, cut:], whole.wcs.shifted(cut, 0), whole.psf,
        whole.meta | {"x0": int(whole.meta["x0"]) + cut},
    )  # fmt: skip
    half = Site(tmp_path)
    half.put("template_coadd", part, tract=TRACT, patch=4)
    half.put("visit_image", science, visit=2, detector=4)
    result = subtract.run(quantum("subtract_images", 2), half.inputs("visit_image", "template_coadd"))
    image, table = result["difference_image"], result["dia_source"]
    hidden = image.bad(MASK["NO_DATA"])
    assert 0.3 < hidden.mean() < 0.7
    assert np.isnan(image.image[hidden]).all() and np.isfinite(image.image[~hidden]).all()
    x, y = table["x"].to_numpy().round().astype(int), table["y"].to_numpy().round().astype(int)
    assert table.num_rows > 5
    assert not hidden[y, x].any()


def test_without_stars_the_psf_models_match_the_images() -> None:
    """Transients only, on an empty sky: the kernel comes from the models alone."""
    nothing = Sources(np.zeros(0), np.zeros(0), np.zeros(0))
    visits = make_visits([2.5, 3.1])
    patches = coadd([observe(v, nothing) for v in visits], [v.psf for v in visits])
    for visit in visits:
        ra, dec = visit.wcs.pixel_to_sky(np.array([100.0, 250.3]), np.array([80.0, 300.6]))
        science = observe(visit, nothing, Sources(ra, dec, np.array([1e5, 2e5])))
        template = template_for(patches, science.wcs, science.shape, 25)
        difference = subtract.subtract(science, template, subtract.Settings(kernel_stars=0))
        assert difference.kernel.stars == 0
        assert difference.kernel.at(200.0, 200.0).sum() == pytest.approx(1.0, abs=0.01)
        flux = forced(difference.image, *visit.wcs.sky_to_pixel(ra, dec)).flux
        np.testing.assert_allclose(flux, [1e5, 2e5], rtol=0.08)


def test_an_unknown_setting_is_named(sky: tuple[Site, list[Visit], list[Sources]]) -> None:
    with pytest.raises(ValueError, match="kernel_ordr"):
        subtracted(sky[0], 0, kernel_ordr=1)


def test_reprocessing_calibrates_and_levels(tmp_path: Path) -> None:
    visit = Visit(3, detector_wcs(3.0, -4.0, 0.02), moffat_psf(2.7, 0.03, 0.05, 3))
    stars = field_sources(2, 200, 0)
    nanojansky = observe(visit, stars)
    scale = float(nanojansky_per_electron(ZERO_POINT))
    y, x = np.mgrid[:SIZE, :SIZE] / SIZE
    electrons = Image(
        (nanojansky.image / scale + 8.0 + 6.0 * x - 4.0 * y).astype(np.float32),
        (nanojansky.variance / scale**2).astype(np.float32), nanojansky.mask, detector_wcs(0.0, 0.0, 0.0), visit.psf,
        nanojansky.meta | {"BUNIT": "electron", "zeroPoint": 25.0},
    )  # fmt: skip
    site = Site(tmp_path)
    site.put("preliminary_visit_image", electrons, visit=3, detector=4)
    row = {
        "day_obs": 20260101, "instrument": "TestCam", "band": "r", "physical_filter": "r_test", "visit": 3, "detector": 4,
        "mjd_mid": 61003.0, "exposure_time": 30.0, "zeroPoint": ZERO_POINT, "photo_source": "global", "photometric": True,
        "wcs": visit.wcs.to_json(), "wcs_source": "fit", "absolute": True, "site": "TEST",
        **{f"{c}{n}": 0.0 for c in ("ra", "dec") for n in ("", 0, 1, 2, 3)},
    }  # fmt: skip
    summary = schemas.conform("visit_summary", pa.Table.from_pylist([row]))
    site.put("visit_summary", summary, day_obs=20260101, visit=3)
    inputs = site.inputs("preliminary_visit_image", "visit_summary")
    image = reprocess.run(quantum("reprocess_visit_image", 3), inputs)["visit_image"]
    assert isinstance(image, Image)
    assert image.wcs == visit.wcs and image.meta["BUNIT"] == "nJy" and image.meta["zeroPoint"] == ZERO_POINT
    px, py = visit.wcs.sky_to_pixel(stars.ra, stars.dec)
    alone = np.hypot(px[:, None] - px, py[:, None] - py) + np.eye(len(px)) * 99 > 12
    measured = forced(image, px, py)
    bright = (stars.flux > 2e5) & alone.all(axis=1) & ~measured.flag
    assert bright.sum() > 5
    assert np.median(measured.flux[bright] / stars.flux[bright]) == pytest.approx(1.0, abs=0.01)
    sky = (np.abs(image.image) < 3 * np.sqrt(image.variance)) & ~image.bad()
    tilt = [np.median(image.image[part][sky[part]]) for part in (np.s_[:100, :100], np.s_[-100:, -100:])]
    assert np.abs(tilt).max() < 1.5 * scale  # of a tilt of 10 electrons and an offset of 8
    with pytest.raises(NoWork):
        reprocess.run(Quantum("q", "reprocess_visit_image", {"visit": 3, "detector": 5}), inputs)


def test_forced_photometry_covers_the_detector(sky: tuple[Site, list[Visit], list[Sources]]) -> None:
    site, visits, _ = sky
    visit = visits[2]
    difference = subtracted(site, 2)["difference_image"]
    local = Site(site.root / "forced", {"visit_image": []})
    local.put("visit_image", site.inputs("visit_image", visit=2).image("visit_image"), visit=2, detector=4)
    local.put("difference_image", difference, visit=2, detector=4, tract=TRACT)
    stars = field_sources(1, 400, 0)
    inside = skymap.load("demo_rings").in_inner_region(TRACT, stars.ra, stars.dec)
    n = len(stars.ra)
    fixed = {"tract": TRACT, "skymap": "demo_rings", "patch": 0, "x": 0.0, "y": 0.0, "refBand": "r", "site": "TEST"}
    objects = schemas.conform("object", pa.table({
        **{k: [v] * n for k, v in fixed.items()}, "objectId": np.arange(n), "coord_ra": stars.ra, "coord_dec": stars.dec,
        "detect_isPrimary": inside, "flag_edge": np.zeros(n, bool), "flag_saturated": np.zeros(n, bool),
    }))  # fmt: skip
    local.put("object", objects, tract=TRACT, patch=0)
    inputs = local.inputs("visit_image", "difference_image", "object")
    start = time.perf_counter()
    table = forced_photometry.run(quantum("forced_photometry", 2), inputs)["object_forced_source"]
    assert time.perf_counter() - start < 2.0
    assert table.column_names == [c for c in schemas.table("object_forced_source").arrow.names if c != "site"]
    x, y = visit.wcs.sky_to_pixel(stars.ra, stars.dec)
    on = inside & (x > -0.5) & (x < SIZE - 0.5) & (y > -0.5) & (y < SIZE - 0.5)
    assert table["objectId"].to_pylist() == np.flatnonzero(on).tolist()
    good = ~table["flag_bad"].to_numpy()
    ratio = table["psfFlux"].to_numpy() / stars.flux[table["objectId"].to_numpy()]
    bright = good & (stars.flux[table["objectId"].to_numpy()] > 2e5)
    assert np.median(ratio[bright]) == pytest.approx(1.0, abs=0.02)
    pull = table["psfDiffFlux"].to_numpy()[good] / table["psfDiffFluxErr"].to_numpy()[good]
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.4
