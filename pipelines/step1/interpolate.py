"""Fill pixels from their surroundings."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

HALF = 3
SIGMA = 1.0


def typical(image: NDArray[np.float32], good: NDArray[np.bool_]) -> np.float32:
    """Median of a sample of the good pixels (they are many); 0 where there is none."""
    values = image[good]
    return np.float32(np.median(values[:: 1 + len(values) // 10_000])) if len(values) else np.float32(0)


def fill(image: NDArray[np.float32], holes: NDArray[np.bool_], avoid: NDArray[np.bool_] | None = None) -> NDArray[np.float32]:
    """``image`` (ny, nx) with ``holes`` replaced by the Gaussian-weighted mean of good pixels within 3 pixels.

    Pixels of ``avoid`` are not used either. Where there is no good pixel near, the median of good ones stands in.
    """
    y, x = np.nonzero(holes)
    if len(y) == 0:
        return image
    good = ~holes if avoid is None else ~(holes | avoid)
    level = typical(image, good)
    values = np.pad(np.where(good, image - level, np.float32(0)), HALF)
    weights = np.pad(good.astype(np.float32), HALF)
    total, weight = np.zeros(len(y), np.float32), np.zeros(len(y), np.float32)
    for dy in range(2 * HALF + 1):
        for dx in range(2 * HALF + 1):
            w = np.float32(np.exp(-0.5 * ((dy - HALF) ** 2 + (dx - HALF) ** 2) / SIGMA**2))
            total += w * values[y + dy, x + dx]
            weight += w * weights[y + dy, x + dx]
    filled = image.copy()
    filled[y, x] = level + np.divide(total, weight, out=np.zeros_like(total), where=weight > 1e-6)
    return filled
