"""Cosmic rays: edges that are sharper than any star (L.A.Cosmic, van Dokkum 2001, as in astroscrappy).

Two things are added. With stars of two to three pixels FWHM the Laplacian also fires in the cores of bright stars,
which would cost per cents of their light; but a star, wherever it falls on the pixels, sends light to all four
neighbours of its brightest pixel, and a cosmic ray leaves at least one of them dark. And as the full test is the
dearest part of the whole reduction, it is only made around pixels that stand above a pair of opposite neighbours and
are not such stars.
"""

from __future__ import annotations

import astroscrappy
import numpy as np
from numpy.typing import NDArray

from pipelines.image import UNUSABLE
from pipelines.step1.background import typical
from pipelines.step1.config import IsrConfig

Plane = NDArray[np.float32]
Mask = NDArray[np.bool_]

#: Tiles that are looked at closely, and how much is looked at around them (the test's filters reach 6 pixels), pixels.
TILE, MARGIN = 16, 6
#: How far, in units of the test's own limit, a pixel must stand out to be worth a close look: noise rarely does.
OUTSTANDING = 1.25


def find(image: Plane, variance: Plane, mask: NDArray[np.int16], config: IsrConfig) -> Mask:
    """Pixels (ny, nx) hit by cosmic rays in ``image`` (electrons, sky included); unusable pixels are not searched."""
    unusable = (mask & UNUSABLE) != 0
    light = image - typical(image, ~unusable)
    ratio = _ratio(config.sharpest_fwhm)
    sharp = _sharp(light, np.sqrt(variance), OUTSTANDING * config.cosmic_sigma) & ~unusable
    hits = np.zeros(image.shape, bool)
    tiles = np.unique(np.stack(np.nonzero(sharp & ~_starlike(light, sharp, ratio)), axis=1) // TILE, axis=0)
    if len(tiles) == 0:
        return hits
    # All tiles in one tall image: one call, and no seam matters, as the margins are thrown away.
    planes = [_cut(plane, tiles) for plane in (light, variance, unusable)]
    found, _ = astroscrappy.detect_cosmics(
        planes[0], inmask=planes[2], invar=planes[1], gain=1.0, readnoise=1.0, satlevel=np.inf, niter=1, sepmed=True,
        sigclip=config.cosmic_sigma, sigfrac=config.cosmic_fraction, objlim=config.cosmic_contrast,
        fsmode="median", cleantype="medmask",
    )  # fmt: skip
    size = TILE + 2 * MARGIN
    inner = found.reshape(len(tiles), size, size)[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    tile, dy, dx = np.nonzero(inner)
    y, x = tiles[tile, 0] * TILE + dy, tiles[tile, 1] * TILE + dx
    inside = (y < image.shape[0]) & (x < image.shape[1])
    hits[y[inside], x[inside]] = True
    hits &= ~unusable
    return hits & ~_starlike(light, hits, ratio)


def _sharp(light: Plane, noise: Plane, sigma: float) -> Mask:
    """Pixels that stand ``sigma`` above the mean of two opposite neighbours, in one of the four directions."""
    sharp = np.zeros(light.shape, bool)
    ny, nx = light.shape
    limit = (light - np.float32(sigma) * noise)[1:-1, 1:-1]
    for dy, dx in ((0, 1), (1, 0), (1, 1), (1, -1)):
        one = light[1 + dy : ny - 1 + dy, 1 + dx : nx - 1 + dx]
        other = light[1 - dy : ny - 1 - dy, 1 - dx : nx - 1 - dx]
        sharp[1:-1, 1:-1] |= limit > np.float32(0.5) * (one + other)
    return sharp


def _cut(plane: NDArray, tiles: NDArray[np.int64]) -> NDArray:
    """Tiles with their margins, one above the other; beyond the edges the image is mirrored."""
    padded = np.pad(plane, [(MARGIN, MARGIN + TILE)] * 2, mode="symmetric")
    steps = np.arange(TILE + 2 * MARGIN)
    rows, columns = (tiles[:, i, None] * TILE + steps for i in (0, 1))
    return np.ascontiguousarray(padded[rows[:, :, None], columns[:, None, :]].reshape(-1, len(steps)))


def _ratio(fwhm: float) -> float:
    """Least light in a neighbour of a star's brightest pixel, relative to it: star on the far edge of that pixel."""
    return float(0.8 * np.exp(-4.0 * np.log(2.0) * (1.5**2 - 0.5**2) / fwhm**2))


def _starlike(light: Plane, where: Mask, ratio: float) -> Mask:
    """Those of the pixels ``where`` that lie on a star: two steps uphill is a pixel with light all around it."""
    y, x = np.nonzero(where)
    star = np.zeros_like(where)
    if len(y) == 0:
        return star
    padded = np.pad(light, 3, mode="edge")
    around = np.array([(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
    py, px = y + 3, x + 3
    for _ in range(2):
        uphill = around[np.argmax([padded[py + dy, px + dx] for dy, dx in around], axis=0)]
        py, px = py + uphill[:, 0], px + uphill[:, 1]
    least = np.min([padded[py, px + 1], padded[py, px - 1], padded[py + 1, px], padded[py - 1, px]], axis=0)
    star[y, x] = least > ratio * padded[py, px]
    return star
