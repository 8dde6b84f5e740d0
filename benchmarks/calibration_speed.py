"""The global calibration in seconds: a set of half a million observations, and one of 8.8 million.

Tiles are parquet files; a process of its own solves, so that its memory is its own. At scale 1 the dense set has 100 visits
(0.8 million observations), at 10 and 100 a thousand. Its tiles hold a million observations each, as a tract of a data release does.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from benchmarks import Quantity

if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.simulate.photometric_conditions import Design

ABOUT = "The global calibration: seconds and memory for 560,000 observations in griz, and 8.8 million of 189 detectors."
OPTIONS: list[click.Parameter] = [
    click.Option(["--scratch"], type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where the tiles are kept."),
    click.Option(["--workers"], type=click.IntRange(0), default=0, show_default=True, help="Processes (0: the solver's own)."),
]


def run(scale: int, scratch: Path | None, workers: int) -> Iterator[Quantity]:
    """Wall and processor seconds, by part, and peak memory."""
    from benchmarks._calibration import camera_of, offsets, rms, settings_of, solve
    from pipelines.simulate.photometric_presets import dense, fgcm_like

    def measure(
        name: str, design: Design, total: float | None, part: float | None, memory: float | None, side: int | None = None
    ) -> Iterator[Quantity]:
        import pyarrow.parquet as pq

        with tempfile.TemporaryDirectory(prefix="drp-calibration-", dir=scratch) as folder:
            truth = _kept(design, Path(folder), side)
            took = solve(Path(folder), settings_of(design), camera_of(design), workers)
            off = offsets(pq.read_table(Path(folder) / "photo_calib.parquet"), truth)
        yield _limited(f"{name}, all", "s", took.wall, total, took.observations)
        yield Quantity(f"{name}, processor time", "s", took.cpu)
        for key, seconds in took.seconds.items():
            yield _limited(f"{name}, {key}", "s", seconds, part if key in ("assemble", "solve") else None)
        yield _limited(f"{name}, peak memory", "MB", took.memory, memory)
        yield Quantity(f"{name}, rms of zero points", "mmag", 1000.0 * rms(o.rms for o in off.values()))

    yield from measure("griz", fgcm_like(), 5.0, None, None)
    large = scale >= 10
    yield from measure("dense", dense(1000 if large else 100), None, 5.0 if large else None, 4096.0 if large else None, 5)


def _kept(design: Design, folder: Path, side: int | None) -> pa.Table:
    """Write the tiles of a survey, by tract or of ``side`` x ``side`` tracts, and return the truth."""
    import pyarrow as pa

    from benchmarks._calibration import keep
    from pipelines.simulate.photometric_survey import simulate, tiles

    if side is None:
        survey = simulate(design)
        keep(survey.tiles(), folder)
        return survey.truth
    truths = []
    for number, survey in enumerate(tiles(design, side)):
        keep([survey.tables], folder, number)
        truths.append(survey.truth)
    return pa.concat_tables(truths).group_by(["visit", "detector", "band", "zero_point", "photometric"]).aggregate([])


def _limited(name: str, unit: str, value: float, limit: float | None, count: int | None = None) -> Quantity:
    """A quantity that should not exceed a limit, where there is one."""
    wanted, good = (f"<= {limit:g}", value <= limit) if limit else ("", None)
    return Quantity(name, unit, value, wanted, good, count=count)
