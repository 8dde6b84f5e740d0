"""Saturated pixels and the trails that bleed from them along the columns."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.image import MASK
from pipelines.step1.config import IsrConfig


def flag(mask: NDArray[np.int16], saturated: NDArray[np.bool_], config: IsrConfig) -> None:
    """Set SAT (grown) and BLEED in ``mask`` (ny, nx) for the ``saturated`` pixels."""
    if not saturated.any():
        return
    grown = ndimage.binary_dilation(saturated, np.ones((3, 3), bool), iterations=max(config.saturation_grow, 0) or 1)
    mask[grown if config.saturation_grow > 0 else saturated] |= MASK["SAT"]
    trails = long_runs(saturated, config.bleed_length)
    if trails.any():
        along = np.ones((2 * config.bleed_grow + 1, 3), bool)  # the ends fade below saturation before they stop
        mask[ndimage.binary_dilation(trails, along)] |= MASK["BLEED"]


def long_runs(flags: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Pixels of (ny, nx) that belong to a run of at least ``length`` set pixels along a column."""
    padded = np.zeros((flags.shape[1], flags.shape[0] + 2), np.int8)
    padded[:, 1:-1] = flags.T
    steps = np.diff(padded.ravel())
    starts, ends = np.flatnonzero(steps == 1), np.flatnonzero(steps == -1)
    keep = ends - starts >= length
    marks = np.zeros(padded.size + 1, np.int32)
    marks[starts[keep] + 1] += 1
    marks[ends[keep] + 1] -= 1
    runs = np.cumsum(marks[:-1]).reshape(padded.shape)[:, 1:-1]
    return np.ascontiguousarray(runs.T > 0)
