"""The sphere in small cells, and stars as groups of detections that lie in the same or in touching cells.

Cells depend on nothing but the position, so neighbouring tracts group the detections they share in the same way;
RA wraps and the poles are ordinary places.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Array:
    """Sky positions (N,) in degrees as unit vectors (N, 3)."""
    a, d = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def sky_positions(vectors: Array) -> tuple[Array, Array]:
    """(ra, dec) in degrees of vectors (N, 3) of any length, 0 <= ra < 360."""
    ra = np.mod(np.degrees(np.arctan2(vectors[:, 1], vectors[:, 0])), 360.0)
    return np.where(ra >= 360.0, 0.0, ra), np.degrees(np.arctan2(vectors[:, 2], np.hypot(vectors[:, 0], vectors[:, 1])))


def chord(arcsec: float) -> float:
    """The distance between unit vectors that are ``arcsec`` apart."""
    return 2.0 * float(np.sin(np.radians(arcsec / 3600.0) / 2.0))


def sky_cell(ra: ArrayLike, dec: ArrayLike, size: float) -> IntArray:
    """The cell of each position: rows of ``size`` arcsec in declination, cut in columns about as wide."""
    step = size / 3600.0
    row = np.floor((np.asarray(dec, float) + 90.0) / step)
    columns = np.maximum(1.0, np.floor(360.0 * np.cos(np.radians((row + 0.5) * step - 90.0)) / step))
    column = np.minimum(np.floor(np.mod(np.asarray(ra, float), 360.0) / 360.0 * columns), columns - 1)
    return np.asarray(row.astype(np.int64) * 2**32 + column.astype(np.int64))


def lot(cell: IntArray, salt: int) -> Array:
    """A number in [0, 1) drawn by hashing each cell (splitmix64): the same at every site and in every run."""
    z = cell.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15 * (salt + 1) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) / 2.0**53


def group(ra: ArrayLike, dec: ArrayLike, radius: float) -> IntArray:
    """Which detections are the same star: labels (N,), 0 .. stars - 1.

    Detections are put in cells of half of ``radius`` (arcsec); cells whose mean positions are closer than ``radius`` are
    one star, and so on in chains (a chain of different stars fails the test of isolation later). The cost grows with the
    number of stars and not with the square of the number of visits.
    """
    cell, member = np.unique(sky_cell(ra, dec, radius / 2.0), return_inverse=True)
    centre = mean_vectors(unit_vectors(ra, dec), member, len(cell))
    pairs = cKDTree(centre).query_pairs(chord(radius), output_type="ndarray")
    links = coo_array((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(len(cell), len(cell)))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)[member]


def mean_vectors(vectors: Array, label: IntArray, count: int) -> Array:
    """Mean direction (count, 3) of the unit vectors (N, 3) of each label; zero where a label has none."""
    total = np.stack([np.bincount(label, vectors[:, k], count) for k in range(3)], axis=1)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return np.asarray(np.divide(total, length, out=np.zeros_like(total), where=length > 0))


def crowded(vectors: Array, radius: float) -> NDArray[np.bool_]:
    """Whether each direction (N, 3) has another one within ``radius`` arcsec."""
    pairs = cKDTree(vectors).query_pairs(chord(radius), output_type="ndarray")
    found = np.zeros(len(vectors), bool)
    found[pairs.ravel()] = True
    return found
