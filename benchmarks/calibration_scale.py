"""The global calibration of a year: 1e6, 1e7 and 1e8 observations with the real cadence of 216,233 visits x 189 detectors.

The stars are real positions, a hundredth, a tenth or all of 1.87 million; the tiles are drawn one by one into parquet files
(about 9 GB for 1e8), and a process of its own solves. Scale N runs every size up to N; the exponent is that of seconds over
observations, by least squares in logarithms.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks import Quantity

ABOUT = "The global calibration of a year of real pointings: seconds and memory for 1e6, 1e7 or 1e8 observations, exponent."
OPTIONS: list[click.Parameter] = [
    click.Option(["--scratch"], type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where tiles are made."),
    click.Option(["--tiles"], type=click.Path(path_type=Path, file_okay=False), help="Keep tiles here, for runs to come."),
    click.Option(["--workers"], type=click.IntRange(0), default=0, show_default=True, help="Processes (0: the solver's own)."),
]
SECONDS, MEMORY, EXPONENT = 600.0, 12288.0, 1.05


def run(scale: int, scratch: Path | None, tiles: Path | None, workers: int) -> Iterator[Quantity]:
    """Wall and processor seconds, peak memory and accuracy of each size, and the exponents."""
    from benchmarks._calibration import DATA, camera_of, keep_surveys, settings_of, solve
    from pipelines.simulate.photometric_presets import year, year_design

    sizes: list[int] = []
    walls: list[float] = []
    cpus: list[float] = []
    for size in (s for s in (1, 10, 100) if s <= scale):
        made = Path(tempfile.mkdtemp(prefix="drp-year-", dir=tiles or scratch))
        folder = tiles / str(size) if tiles else made
        try:
            try:
                design = year_design(DATA, size / 100)
            except FileNotFoundError as error:
                raise click.ClickException(f"{error} (set DRP_REAL_DATA)") from None
            if not (folder / "truth").is_dir():
                keep_surveys(year(DATA, size / 100), made)
                made.rename(folder)
            took = solve(folder, settings_of(design), camera_of(design), workers)
            name = f"year, 1e{6 + round(np.log10(size))}"
            yield Quantity(f"{name}, all", "s", took.wall, f"<= {SECONDS:g}", took.wall <= SECONDS, count=took.observations)
            yield Quantity(f"{name}, processor time", "s", took.cpu)
            for key, seconds in took.seconds.items():
                yield Quantity(f"{name}, {key}", "s", seconds)
            yield Quantity(f"{name}, peak memory", "MB", took.memory, f"<= {MEMORY:g}", took.memory <= MEMORY)
            yield from _accuracy(name, folder)
            sizes.append(took.observations)
            walls.append(took.wall)
            cpus.append(took.cpu)
        finally:
            shutil.rmtree(made, ignore_errors=True)
    if len(sizes) > 1:
        for what, spent in (("seconds", walls), ("processor time", cpus)):
            exponent = float(np.polyfit(np.log(sizes), np.log(spent), 1)[0])
            yield Quantity(f"year, exponent of {what}", "", exponent, f"<= {EXPONENT}", exponent <= EXPONENT)


def _accuracy(name: str, folder: Path) -> Iterator[Quantity]:
    """Zero points of clear (visit, detector) pairs, by band: all, and those that users are told to trust."""
    import duckdb

    with duckdb.connect(config={"threads": 2, "memory_limit": "4GB"}) as con:
        truth = (
            "(SELECT visit, detector, any_value(band) AS band, any_value(zero_point) AS zero_point "
            f"FROM read_parquet('{folder}/truth/*.parquet') WHERE photometric GROUP BY visit, detector)"
        )
        offsets = (
            "(SELECT t.band, p.zeroPoint - t.zero_point AS off, p.zeroPointErr AS error, p.photometric AS judged "
            f"FROM '{folder}/photo_calib.parquet' p JOIN {truth} t USING (visit, detector))"
        )
        found = "1000 * stddev_pop(off) {0}, count(*) {0}, sqrt(avg(pow(off / error, 2)) {0})"
        both = f"{found.format('')}, {found.format('FILTER (judged)')}"
        rows = con.sql(f"SELECT band, {both} FROM {offsets} GROUP BY band ORDER BY band").fetchall()
    for band, *values in rows:
        for which, (spread, count, pull) in (("", values[:3]), (" judged photometric", values[3:])):
            yield Quantity(f"{name}, rms of zero points{which}, {band}", "mmag", spread, count=count)
            yield Quantity(f"{name}, pulls{which}, {band}", "", pull, count=count)
