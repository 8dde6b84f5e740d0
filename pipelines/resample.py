"""Resampling of images between pixel grids: Lanczos-3, flux per pixel, with variance, mask and PSF.

A ``PixelMap`` gives source pixels for target pixels: the two WCSs are evaluated exactly on a coarse Chebyshev grid over the
box that the images share, and a polynomial through it serves every pixel (to about 1e-6 pixel over a detector).
``resample`` gathers 6 x 6 taps per target pixel; values keep the meaning "flux per pixel" (Jacobian applied).
Source of the kernel: Duchon 1979 (J. Appl. Met. 18, 1016); L(x) = sinc(x) sinc(x/3), |x| < 3, normalised per pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.polynomial import chebyshev
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from pipelines.image import MASK, UNUSABLE, Image
from pipelines.psf import PsfModel
from pipelines.wcs import SkyWcs, polynomial_terms

Array = NDArray[np.float64]

#: Degree of the polynomial map; distortions of a detector are of order 3 to 5.
_DEGREE = 5
_LOBES = 3
_PHASES = 4096
#: Pixels interpolated at a time: temporaries stay in the processor's cache, and small for large images.
_CHUNK = 1 << 15
#: A pixel is affected by an unusable one this far away (taps further out weigh less than about 3 %).
_SPREAD = 1


@dataclass(frozen=True)
class PixelMap:
    """Target pixels to source pixels over the target ``box`` (x0, x1, y0, y1; half open), as Chebyshev series (6, 6)."""

    box: tuple[int, int, int, int]
    cx: Array
    cy: Array

    @classmethod
    def between(cls, target: SkyWcs, source: SkyWcs, box: tuple[int, int, int, int]) -> PixelMap:
        """The map through the sky, fitted on Chebyshev nodes of ``box`` of the target."""
        node, inverse = _nodes()
        x = box[0] + (node + 1) / 2 * (box[1] - 1 - box[0])
        y = box[2] + (node + 1) / 2 * (box[3] - 1 - box[2])
        sx, sy = source.sky_to_pixel(*target.pixel_to_sky(*np.meshgrid(x, y, indexing="ij")))
        return cls(box, inverse @ sx @ inverse.T, inverse @ sy @ inverse.T)

    def _scaled(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        x0, x1, y0, y1 = self.box
        u = 2.0 * (np.asarray(x, float) - x0) / max(x1 - 1 - x0, 1) - 1.0
        v = 2.0 * (np.asarray(y, float) - y0) / max(y1 - 1 - y0, 1) - 1.0
        return u, v

    def __call__(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Source pixels of target pixels (any shape)."""
        u, v = self._scaled(x, y)
        return np.asarray(chebyshev.chebval2d(u, v, self.cx)), np.asarray(chebyshev.chebval2d(u, v, self.cy))

    def grid(self) -> tuple[Array, Array]:
        """Source x, y of every pixel of the box: two arrays (ny, nx)."""
        u, v = self._axes()
        vx, vy = chebyshev.chebvander(u, _DEGREE), chebyshev.chebvander(v, _DEGREE)
        return vy @ self.cx.T @ vx.T, vy @ self.cy.T @ vx.T

    def _axes(self) -> tuple[Array, Array]:
        x0, x1, y0, y1 = self.box
        return self._scaled(np.arange(x0, x1), 0)[0], self._scaled(0, np.arange(y0, y1))[1]

    def affine(self, x: ArrayLike, y: ArrayLike) -> Array:
        """d(source x, source y) / d(target x, target y) at target pixels (N,): (N, 2, 2)."""
        u, v = self._scaled(np.atleast_1d(x), np.atleast_1d(y))
        sx, sy = 2.0 / max(self.box[1] - 1 - self.box[0], 1), 2.0 / max(self.box[3] - 1 - self.box[2], 1)
        parts = [
            [chebyshev.chebval2d(u, v, chebyshev.chebder(c, axis=axis)) * s for axis, s in ((0, sx), (1, sy))]
            for c in (self.cx, self.cy)
        ]
        return np.moveaxis(np.array(parts), -1, 0)

    def jacobian(self) -> Array:
        """Area of a target pixel in source pixels, over the box (ny, nx)."""
        u, v = self._axes()
        sx, sy = 2.0 / max(self.box[1] - 1 - self.box[0], 1), 2.0 / max(self.box[3] - 1 - self.box[2], 1)
        full = chebyshev.chebvander(u, _DEGREE), chebyshev.chebvander(v, _DEGREE)
        less = full[0][:, :-1], full[1][:, :-1]
        dx = [full[1] @ chebyshev.chebder(c, axis=0).T @ less[0].T * sx for c in (self.cx, self.cy)]
        dy = [less[1] @ chebyshev.chebder(c, axis=1).T @ full[0].T * sy for c in (self.cx, self.cy)]
        return np.asarray(np.abs(dx[0] * dy[1] - dx[1] * dy[0]))


@cache
def _nodes() -> tuple[Array, Array]:
    """Chebyshev nodes (n,) on [-1, 1], more than coefficients, and the matrix (6, n) from values there to the series."""
    node = np.cos(np.pi * (np.arange(2 * _DEGREE + 2) + 0.5) / (2 * _DEGREE + 2))
    return node, np.asarray(np.linalg.pinv(chebyshev.chebvander(node, _DEGREE)), float)


def shared_box(
    target: SkyWcs, shape: tuple[int, int], source: SkyWcs, source_shape: tuple[int, int], margin: int = 2
) -> tuple[int, int, int, int] | None:
    """Box (x0, x1, y0, y1) of target pixels that the source's outline covers, clipped to ``shape``; None if disjoint."""
    along = np.linspace(-0.5, 0.5, 9)
    edge = np.full(9, 0.5)
    ex = np.concatenate([along, along, edge, -edge]) * source_shape[1] + (source_shape[1] - 1) / 2
    ey = np.concatenate([edge, -edge, along, along]) * source_shape[0] + (source_shape[0] - 1) / 2
    x, y = target.sky_to_pixel(*source.pixel_to_sky(ex, ey))
    if not np.all(np.isfinite(x) & np.isfinite(y)):
        return None
    x0, x1 = max(int(np.floor(x.min())) - margin, 0), min(int(np.ceil(x.max())) + margin + 1, shape[1])
    y0, y1 = max(int(np.floor(y.min())) - margin, 0), min(int(np.ceil(y.max())) + margin + 1, shape[0])
    return (x0, x1, y0, y1) if x0 < x1 and y0 < y1 else None


def resample(source: Image, wcs: SkyWcs, shape: tuple[int, int]) -> Image:
    """``source`` (which needs a WCS) on the pixels of ``wcs`` and ``shape`` (ny, nx); flux per pixel, no PSF in the result.

    Unusable source pixels are replaced by the mean of usable neighbours first, so that they do not ring; their planes mark
    the target pixels next to them. Pixels without a full set of taps are 0 with infinite variance and NO_DATA.

    Interpolation correlates neighbours, and the scatter of a single pixel understates the noise of a flux. The variance made
    here is that of white noise with the same power at low frequency, v = v(source) |d source / d target|, which is what a
    PSF flux or an aperture sees.
    """
    if source.wcs is None:
        raise ValueError("an image without a WCS cannot be resampled")
    result = Image(
        np.zeros(shape, np.float32), np.full(shape, np.inf, np.float32), np.full(shape, MASK["NO_DATA"], np.int16),
        wcs, None, dict(source.meta),
    )  # fmt: skip
    box = shared_box(wcs, shape, source.wcs, source.shape)
    if box is None or min(source.shape) < 2 * _LOBES:
        return result
    pixel_map = PixelMap.between(wcs, source.wcs, box)
    sx, sy = pixel_map.grid()
    jacobian = pixel_map.jacobian().astype(np.float32)
    planes = (*filled(source), spread(source.mask, _SPREAD))
    step = max(1, _CHUNK // (box[1] - box[0]))
    for start in range(0, box[3] - box[2], step):
        rows = slice(start, start + step)
        window = (slice(box[2] + start, min(box[2] + start + step, box[3])), slice(box[0], box[1]))
        inside, values, noise, mask = _interpolated(planes, sx[rows], sy[rows])
        result.image[window] = np.where(inside, values * jacobian[rows], np.float32(0))
        result.variance[window] = np.where(inside, noise * jacobian[rows], np.float32(np.inf))
        result.mask[window] = np.where(inside, mask, np.int16(MASK["NO_DATA"]))
    return result


def _interpolated(
    planes: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]], sx: Array, sy: Array
) -> tuple[NDArray[np.bool_], NDArray[np.float32], NDArray[np.float32], NDArray[np.int16]]:
    """At source positions (any shape): whether all taps exist, the image interpolated, variance and mask of the nearest pixel."""
    image, variance, mask = planes
    ny, nx = image.shape
    ix, iy = np.floor(sx).astype(np.intp), np.floor(sy).astype(np.intp)
    inside = (ix >= _LOBES - 1) & (ix < nx - _LOBES) & (iy >= _LOBES - 1) & (iy < ny - _LOBES)
    wx, wy = lanczos_weights(sx - ix), lanczos_weights(sy - iy)
    right, above = sx - ix > 0.5, sy - iy > 0.5
    np.clip(ix, _LOBES - 1, nx - _LOBES - 1, out=ix)
    np.clip(iy, _LOBES - 1, ny - _LOBES - 1, out=iy)
    nearest = (iy + above) * nx + ix + right
    corner = (iy - (_LOBES - 1)) * nx + ix - (_LOBES - 1)
    return inside, _gather(image, corner, wx, wy), variance.ravel()[nearest], mask.ravel()[nearest]


def lanczos_weights(fraction: Array) -> NDArray[np.float32]:
    """Weights (6, ...) of taps floor(x)-2 ... floor(x)+3 for positions with fractional part (...) in [0, 1); sum 1.

    Read from a table, which puts a position right to 1 / (2 _PHASES) pixel.
    """
    phase = (fraction * _PHASES + 0.5).astype(np.intp)
    return np.stack([np.take(row, phase, mode="clip") for row in _weight_table()])


@cache
def _weight_table() -> NDArray[np.float32]:
    phase = np.arange(_PHASES + 1) / _PHASES
    distance = phase - np.arange(1 - _LOBES, _LOBES + 1)[:, None]
    weights = np.sinc(distance) * np.sinc(distance / _LOBES) * (np.abs(distance) < _LOBES)
    return np.asarray(weights / weights.sum(axis=0), np.float32)


def _gather(
    plane: NDArray[np.float32], corner: NDArray[np.intp], wx: NDArray[np.float32], wy: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Sum over 6 x 6 taps from ``corner`` (flat index of the lower-left tap)."""
    flat, width = plane.ravel(), plane.shape[1]
    total = np.zeros(corner.shape, np.float32)
    row, tap = np.empty_like(total), np.empty_like(total)
    for j in range(2 * _LOBES):
        row[:] = 0
        for i in range(2 * _LOBES):
            # a shifted view in place of shifted indices; mode="clip" skips a second pass of bound checks
            np.take(flat[j * width + i :], corner, out=tap, mode="clip")
            tap *= wx[i]
            row += tap
        row *= wy[j]
        total += row
    return total


def filled(source: Image) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Image and variance planes with unusable, NaN or infinite pixels replaced by the mean of usable ones within 2 pixels."""
    bad = ~np.isfinite(source.image) | ~np.isfinite(source.variance)
    bad |= source.bad(UNUSABLE & ~MASK["SAT"] & ~MASK["EDGE"])
    image, variance = (filled_in(plane, bad, bad, 2) for plane in (source.image, source.variance))
    return image, variance


def filled_in(plane: NDArray[np.float32], bad: NDArray[np.bool_], where: NDArray[np.bool_], reach: int) -> NDArray[np.float32]:
    """``plane`` with the pixels ``where`` replaced by the mean of those not ``bad`` within ``reach`` pixels (0 if none)."""
    plane = np.array(plane, np.float32)
    if where.any():
        size = 2 * reach + 1
        total = ndimage.uniform_filter(np.where(bad, 0.0, plane), size, mode="constant")[where]
        count = ndimage.uniform_filter((~bad).astype(float), size, mode="constant")[where]
        known = count > 0.5 / size**2
        plane[where] = np.where(known, total / np.where(known, count, 1.0), 0.0)
    return plane


def spread(mask: NDArray[np.int16], radius: int) -> NDArray[np.int16]:
    """Each pixel with the planes of all pixels within ``radius`` of it (a box)."""
    for axis in (0, 1):
        spread, done = mask.copy(), 0
        while done < radius:  # reach doubles, as what is spread is spread again
            step = min(radius - done, done + 1)
            source = spread.copy()
            ahead: list[slice] = [slice(None), slice(None)]
            behind: list[slice] = [slice(None), slice(None)]
            ahead[axis], behind[axis] = slice(step, None), slice(None, -step)
            spread[tuple(behind)] |= source[tuple(ahead)]
            spread[tuple(ahead)] |= source[tuple(behind)]
            done += step
        mask = spread
    return mask


def warped_psf(psf: PsfModel, pixel_map: PixelMap, x: ArrayLike, y: ArrayLike, size: int) -> Array:
    """Stamps (N, size, size), sum 1, of the source's PSF as it looks on the target's pixels at target positions (N,)."""
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    stamps = psf.centred(*pixel_map(x, y))
    affine = pixel_map.affine(x, y)
    half = size // 2
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    centre = psf.size // 2
    warped = np.empty((len(x), size, size))
    for i, (a, stamp) in enumerate(zip(affine, stamps, strict=True)):
        at = (a[1, 0] * dx + a[1, 1] * dy + centre, a[0, 0] * dx + a[0, 1] * dy + centre)
        warped[i] = ndimage.map_coordinates(stamp, at, order=5, mode="constant")
    return np.asarray(warped / warped.sum(axis=(1, 2), keepdims=True))


def psf_through(stamps: Array, x: ArrayLike, y: ArrayLike, order: int, shape: tuple[int, int]) -> PsfModel:
    """The PsfModel of an image of ``shape`` whose PSF is ``stamps`` (N, size, size) at (x, y), by least squares."""
    frame = PsfModel(np.zeros((len(polynomial_terms(order)), *stamps.shape[1:])), order, shape)
    solution = np.linalg.lstsq(frame.weights(x, y), stamps.reshape(len(stamps), -1), rcond=None)[0]
    return PsfModel(np.asarray(solution, float).reshape(-1, *stamps.shape[1:]), order, shape)
