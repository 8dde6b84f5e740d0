"""A mosaic of equal detectors on a lattice, as catalogue-level simulations need it: where on which detector a star falls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.instrument import Instrument
from pipelines.wcs import SkyWcs

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Mosaic:
    """``lattice`` (rows, columns): detector number of each cell, -1 where there is none; row 0 lies at the least y.

    ``pitch`` (x, y): size of a cell, deg; ``pixels`` (x, y) of a detector; ``pixel_scale`` arcsec; ``centre``: focal-plane
    position (deg) of the middle of the lattice. The focal plane is that of pipelines.instrument at parity 1, undistorted.
    """

    name: str
    lattice: IntArray
    pitch: tuple[float, float]
    pixels: tuple[int, int]
    pixel_scale: float
    centre: tuple[float, float] = (0.0, 0.0)

    @classmethod
    def square(cls, side: int, pitch: float, corner: int = 0, pixels: int = 4000, gap: float = 0.01) -> Mosaic:
        """``side`` x ``side`` cells of ``pitch`` deg, less ``corner`` x ``corner`` at each corner; ``gap``: part of the pitch
        that is not sensitive. 5 cells give 25 detectors, 15 with corners of 3 give the 189 of LSSTCam."""
        edge = np.minimum(np.arange(side), np.arange(side)[::-1]) < corner
        there = ~(edge[:, None] & edge[None, :])
        lattice = np.where(there, np.cumsum(there).reshape(there.shape) - 1, -1)
        scale = pitch * (1.0 - gap) * 3600.0 / pixels
        return cls(f"Mosaic{int(there.sum())}", lattice, (pitch, pitch), (pixels, pixels), scale)

    @classmethod
    def of(cls, camera: Instrument) -> Mosaic:
        """The detectors of a camera, without its distortion; ValueError where they are unequal or not on a lattice."""
        first = camera.detectors[0]
        pixels = first.width, first.height
        if camera.parity != 1 or any((d.width, d.height) != pixels or d.rotation for d in camera.detectors):
            raise ValueError(f"instrument {camera.name}: its detectors are mirrored, turned or unequal, not a plain mosaic")
        cells, pitches, middles = [], [], []
        for k, axis in enumerate(("x_centre", "y_centre")):
            place = np.array([getattr(d, axis) for d in camera.detectors])
            steps = np.unique(np.round(np.diff(np.unique(place)), 6))
            pitch = float(steps[0]) if len(steps) else pixels[k] * camera.pixel_scale / 3600.0
            cell = np.round((place - place.min()) / pitch)
            if not np.allclose(place, place.min() + cell * pitch, atol=0.01 * pitch):
                raise ValueError(f"instrument {camera.name}: its detectors do not lie on a lattice of {pitch:g} deg in {axis}")
            cells.append(cell.astype(np.int64))
            pitches.append(pitch)
            middles.append(0.5 * float(place.min() + place.max()))
        lattice = np.full((cells[1].max() + 1, cells[0].max() + 1), -1, np.int64)
        lattice[cells[1], cells[0]] = [d.detector for d in camera.detectors]
        return cls(camera.name, lattice, (pitches[0], pitches[1]), pixels, camera.pixel_scale, (middles[0], middles[1]))

    @property
    def detectors(self) -> IntArray:
        """Detector numbers (D,), ascending."""
        return np.sort(self.lattice[self.lattice >= 0])

    @property
    def centres(self) -> Array:
        """Focal-plane positions (D, 2) of the detectors' centres, deg, in order of ``detectors``."""
        row, column = np.nonzero(self.lattice >= 0)
        order = np.argsort(self.lattice[row, column])
        return np.stack([self._place(column[order], 0), self._place(row[order], 1)], axis=1)

    @property
    def size(self) -> tuple[float, float]:
        """Of a detector (x, y), deg."""
        x, y = (pixels * self.pixel_scale / 3600.0 for pixels in self.pixels)
        return x, y

    @property
    def radius(self) -> float:
        """Of a circle about the boresight that holds all detectors, deg."""
        half = 0.5 * np.hypot(*self.pitch)
        return float(np.hypot(*self.centres.T).max() + half)

    def _place(self, cell: ArrayLike, axis: int) -> Array:
        count = self.lattice.shape[1 - axis]
        return np.asarray((np.asarray(cell, float) - 0.5 * (count - 1)) * self.pitch[axis] + self.centre[axis])

    def find(self, fx: Array, fy: Array) -> tuple[IntArray, Array, Array]:
        """Detector (-1: none) and pixel position of focal-plane positions (N,) in deg."""
        cells, pixel = [], []
        for axis, f in enumerate((fx, fy)):
            count = self.lattice.shape[1 - axis]
            cell = np.floor((f - self.centre[axis]) / self.pitch[axis] + 0.5 * count).astype(np.int64)
            inside = (cell >= 0) & (cell < count)
            pixel.append((f - self._place(cell, axis)) * 3600.0 / self.pixel_scale + 0.5 * (self.pixels[axis] - 1))
            inside &= (pixel[axis] > -0.5) & (pixel[axis] < self.pixels[axis] - 0.5)
            cells.append(np.where(inside, cell, -1))
        on = (cells[0] >= 0) & (cells[1] >= 0)
        return np.where(on, self.lattice[cells[1], cells[0]], -1), pixel[0], pixel[1]

    def wcs(self, ra: float, dec: float, rotation: float, detector: int) -> SkyWcs:
        """The WCS of a detector: TAN about the boresight."""
        fx, fy = self.centres[int(np.searchsorted(self.detectors, detector))] * 3600.0 / self.pixel_scale
        scale, turn = self.pixel_scale / 3600.0, np.radians(rotation)
        c, s = scale * float(np.cos(turn)), scale * float(np.sin(turn))
        crpix = 0.5 * (self.pixels[0] - 1) - float(fx), 0.5 * (self.pixels[1] - 1) - float(fy)
        return SkyWcs((ra, dec), crpix, (-c, s, s, c))


def to_focal_plane(xi: Array, eta: Array, rotation: ArrayLike) -> tuple[Array, Array]:
    """Tangent plane to focal plane, deg; the same turn leads back."""
    c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
    return -c * xi + s * eta, s * xi + c * eta
