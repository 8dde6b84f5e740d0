"""Pixels of one image on the grid of another: Lanczos-3 interpolation along a smooth mapping.

The mapping target pixel -> sky -> source pixel is evaluated on a few Chebyshev nodes and interpolated by the polynomial
through them, which is exact to far below a thousandth of a pixel for the smooth distortions of cameras.

Noise: interpolated pixels are correlated, so the scatter of single pixels understates the noise of a sum over a
source. The variance plane made here is that of the *white* noise with the same power at low spatial frequency,
v_target = v_source |d source / d target|, which is what a flux measured through a PSF or an aperture sees. Sources:
Lanczos windowed sinc, Duchon 1979 (J. Appl. Meteor. 18, 1016); barycentric interpolation, Berrut & Trefethen 2004.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from pipelines.wcs import SkyWcs

Array = NDArray[np.float64]
FloatImage = NDArray[np.float32]
Index = NDArray[np.int64]

TAPS = 6  # pixels that a Lanczos-3 kernel touches along one axis
PHASES = 4096  # sub-pixel phases in the table of weights: 1e-4 pixel
CHUNK = 1 << 15  # pixels interpolated at a time, so that all temporaries stay in the processor's cache


@dataclass(frozen=True)
class Footprint:
    """Where one source image falls in the target: ``box`` (x0, y0, x1, y1), inclusive, target pixels.

    ``x``, ``y`` (box height, box width): source pixel coordinates of the target pixels; ``area``: source pixels per
    target pixel, |d(source) / d(target)|.
    """

    box: tuple[int, int, int, int]
    x: Array
    y: Array
    area: Array

    def has(self, x: Index, y: Index) -> NDArray[np.bool_]:
        """Which target pixels (N,) lie in the box."""
        x0, y0, x1, y1 = self.box
        return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)

    def source_of(self, x: Index, y: Index) -> tuple[Array, Array]:
        """Source coordinates (N,), (N,) of target pixels in the box."""
        row, column = y - self.box[1], x - self.box[0]
        return self.x[row, column], self.y[row, column]

    def slopes(self, x: Index, y: Index) -> Array:
        """d(source x, source y) / d(target x, target y) at target pixels in the box: (N, 2, 2)."""
        ny, nx = self.x.shape
        row, column = np.clip(y - self.box[1], 1, ny - 2), np.clip(x - self.box[0], 1, nx - 2)
        return np.stack(
            [
                [0.5 * (plane[row, column + 1] - plane[row, column - 1]) for plane in (self.x, self.y)],
                [0.5 * (plane[row + 1, column] - plane[row - 1, column]) for plane in (self.x, self.y)],
            ]
        ).transpose(2, 1, 0)


def footprint(
    source: SkyWcs, source_shape: tuple[int, int], target: SkyWcs, target_shape: tuple[int, int], nodes: int = 8
) -> Footprint | None:
    """The target pixels that the source image can reach, and where they are in it; None where the two hardly meet."""
    height, width = source_shape
    edge = np.linspace(-0.5, 0.5, 5)
    px = np.concatenate([edge, edge, [-0.5] * 5, [0.5] * 5]) * width + 0.5 * (width - 1)
    py = np.concatenate([[-0.5] * 5, [0.5] * 5, edge, edge]) * height + 0.5 * (height - 1)
    tx, ty = target.sky_to_pixel(*source.pixel_to_sky(px, py))
    if not (np.all(np.isfinite(tx)) and np.all(np.isfinite(ty))):
        return None  # on the far side of the sky
    x0, y0 = max(0, int(np.floor(tx.min()))), max(0, int(np.floor(ty.min())))
    x1, y1 = min(target_shape[1] - 1, int(np.ceil(tx.max()))), min(target_shape[0] - 1, int(np.ceil(ty.max())))
    if x0 + 2 > x1 or y0 + 2 > y1:
        return None  # too thin to hold a pixel with all of its neighbours
    column, to_columns, slope_x = _interpolation(x0, x1, nodes)
    row, to_rows, slope_y = _interpolation(y0, y1, nodes)
    sx, sy = source.sky_to_pixel(*target.pixel_to_sky(*np.meshgrid(column, row)))
    area = np.abs((sx @ slope_x.T) * (slope_y @ sy) - (slope_y @ sx) * (sy @ slope_x.T))
    return Footprint((x0, y0, x1, y1), *(to_rows @ grid @ to_columns.T for grid in (sx, sy, area)))


def _interpolation(first: int, last: int, nodes: int) -> tuple[Array, Array, Array]:
    """Chebyshev nodes (n,) on [first, last], the matrix (pixels, n) from values there to pixels, and that of slopes."""
    angle = np.pi * np.arange(nodes) / (nodes - 1)
    half = max(0.5 * (last - first), 0.5)
    node = 0.5 * (first + last) - half * np.cos(angle)
    weight = (-1.0) ** np.arange(nodes)
    weight[[0, -1]] *= 0.5
    gap = np.arange(first, last + 1)[:, None] - node
    hit = np.abs(gap) < 1e-9
    terms = weight / np.where(hit, 1.0, gap)
    matrix = np.where(hit.any(axis=1, keepdims=True), hit, terms / terms.sum(axis=1, keepdims=True))
    apart = node[:, None] - node + np.eye(nodes)
    slope = weight / weight[:, None] / apart * (1.0 - np.eye(nodes))
    return node, matrix, slope - np.diag(slope.sum(axis=1))


def _kernel(x: Array) -> Array:
    """The Lanczos-3 kernel divided by the sum of its six weights, so that a constant stays one."""
    raw = np.sinc(x) * np.sinc(x / 3.0)
    offsets = np.floor(x)[..., None] - np.arange(-3, 3)
    taps = x[..., None] - offsets
    total = (np.sinc(taps) * np.sinc(taps / 3.0) * (np.abs(taps) < 3)).sum(axis=-1)
    return np.where(np.abs(x) < 3, raw / total, 0.0)


@cache
def _weights() -> FloatImage:
    """Weights (TAPS, PHASES + 1) of pixels floor(x) - 2 ... floor(x) + 3 for x - floor(x) = 0 ... 1."""
    phase = np.arange(PHASES + 1) / PHASES
    raw = phase - np.arange(-2.0, 4.0)[:, None]
    raw = np.sinc(raw) * np.sinc(raw / 3.0) * (np.abs(raw) < 3)
    return np.asarray(raw / raw.sum(axis=0), np.float32)


def lanczos3(image: FloatImage, x: Array, y: Array) -> FloatImage:
    """``image`` (ny, nx), all finite, at source positions ``x``, ``y`` (N,); pixels beyond the edge repeat the edge."""
    padded = np.pad(image, 3, mode="edge")
    flat, stride = padded.ravel(), padded.shape[1]
    table = _weights()
    result = np.empty(len(x), np.float32)
    for start in range(0, len(x), CHUNK):
        part = slice(start, start + CHUNK)
        column, row = np.floor(x[part]), np.floor(y[part])
        phase_x = ((x[part] - column) * PHASES + 0.5).astype(np.intp)
        phase_y = ((y[part] - row) * PHASES + 0.5).astype(np.intp)
        corner = ((row + 1) * stride + (column + 1)).astype(np.intp)
        weight_x = [np.take(taps, phase_x, mode="clip") for taps in table]
        total, line, pixel = result[part], np.empty(len(corner), np.float32), np.empty(len(corner), np.float32)
        total[:] = 0.0
        for j in range(TAPS):
            line[:] = 0.0
            for i in range(TAPS):
                np.take(flat[j * stride + i :], corner, out=pixel, mode="clip")
                pixel *= weight_x[i]
                line += pixel
            line *= np.take(table[j], phase_y, mode="clip")
            total += line
    return result


def fill(image: FloatImage, holes: NDArray[np.bool_], bad: NDArray[np.bool_]) -> FloatImage:
    """``image`` with holes replaced by the Gaussian-weighted mean of pixels within two that are not bad (0 if none).

    Holes are bad pixels whose value is worse than a guess. This only keeps them out of the kernels of their neighbours:
    they stay masked.
    """
    if not holes.any():
        return image
    filled = np.where(holes, np.float32(0), image)
    padded, good = np.pad(np.where(bad, np.float32(0), filled), 2), np.pad(~bad, 2).astype(np.float32)
    where = np.flatnonzero(np.pad(holes, 2))
    stride = padded.shape[1]
    total, weights = np.zeros(len(where), np.float32), np.zeros(len(where), np.float32)
    for dy in range(-2, 3):
        for dx in range(-2, 3):
            weight, at = np.float32(np.exp(-0.5 * (dx * dx + dy * dy))), where + dy * stride + dx
            total += weight * padded.ravel()[at]
            weights += weight * good.ravel()[at]
    filled[holes] = np.divide(total, weights, out=np.zeros_like(total), where=weights > 0)
    return filled


def grown(mask: NDArray[np.bool_], steps: int = 1) -> NDArray[np.bool_]:
    """True pixels and all within ``steps`` pixels of them (a square), along the last two axes."""
    result = mask.copy()
    for _ in range(steps):
        wide = result.copy()
        wide[..., 1:] |= result[..., :-1]
        wide[..., :-1] |= result[..., 1:]
        result = wide.copy()
        result[..., 1:, :] |= wide[..., :-1, :]
        result[..., :-1, :] |= wide[..., 1:, :]
    return result


@cache
def interpolated_psf_operator(size: int) -> Array:
    """The matrix T (size, size) that turns a stamp S of a PSF into T S T': the PSF after Lanczos interpolation.

    Averaged over all sub-pixel phases, interpolation with a kernel L convolves the continuous PSF with L. A PSF that
    is sampled well enough has no power beyond the Nyquist frequency: its samples are then filtered by the transform of
    L up to there, which is what T does along one axis (a spline through the stamp would be off by half a percent in
    the core).
    """
    frequency = np.linspace(0.0, 0.5, 129)
    reach = np.arange(-3 * 64, 3 * 64 + 1) / 64
    transform = np.cos(2.0 * np.pi * np.outer(frequency, reach)) @ _kernel(reach) / 64
    transform /= transform[0]
    lag = np.abs(np.arange(size)[:, None] - np.arange(size))
    waves = np.cos(2.0 * np.pi * frequency * np.arange(size)[:, None]) * transform
    response = 2.0 * (waves.sum(axis=1) - 0.5 * (waves[:, 0] + waves[:, -1])) * (frequency[1] - frequency[0])
    return np.asarray(response[lag])
