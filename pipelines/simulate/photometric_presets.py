"""Surveys of known size and features for the benchmarks and tests of the global calibration."""

from __future__ import annotations

import datetime
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from pipelines.simulate.mosaic import Mosaic
from pipelines.simulate.photometric_conditions import Design, Pointings, Stars
from pipelines.simulate.photometric_survey import Survey, tiles

Array = NDArray[np.float64]
#: Rubin Observatory, deg.
LATITUDE, LONGITUDE = -30.2446, -70.7494
CADENCE, POSITIONS = "rubin_opsim/baseline_v2.0_1yr.db", "tycho2_1871011.parquet"
#: Of a large telescope: 1 e-/s, magnitudes.
LARGE = {"u": 26.5, "g": 28.4, "r": 28.2, "i": 27.9, "z": 27.5, "y": 26.7}


def fgcm_like(
    seed: int = 1, visits: int = 360, side: int = 5, nights: int = 6, density: float = 1600.0, cloudy: float = 0.15
) -> Design:
    """360 exposures in griz x 25 detectors over 6 nights, 15 % under clouds, a new flat half way, chromatic air: about 560,000
    observations at the defaults. The visits dither over 2.4 x 2.4 deg; ``density`` is that of stars per square degree."""
    rng = np.random.default_rng([seed, 0])
    mosaic = Mosaic.square(side, 0.2, pixels=2000)
    pointings = _run(rng, visits, nights, ("g", "r", "i", "z"), (30.0, -1.0), 1.2, 90.0)
    stars = _field(rng, (30.0, -1.0), 1.2 + mosaic.radius, density, (15.5, 20.5))
    half = int(np.unique(pointings.day_obs)[nights // 2])
    return Design(mosaic, stars, pointings, seed, cloudy=cloudy, epochs=(half,))


def dense(visits: int = 1000, seed: int = 1) -> Design:
    """Visits of 189 detectors in one band, all over a field that they cover 23 times, 920 stars per square degree: 8.8 million
    observations of 400,000 stars at the default."""
    rng = np.random.default_rng([seed, 0])
    side = float(np.sqrt(0.436 * visits))
    mosaic = Mosaic.square(15, 0.2311, corner=3)
    pointings = _run(rng, visits, 10, ("r",), (100.0, 0.0), 0.5 * side - 0.4, 30.0)
    stars = _field(rng, (100.0, 0.0), 0.5 * side, 920.0, (15.0, 20.0))
    return Design(mosaic, stars, pointings, seed, zero_point=LARGE, cloudy=0.1, min_snr=20.0)


def year(data: Path, fraction: float = 1.0, seed: int = 1) -> Iterator[Survey]:
    """A year of Rubin's simulated pointings and the positions of real stars, in tiles of the sky (see year_design)."""
    design = year_design(data, fraction, seed)
    return tiles(design, int(np.clip(round(12.0 / np.sqrt(fraction)), 12, 60)))


def year_design(data: Path, fraction: float = 1.0, seed: int = 1) -> Design:
    """216,233 visits x 189 detectors in ugrizy from ``data``/CADENCE, the stars of ``data``/POSITIONS (1.87 million) or a
    ``fraction`` of them, with made-up colours and fainter by six magnitudes: 1e8 observations in all.

    FileNotFoundError names what is missing. A (visit, detector) without a star has no summary.
    """
    for name in (CADENCE, POSITIONS):
        if not (data / name).is_file():
            raise FileNotFoundError(f"{data / name} is missing: the real cadence and star positions are not there")
    rng = np.random.default_rng([seed, 0])
    rows = pq.read_table(data / POSITIONS)
    rows = rows.filter(np.random.default_rng([seed, 3]).random(rows.num_rows) < fraction)
    ra, dec, bright = (rows[name].to_numpy().astype(float) for name in ("ra", "dec", "vt"))
    stars = Stars(ra, dec, np.clip(np.nan_to_num(bright, nan=11.0), 8.0, 13.0) + 7.0, _colours(rng, len(ra)))
    pointings = cadence(data / CADENCE)
    nights = np.unique(pointings.day_obs)
    epochs = tuple(int(night) for night in nights[len(nights) // 4 :: len(nights) // 4][:3])
    mosaic = Mosaic.square(15, 0.2311, corner=3)
    return Design(
        mosaic, stars, pointings, seed, zero_point=LARGE, cloudy=0.15, epochs=epochs, every_detector=False, reference_limit=21.0,
        min_snr=5.0,
    )  # fmt: skip


def cadence(path: Path) -> Pointings:
    """Pointings of a database of simulated visits (table ``observations``), in order of time; airmass from site and time."""
    columns = "observationStartMJD, fieldRA, fieldDec, rotSkyPos, filter, visitExposureTime"
    with sqlite3.connect(f"file:{path}?immutable=1", uri=True) as con:
        found = con.execute(f"SELECT {columns} FROM observations ORDER BY observationStartMJD, observationId").fetchall()
    mjd, ra, dec, rotation = (np.array([row[k] for row in found]) for k in range(4))
    band, seconds = np.array([row[4] for row in found]), np.array([row[5] for row in found])
    nights = night_of(mjd)
    first = np.searchsorted(nights, nights)
    visit = nights * 100_000 + np.arange(len(mjd)) - first
    return Pointings(visit, band, nights, mjd, ra, dec, rotation, airmass(mjd, ra, dec), seconds)


def night_of(mjd: Array) -> NDArray[np.int64]:
    """Observing nights (YYYYMMDD, the date 12 hours ago) of times (MJD)."""
    days, row = np.unique(np.floor(mjd - 0.5).astype(np.int64), return_inverse=True)
    names = [int((datetime.date(1858, 11, 17) + datetime.timedelta(days=d)).strftime("%Y%m%d")) for d in days.tolist()]
    return np.array(names, np.int64)[row]


def airmass(mjd: ArrayLike, ra: ArrayLike, dec: ArrayLike, latitude: float = LATITUDE, longitude: float = LONGITUDE) -> Array:
    """Airmass (Kasten & Young 1989) of positions (deg) at times (MJD UT): sidereal time to 0.001 deg, no precession."""
    sidereal = 280.46061837 + 360.98564736629 * (np.asarray(mjd, float) - 51544.5) + longitude
    hour = np.radians(sidereal - np.asarray(ra, float))
    d, b = np.radians(np.asarray(dec, float)), np.radians(latitude)
    sine = np.sin(d) * np.sin(b) + np.cos(d) * np.cos(b) * np.cos(hour)
    height = np.degrees(np.arcsin(np.clip(sine, 0.0, 1.0)))
    return np.asarray(1.0 / (np.sin(np.radians(height)) + 0.50572 * (height + 6.07995) ** -1.6364))


def _run(
    rng: np.random.Generator, visits: int, nights: int, bands: tuple[str, ...], centre: tuple[float, float], half: float,
    seconds: float,
) -> Pointings:  # fmt: skip
    """Visits shared out evenly over nights of eight hours, bands in turn, positions in a square of half-width ``half`` deg; the
    field passes the meridian at midnight at airmass 1.05 and a random rotation."""
    number = np.arange(visits)
    night = number * nights // visits
    first = np.searchsorted(night, night)
    hours = 8.0 * ((number - first + rng.random(visits)) / np.bincount(night)[night] - 0.5)
    mjd = 61041.0 + night + 4.5 / 24.0 + hours / 24.0
    day_obs = night_of(mjd)
    band = np.array(bands)[(number - first) % len(bands)]
    offset = rng.uniform(-half, half, (2, visits))
    ra, dec = centre[0] + offset[0] / np.cos(np.radians(centre[1])), centre[1] + offset[1]
    height = 0.30 + 0.65 * np.cos(np.radians(15.0 * hours))
    full = np.full(visits, seconds)
    rotation = rng.uniform(-90.0, 90.0, visits) % 360.0
    return Pointings(day_obs * 100_000 + number - first, band, day_obs, mjd, ra, dec, rotation, 1.0 / height, full)


def _field(
    rng: np.random.Generator, centre: tuple[float, float], half: float, density: float, limits: tuple[float, float]
) -> Stars:
    """Stars in a square of half-width ``half`` deg, their number growing as 10^(0.2 r) between the limits."""
    count = round(density * (2.0 * half) ** 2)
    offset = rng.uniform(-half, half, (2, count))
    dec = centre[1] + offset[1]
    ra = np.mod(centre[0] + offset[0] / np.cos(np.radians(centre[1])), 360.0)
    low, high = 10 ** (0.2 * limits[0]), 10 ** (0.2 * limits[1])
    return Stars(ra, dec, 5.0 * np.log10(rng.uniform(low, high, count)), _colours(rng, count))


def _colours(rng: np.random.Generator, count: int) -> Array:
    """g - r of a field at high latitude: the blue turn-off and the red dwarfs."""
    red = rng.random(count) < 0.4
    return np.clip(np.where(red, rng.normal(1.2, 0.12, count), rng.normal(0.5, 0.15, count)), -0.1, 1.4)
