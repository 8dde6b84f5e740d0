"""Regions of the sky, and which footprints with four corners they overlap.

Points are unit vectors. A footprint and a polygon are convex, and smaller than half of the sky: two of them are apart
exactly if a great circle through an edge of one keeps them apart (the separating axis theorem on the gnomonic plane).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lake.site import LakeError

Vectors = NDArray[np.float64]
#: Footprints are smaller than this: those further than it from a region need not be looked at, in degrees.
LARGEST = 10.0


class RegionError(LakeError):
    """A region is not as it should be; the message says how."""


@dataclass(frozen=True)
class Region:
    """A circle (one corner, ``radius`` in degrees) or a convex polygon (three corners or more, radius 0)."""

    corners: Vectors
    radius: float = 0.0

    @property
    def centre(self) -> Vectors:
        """A unit vector in the middle of the region."""
        mean = self.corners.mean(axis=0)
        return np.asarray(mean / np.linalg.norm(mean))

    @property
    def reach(self) -> float:
        """The greatest distance of the region from its centre, in degrees."""
        cosine = float(np.clip((self.corners @ self.centre).min(), -1.0, 1.0))
        return float(np.degrees(np.arccos(cosine))) + self.radius

    def overlaps(self, footprints: Vectors) -> NDArray[np.bool_]:
        """Which footprints, shape (n, 4, 3), have a point in common with the region."""
        if self.radius:
            return np.asarray(_distance(footprints, self.corners[0]) <= np.radians(self.radius))
        mine = np.broadcast_to(self.corners, (len(footprints), *self.corners.shape))
        return np.asarray(~(_apart(footprints, mine) | _apart(mine, footprints)))


def circle(text: str) -> Region:
    """A circle from "RA,DEC,RADIUS" in degrees; RegionError says what is wrong."""
    ra, dec, radius = _numbers(text, "a circle", "RA,DEC,RADIUS", 3)
    if not 0 < radius <= 45:
        raise RegionError(f"region {text!r}: the radius must be more than 0 and at most 45 degrees")
    return Region(vectors([ra], [dec]), radius)


def polygon(text: str) -> Region:
    """A convex polygon from "RA,DEC,RA,DEC,RA,DEC,..." in degrees, in either direction; RegionError says what is wrong."""
    numbers = _numbers(text, "a polygon", "RA,DEC,RA,DEC,RA,DEC,...", 0)
    if len(numbers) < 6 or len(numbers) % 2:
        raise RegionError(f"region {text!r}: a polygon has three corners or more, RA and DEC of each")
    region = Region(vectors(numbers[::2], numbers[1::2]))
    sides = _normals(region.corners[None])[0] @ region.corners.T
    if (sides < -1e-12).any() or region.reach > 60:
        raise RegionError(f"region {text!r}: a polygon must be convex, and reach at most 60 degrees from its middle")
    return region


def vectors(ra: object, dec: object) -> Vectors:
    """Unit vectors (..., 3) of positions in degrees."""
    a, d = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _numbers(text: str, what: str, form: str, count: int) -> list[float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if not numbers or (count and len(numbers) != count) or not np.isfinite(numbers).all():
        raise RegionError(f"region {text!r}: {what} is given as {form}, in degrees")
    if any(not -90 <= dec <= 90 for dec in (numbers[1:2] if count else numbers[1::2])):
        raise RegionError(f"region {text!r}: a declination is between -90 and 90")
    return numbers


def _normals(polygons: Vectors) -> Vectors:
    """Unit normals of the edges of polygons (n, k, 3), each towards the inside."""
    normals = np.cross(polygons, np.roll(polygons, -1, axis=1))
    inside = np.einsum("nkc,nc->nk", normals, polygons.mean(axis=1))
    length = np.linalg.norm(normals, axis=-1)
    return np.asarray(normals * (np.sign(inside) / np.where(length > 0, length, 1.0))[..., None])


def _apart(of: Vectors, others: Vectors) -> NDArray[np.bool_]:
    """Whether an edge of the polygons ``of`` has all corners of the ``others`` outside."""
    sides = np.einsum("nkc,njc->nkj", _normals(of), others)
    return np.asarray((sides < 0).all(axis=2).any(axis=1))


def _distance(polygons: Vectors, point: Vectors) -> Vectors:
    """Angle from a point to polygons (n, k, 3), in radians; 0 inside."""
    normals = _normals(polygons)
    height = normals @ point
    start, end = polygons, np.roll(polygons, -1, axis=1)
    foot = point - height[..., None] * normals
    turn = np.cross(start, end)
    between = (np.einsum("nkc,nkc->nk", np.cross(start, foot), turn) >= 0) & (
        np.einsum("nkc,nkc->nk", np.cross(foot, end), turn) >= 0
    )
    to_edge = np.where(between, np.arcsin(np.clip(np.abs(height), 0, 1)), np.pi)
    to_corner = 2 * np.arcsin(np.clip(np.linalg.norm(start - point, axis=-1) / 2, 0, 1))
    distance = np.minimum(to_edge, to_corner).min(axis=1)
    return np.asarray(np.where((height >= 0).all(axis=1), 0.0, distance))
