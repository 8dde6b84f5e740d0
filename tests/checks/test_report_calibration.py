"""The calibration in the report: what each picture shows of given tables, and which doubts are named."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import schemas
from checks.report import calibration, doubts, focal_plane, sky, sky_residuals, style
from checks.report.curves import EMPTY
from checks.subject import Subject

Rows = list[dict[str, Any]]
NAMES = (
    "calib_visit", "calib_night", "calib_flat", "calib_component", "calib_residual", "calib_residual_map", "standard_star",
    "photo_calib", "reference_star", "detector", "visit", "visit_detector_region", "tract", "skymap", "truth_photo_calib",
    "isolated_star", "isolated_star_association",
)  # fmt: skip
NIGHT = {"band": "g", "instrument": "T", "extinction": 0.2, "extinctionErr": 0.01, "fitted": True, "zeroPoint": 27.0} | {
    f"{name}Prior": prior for name, prior in (("extinction", 0.05), ("drift", 0.01), ("colour_term", 0.02), ("water_term", 0.01))
}
DETECTORS = [{"instrument": "T", "detector": d, "width": 100, "height": 100, "x_centre": 0.5 * d, "y_centre": 0.0} for d in (0, 1)]
TRACT = {
    "skymap": "s", "tract": 1, "ra": 0.0, "dec": 0.5, "ra_min": -1.0, "ra_max": 1.0, "dec_min": 0.0, "dec_max": 1.0, "width": 100,
}  # fmt: skip


class Con:
    """Answers from tables in memory, those of the central site and of all being the same."""

    def __init__(self, tables: dict[str, Rows]) -> None:
        self.con = duckdb.connect()
        self.con.execute("CREATE SCHEMA centre")
        for name in NAMES:
            schema = schemas.table(name).arrow
            if "site" not in schema.names:
                schema = schema.insert(0, pa.field("site", pa.string()))
            rows = [{column: row.get(column) for column in schema.names} for row in tables.get(name, [])]
            self.con.register("given", pa.Table.from_pylist(rows, pa.schema([field.with_nullable(True) for field in schema])))
            self.con.execute(f"CREATE TABLE centre.{name} AS FROM given; CREATE VIEW {name} AS FROM centre.{name}")

    def table(self, text: str, parameters: dict[str, Any] | None = None) -> pa.Table:
        return self.con.sql(text, params=parameters).to_arrow_table()


def subject(**tables: Rows) -> Subject:
    lake: Any = SimpleNamespace(central=SimpleNamespace(name="centre"), sites=["centre"])
    definition = {
        "skymap": "s",
        "sites": {"centre": {"tracts": [1]}},
    }
    con: Any = Con(tables)
    return Subject(lake, "c", con, definition)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Figures in place of the images that they become."""
    made: list[Figure] = []
    embed = style.embed

    def kept(figure: Figure, words: str) -> str:
        made.append(figure)
        return embed(figure, words)

    monkeypatch.setattr(style, "embed", kept)
    return made


def cells(figure: Figure) -> list[PolyCollection]:
    return [
        c for axis in figure.axes for c in axis.collections if isinstance(c, PolyCollection) and axis.get_label() != "<colorbar>"
    ]


def middles(shown: PolyCollection) -> np.ndarray:
    return np.array([path.vertices[:4].mean(axis=0) for path in shown.get_paths()])


# -- doubts ------------------------------------------------------------------------------------------------------------


def component(number: int, **given: Any) -> dict[str, Any]:
    usual = {
        "instrument": "T",
        "band": "g",
        "visit": 10 * number,
        "nVisit": 4,
        "nReference": 90,
        "absolute": True,
        "gauge": "reference stars",
    }
    return {"component": number} | usual | given


def test_nothing_to_doubt() -> None:
    said = doubts.doubts(subject(calib_night=[NIGHT | {"day_obs": 1}], calib_component=[component(0)]))
    assert "good-text" in said and "table" not in said
    assert doubts.doubts(subject()) == EMPTY


def test_sets_of_visits_without_anchor_are_named() -> None:
    visits = [
        {"instrument": "T", "band": "g", "visit": v, "day_obs": day, "component": n}
        for n, v, day in ((0, 1, 101), (1, 10, 102), (1, 11, 103))
    ]
    alone = component(1, absolute=False, gauge="preliminary zero points", nReference=2)
    other = component(0, band="r", visit=77)
    said = doubts.doubts(subject(calib_night=[NIGHT], calib_component=[component(0), alone, other], calib_visit=visits))
    assert "that of visit 10 (4 visits of 102, 103, on preliminary zero points; 2 reference stars seen)" in said
    assert "no star shared" in said and "that of visit 0 (4 visits of 101); that of visit 10 (4 visits of 102, 103)" in said
    assert "77" not in said, "a band in one piece, tied to the sky, is in no doubt"


def test_extrapolated_visits_are_named_and_the_list_ends() -> None:
    visits = [{"instrument": "T", "band": "g", "visit": v, "day_obs": 101, "extrapolated": v > 2} for v in range(1, 13)]
    said = doubts.doubts(subject(calib_night=[NIGHT], calib_visit=visits))
    assert "extrapolated" in said and "10 (night 101)" in said and "and 4 more" in said
    assert ">1 (night" not in said and ">2 (night" not in said


def test_terms_that_the_data_did_not_determine_are_named() -> None:
    nights = [
        NIGHT | {"day_obs": 101},
        NIGHT | {"day_obs": 102, "fitted": False, "extinctionErr": 0.05},
        NIGHT | {"day_obs": 103, "extinctionErr": 0.03},
        NIGHT | {"day_obs": 104, "colour_term": -0.00001, "colour_termErr": 0.011, "water_term": 0.002, "water_termErr": 0.006},
        NIGHT | {"day_obs": 105, "colour_term": 0.01, "colour_termErr": 0.009, "water_term": 0.002, "water_termErr": 0.004},
        NIGHT | {"day_obs": 106, "colour_termErr": 0.02, "water_termErr": 0.01},
    ]
    said = doubts.doubts(subject(calib_night=nights))
    assert "102 (0.200 ± 0.050); 103 (0.200 ± 0.030)" in said and "(± 0.05)" in said
    assert "104 (0.0000 ± 0.0110)" in said and "104 (0.0020 ± 0.0060)" in said
    assert not [night for night in (101, 105, 106) if f"{night} (" in said]
    wide = {"colour_termPrior": 0.1, "extinctionPrior": 0.5}
    wider = doubts.doubts(subject(calib_night=[night | wide for night in nights]))
    assert "103 (" not in wider and "colour term" not in wider and "102 (" in wider and "water term" in wider


# -- time --------------------------------------------------------------------------------------------------------------


def test_zero_points_over_time(drawn: list[Figure]) -> None:
    visits = [{"instrument": "T", "visit": v, "mjd_mid": 60000.0 + v} for v in (1, 2, 3)]
    kinds = {1: (True, False), 2: (False, False), 3: (False, True)}
    rows = [
        {
            "instrument": "T", "visit": v, "detector": d, "band": "g", "day_obs": 100 + v // 2, "zeroPoint": 27.0 + 0.1 * v,
            "photometric": photometric, "extrapolated": extrapolated,
        }
        for v, (photometric, extrapolated) in kinds.items() for d in (0, 1)
    ]  # fmt: skip
    calibration.zero_points(subject(photo_calib=rows, visit=visits))
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    for place, kind in enumerate(("photometric", "cloudy", "extrapolated")):
        assert lines[kind].get_xdata().tolist() == [place, place]
        assert np.allclose(lines[kind].get_ydata(), 27.1 + 0.1 * place)


def test_zero_points_of_many_visits_come_in_pieces(drawn: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "PIECES", 3)
    visits = [{"instrument": "T", "visit": v, "mjd_mid": 60000.0 + v} for v in range(10)]
    rows = [
        {"instrument": "T", "visit": v, "detector": d, "band": "g", "day_obs": 100 + v, "zeroPoint": 27.0 + 0.1 * v + 0.01 * d,
         "photometric": True, "extrapolated": False}
        for v in range(10) for d in range(5)
    ]  # fmt: skip
    calibration.zero_points(subject(photo_calib=rows, visit=visits))
    (line,) = (line for line in drawn[0].axes[0].lines if line.get_label() == "photometric")
    assert line.get_xdata().tolist() == [0, 0, 4, 4, 8, 8]
    assert np.allclose(line.get_ydata(), [27.0, 27.34, 27.4, 27.74, 27.8, 27.94])


def test_errors_of_zero_points_are_counted(drawn: list[Figure]) -> None:
    observed = [
        {"instrument": "T", "visit": 1, "detector": d, "band": "g", "zeroPoint": 27.0 + 0.001 * d, "photometric": True}
        for d in range(3)
    ]
    truth = [{"visit": 1, "detector": d, "zeroPoint": 27.0} for d in range(3)]
    rows = calibration.ask(subject(photo_calib=observed, truth_photo_calib=truth), "zero_point_errors")
    assert sum(row["number"] for row in rows) == 3 and {round(row["mean"], 6) for row in rows} == {1.0}
    assert {round(row["rms"], 6) for row in rows} == {round(float(np.std([0, 1, 2])), 6)}


def test_nights_with_their_errors(drawn: list[Figure]) -> None:
    rows = [
        NIGHT | {"day_obs": 101, "colour_term": -0.02, "colour_termErr": 0.002},
        NIGHT | {"day_obs": 105, "colour_term": -0.01, "colour_termErr": 0.018, "fitted": False, "extinctionErr": 0.05},
    ]
    calibration.nights(subject(calib_night=rows))
    extinction, colour = drawn[0].axes
    for axis, values in ((extinction, (0.2, 0.2)), (colour, (-0.02, -0.01))):
        first, second = axis.containers
        assert (first[0].get_ydata()[0], second[0].get_ydata()[0]) == values
        assert second[0].get_xdata()[0] - first[0].get_xdata()[0] == 1, "nights stand in order, however far apart"
        assert first[0].get_markerfacecolor() == style.band_colour("g") and second[0].get_markerfacecolor() == "white"
    (bar,) = extinction.containers[1][2]
    assert np.ptp(bar.get_segments()[0][:, 1]) == pytest.approx(0.1)


# -- focal plane -------------------------------------------------------------------------------------------------------


def flat(detector: int, **given: Any) -> dict[str, Any]:
    return {"instrument": "T", "band": "g", "epoch": "e0", "detector": detector, "offset": 0.01 * (-1) ** detector} | given


def test_flats_stand_where_the_detectors_are(drawn: list[Figure]) -> None:
    focal_plane.flats(subject(detector=DETECTORS, calib_flat=[flat(0), flat(1)]))
    (shown,) = cells(drawn[0])
    assert shown.get_array().tolist() == [10.0, -10.0]
    assert np.allclose(middles(shown), [(0.0, 0.0), (0.5, 0.0)])


def test_a_flat_that_varies_over_the_detector(drawn: list[Figure]) -> None:
    focal_plane.flats(subject(detector=DETECTORS, calib_flat=[flat(0, t10=0.004, t02=None), flat(1), flat(0, epoch="e1")]))
    first, second = cells(drawn[0])
    values, x = first.get_array()[:64], middles(first)[:64, 0]
    assert len(first.get_array()) == 65 and values.mean() == pytest.approx(10.0)
    assert np.allclose(values, 10.0 + 4.0 * x / 0.2425), "T1(x) = x, -1 to 1 over 0.97 of the distance between neighbours"
    assert second.get_array().tolist() == [10.0]


def test_residuals_over_the_focal_plane_are_a_weighted_mean(drawn: list[Figure]) -> None:
    def cell(tract: int, residual: float, weight: float, ix: int = 7, iy: int = 0) -> dict[str, Any]:
        return {
            "tract": tract, "band": "g", "epoch": "e0", "detector": 1, "ix": ix, "iy": iy, "residual": residual, "weight": weight,
            "nStar": 5,
        }  # fmt: skip

    rows = [cell(1, 0.001, 3e6), cell(2, 0.005, 1e6), cell(1, -0.003, 1e6, ix=0, iy=7)]
    focal_plane.residual_maps(subject(detector=DETECTORS, calib_residual_map=rows, calib_visit=[{"instrument": "T", "visit": 1}]))
    (shown,) = cells(drawn[0])
    assert np.allclose(shown.get_array(), [-3.0, 2.0])
    upper_left, lower_right = middles(shown)
    assert upper_left[0] < lower_right[0] and upper_left[1] > lower_right[1]


# -- sky ---------------------------------------------------------------------------------------------------------------


def region(visit: int, detector: int, ra: float, dec: float) -> dict[str, Any]:
    corners = {}
    for n, (x, y) in enumerate(((-0.1, -0.1), (0.1, -0.1), (0.1, 0.1), (-0.1, 0.1))):
        corners |= {f"ra{n}": (ra + x) % 360, f"dec{n}": dec + y}
    return {"instrument": "T", "visit": visit, "detector": detector, "ra": ra, "dec": dec} | corners


def test_residuals_over_the_sky(drawn: list[Figure]) -> None:
    """Two visits on one place, at RA 0: rms of 3 and 4 mmag; a cloudy visit counts for nothing."""
    visits = [{"instrument": "T", "visit": v, "photometric": v != 3} for v in (1, 2, 3)]
    values = {1: 0.003, 2: -0.004, 3: 0.5}
    rows = [{"tract": 1, "band": "g", "visit": v, "detector": 0, "residual": r, "weight": 1e6} for v, r in values.items()]
    sky_residuals.on_the_sky(
        subject(
            tract=[TRACT], calib_visit=visits, calib_residual=rows, visit_detector_region=[region(v, 0, 0.0, 0.5) for v in values],
            skymap=[{"skymap": "s", "pixel_scale": 0.5}],
        )
    )  # fmt: skip
    (shown,) = cells(drawn[0])
    assert np.allclose(shown.get_array(), np.sqrt(12.5))
    at = middles(shown)
    assert len(at) == 4 and np.allclose(np.abs(at[:, 0]), 0.05, atol=0.05) and np.allclose(at[:, 1], 0.5, atol=0.1)


def test_standard_stars_against_the_reference_catalogue(drawn: list[Figure]) -> None:
    """A constant is nothing; 20 mmag between two halves of the sky, and a star of another place, are seen and not seen."""
    rng = np.random.default_rng(1)
    ra, dec = rng.uniform(-0.9, 0.9, 400), rng.uniform(0.1, 0.9, 400)
    off = 0.05 + np.where(ra > 0, 0.01, -0.01)
    stars = [
        {"tract": 1, "isolatedStarId": i, "band": "g", "coord_ra": a % 360, "coord_dec": d, "mag": 18 + o, "magErr": 0.002}
        for i, (a, d, o) in enumerate(zip(ra, dec, off, strict=True))
    ]
    known = [
        {"tract": 1, "reference_id": i, "coord_ra": (a + 1e-5) % 360, "coord_dec": d - 1e-5, "g_mag": 18.0, "g_magErr": 0.01}
        for i, (a, d) in enumerate(zip(ra, dec, strict=True))
    ]
    known += [{**row, "reference_id": 1000 + i, "coord_dec": row["coord_dec"] + 0.02, "g_mag": 12.0} for i, row in enumerate(known)]
    sky_residuals.on_the_sky(
        subject(tract=[TRACT], standard_star=stars, reference_star=known, skymap=[{"skymap": "s", "pixel_scale": 0.5}])
    )
    (shown,) = cells(drawn[0])
    at, found = middles(shown)[:, 0], np.asarray(shown.get_array())
    assert len(found) > 10
    clear = np.abs(at) > 0.25
    assert np.allclose(found[clear & (at > 0)] - found[clear & (at < 0)].mean(), 20.0, atol=0.1)


def test_cells_are_as_small_as_asked_for() -> None:
    groups = [[{"ra_min": -1.0, "ra_max": 1.0, "dec_min": -0.5, "dec_max": 0.5}]]
    assert sky.cell(groups, 50) == pytest.approx(0.2) and sky.cell(groups, 1e9) == 0.05 and sky.cell(groups, 0) > 1


# -- stars -------------------------------------------------------------------------------------------------------------


def test_repeatability_of_reserved_stars(drawn: list[Figure]) -> None:
    """Stars of one scatter: the median over few observations is what it would be over many. Fitted stars are not shown."""
    rng = np.random.default_rng(2)
    rows = []
    for i in range(4000):
        n = 2 + i % 4
        spread = 0.005 if i % 2 else 0.05  # of reserved stars, and of fitted ones
        scatter = float(np.std(rng.normal(0, spread, n), ddof=1))
        rows.append(
            {
                "isolatedStarId": i, "band": "g", "mag": 15 + i / 1000, "magErr": 0.005 / np.sqrt(n), "magStd": scatter, "nobs": n,
                "reserved": bool(i % 2),
            }
        )  # fmt: skip
    rows += [{**rows[1], "isolatedStarId": 10**6, "nobs": 1, "magStd": None}]
    calibration.repeatability(subject(standard_star=rows))
    points, median, by_errors, *_ = drawn[0].axes[0].lines
    assert len(points.get_xdata()) == 2000
    assert np.allclose(median.get_ydata(), 5.0, rtol=0.15) and np.mean(median.get_ydata()) == pytest.approx(5.0, rel=0.05)
    assert np.allclose(by_errors.get_ydata(), 5.0) and np.all(np.diff(median.get_xdata()) > 0)


def test_running_medians() -> None:
    x, y = calibration.running_median(np.arange(100.0)[::-1], np.arange(100.0)[::-1] ** 2, 4)
    assert x.tolist() == [12.0, 37.0, 62.0, 87.0] and y[0] == 144.0
    assert [len(part) for part in calibration.running_median(np.arange(3.0), np.arange(3.0))] == [1, 1]


PICTURES = (
    calibration.zero_points, calibration.nights, focal_plane.flats, focal_plane.residual_maps, sky_residuals.on_the_sky,
    calibration.repeatability, calibration.residuals,
)  # fmt: skip


@pytest.mark.parametrize("picture", PICTURES, ids=lambda picture: picture.__name__)
def test_what_is_not_there_yet_is_said(picture: Callable[[Subject], str]) -> None:
    assert picture(subject()) == EMPTY
    assert picture(subject(tract=[TRACT])) == EMPTY
