"""Sources on the coadds of all bands together: peaks, and which peaks share a footprint.

The detection image is the mean of the bands weighted by 1 / (median variance). Peaks are found as DAOFIND does
(Stetson 1987, PASP 99, 191): the amplitude H of a Gaussian core on a free local background, fitted at every pixel, so
that a faint star on the slope of a bright one is a peak of its own. A peak counts when a point source there is
significant, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import sep
from numpy.typing import NDArray
from scipy import ndimage

from pipelines.neighbours import grown, highest, vertex
from pipelines.psf import PsfModel, resized, sample_grid

Array = NDArray[np.float64]
FloatImage = NDArray[np.float32]
BoolImage = NDArray[np.bool_]


@dataclass(frozen=True)
class Field:
    """One image to measure on: ``image``, ``variance`` (ny, nx) with zeros where not ``valid``, and its PSF.

    ``saturated`` pixels (and those beside them) are not valid: such stars are measured by their wings.
    """

    image: FloatImage
    variance: FloatImage
    valid: BoolImage
    saturated: BoolImage
    psf: PsfModel

    @property
    def noise(self) -> float:
        """Median standard deviation of a pixel."""
        return float(np.sqrt(np.median(self.variance[self.valid]))) if self.valid.any() else 0.0


@dataclass(frozen=True)
class Peaks:
    """Positions ``x``, ``y`` (N,); ``footprints`` (ny, nx): numbers 1, 2, ... of connected significant pixels."""

    x: Array
    y: Array
    footprints: NDArray[np.int64]


def combined(fields: Sequence[Field]) -> Field:
    """The detection image: weighted mean of the bands that have data at each pixel, and the mean of their PSFs."""
    shape = fields[0].image.shape
    total, noise, weight = (np.zeros(shape, np.float32) for _ in range(3))
    bands = [(field, np.float32(1.0 / field.noise**2)) for field in fields if field.noise > 0]
    for field, w in bands:
        total += w * field.image
        noise += w * w * field.variance
        weight += w * field.valid
    # Where one band is saturated, the others make no image of the same star.
    saturated = np.logical_or.reduce([field.saturated for field in fields])
    valid = (weight > 0) & ~saturated
    safe = np.where(valid, weight, np.float32(1))
    total[~valid] = noise[~valid] = 0
    size = max(field.psf.size for field, _ in bands)
    x, y = sample_grid(shape, 4)
    stamps = np.sum([float(w) * resized(field.psf.centred(x, y), size) for field, w in bands], axis=0)
    psf = PsfModel.through(stamps, x, y, 1, (shape[0], shape[1]))
    return Field((total / safe).astype(np.float32), (noise / (safe * safe)).astype(np.float32), valid, saturated, psf)


def background(image: FloatImage, valid: BoolImage, mesh: int) -> FloatImage:
    """A smooth background (sep's clipped mode on a mesh, spline between)."""
    if not valid.any():
        return np.zeros_like(image)
    model = sep.Background(np.ascontiguousarray(image), mask=~valid, bw=mesh, bh=mesh)
    return np.asarray(model.back(), np.float32)


def find_peaks(field: Field, threshold: float, fitted: FloatImage | None = None, doubt: float = 0.0) -> Peaks:
    """Peaks whose point-source signal to noise exceeds ``threshold`` on a background-subtracted detection image.

    A saturated region is one source, at its middle. In a residual image (``fitted`` is what was subtracted) there are
    no such, and a peak must also exceed ``doubt`` times the light subtracted about it: what is fainter may be the PSF
    model's error.
    """
    sigma = field.psf.width
    noise = np.sqrt(np.where(field.valid, field.variance, np.float32(np.inf)))
    smooth = ndimage.gaussian_filter(field.image, sigma, mode="constant", truncate=4.0)
    # A Gaussian filter of the PSF's width is the matched filter; its sum of squares is 1 / (4 pi sigma^2).
    point = smooth * np.float32(2.0 * np.sqrt(np.pi) * sigma) / noise
    core, core_noise = core_amplitude(field.image, sigma)
    peaked = (core == highest(core)) & (point > threshold)
    peaked &= core > np.float32(3.0 * core_noise) * noise
    # What seems to peak at the rim of a hole does so because of the hole.
    peaked &= ~grown(field.saturated, int(np.ceil(2.0 * sigma)))
    everywhere = np.ones((3, 3), bool)
    footprints, count = ndimage.label((point > threshold) | field.saturated, structure=everywhere)
    if fitted is not None:
        peaked &= smooth > np.float32(doubt) * ndimage.gaussian_filter(fitted, sigma, mode="constant", truncate=4.0)
        rows, columns = np.nonzero(peaked)
        dx, dy = vertex(core, rows, columns)
        return Peaks(columns + dx, rows + dy, footprints)
    holes, number = ndimage.label(field.saturated, structure=everywhere)
    middles = np.array(ndimage.center_of_mass(field.saturated, holes, np.arange(1, number + 1))).reshape(number, 2)
    # A footprint too faint or too flat to have a core is one source, at its most significant pixel.
    bare = np.setdiff1d(np.arange(1, count + 1), np.concatenate([footprints[peaked], footprints[field.saturated]]))
    if len(bare):
        where = np.array(ndimage.maximum_position(point, footprints, bare))
        peaked[where[:, 0], where[:, 1]] = True
    rows, columns = np.nonzero(peaked)
    dx, dy = vertex(core, rows, columns)
    return Peaks(np.concatenate([columns + dx, middles[:, 1]]), np.concatenate([rows + dy, middles[:, 0]]), footprints)


def core_amplitude(image: FloatImage, sigma: float) -> tuple[FloatImage, float]:
    """Least-squares amplitude of a Gaussian core on a constant in a small square about each pixel; its unit noise."""
    half = max(2, round(1.6 * sigma))
    offset = np.arange(-half, half + 1)
    line = np.exp(-0.5 * (offset / sigma) ** 2)
    kernel = np.outer(line, line)
    mean, scale = kernel.mean(), np.sum((kernel - kernel.mean()) ** 2)
    blurred = ndimage.correlate1d(image, line, axis=0, mode="constant")
    blurred = ndimage.correlate1d(blurred, line, axis=1, mode="constant")
    boxed = ndimage.uniform_filter(image, 2 * half + 1, mode="constant") * kernel.size
    amplitude = (blurred - np.float32(mean) * boxed) / np.float32(scale)
    return np.asarray(amplitude, np.float32), float(1.0 / np.sqrt(scale))
