"""Regions of the sky as a Butler stores them: the bytes of a convex polygon of lsst.sphgeom.

The bytes are the letter ``p`` and, per vertex, the unit vector x, y, z as little-endian doubles; vertices run
counter-clockwise seen from outside the sphere. (Observed in lsst-sphgeom 30.2026.4000; a test compares with it.)
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import ConvexHull, QhullError

POLYGON = b"p"
_VERTEX = np.dtype("<f8").itemsize * 3


def encode(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> pa.Array:
    """Polygons from corners: ``ra``, ``dec`` in degrees, shape (polygons, corners), in either sense of rotation.

    Null where the corners are not those of a convex polygon (a Butler takes a record without region).
    """
    vertices = _vectors(ra, dec)
    turns = np.einsum("nkx,nkx->nk", np.cross(vertices, np.roll(vertices, -1, axis=1)), np.roll(vertices, -2, axis=1))
    clockwise = np.all(turns < 0, axis=1)
    vertices[clockwise, 1:] = vertices[clockwise, :0:-1]
    convex = clockwise | np.all(turns > 0, axis=1)
    return pa.array([_bytes(v) if ok else None for v, ok in zip(vertices, convex, strict=True)], pa.binary())


def hulls(ra: NDArray[np.float64], dec: NDArray[np.float64], groups: NDArray[np.int64]) -> pa.Array:
    """The smallest convex polygon around the points of each group, in order of the groups (0, 1, ... without gaps).

    ``ra``, ``dec`` (degrees) and ``groups`` have one value per point; points of a group are next to each other. Null
    where the points do not span a polygon, or span more than a hemisphere.
    """
    vertices = _vectors(ra, dec)
    found: list[bytes | None] = []
    for points in np.split(vertices, np.flatnonzero(np.diff(groups)) + 1) if len(vertices) else ():
        centre = points.sum(axis=0)
        centre /= max(float(np.linalg.norm(centre)), 1e-12)
        east = np.cross([0.0, 0.0, 1.0] if abs(centre[2]) < 0.9 else [1.0, 0.0, 0.0], centre)
        east /= max(float(np.linalg.norm(east)), 1e-12)
        height = points @ centre  # lines of the tangent plane are great circles of the sphere
        try:
            plane = np.stack([points @ east, points @ np.cross(centre, east)], axis=-1) / height[:, None]
            found.append(_bytes(points[ConvexHull(plane).vertices]) if np.all(height > 0) else None)
        except (QhullError, ValueError):
            found.append(None)
    return pa.array(found, pa.binary())


def _vectors(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.float64]:
    lon, lat = np.radians(ra), np.radians(dec)
    vectors: NDArray[np.float64] = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors


def _bytes(vertices: NDArray[np.float64]) -> bytes:
    return POLYGON + vertices.astype("<f8").tobytes()


def corners(encoded: Sequence[bytes | None], count: int = 4) -> NDArray[np.float64]:
    """Right ascension and declination of the vertices of polygons, in degrees, shape (polygons, count, 2).

    NaN where a region is another shape or has another number of vertices.
    """
    vertices = np.full((len(encoded), count, 3), np.nan)
    for i, region in enumerate(encoded):
        if region is not None and region[:1] == POLYGON and len(region) == 1 + count * _VERTEX:
            vertices[i] = np.frombuffer(region, "<f8", offset=1).reshape(count, 3)
    return _degrees(vertices)


def centres(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Middle of polygons given by corners(): the direction of the mean of their vertices, in degrees, shape (polygons, 2)."""
    return _degrees(_vectors(vertices[..., 0], vertices[..., 1]).mean(axis=1))


def _degrees(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([np.degrees(np.arctan2(y, x)) % 360.0, np.degrees(np.arctan2(z, np.hypot(x, y)))], axis=-1)
