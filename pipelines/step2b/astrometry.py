"""Step 2b, astrometric fit of a tract: the WCS of every (visit, detector), from all stars and the reference stars at once.

Stars at unknown positions tie the frames together; reference stars, moved to the epoch of each visit, tie them to the sky.
Where no reference star is connected, the mean positions by the preliminary WCSs are the gauge, and ``absolute`` is false.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines import skymap
from pipelines.quantum import Inputs, Quantum, returned
from pipelines.step2b import cells
from pipelines.step2b.chain import grid
from pipelines.step2b.field import Field, Settings, observe, pose
from pipelines.step2b.position_fit import Complex, Level, Problem, components, solve
from pipelines.step2b.sources import read
from pipelines.step2b.statement import statement
from pipelines.wcs import deproject, fit_tan_sip

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Solution:
    """``coefficients`` of the levels; ``residual`` (N,) complex arcsec; ``usable``, ``fitted`` (N,); per frame (F,): ``stars``
    used and whether it is ``tied`` to the sky."""

    coefficients: Complex
    residual: Complex
    usable: Mask
    fitted: Mask
    stars: IntArray
    tied: Mask


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``visit_wcs`` of a tract: one row per (visit, detector) with enough stars; NoWork where it has no detection."""
    settings = quantum.settings(Settings)
    tract, sky = int(quantum.data_id["tract"]), skymap.load(quantum.data_id["skymap"])
    centre = (float(sky.tract_centre(tract)[0]), float(sky.tract_centre(tract)[1]))
    with duckdb.connect(config={"threads": 1}) as con:
        sources = read(con, inputs, centre, settings)
        inputs.relation(con, "reference_star")
        found = con.execute(statement("reference_positions")).fetchnumpy()
    references = {name: np.ma.filled(column, np.nan) for name, column in found.items()}
    field = observe(sources, centre, settings)
    solution = fit(field, references, settings)
    rows = [{"tract": tract, "skymap": sky.name, **row} for row in summarise(field, solution, settings)]
    columns = {name: [row[name] for row in rows] for name in ROW.names}
    return {"visit_wcs": returned("visit_wcs", pa.table(columns, ROW))}


ROW = pa.schema(
    [
        ("tract", pa.int32()), ("skymap", pa.string()), ("visit", pa.int64()), ("detector", pa.int32()),
        ("band", pa.string()), ("wcs", pa.string()), ("nStar", pa.int32()), ("rms", pa.float64()),
        ("rms_reserved", pa.float64()), ("absolute", pa.bool_()),
    ]
)  # fmt: skip


def fit(field: Field, references: dict[str, Array], settings: Settings) -> Solution:
    """Solve, clip, and solve again; see position_fit for the problem."""
    star, frames = field.star, len(field.sources.frames)
    problem = pose(field, references, settings)
    reserved = cells.lot(cells.sky_cell(*field.mean, 60.0), salt=2) < settings.reserve
    fitted = ~reserved[star]
    usable, coefficients = fitted.copy(), None
    for _ in range(settings.rounds):
        current = replace(
            problem,
            weight=np.where(usable, problem.weight, 0.0),
            reference_weight=np.where(reserved, 0.0, problem.reference_weight),
        )
        group = components(current, frames)
        tied = _tied(current, group, settings.min_references)[group]
        current = _with_gauge(current, tied, (settings.gauge_pixels * field.sources.scale) ** -2)
        coefficients, correction = solve(current, coefficients)
        seen = problem.position + correction
        # reserved stars have means of their own: they test the maps without having shaped them
        means = replace(current, weight=np.where(usable | ~fitted, problem.weight, 0.0)).star_means(seen)
        residual = np.nan_to_num(seen - means[star])
        stars = np.bincount(problem.frame[usable], minlength=frames)
        usable = fitted & ~_outliers(residual, problem.weight, star, usable, settings.clip)
    assert coefficients is not None, "rounds must be positive"
    return Solution(coefficients, residual, usable, fitted, stars, tied)


def _tied(problem: Problem, group: IntArray, enough: int) -> Mask:
    """Which connected components hold ``enough`` reference stars."""
    counts = (problem.reference_weight[problem.star] > 0) & (problem.weight > 0)
    known = np.unique(np.stack([group[problem.frame[counts]], problem.star[counts]]), axis=1)[0]
    return np.asarray(np.bincount(known, minlength=int(group.max()) + 1) >= enough)


def _with_gauge(problem: Problem, tied: Mask, weight: float) -> Problem:
    """Stars of frames that nothing ties to the sky get their preliminary mean positions, weakly, as references."""
    stars = np.unique(problem.star[~tied[problem.frame]])
    weights = problem.reference_weight.copy()
    weights[stars] = 0.0
    means = replace(problem, reference_weight=weights).star_means(problem.position)[stars]
    weights[stars] = np.where(np.isfinite(means), weight, 0.0)
    reference = problem.reference.copy()
    reference[stars] = np.nan_to_num(means)
    return replace(problem, reference=reference, reference_weight=weights)


def _outliers(residual: Complex, weight: Array, star: IntArray, usable: Mask, clip: float) -> Mask:
    """Observations beyond ``clip`` sigma, in the scale of the bulk; of a star only the worst: it drags the mean along."""
    size = np.abs(residual) * np.sqrt(weight)
    bulk = float(np.median(size[usable])) / np.sqrt(2.0 * np.log(2.0)) if usable.any() else 1.0
    far = np.flatnonzero(size > clip * max(bulk, 1e-12))
    order = far[np.lexsort((far, -size[far], star[far]))]
    found = np.zeros(len(size), bool)
    found[order[np.unique(star[order], return_index=True)[1]]] = True
    return np.asarray(found | (~usable & (size > clip * bulk)))


def summarise(field: Field, solution: Solution, settings: Settings) -> list[dict[str, Any]]:
    """The rows of ``visit_wcs`` but for tract and skymap, ordered by visit and detector."""
    sources, chain = field.sources, field.chain
    pixels = [grid(tuple(size)) for size in chain.size]
    ends = np.cumsum([len(pixels[d][0]) for d in chain.detector])
    x, y = (np.concatenate([pixels[d][k] for d in chain.detector]) for k in range(2))
    frame = np.searchsorted(ends, np.arange(len(x)), side="right")
    correction = sum_of(field.levels(frame, x, y, settings), solution.coefficients)
    plane = (field.plane(*chain.pixel_to_sky(frame, x, y)) + correction) / 3600.0
    ra, dec = deproject(plane.real, plane.imag, *field.centre)
    squares = np.abs(solution.residual) ** 2 / 2.0
    rms = [_frame_rms(sources.frame, squares, use, len(chain.visit)) for use in (solution.usable, ~solution.fitted)]
    order = max(3, settings.device_order)
    rows = []
    for f in np.flatnonzero(solution.stars >= settings.min_stars):
        own = slice(ends[f] - len(pixels[chain.detector[f]][0]), ends[f])
        middle = (own.start + own.stop) // 2
        crpix = (float(x[middle]), float(y[middle]))
        wcs = fit_tan_sip(x[own], y[own], ra[own], dec[own], (float(ra[middle]), float(dec[middle])), crpix, order)
        info = sources.frames[f]
        rows.append(
            {
                "visit": info["visit"], "detector": info["detector"], "band": info["band"], "wcs": wcs.to_json(),
                "nStar": int(solution.stars[f]), "rms": float(np.nan_to_num(rms[0][f])),
                "rms_reserved": None if np.isnan(rms[1][f]) else float(rms[1][f]), "absolute": bool(solution.tied[f]),
            }
        )  # fmt: skip
    return rows


def sum_of(levels: tuple[Level, ...], coefficients: Complex) -> Complex:
    """The correction (N,) that all levels together make, arcsec."""
    total, at = np.zeros(len(levels[0].index), complex), 0
    for level in levels:
        end = at + level.count * level.terms.shape[1]
        total += level.design() @ coefficients[at:end]
        at = end
    return total


def _frame_rms(frame: IntArray, squares: Array, which: Mask, frames: int) -> Array:
    """Root mean square per frame (F,) of the squares of ``which`` observations; NaN where there are none."""
    count = np.bincount(frame[which], minlength=frames)
    return np.sqrt(np.bincount(frame[which], squares[which], frames) / np.where(count > 0, count, np.nan))
