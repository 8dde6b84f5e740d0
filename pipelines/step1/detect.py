"""Detection: peaks of the image filtered with a star-shaped kernel of zero sum.

The kernel is a Gaussian of the PSF's width less its mean over the support (DAOFIND, Stetson 1987), so that neither sky
nor the wings of a bright neighbour lift a peak, and close stars stay two. The filter's answer H is the least-squares
height of a star on a constant background; its variance follows from the variance of the pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.neighbours import grown, highest, vertex

Array = NDArray[np.float64]
Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

GAUSSIAN = 2.0 * np.sqrt(2.0 * np.log(2.0))


@dataclass(frozen=True)
class Peaks:
    """Positions ``x``, ``y`` (N,) pixels, ``flux`` (N,) electrons of a Gaussian of that height, and ``snr`` (N,) of the
    height; in order of y, x. ``detected`` (ny, nx): pixels above the threshold."""

    x: Array
    y: Array
    flux: Array
    snr: Array
    detected: Mask


def find(
    image: Plane,
    variance: Plane,
    usable: Mask,
    fwhm: float,
    threshold: float,
    reach: float,
    distrust: Plane | None = None,
) -> Peaks:
    """Peaks of ``image`` (ny, nx) above ``threshold`` sigma, for stars of ``fwhm`` pixels.

    Pixels that are not ``usable`` count as they are in the image, so they should be interpolated; a peak that has no
    usable pixel beside it is dropped. ``reach``: half width of the kernel in its sigmas; a wider one is more sensitive,
    a narrower one less disturbed by neighbours. ``distrust`` (ny, nx) electrons is added to the noise in quadrature:
    where a model was subtracted, part of it.
    """  # fmt: skip
    sigma = fwhm / GAUSSIAN
    half = max(2, round(reach * sigma))
    r = np.arange(-half, half + 1)
    gauss = np.exp(-0.5 * (r / sigma) ** 2)
    pixels = float(len(r) ** 2)
    total, square = gauss.sum() ** 2, (gauss**2).sum() ** 2
    norm = square - total**2 / pixels  # sum of (kernel - mean)^2
    smooth = ndimage.correlate1d(ndimage.correlate1d(image, gauss, 0, mode="nearest"), gauss, 1, mode="nearest")
    mean = ndimage.uniform_filter(image, len(r), mode="nearest") * np.float32(total)
    height = (smooth - mean) / np.float32(norm)
    noise2 = variance if distrust is None else variance + distrust**2
    # The kernel's square weighs the middle: a small box around the pixel has about the same mean variance.
    noise = np.sqrt(ndimage.uniform_filter(noise2, 3, mode="nearest") / np.float32(norm))
    significance = height / noise
    detected = significance > threshold
    y, x = np.nonzero(detected & (height >= highest(height)) & grown(usable))
    dx, dy = vertex(height, y, x)
    flux = height[y, x] * 2.0 * np.pi * sigma**2
    return Peaks(x + dx, y + dy, flux.astype(float), significance[y, x].astype(float), detected)
