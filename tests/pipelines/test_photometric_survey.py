"""The catalogue-level survey simulator: tables as declared, and a truth that its own measurements agree with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import schemas
from pipelines import instrument, skymap
from pipelines.simulate import atmosphere
from pipelines.simulate.mosaic import Mosaic
from pipelines.simulate.photometric_conditions import Design, conditions
from pipelines.simulate.photometric_presets import airmass, cadence, dense, fgcm_like, night_of
from pipelines.simulate.photometric_survey import INPUTS, Survey, simulate, tiles
from pipelines.wcs import SkyWcs

CLEAN = {"variables": 0.0, "wrong_matches": 0.0}


def small(**changes: object) -> Design:
    return replace(fgcm_like(visits=48, density=400.0), **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def survey() -> Survey:
    return simulate(small(**CLEAN))


def deviations(survey: Survey) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Calibrated minus natural magnitude of each observation, its photon error, colour, and row of (visit, detector)."""
    rows, truth = survey.tables["isolated_star_association"], survey.truth
    key = truth["visit"].to_numpy() * 1000 + truth["detector"].to_numpy()
    order = np.argsort(key)
    pair = order[np.searchsorted(key[order], rows["visit"].to_numpy() * 1000 + rows["detector"].to_numpy())]
    flux, error = rows["instFlux"].to_numpy(), rows["instFluxErr"].to_numpy()
    joined = rows.select(["isolatedStarId", "band"]).append_column("row", pa.array(np.arange(rows.num_rows)))
    joined = joined.join(survey.stars, ["isolatedStarId", "band"]).sort_by("row")
    off = truth["zero_point"].to_numpy()[pair] - 2.5 * np.log10(flux) - joined["mag"].to_numpy()
    return off, 1.0857 * error / flux, joined["colour"].to_numpy(), pair


def test_tables_are_as_declared(survey: Survey) -> None:
    assert set(survey.tables) == set(INPUTS)
    for name, rows in survey.tables.items():
        schemas.check(name, rows.schema)
        assert rows.num_rows > 0
        keys = rows.select([k for k in schemas.table(name).primary_key])
        assert keys.group_by(keys.column_names).aggregate([]).num_rows == rows.num_rows, name


def test_ids_and_tracts_follow_the_skymap(survey: Survey) -> None:
    stars = survey.tables["isolated_star"]
    tract, number = stars["tract"].to_numpy(), stars["isolatedStarId"].to_numpy()
    assert len(np.unique(tract)) > 1
    assert np.all(number >> 32 == tract)
    found = skymap.load("hsc_rings_v1").find_tract(stars["coord_ra"].to_numpy(), stars["coord_dec"].to_numpy())
    assert np.array_equal(found, tract)
    assert 0.07 < np.mean(stars["reserved"].to_numpy(zero_copy_only=False)) < 0.13
    counted = survey.tables["isolated_star_association"].group_by("isolatedStarId").aggregate([("visit", "count")])
    joined = stars.join(counted, "isolatedStarId")
    assert joined["nobs"].to_pylist() == joined["visit_count"].to_pylist()


def test_pixels_are_where_the_wcs_says(survey: Survey) -> None:
    rows, stars = survey.tables["isolated_star_association"], survey.tables["isolated_star"]
    first = rows.slice(rows.num_rows // 2, 1).to_pylist()[0]
    own = rows.filter((pa.compute.field("visit") == first["visit"]) & (pa.compute.field("detector") == first["detector"]))
    own = own.join(stars.select(["isolatedStarId", "coord_ra", "coord_dec"]), "isolatedStarId")
    summary = survey.tables["preliminary_visit_summary"].filter(
        (pa.compute.field("visit") == first["visit"]) & (pa.compute.field("detector") == first["detector"])
    )
    wcs = SkyWcs.from_json(summary["wcs"][0].as_py())
    x, y = wcs.sky_to_pixel(own["coord_ra"].to_numpy(), own["coord_dec"].to_numpy())
    assert np.abs(x - own["x"].to_numpy()).max() < 1e-5
    assert np.abs(y - own["y"].to_numpy()).max() < 1e-5
    centre = wcs.pixel_to_sky(0.5 * (2000 - 1), 0.5 * (2000 - 1))
    assert np.allclose(np.array(centre), [summary["ra"][0].as_py(), summary["dec"][0].as_py()], atol=1e-9)


def test_true_zero_points_leave_what_the_errors_say() -> None:
    quiet = simulate(small(**CLEAN, cloudy=0.0, floor=0.0))
    off, error, colour, _ = deviations(quiet)
    like = np.abs(colour - 0.6) < 0.03
    bright = error < 0.02  # where a magnitude's error is symmetric
    assert like[bright].sum() > 1000
    assert np.std((off / error)[like & bright]) == pytest.approx(1.0, abs=0.05)
    assert abs(np.mean((off / error)[like & bright])) < 0.15


def test_floor_and_clouds_are_beyond_the_stated_errors(survey: Survey) -> None:
    off, error, _, pair = deviations(survey)
    clear = survey.truth["photometric"].to_numpy(zero_copy_only=False)[pair]
    bright = error < 0.003
    assert np.std(off[clear & bright]) > 1.3 * np.sqrt(np.mean(error[clear & bright] ** 2))
    assert np.std(off[~clear & bright]) > np.std(off[clear & bright])
    assert np.mean(clear) == pytest.approx(0.85, abs=0.08)


def test_spectra_make_a_colour_term_in_g() -> None:
    quiet = simulate(small(**CLEAN, cloudy=0.0))
    off, error, colour, pair = deviations(quiet)
    design = small()
    air = dict(zip(design.pointings.visit.tolist(), design.pointings.airmass.tolist(), strict=True))
    x = np.array([air[v] for v in quiet.truth["visit"].to_pylist()])[pair]
    g = np.array(quiet.truth["band"].to_pylist())[pair] == "g"
    high = g & (x > 1.4)
    slope = np.polyfit(colour[high], off[high], 1, w=1.0 / error[high])[0]
    assert -0.02 < slope < -0.002  # blue stars lose more: second-order extinction
    low = np.polyfit(colour[g & (x < 1.25)], off[g & (x < 1.25)], 1, w=1.0 / error[g & (x < 1.25)])[0]
    assert abs(low) < abs(slope)


def test_linear_air_has_the_colour_term_it_states() -> None:
    design = small(**CLEAN, cloudy=0.0, spectra=False)
    truth = conditions(design)
    g = np.flatnonzero(design.pointings.band == "g")
    slope = (truth.chromatic[g, 0] - truth.chromatic[g, -1]) / (atmosphere.colours()[0] - atmosphere.colours()[-1])
    assert np.allclose(slope, -0.02 * (design.pointings.airmass[g] - 1.2))


def test_real_spectra_agree_with_the_standard_atmosphere() -> None:
    for band in atmosphere.BANDS:
        assert np.allclose(atmosphere.extinction(band, 1.2, 0.04, 1.0), 0.0, atol=1e-12)
        more = atmosphere.extinction(band, [1.3, 2.2], 0.04, 1.0)
        assert np.all(np.diff(more, axis=0) > 0.0)
    water = {b: float(np.ptp(atmosphere.extinction(b, 1.2, 0.04, 2.0))) for b in "grz"}
    assert water["z"] > 10 * water["r"] > 10 * water["g"]


def test_the_same_seed_gives_the_same_survey(survey: Survey) -> None:
    again = simulate(small(**CLEAN))
    assert all(again.tables[name].equals(survey.tables[name]) for name in INPUTS)
    assert again.truth.equals(survey.truth)
    other = simulate(replace(fgcm_like(seed=2, visits=48, density=400.0), **CLEAN))  # type: ignore[arg-type]
    assert not other.truth["zero_point"].equals(survey.truth["zero_point"])


def test_tiles_hold_the_whole_survey(survey: Survey) -> None:
    parts = survey.tiles()
    assert len(parts) == len(survey.tables["isolated_star"]["tract"].unique())
    for name in ("isolated_star", "isolated_star_association", "reference_star"):
        assert sum(part[name].num_rows for part in parts) == survey.tables[name].num_rows
        assert all(len(part[name]["tract"].unique()) <= 1 for part in parts)
    for part in parts:
        visits = set(part["preliminary_visit_summary"]["visit"].to_pylist())
        assert visits == set(part["isolated_star_association"]["visit"].to_pylist())


def test_tiles_drawn_one_by_one_share_the_truth(survey: Survey) -> None:
    parts = list(tiles(small(**CLEAN), 1))
    assert len(parts) > 1
    whole = {(r["visit"], r["detector"]): r["zero_point"] for r in survey.truth.to_pylist()}
    summary = {(r["visit"], r["detector"]): r["zeroPoint"] for r in survey.tables["preliminary_visit_summary"].to_pylist()}
    for part in parts:
        assert all(whole[r["visit"], r["detector"]] == r["zero_point"] for r in part.truth.to_pylist())
        rows = part.tables["preliminary_visit_summary"].to_pylist()
        assert all(summary[r["visit"], r["detector"]] == r["zeroPoint"] for r in rows)
    ids = np.concatenate([part.tables["isolated_star"]["isolatedStarId"].to_numpy() for part in parts])
    assert len(np.unique(ids)) == len(ids)
    assert sum(p.observations for p in parts) == pytest.approx(survey.observations, rel=0.001)


def test_sizes_of_the_known_surveys() -> None:
    assert simulate(fgcm_like()).observations == pytest.approx(560_000, rel=0.03)
    tenth = dense(visits=100)
    assert len(tenth.mosaic.detectors) == 189
    assert len(tenth.stars) == pytest.approx(40_000, rel=0.01)
    assert simulate(tenth).observations == pytest.approx(780_000, rel=0.03)


def test_given_zero_points_are_the_truth() -> None:
    design = small(**CLEAN, cloudy=0.0)
    given = 30.0 + 0.01 * np.arange(len(design.pointings))
    found = simulate(replace(design, zero_points=given)).truth
    of_visit = dict(zip(design.pointings.visit.tolist(), given.tolist(), strict=True))
    assert found["zero_point"].to_pylist() == [of_visit[v] for v in found["visit"].to_pylist()]


def test_mosaic_finds_its_own_centres() -> None:
    for mosaic in (Mosaic.square(15, 0.2311, corner=3), Mosaic.of(instrument.load("DemoCam"))):
        centres = mosaic.centres
        detector, x, y = mosaic.find(centres[:, 0], centres[:, 1])
        assert np.array_equal(detector, mosaic.detectors)
        assert np.allclose(x, 0.5 * (mosaic.pixels[0] - 1)) and np.allclose(y, 0.5 * (mosaic.pixels[1] - 1))
    camera = instrument.load("DemoCam")
    expected = [camera.detector(int(d)) for d in mosaic.detectors]
    assert np.allclose(centres, [[d.x_centre, d.y_centre] for d in expected])
    assert mosaic.find(np.array([5.0]), np.array([0.0]))[0].tolist() == [-1]


def test_mosaic_refuses_a_camera_that_is_none() -> None:
    camera = instrument.load("DemoCam")
    turned = replace(camera, detectors=(replace(camera.detectors[0], rotation=90.0), *camera.detectors[1:]))
    with pytest.raises(ValueError, match="DemoCam"):
        Mosaic.of(turned)


def test_a_survey_that_sees_nothing_says_so() -> None:
    design = small()
    away = replace(design, pointings=replace(design.pointings, dec=design.pointings.dec + 40.0))
    with pytest.raises(ValueError, match="no star"):
        simulate(away)


def test_airmass_and_nights() -> None:
    from astropy.coordinates import AltAz, EarthLocation, SkyCoord
    from astropy.time import Time
    from astropy.utils import iers

    mjd, ra, dec = 60218.25, np.array([310.0, 20.0, 0.0]), np.array([-60.0, -30.0, 10.0])
    with iers.conf.set_temp("auto_download", False), iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
        site = EarthLocation(lon=-70.7494, lat=-30.2446, height=2650)
        zenith = SkyCoord(ra, dec, unit="deg").transform_to(AltAz(obstime=Time(mjd, format="mjd"), location=site)).zen.radian
    assert np.allclose(airmass(mjd, ra, dec), 1.0 / np.cos(zenith), rtol=0.02)
    assert night_of(np.array([60218.001, 60218.49, 60218.51])).tolist() == [20230930, 20230930, 20231001]


def test_cadence_of_a_database(tmp_path: Path) -> None:
    import sqlite3

    columns = "observationId, observationStartMJD, fieldRA, fieldDec, rotSkyPos, filter, visitExposureTime"
    with sqlite3.connect(tmp_path / "visits.db") as con:
        con.execute(f"CREATE TABLE observations ({columns})")
        rows = [(1, 60218.2, 40.0, -30.0, 10.0, "r", 30.0), (0, 60218.1, 41.0, -30.0, 20.0, "y", 15.0)]
        con.executemany("INSERT INTO observations VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    found = cadence(tmp_path / "visits.db")
    assert found.visit.tolist() == [2023093000000, 2023093000001]
    assert found.band.tolist() == ["y", "r"]
    assert found.exposure_time.tolist() == [15.0, 30.0]
