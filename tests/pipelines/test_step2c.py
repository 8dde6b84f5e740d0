"""The global photometric solution against known zero points, and what it says of data that cannot have one."""

from __future__ import annotations

import hashlib
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from step2c_survey import Survey, errors, make

import schemas
from pipelines.quantum import NoWork
from pipelines.step2c import camera, equations, observations
from pipelines.step2c.calibrate import calibrate as calibrate_tracts
from pipelines.step2c.settings import Settings


def calibrate(survey: Survey, threads: int = 1, shuffle: int | None = None, **settings: Any) -> dict[str, pa.Table]:
    tables = survey.tables
    if shuffle is not None:
        chance = np.random.default_rng(shuffle)
        tables = {name: rows.take(chance.permutation(rows.num_rows)) for name, rows in tables.items()}
    return calibrate_tracts([tables], Settings(**settings), threads=threads).products


def changed(survey: Survey, **tables: pa.Table) -> Survey:
    return Survey({**survey.tables, **tables}, survey.truth, survey.cloudy, survey.magnitudes)


def replaced(table: pa.Table, column: str, values: Any) -> pa.Table:
    field = table.schema.field(column)
    return table.set_column(table.column_names.index(column), field, pa.array(values, field.type))


def digest(products: dict[str, pa.Table]) -> str:
    text = "".join(repr(products[name].to_pydict()) for name in sorted(products))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def survey() -> Survey:
    return make(stars=3000, visits=15, nights=5)


@pytest.fixture(scope="module")
def products(survey: Survey) -> dict[str, pa.Table]:
    return calibrate(survey)


@pytest.fixture(scope="module")
def small() -> Survey:
    return make(stars=1500, visits=6, nights=2, cloudy_nights=())


def test_products_are_as_declared(products: dict[str, pa.Table]) -> None:
    placed = {"site": "A", "tract": 9469, "skymap": "demo_rings"}
    for name, rows in products.items():
        for column in set(schemas.table(name).arrow.names) & set(placed) - set(rows.column_names):
            rows = rows.append_column(column, pa.repeat(placed[column], rows.num_rows))
        assert schemas.conform(name, rows).num_rows == rows.num_rows > 0
    assert {"photo_calib", "standard_star", "calib_visit", "calib_night", "calib_flat", "calib_component", "calib_residual"} < set(
        products
    )


@pytest.mark.parametrize("band", ["g", "r", "i"])
def test_zero_points_of_photometric_visits(survey: Survey, products: dict[str, pa.Table], band: str) -> None:
    off, error, clear = errors(survey, products["photo_calib"], band)
    assert len(off) == 15 * 9
    assert np.std(off[clear]) < 0.003
    assert abs(np.median(off[clear])) < 0.010
    assert np.std(off[~clear]) < 0.010  # offsets of the detectors follow the gradients of the clouds
    assert 0.4 < np.sqrt(np.mean((off / error) ** 2)) < 2.0


def test_clouds_are_seen(survey: Survey, products: dict[str, pa.Table]) -> None:
    rows = products["photo_calib"].to_pylist()
    assert {row["visit"] for row in rows if not row["photometric"]} == survey.cloudy
    assert all(row["absolute"] for row in rows)


def test_standard_stars_are_the_true_ones(survey: Survey, products: dict[str, pa.Table]) -> None:
    stars = products["standard_star"]
    ids, band = stars["isolatedStarId"].to_numpy(), np.array(["gri".index(b) for b in stars["band"].to_pylist()])
    off = stars["mag"].to_numpy() - survey.magnitudes[ids, band]
    # the natural system is that of airmass 1.2, hence the colour in g
    pull = (off - np.median(off))[band == 2] / stars["magErr"].to_numpy()[band == 2]
    assert np.median(np.abs(pull)) * 1.4826 < 1.3
    chi2 = [row["chi2"] for row in stars.to_pylist() if row["reserved"] and row["nobs"] > 4]
    assert 0.5 < np.median(chi2) < 1.3  # reserved stars scatter as their errors say
    assert len({(row["isolatedStarId"], row["band"]) for row in stars.to_pylist()}) == stars.num_rows


def test_nights_and_flats(products: dict[str, pa.Table]) -> None:
    nights = products["calib_night"].to_pylist()
    assert len(nights) == 15
    assert all(n["nPhotometric"] == (0 if n["day_obs"] == 20260103 else 3) for n in nights)
    clear = [n for n in nights if n["nPhotometric"]]
    assert all(abs(n["extinction"] - {"g": 0.17, "r": 0.10, "i": 0.06}[n["band"]]) < 0.08 for n in clear)
    assert np.mean([n["colour_term"] for n in clear if n["band"] == "g"]) == pytest.approx(0.02, abs=0.008)
    flats = products["calib_flat"].to_pylist()
    assert len(flats) == 27
    assert all(abs(sum(f["offset"] for f in flats if f["band"] == b)) < 1e-7 for b in "gri")


def test_the_same_bits_whatever_the_threads_and_the_order(survey: Survey, products: dict[str, pa.Table]) -> None:
    assert digest(calibrate(survey, threads=2, shuffle=1)) == digest(products)
    assert digest(calibrate(survey, threads=1, shuffle=2)) == digest(products)


def test_colour_terms_are_worth_having() -> None:
    survey = make(stars=2500, visits=9, nights=3, cloudy_nights=(), second_order=0.08, bands="gr")
    with_colours, without = (
        np.std(errors(survey, calibrate(survey, colour_bands=bands)["photo_calib"], "g")[0]) for bands in (("g", "r"), ("u", "y"))
    )
    assert with_colours < 0.003 and with_colours < without


def test_flat_epochs(small: Survey) -> None:
    flats = calibrate(small, flat_epochs=(20260101, 20260102))["calib_flat"].to_pylist()
    assert sorted({f["epoch"] for f in flats}) == ["epoch_1", "epoch_2"] and len(flats) == 54


def test_without_references_the_gauge_is_the_preliminary_zero_points(small: Survey) -> None:
    products = calibrate(changed(small, reference_star=small.tables["reference_star"].slice(0, 0)))
    rows = products["photo_calib"].to_pylist()
    assert not any(row["absolute"] for row in rows)
    off = errors(small, products["photo_calib"], "g")[0]
    assert np.std(off) < 0.006 and abs(off.mean()) < 0.03 and min(row["zeroPointErr"] for row in rows) > 0.1


def test_nights_without_overlap_are_anchored_each_for_itself() -> None:
    survey = make(stars=2500, visits=8, nights=2, islands=2, cloudy_nights=())
    references = survey.tables["reference_star"]
    near = references.filter(pa.array(references["reference_id"].to_numpy() % 2 == 0))
    rows = calibrate(changed(survey, reference_star=near))["photo_calib"].to_pylist()
    first = {row["visit"] for row in rows if row["day_obs"] == 20260101}
    assert {row["visit"] for row in rows if row["absolute"]} == first
    off = np.array([row["zeroPoint"] - survey.truth[row["visit"], row["detector"]] for row in rows if row["visit"] in first])
    assert np.std(off) < 0.005


def test_one_band_only() -> None:
    survey = make(stars=2000, visits=8, nights=2, cloudy_nights=(), bands="r")
    off = errors(survey, calibrate(survey)["photo_calib"], "r")[0]
    assert np.std(off) < 0.003 and abs(np.mean(off)) < 0.010


def test_a_visit_with_three_stars(small: Survey) -> None:
    table = small.tables["isolated_star_association"]
    own = np.flatnonzero(table["visit"].to_numpy() == 1000)
    rest = np.delete(np.arange(table.num_rows), own[3:])
    rows = calibrate(changed(small, isolated_star_association=table.take(rest)))["photo_calib"].to_pylist()
    visit = [row for row in rows if row["visit"] == 1000]
    assert len(visit) == 9 and all(row["few_stars"] for row in visit) and sum(row["nStar"] for row in visit) <= 3
    off = np.array([row["zeroPoint"] - small.truth[1000, row["detector"]] for row in visit])
    error = np.array([row["zeroPointErr"] for row in visit])
    assert np.all(np.abs(off) < 4 * error) and np.all(error > 0.004)


def test_bad_fluxes_and_duplicates_do_no_harm(small: Survey) -> None:
    table = small.tables["isolated_star_association"]
    flux = table["instFlux"].to_numpy().copy()
    flux[:40], flux[40:60] = np.nan, -3.0
    bad = replaced(table, "instFlux", flux)
    clean = table.slice(60)
    one = calibrate(changed(small, isolated_star_association=pa.concat_tables([bad, bad.slice(500, 2000)])))
    assert digest(one) == digest(calibrate(changed(small, isolated_star_association=clean)))


def test_variable_stars_are_set_aside() -> None:
    survey = make(stars=2500, visits=12, nights=3, cloudy_nights=(), variables=250)
    off = errors(survey, calibrate(survey)["photo_calib"], "r")[0]
    assert np.std(off) < 0.003


def test_no_observation_at_all(small: Survey) -> None:
    products = calibrate(changed(small, isolated_star_association=small.tables["isolated_star_association"].slice(0, 0)))
    rows = products["photo_calib"].to_pylist()
    assert len(rows) == 18 * 9 and products["standard_star"].num_rows == 0
    assert all(row["few_stars"] and not row["absolute"] and not row["photometric"] for row in rows)
    preliminary = {(r["visit"], r["detector"]): r["zeroPoint"] for r in small.tables["preliminary_visit_summary"].to_pylist()}
    assert max(abs(row["zeroPoint"] - preliminary[row["visit"], row["detector"]]) for row in rows) < 0.15


@pytest.mark.parametrize("column", ["zeroPoint", "airmass"])
def test_facts_that_are_missing(small: Survey, column: str) -> None:
    table = small.tables["preliminary_visit_summary"]
    without = changed(small, preliminary_visit_summary=replaced(table, column, [None] * table.num_rows))
    products = calibrate(without)
    assert np.std(errors(small, products["photo_calib"], "g")[0]) < 0.004
    assert all(row["absolute"] for row in products["photo_calib"].to_pylist())


def test_no_visit(small: Survey) -> None:
    with pytest.raises(NoWork, match="no visit"):
        calibrate(changed(small, preliminary_visit_summary=small.tables["preliminary_visit_summary"].slice(0, 0)))


def tracts(survey: Survey, count: int = 4) -> list[dict[str, pa.Table]]:
    """The survey in parts of the sky, by the right ascension of its stars, each with all summaries."""
    stars = survey.tables["isolated_star"]
    part = np.argsort(np.argsort(stars["coord_ra"].to_numpy())) * count // stars.num_rows
    ids = stars["isolatedStarId"].to_numpy()
    found = []
    for number in range(count):
        own = pa.array(ids[part == number])
        found.append({
            **survey.tables,
            "isolated_star": stars.filter(pa.array(part == number)),
            "isolated_star_association": survey.tables["isolated_star_association"].filter(
                pc.is_in(survey.tables["isolated_star_association"]["isolatedStarId"], own)
            ),
        })  # fmt: skip
    return found


def test_tracts_add_up_to_the_same_bits_in_any_order_and_on_an_executor(survey: Survey) -> None:
    parts = tracts(survey)
    whole = calibrate_tracts(parts).products["photo_calib"]
    assert calibrate_tracts(parts, threads=1).products["photo_calib"].equals(whole)
    assert calibrate_tracts([parts[k] for k in (2, 0, 3, 1)]).products["photo_calib"].equals(whole)
    with ProcessPoolExecutor(1, get_context("spawn")) as executor:
        assert calibrate_tracts(parts, executor=executor).products["photo_calib"].equals(whole)
    off = [errors(survey, whole, band)[0][errors(survey, whole, band)[2]] for band in "gri"]
    assert max(np.std(o) for o in off) < 0.003


def test_a_new_night_changes_the_equations_of_the_tracts_it_touched_only() -> None:
    survey = make(stars=1500, visits=6, nights=2, islands=2, cloudy_nights=())
    association, summary = (survey.tables[name] for name in ("isolated_star_association", "preliminary_visit_summary"))
    night = dict(zip(summary["visit"].to_pylist(), summary["day_obs"].to_pylist(), strict=True))
    first = pa.array([night[v] == 20260101 for v in association["visit"].to_pylist()])
    before = changed(survey, isolated_star_association=association.filter(first))
    stars = survey.tables["isolated_star"]
    island = stars["isolatedStarId"].to_numpy() % 2  # the first is seen in the first night, the other in the second
    old, new = (
        [equations_of({**s.tables, "isolated_star": stars.filter(pa.array(island == k))}) for k in range(2)]
        for s in (before, survey)
    )
    assert new[0]["normal_equation"].num_rows and all(old[0][name].equals(new[0][name]) for name in new[0])
    assert not old[1]["normal_equation"].num_rows and new[1]["normal_equation"].num_rows


def test_a_scratch_directory_of_any_name_is_left_empty(small: Survey, tmp_path: Path) -> None:
    scratch = tmp_path / "what's left"
    scratch.mkdir()
    made = calibrate_tracts([small.tables], scratch=scratch).products
    assert made["photo_calib"].equals(calibrate_tracts([small.tables]).products["photo_calib"]) and not list(scratch.iterdir())


def test_the_equations_of_a_tract_do_not_depend_on_threads_or_order(small: Survey) -> None:
    one = equations_of(small.tables, threads=1)
    chance = np.random.default_rng(3)
    shuffled = {name: rows.take(chance.permutation(rows.num_rows)) for name, rows in small.tables.items()}
    many = equations_of(shuffled, threads=8)
    assert all(many[name].equals(one[name]) for name in one)


def equations_of(tables: dict[str, pa.Table], threads: int = 2) -> dict[str, pa.Table]:
    with duckdb.connect(config={"threads": threads}) as con:
        for name, rows in tables.items():
            con.register(name, rows)
        observations.prepare(con, camera.of(con), Settings())
        equations.weigh(con, camera.of(con), Settings())
        return equations.assemble(con, Settings())


def test_a_detector_that_sees_no_star(small: Survey) -> None:
    table = small.tables["isolated_star_association"]
    blind = table.filter(pc.or_(pc.not_equal(table["visit"], 1003), pc.not_equal(table["detector"], 4)))
    rows = calibrate(changed(small, isolated_star_association=blind))["photo_calib"].to_pylist()
    row = next(row for row in rows if (row["visit"], row["detector"]) == (1003, 4))
    assert row["few_stars"] and row["nStar"] == 0 and not row["extrapolated"]
    assert abs(row["zeroPoint"] - small.truth[1003, 4]) < 4 * row["zeroPointErr"] < 0.05


def test_a_visit_without_a_star_is_extrapolated(small: Survey) -> None:
    table = small.tables["isolated_star_association"]
    rows = calibrate(changed(small, isolated_star_association=table.filter(pc.not_equal(table["visit"], 1003))))["photo_calib"]
    visit = [row for row in rows.to_pylist() if row["visit"] == 1003]
    assert len(visit) == 9 and all(row["extrapolated"] and not row["photometric"] and not row["absolute"] for row in visit)
    assert sum(row["extrapolated"] for row in rows.to_pylist()) == 9


def test_a_night_all_under_clouds(survey: Survey, products: dict[str, pa.Table]) -> None:
    night = [n for n in products["calib_night"].to_pylist() if n["day_obs"] == 20260103]
    assert len(night) == 3 and all(n["nPhotometric"] == 0 and not n["fitted"] and n["zeroPointErr"] >= 0.5 for n in night)
    tilted = products["calib_visit"].filter(pc.is_in(products["calib_visit"]["visit"], pa.array(sorted(survey.cloudy))))
    assert all(row["gradient_x"] or row["gradient_y"] for row in tilted.to_pylist())


def test_a_wrong_reference_catalogue_shifts_all_alike_and_nothing_else(small: Survey) -> None:
    references = small.tables["reference_star"]
    wrong = replaced(references, "r_mag", references["r_mag"].to_numpy() + 0.2)
    good, bad = (calibrate(s)["photo_calib"] for s in (small, changed(small, reference_star=wrong)))
    for band, shift in (("g", 0.0), ("r", 0.2), ("i", 0.0)):
        moved = np.array(
            [b["zeroPoint"] - a["zeroPoint"] for a, b in zip(good.to_pylist(), bad.to_pylist(), strict=True) if a["band"] == band]
        )
        assert np.std(moved) < 0.002 and abs(np.median(moved) - shift) < 0.01


def test_components_are_named(small: Survey, products: dict[str, pa.Table]) -> None:
    assert [(c["band"], c["gauge"], c["absolute"]) for c in products["calib_component"].to_pylist()] == [
        (band, "reference stars", True) for band in "gir"
    ]
    survey = make(stars=2500, visits=8, nights=2, islands=2, cloudy_nights=(), bands="r", references=False)
    found = calibrate(survey)["calib_component"].to_pylist()
    assert [(c["component"], c["nNight"], c["nReference"], c["absolute"]) for c in found] == [(0, 1, 0, False), (1, 1, 0, False)]
    assert all(c["gauge"] == "preliminary zero points" and c["nVisit"] == 4 for c in found)


def test_polynomials_over_the_detector() -> None:
    survey = make(stars=4000, visits=15, nights=3, cloudy_nights=(), bands="r")
    table = survey.tables["isolated_star_association"]
    x = (table["x"].to_numpy() - 199.5) / 200.0
    bent = replaced(table, "instFlux", table["instFlux"].to_numpy() * 10 ** (-0.4 * 0.02 * (2 * x * x - 1)))
    made = calibrate(changed(survey, isolated_star_association=bent), flat_order=2)
    assert made["calib_flat"]["t20"].to_numpy() == pytest.approx(-0.02, abs=0.004)
    assert np.abs(made["calib_flat"]["t11"].to_numpy()).max() < 0.004
    flat = calibrate(changed(survey, isolated_star_association=bent))
    assert np.median(made["standard_star"]["magStd"].drop_null().to_numpy()) < np.median(
        flat["standard_star"]["magStd"].drop_null().to_numpy()
    )


def test_nights_say_what_was_assumed_of_them(small: Survey) -> None:
    nights = calibrate(small, extinction=0.03, colour=0.04)["calib_night"].to_pylist()
    assert {row["extinctionPrior"] for row in nights} == {0.03} and {row["colour_termPrior"] for row in nights} == {0.04}
    assert {row["water_termPrior"] for row in nights} == {None}


def test_nights_that_drift() -> None:
    survey = make(stars=100, visits=60, nights=6, cloudy_nights=(), bands="r", drift=0.01)
    made = calibrate(survey)
    for night, row in enumerate(made["calib_night"].to_pylist()):
        assert abs(row["drift"] - 0.045 * (-1) ** night) < 4 * row["driftErr"] < 0.04
        assert row["driftErr"] < 0.5 * row["driftPrior"]
    even = calibrate(survey, drift=0)
    assert even["calib_night"]["drift"].null_count == 6
    off, without = (errors(survey, products["photo_calib"], "r")[0] for products in (made, even))
    assert np.std(off) < np.std(without)
    summaries = survey.tables["preliminary_visit_summary"]
    timeless = calibrate(changed(survey, preliminary_visit_summary=replaced(summaries, "mjd_mid", [None] * summaries.num_rows)))
    assert timeless["calib_night"]["drift"].null_count == 6
    assert timeless["photo_calib"]["zeroPoint"].to_pylist() == even["photo_calib"]["zeroPoint"].to_pylist()


@pytest.mark.parametrize("visits", [6, 12])
def test_nights_of_a_visit_or_two_do_not_tell_drift_from_scatter(visits: int) -> None:
    survey = make(stars=1500, visits=visits, nights=6, cloudy_nights=(), bands="r", drift=0.004)
    made = calibrate(survey)
    off, error, _ = errors(survey, made["photo_calib"], "r")
    assert np.std(off) < 0.003 and np.sqrt(np.mean((off / error) ** 2)) < 1.6
    assert made["calib_night"]["drift"].null_count == (6 if visits == 6 else 0)


def test_one_visit_below_its_night_is_not_its_drift() -> None:
    survey = make(stars=2500, visits=30, nights=3, cloudy_nights=(), bands="r", drift=0.002)
    visits = sorted({visit for visit, _ in survey.truth})
    low = visits[4]
    rows = survey.tables["isolated_star_association"]
    dimmed = pc.multiply(rows["instFlux"], pc.if_else(pc.equal(rows["visit"], low), 0.96, 1.0))
    calib = calibrate(changed(survey, isolated_star_association=replaced(rows, "instFlux", dimmed)))["calib_visit"].to_pylist()
    assert [row["visit"] for row in calib if not row["photometric"]] == [low]


def test_detectors_scatter_by_band(small: Survey) -> None:
    plain, one = calibrate(small)["photo_calib"], calibrate(small, detector_scatter=0.004)["photo_calib"]
    by_band = calibrate(small, detector_scatter=0.004, detector_scatters={"g": 0.0})["photo_calib"]
    for band, same in (("g", plain), ("r", one), ("i", one)):
        ours, theirs = (rows.filter(pc.equal(rows["band"], band)) for rows in (by_band, same))
        np.testing.assert_allclose(ours["zeroPointErr"].to_numpy(), theirs["zeroPointErr"].to_numpy(), rtol=1e-3)
    assert np.median(one["zeroPointErr"].to_numpy()) > 1.02 * np.median(plain["zeroPointErr"].to_numpy())
