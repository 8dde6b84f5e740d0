"""The sky in tracts and patches: rings of declination, cut into tracts, each a TAN image cut into patches.

``rings`` rings of height s = pi / (rings + 1) and two polar caps; ring r has n_r = floor(2 pi cos(d) / s) + 1 tracts,
d being its edge nearest to the equator. Tract 0 is the south cap; numbers run east along each ring, ring by ring to the
north. This is the tract numbering of the "rings" skymaps, version 1, of Rubin and HSC (Bosch et al. 2018, PASJ 70, S5).
A position belongs to the *inner* region of exactly one tract; the tract's image overlaps its neighbours.

Within 16 degrees of a pole the parallels curve by more than the overlap of 1 arcmin: there the image holds all of the
inner region only thanks to the pixels that whole patches add (0.787 deg to each side of the centre are needed).

Sky coordinates are ICRS degrees. Pixels are 0-based, (0, 0) is the centre of a tract's lower-left pixel; boxes are
(x0, y0, x1, y1), inclusive. Methods take arrays (any broadcastable shapes) unless they say otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import yaml
from numpy.typing import ArrayLike, NDArray

import schemas
from pipelines.overlap import overlapping
from pipelines.wcs import SkyWcs, deproject, project

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
CONFIGURATION = Path(__file__).with_name("skymaps.yaml")


class SkyMapError(ValueError):
    """A skymap, tract or patch that does not exist, or a skymap configuration that cannot be used."""


@dataclass(frozen=True)
class RingsSkyMap:
    """``overlap`` in degrees, ``pixel_scale`` in arcsec, patch sizes in pixels; ``clip``: no box beyond the tract."""

    name: str
    rings: int
    overlap: float
    pixel_scale: float
    patch_inner: int
    patch_border: int
    clip: bool = True
    ra_start: float = 0.0

    # -- the rings ---------------------------------------------------------------------------------------------------

    @property
    def ring_height(self) -> float:
        """Height of a ring, radians (the two caps together count for one more ring)."""
        return float(np.pi / (self.rings + 1))

    @cached_property
    def ring_tracts(self) -> IntArray:
        """Tracts in each ring (rings,)."""
        south = self.ring_height * (np.arange(self.rings) + 0.5) - 0.5 * np.pi
        nearest = np.minimum(np.abs(south), np.abs(south + self.ring_height))
        return np.asarray(np.floor(2.0 * np.pi * np.cos(nearest) / self.ring_height) + 1, np.int64)

    @cached_property
    def _first(self) -> IntArray:
        """First tract of each ring (rings + 1,); the last entry is the north cap."""
        return np.concatenate([[1], 1 + np.cumsum(self.ring_tracts)])

    @property
    def tracts(self) -> int:
        """Number of tracts, both caps included."""
        return int(self._first[-1]) + 1

    def ring_of(self, tract: ArrayLike) -> tuple[IntArray, IntArray]:
        """Ring (-1 south cap, ``rings`` north cap) and number in the ring of each tract; SkyMapError if it has none."""
        number = np.asarray(tract, np.int64)
        bad = (number < 0) | (number >= self.tracts)
        if np.any(bad):
            raise SkyMapError(
                f"skymap {self.name!r} has no tract {int(number[bad].flat[0])}: its tracts are 0 to {self.tracts - 1}"
            )
        ring = np.searchsorted(self._first, number, side="right") - 1
        return ring, np.where(ring < 0, 0, number - self._first[np.maximum(ring, 0)])

    def find_tract(self, ra: ArrayLike, dec: ArrayLike) -> IntArray:
        """The tract whose inner region holds each position: exactly one."""
        a, d = np.broadcast_arrays(np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float)))
        south = 0.5 * self.ring_height - 0.5 * np.pi
        ring = np.clip(np.trunc((d - south) / self.ring_height), 0, self.rings - 1).astype(np.int64)
        count = self.ring_tracts[ring]
        east = np.mod(a - np.radians(self.ra_start), 2.0 * np.pi)
        # The tract at ra_start reaches to both sides of it, hence the half and the wrap.
        number = np.trunc(east * count / (2.0 * np.pi) + 0.5).astype(np.int64) % count
        in_ring = self._first[ring] + number
        return np.where(d < south, 0, np.where(d > -south, self.tracts - 1, in_ring))

    def in_inner_region(self, tract: ArrayLike, ra: ArrayLike, dec: ArrayLike) -> NDArray[np.bool_]:
        """Whether each position is in the inner region of ``tract``."""
        return np.asarray(self.find_tract(ra, dec) == np.asarray(tract))

    def tract_centre(self, tract: ArrayLike) -> tuple[Array, Array]:
        """(ra, dec) of the tract centres."""
        ring, number = self.ring_of(tract)
        inside = (ring >= 0) & (ring < self.rings)
        count = self.ring_tracts[np.clip(ring, 0, self.rings - 1)]
        ra = np.where(inside, np.mod(self.ra_start + 360.0 * number / count, 360.0), 0.0)
        dec = np.degrees(self.ring_height * (ring + 1) - 0.5 * np.pi)
        # The caps are centred on the poles, not on half of a ring's height before them.
        return ra, np.where(ring < 0, -90.0, np.where(ring == self.rings, 90.0, dec))

    def inner_bounds(self, tract: ArrayLike) -> tuple[Array, Array, Array, Array]:
        """(ra_min, ra_max, dec_min, dec_max) of the inner regions; ra_min is negative where the region crosses RA 0."""
        ring, _ = self.ring_of(tract)
        cap = (ring < 0) | (ring == self.rings)
        half = np.where(cap, 180.0, 180.0 / self.ring_tracts[np.clip(ring, 0, self.rings - 1)])
        centre = np.where(cap, 180.0, self.tract_centre(tract)[0])
        south = np.degrees(self.ring_height * (ring + 0.5) - 0.5 * np.pi)
        north = np.degrees(self.ring_height * (ring + 1.5) - 0.5 * np.pi)
        return centre - half, centre + half, np.maximum(south, -90.0), np.minimum(north, 90.0)

    def tracts_between(self, dec_min: float, dec_max: float) -> IntArray:
        """All tracts whose centre has dec_min <= dec < dec_max, in order (the whole ring or nothing of it)."""
        everything = np.arange(self.tracts)
        dec = self.tract_centre(everything)[1]
        return everything[(dec >= dec_min) & (dec < dec_max)]

    # -- pixels ------------------------------------------------------------------------------------------------------

    @cached_property
    def _grid(self) -> tuple[int, int]:
        """Patches a side, and the pixel that holds the tract centre (both the same in x and y, and for all tracts)."""
        half = np.tan(0.5 * self.ring_height + np.radians(self.overlap)) / np.radians(self.pixel_scale / 3600.0)
        low, high = int(np.floor(-half + 0.5)), int(np.ceil(half - 0.5))
        size = high - low + 1
        patches = -(-size // self.patch_inner)
        return patches, (patches * self.patch_inner - size) // 2 - low

    @property
    def patches_per_side(self) -> int:
        return self._grid[0]

    @property
    def width(self) -> int:
        """Pixels a side of a tract."""
        return self._grid[0] * self.patch_inner

    def tract_wcs(self, tract: int) -> SkyWcs:
        """The WCS of one tract's pixels: north up, east to the left."""
        ra, dec = self.tract_centre(tract)
        scale, origin = self.pixel_scale / 3600.0, float(self._grid[1])
        return SkyWcs((float(ra), float(dec)), (origin, origin), (-scale, 0.0, 0.0, scale))

    def patch_wcs(self, tract: int, patch: int) -> SkyWcs:
        """The WCS of an image of one patch's outer box."""
        x0, y0, _, _ = self.outer_box(patch)
        return self.tract_wcs(tract).shifted(int(x0), int(y0))

    def inner_box(self, patch: ArrayLike) -> IntArray:
        """Inner boxes (..., 4) of patches, tract pixels; together they tile the tract."""
        number, side = np.asarray(patch, np.int64), self.patches_per_side
        bad = (number < 0) | (number >= side**2)
        if np.any(bad):
            first = int(number[bad].flat[0])
            raise SkyMapError(f"skymap {self.name!r} has no patch {first}: its patches are 0 to {side**2 - 1}")
        low = np.stack([number % side, number // side], axis=-1) * self.patch_inner
        return np.concatenate([low, low + self.patch_inner - 1], axis=-1)

    def outer_box(self, patch: ArrayLike) -> IntArray:
        """Outer boxes (..., 4) of patches: the inner ones grown by the border, kept inside the tract if ``clip``."""
        border = self.patch_border
        box = self.inner_box(patch) + np.array([-border, -border, border, border])
        return np.asarray(np.clip(box, 0, self.width - 1) if self.clip else box)

    def find_patch(self, tract: ArrayLike, ra: ArrayLike, dec: ArrayLike) -> IntArray:
        """The patch of ``tract`` whose inner box holds each position; -1 outside the tract's image."""
        xi, eta = project(ra, dec, *self.tract_centre(tract))
        scale, origin = self.pixel_scale / 3600.0, self._grid[1]
        pixel = np.stack([origin - xi / scale, origin + eta / scale])
        inside = np.all((pixel >= -0.5) & (pixel < self.width - 0.5), axis=0)  # False for NaN
        column, row = np.floor(np.where(inside, pixel, 0.0) + 0.5).astype(np.int64) // self.patch_inner
        return np.where(inside, row * self.patches_per_side + column, -1)

    def _corners(self, tract: IntArray, box: IntArray) -> dict[str, Array]:
        """ra0, dec0 ... ra3, dec3 of the outer edges of pixel boxes (N, 4), counter-clockwise in pixels."""
        scale, origin = self.pixel_scale / 3600.0, self._grid[1]
        x0, y0, x1, y1 = np.moveaxis(box, -1, 0) - origin + np.array([-0.5, -0.5, 0.5, 0.5])[:, None]
        ra, dec = self.tract_centre(tract)
        columns: dict[str, Array] = {}
        for n, (x, y) in enumerate([(x0, y0), (x1, y0), (x1, y1), (x0, y1)]):
            columns[f"ra{n}"], columns[f"dec{n}"] = deproject(-scale * x, scale * y, ra, dec)
        return columns

    # -- dimension records -------------------------------------------------------------------------------------------

    def skymap_record(self) -> pa.Table:
        """This skymap as one row of ``skymap``."""
        row = {
            "skymap": self.name, "rings": self.rings, "pixel_scale": self.pixel_scale, "tract_overlap": self.overlap,
            "patch_inner": self.patch_inner, "patch_border": self.patch_border,
            "patches_per_side": self.patches_per_side, "tracts": self.tracts,
        }  # fmt: skip
        return schemas.conform("skymap", pa.Table.from_pylist([row]))

    def tract_records(self, tracts: ArrayLike) -> pa.Table:
        """Rows of ``tract``, sorted, each tract once."""
        number = np.unique(np.asarray(tracts, np.int64))
        ra, dec = self.tract_centre(number)
        ra_min, ra_max, dec_min, dec_max = self.inner_bounds(number)
        box = np.broadcast_to(np.array([0, 0, self.width - 1, self.width - 1]), (len(number), 4))
        columns = {
            "skymap": pa.repeat(self.name, len(number)), "tract": number, "ra": ra, "dec": dec,
            "dec_min": dec_min, "dec_max": dec_max, "ra_min": ra_min, "ra_max": ra_max,
            "width": np.full(len(number), self.width), **self._corners(number, box),
        }  # fmt: skip
        return schemas.conform("tract", pa.table(columns))

    def patch_records(self, tracts: ArrayLike) -> pa.Table:
        """Rows of ``patch`` for all patches of the tracts, sorted by tract and patch."""
        side = self.patches_per_side
        number = np.unique(np.asarray(tracts, np.int64))
        patch = np.tile(np.arange(side**2), len(number))
        tract = np.repeat(number, side**2)
        inner, outer = self.inner_box(patch), self.outer_box(patch)
        columns = {"skymap": pa.repeat(self.name, len(tract)), "tract": tract, "patch": patch}
        columns |= dict(zip(("x0", "y0", "x1", "y1"), outer.T, strict=True))
        columns |= dict(zip(("inner_x0", "inner_y0", "inner_x1", "inner_y1"), inner.T, strict=True))
        return schemas.conform("patch", pa.table(columns | self._corners(tract, outer)))

    def tracts_touching(self, regions: pa.Table) -> IntArray:
        """The tracts, sorted, whose image overlaps any of the polygons (corners as in ``visit_detector_region``)."""
        candidates = self._near(regions)
        found = overlapping(regions, self.tract_records(candidates))[1]
        return np.asarray(candidates[np.unique(found)])

    def _near(self, regions: pa.Table) -> IntArray:
        """Tracts, sorted, of the rings that come near any polygon: a short list where the sky has millions of tracts."""
        ra, dec = (np.radians([regions[f"{axis}{n}"].to_numpy() for n in range(4)]) for axis in ("ra", "dec"))
        corner = np.stack([np.cos(dec) * np.cos(ra), np.cos(dec) * np.sin(ra), np.sin(dec)])
        size = 2.0 * np.arcsin(np.clip(0.5 * np.sqrt(((corner - corner[:, :1]) ** 2).sum(axis=0)).max(axis=0), 0.0, 1.0))
        reach = size + np.arctan(np.sqrt(0.5) * self.width * np.radians(self.pixel_scale / 3600.0))
        # Rings counted from the south cap (0) to the north cap (rings + 1); their centres are a ring's height apart.
        low = np.floor((dec.min(axis=0) - reach + 0.5 * np.pi) / self.ring_height).clip(0, self.rings + 1).astype(np.int64)
        high = np.ceil((dec.max(axis=0) + reach + 0.5 * np.pi) / self.ring_height).clip(0, self.rings + 1).astype(np.int64)
        edges = np.bincount(low, minlength=self.rings + 3) - np.bincount(high + 1, minlength=self.rings + 3)
        near = np.cumsum(edges)[:-1] > 0
        first = np.concatenate([[0], self._first, [self.tracts]])
        return np.flatnonzero(np.repeat(near, np.diff(first)))


@cache
def load(name: str, path: Path = CONFIGURATION) -> RingsSkyMap:
    """The skymap of that name in ``path``; SkyMapError names the known ones, or the key that is wrong."""
    known = yaml.safe_load(path.read_text())
    if name not in known:
        raise SkyMapError(f"no skymap {name!r}; known: {', '.join(sorted(known))} (add yours to {path.name})")
    declared = {f.name for f in fields(RingsSkyMap)} - {"name"}
    required = declared - {"clip", "ra_start"}
    for key in sorted(known[name].keys() ^ required):
        if key not in declared:
            raise SkyMapError(f"{path.name}: skymap {name!r} has an unknown key {key!r}; keys: {', '.join(sorted(declared))}")
        if key in required:
            raise SkyMapError(f"{path.name}: skymap {name!r} lacks the key {key!r}")
    return RingsSkyMap(name=name, **known[name])
