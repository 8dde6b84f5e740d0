"""The simulator: a plan from configuration, images that agree with the truth written beside them, and resumption."""

from __future__ import annotations

import pickle
from concurrent.futures import Executor, Future
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lake import delta
from lake.site import Lake
from pipelines import campaign as campaigns
from pipelines import raw
from pipelines.simulate import calibrations, catalogues, electronics, exposure, optics, simulate, sky, survey, work
from pipelines.simulate.settings import SimulateError, parse
from pipelines.simulate.survey import Plan

SECTION = dict(campaigns.read("tiny").simulate or {})


def tiny(tracts: tuple[int, ...] = (9469, 9470), **changes: object) -> Plan:
    return survey.plan(
        {
            "name": "t",
            "instrument": "TinyCam",
            "skymap": "tiny_rings",
            "tracts": tracts,
            "simulate": {**SECTION, **changes},
        }
    )


class Inline(Executor):
    """Runs each job at once, in this process; ``die_after`` jobs it stops working, as a killed driver would."""

    def __init__(self, die_after: int | None = None) -> None:
        self.jobs, self.die_after = 0, die_after

    def submit(self, function, /, *arguments, **options):  # type: ignore[no-untyped-def]
        future: Future = Future()
        self.jobs += 1
        if self.die_after is not None and self.jobs > self.die_after:
            future.set_exception(KeyboardInterrupt())
        else:
            future.set_result(function(*arguments, **options))
        return future


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_plan_is_a_function_of_its_text() -> None:
    a, b = tiny(), tiny()
    assert a == b and a.visits == b.visits and pickle.loads(pickle.dumps(a)) == a  # noqa: S301
    assert tiny(seed=8) != a and tiny(seed=8).visits != a.visits
    assert len(a.visits) == 2 * 3 and len({v.visit for v in a.visits}) == 6
    assert {v.day_obs for v in a.visits} == {20260910, 20260912, 20260915}


def test_six_tract_plan() -> None:
    plan = survey.plan(survey.mapping(campaigns.read("six_tract")))
    assert len(plan.visits) == 90 and len(plan.visits) * len(plan.instrument.detectors) == 810
    cloudy = [v for v in plan.visits if not v.photometric]
    assert len(cloudy) == 18 + 4 and all(v.cloud > 0.04 for v in cloudy)
    assert {v.epoch for v in plan.visits} == {20260910, 20260915}
    assert all(v.epoch <= v.day_obs for v in plan.visits)
    assert all(1.1 < v.airmass < 2.1 and 2.2 < v.fwhm < 3.5 for v in plan.visits)
    off = [np.hypot((v.true_ra - v.ra + 180) % 360 - 180, v.true_dec - v.dec) for v in plan.visits]
    assert 0 < max(off) < plan.instrument.pointing_tolerance
    for v in plan.visits:  # the schedule obeys the clock
        assert raw.day_obs(v.mjd_mid) == v.day_obs and v.visit < raw.MAX_EXPOSURE
    times = [v.mjd_mid for v in plan.visits]
    assert times == sorted(times) and min(np.diff(times)) > 300.0 / 86400.0


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"epocs": 3}, "simulate.epocs: unknown key; known keys: .*epochs"),
        ({"epochs": "three"}, "simulate.epochs: 'three' is not a number"),
        ({"epochs": 2.5}, "simulate.epochs: 2.5 is not a whole number"),
        ({"epochs": 0}, "simulate.epochs: must be above zero"),
        ({"nights": 20260910}, "simulate.nights: 20260910 is not a list"),
        ({"nights": [20261310]}, "simulate.nights: 20261310 is not a night"),
        ({"nights": [20260912, 20260910]}, "simulate.nights: must be in order"),
        ({"cloudy_nights": [20200101]}, "simulate.cloudy_nights: 20200101 is not one of simulate.nights"),
        ({"flat_epochs": [20260912]}, "simulate.flat_epochs: no flat holds on the first night"),
        ({"bands": ["u"]}, "simulate.sky: no sky brightness for band 'u'"),
        ({"bands": ["i"]}, "simulate.bands: instrument TinyCam has no filter of band 'i'"),
        ({"sky": {"g": "dark"}}, "simulate.sky.g: 'dark' is not a number"),
        ({"tracts": [99999]}, "simulate.tracts: skymap tiny_rings has no tract 99999"),
        ("yes", "simulate: must be a mapping"),
    ],
)
def test_errors_name_the_key(section: object, message: str) -> None:
    with pytest.raises(SimulateError, match=message):
        survey.plan({"name": "t", "instrument": "TinyCam", "skymap": "tiny_rings", "tracts": (9469,), "simulate": section})


def test_numbers_may_be_whole() -> None:
    assert parse({"exposure_time": 60}).exposure_time == 60.0


# -- the sky -----------------------------------------------------------------------------------------------------------


def test_neighbours_agree_on_a_tract() -> None:
    a = sky.tract_sources(tiny(tracts=(9469,)), 9470)
    b = sky.tract_sources(tiny(tracts=(9470,)), 9470)
    steady = a.kind != sky.TRANSIENT
    assert np.array_equal(a.truth_id, b.truth_id) and np.array_equal(a.mag[steady], b.mag[steady])
    assert np.all(tiny().skymap.find_tract(a.ra[steady], a.dec[steady]) == 9470)


def test_colours_are_those_of_black_bodies() -> None:
    mag = sky.colours(np.array([3500.0, 5800.0, 12000.0]))
    assert np.all(mag[:, 1] == 0)
    assert mag[0, 0] > mag[1, 0] > mag[2, 0]  # g - r: the cooler the redder
    assert 0.2 < mag[1, 0] < 0.7


def test_counts_follow_the_settings() -> None:
    plan = tiny()
    s = plan.settings
    both = sky.join([sky.tract_sources(plan, t) for t in (9468, 9469, 9470, 9471)])
    r = both.mag[both.kind == sky.STAR, 1]
    area = 4 * 1.4876 * 1.4815
    assert np.sum(r < s.star_break) == pytest.approx(s.star_density * area, rel=0.1)
    assert np.sum(r < s.star_break - 1) == pytest.approx(s.star_density * area * 10 ** -s.star_slopes[0], rel=0.15)
    assert np.sum(both.kind == sky.VARIABLE) == 4 * s.variables


def test_real_bright_stars_replace_simulated_ones(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    ra = np.array([0.1, 359.9, 5.0, 0.2])
    stars = {"ra": ra, "dec": np.full(4, 0.7), "vt": pa.array([9.0, 10.0, 9.0, 12.5], pa.float32())}
    pq.write_table(pa.table(stars), tmp_path / "stars.parquet")
    found = sky.tract_sources(tiny(real_bright_stars=str(tmp_path / "stars.parquet")), 9469)
    bright = found.take((found.kind == sky.STAR) & (found.mag[:, 1] < 11.2))
    assert sorted(bright.ra.tolist()) == [0.1, 359.9]
    assert len(set(found.truth_id.tolist())) == len(found)


def test_isolation() -> None:
    plan = tiny()
    s = sky.tract_sources(plan, 9469)
    alone = sky.isolated(plan, s, s)
    assert 0.3 < alone.mean() < 0.95
    # Put a copy of an isolated star, four magnitudes fainter, ten arcsec beside it; six fainter does no harm.
    i = int(np.flatnonzero(alone & (s.kind == sky.STAR))[0])
    one = s.take(np.array([i]))
    near = replace(one, truth_id=one.truth_id + 1, dec=one.dec + 10 / 3600, mag=one.mag + 4.0)
    far = replace(near, mag=one.mag + 6.0)
    assert not sky.isolated(plan, one, sky.join([one, near]))[0] and sky.isolated(plan, one, sky.join([one, far]))[0]


# -- pixels ------------------------------------------------------------------------------------------------------------


def test_disc_is_an_exponential() -> None:
    w, s = np.array(optics.DISC_WEIGHTS), np.array(optics.DISC_SIGMAS)
    r = np.array([0.3, 0.5, 1.0, 1.5, 2.0, 3.0])
    inside = (w * (1 - np.exp(-(r[:, None] ** 2) / (2 * s**2)))).sum(axis=1)
    k = 1.67835
    assert w.sum() == pytest.approx(1.0, abs=1e-3)
    assert inside == pytest.approx(1 - np.exp(-k * r) * (1 + k * r), abs=0.008)


def test_flux_is_kept_and_the_psf_has_its_width() -> None:
    plan = tiny()
    visit = plan.visits[0]
    covariance = optics.psf_covariance(plan, visit, np.zeros(1), np.zeros(1))
    for x in (30.0, 30.37):
        image = np.zeros(61 * 61)
        gaussians = exposure._stars(np.array([1e5]), covariance)
        exposure._add(image, (61, 61), np.array([x]), np.array([30.0]), gaussians, 24)
        image = image.reshape(61, 61)
        assert image.sum() == pytest.approx(1e5, rel=1e-5)
        assert (image.sum(axis=0) * np.arange(61)).sum() / image.sum() == pytest.approx(x, abs=1e-4)
    image = np.zeros(401 * 401)
    narrow = covariance * 30.0**2  # the same shape on fine pixels, to measure its half maximum
    exposure._add(image, (401, 401), np.array([200.0]), np.array([200.0]), exposure._stars(np.array([1.0]), narrow), 200)
    area = (image > 0.5 * image.max()).sum()
    assert 2 * np.sqrt(area / np.pi) / 30.0 == pytest.approx(visit.fwhm, rel=0.01)


def test_render_depends_on_its_arguments_only() -> None:
    plan = tiny()
    a, header = exposure.render(plan, plan.visits[0], 1)
    exposure.render(plan, plan.visits[3], 0)
    b, _ = exposure.render(tiny(), tiny().visits[0], 1)
    assert a.dtype == np.uint16 and a.shape == plan.instrument.detector(1).raw_shape and np.array_equal(a, b)
    assert not np.array_equal(a, exposure.render(plan, plan.visits[0], 0)[0])
    assert header["SIMULATE"] is True and "synthetic" in header["ORIGIN"]
    facts = raw.header_facts(header, plan.instrument)
    visit = plan.visits[0]
    assert (facts["ra"], facts["dec"], facts["exposure"]) == (visit.ra, visit.dec, visit.visit)
    assert raw.mjd_tai(header["DATE-OBS"]) == pytest.approx(visit.mjd_mid - 50.0 / 86400.0, abs=2e-8)


def test_electrons_agree_with_the_true_zero_points() -> None:
    """After overscan, bias, dark and flat, the image is the noise-free one times the true throughput, to a few mmag."""
    plan = tiny(cosmic_rays=0.0, illumination_error=0.02, flat_epochs=[20260910, 20260912], cloudy_visits=3)
    for visit in (plan.visits[0], plan.visits[-1], next(v for v in plan.visits if not v.photometric)):
        truth = {row["detector"]: row for row in catalogues.truth_photo_calib(plan, visit, "A").to_pylist()}
        assert all(row["photometric"] == visit.photometric for row in truth.values())
        for d in plan.instrument.detectors:
            array, _ = exposure.render(plan, visit, d.detector)
            counts = array[:, :200] - np.median(array[:, 200:], axis=1, keepdims=True)
            counts = counts - calibrations.master_bias(plan, d.detector).image
            counts -= calibrations.master_dark(plan, d.detector).image * visit.exposure_time
            flat = calibrations.master_flat(plan, visit.epoch, visit.physical_filter, d.detector).image
            # The flat's slope is not the detector's zero point: take it out.
            slope_of_flat = electronics.flat_error_map(plan, visit.epoch, d.detector)
            slope_of_flat /= np.exp(electronics.flat_error(plan, visit.epoch, d.detector)[0])
            electrons = counts * d.gain / flat * slope_of_flat
            model = exposure.draw_sources(plan, visit, d.detector).astype(float)
            good = (electronics.defects(plan, d.detector) == 0) & (model < 4e4)
            good &= ~(array[:, :200] >= d.saturation).any(axis=0)  # columns into which a star bleeds
            y, x = np.indices(model.shape)[:, good] / 200.0
            weight = 1.0 / np.sqrt(model[good] + np.median(electrons) + d.read_noise**2)
            terms = [model[good]] + [x**p * y**q for p in range(4) for q in range(4 - p)]
            design = np.stack(terms, axis=1) * weight[:, None]
            slope = np.linalg.lstsq(design, electrons[good] * weight, rcond=None)[0][0]
            row = truth[d.detector]
            wanted = row["zeroPoint"] - visit.zero_point + row["cloud"]
            assert 2.5 * np.log10(slope) == pytest.approx(wanted, abs=0.003)


def test_stars_stand_where_the_true_wcs_says() -> None:
    plan = tiny()
    visit = plan.visits[1]
    image, _ = exposure.render(plan, visit, 0)
    found, x, y = exposure.on_detector(plan, visit, 0)
    bright = np.flatnonzero((found.mag[:, 1] < 12.5) & (found.mag[:, 1] > 10.5) & (x > 12) & (x < 187) & (y > 12) & (y < 187))
    assert len(bright) > 10
    offsets = []
    for i in bright:
        c, r = round(x[i]), round(y[i])
        stamp = image[r - 2 : r + 3, c - 2 : c + 3].astype(float)
        stamp -= np.median(image[r - 10 : r + 11, c - 10 : c + 11])
        yy, xx = np.mgrid[r - 2 : r + 3, c - 2 : c + 3]
        offsets.append(((stamp * xx).sum() / stamp.sum() - x[i], (stamp * yy).sum() / stamp.sum() - y[i]))
    assert np.max(np.abs(np.median(offsets, axis=0))) < 0.1
    wcs = optics.true_wcs(plan, visit, 0)
    assert catalogues.truth_wcs(plan, visit, "A")["wcs"][0].as_py() == wcs.to_json()
    nominal = plan.instrument.nominal_wcs(visit.ra, visit.dec, visit.rotation, 0)
    nx, ny = nominal.sky_to_pixel(found.ra, found.dec)
    shift = np.hypot(nx - x, ny - y)
    assert 0.05 < np.median(shift) < 3600 * plan.instrument.pointing_tolerance / plan.instrument.pixel_scale + 2


def test_bleeding_keeps_the_charge() -> None:
    charge = np.full((50, 3), 100.0, np.float32)
    charge[24:26, 1] = 5000.0
    before = charge.sum()
    electronics.bleed(charge, 1000.0)
    assert charge.max() == 1000.0 and charge.sum() == pytest.approx(before)
    assert np.all(charge[:, [0, 2]] == 100.0)
    full = np.flatnonzero(charge[:, 1] == 1000.0)
    assert 8 <= len(full) <= 12 and np.all(np.diff(full) == 1)
    off_edge = np.full((10, 1), 900.0, np.float32)
    off_edge[5] = 1e5
    electronics.bleed(off_edge, 1000.0)
    assert off_edge.max() == 1000.0  # what does not fit leaves the detector


def test_masters_have_the_noise_that_they_say() -> None:
    plan = tiny()
    flat = calibrations.master_flat(plan, 20260910, "r_tiny", 0)
    true = electronics.response(plan, 20260910, "r_tiny", 0) * electronics.flat_error_map(plan, 20260910, 0)
    true = true / electronics.flat_mean(plan, 20260910, "r_tiny")
    good = electronics.defects(plan, 0) == 0
    pull = (flat.image - true)[good] / np.sqrt(flat.variance[good])
    assert np.std(pull) == pytest.approx(1.0, abs=0.03)
    flats = [calibrations.master_flat(plan, 20260910, "r_tiny", d).image[electronics.defects(plan, d) == 0] for d in (0, 1)]
    assert np.mean(np.concatenate(flats)) == pytest.approx(1.0, abs=1e-3)
    bad = calibrations.defects(plan, 0)
    assert bad.bad().sum() == (~good).sum() > 10


# -- catalogues --------------------------------------------------------------------------------------------------------


def test_reference_stars_have_honest_errors() -> None:
    plan = tiny()
    table = catalogues.reference_stars(plan, 9469, "A")
    truth = catalogues.truth_stars(plan, 9469, [9468, 9470], "A").to_pandas().set_index("truthId")
    rows = table.to_pandas()
    true = truth.loc[rows["reference_id"]].reset_index()
    assert set(true["kind"]) == {"star", "variable"} and true["r_mag"].max() < plan.settings.reference_limit
    pull = (rows["r_mag"] - true["r_mag"]) / rows["r_magErr"]
    assert pull.std() == pytest.approx(1.0, abs=0.1) and rows["r_magErr"].between(0.005, 0.02).all()
    years = (plan.mid_survey - plan.settings.reference_epoch) / 365.25
    dec = rows["coord_dec"] + rows["pm_dec"] * years / 3.6e6
    error = np.hypot(rows["coord_decErr"] * 3.6e6, 0.05 * years)
    assert ((dec - true["coord_dec"]) * 3.6e6 / error).std() == pytest.approx(1.0, abs=0.1)
    assert np.abs(rows["pm_dec"]).max() > 10.0


def test_transients_shine_on_some_nights_only() -> None:
    plan = tiny()
    table = catalogues.truth_transients(plan, 9469, "A").to_pylist()
    assert len(table) == plan.settings.transients
    for row in table:
        lit = {v.day_obs for v in plan.visits if row["mjd_start"] <= v.mjd_mid < row["mjd_end"]}
        assert 1 <= len(lit) <= 2 < len(plan.settings.nights)
    row = table[0]
    shown = [row["truthId"] in sky.visit_sources(plan, v)[0].truth_id for v in plan.visits if v.tract == 9469]
    assert any(shown) and not all(shown)


# -- placing -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}, "B": {}})


def registered(lake: Lake) -> dict[str, int]:
    with delta.connect() as con:
        rows = delta.relation(con, lake.central, "dataset").aggregate("dataset_type, count(*) AS n").fetchall()
    return dict(rows)


def campaign(**changes: object) -> dict[str, object]:
    return {
        "name": "t", "instrument": "TinyCam", "skymap": "tiny_rings", "tracts": (9469,),
        "simulate": {**SECTION, "epochs": 2, "flat_epochs": [20260910, 20260912], **changes},
    }  # fmt: skip


def test_simulate_places_everything_once(lake: Lake) -> None:
    seen: list[tuple[int, int]] = []
    summary = simulate(lake, campaign(), Inline(), lambda done, total: seen.append((done, total)))
    assert summary.site == "A" and summary.new["raw"] == 4 and summary.new["flat"] == 4 and summary.new["bias"] == 2
    counts = registered(lake)
    assert counts == {**summary.new} and seen[-1][0] == seen[-1][1] == sum(counts.values())
    tracts = counts["reference_star"]
    assert tracts == counts["truth_star"] == counts["truth_transient"]
    with delta.connect() as con:
        for table in (
            "dataset",
            "visit",
            "visit_detector_region",
            "certification",
            "reference_star",
            "truth_wcs",
            "tract",
        ):
            delta.relation(con, lake.central, table).create_view(table)
        assert con.sql("SELECT count(*) FROM visit").fetchall() == [(2,)]
        assert con.sql("SELECT count(*) FROM visit_detector_region").fetchall() == [(4,)]
        assert con.sql("SELECT count(DISTINCT tract) = (SELECT count(*) FROM tract) FROM reference_star").fetchall() == [(True,)]
        assert con.sql("SELECT count(*) FROM truth_wcs").fetchall() == [(4,)]
        # Every visit finds exactly one calibration of each kind.
        found = con.sql(
            "SELECT DISTINCT count(*) FROM visit v JOIN certification c "
            "ON v.mjd_mid >= c.valid_begin AND v.mjd_mid < c.valid_end "
            "AND (c.physical_filter IS NULL OR c.physical_filter = v.physical_filter) "
            "GROUP BY visit, dataset_type, detector"
        )
        assert found.fetchall() == [(1,)]
    again = Inline()
    assert simulate(lake, campaign(), again).new == {} and again.jobs == 0


def test_simulate_continues_after_a_death(lake: Lake, tmp_path: Path) -> None:
    whole = Lake.create(tmp_path / "whole", {"A": {"central": True}})
    simulate(whole, campaign(), Inline())
    for jobs in (1, 4):
        with pytest.raises(KeyboardInterrupt):
            simulate(lake, campaign(), Inline(die_after=jobs))
    simulate(lake, campaign(), Inline())
    contents = []
    for one in (lake, whole):
        with delta.connect() as con:
            rows = delta.relation(con, one.central, "dataset").select("dataset_id, path, checksum").order("dataset_id")
            contents.append(rows.fetchall())
    assert contents[0] == contents[1] and len(contents[0]) == sum(registered(lake).values())


def test_the_site_may_be_chosen(lake: Lake) -> None:
    assert simulate(lake, campaign(site="B", epochs=1), Inline()).site == "B"
    assert registered(lake) == {}


def test_calibration_rows_are_those_that_are_written(lake: Lake) -> None:
    plan = tiny(flat_epochs=[20260910, 20260912])
    written = work.detector_calibrations(lake.central, plan, 1)
    keys = ("dataset_type", "run", "detector")
    assert [[r[k] for k in keys] for r in written] == [[r[k] for k in keys] for r in work.calibration_rows(plan, 1)]
