"""The detections of a tract on one footing: where they are in the field's common coordinates, and on which frame."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.quantum import Inputs, NoWork
from pipelines.step2b.registration import IDENTITY, register, transform
from pipelines.step2b.statement import statement
from pipelines.wcs import SkyWcs, deproject, project

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Matching:
    """How detections become stars. Pixels are those of the camera.

    ``match_pixels``: detections nearer than this are the same star; ``min_snr``, ``max_extendedness``: what is good;
    ``reach_pixels``, ``rotations`` (deg): how far the pointing of a frame without absolute coordinates may be off.
    """

    match_pixels: float = 1.0
    min_snr: float = 10.0
    max_extendedness: float = 0.5
    reach_pixels: float = 150.0
    rotations: tuple[float, ...] = (0.0, -0.5, 0.5, -1.0, 1.0)


@dataclass(frozen=True)
class Sources:
    """Detections (N,) in order of ``source`` id. ``frame`` indexes ``frames``: dicts of visit, detector, band, absolute, ...

    ``ra``, ``dec`` (deg) are in the common coordinates of the field: by the preliminary WCS, then ``maps`` (F, 2, 3) in the
    tangent plane of the tract (arcsec). ``variance`` is that of the centroid per coordinate, square pixels; ``scale`` is
    the pixel scale (arcsec).
    """

    source: IntArray
    frame: IntArray
    x: Array
    y: Array
    ra: Array
    dec: Array
    flux: Array
    variance: Array
    good: NDArray[np.bool_]
    frames: list[dict[str, Any]]
    maps: Array
    scale: float

    def select(self, keep: NDArray[np.bool_]) -> Sources:
        """Some of the detections."""
        columns = {
            name: getattr(self, name)[keep] for name in ("source", "frame", "x", "y", "ra", "dec", "flux", "variance", "good")
        }
        return replace(self, **columns)

    def visit(self) -> IntArray:
        """Visit of each detection."""
        return np.array([f["visit"] for f in self.frames], np.int64)[self.frame]


def read(con: duckdb.DuckDBPyConnection, inputs: Inputs, centre: tuple[float, float], how: Matching) -> Sources:
    """Read the detections of a tract centred on ``centre`` (deg); raises NoWork where there are none.

    Frames whose pointing is not tied to the sky are registered to those that are, or else to the frame with most stars;
    detections of frames that cannot be registered are left out. Leaves the tables ``source`` and the inputs on ``con``.
    """
    for name in ("single_visit_star", "preliminary_visit_summary"):
        inputs.relation(con, name)
    limits = {"min_snr": how.min_snr, "max_extendedness": how.max_extendedness}
    con.execute("CREATE OR REPLACE TEMP TABLE source AS " + statement("sources"), limits)
    frames = con.sql(statement("frames")).to_arrow_table().to_pylist()
    if not frames:
        raise NoWork("no detection with a position in this tract")
    rows = con.execute("SELECT * FROM source ORDER BY sourceId").fetchnumpy()
    number = {(f["visit"], f["detector"]): i for i, f in enumerate(frames)}
    visit_detector, inverse = np.unique(np.stack([rows["visit"], rows["detector"]]), axis=1, return_inverse=True)
    frame = np.array([number[(int(v), int(d))] for v, d in visit_detector.T], np.int64)[inverse]
    scale = float(np.median([SkyWcs.from_json(f["wcs"]).pixel_scale for f in frames]))
    flux, good = np.asarray(rows["instFlux"], float), np.asarray(rows["good"], bool)
    ra, dec, maps, placed = _common(rows["coord_ra"], rows["coord_dec"], frame, flux, good, frames, centre, scale, how)
    return Sources(
        np.asarray(rows["sourceId"]), frame, np.asarray(rows["x"]), np.asarray(rows["y"]), ra, dec, flux,
        np.asarray(rows["variance"], float), good, frames, maps, scale,
    ).select(placed[frame])  # fmt: skip


def _common(
    ra: Array, dec: Array, frame: IntArray, flux: Array, good: NDArray[np.bool_], frames: list[dict[str, Any]],
    centre: tuple[float, float], scale: float, how: Matching,
) -> tuple[Array, Array, Array, NDArray[np.bool_]]:  # fmt: skip
    """Positions in common coordinates, the maps that led there, and which frames have one."""
    tied = np.array([bool(f["absolute"]) for f in frames])
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    if tied.all():
        return ra, dec, np.tile(IDENTITY, (len(frames), 1, 1)), tied
    position = 3600.0 * np.stack(project(ra, dec, *centre), axis=1)
    maps, placed = register(position[good], frame[good], flux[good], tied, how.reach_pixels * scale, 2.0 * scale, how.rotations)
    for f in np.flatnonzero(placed & ~tied):
        own = frame == f
        moved = transform(maps[f], position[own]) / 3600.0
        ra[own], dec[own] = deproject(moved[:, 0], moved[:, 1], *centre)
    return ra, dec, maps, placed
