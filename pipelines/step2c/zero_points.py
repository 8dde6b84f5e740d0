"""Level 2: each detector of a visit has the zero point of the global solution, and its own residual as far as that is not noise."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.quantum import Inputs, Quantum, returned
from pipelines.step2c import camera as cameras
from pipelines.step2c import deviations
from pipelines.step2c.camera import Camera
from pipelines.step2c.deviations import total
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
INPUTS = ("calib_visit", "calib_flat", "calib_error", "calib_residual")
OF_VISIT = (
    "day_obs", "instrument", "band", "physical_filter", "visit", "photometric", "extrapolated", "absolute", "chi2",
)  # fmt: skip


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``photo_calib`` for every (visit, detector)."""
    settings = quantum.settings(Settings)
    with duckdb.connect(config={"threads": 1}) as con:
        for name in INPUTS:
            inputs.relation(con, name)
        return {"photo_calib": returned("photo_calib", zero_points(con, cameras.of(con, "calib_visit"), settings))}


def zero_points(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings) -> pa.Table:
    """The rows of ``photo_calib`` (all columns but site), from the inputs as views on ``con``."""
    con.execute(statement("fixed_point"))
    con.register("focal_plane", camera.focal_plane)
    con.execute(statement("judged_visits"))
    rows = con.sql(statement("block_residuals")).to_arrow_table()
    number = rows["number"].combine_chunks()
    visits = con.sql("FROM judged_visit ORDER BY number").to_arrow_table()
    for name in ("epoch", *OF_VISIT):  # of a detector as of its visit, texts as dictionaries
        values = visits[name].combine_chunks()
        rows = rows.append_column(name, (values.dictionary_encode() if pa.types.is_string(values.type) else values).take(number))
    bands = rows["band"].combine_chunks().dictionary_encode()
    known = [settings.detector_scatters.get(band, settings.detector_scatter) for band in bands.dictionary.to_pylist()]
    part, variance = level_two(rows, np.asarray(known, float)[bands.indices.to_numpy()])
    stars = rows["stars"].to_numpy()
    made = {
        "detector": rows["detector"], "zeroPoint": rows["zeroPoint"].to_numpy() - part * rows["g"].to_numpy(),
        "zeroPointErr": np.sqrt(variance), "nStar": stars.astype(np.int32), "few_stars": stars < settings.min_stars,
    }  # fmt: skip
    return pa.table({name: rows[name] for name in OF_VISIT} | made)


def level_two(rows: pa.Table, known: float | Array) -> tuple[Array, Array]:
    """How much of its residual a detector of a visit gets, and the variance of its zero point then, (B,) each.

    A detector of a visit is off by e, of variance s. Its residual is g = e + n - own, own being what e and the noise n of its
    stars and of their means, of variance m, make of the level-1 zero point. It gets the part q and is then off by

        what all others make of its zero point + (1 - q) (own - e) + q n,

    which is least for q = (v - K m) / (v + m - 2 K m), v being the variance of own - e and K = weight x (``ofVisit`` +
    ``ofFlat``) what level 1 took of e + n. Where its weights were right that is s / (s + m), the best linear predictor
    (Henderson 1975). own varies by what the detectors of the visit, and those of the flat, really scatter: sum_c K_c^2 (s_c + m_c).
    Under clouds it is no less than the weights allowed for: clouds are smooth, and what they do where no star is seen is not told
    by what they do elsewhere. The rest of the level-1 ``variance`` is that of the ties to the sky (``common``) and of the noise of
    the others, which goes with what they scatter against what their weights assumed. ``known``: e that the weights of all
    detectors knew of (mag).
    """
    d = deviations.read(rows, known)
    variance, common = (np.asarray(rows[name].to_numpy(), float) for name in ("variance", "common"))
    found = deviations.find(d, known)
    s, m = found.s, found.m
    scatter = np.where(d.seen, d.fitted**2 * (s + found.fitted), 0.0)
    of_visit = total(d.visit, scatter) / np.maximum(total(d.visit, d.fitted), 1e-30)
    of_visit = d.of_visit * np.where(d.structure > 0, np.maximum(of_visit, 1.0), np.where(of_visit > 0, of_visit, 1.0))
    # what a flat's prior adds is no scatter
    of_flat = np.maximum(d.of_flat - d.of_flat**2 * total(d.flat, d.fitted), 0.0) + total(d.flat, d.of_flat**2 * scatter)
    alone = d.of_visit + d.of_flat
    own = np.minimum(alone, variance)
    part = own / np.maximum(alone, 1e-30)
    taken = np.where(d.seen, np.minimum(d.fitted * own, 0.95), 0.0)
    v = part * (of_visit + of_flat) + (1.0 - 2.0 * taken) * s
    v = np.maximum(v, (1.0 - taken) ** 2 * s + np.where(d.seen, taken**2 * m, 0.0))  # what e and n alone make of it
    cross = taken * m
    q = np.clip((v - cross) / (v + m - 2.0 * cross), 0.0, 1.0)
    common = np.minimum(common, variance - own)
    network = (variance - own - common) * total(d.band, scatter) / np.maximum(total(d.band, d.fitted), 1e-30)
    return q, common + network + (1.0 - q) ** 2 * v + 2.0 * q * (1.0 - q) * cross + q**2 * m
