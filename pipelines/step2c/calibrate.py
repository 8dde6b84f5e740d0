"""The whole calibration in one process, or on an executor: every tract's equations, the solution, every tract's standard stars.

This is what the tasks of step 2c do, one after the other, on the same functions: a campaign runs them as quanta at its sites.
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lake.query import literal
from pipelines.quantum import NoWork
from pipelines.step2c import camera as cameras
from pipelines.step2c import equations, observations, solution, standards, zero_points
from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings
from pipelines.step2c.statement import statement

#: Tables by name, in memory or as parquet files.
Tables = Mapping[str, pa.Table | Path]
T = TypeVar("T")
DEFAULTS = Settings()
#: What waits on disk until it is added up: equations, what summaries say of detectors, how far those err, and what is left of them.
SPILLED = ("normal_equation", "detector_fact", "calib_error", "calib_residual")


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
    threads: int = 2, memory: float = 6.0, scratch: Path | None = None, details: bool = True,
) -> Calibration:  # fmt: skip
    """Calibrate tracts given as their four input tables (observations.INPUTS); NoWork where there is no visit.

    The tracts are tasks of an ``executor`` (default: ``threads`` of this process); the answer is the same. ``camera``: default, the
    instrument's. Equations wait on disk until they are added up, below ``scratch`` (default: where temporary files are), and SQL
    spills there what does not fit into ``memory`` (GB, of all tasks that run at once). Without ``details`` the products lack what
    only the zero points are made of, calib_error and calib_residual: of a year of a large camera, forty million rows each.
    """
    if executor is None:
        with ThreadPoolExecutor(threads) as own:
            return calibrate(tiles, settings, own, camera, threads, memory, scratch, details)
    if not tiles:
        raise NoWork("there is no tract to calibrate")
    seconds: dict[str, float] = {}
    count = len(tiles)
    with tempfile.TemporaryDirectory(prefix="drp-calibration-", dir=scratch) as folder:
        for name in SPILLED:
            (Path(folder) / name).mkdir()
        alone, all_threads = Limits(1, memory / threads, folder), Limits(threads, memory, folder)
        half = Limits(threads, memory / 2, folder)  # the other half is for what is made of the rows

        def run(task: Callable[..., T], *given: Any) -> list[T]:
            repeated = ([value] * count for value in (settings, camera, alone, *given))
            return list(executor.map(task, tiles, range(count), *repeated))

        made = run(_equations)
        for _, _, spent in made:
            for stage, value in spent.items():
                seconds[stage] = seconds.get(stage, 0.0) + value / threads
        merged = {name: pa.concat_tables([part[name] for part, _, _ in made]) for name in made[0][0]}
        solved = _timed(
            seconds,
            "solve",
            lambda: _on(merged, all_threads, lambda con: solution.solve(con, camera or cameras.of(con), settings, threads)),
        )
        _timed(seconds, "solve", lambda: _spill(solved.pop("calib_error"), all_threads, "calib_error", 0))
        shared = {name: solved[name] for name in ("calib_visit", "calib_flat")}
        found = _timed(seconds, "standards", lambda: run(_standards, shared))
        inputs = {**shared, "visit_fact": merged["visit_fact"]}
        products = {**solved, **{name: pa.concat_tables([part[name] for part in found]) for name in found[0]}}
        sizes = Counter(shared["calib_visit"]["band"].to_pylist())
        made_of = _timed(  # large ones first, while there are few products
            seconds,
            "zero_points",
            lambda: {band: _zero_points(band, inputs, settings, camera, half) for band, _ in sizes.most_common()},
        )
        products["photo_calib"] = pa.concat_tables(made_of[band] for band in sorted(sizes))
        if details:
            products |= {name: pq.read_table(f"{folder}/{name}") for name in ("calib_error", "calib_residual")}
    return Calibration(products, seconds, sum(count for _, count, _ in made))


def _zero_points(band: str, inputs: Mapping[str, pa.Table], settings: Settings, camera: Camera | None, limits: Limits) -> pa.Table:
    """The zero points of a band: a year of a large camera has forty million."""
    own = {name: rows.filter(pc.equal(rows["band"], band)) for name, rows in inputs.items()}
    return _on(own, limits, lambda con: zero_points.zero_points(con, camera or cameras.of(con, "calib_visit"), settings), band)


def _on(tables: Tables, limits: Limits, act: Callable[[duckdb.DuckDBPyConnection], T], band: str | None = None) -> T:
    """Do something on a connection that has the tables as views, and those that wait on disk (of a band)."""
    config: dict[str, Any] = {
        "threads": limits.threads, "memory_limit": f"{limits.memory}GB", "temp_directory": f"{limits.folder}/spilled",
        "preserve_insertion_order": False,
    }  # fmt: skip
    with duckdb.connect(config=config) as con:
        for name, rows in tables.items():
            if isinstance(rows, Path):
                con.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet({literal(str(rows))})")
            else:
                con.register(name, rows)
        if "visit_fact" in tables:
            of = "" if band is None else f"WHERE band = {literal(band)}"
            for name in SPILLED:
                if any((Path(limits.folder) / name).iterdir()):
                    files = literal(f"{limits.folder}/{name}/*.parquet")
                    con.execute(f"CREATE TEMP VIEW {name} AS FROM read_parquet({files}) {of}")
            con.execute(
                "CREATE TEMP VIEW preliminary_visit_summary AS "
                "SELECT *, (SELECT min(instrument) FROM visit_fact) AS instrument FROM detector_fact"
            )
        return act(con)


def _spill(rows: pa.Table, limits: Limits, name: str, number: int) -> None:
    """Leave what a tract makes, or the solution, on disk."""
    texts = [column.name for column in rows.schema if pa.types.is_string(column.type) or pa.types.is_dictionary(column.type)]
    path = f"{limits.folder}/{name}/{number:06d}.parquet"
    pq.write_table(rows, path, compression="lz4", use_dictionary=texts, write_statistics=texts)


def _timed(seconds: dict[str, float], stage: str, act: Callable[[], T]) -> T:
    began = time.perf_counter()
    result = act()
    seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - began
    return result


def _numbered(rows: pa.Table, number: int) -> pa.Table:
    return rows.append_column("tract", pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows))


def _equations(
    tile: Tables, number: int, settings: Settings, camera: Camera | None, limits: Limits
) -> tuple[dict[str, pa.Table], int, dict[str, float]]:
    """What a tract says of its terms and visits, its observations, and the seconds that it took; its equations are left on disk."""

    def act(con: duckdb.DuckDBPyConnection) -> tuple[dict[str, pa.Table], int, dict[str, float]]:
        spent: dict[str, float] = {}
        known = camera or cameras.of(con)

        def judge() -> pa.Table:
            detectors = "SELECT visit, detector, band, zeroPoint FROM preliminary_visit_summary ORDER BY band"
            _spill(con.sql(detectors).to_arrow_table(), limits, "detector_fact", number)
            observations.prepare(con, known, settings)
            equations.weigh(con, known, settings)
            return con.sql(statement("visit_facts")).to_arrow_table()

        facts = _timed(spent, "prepare", judge)
        made = _timed(spent, "assemble", lambda: equations.assemble(con, settings))
        rows = _numbered(made.pop("normal_equation"), number)
        _timed(spent, "assemble", lambda: _spill(rows, limits, "normal_equation", number))
        observed = con.sql("SELECT count(*) FROM isolated_star_association").fetchall()[0][0]
        return {**{name: _numbered(rows, number) for name, rows in made.items()}, "visit_fact": facts}, observed, spent

    return _on(tile, limits, act)


def _standards(
    tile: Tables, number: int, settings: Settings, camera: Camera | None, limits: Limits, shared: Tables
) -> dict[str, pa.Table]:
    """The standard stars and maps of a tract under the solution; what is left of each detector is left on disk."""

    def act(con: duckdb.DuckDBPyConnection) -> dict[str, pa.Table]:
        for name, rows in shared.items():
            con.register(name, rows)
        known = camera or cameras.of(con)
        observations.prepare(con, known, settings)
        made = standards.measure(con, known, settings)
        _spill(_numbered(made.pop("calib_residual"), number), limits, "calib_residual", number)
        return {name: rows if name == "standard_star" else _numbered(rows, number) for name, rows in made.items()}

    return _on(tile, limits, act)
