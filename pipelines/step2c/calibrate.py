"""The whole calibration in one process, or on an executor: every tract's equations, the solution, every tract's standard stars.

This is what the tasks of step 2c do, one after the other, on the same functions: a campaign runs them as quanta at its sites.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.step2c import camera as cameras
from pipelines.step2c import equations, observations, solution, standards, zero_points
from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings

Tables = Mapping[str, pa.Table]
T = TypeVar("T")
DEFAULTS = Settings()


@dataclass
class Calibration:
    """``products`` by table; ``seconds`` by stage (prepare, assemble, solve, standards, zero_points), those of tracts divided by
    how many run at once; ``observations`` of stars."""

    products: dict[str, pa.Table]
    seconds: dict[str, float] = field(default_factory=dict)
    observations: int = 0


@dataclass(frozen=True)
class Limits:
    """What a connection may take: threads, memory (GB), and where it leaves what does not fit."""

    threads: int
    memory: float
    folder: str


def calibrate(
    tiles: Sequence[Tables], settings: Settings = DEFAULTS, executor: Executor | None = None, camera: Camera | None = None,
    threads: int = 2, memory: float = 6.0, scratch: Path | None = None,
) -> Calibration:  # fmt: skip
    """Calibrate tracts given as their four input tables (observations.INPUTS); NoWork where there is no visit.

    The tracts are tasks of an ``executor`` (default: ``threads`` of this process); the answer is the same. ``camera``: default, the
    instrument's. Equations wait on disk until they are added up, below ``scratch`` (default: where temporary files are), and SQL
    spills there what does not fit into ``memory`` (GB, of all tasks that run at once).
    """
    if executor is None:
        with ThreadPoolExecutor(threads) as own:
            return calibrate(tiles, settings, own, camera, threads, memory, scratch)
    seconds: dict[str, float] = {}
    count = len(tiles)
    summary = _summaries(tiles)
    with tempfile.TemporaryDirectory(prefix="drp-calibration-", dir=scratch) as folder:
        alone, all_threads = Limits(1, memory / threads, folder), Limits(threads, memory, folder)

        def run(task: Callable[..., T], *given: Any) -> list[T]:
            repeated = ([value] * count for value in (settings, camera, alone, *given))
            return list(executor.map(task, tiles, range(count), *repeated))

        made = run(_equations)
        for _, spent in made:
            for stage, value in spent.items():
                seconds[stage] = seconds.get(stage, 0.0) + value / threads
        merged = {name: pa.concat_tables([part[name] for part, _ in made]) for name in made[0][0]}

        def solve(con: duckdb.DuckDBPyConnection) -> dict[str, pa.Table]:
            con.execute(f"CREATE TEMP VIEW normal_equation AS FROM read_parquet('{folder}/*.parquet')")
            return solution.solve(con, camera or cameras.of(con), settings, threads)

        solved = _timed(seconds, "solve", lambda: _on({**merged, **summary}, all_threads, solve))
        shared = {name: solved[name] for name in ("calib_visit", "calib_flat")}
        found = _timed(seconds, "standards", lambda: run(_standards, shared))
        products = {**solved, **{name: pa.concat_tables([part[name] for part in found]) for name in standards.PRODUCTS}}
        inputs = {**shared, **summary, "calib_error": solved["calib_error"], "calib_residual": products["calib_residual"]}
        products["photo_calib"] = _timed(seconds, "zero_points", lambda: _zero_points(inputs, settings, camera, all_threads))
    return Calibration(products, seconds, sum(tile["isolated_star_association"].num_rows for tile in tiles))


def _zero_points(inputs: Tables, settings: Settings, camera: Camera | None, limits: Limits) -> pa.Table:
    """The zero points band by band, which bounds the memory that a large survey takes."""
    visits = inputs["calib_visit"]
    parts = []
    for band in sorted(visits["band"].unique().to_pylist()):
        own = {**inputs} | {
            name: inputs[name].filter(pc.equal(inputs[name]["band"], band)) for name in ("calib_visit", "calib_error")
        }
        parts.append(_on(own, limits, lambda con: zero_points.zero_points(con, camera or cameras.of(con), settings)))
    return pa.concat_tables(parts).sort_by([("visit", "ascending"), ("detector", "ascending")])


def _on(tables: Tables, limits: Limits, act: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
    """Do something on a connection that has the tables as views."""
    config = {"threads": limits.threads, "memory_limit": f"{limits.memory}GB", "temp_directory": f"{limits.folder}/spilled"}
    with duckdb.connect(config=config) as con:
        for name, rows in tables.items():
            con.register(name, rows)
        if "visit_fact" in tables:
            con.execute("CREATE TEMP VIEW preliminary_visit_summary AS FROM detector_fact JOIN visit_fact USING (visit)")
        return act(con)


def _timed(seconds: dict[str, float], stage: str, act: Callable[[], T]) -> T:
    began = time.perf_counter()
    result = act()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
    return result


#: What a summary says of a whole visit.
OF_VISIT = ("instrument", "band", "physical_filter", "day_obs", "exposure_time", "airmass", "mjd_mid", "absolute")


def _summaries(tiles: Sequence[Tables]) -> dict[str, pa.Table]:
    """Of every visit what its summary says of it as a whole (``visit_fact``), and the zero points of its detectors
    (``detector_fact``): tracts share visits, and most of a summary is the same in all its rows."""
    facts, zeros = [], []
    for tile in tiles:
        summary = tile["preliminary_visit_summary"]
        zeros.append(summary.select(["visit", "detector", "zeroPoint"]))
        with duckdb.connect() as con:
            con.register("summary", summary)
            columns = ", ".join(
                f"min({name}) AS {name}" if name != "absolute" else "bool_or(absolute) AS absolute" for name in OF_VISIT
            )
            facts.append(con.sql(f"SELECT visit, {columns} FROM summary GROUP BY visit ORDER BY visit").to_arrow_table())
    with duckdb.connect() as con:
        con.register("facts", pa.concat_tables(facts))
        con.register("zeros", pa.concat_tables(zeros))
        return {
            "visit_fact": con.sql("SELECT DISTINCT ON (visit) * FROM facts ORDER BY visit").to_arrow_table(),
            "detector_fact": con.sql(
                "SELECT visit, detector, min(zeroPoint) AS zeroPoint FROM zeros GROUP BY visit, detector ORDER BY visit, detector"
            ).to_arrow_table(),
        }


def _numbered(rows: pa.Table, number: int) -> pa.Table:
    return rows.append_column("tract", pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows))


def _equations(
    tile: Tables, number: int, settings: Settings, camera: Camera | None, limits: Limits
) -> tuple[dict[str, pa.Table], dict[str, float]]:
    """What a tract says of its terms and visits, and the seconds that it took; its equations are left on disk."""

    def act(con: duckdb.DuckDBPyConnection) -> tuple[dict[str, pa.Table], dict[str, float]]:
        spent: dict[str, float] = {}
        known = camera or cameras.of(con)

        def judge() -> None:
            observations.prepare(con, known, settings)
            equations.weigh(con, known, settings)

        _timed(spent, "prepare", judge)
        made = _timed(spent, "assemble", lambda: equations.assemble(con, settings))
        rows = _numbered(made.pop("normal_equation"), number)
        _timed(spent, "assemble", lambda: pq.write_table(rows, f"{limits.folder}/{number:06d}.parquet", compression="lz4"))
        return {name: _numbered(rows, number) for name, rows in made.items()}, spent

    return _on(tile, limits, act)


def _standards(
    tile: Tables, number: int, settings: Settings, camera: Camera | None, limits: Limits, shared: Tables
) -> dict[str, pa.Table]:
    def act(con: duckdb.DuckDBPyConnection) -> dict[str, pa.Table]:
        for name, rows in shared.items():
            con.register(name, rows)
        known = camera or cameras.of(con)
        observations.prepare(con, known, settings)
        made = standards.measure(con, known, settings)
        return {name: rows if name == "standard_star" else _numbered(rows, number) for name, rows in made.items()}

    return _on(tile, limits, act)
