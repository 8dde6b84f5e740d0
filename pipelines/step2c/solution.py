"""The global photometric solution: the equations of all tracts added up and solved, band by band, and visits judged.

Bands share nothing but the colours of stars, which the equations carry: each band is a system of its own. Which visits are
photometric is found by solving: those that may not be have terms for a gradient at first, and keep them if they need them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.quantum import Inputs, NoWork, Quantum, returned
from pipelines.step2c import camera as cameras
from pipelines.step2c import components, errors, merged, model, normal, scatters
from pipelines.step2c.camera import Camera
from pipelines.step2c.model import Equations, Model, Visits
from pipelines.step2c.observations import register_visits
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement
from pipelines.step2c.system import System

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
INPUTS = ("normal_term", "normal_equation", "visit_scatter", "preliminary_visit_summary")
PRODUCTS = ("calib_visit", "calib_night", "calib_flat", "calib_component", "calib_error")
#: Rounds of solving and judging visits at most; and how many visits may still change when it is settled.
ROUNDS, SETTLED = 4, 0.001
#: How well large systems are solved to judge visits by (relative residual): at first, when many will change, and then.
JUDGING = 1e-5, 1e-6


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """PRODUCTS; NoWork without visits."""
    settings = quantum.settings(Settings)
    with duckdb.connect(config={"threads": 1}) as con:
        for name in INPUTS:
            inputs.relation(con, name)
        products = solve(con, cameras.of(con), settings)
        return {name: returned(name, rows) for name, rows in products.items()}


@dataclass(frozen=True)
class Solved:
    """A band's solution: values and errors of the unknowns, the judgement of its visits (V,), and how far things were taken to
    scatter (mag): ``night``, ``drift``, ``flat``."""

    visits: Visits
    equations: Equations
    model: Model
    system: System
    solution: normal.Solution
    photometric: Mask
    level: Array
    component: components.Components
    scatter: dict[str, float]


def solve(con: duckdb.DuckDBPyConnection, camera: Camera, settings: Settings, threads: int = 1) -> dict[str, pa.Table]:
    """The products, from the inputs as views on ``con``; ``threads`` bands at a time. The same bits whatever their number and the
    order of rows."""
    con.execute(statement("fixed_point"))
    register_visits(con, camera, settings)
    con.execute(statement("merged_terms"))
    con.execute("CREATE OR REPLACE TEMP TABLE seen_visit AS " + statement("seen_visits"))
    bands = [row[0] for row in con.sql("SELECT DISTINCT band FROM visit ORDER BY band").fetchall()]
    if not bands:
        raise NoWork("no visit has a preliminary summary")
    field = (
        np.stack([np.asarray(camera.focal_plane[name]) for name in ("x0", "y0")])
        if camera.focal_plane.num_rows
        else np.zeros((2, 1))
    )
    instrument = con.sql("SELECT min(instrument) FROM visit").fetchall()[0][0]
    reading = Lock()

    def of(band: str) -> tuple[dict[str, dict[str, Any]], pa.Table]:
        with reading:
            visits, equations = merged.visits(con, band), merged.equations(con, band)
            rows = con.sql(statement("detectors"), params={"band": band}).to_arrow_table()
        solved = solve_band(band, visits, equations, field, settings)
        seen = errors.Detectors(rows["visit"].to_numpy(), rows["detector"].to_numpy(), camera.focal_plane)
        made = errors.of_band(
            seen, visits, solved.component.visit, equations, solved.model, solved.system, solved.solution, solved.scatter["flat"],
            settings.cloud_structure,
        )  # fmt: skip
        for name, value in (("instrument", instrument), ("band", band)):
            rows = rows.append_column(name, pa.DictionaryArray.from_arrays(np.zeros(rows.num_rows, np.int8), [value]))
        for name, values in made.items():
            rows = rows.append_column(name, pa.array(values, pa.float32()))
        return _rows(solved, settings), rows

    size = "SELECT band FROM visit LEFT JOIN merged_term USING (band, visit) GROUP BY band ORDER BY count(*) DESC, band"
    large_first = [row[0] for row in con.sql(size).fetchall()]
    with ThreadPoolExecutor(threads) as executor:
        found = dict(zip(large_first, executor.map(of, large_first), strict=True))
    for number, band in enumerate(bands):
        for name, columns in found[band][0].items():
            rows = pa.table({**columns, "band": pa.repeat(pa.scalar(band), len(next(iter(columns.values()))))})
            con.register(f"{name}_of_band", rows)
            con.execute(
                f"CREATE OR REPLACE TEMP TABLE {name} AS FROM {name}_of_band"
                if number == 0
                else f"INSERT INTO {name} BY NAME FROM {name}_of_band"
            )
    priors = {"gauge": settings.gauge, **{name: getattr(settings, name) for name in ("extinction", "colour", "water")}}
    made = {
        name: con.sql(statement(f"{name}s"), params=priors if name == "calib_night" else None).to_arrow_table()
        for name in PRODUCTS[:-1]
    }
    return {**made, "calib_error": pa.concat_tables([found[band][1] for band in bands])}


def solve_band(band: str, visits: Visits, equations: Equations, field: Array, s: Settings) -> Solved:
    """Solve and judge until the judgement stands; ``field`` (2, D): where the detectors are, deg."""
    component = components.find(visits, equations, s.min_references)
    suspect = np.zeros(len(visits.visit), bool)
    own = equations.kind == "gradient_x"
    suspect[np.searchsorted(visits.visit, equations.visit[own])] = True
    seen = visits.stars > 0
    photometric = seen & ~suspect & ~(visits.excess > s.cloud_scatter)
    scatter = {name: float(getattr(s, name)) for name in scatters.KINDS}
    known: dict[Any, float] = {}
    number = 0
    while True:
        number += 1
        told = replace(s, night=scatter["night"], drift=scatter["drift"], flat=scatter["flat"])
        built = model.make(band, visits, equations, photometric, told)
        system, right = built.normal(equations)
        group = np.asarray(built.unknowns.visit[: built.of_visits])
        start = np.array([known.get(name, 0.0) for name in built.unknowns.names()])
        asked = np.asarray(built.unknowns.kind) != "zero_point"  # judging needs no errors of zero points, of which there are most
        solution = normal.solve(system, right, group, s.direct, max(s.tolerance, JUDGING[number > 1]), 0, start, asked)
        level = _level(visits, solution.unknowns[built.zero])
        tilt = _tilt(built, solution.unknowns, solution.variances, field)
        step = built.steps @ solution.unknowns + built.level
        low = _low(visits, step, scatter["drift"], photometric, s.cloud_step)
        clear = seen & ~(visits.excess > s.cloud_scatter) & (level > -s.cloud_depth) & (tilt <= s.cloud_tilt) & ~low
        now = scatters.find(built, solution, scatter)
        changed = np.count_nonzero(clear != photometric)
        settled = changed <= SETTLED * len(seen) and scatters.settled(scatter, now)
        if settled or number == ROUNDS:
            if solution.base is not None:
                solution = normal.solve(
                    system, right, group, s.direct, s.tolerance, s.probes, solution.unknowns, base=solution.base
                )
                level = _level(visits, solution.unknowns[built.zero])
            return Solved(visits, equations, built, system, solution, photometric, level, component, scatter)
        photometric, scatter = clear, now
        known = dict(zip(built.unknowns.names(), solution.unknowns.tolist(), strict=True))
        del system, solution  # of a large band gigabytes, which the next round needs


def _level(visits: Visits, zero: Array) -> Array:
    """Zero point of each visit (V,), for one second at airmass 1, relative to the upper quartile of its band."""
    value = zero + visits.nominal - visits.exposure + visits.extinction * (np.nan_to_num(visits.airmass, nan=1.0) - 1.0)
    seen = visits.stars > 0
    return np.asarray(value - np.quantile(value[seen] if seen.any() else value, 0.75))


def _tilt(built: Model, unknowns: Array, variance: Array, field: Array) -> Array:
    """Rms over the detectors of each visit's gradient (mag), where it has a significant one (3 sigma), else 0. ``variance``: of the
    unknowns."""
    slope = np.where(built.gradient >= 0, unknowns[built.gradient], 0.0)  # (2, V)
    noise = np.where(built.gradient >= 0, variance[built.gradient], 0.0)
    centred = field - field.mean(axis=1, keepdims=True)
    cover = centred @ centred.T / centred.shape[1]
    square = np.einsum("iv,ij,jv->v", slope, cover, slope)
    return np.where(square > 9.0 * (np.diag(cover) @ noise), np.sqrt(np.maximum(square, 0.0)), 0.0)


def _low(visits: Visits, step: Array, drift: float, photometric: Mask, least: float) -> Mask:
    """Visits that lie below their night, by 4 times what is usual and what the night may have drifted since (or until) it was seen
    to be clear, and by ``least`` (mag), where four others tell of the night."""
    known = photometric & np.isfinite(step)
    nights, of_night = np.unique(visits.day_obs, return_inverse=True)
    others = np.bincount(of_night, known, len(nights))[of_night] - known
    usual = float(np.median(np.abs(step[known]))) if known.any() else 0.0
    below = np.maximum(least, 4.0 * np.hypot(1.4826 * usual, drift * np.sqrt(_apart(visits.mjd, known))))
    return np.asarray((others >= 4) & (np.nan_to_num(step) < -below))


def _apart(mjd: Array, known: Mask) -> Array:
    """How long a walk has been on its own at ``mjd`` (V,), hours, between the last before and the first after that are ``known``:
    1 / (1 / since + 1 / until); 0 where there is no telling."""
    order = np.argsort(mjd, kind="stable")
    hours, there = 24.0 * mjd[order], (known & np.isfinite(mjd))[order]
    last = np.maximum.accumulate(np.append(-np.inf, np.where(there, hours, -np.inf)))[:-1]
    first = np.minimum.accumulate(np.append(np.inf, np.where(there, hours, np.inf)[::-1]))[-2::-1]
    rate = sum(1.0 / np.maximum(one, 1e-6) for one in (hours - last, first - hours))
    apart = np.empty(len(mjd))
    apart[order] = np.divide(1.0, rate, out=np.zeros(len(mjd)), where=rate > 0)
    return apart


def _rows(solved: Solved, s: Settings) -> dict[str, dict[str, Any]]:
    """The solution of a band as columns: of its visits, of its unknowns, and of its components."""
    v, m, solution = solved.visits, solved.model, solved.solution
    error = np.sqrt(solution.variances)
    gradient = [np.where(m.gradient[k] >= 0, solution.unknowns[m.gradient[k]], 0.0) for k in range(2)]
    gradient_error = [np.where(m.gradient[k] >= 0, error[m.gradient[k]], 0.0) for k in range(2)]
    few = solved.equations.few
    slopes = np.asarray(m.slopes @ solution.unknowns[: len(solution.unknowns) - few])
    own = np.flatnonzero(solved.equations.kind == "zero_point")
    slope = np.zeros(len(v.visit))
    slope[np.searchsorted(v.visit, solved.equations.visit[own])] = slopes[own - few]
    of_unknown = {
        "kind": m.unknowns.kind, "visit": m.unknowns.visit, "day_obs": m.unknowns.day_obs, "epoch": m.unknowns.epoch,
        "detector": m.unknowns.detector, "value": solution.unknowns, "error": error,
    }  # fmt: skip
    stars = {
        "kind": solved.equations.kind,
        "epoch": solved.equations.epoch,
        "detector": solved.equations.detector,
        "stars": solved.equations.stars,
    }
    return {
        "solved_visit": {
            "visit": v.visit, "zero": solution.unknowns[m.zero], "error": error[m.zero], "gradient_x": gradient[0],
            "gradient_y": gradient[1], "gradient_error": np.hypot(*gradient_error), "slope": slope, "level": solved.level,
            "photometric": solved.photometric, "component": solved.component.visit,
            "absolute": solved.component.absolute[solved.component.visit],
        },
        "solved_unknown": of_unknown,
        "term_stars": stars,
        "solved_component": components.columns(solved.component, v),
        "solved_drift": _drifts(m, solution),
    }  # fmt: skip


def _drifts(m: Model, solution: normal.Solution) -> dict[str, Array]:
    """By how much the zero points of nights are larger at their end than at their begin, sums over their parts, as columns with
    errors and what was assumed of them."""
    own = np.flatnonzero(np.asarray(m.unknowns.kind) == "drift")
    nights, of_night = np.unique(np.asarray(m.unknowns.day_obs, np.int64)[own], return_inverse=True)
    one, other = model.same(of_night, of_night)
    variance = np.bincount(of_night[one], solution.covariance(own[one], own[other]), len(nights))
    value, prior = (np.bincount(of_night, part, len(nights)) for part in (solution.unknowns[own], m.error[m.scatter["drift"]] ** 2))
    return {"day_obs": nights, "value": value, "error": np.sqrt(variance), "prior": np.sqrt(prior)}
