"""Which sources are stars fit to tell the PSF: bright, whole, alone, and of the size that most bright sources have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.image import UNUSABLE, Image
from pipelines.step1.config import CalibrateConfig
from pipelines.step1.detect import GAUSSIAN, Peaks
from pipelines.step1.photometry import Photometry
from pipelines.step1.windows import Windows, centroid, second_moments
from pipelines.wcs import polynomial_terms

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def select(image: Image, peaks: Peaks, fwhm: float, config: CalibrateConfig) -> tuple[Index, Array, Array, float]:
    """PSF stars among ``peaks`` of a background-subtracted ``image``, brightest first.

    Returns indices, windowed positions x, y, and the median FWHM in pixels (of the Gaussian of equal moments).

    ``fwhm`` is the first guess; it is also the answer where there is no star.
    """
    half = int(np.ceil(1.5 * fwhm))
    chosen = np.flatnonzero((peaks.snr > config.psf_snr) & _alone(peaks, fwhm) & _whole(image, peaks.x, peaks.y, half))
    chosen = chosen[np.argsort(-peaks.flux[chosen], kind="stable")][: 3 * config.psf_stars]
    if len(chosen) == 0:
        return chosen, peaks.x[chosen], peaks.y[chosen], fwhm
    windows = Windows(peaks.x[chosen], peaks.y[chosen], half, image.shape)
    light = windows.take(image.image).astype(float)
    ox, oy = centroid(light, windows.dx, windows.dy, fwhm / GAUSSIAN)
    x, y = peaks.x[chosen] + ox, peaks.y[chosen] + oy
    dx, dy = windows.dx - ox[:, None, None], windows.dy - oy[:, None, None]
    ixx, iyy, _ = second_moments(light, dx, dy, 1.2 * fwhm / GAUSSIAN)
    size = np.sqrt(0.5 * (ixx + iyy))
    stars = np.flatnonzero(locus(size, x / image.shape[1], y / image.shape[0]))[: config.psf_stars]
    median = float(np.median(size[stars])) * GAUSSIAN if len(stars) else fwhm
    return chosen[stars], x[stars], y[stars], median


def choose(image: Image, found: Photometry, size: Array, fwhm: float, config: CalibrateConfig) -> Index:
    """As select(), among measured sources whose neighbours can be subtracted; ``size`` (N,) relative to a first PSF."""
    half = int(np.ceil(1.5 * fwhm))
    fit = (found.snr > config.psf_snr) & (found.overlap < config.overlap) & ~found.lost
    chosen = np.flatnonzero(fit & _whole(image, found.x, found.y, half))
    chosen = chosen[np.argsort(-found.flux[chosen], kind="stable")][: 2 * config.psf_stars]
    on_locus = locus(size[chosen], found.x[chosen] / image.shape[1], found.y[chosen] / image.shape[0])
    return chosen[on_locus][: config.psf_stars]


def _whole(image: Image, x: Array, y: Array, half: int) -> NDArray[np.bool_]:
    """Sources whose window of ``half`` pixels lies on the detector and has no unusable pixel."""
    whole = (x > half) & (y > half) & (x < image.shape[1] - 1 - half) & (y < image.shape[0] - 1 - half)
    unusable = Windows(x[whole], y[whole], half, image.shape).take(image.bad(UNUSABLE))
    whole[whole] = ~unusable.any(axis=(1, 2))
    return whole


def _alone(peaks: Peaks, fwhm: float) -> NDArray[np.bool_]:
    """Sources whose neighbours have together less than 1 % of their flux within 2 FWHM, and 10 % within 4 FWHM."""
    position = np.stack([peaks.x, peaks.y], axis=1)
    pairs = cKDTree(position).query_pairs(4.0 * fwhm, output_type="ndarray")
    i, j = np.concatenate([pairs, pairs[:, ::-1]]).T
    near = np.hypot(*(position[i] - position[j]).T) < 2.0 * fwhm
    others = np.bincount(i, np.maximum(peaks.flux[j], 0.0) * np.where(near, 10.0, 1.0), minlength=len(position))
    return np.asarray(others < 0.1 * peaks.flux)


def locus(size: Array, u: Array, v: Array) -> NDArray[np.bool_]:
    """Members of the star locus: sizes near the most frequent one, which may vary linearly over the detector.

    ``size`` (N,) may hold NaN; ``u``, ``v`` (N,) are positions in 0..1.
    """
    finite = np.isfinite(size)
    if not finite.any():
        return finite
    mode = _half_sample_mode(np.sort(size[finite]))
    keep = finite & (np.abs(size / mode - 1.0) < 0.2)
    terms = np.stack([u**p * v**q for p, q in polynomial_terms(1)], axis=1)
    for _ in range(3):
        if keep.sum() < 10:
            break
        plane = terms @ np.linalg.lstsq(terms[keep], size[keep], rcond=None)[0]
        off = np.abs(size / plane - 1.0)
        keep = finite & (off < max(3.0 * 1.4826 * float(np.median(off[keep])), 0.01))
    return keep


def _half_sample_mode(values: Array) -> float:
    """Mode of sorted ``values`` (N,): the densest half of the densest half ... (Bickel & Fruehwirth 2006)."""
    while len(values) > 3:
        n = (len(values) + 1) // 2
        start = int(np.argmin(values[n - 1 :] - values[: len(values) - n + 1]))
        values = values[start : start + n]
    return float(np.mean(values))
