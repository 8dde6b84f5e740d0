"""What the benchmarks of the global calibration share: tiles kept as files, the solve in a process of its own, the comparison
with the truth."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, overload

import click
import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipelines.simulate.mosaic import to_focal_plane
from pipelines.simulate.photometric_conditions import Design
from pipelines.simulate.photometric_survey import INPUTS, Survey
from pipelines.step2c.camera import FOCAL_PLANE, Camera
from pipelines.step2c.settings import Settings
from pipelines.wcs import project

Array = NDArray[np.float64]
#: Real data: cadence, star positions, zero points.
DATA = Path(os.environ.get("DRP_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
SOLVE = """
import json, resource, sys, time
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from pathlib import Path
import pyarrow.parquet as pq
from benchmarks._calibration import Tiles
from pipelines.step2c.calibrate import calibrate
from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings
folder, settings, workers = Path(sys.argv[1]), json.loads(sys.argv[2]), int(sys.argv[3])
settings = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
usage = lambda: [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
camera = Camera(pq.read_table(folder / "focal_plane.parquet"), {b: tuple(v) for b, v in json.loads(sys.argv[4]).items()})
threads = workers or 2
tiles, start = Tiles(folder), time.perf_counter()
cpu = time.process_time()
with ProcessPoolExecutor(workers) if workers else nullcontext() as executor:
    found = calibrate(tiles, Settings(**settings), executor, camera, threads, scratch=folder, details=False)
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
own, children = usage()
cpu += children.ru_utime + children.ru_stime
memory = (own.ru_maxrss + workers * children.ru_maxrss) / 1024
pq.write_table(found.products["photo_calib"], folder / "photo_calib.parquet")
print(json.dumps({"wall": wall, "cpu": cpu, "memory": memory, "seconds": found.seconds, "observations": found.observations}))
"""


@dataclass(frozen=True)
class Tile(Mapping[str, Path]):
    """The four tables of a tile, as files."""

    folder: Path

    def __getitem__(self, name: str) -> Path:
        if name not in INPUTS:
            raise KeyError(name)
        return self.folder / f"{name}.parquet"

    def __iter__(self) -> Iterator[str]:
        return iter(INPUTS)

    def __len__(self) -> int:
        return len(INPUTS)


@dataclass(frozen=True)
class Tiles(Sequence[Tile]):
    """The tiles below a folder, in the order they were written."""

    folder: Path

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return Tile(self.folder / f"tile{index % len(self):06d}")

    def __len__(self) -> int:
        return sum(1 for _ in self.folder.glob("tile*"))


@dataclass(frozen=True)
class Solved:
    """What a solve took: seconds in all, of processors, and by part; memory in MB; observations."""

    wall: float
    cpu: float
    memory: float
    seconds: dict[str, float]
    observations: int


def keep(parts: Iterable[Mapping[str, pa.Table]], folder: Path, start: int = 0) -> int:
    """Write tiles as parquet files; returns the number of the next tile."""
    for part in parts:
        own = folder / f"tile{start:06d}"
        own.mkdir(parents=True)
        for name in INPUTS:
            pq.write_table(part[name], own / f"{name}.parquet", compression="lz4")
        start += 1
    return start


def keep_surveys(surveys: Iterable[Survey], folder: Path) -> int:
    """Write surveys as tiles, and their truth; returns the number of observations."""
    observations = 0
    (folder / "truth").mkdir(parents=True)
    for number, survey in enumerate(surveys):
        keep([survey.tables], folder, number)
        pq.write_table(survey.truth, folder / "truth" / f"{number:06d}.parquet")
        observations += survey.observations
    return observations


def solve(folder: Path, settings: Settings, camera: Camera, workers: int = 0) -> Solved:
    """Calibrate the tiles of a folder in a process of its own; leaves photo_calib.parquet there."""
    pq.write_table(camera.focal_plane, folder / "focal_plane.parquet")
    nominal = json.dumps({band: list(values) for band, values in camera.nominal.items()})
    command = [sys.executable, "-c", SOLVE, str(folder), json.dumps(asdict(settings)), str(workers), nominal]
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}  # as workers of a campaign have it
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parent.parent, env=environment)
    if done.returncode:
        raise click.ClickException((done.stderr.strip().splitlines() or ["the calibration was killed"])[-1])
    return Solved(**json.loads(done.stdout.splitlines()[-1]))


def camera_of(design: Design) -> Camera:
    """The camera of a survey, as its file would describe it: where the detectors are, and what the filters give."""
    mosaic = design.mosaic
    detectors, centres = (mosaic.detectors, mosaic.centres) if design.pointings.detector is None else _of_pointings(design)
    count, scale = len(detectors), mosaic.pixel_scale / 3600.0
    middle = [0.5 * (pixels - 1) for pixels in mosaic.pixels]
    places = (centres[:, 0], centres[:, 1], scale, 0.0, 0.0, scale, *middle)
    columns = [pa.array(np.broadcast_to(np.asarray(value, float), count).copy()) for value in places]
    plane = pa.table([pa.array(detectors, pa.int32()), *columns], schema=FOCAL_PLANE)
    return Camera(plane, {band: (zero, design.extinction[band]) for band, zero in design.zero_point.items()}, design.pivot)


def _of_pointings(design: Design) -> tuple[NDArray[np.int64], Array]:
    """Detectors and their places, where pointings are those of single detectors: of the visit that has most of them."""
    p = design.pointings
    visits, count = np.unique(p.visit, return_counts=True)
    own = np.flatnonzero(p.visit == visits[np.argmax(count)])
    own = own[np.argsort(p.detector[own])]
    turn = np.radians(p.ra[own])
    middle = np.degrees(np.arctan2(np.mean(np.sin(turn)), np.mean(np.cos(turn)))), np.mean(p.dec[own])
    place = to_focal_plane(*project(p.ra[own], p.dec[own], *middle), p.rotation[own])
    return p.detector[own], np.stack(place, axis=1)


def settings_of(design: Design, **changes: Any) -> Settings:
    """The settings that say of a survey what an operator knows: the colour zero points are for, and when flats change."""
    return replace(Settings(reference_colour=design.pivot, flat_epochs=design.epochs), **changes)


@dataclass(frozen=True)
class Offsets:
    """By (visit, detector) of one band: zero point minus truth and its stated error, mag; whether the visit is clear in truth and
    was judged clear, and whether the detector has few stars."""

    off: Array
    error: Array
    clear: NDArray[np.bool_]
    judged: NDArray[np.bool_]
    few: NDArray[np.bool_]

    @property
    def pull(self) -> Array:
        """Zero point minus truth in units of its error."""
        return self.off / self.error

    @property
    def constant(self) -> float:
        """Median of clear visits, mag."""
        return float(np.median(self.off[self.clear]))

    @property
    def rms(self) -> float:
        """Standard deviation of clear visits, mag."""
        return float(np.std(self.off[self.clear]))


def offsets(photo_calib: pa.Table, truth: pa.Table) -> dict[str, Offsets]:
    """Zero points against the truth, by band."""
    with duckdb.connect() as con:
        con.register("photo_calib", photo_calib)
        con.register("truth", truth)
        rows = con.sql(
            "SELECT t.band, p.zeroPoint - t.zero_point AS off, p.zeroPointErr AS error, t.photometric AS clear, "
            "p.photometric AS judged, p.few_stars AS few "
            "FROM photo_calib p JOIN truth t USING (visit, detector) ORDER BY visit, detector"
        ).fetchnumpy()
    columns = {name: np.asarray(rows[name]) for name in ("off", "error", "clear", "judged", "few")}
    return {band: Offsets(**{k: v[rows["band"] == band] for k, v in columns.items()}) for band in sorted(set(rows["band"]))}


def rms(values: Iterable[float] | Array) -> float:
    """Root of the mean square."""
    return float(np.sqrt(np.mean(np.square(np.asarray(list(values))))))
