"""Level 2: each detector of a visit has the zero point of the global solution, and its own residual as far as that is not noise."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pipelines.quantum import Inputs, Quantum, returned
from pipelines.step2c import camera as cameras
from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
INPUTS = ("preliminary_visit_summary", "calib_visit", "calib_flat", "calib_error", "calib_residual")
KEPT = (
    "day_obs", "instrument", "band", "physical_filter", "visit", "detector", "photometric", "extrapolated", "absolute", "chi2",
)  # fmt: skip


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
    part, variance = level_two(rows, settings.detector_scatter)
    stars = rows["stars"].to_numpy()
    made = {
        "zeroPoint": rows["zeroPoint"].to_numpy() - part * rows["g"].to_numpy(), "zeroPointErr": np.sqrt(variance),
        "nStar": stars.astype(np.int32), "few_stars": stars < settings.min_stars,
    }  # fmt: skip
    return pa.table({name: rows[name] for name in KEPT} | made)


def level_two(rows: pa.Table, known: float) -> tuple[Array, Array]:
    """How much of its residual a detector of a visit gets, and the variance of its zero point then, (B,) each.

    A detector of a visit is off by e, of variance s. Its residual g, corrected for its own share in the means of its stars, is
    e + noise - own, own being what e and noise make of the level-1 zero point; the noise m is that of its stars (1 / ``weight``)
    and of the e of the others in their means. It gets the part q = s / (s + m), that of the best linear predictor
    (Henderson 1975), and is then off by

        what all others make of its zero point + (1 - q) (own - e) + q noise.

    The variance of own is the least that level 1 could have (``ofVisit`` + ``ofFlat``), and more where the weights did not know of
    e. The rest of the level-1 ``variance`` is that of the ties to the sky
    (``common``) and of the noise of the others, which goes with what their residuals show against what their weights assumed.
    ``known``: e that the weights of all detectors knew of (mag).
    """
    names = ("weight", "g", "others", "variance", "ofVisit", "ofFlat", "common", "structure")
    weight, g, others, variance, of_visit, of_flat, common, structure = (rows[name].to_numpy() for name in names)
    visit, band, sky = _numbers(rows, "visit"), _numbers(rows, "band"), _numbers(rows, "band", "photometric")
    weight = np.maximum(weight, 0.0)
    assumed = known**2 + structure
    alone = of_visit + of_flat
    fitted = weight / (1.0 + weight * assumed * (1.0 + others))
    # the part of e that flat and gradient take; the moments below know that the mean of a visit takes its share
    share = fitted / np.maximum(np.bincount(visit, fitted), 1e-30)[visit]
    left = 1.0 - np.clip(fitted * alone - share, 0.0, 0.9)
    seen = own_variance(visit, sky, weight / left, g)
    usual = np.maximum(_mean(band, seen, fitted) / np.maximum(_mean(band, left + others, fitted), 1e-9), known**2)
    s = np.maximum((seen - others * usual) / left, known**2)
    m = 1.0 / np.maximum(weight, 1e-9) + others * usual
    q = s / np.maximum(s + m, 1e-30)
    own = np.minimum(alone, variance)
    new = s - assumed + others * (usual - assumed)
    more = of_visit * np.maximum(_mean(visit, fitted * new, fitted), 0.0)
    more *= own / np.maximum(alone, 1e-30)
    common = np.minimum(common, variance - own)
    network = (variance - own - common) * _mean(band, fitted * (s + m), fitted)
    return q, common + network + (1.0 - q) ** 2 * (own + more + s) + q**2 * m


def _numbers(rows: pa.Table, *names: str) -> IntArray:
    """Number (B,) of each combination of columns among those there are."""
    number = np.zeros(rows.num_rows, np.int64)
    for name in names:
        values = pc.dictionary_encode(rows[name].combine_chunks())
        number = number * (len(values.dictionary) + 1) + values.indices.to_numpy()
    return np.asarray((np.cumsum(np.bincount(number) > 0) - 1)[number])


def _mean(group: IntArray, value: Array, weight: Array) -> Array:
    """Weighted mean of the group of each element (B,)."""
    total = np.bincount(group, weight)
    return np.asarray((np.bincount(group, value * weight) / np.maximum(total, 1e-30))[group])


def own_variance(visit: IntArray, kind: IntArray, weight: Array, g: Array) -> Array:
    """Variance of the residuals g of a visit's detectors beyond their noise 1 / weight, for each of them (B,).

    Moment estimator (DerSimonian & Laird 1986) by visit, drawn to the mean of the visits of its ``kind`` (B,) as far as they
    differ by no more than so few detectors make them; what comes out below zero is zero.
    """
    count = int(visit.max(initial=-1)) + 1
    ok = weight > 1.0
    n, s1, s2, sg, sgg = (
        np.bincount(visit, np.where(ok, value, 0.0), count)
        for value in (np.ones_like(g), weight, weight**2, weight * g, weight * g * g)
    )
    top = sgg - sg**2 / np.where(s1 > 0, s1, 1.0) - np.maximum(n - 1, 0)
    bottom = s1 - s2 / np.where(s1 > 0, s1, 1.0)
    enough = (n > 2) & (bottom > 0)
    single = np.divide(top, bottom, out=np.zeros(count), where=enough)
    noise = np.divide(n - 1, bottom, out=np.zeros(count), where=enough)
    of_visit = np.zeros(count, np.int64)
    of_visit[visit] = kind
    own = np.zeros(count)
    for name in np.unique(of_visit):
        mine = of_visit == name
        if not (mine & enough).any():
            continue
        value, free = single[mine & enough], n[mine & enough] - 1.0
        usual = max(float(np.average(value, weights=free)), 0.0)
        chance = 2.0 * (usual + noise[mine]) ** 2 / np.maximum(n[mine] - 1.0, 1.0)
        differ = max(float(np.mean((value - usual) ** 2 - chance[enough[mine]])), 0.0)
        part = np.where(enough[mine], differ / np.maximum(differ + chance, 1e-30), 0.0)
        own[mine] = usual + part * (single[mine] - usual)
    return np.asarray(np.maximum(own, 0.0)[visit])
