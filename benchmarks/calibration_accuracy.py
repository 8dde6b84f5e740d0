"""How far the global calibration is from the truth, and from the best that its data allow.

The set has the size and the features on which FGCM 3.16 left 1.82, 1.15, 1.79 and 2.10 mmag in g, r, i and z: 360 exposures
of 25 detectors over 6 nights, 15 % under clouds with gradients, new flats of 10 mmag half way, stars with spectra under an
atmosphere whose aerosol and water change. Figures are over seeds; those of one seed have few independent large-scale modes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import click
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks import Quantity

ABOUT = "The global calibration against the truth of a simulated survey and its Cramer-Rao bound: zero points, errors, stars."
OPTIONS: list[click.Parameter] = [
    click.Option(["--seeds"], type=click.IntRange(1), help="Surveys simulated [default: 5, 10 and 20 at scales 1, 10 and 100]."),
]
WANTED = {"g": 1.1, "r": 0.7, "i": 0.7, "z": 1.1}
#: Bands of which no star has a magnitude: no colours.
NO_COLOURS = {"colour_bands": ("none", "none")}
Array = NDArray[np.float64]


def run(scale: int, seeds: int | None) -> Iterator[Quantity]:
    """Zero points by band, the bound, pulls, verdicts on clouds, reserved stars; and zero points without colour terms."""
    from benchmarks._bound import bound
    from benchmarks._calibration import Offsets, camera_of, offsets, rms, settings_of
    from pipelines.simulate.photometric_presets import fgcm_like
    from pipelines.simulate.photometric_survey import simulate
    from pipelines.step2c.calibrate import calibrate

    found: list[dict[str, Offsets]] = []
    plain: list[dict[str, Offsets]] = []
    limits: list[dict[str, float]] = []
    spread: list[Array] = []
    observations = 0
    for seed in range(1, (seeds or {1: 5, 10: 10, 100: 20}[scale]) + 1):
        design = fgcm_like(seed)
        survey = simulate(design)
        tiles = survey.tiles()
        solved = calibrate(tiles, settings_of(design), camera=camera_of(design))
        found.append(offsets(solved.products["photo_calib"], survey.truth))
        limits.append({band: bound(design, survey, band) for band in WANTED})
        spread.append(_reserved(survey.tables, solved.products, design.pivot, design.floor))
        blind = calibrate(tiles, settings_of(design, **NO_COLOURS), camera=camera_of(design))
        plain.append(offsets(blind.products["photo_calib"], survey.truth))
        observations += survey.observations
    for band, wanted in WANTED.items():
        ours = 1000.0 * rms(part[band].rms for part in found)
        yield Quantity(f"zero points, {band}", "mmag", ours, f"<= {wanted}", ours <= wanted, count=observations)
        least = 1000.0 * rms(part[band] for part in limits)
        yield Quantity(f"Cramer-Rao bound, {band}", "mmag", least)
        yield Quantity(f"rms / bound, {band}", "", ours / least, "<= 1.2", ours / least <= 1.2)
        yield Quantity(f"constant (rms over seeds), {band}", "mmag", 1000.0 * rms(part[band].constant for part in found))
        without = 1000.0 * rms(part[band].rms for part in plain)
        yield Quantity(f"zero points without colour terms, {band}", "mmag", without)
    each = [part[band] for part in found for band in WANTED]
    for clear in (True, False):
        chosen = [part.clear == clear for part in each]
        pull = np.concatenate([(part.off / part.error)[own] for part, own in zip(each, chosen, strict=True)])
        if clear:
            yield Quantity("pulls, clear", "", rms(pull), "0.9 to 1.1", 0.9 <= rms(pull) <= 1.1, count=len(pull))
        else:
            yield Quantity("pulls, cloudy", "", rms(pull), count=len(pull))
            yield Quantity("zero points, cloudy", "mmag", 1000.0 * rms(np.concatenate([p.off[~p.clear] for p in each])))
    right = float(np.mean(np.concatenate([part.clear == part.judged for part in each])))
    yield Quantity("visits judged rightly", "", right)
    stars = np.concatenate(spread)
    width = float(np.median(np.abs(stars)) / 0.6745)
    yield Quantity("reserved stars, scatter / photon limit", "", width, "<= 1.05", width <= 1.05, count=len(stars))


def _reserved(tables: Mapping[str, pa.Table], products: Mapping[str, pa.Table], pivot: float, floor: float) -> Array:
    """Deviations of reserved stars' observations in clear visits from their weighted means, in units of what photons, sky and
    floor allow. Second-order extinction is taken off with the night's colour term and the star's own mean colour."""
    import duckdb

    with duckdb.connect() as con:
        for name in ("isolated_star", "isolated_star_association", "preliminary_visit_summary"):
            con.register(name, tables[name])
        for name in ("photo_calib", "standard_star", "calib_night"):
            con.register(name, products[name])
        rows = con.execute(RESERVED, {"pivot": pivot, "floor": floor}).fetchnumpy()
    return np.asarray(rows["deviation"])


RESERVED = """
WITH colour AS (
  SELECT isolatedStarId, max(mag) FILTER (band = 'g') - max(mag) FILTER (band = 'r') - $pivot AS c
  FROM standard_star GROUP BY isolatedStarId
),
calibrated AS (
  SELECT a.isolatedStarId, a.band,
         p.zeroPoint - 2.5 * log10(a.instFlux) - coalesce(n.colour_term * (s.airmass - 1.2) * c.c, 0) AS m,
         1 / (pow(2.5 / ln(10) * a.instFluxErr / a.instFlux, 2) + $floor * $floor) AS w
  FROM isolated_star_association a
  JOIN isolated_star i USING (isolatedStarId)
  JOIN photo_calib p USING (visit, detector)
  JOIN preliminary_visit_summary s USING (visit, detector)
  LEFT JOIN calib_night n ON n.band = a.band AND n.day_obs = s.day_obs
  LEFT JOIN colour c ON c.isolatedStarId = a.isolatedStarId
  WHERE i.reserved AND p.photometric
),
mean AS (
  SELECT isolatedStarId, band, sum(w * m) / sum(w) AS mean, sum(w) AS total FROM calibrated GROUP BY ALL HAVING count(*) > 2
)
SELECT (m - mean) * sqrt(w / (1 - w / total)) AS deviation
FROM calibrated JOIN mean USING (isolatedStarId, band)
ORDER BY deviation
"""
