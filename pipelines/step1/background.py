"""The sky: a smooth background and its noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray

Plane = NDArray[np.float32]


@dataclass(frozen=True)
class Background:
    """``level`` (ny, nx) electrons; ``mean`` of it; ``noise`` standard deviation of the sky in a pixel."""

    level: Plane
    mean: float
    noise: float


def estimate(image: Plane, bad: NDArray[np.bool_], mesh: int) -> Background:
    """Clipped mode in meshes of ``mesh`` pixels, median-filtered 3x3, bicubic (Bertin & Arnouts 1996, as in sep).

    ``bad`` pixels do not count; where no pixel is good, the background is 0 and the noise 1.
    """
    ny, nx = image.shape
    if bad.all():
        return Background(np.zeros((ny, nx), np.float32), 0.0, 1.0)
    found = sep.Background(np.ascontiguousarray(image), mask=bad, bw=_even(nx, mesh), bh=_even(ny, mesh))
    noise = float(found.globalrms)
    return Background(found.back(dtype=np.float32), float(found.globalback), noise if noise > 0 else 1.0)


def typical(image: Plane, good: NDArray[np.bool_]) -> np.float32:
    """Median of a sample of the good pixels (they are many); 0 where there is none."""
    values = image[good]
    return np.float32(np.median(values[:: 1 + len(values) // 10_000])) if len(values) else np.float32(0)


def _even(length: int, mesh: int) -> int:
    """Mesh size nearest to ``mesh`` that leaves no thin rest at the edge, where few pixels would decide."""
    return int(np.ceil(length / max(1, round(length / mesh))))
