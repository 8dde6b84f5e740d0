"""The PSF model: an elliptical Moffat profile and, on top of it, a table of pixels that varies over the detector.

The profile (Moffat 1969) carries the far wings, where single pixels are noise; the table (as in DAOPHOT, Stetson 1987)
carries what no formula knows. The table is fitted so that the model *drawn at the stars' own sub-pixel positions*
equals the data: residuals are moved to the pixel grid, averaged, added, and drawn again.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.psf import PsfModel, shift
from pipelines.step1.detect import GAUSSIAN
from pipelines.step1.windows import Windows, centroid
from pipelines.wcs import polynomial_terms

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
ROUNDS = 3


@dataclass(frozen=True)
class PsfFit:
    """``model``; ``used`` (N,): stars that survived the rejection of outliers."""

    model: PsfModel
    used: Flags


def stamp_half(fwhm: float) -> int:
    """Half size of the stamps of a PSF of ``fwhm`` pixels."""
    return int(np.clip(np.ceil(4.25 * fwhm), 7, 40))


def default(shape: tuple[int, int], fwhm: float) -> PsfModel:
    """A round Moffat profile of ``fwhm`` pixels, for images (ny, nx) without stars to learn from."""
    return PsfModel(_moffat(stamp_half(fwhm), fwhm, fwhm, 0.0, 3.0)[None], 0, shape)


def fit(windows: Windows, data: Array, variance: Array, good: Flags, fwhm: float, order: int, rough: bool = False) -> PsfFit:
    """PSF from stars in ``windows`` (N, size, size) with size from stamp_half(fwhm), N > 0.

    ``data``: electrons, background and neighbours subtracted; ``variance`` of them; ``good``: pixels to use;
    ``order``: highest one of the polynomial over the detector. ``rough``: neighbours are still there, and the sky is only
    half known; one PSF for the whole detector, from medians.
    """
    half = windows.half
    inner = (slice(None), *2 * (slice(half - int(np.ceil(1.5 * fwhm)), half + int(np.ceil(1.5 * fwhm)) + 1),))
    data = np.where(good, data, 0.0)
    # Windowed centroids tie the middle of the stamps to something the table cannot move.
    ox, oy = centroid(data[inner], windows.dx[inner], windows.dy[inner], fwhm / GAUSSIAN)
    x, y = windows.x + ox, windows.y + oy
    dx, dy = x - windows.column, y - windows.row

    flux = data[inner].sum(axis=(1, 2))
    level = np.zeros(len(x))
    rim = np.hypot(*np.mgrid[-half : half + 1, -half : half + 1]) > 3.0 * fwhm
    reach = min(half, int(np.ceil(2.5 * fwhm)))  # of the table
    taper = _taper(reach, 1.5 * fwhm, 2.5 * fwhm)
    table = (slice(None), *2 * (slice(half - reach, half + reach + 1),))
    keep = np.ones(len(x), bool)
    model = None
    for round_ in range(ROUNDS):
        if model is None:
            aligned = shift(data / flux[:, None, None], -dx, -dy)
            model = PsfModel(_fit_profile(np.median(aligned, axis=0), fwhm)[None], 0, windows.shape)
        drawn = shift(model.centred(x, y), dx, dy)
        flux = _amplitude((data - level[:, None, None])[inner], drawn[inner], good[inner])
        light = flux[:, None, None] * drawn
        residual = np.where(good, data - light, 0.0)
        # What the model does not know yet is a few per cent of it; more, and it is another source.
        usual = good & (residual**2 < 25.0 * (variance + (0.05 * light) ** 2))
        if rough:
            # An error of the sky of 1/30 of its noise, summed over a stamp, is per cents of a star of S/N 50.
            level = _mean(residual, usual & rim)
        residual = np.where(usual, residual - level[:, None, None], 0.0)
        if round_:
            keep = _agreeing(residual[inner], light[inner], variance[inner], usual[inner])
        correction = shift(residual / flux[:, None, None], -dx, -dy, reach) * taper
        if rough:
            stamps = model.stamps.copy()
            stamps[table] += np.median(correction[keep], axis=0)
            model = PsfModel(stamps, 0, model.shape)
        else:
            noise2 = variance[table] / flux[:, None, None] ** 2 + (0.02 * drawn[table]) ** 2
            weight = keep[:, None, None] / noise2
            model = _corrected(model, x, y, correction, weight, _order(int(keep.sum()), order))
    assert model is not None
    return PsfFit(model, keep)


def _mean(values: Array, use: Flags) -> Array:
    """Mean (N,) of the pixels in use of each window; 0 where there is none."""
    return np.asarray((values * use).sum(axis=(1, 2)) / np.maximum(use.sum(axis=(1, 2)), 1))


def _corrected(model: PsfModel, x: Array, y: Array, correction: Array, weight: Array, order: int) -> PsfModel:
    """``model`` plus, pixel by pixel, the polynomial through the stars' corrections (N, n, n) with their weights.

    ``n`` may be less than the size of the stamps: their middle is corrected. In the core all stars weigh the same, in the
    wings they weigh by signal to noise.
    """
    terms = PsfModel(model.stamps, order, model.shape).weights(x, y)
    (n, k), size = terms.shape, correction.shape[-1]
    weight, correction = weight.reshape(n, -1), correction.reshape(n, -1)
    products = (terms[:, :, None] * terms[:, None, :]).reshape(n, k * k)
    normal = (products.T @ weight).T.reshape(-1, k, k)
    table = np.linalg.solve(normal, (terms.T @ (weight * correction)).T[:, :, None])[:, :, 0].T
    stamps = np.zeros((k, model.size, model.size))
    stamps[: min(k, len(model.stamps))] = model.stamps[: min(k, len(model.stamps))]
    middle = slice(model.size // 2 - size // 2, model.size // 2 + size // 2 + 1)
    stamps[:, middle, middle] += table.reshape(k, size, size)
    return PsfModel(stamps / stamps[0].sum(), order, model.shape)


def _order(stars: int, most: int) -> int:
    """Highest order that leaves five stars to a coefficient."""
    return max(o for o in range(most + 1) if o == 0 or stars >= 5 * len(polynomial_terms(o)))


def _amplitude(data: Array, drawn: Array, good: Flags) -> Array:
    """Least-squares flux (N,) of each window."""
    drawn = drawn * good
    light, power = (data * drawn).sum(axis=(1, 2)), (drawn**2).sum(axis=(1, 2))
    return np.asarray(np.maximum(light, 1e-9) / np.maximum(power, 1e-12))


def _agreeing(residual: Array, model: Array, variance: Array, usual: Flags) -> Flags:
    """Stars (N,) that fit the model about as well as most do (blends and galaxies do not); at least half stay."""
    # 1 % of the model stands for what the model does not know yet; bright stars would all be outliers without it.
    chi2 = _mean(residual**2 / (variance + (0.01 * model) ** 2), usual)
    middle = float(np.median(chi2))
    spread = 1.4826 * float(np.median(np.abs(chi2 - middle)))
    unusual = (~usual).sum(axis=(1, 2))
    return np.asarray((chi2 <= max(middle + 4.0 * spread, 1.5)) & (unusual <= max(float(np.median(unusual)), 2.0)))


def _moffat(half: int, width_x: float, width_y: float, shear: float, beta: float) -> Array:
    """Moffat profile on a stamp of 2 half + 1 pixels, sum 1; ``width_x``, ``width_y``: FWHM along the axes."""
    profile, _ = _moffat_with_slopes(half, np.array([width_x, width_y, shear, beta]))
    return np.asarray(profile / profile.sum())


def _moffat_with_slopes(half: int, p: Array) -> tuple[Array, Array]:
    """(1 + q)^-beta (size, size) for p = (width_x, width_y, shear, beta), and its derivatives by p (4, size, size).

    q = u^2 + v^2 + 2 shear u v with u = s x / width_x, v = s y / width_y, s^2 = 4 (2^(1/beta) - 1).
    """
    width_x, width_y, shear, beta = p
    root = 2.0 ** (1.0 / beta)
    scale = 2.0 * np.sqrt(root - 1.0)
    line = np.arange(-half, half + 1.0) * scale
    u, v = line[None, :] / width_x, line[:, None] / width_y
    uu, vv, uv = u * u, v * v, u * v
    q = uu + vv + 2.0 * shear * uv
    log = np.log1p(q)
    profile = np.exp(-beta * log)
    by_q = -beta * profile / (1.0 + q)
    q_by_beta = -q * np.log(2.0) / beta**2 * root / (root - 1.0)
    slopes = np.stack(
        [
            by_q * (uu + shear * uv) * (-2.0 / width_x),
            by_q * (vv + shear * uv) * (-2.0 / width_y),
            by_q * 2.0 * uv,
            by_q * q_by_beta - log * profile,
        ]
    )
    return profile, slopes


def _fit_profile(stack: Array, fwhm: float) -> Array:
    """The Moffat profile nearest to a stack of stars (size, size), centred: Levenberg-Marquardt (Marquardt 1963)."""
    half = len(stack) // 2
    stack = stack / max(float(stack[half, half]), 1e-12)
    # Wings count as well as the core: weights as of photon noise on a faint sky.
    weight = 1.0 / np.sqrt(np.maximum(stack, 0.0) + 1e-3)
    low, high = np.array([0.5 * fwhm, 0.5 * fwhm, -0.5, 1.5]), np.array([2.0 * fwhm, 2.0 * fwhm, 0.5, 10.0])

    def misfit(p: Array) -> tuple[float, Array, Array]:
        """Sum of squares; residual and its slopes by p, amplitude and all, both weighted and flat."""
        profile, slopes = _moffat_with_slopes(half, p)
        shape = (profile * weight).ravel()
        amplitude = float(shape @ (stack * weight).ravel()) / float(shape @ shape)
        residual = (stack * weight).ravel() - amplitude * shape
        return float(residual @ residual), residual, np.vstack([amplitude * (slopes * weight).reshape(4, -1), shape])

    p, damping = np.array([fwhm, fwhm, 0.0, 3.0]), 1e-3
    cost, residual, slopes = misfit(p)
    for _ in range(12):
        right = slopes @ residual
        # What is at its limit and would go beyond stays, and the others move without it.
        free = np.append(((p > low) | (right[:4] > 0)) & ((p < high) | (right[:4] < 0)), True)
        normal = slopes[free] @ slopes[free].T
        step = np.zeros(5)
        step[free] = np.linalg.solve(normal + damping * np.diag(np.diag(normal)), right[free])
        trial = np.clip(p + step[:4], low, high)
        new = misfit(trial)
        if new[0] < cost:
            done = cost - new[0] < 1e-7 * cost
            p, damping, (cost, residual, slopes) = trial, 0.1 * damping, new
            if done:
                break
        else:
            damping *= 10.0
    return _moffat(half, *p)


def _taper(half: int, inner: float, outer: float) -> Array:
    """1 within ``inner`` pixels of the centre, falling as a cosine to 0 at ``outer``."""
    yy, xx = np.mgrid[-half : half + 1, -half : half + 1]
    t = np.clip((np.hypot(xx, yy) - inner) / max(outer - inner, 1.0), 0.0, 1.0)
    return np.asarray(0.5 * (1.0 + np.cos(np.pi * t)))
