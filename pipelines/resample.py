"""Pixels of one image on the grid of another: Lanczos-3 interpolation, flux per pixel, with variance, mask and PSF.

Interpolation correlates neighbours, and the scatter of a single pixel understates the noise of a flux. The variance made
here is that of *white* noise with the same power at low frequency, v = v(source) |d source / d target|, which is what a PSF
flux or an aperture sees. Source of the kernel: Duchon 1979 (J. Appl. Met. 18, 1016); L(x) = sinc(x) sinc(x/3), |x| < 3,
divided by the sum of its six values, so that a constant stays one.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pipelines.image import MASK, UNUSABLE, Image
from pipelines.neighbours import filled, grown
from pipelines.pixel_map import PixelMap, shared_box
from pipelines.psf import PsfModel
from pipelines.wcs import SkyWcs

Array = NDArray[np.float64]
FloatImage = NDArray[np.float32]

LOBES = 3
TAPS = 2 * LOBES  # pixels that the kernel touches along one axis
#: Sub-pixel phases in the table of weights: a position is right to 1e-4 pixel.
_PHASES = 4096
#: Pixels interpolated at a time, so that all temporaries stay in the processor's cache.
_CHUNK = 1 << 15


def lanczos3(image: FloatImage, x: Array, y: Array) -> FloatImage:
    """``image`` (ny, nx), all finite, at positions ``x``, ``y`` (N,) in it; pixels beyond the edge repeat the edge."""
    padded = np.pad(image, LOBES, mode="edge")
    flat, stride = padded.ravel(), padded.shape[1]
    table = _weights()
    result = np.empty(len(x), np.float32)
    for start in range(0, len(x), _CHUNK):
        part = slice(start, start + _CHUNK)
        column, row = np.floor(x[part]), np.floor(y[part])
        phase_x = ((x[part] - column) * _PHASES + 0.5).astype(np.intp)
        phase_y = ((y[part] - row) * _PHASES + 0.5).astype(np.intp)
        corner = ((row + 1) * stride + (column + 1)).astype(np.intp)
        weight_x = [taps.take(phase_x, mode="clip") for taps in table]
        total, line, pixel = result[part], np.empty(len(corner), np.float32), np.empty(len(corner), np.float32)
        total[:] = 0.0
        for j in range(TAPS):
            line[:] = 0.0
            for i in range(TAPS):
                # a shifted view in place of shifted indices; mode="clip" spares a second pass of bound checks
                flat[j * stride + i :].take(corner, out=pixel, mode="clip")
                pixel *= weight_x[i]
                line += pixel
            line *= table[j].take(phase_y, mode="clip")
            total += line
    return result


def nearest(shape: tuple[int, int], x: Array, y: Array) -> NDArray[np.intp]:
    """Flat indices (N,) of the pixels of an image of ``shape`` that hold positions (N,) on it."""
    return (y + 0.5).astype(np.intp) * shape[1] + (x + 0.5).astype(np.intp)


def resample(source: Image, wcs: SkyWcs, shape: tuple[int, int]) -> Image:
    """``source`` (which needs a WCS) on the pixels of ``wcs`` and ``shape`` (ny, nx); flux per pixel, no PSF in the result.

    Unusable source pixels are replaced by the mean of usable neighbours first, so that they do not ring; their planes mark
    the target pixels next to them (taps further out weigh less than about 3 %). Pixels without a full set of taps are 0
    with infinite variance and NO_DATA.
    """
    if source.wcs is None:
        raise ValueError("an image without a WCS cannot be resampled")
    result = Image(
        np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32), np.full(shape, MASK["NO_DATA"], np.int16),
        wcs, None, dict(source.meta),
    )  # fmt: skip
    box = shared_box(wcs, shape, source.wcs, source.shape)
    if box is None or min(source.shape) < TAPS:
        return result
    pixel_map = PixelMap.between(wcs, source.wcs, box)
    sx, sy = pixel_map.grid()
    ny, nx = source.shape
    inside = (sx >= LOBES - 1) & (sx < nx - LOBES) & (sy >= LOBES - 1) & (sy < ny - LOBES)
    if not inside.any():
        return result
    x, y, area = sx[inside], sy[inside], pixel_map.area()[inside].astype(np.float32)
    bad = source.bad(UNUSABLE & ~MASK["SAT"] & ~MASK["EDGE"]) | ~np.isfinite(source.image) | ~np.isfinite(source.variance)
    image, variance = (filled(plane, bad, bad) for plane in (source.image, source.variance))
    at = nearest(source.shape, x, y)
    for plane, values in (
        (result.image, lanczos3(image, x, y) * area),
        (result.variance, variance.ravel()[at] * area),
        (result.mask, grown(source.mask).ravel()[at]),
    ):
        plane[pixel_map.slices][inside] = values
    return result


def carried_psf(psf: PsfModel, pixel_map: PixelMap, x: ArrayLike, y: ArrayLike, size: int) -> Array:
    """Stamps (N, size, size), sum 1, of the source's PSF as resampling leaves it at target positions (N,).

    The PSF there, smoothed by the interpolation kernel and sampled on the target's pixels through the local linear part
    of the map, so that it is rotated, scaled and sheared with the stars.
    """
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    affine = pixel_map.affine(x, y)
    smooth = _smoothing(psf.size)
    stamps = smooth @ psf.centred(*pixel_map(x, y)) @ smooth.T
    offset = np.arange(size) - size // 2
    dx, dy = offset[None, None, :], offset[None, :, None]
    at_x, at_y = (affine[:, k, 0, None, None] * dx + affine[:, k, 1, None, None] * dy + psf.size // 2 for k in (0, 1))
    return _sampled(stamps, at_x, at_y)


def carried_size(size: int, pixel_map: PixelMap) -> int:
    """An odd stamp size that covers, in target pixels, what stamps of ``size`` source pixels cover on the sky."""
    x0, x1, y0, y1 = pixel_map.box
    scale = float(np.sqrt(np.abs(np.linalg.det(pixel_map.affine((x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2)[0]))))
    return 2 * max(3, int(np.ceil((size // 2) / scale - 0.25))) + 1


def _sampled(stamps: Array, at_x: Array, at_y: Array) -> Array:
    """Quintic splines through stamps (N, n, n) at positions (N, size, size) in each; zero outside; sum 1."""
    spline = ndimage.spline_filter1d(ndimage.spline_filter1d(stamps, 5, axis=1), 5, axis=2)
    # All in one tall image, with zeros between: one call, and none reaches its neighbours.
    gap = 3
    tall = np.pad(spline, ((0, 0), (gap, gap), (gap, gap)))
    height = tall.shape[1]
    outside = (at_x < 0) | (at_x > stamps.shape[2] - 1) | (at_y < 0) | (at_y > stamps.shape[1] - 1)
    row = at_y.clip(0, stamps.shape[1] - 1) + gap + height * np.arange(len(stamps))[:, None, None]
    result = ndimage.map_coordinates(tall.reshape(-1, tall.shape[2]), (row, at_x + gap), order=5, mode="constant", prefilter=False)
    result[outside] = 0.0
    return np.asarray(result / result.sum(axis=(1, 2), keepdims=True))


@cache
def _weights() -> FloatImage:
    """Weights (TAPS, phases + 1) of pixels floor(x) - 2 ... floor(x) + 3 for x - floor(x) = 0 ... 1."""
    weights = _raw_kernel(np.arange(_PHASES + 1) / _PHASES - np.arange(1.0 - LOBES, LOBES + 1.0)[:, None])
    return np.asarray(weights / weights.sum(axis=0), np.float32)


def _raw_kernel(x: Array) -> Array:
    return np.asarray(np.sinc(x) * np.sinc(x / LOBES) * (np.abs(x) < LOBES))


@cache
def _smoothing(size: int) -> Array:
    """The matrix T (size, size) that turns a stamp S of a PSF into T S T': the PSF after Lanczos interpolation.

    Averaged over all sub-pixel phases, interpolation with a kernel L convolves the continuous PSF with L. A PSF that
    is sampled well enough has no power beyond the Nyquist frequency: its samples are then filtered by the transform of
    L up to there, which is what T does along one axis (a spline through the stamp would be off by half a percent in
    the core).
    """
    frequency = np.linspace(0.0, 0.5, 129)
    reach = np.arange(-LOBES * 64, LOBES * 64 + 1) / 64
    fraction = reach - np.floor(reach)
    kernel = _raw_kernel(reach) / _raw_kernel(fraction[:, None] - np.arange(1.0 - LOBES, LOBES + 1.0)).sum(axis=1)
    transform = np.cos(2.0 * np.pi * np.outer(frequency, reach)) @ kernel / 64
    transform /= transform[0]
    lag = np.abs(np.arange(size)[:, None] - np.arange(size))
    waves = np.cos(2.0 * np.pi * frequency * np.arange(size)[:, None]) * transform
    response = 2.0 * (waves.sum(axis=1) - 0.5 * (waves[:, 0] + waves[:, -1])) * (frequency[1] - frequency[0])
    return np.asarray(response[lag])
