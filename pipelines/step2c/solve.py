"""Step 2c: one photometric solution for all visits of all sites.

From the isolated stars, their observations and the preliminary visit summaries; see normal.py for the algebra and
unknowns.sql for the model. Bands share nothing but the stars' colours: their equations are blocks of one sparse system.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array

from pipelines.quantum import Inputs, NoWork, Quantum
from pipelines.step2c import normal, products
from pipelines.step2c.observations import prepare
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
INPUTS = ("isolated_star", "isolated_star_association", "preliminary_visit_summary", "reference_star")


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``photo_calib`` for every (visit, detector), ``standard_star``, ``calib_night``, ``calib_flat``; NoWork without visits."""
    settings = quantum.settings(Settings)
    with duckdb.connect(config={"threads": 1}) as con:
        for name in INPUTS:
            inputs.relation(con, name)
        return calibrate(con, settings)


@dataclass
class State:
    """What the rounds have found out: ``scatter`` beyond the errors by visit (mag), visits that are ``cloudy`` and the spread of
    their detectors, ``night_spread`` of photometric visits by band."""

    scatter: dict[int, float] = field(default_factory=dict)
    cloudy: dict[int, float] = field(default_factory=dict)
    night_spread: dict[str, float] = field(default_factory=dict)


def calibrate(con: duckdb.DuckDBPyConnection, settings: Settings) -> dict[str, pa.Table]:
    """The products, from the inputs as views on ``con``. The same bits whatever the order of rows and the number of threads."""
    con.execute(statement("fixed_point"))
    settings = prepare(con, settings)
    visits = con.sql("FROM visit ORDER BY visit").fetchnumpy()
    if not len(visits["visit"]):
        raise NoWork("no visit has a preliminary summary")
    blocks = con.sql("FROM block ORDER BY block").fetchnumpy()
    state = State(night_spread={band: settings.night for band in sorted(set(visits["band"]))})
    pivot = settings.reference_colour
    for number in range(settings.rounds):
        pivot = _colours(con, settings, pivot)
        _register(con, state)
        weigh = {"floor": settings.floor, "reference_floor": settings.reference_floor, "reach": settings.colour_reach}
        con.execute(statement("weighted"), {**weigh, "pivot": pivot or 0.0})
        system = normal.assemble(con, len(blocks["block"]))
        solution = normal.solve(system, *_model(con, len(blocks["block"]), pivot is not None, settings))
        _residuals(con, solution)
        if number + 1 < settings.rounds:
            judge(con, state, visits, blocks, solution, number, settings)
    return products.make(con, settings, blocks, system, solution)


def _colours(con: duckdb.DuckDBPyConnection, settings: Settings, pivot: float | None) -> float | None:
    """Make the table ``colour``; returns the colour at which zero points hold, None where no star has a colour."""
    blue, red = settings.colour_bands
    con.execute(statement("colours"), {"blue": blue, "red": red, "error": settings.colour_error})
    middle = con.sql("SELECT median(colour) FROM colour").fetchall()[0][0]
    return middle if pivot is None or middle is None else pivot


def _register(con: duckdb.DuckDBPyConnection, state: State) -> None:
    """What was found in the last round, as tables for this one."""
    for name, key, kind, value, found in (
        ("scatter", "visit", pa.int64(), "excess", state.scatter),
        ("cloudy", "visit", pa.int64(), "spread", state.cloudy),
        ("night_spread", "band", pa.string(), "spread", state.night_spread),
    ):
        keys = sorted(found)
        columns = [pa.array(keys, kind), pa.array([found[k] for k in keys], pa.float64())]  # type: ignore[index]
        con.register(name, pa.table(columns, [key, value]))


def _model(con: duckdb.DuckDBPyConnection, blocks: int, colours: bool, s: Settings) -> tuple[csr_array, csr_array, Array, Array]:
    """Terms of the blocks in the unknowns, and prior knowledge: matrix, targets, errors."""
    con.execute(statement("unknowns"), {"colours": colours})
    size = int(con.sql("SELECT count(*) FROM unknown").fetchall()[0][0])
    term = con.execute(statement("terms"), {"airmass": s.airmass}).fetchnumpy()
    row = np.asarray(term["block"], np.int64) + blocks * np.asarray(term["part"], np.int64)
    terms = csr_array((np.asarray(term["value"], float), (row, term["number"])), shape=(2 * blocks, size))
    errors = {
        "gauge": s.gauge, "unmeasured": s.unmeasured, "extinction": s.extinction, "flat": s.flat, "flat_mean": s.flat_mean,
        "colour": s.colour, "reference_colour": s.reference_colour_term,
    }  # fmt: skip
    known = con.execute(statement("prior_knowledge"), errors).fetchnumpy()
    first = np.unique(known["fact"], return_index=True)[1]
    prior = csr_array((np.asarray(known["value"], float), (known["fact"], known["number"])), shape=(len(first), size))
    return terms, prior, np.asarray(known["target"], float)[first], np.asarray(known["error"], float)[first]


def _residuals(con: duckdb.DuckDBPyConnection, solution: normal.Solution) -> None:
    """Make the table ``residual`` of this round, and ``solved`` of the unknowns."""
    zero, slope = np.split(solution.blocks, 2)
    con.register("block_value", pa.table({"block": np.arange(len(zero), dtype=np.int32), "zero": zero, "slope": slope}))
    con.execute(statement("residuals"))
    number = np.arange(len(solution.unknowns), dtype=np.int32)
    con.register("solved", pa.table({"number": number, "value": solution.unknowns}))


def judge(
    con: duckdb.DuckDBPyConnection, state: State, visits: dict[str, Any], blocks: dict[str, Any],
    solution: normal.Solution, number: int, settings: Settings,
) -> None:  # fmt: skip
    """After round ``number`` (from 0): clip, set unfit stars aside, measure the scatter of visits and who is photometric.

    In the first round the errors of cloudy visits are still in the mean magnitudes of the stars: only what stands out of
    its band is called cloudy, and no star unfit.
    """
    con.execute(statement("outliers"), {"clip": settings.clip, "limit": settings.limit})
    if number:
        con.execute(statement("star_quality"), {"star_chi2": settings.star_chi2})
    quality = con.sql(statement("visit_quality")).fetchnumpy()
    excess = np.nan_to_num(np.ma.filled(quality["excess"], 0.0))
    state.scatter = dict(zip(quality["visit"].tolist(), excess.tolist(), strict=True))
    spread = products.detector_residuals(con)[1]
    level = clear_level(visits, blocks, solution.blocks)
    for band in sorted(state.night_spread):
        seen = [v for v in visits["visit"][visits["band"] == band].tolist() if v in state.scatter]
        wide = {v: max(state.scatter[v], float(np.sqrt(spread.get(v, 0.0)))) for v in seen}
        limit = settings.cloud_scatter
        if number == 0 and wide:
            limit = max(2.0 * limit, 2.5 * float(np.median(list(wide.values()))))
        for visit in seen:
            covered = wide[visit] > limit or level[visit] < -settings.cloud_depth
            if visit in state.cloudy or covered:
                state.cloudy[visit] = max(wide[visit], state.cloudy.get(visit, 0.0), settings.cloud_scatter)
    _register(con, state)
    measured = con.sql(statement("night_spread")).fetchall()
    state.night_spread |= {band: float(np.clip(value, 0.003, 0.05)) for band, value in measured}


def clear_level(visits: dict[str, Any], blocks: dict[str, Any], zero: Array) -> dict[int, float]:
    """Zero point of each visit, for one second at airmass 1, relative to the upper quartile of its band."""
    numbers, own = np.unique(np.asarray(blocks["visit"]), return_inverse=True)
    means = np.bincount(own, zero[: len(own)]) / np.bincount(own)
    airmass = np.ma.filled(visits["airmass"], 1.0)
    value = means[np.searchsorted(numbers, visits["visit"])] + visits["prior"] - visits["exposure"]
    value = value + visits["extinction"] * (airmass - 1.0)
    result: dict[int, float] = {}
    for band in sorted(set(visits["band"])):
        own = visits["band"] == band
        top = float(np.quantile(value[own], 0.75))
        result |= dict(zip(visits["visit"][own].tolist(), (value[own] - top).tolist(), strict=True))
    return result
