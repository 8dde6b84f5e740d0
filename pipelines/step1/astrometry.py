"""The WCS of a detector from reference stars: find the pattern, then fit.

Everything happens in the pixels of the nominal WCS: the pattern is a shift (and a small rotation), the fit a polynomial
from measured to nominal pixels, of as high an order as the matches allow; so a few stars correct the pointing and leave
the distortion that is known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.image import Image
from pipelines.step1.config import CalibrateConfig
from pipelines.step1.photometry import Photometry
from pipelines.step1.reference import References
from pipelines.wcs import SkyWcs, fit_tan_sip, polynomial_terms

Array = NDArray[np.float64]
Index = NDArray[np.int64]

#: Bin of the pattern's vote, pixels.
BIN = 2.0
#: Floor of the position error in pixels: what the PSF model and the pixels' own irregularity leave.
FLOOR = 0.02


@dataclass(frozen=True)
class Solution:
    """``wcs``; matched pairs ``source[k]`` - ``reference[k]`` (M,); ``rms`` distance of the pairs in the fit, arcsec.

    Where the pattern was not found there are no pairs, ``rms`` is NaN, and ``wcs`` is the nominal one.
    """

    wcs: SkyWcs
    source: Index
    reference: Index
    rms: float

    @property
    def absolute(self) -> bool:
        return len(self.source) > 0


def solve(image: Image, found: Photometry, bright: Index, stars: References, tolerance: float, config: CalibrateConfig) -> Solution:
    """WCS of an image, which carries the nominal one, from the sources ``found`` in it.

    ``bright``: indices of sources for the pattern, brightest first; ``tolerance``: of the pointing, pixels.
    """
    nominal, shape = image.wcs, image.shape
    assert nominal is not None
    unknown = Solution(nominal, np.zeros(0, np.int64), np.zeros(0, np.int64), float("nan"))
    rx, ry = nominal.sky_to_pixel(stars.ra, stars.dec)
    near = np.flatnonzero((rx > -tolerance) & (ry > -tolerance) & (rx < shape[1] - 1 + tolerance) & (ry < shape[0] - 1 + tolerance))
    if min(len(near), len(bright)) < config.match_minimum:
        return unknown
    centre = np.array([0.5 * (shape[1] - 1), 0.5 * (shape[0] - 1)])
    sources, references = np.stack([found.x, found.y], axis=1) - centre, np.stack([rx, ry], axis=1)[near] - centre
    pattern = _pattern(sources[bright[: config.match_stars]], references[: config.match_stars], tolerance, config)
    if pattern is None:
        return unknown
    scale = float(np.hypot(*centre))
    mapping = np.concatenate([pattern.shift[None, :], scale * pattern.turn])
    error = np.sqrt(0.5 * (found.x_err**2 + found.y_err**2))
    sigma = np.hypot(np.nan_to_num(error, nan=1.0, posinf=1.0), FLOOR)
    reference_sigma = stars.position_err[near] * 3600.0 / nominal.pixel_scale
    order = 1
    i = j = np.zeros(0, np.int64)
    for radius in (1.5 * BIN, max(0.5 * BIN, config.match_radius), config.match_radius):
        moved = _terms(sources / scale, order) @ mapping
        i, j = _mutual(moved, references, radius)
        if len(i) < config.match_minimum:
            return unknown
        order = _order(len(i), config.wcs_order)
        weight = 1.0 / (sigma[i] ** 2 + reference_sigma[j] ** 2)
        mapping, kept = _fit(sources[i] / scale, references[j], weight, order, config.match_minimum)
        i, j = i[kept], j[kept]
    grid = np.stack(np.meshgrid(*(np.linspace(-c, c, 12) for c in centre)), axis=-1).reshape(-1, 2)
    target = _terms(grid / scale, order) @ mapping + centre
    sky = nominal.pixel_to_sky(target[:, 0], target[:, 1])
    pixels = grid + centre
    wcs = fit_tan_sip(
        pixels[:, 0], pixels[:, 1], *sky, nominal.crval, (float(centre[0]), float(centre[1])),
        max(config.wcs_order, nominal.order),
    )  # fmt: skip
    off = _terms(sources[i] / scale, order) @ mapping - references[j]
    return Solution(wcs, i, near[j], float(np.sqrt(np.square(off).sum(axis=1).mean())) * wcs.pixel_scale)


@dataclass(frozen=True)
class _Pattern:
    """reference = source ``turn`` (2, 2) + ``shift`` (2,), in pixels from the middle of the image."""

    shift: Array
    turn: Array


def _pattern(sources: Array, references: Array, tolerance: float, config: CalibrateConfig) -> _Pattern | None:
    """The shift and rotation that most pairs vote for; None when they have fewer votes than chance explains.

    Each pair of a source (N, 2) and a reference (M, 2) within the tolerance votes for its shift; true pairs agree.
    Rotations are tried in steps that move the corner by a bin, from none outwards.
    """
    step = BIN / max(float(np.hypot(*np.abs(sources).max(axis=0))), BIN)
    steps = int(np.radians(config.rotation_tolerance) / step)
    cells = 2 * int(np.ceil(tolerance / BIN)) + 3
    most, chance, best = 0, 0.0, _Pattern(np.zeros(2), np.eye(2))
    for angle in step * np.array(sorted(range(-steps, steps + 1), key=abs)):
        turn = _rotation(angle)
        x, y = ((references[None, :, axis] - (sources @ turn)[:, axis, None]).ravel() for axis in (0, 1))
        within = np.flatnonzero((np.abs(x) < 0.5 * cells * BIN) & (np.abs(y) < 0.5 * cells * BIN))
        shift = np.stack([x[within], y[within]], axis=1)
        cell = np.floor(shift / BIN + 0.5 * cells).astype(np.int64)
        votes = np.bincount(cell[:, 1] * cells + cell[:, 0], minlength=cells**2).reshape(cells, cells)
        padded = np.pad(votes, 1)
        blocks = np.sum([padded[a : a + cells, b : b + cells] for a in range(3) for b in range(3)], axis=0)
        top = int(np.argmax(blocks))
        if blocks.flat[top] > most:
            block = (np.abs(cell[:, 0] - top % cells) <= 1) & (np.abs(cell[:, 1] - top // cells) <= 1)
            most, chance = int(blocks.flat[top]), 9.0 * len(cell) / cells**2
            best = _Pattern(np.median(shift[block], axis=0), turn)
    return best if most >= max(config.match_minimum, chance + 5.0 * np.sqrt(chance)) else None


def _rotation(angle: float) -> Array:
    """Matrix that turns row vectors by ``angle`` (radians)."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, s], [-s, c]])


def _terms(position: Array, order: int) -> Array:
    """Polynomial terms (N, T) of positions (N, 2)."""
    return np.stack([position[:, 0] ** p * position[:, 1] ** q for p, q in polynomial_terms(order)], axis=1)


def _order(matches: int, most: int) -> int:
    """Highest order up to ``most`` that leaves four matches to a term; at least 1."""
    return max(o for o in range(1, most + 1) if o == 1 or matches >= 4 * len(polynomial_terms(o)))


def _mutual(a: Array, b: Array, radius: float) -> tuple[Index, Index]:
    """Pairs (i, j) of a (N, 2) and b (M, 2) that are each other's nearest, within ``radius``."""
    distance, j = cKDTree(b).query(a, distance_upper_bound=radius)
    i = np.flatnonzero(np.isfinite(distance))
    _, back = cKDTree(a).query(b[j[i]], distance_upper_bound=radius)
    i = i[back == i]
    return i, j[i]


def _fit(position: Array, target: Array, weight: Array, order: int, minimum: int) -> tuple[Array, NDArray[np.bool_]]:
    """Weighted least squares (T, 2) from positions (N, 2) to targets (N, 2), outliers beyond 4 sigma left out."""
    terms = _terms(position, order)
    keep = np.ones(len(position), bool)
    mapping: Array = np.zeros((terms.shape[1], 2))
    for _ in range(4):
        w = np.sqrt(weight[keep])[:, None]
        mapping = np.asarray(np.linalg.lstsq(terms[keep] * w, target[keep] * w, rcond=None)[0], np.float64)
        off = np.asarray(np.linalg.norm(terms @ mapping - target, axis=1) * np.sqrt(weight), np.float64)
        fresh = off < 4.0 * max(float(np.median(off[keep])) / 1.1774, 1.0)
        if fresh.sum() < minimum or (fresh == keep).all():
            break
        keep = fresh
    return mapping, keep
