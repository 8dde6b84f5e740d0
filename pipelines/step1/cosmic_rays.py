"""Cosmic rays: edges that are sharper than any star (L.A.Cosmic, van Dokkum 2001, as in astroscrappy).

With stars of two to three pixels FWHM the Laplacian also fires in the cores of bright stars, which would cost per cents
of their light. So every hit is looked at again: a star, wherever it falls on the pixels, sends light to all four
neighbours of its brightest pixel; a cosmic ray leaves at least one of them dark.
"""

from __future__ import annotations

import astroscrappy
import numpy as np
from numpy.typing import NDArray

from pipelines.image import UNUSABLE
from pipelines.step1.config import IsrConfig

Mask = NDArray[np.bool_]


def find(image: NDArray[np.float32], variance: NDArray[np.float32], mask: NDArray[np.int16], config: IsrConfig) -> Mask:
    """Pixels (ny, nx) hit by cosmic rays in ``image`` (electrons, sky included); unusable pixels are not searched."""
    unusable = (mask & UNUSABLE) != 0
    hits, _ = astroscrappy.detect_cosmics(
        image, inmask=unusable, invar=variance, gain=1.0, readnoise=1.0, satlevel=np.inf, niter=1, sepmed=True,
        sigclip=config.cosmic_sigma, sigfrac=config.cosmic_fraction, objlim=config.cosmic_contrast,
        fsmode="median", cleantype="medmask",
    )  # fmt: skip
    hits &= ~unusable
    return hits & ~_starlike(image, hits, _ratio(config.sharpest_fwhm))


def _ratio(fwhm: float) -> float:
    """Least light in a neighbour of a star's brightest pixel, relative to it: star on the far edge of that pixel."""
    return float(0.8 * np.exp(-4.0 * np.log(2.0) * (1.5**2 - 0.5**2) / fwhm**2))


def _starlike(image: NDArray[np.float32], hits: Mask, ratio: float) -> Mask:
    """Those of ``hits`` whose brightest pixel within 3x3 has light in all four neighbours."""
    y, x = np.nonzero(hits)
    star = np.zeros_like(hits)
    if len(y) == 0:
        return star
    padded = np.pad(image - np.median(image), 2, mode="edge")
    around = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    brightest = np.argmax([padded[y + 2 + dy, x + 2 + dx] for dy, dx in around], axis=0)
    py, px = (y + 2 + np.array(around)[brightest, 0], x + 2 + np.array(around)[brightest, 1])
    least = np.min([padded[py, px + 1], padded[py, px - 1], padded[py + 1, px], padded[py - 1, px]], axis=0)
    star[y, x] = least > ratio * padded[py, px]
    return star
