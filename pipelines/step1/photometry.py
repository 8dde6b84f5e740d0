"""Fluxes and positions of all sources of a detector at once, by fitting the local PSF.

Model: image = sum_i F_i psf(x_i, y_i) + noise. Each round draws all sources, corrects all fluxes together (normal
equations G dF = b, sparse), and moves every source by its own residual. Pixels have equal weight: weights from the
data's own Poisson noise would favour low pixels and bias fluxes low.
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
Index = NDArray[np.int64]
Flags = NDArray[np.bool_]

#: Sources nearer to each other than this (FWHM) are one.
MERGE = 0.5
#: Least part of a star's power (sum of psf^2) on usable pixels of its window; with less, its wings must tell the flux.
SEEN = 0.05


@dataclass(frozen=True)
class Photometry:
    """Arrays (N,): ``x``, ``y`` pixels with errors; ``flux`` electrons with error (NaN: no usable pixel); ``lost``: the
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

    @property
    def snr(self) -> Array:
        """Signal to noise of the flux; 0 where there is none."""
        return np.nan_to_num(self.flux / self.flux_err, nan=0.0, posinf=0.0)


class Fitter:
    """The fit in steps. ``residual`` (ny, nx) is the image less all sources, 0 on pixels that are not usable."""

    def __init__(self, image: NDArray[np.float32], usable: Flags, psf: PsfModel, x: Array, y: Array) -> None:
        self.image, self.usable = image, usable
        self.use(psf)
        self.x = self.y = self.flux = np.zeros(0)
        self.lost = np.zeros(0, bool)
        self.start = np.zeros((2, 0))
        self.add(x, y)

    def use(self, psf: PsfModel) -> None:
        """Go on with this PSF."""
        self.psf, self.sigma, self.fwhm = psf, psf.width, psf.fwhm(*psf.middle)
        self.half = int(np.ceil(2.0 * self.fwhm))

    def add(self, x: Array, y: Array) -> None:
        """Further sources at ``x``, ``y``."""
        none = np.zeros(len(x))
        self.x, self.y, self.flux = (np.concatenate(p) for p in ((self.x, x), (self.y, y), (self.flux, none)))
        self.lost, self.start = np.concatenate([self.lost, none > 0]), np.concatenate([self.start, [x, y]], axis=1)

    def fit(self, rounds: int, wide_above: float) -> None:
        """So many rounds of drawing, fluxes and positions; then fluxes once more, at the final positions."""
        for _ in range(rounds):
            self.draw(wide_above)
            self.solve_fluxes()
            self.move()
        self.merge()
        self.draw(wide_above)
        self.solve_fluxes()

    def draw(self, wide_above: float) -> None:
        """Draw all sources, those above ``wide_above`` electrons to the full size of the PSF, and form the residual."""
        self.profile, self.slope_x, self.slope_y = self.psf.rendered_with_slopes(self.x, self.y, self.half)
        self.windows = Windows(self.x, self.y, self.half, self.image.shape)
        self.good = self.windows.take(self.usable) & self.windows.inside
        wide = self.flux > wide_above
        self.model = self.windows.paint(np.where(wide, 0.0, self.flux)[:, None, None] * self.profile)
        if wide.any():
            stamps, frame = self.stamps(wide)
            self.model += frame.paint(self.flux[wide, None, None] * stamps)
        self.residual = np.where(self.usable, self.image - self.model, 0.0)

    def stamps(self, which: Flags | Index) -> tuple[Array, Windows]:
        """PSFs (n, size, size) of some sources, and their windows."""
        drawn, _, _ = self.psf.rendered(self.x[which], self.y[which])
        return drawn, Windows(self.x[which], self.y[which], self.psf.size // 2, self.image.shape)

    def solve_fluxes(self) -> None:
        """Correct all fluxes, and the residual with them."""
        left = self.windows.take(self.residual) * self.good
        power = (self.profile**2 * self.good).sum(axis=(1, 2))
        seen = power > SEEN * (self.profile**2).sum(axis=(1, 2))
        step = np.zeros(len(self.x))
        projection = (self.profile * left).sum(axis=(1, 2))
        step[seen] = self._together(self.x[seen], self.y[seen], power[seen], projection[seen])
        painted = self.windows.paint(step[:, None, None] * self.profile)
        if not seen.all():
            stamps, frame = self.stamps(~seen)
            wings = stamps * (frame.take(self.usable) & frame.inside)
            power = np.maximum((wings**2).sum(axis=(1, 2)), 1e-12)
            step[~seen] = (wings * frame.take(self.residual)).sum(axis=(1, 2)) / power
            painted += frame.paint(step[~seen, None, None] * stamps)
        self.flux = self.flux + step
        self.model += painted
        self.residual -= np.where(self.usable, painted, 0.0)

    def _together(self, x: Array, y: Array, power: Array, projection: Array) -> Array:
        """Solve G dF = projection, with G_ij = sqrt(power_i power_j) exp(-d_ij^2 / 4 sigma^2)."""
        if len(x) == 0:
            return projection
        i, j, gauss = self._pairs(x, y)
        value = np.sqrt(power[i] * power[j]) * gauss
        diagonal = np.arange(len(x))
        rows, columns = np.concatenate([i, j, diagonal]), np.concatenate([j, i, diagonal])
        matrix = sparse.csc_matrix((np.concatenate([value, value, 1.001 * power]), (rows, columns)), (len(x), len(x)))
        return np.asarray(spsolve(matrix, projection, permc_spec="MMD_AT_PLUS_A"))

    def _pairs(self, x: Array, y: Array) -> tuple[Index, Index, Array]:
        """Pairs i < j within 5 sigma in canonical order, and the overlap of their Gaussians."""
        position = np.stack([x, y], axis=1)
        pairs = cKDTree(position).query_pairs(5.0 * self.sigma, output_type="ndarray")
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        i, j = pairs[:, 0], pairs[:, 1]
        return i, j, np.exp(-np.square(position[i] - position[j]).sum(axis=1) / (4.0 * self.sigma**2))

    def move(self) -> None:
        """Move every source by its residual, half a pixel at most; one that runs away is put back and is lost."""
        left = self.windows.take(self.residual) * self.good
        sx, sy = self.slope_x * self.good, self.slope_y * self.good
        xx, yy, xy = (sx**2).sum(axis=(1, 2)), (sy**2).sum(axis=(1, 2)), (sx * sy).sum(axis=(1, 2))
        bx, by = (sx * left).sum(axis=(1, 2)), (sy * left).sum(axis=(1, 2))
        det = xx * yy - xy**2
        free = (self.flux > 0) & (det > 1e-3 * np.median(det)) & ~self.lost if len(det) else det > 0
        scale = np.where(free, 1.0, 0.0) / (np.where(free, det, 1.0) * np.where(free, self.flux, 1.0))
        self.x = self.x + np.clip((yy * bx - xy * by) * scale, -0.5, 0.5)
        self.y = self.y + np.clip((xx * by - xy * bx) * scale, -0.5, 0.5)
        away = np.hypot(self.x - self.start[0], self.y - self.start[1]) > 0.75 * self.fwhm
        self.lost = self.lost | away
        self.x[away], self.y[away] = self.start[:, away]

    def merge(self) -> None:
        """Drop the fainter of two sources that have met. Draw again before anything else."""
        pairs = cKDTree(np.stack([self.x, self.y], axis=1)).query_pairs(MERGE * self.fwhm, output_type="ndarray")
        i, j = pairs[:, 0], pairs[:, 1]
        stay = np.setdiff1d(np.arange(len(self.x)), np.where(self.flux[i] >= self.flux[j], j, i))
        self.x, self.y, self.flux, self.lost = self.x[stay], self.y[stay], self.flux[stay], self.lost[stay]
        self.start = self.start[:, stay]

    def result(self, variance: NDArray[np.float32]) -> Photometry:
        """Fluxes and positions with errors propagated from the ``variance`` of the pixels."""
        noise = self.windows.take(variance) * self.good
        with np.errstate(divide="ignore", invalid="ignore"):
            flux_err, off_x, off_y = (
                np.sqrt((p**2 * noise).sum(axis=(1, 2))) / (p**2 * self.good).sum(axis=(1, 2))
                for p in (self.profile, self.slope_x, self.slope_y)
            )
            flux = np.where(np.isfinite(flux_err), self.flux, np.nan)
            x_err, y_err = np.where(flux > 0, off_x / flux, np.nan), np.where(flux > 0, off_y / flux, np.nan)
            i, j, gauss = self._pairs(self.x, self.y)
            others = np.bincount(i, np.abs(self.flux[j]) * gauss, minlength=len(flux))
            others += np.bincount(j, np.abs(self.flux[i]) * gauss, minlength=len(flux))
            overlap = np.where(flux > 0, others / flux, np.inf)
        return Photometry(self.x, self.y, flux, flux_err, x_err, y_err, self.lost, overlap)

    def aperture(self, radius: float, variance: NDArray[np.float32]) -> tuple[Array, Array]:
        """Aperture fluxes (N,) and errors, neighbours subtracted, corrected to total by the PSF in the same pixels.

        The aperture (``radius`` pixels) has a soft rim of one pixel; masked pixels are left out of both the light and
        the correction. NaN where less than a third of the light would be inside.
        """
        weight = np.clip(radius + 0.5 - np.hypot(self.windows.dx, self.windows.dy), 0.0, 1.0) * self.good
        inside = (weight * self.profile).sum(axis=(1, 2))
        inside[inside < 0.33] = np.nan
        extra = (weight * self.windows.take(self.residual)).sum(axis=(1, 2)) / inside
        return self.flux + extra, np.sqrt((weight**2 * self.windows.take(variance)).sum(axis=(1, 2))) / inside

    def moments(self) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
        """Second moments (ixx, iyy, ixy) of the sources, neighbours subtracted, and of the PSF at their places."""
        light = self.flux[:, None, None] * self.profile + self.windows.take(self.residual) * self.good
        dx, dy, weight = self.windows.dx, self.windows.dy, 1.2 * self.sigma
        return second_moments(light, dx, dy, weight), second_moments(self.profile, dx, dy, weight)
