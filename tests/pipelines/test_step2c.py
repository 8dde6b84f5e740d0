"""The global photometric solution against known zero points, and what it says of data that cannot have one."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from step2c_survey import Survey, errors, make

import schemas
from pipelines.quantum import NoWork
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
    assert {"photo_calib", "standard_star", "calib_visit", "calib_night", "calib_flat", "calib_component", "calib_residual"} < set(products)


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
