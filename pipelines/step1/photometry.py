"""Fluxes and positions of all sources of a detector at once, by fitting the local PSF.

Model: image = sum_i F_i psf(x_i, y_i) + noise. Each round draws all sources, and solves for the corrections of the fluxes
together (normal equations G dF = b, sparse), then moves every source by its own residual. Pixels have equal weight:
weights from the data's own Poisson noise would favour low pixels and bias fluxes low.
G is the overlap of Gaussians of the PSF's width, not of the PSFs: it only steers; the fixed point is b = 0, where the
residual holds nothing PSF-like at any source.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import spsolve
from scipy.spatial import cKDTree

from pipelines.psf import PsfModel
from pipelines.step1.windows import Windows, second_moments

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]

#: Sources nearer to each other than this (FWHM) are one.
MERGE = 0.5


@dataclass
class Photometry:
    """Arrays (N,): ``x``, ``y`` pixels with errors; ``flux`` electrons (NaN: no usable pixel) with error; ``lost``: the
    position ran away and was put back; ``overlap``: flux of neighbours under the PSF over the own flux.
    """

    x: Array
    y: Array
    flux: Array
    flux_err: Array
    x_err: Array
    y_err: Array
    lost: Flags
    overlap: Array


class Fitter:
    """The fit in steps; ``residual`` is the image less all sources, usable pixels only (0 elsewhere)."""

    def __init__(self, image: NDArray[np.float32], usable: Flags, psf: PsfModel, x: Array, y: Array, fwhm: float) -> None:
        self.image, self.usable, self.psf, self.fwhm = image, usable, psf, fwhm
        self.x, self.y, self.flux, self.lost = x.copy(), y.copy(), np.zeros(len(x)), np.zeros(len(x), bool)
        self.start = np.stack([x, y])
        self.half = int(np.ceil(2.0 * fwhm))
        self.sigma = psf.sigma(0.5 * (image.shape[1] - 1), 0.5 * (image.shape[0] - 1))

    def add(self, x: Array, y: Array) -> None:
        """Further sources, found in the residual."""
        self.x, self.y = np.concatenate([self.x, x]), np.concatenate([self.y, y])
        self.flux, self.lost = np.concatenate([self.flux, np.zeros(len(x))]), np.concatenate([self.lost, np.zeros(len(x), bool)])
        self.start = np.concatenate([self.start, [x, y]], axis=1)

    def draw(self, wide_above: float) -> None:
        """Draw all sources and form the residual. Those brighter than ``wide_above`` electrons are drawn to the full size
        of the PSF, others within the windows of the fit."""
        drawn, _, _ = self.psf.rendered(self.x, self.y, self.half + 1)
        self.profile = drawn[:, 1:-1, 1:-1]
        self.slope_x = 0.5 * (drawn[:, 1:-1, :-2] - drawn[:, 1:-1, 2:])
        self.slope_y = 0.5 * (drawn[:, :-2, 1:-1] - drawn[:, 2:, 1:-1])
        self.windows = Windows(self.x, self.y, self.half, self.image.shape)
        self.good = self.windows.take(self.usable) & self.windows.inside
        wide = self.flux > wide_above
        model = self.windows.paint(np.where(wide, 0.0, self.flux)[:, None, None] * self.profile)
        if wide.any():
            stamps, _, _ = self.psf.rendered(self.x[wide], self.y[wide])
            frame = Windows(self.x[wide], self.y[wide], self.psf.size // 2, self.image.shape)
            model += frame.paint(self.flux[wide, None, None] * stamps)
        self.model = model
        self.residual = np.where(self.usable, self.image - model, 0.0)

    def solve_fluxes(self) -> None:
        """Correct all fluxes by the residual."""
        left = self.windows.take(self.residual) * self.good
        power = (self.profile**2 * self.good).sum(axis=(1, 2))
        seen = power > 0.05 * (self.profile**2).sum(axis=(1, 2))  # else the star is behind its own mask
        projection = (self.profile * left).sum(axis=(1, 2))
        self.flux[seen] += self._overlap(self.x[seen], self.y[seen], power[seen], projection[seen])
        self.flux[~seen] = 0.0

    def _overlap(self, x: Array, y: Array, power: Array, projection: Array) -> Array:
        """Solve G dF = projection, with G_ij = sqrt(power_i power_j) exp(-d_ij^2 / 4 sigma^2)."""
        if len(x) == 0:
            return projection
        i, j, gauss = self._pairs(x, y)
        value = np.sqrt(power[i] * power[j]) * gauss
        n = len(x)
        diagonal = np.arange(n)
        rows, columns = np.concatenate([i, j, diagonal]), np.concatenate([j, i, diagonal])
        matrix = sparse.csc_matrix((np.concatenate([value, value, 1.001 * power]), (rows, columns)), (n, n))
        return np.asarray(spsolve(matrix, projection, permc_spec="MMD_AT_PLUS_A"))

    def _pairs(self, x: Array, y: Array) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Pairs i < j within 5 sigma in canonical order, and the overlap of their Gaussians."""
        position = np.stack([x, y], axis=1)
        pairs = cKDTree(position).query_pairs(5.0 * self.sigma, output_type="ndarray")
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        i, j = pairs[:, 0], pairs[:, 1]
        distance2 = np.square(position[i] - position[j]).sum(axis=1)
        return i, j, np.exp(-distance2 / (4.0 * self.sigma**2))

    def move(self) -> None:
        """Move every source by its residual, half a pixel at most; one that leaves its place is put back and is lost."""
        left = self.windows.take(self.residual) * self.good
        sx, sy = self.slope_x * self.good, self.slope_y * self.good
        xx, yy, xy = (sx**2).sum(axis=(1, 2)), (sy**2).sum(axis=(1, 2)), (sx * sy).sum(axis=(1, 2))
        bx, by = (sx * left).sum(axis=(1, 2)), (sy * left).sum(axis=(1, 2))
        det = xx * yy - xy**2
        free = (self.flux > 0) & (det > 1e-3 * np.median(det)) & ~self.lost
        flux = np.where(free, self.flux, 1.0)
        scale = np.where(free, 1.0, 0.0) / (np.where(free, det, 1.0) * flux)
        self.x += np.clip((yy * bx - xy * by) * scale, -0.5, 0.5)
        self.y += np.clip((xx * by - xy * bx) * scale, -0.5, 0.5)
        away = np.hypot(self.x - self.start[0], self.y - self.start[1]) > 0.75 * self.fwhm
        self.lost |= away
        self.x[away], self.y[away] = self.start[0, away], self.start[1, away]

    def merge(self) -> NDArray[np.int64]:
        """Drop the fainter of two sources that have met; returns the indices that stay."""
        i, j = cKDTree(np.stack([self.x, self.y], axis=1)).query_pairs(MERGE * self.fwhm, output_type="ndarray").T
        stay = np.setdiff1d(np.arange(len(self.x)), np.where(self.flux[i] >= self.flux[j], j, i))
        self.x, self.y, self.flux, self.lost = self.x[stay], self.y[stay], self.flux[stay], self.lost[stay]
        self.start = self.start[:, stay]
        return stay

    def result(self, variance: NDArray[np.float32]) -> Photometry:
        """Fluxes and positions with errors propagated from the ``variance`` of the pixels."""
        noise = self.windows.take(variance) * self.good
        psf, sx, sy = (p * self.good for p in (self.profile, self.slope_x, self.slope_y))
        with np.errstate(divide="ignore", invalid="ignore"):
            flux_err, shift_x, shift_y = (
                np.sqrt((p**2 * noise).sum(axis=(1, 2))) / (p**2).sum(axis=(1, 2)) for p in (psf, sx, sy)
            )
            flux = np.where(self.flux != 0.0, self.flux, np.nan)
            x_err, y_err = np.where(flux > 0, shift_x / flux, np.nan), np.where(flux > 0, shift_y / flux, np.nan)
            i, j, gauss = self._pairs(self.x, self.y)
            neighbours = np.bincount(i, np.abs(self.flux[j]) * gauss, minlength=len(flux))
            neighbours += np.bincount(j, np.abs(self.flux[i]) * gauss, minlength=len(flux))
            overlap = np.where(flux > 0, neighbours / flux, np.inf)
        return Photometry(self.x, self.y, flux, flux_err, x_err, y_err, self.lost, overlap)

    def aperture(self, radius: float, variance: NDArray[np.float32]) -> tuple[Array, Array]:
        """Aperture fluxes (N,) and errors, neighbours subtracted, corrected to total by the PSF's light in the same pixels.

        The aperture has a soft rim of one pixel; masked pixels are left out of both the light and the correction.
        """
        weight = np.clip(radius + 0.5 - np.hypot(self.windows.dx, self.windows.dy), 0.0, 1.0) * self.good
        with np.errstate(divide="ignore", invalid="ignore"):
            inside = (weight * self.profile).sum(axis=(1, 2))
            extra = (weight * self.windows.take(self.residual)).sum(axis=(1, 2)) / inside
            error = np.sqrt((weight**2 * self.windows.take(variance)).sum(axis=(1, 2))) / inside
        enough = inside > 0.3
        return np.where(enough, self.flux + extra, np.nan), np.where(enough, error, np.nan)

    def moments(self) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
        """Second moments (ixx, iyy, ixy) of the sources, neighbours subtracted, and of the PSF at their places."""
        model = self.flux[:, None, None] * self.profile
        light = model + self.windows.take(self.residual) * self.good
        weight = 1.2 * self.sigma
        dx, dy = self.windows.dx, self.windows.dy
        return second_moments(light, dx, dy, weight), second_moments(self.profile, dx, dy, weight)
