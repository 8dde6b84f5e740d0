"""Frames whose pointing is not tied to the sky, brought onto each other by the pattern of their stars.

Positions are arcsec in one tangent plane. The frame with the most stars is the origin of the field's own coordinates.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
IDENTITY = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def transform(affine: Array, position: Array) -> Array:
    """Apply an affine map (2, 3) to positions (N, 2)."""
    x, y = position[:, 0], position[:, 1]
    return np.stack([row[0] * x + row[1] * y + row[2] for row in affine], axis=1)


def align(target: Array, moving: Array, reach: float, tolerance: float, rotations: tuple[float, ...]) -> Array | None:
    """The similarity (2, 3) that takes ``moving`` (M, 2) onto ``target`` (N, 2), both brightest first; None if there is none.

    The shift is the peak of the histogram of all offsets within ``reach`` between the 200 brightest stars of both, over
    trial ``rotations`` (deg); it must stand out of chance pairs. Then stars matched within ``tolerance`` fix shift,
    rotation and scale.
    """
    if len(target) < 3 or len(moving) < 3:
        return None
    centre = moving.mean(axis=0)
    best: tuple[float, Array] | None = None
    for angle in sorted(rotations, key=lambda a: (abs(a), a)):
        c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
        turn = np.array([[c, -s], [s, c]])
        start = np.column_stack([turn, centre - turn @ centre])
        offset = (target[:200, None] - transform(start, moving[:200])[None]).reshape(-1, 2)
        offset = offset[np.all(np.abs(offset) < reach, axis=1)]
        side = int(np.ceil(2.0 * reach / tolerance)) + 1
        cell = np.floor((offset + reach) / tolerance).astype(np.int64)
        counts = np.bincount(cell[:, 0] * side + cell[:, 1], minlength=side * side).reshape(side, side).astype(float)
        counts[:-1] += counts[1:]  # a peak may lie on the border of cells: windows of 2 x 2
        counts[:, :-1] += counts[:, 1:]
        chance = 4.0 * len(offset) / side**2
        peak = np.unravel_index(int(np.argmax(counts)), counts.shape)
        excess = float(counts[peak]) - chance - 5.0 * np.sqrt(chance)
        if counts[peak] >= 5 and excess > 0 and (best is None or excess > best[0]):
            corner = np.array(peak) * tolerance - reach
            near = offset[np.all((offset >= corner) & (offset < corner + 2.0 * tolerance), axis=1)]
            best = (excess, start + np.column_stack([np.zeros((2, 2)), np.median(near, axis=0)]))
    return None if best is None else _refine(target, moving, best[1], tolerance)


def _refine(target: Array, moving: Array, affine: Array, tolerance: float) -> Array | None:
    """Match all stars and solve for a similarity, with a shrinking tolerance."""
    tree = cKDTree(target)
    for reach in (2.0 * tolerance, tolerance, tolerance, 0.5 * tolerance, 0.5 * tolerance):
        distance, index = tree.query(transform(affine, moving), distance_upper_bound=reach)
        _, first = np.unique(np.where(np.isfinite(distance), index, -1), return_index=True)
        matched = np.sort(first[np.isfinite(distance[first])])  # each target star once: the brightest that claims it
        if len(matched) < 3:
            return None
        m, t = _complex(moving[matched]), _complex(target[index[matched]])
        scale = np.sum(np.conj(m - m.mean()) * (t - t.mean())) / np.sum(np.abs(m - m.mean()) ** 2)
        shift = t.mean() - scale * m.mean()
        affine = np.array([[scale.real, -scale.imag, shift.real], [scale.imag, scale.real, shift.imag]])
    return affine


def _complex(position: Array) -> NDArray[np.complex128]:
    return position[:, 0] + 1.0j * position[:, 1]


def register(
    position: Array, frame: IntArray, flux: Array, tied: NDArray[np.bool_], reach: float, tolerance: float,
    rotations: tuple[float, ...],
) -> tuple[Array, NDArray[np.bool_]]:  # fmt: skip
    """Maps (F, 2, 3) of frames onto a common field, and which frames have one (F,).

    ``position`` (N, 2) arcsec, ``frame`` (N,) index of each star's frame, ``tied`` (F,) frames that the reference
    catalogue placed: they stay. Frames join in order of their number of stars; what overlaps nothing starts a field of
    its own only where nothing is tied.
    """
    maps = np.tile(IDENTITY, (len(tied), 1, 1))
    done = tied.copy()
    if tied.all():
        return maps, done
    brightest = np.lexsort((np.arange(len(flux)), -flux))
    stars = [brightest[frame[brightest] == f] for f in range(len(tied))]
    waiting = sorted(np.flatnonzero(~tied), key=lambda f: (-len(stars[f]), f))
    if not tied.any():
        done[waiting.pop(0)] = True
    placed = brightest[done[frame[brightest]]]
    field, field_flux = position[placed], flux[placed]
    while waiting:
        left = []
        for f in waiting:
            affine = align(field, position[stars[f]], reach, tolerance, rotations)
            if affine is None:
                left.append(f)
                continue
            maps[f], done[f] = affine, True
            added = transform(affine, position[stars[f]])
            new = ~np.isfinite(cKDTree(field).query(added, distance_upper_bound=tolerance)[0])
            field, field_flux = np.concatenate([field, added[new]]), np.concatenate([field_flux, flux[stars[f]][new]])
            order = np.argsort(-field_flux, kind="stable")
            field, field_flux = field[order], field_flux[order]
        if len(left) == len(waiting):
            break
        waiting = left
    return maps, done
