"""Saturated pixels and the trails that bleed from them along the columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.image import MASK
from pipelines.neighbours import grown, stretched
from pipelines.step1.config import IsrConfig

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]


def flag(mask: NDArray[np.int16], saturated: Mask, config: IsrConfig) -> None:
    """Set SAT (grown) and BLEED in ``mask`` (ny, nx) for the ``saturated`` pixels."""
    if not saturated.any():
        return
    mask[grown(saturated, config.saturation_grow)] |= MASK["SAT"]
    trails = long_runs(saturated, config.bleed_length)
    if trails.any():  # the ends fade below saturation before they stop
        mask[stretched(grown(trails), max(config.bleed_grow - 1, 0), axis=0)] |= MASK["BLEED"]


def long_runs(flags: Mask, length: int) -> Mask:
    """Pixels of (ny, nx) that belong to a run of at least ``length`` set pixels along a column."""
    runs, done = flags.copy(), 1  # pixels that begin ``done`` set ones
    while done < length:
        step = min(done, length - done)
        runs[:-step] &= runs[step:]
        runs[-step:] = False
        done += step
    done = 1
    while done < length:  # and back: all that such a run covers
        step = min(done, length - done)
        runs[step:] |= runs[:-step].copy()
        done += step
    return runs


def cores(mask: NDArray[np.int16], reach: int) -> tuple[Array, Array, Mask]:
    """Where the saturated stars are: x, y (N,) pixels, and the pixels (ny, nx) within ``reach`` of saturated ones.

    The plateau of a saturated star has no peak, or many. Its centre is taken where the plateau is widest: a trail is
    narrower than the star that feeds it.
    """
    saturated = (mask & (MASK["SAT"] | MASK["BLEED"])) != 0
    if not saturated.any():
        return np.zeros(0), np.zeros(0), saturated
    blobs, count = ndimage.label(saturated, np.ones((3, 3)))
    x, y = np.zeros(count), np.zeros(count)
    for i, (rows, columns) in enumerate(ndimage.find_objects(blobs)):
        blob = blobs[rows, columns] == i + 1
        width = blob.sum(axis=1).astype(float)
        weight = width**4 / (width**4).sum()
        middle = (blob * np.arange(blob.shape[1])).sum(axis=1) / width
        x[i], y[i] = columns.start + weight @ middle, rows.start + weight @ np.arange(len(width))
    return x, y, grown(saturated, reach)
