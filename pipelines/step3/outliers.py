"""What does not belong to the constant sky: pixels of a warp that disagree with the other warps.

A pixel is rejected when it is farther from the median of all warps than noise *and the differences of seeing* can
explain: |d_i - m| > k sigma_i + a_i b, where b is the maximum of m over 5 x 5 pixels and a_i the largest difference
between the PSF of warp i and the median PSF, as a fraction of the same local maximum of the PSF. So the cores of
stars, where images of different seeing differ by many sigma, are kept whole, and transients, cosmic rays and
satellites on sky are not. The idea of a tolerance from the local signal is that of drizzle's cosmic-ray test (Fruchter
& Hook 2002, PASP 114, 144).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.neighbours import grown, highest

FloatStack = NDArray[np.float32]
BoolStack = NDArray[np.bool_]

#: Reach (pixels) of a rejected pixel: others within it that differ at all belong to the same thing. So a star that varied is
#: left out whole, and not its core alone, which would leave a star of another shape.
REACH = 4


def median(stack: FloatStack) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Median over warps (N, ny, nx) without NaN, and how many warps had a value; NaN where none has.

    Of an even number of values, the one of the middle two that is nearer to zero, the background: where half of the
    values belong to what comes and goes, their mean would be neither.
    """
    known = np.isfinite(stack)
    values = np.where(known, stack, np.float32(np.inf))
    order(values)
    n = known.sum(axis=0)
    first, second = np.maximum((n - 1) // 2, 0), np.minimum(n // 2, len(stack) - 1)
    low, high = (np.take_along_axis(values, at[None], axis=0)[0] for at in (first, second))
    return np.where(n == 0, np.float32(np.nan), np.where(np.abs(low) < np.abs(high), low, high)), n


def order(values: FloatStack) -> None:
    """Sort (N, ...) along the first axis in place: Batcher's merge exchange (Knuth, TAOCP 5.2.2 M), whole planes at a time."""
    count = len(values)
    spare = np.empty_like(values[0])
    top = 1 << max(count - 1, 1).bit_length() - 1
    p = top
    while p > 0:
        q, r, d = top, 0, p
        while True:
            for i in range(count - d):
                if i & p == r:
                    np.minimum(values[i], values[i + d], out=spare)
                    np.maximum(values[i], values[i + d], out=values[i + d])
                    values[i] = spare
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2


def psf_tolerance(stamps: NDArray[np.float64], margin: float) -> NDArray[np.float64]:
    """a_i (N,) for PSF stamps (N, size, size); ``margin`` allows for errors of position and calibration."""
    middle = np.median(stamps, axis=0)
    local = ndimage.maximum_filter(middle, 5)
    seen = local > 0.02 * local.max()
    excess: NDArray[np.float64] = np.max(np.abs(stamps - middle)[:, seen] / local[seen], axis=1)
    return margin + excess


def rejected(
    stack: FloatStack, variance: FloatStack, exempt: BoolStack, tolerance: NDArray[np.float64], clip: float, grow: float
) -> BoolStack:
    """Pixels (N, ny, nx) to leave out. ``exempt`` (ny, nx) pixels are never rejected (saturated stars).

    A pixel is a seed when it, or the mean of the 3 x 3 pixels about it, is ``clip`` sigma beyond its tolerance. Pixels
    within REACH of a seed go with it when they differ from the median by ``grow`` sigma, tolerable or not. Nothing is
    rejected where only one warp has data.
    """
    middle, count = median(stack)
    bright = highest(np.nan_to_num(middle), 2)
    bright = np.maximum(bright, 0, out=bright)
    result = np.zeros(stack.shape, bool)
    for n, (image, noise) in enumerate(zip(stack, variance, strict=True)):
        allowed = np.float32(tolerance[n]) * bright
        allowed[exempt | (count < 2)] = np.inf
        with np.errstate(invalid="ignore"):
            sigma = np.sqrt(noise)
            off = np.nan_to_num(image - middle)
            excess = (np.abs(off) - allowed) / sigma
            mean = ndimage.uniform_filter(off, 3, mode="nearest")
            # The noise of a mean of nine white pixels is a third; correlation and the median's own noise make it a
            # half.
            mean_excess = (np.abs(mean) - allowed) / (np.float32(0.5) * sigma)
            seed = (excess > clip) | (mean_excess > clip)
            if seed.any():
                result[n] = seed | (grown(seed, REACH) & (np.abs(off) > np.float32(grow) * sigma))
    # Where all are rejected, the one nearest to the median stays: rejection makes no holes.
    y, x = np.nonzero((count > 0) & ~(np.isfinite(stack) & ~result).any(axis=0))
    result[np.nanargmin(np.abs(stack[:, y, x] - middle[y, x]), axis=0), y, x] = False
    return result
