"""Real zero points as the truth: those of (visit, detector) pairs of Hyper Suprime-Cam and of Rubin's DP1, recovered from
simulated stars.

HSC: eight visits in z on two fields, 103 detectors. DP1: 755 visits in ugrizy on four fields, 9 detectors. Positions,
rotations, nights and zero points are real; stars fill the sky around the pointings with the noise of photons, sky and a floor
of 3 mmag. A new flat begins after three weeks without a visit. What detectors are off by themselves
(``detector_scatters``) is that of the real zero points, by band.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import Quantity

if TYPE_CHECKING:
    from pipelines.simulate.photometric_conditions import Design, Pointings, Stars

ABOUT = "Real zero points of HSC visits and Rubin DP1 as the truth of simulated stars: recovered within their errors?"
OPTIONS: list[click.Parameter] = []
CELL, DENSITY = 0.1, 3000.0
Array = NDArray[np.float64]


def run(scale: int) -> Iterator[Quantity]:
    """Width of the pulls and part within three sigma of the bands that have references; rms and constant of every band."""
    from benchmarks._calibration import DATA, camera_of, offsets, rms, settings_of
    from pipelines.simulate.photometric_survey import simulate
    from pipelines.simulate.photometric_tables import REFERENCE_BANDS
    from pipelines.step2c.calibrate import calibrate

    for name, make in (("HSC", hsc), ("DP1", dp1)):
        design = make(DATA)
        survey = simulate(design)
        settings = settings_of(design, detector_scatters=_scatters(survey.truth, design))
        solved = calibrate(survey.tiles(), settings, camera=camera_of(design))
        found = offsets(solved.products["photo_calib"], survey.truth)
        # the catalogue has no u and no y: their errors say that nothing ties them, which is no test
        pull = np.concatenate([part.off / part.error for band, part in found.items() if band in REFERENCE_BANDS])
        yield Quantity(f"{name}, pulls", "", rms(pull), "0.9 to 1.1", 0.9 <= rms(pull) <= 1.1, count=len(pull))
        within = float(np.mean(np.abs(pull) <= 3.0))
        yield Quantity(f"{name}, within three sigma", "", within, ">= 0.99", within >= 0.99, count=survey.observations)
        for band, part in found.items():
            yield Quantity(f"{name}, zero points, {band}", "mmag", 1000.0 * part.rms, count=len(part.off))
            yield Quantity(f"{name}, median stated error, {band}", "mmag", 1000.0 * float(np.median(part.error)))
            yield Quantity(f"{name}, constant, {band}", "mmag", 1000.0 * part.constant)


def _scatters(truth: pa.Table, design: Design) -> dict[str, float]:
    """How far the detectors of a visit are off by themselves, by band: the zero points without their means over each visit, and
    over each (epoch, band, detector), rms (mag): their tails are wide, and errors are made of variances. An operator knows this of
    a camera from earlier solutions."""
    import duckdb

    with duckdb.connect() as con:
        con.register("truth", truth)
        nights = pa.table({"visit": design.pointings.visit, "day_obs": design.pointings.day_obs})
        con.register("nights", nights)
        return dict(con.execute(
            "WITH e AS (SELECT t.*, n.epoch FROM truth t JOIN (SELECT DISTINCT visit, len(list_filter($epochs::BIGINT[], lambda k: "
            "k <= day_obs)) AS epoch FROM nights) n USING (visit)), "
            "v AS (SELECT *, zero_point - avg(zero_point) OVER (PARTITION BY visit) AS z FROM e), "
            "f AS (SELECT band, z - avg(z) OVER p AS r, count(*) OVER p AS n FROM v "
            "WINDOW p AS (PARTITION BY band, epoch, detector)) "
            "SELECT band, sqrt(avg(r * r / (1 - 1.0 / n))) FROM f WHERE n > 1 GROUP BY band", {"epochs": list(design.epochs)},
        ).fetchall())  # fmt: skip


def hsc(data: Path) -> Design:
    """Eight visits in z; the rotation of each detector from its corners."""
    from astropy.io import fits

    from pipelines.simulate.mosaic import Mosaic
    from pipelines.simulate.photometric_presets import night_of

    names = ("visit", "detector", "mjd", "ra", "dec", "rotation", "airmass", "seconds", "zero")
    columns: dict[str, list[Any]] = {key: [] for key in names}
    for path in sorted(_there(data / "hsc_visit_summaries").glob("*.fits")):
        with fits.open(path) as file:
            rows, info = file[1].data, file["VisitInfo"].data
            rows = rows[np.isfinite(rows["zeroPoint"])]
            east = (rows["raCorners"][:, 1] - rows["raCorners"][:, 0]) * np.cos(np.radians(rows["decl"]))
            north = rows["decCorners"][:, 1] - rows["decCorners"][:, 0]
            given = {
                "visit": rows["visit"], "detector": rows["id"], "ra": rows["ra"], "dec": rows["decl"],
                "rotation": np.degrees(np.arctan2(north, -east)), "zero": rows["zeroPoint"],
                "mjd": float(info["tai"][0]) / 86400e9 + 40587.0, "airmass": info["boresightairmass"][0],
                "seconds": info["exposuretime"][0],
            }  # fmt: skip
            for key, value in given.items():
                columns[key].append(np.broadcast_to(value, len(rows)).astype(float))
    c = {key: np.concatenate(value) for key, value in columns.items()}
    mosaic = Mosaic("HSC", np.array([[0]]), (2048 * 0.168 / 3600, 4176 * 0.168 / 3600), (2048, 4176), 0.168)
    return _design(mosaic, c, np.full(len(c["visit"]), "z"), night_of(c["mjd"] + 0.5))  # nights of Hawaii


def dp1(data: Path) -> Design:
    """The public table of Rubin's first data, nine detectors; airmass from site and time."""
    import duckdb

    from pipelines.simulate.mosaic import Mosaic
    from pipelines.simulate.photometric_presets import airmass, night_of

    path = _there(data / "rubin_dp1_ccdvisit" / "dp1_ccdvisit_subsampled.parquet")
    rows = duckdb.sql(
        "SELECT ccdVisitId // 256 AS visit, ccdVisitId % 256 AS detector, expMidptMJD AS mjd, ra, dec, skyRotation AS rotation, "
        f"zeroPoint AS zero, band FROM '{path}' WHERE isfinite(zeroPoint) ORDER BY visit, detector"
    ).fetchnumpy()
    c = {key: np.asarray(rows[key], float) for key in ("visit", "detector", "mjd", "ra", "dec", "rotation", "zero")}
    _, first = np.unique(c["visit"], return_index=True)
    of_visit = np.searchsorted(c["visit"][first], c["visit"])
    c["airmass"] = airmass(c["mjd"], c["ra"][first][of_visit], c["dec"][first][of_visit])
    c["seconds"] = np.full(len(c["mjd"]), 30.0)
    mosaic = Mosaic("LSSTComCam", np.array([[0]]), (4072 * 0.2 / 3600, 4000 * 0.2 / 3600), (4072, 4000), 0.2)
    return _design(mosaic, c, np.asarray(rows["band"], str), night_of(c["mjd"]))


def _there(path: Path) -> Path:
    if not path.exists():
        raise click.ClickException(f"{path} is missing: the real zero points are not there (set DRP_REAL_DATA)")
    return path


def _design(mosaic: Any, c: dict[str, Array], band: NDArray[np.str_], night: NDArray[np.int64]) -> Design:
    from pipelines.simulate.photometric_conditions import Design, Pointings

    visit, detector = c["visit"].astype(np.int64), c["detector"].astype(np.int64)
    pointings = Pointings(
        visit, band, night, c["mjd"], c["ra"], c["dec"], c["rotation"], c["airmass"], c["seconds"], detector
    )  # fmt: skip
    nights, first = np.unique(night, return_index=True)
    gap = np.diff(c["mjd"][first]) > 21.0
    epochs = tuple(int(n) for n in nights[1:][gap])
    return Design(mosaic, _around(pointings), pointings, zero_points=c["zero"], epochs=epochs)


def _around(pointings: Pointings) -> Stars:
    """Stars in every cell of 0.1 deg within 0.2 deg of a pointing's, DENSITY per square degree, number growing as 10^(0.2 r)."""
    from pipelines.simulate.photometric_conditions import Stars

    rng = np.random.default_rng(1)
    step = np.arange(-2, 3)
    row = (np.floor(pointings.dec / CELL)[:, None, None] + step[None, :, None]) + 0.0 * step
    width = CELL / np.cos(np.radians((row + 0.5) * CELL))
    column = np.floor(pointings.ra[:, None, None] / width) + step
    cells = np.unique(np.stack([row.ravel(), column.ravel()], axis=1), axis=0)
    cells = np.repeat(cells, round(DENSITY * CELL**2), axis=0) + 0.0
    width = CELL / np.cos(np.radians((cells[:, 0] + 0.5) * CELL))
    count = len(cells)
    ra, dec = np.mod((cells[:, 1] + rng.random(count)) * width, 360.0), (cells[:, 0] + rng.random(count)) * CELL
    r = 5.0 * np.log10(rng.uniform(10 ** (0.2 * 15.5), 10 ** (0.2 * 20.5), count))
    return Stars(ra, dec, r, np.clip(rng.normal(0.8, 0.35, count), -0.1, 1.4))
