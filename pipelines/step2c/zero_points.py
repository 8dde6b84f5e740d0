"""Level 2: each detector of a visit has the zero point of the global solution, and its own residual as far as that is not noise."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.quantum import Inputs, Quantum, returned
from pipelines.step2c import camera as cameras
from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
INPUTS = ("preliminary_visit_summary", "calib_visit", "calib_flat", "calib_residual")
#: A visit's own variance rests on few detectors: that of the visits of its band counts as so many.
USUAL = 20.0


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``photo_calib`` for every (visit, detector)."""
    settings = quantum.settings(Settings)
    with duckdb.connect(config={"threads": 1}) as con:
        for name in INPUTS:
            inputs.relation(con, name)
        return {"photo_calib": returned("photo_calib", zero_points(con, cameras.of(con), settings))}


def zero_points(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> pa.Table:
    """The rows of ``photo_calib`` (all columns but site), from the inputs as views on ``con``."""
    con.execute(statement("fixed_point"))
    con.register("focal_plane", camera.focal_plane)
    rows = con.sql(statement("block_residuals")).to_arrow_table()
    weight, g, others, visits, detectors = (rows[name].to_numpy() for name in ("weight", "g", "others", "visits", "detectors"))
    own = own_variance(rows["visit"].to_numpy(), np.asarray(rows["band"].to_pylist()), weight, g) / (1.0 + others)
    own = np.maximum(own, settings.detector_scatter**2)
    shrunk, variance = level_two(own, weight, others, visits, rows["flatVariance"].to_numpy(), settings.detector_scatter)
    apart = np.maximum(own - settings.detector_scatter**2, 0.0)  # what the errors of level 1 do not know of
    error = np.sqrt(rows["visitVariance"].to_numpy() + variance + apart / detectors)
    stars = rows["stars"].to_numpy()
    made = {
        "zeroPoint": rows["zeroPoint"].to_numpy() - shrunk * g, "zeroPointErr": error, "nStar": stars.astype(np.int32),
        "few_stars": stars < settings.min_stars,
    }  # fmt: skip
    names = (
        "day_obs",
        "instrument",
        "band",
        "physical_filter",
        "visit",
        "detector",
        "photometric",
        "extrapolated",
        "absolute",
        "chi2",
    )
    return pa.table({name: rows[name] for name in names} | made)


def level_two(own: Array, weight: Array, others: Array, visits: Array, flat: Array, known: float) -> tuple[Array, Array]:
    """How much of its residual a detector of a visit gets, and the variance of flat and deviation together, (B,) each.

    A detector of a visit is off by e, of variance s = ``own``. Its residual g, seen from a flat that is the mean over n visits,
    is e + noise - mean(e + noise); the noise is that of its stars (1 / ``weight``) and of the others in their means
    (``others`` s): m. It gets the part q = s / (s + m); flat and q g together are off by
    (1 - q) (mean(e) - e + mean(noise)) + q noise. ``flat``: variance of the flats, in which ``known``^2 / n counts as noise.
    """
    noise = 1.0 / np.maximum(weight, 1e-9) + others * own
    part = own / (own + noise)
    mean = np.maximum(flat - known**2 / visits, 0.0)
    variance = (1 - part) ** 2 * (own * (1.0 - 1.0 / visits) + mean) + part**2 * noise + 2 * part * (1 - part) * mean
    return part, variance


def own_variance(visit: NDArray[np.int64], band: NDArray[np.str_], weight: Array, g: Array) -> Array:
    """Variance of the residuals g of a visit's detectors beyond their noise 1 / weight, for each of them (B,).

    Moment estimator (DerSimonian & Laird 1986) by visit, averaged with the median of the visits of its band; what comes out below
    zero is zero.
    """
    visits, own = np.unique(visit, return_inverse=True)
    ok = weight > 1.0
    count = np.bincount(own, ok, len(visits))
    s1, s2, sg, sgg = (
        np.bincount(own, np.where(ok, value, 0.0), len(visits)) for value in (weight, weight**2, weight * g, weight * g * g)
    )
    top = sgg - sg**2 / np.where(s1 > 0, s1, 1.0) - np.maximum(count - 1, 0)
    bottom = s1 - s2 / np.where(s1 > 0, s1, 1.0)
    single = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    of_visit = np.empty(len(visits), band.dtype)
    of_visit[own] = band
    usual = np.zeros(len(visits))
    for name in np.unique(of_visit):
        mine = of_visit == name
        enough = mine & (count > 2)
        usual[mine] = np.median(single[enough]) if enough.any() else 0.0
    mixed = (count * single + USUAL * usual) / (count + USUAL)
    return np.asarray(np.maximum(np.where(count > 1, mixed, usual), 0.0)[own])
