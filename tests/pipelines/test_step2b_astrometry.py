"""The astrometric fit of a tract against known WCSs."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from step2b_sky import MAP, Sky, TableInputs, make, shuffled

from pipelines.quantum import Quantum
from pipelines.step2b import astrometry
from pipelines.step2b.motion import displacement, earth
from pipelines.wcs import SkyWcs

GRID = tuple(g.ravel() for g in np.meshgrid(np.linspace(0, 399, 7), np.linspace(0, 399, 7)))


def run(inputs: dict[str, pa.Table], **config: float) -> pa.Table:
    quantum = Quantum("q", "fit_astrometry", {"skymap": MAP.name, "tract": 9469}, config)
    return astrometry.run(quantum, TableInputs(inputs))["visit_wcs"]


def offsets(sky: Sky, rows: pa.Table) -> np.ndarray:
    """Errors (frames, 49, 2) of the WCSs in pixels over each detector."""
    found = []
    for visit, detector, wcs in zip(*(rows[c].to_pylist() for c in ("visit", "detector", "wcs")), strict=True):
        x, y = sky.truth[visit, detector].sky_to_pixel(*SkyWcs.from_json(wcs).pixel_to_sky(*GRID))
        found.append(np.stack([x - GRID[0], y - GRID[1]], axis=1))
    return np.array(found)


def rms(off: np.ndarray) -> float:
    return float(np.sqrt(np.mean(off**2)))


@pytest.fixture(scope="module")
def sky() -> Sky:
    return make()


@pytest.fixture(scope="module")
def rows(sky: Sky) -> pa.Table:
    return run(sky.inputs)


def test_every_detector_gets_a_wcs_to_a_fiftieth_of_a_pixel(sky: Sky, rows: pa.Table) -> None:
    assert rows.num_rows == 12 * 9
    assert rms(offsets(sky, rows)) < 0.02
    assert all(rows["absolute"].to_pylist())


def test_residuals_of_reserved_stars_are_those_of_fitted_ones(rows: pa.Table) -> None:
    fitted, reserved = (np.median(rows[c].to_numpy()) for c in ("rms", "rms_reserved"))
    assert 0.8 < reserved / fitted < 1.2


def test_order_of_rows_does_not_matter(sky: Sky, rows: pa.Table) -> None:
    assert run({name: shuffled(table) for name, table in sky.inputs.items()}).equals(rows)


def test_proper_motions_are_followed() -> None:
    sky = make(visits=8, motion=300.0)
    assert rms(offsets(sky, run(sky.inputs))) < 0.02
    table = sky.inputs["reference_star"]
    none = table.set_column(table.column_names.index("pm_ra"), table.schema.field("pm_ra"), pa.nulls(table.num_rows, pa.float64()))
    assert rms(offsets(sky, run({**sky.inputs, "reference_star": none}))) > rms(offsets(sky, run(sky.inputs)))


def test_without_references_the_frames_agree_among_themselves() -> None:
    sky = make(visits=8, references=False, absolute=False, detectors=(4,), pointing=30.0)
    rows = run(sky.inputs)
    off = offsets(sky, rows)
    assert not any(rows["absolute"].to_pylist())
    assert rows.num_rows == 8
    assert rms(off - off.mean(axis=0)) < 0.15  # though each pointed some six pixels elsewhere
    assert np.abs(off.mean(axis=(0, 1))).max() > 1.0  # nor does the first of them point right


def test_a_preliminary_wcs_that_is_wrong_is_placed_by_the_others(sky: Sky) -> None:
    table = sky.inputs["preliminary_visit_summary"]
    wcs = table["wcs"].to_pylist()
    wcs[10] = SkyWcs.from_json(wcs[10]).shifted(25.0, -14.0).to_json()
    wrong = table.set_column(table.column_names.index("wcs"), table.schema.field("wcs"), pa.array(wcs))
    off = offsets(sky, run({**sky.inputs, "preliminary_visit_summary": wrong}))
    assert rms(off[10]) < 0.05 and rms(off) < 0.02


def test_outliers_are_clipped(sky: Sky) -> None:
    stars = sky.inputs["single_visit_star"]
    rng = np.random.default_rng(0)
    x = stars["x"].to_numpy() + np.where(rng.random(stars.num_rows) < 0.03, rng.choice([-0.8, 0.8], stars.num_rows), 0.0)
    moved = stars.set_column(stars.column_names.index("x"), stars.schema.field("x"), pa.array(x))
    assert rms(offsets(sky, run({**sky.inputs, "single_visit_star": moved}))) < 0.04


def test_a_frame_with_few_stars_follows_its_detector_and_its_visit(sky: Sky) -> None:
    stars = sky.inputs["single_visit_star"]
    frame = (stars["visit"].to_numpy() == 2026010103) & (stars["detector"].to_numpy() == 4)
    bright = stars["instFlux"].to_numpy() > np.sort(stars["instFlux"].to_numpy()[frame])[-8]
    rows = run({**sky.inputs, "single_visit_star": stars.filter(pa.array(~frame | bright))})
    off = offsets(sky, rows)[rows["visit"].to_numpy() == 2026010103]
    assert len(off) == 9 and rms(off[4]) < 0.05


@pytest.mark.filterwarnings("ignore:ERFA")
def test_the_earth_goes_round_the_sun() -> None:
    from astropy.coordinates import get_body_barycentric
    from astropy.time import Time

    mjd = np.linspace(58000.0, 64000.0, 50)
    true = get_body_barycentric("earth", Time(mjd, format="mjd")).xyz.to_value("au").T
    assert np.abs(earth(mjd) - true).max() < 0.02  # the Sun itself is up to 0.01 au from the barycentre


def test_displacement_by_motion_and_parallax() -> None:
    star = {k: np.array([v]) for k, v in {"ra": 0.0, "dec": 0.0, "pm_ra": 100.0, "pm_dec": np.nan, "parallax": 0.0}.items()}
    east, north = displacement({**star, "epoch": np.array([57388.5])}, 57388.5 + 3652.5)
    assert east == pytest.approx(1.0) and north == 0.0
    star = {**star, "ra": np.array([90.0]), "pm_ra": np.array([0.0]), "parallax": np.array([100.0]), "epoch": np.array([60000.0])}
    year = np.array([displacement(star, 60000.0 + d)[0][0] for d in range(0, 366, 5)])
    assert year.max() == pytest.approx(0.1, abs=0.003) and year.min() == pytest.approx(-0.1, abs=0.003)
