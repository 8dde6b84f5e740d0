"""From a reduced image to its sources: sky, PSF and a catalogue, each refined with the help of the others.

1. sky; peaks; a first PSF from the bright stars that stand alone;
2. all peaks fitted together; what the residual still shows is added;
3. sky and PSF again, now with the sources out of the way; a last fit of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.image import MASK, UNUSABLE, Image
from pipelines.psf import PsfModel
from pipelines.step1 import background, psf_fit, psf_stars, saturation
from pipelines.step1.config import CalibrateConfig
from pipelines.step1.detect import Peaks, find
from pipelines.step1.photometry import Fitter, Photometry
from pipelines.step1.windows import Windows

Array = NDArray[np.float64]
Flags = NDArray[np.bool_]
Moments = tuple[Array, Array, Array]

#: Sources above this flux, in units of the sky noise of a pixel, are subtracted with their far wings.
WIDE = 300.0
#: Part of a subtracted model that a new peak must rise above: the PSF is not known better in the first round.
DISTRUST = 0.05


class MeasureError(ValueError):
    """An image cannot be measured; the message says why."""


@dataclass
class Sources:
    """What is known of a background-subtracted ``image`` (DETECTED set in its mask); arrays (N,) in order of y, x."""

    image: Image
    psf: PsfModel
    sky: float
    noise: float
    photometry: Photometry
    ap_flux: Array
    ap_flux_err: Array
    moments: Moments
    psf_moments: Moments
    psf_star: Flags
    saturated: Flags
    edge: Flags
    cosmic: Flags
    blended: Flags

    @property
    def bad(self) -> Flags:
        """Any reason not to use a source for calibration."""
        unfit = self.photometry.lost | ~(self.photometry.flux > 0)
        return self.saturated | self.edge | self.cosmic | self.blended | unfit

    @property
    def extended(self) -> Array:
        """1 where the source is larger than the PSF by more than the noise allows, 0 where not, NaN where unknown."""
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.sqrt((self.moments[0] + self.moments[1]) / (self.psf_moments[0] + self.psf_moments[1]))
            larger = ratio - 1.0 > 0.06 + 4.0 / self.photometry.snr
        return np.where(np.isfinite(ratio), larger.astype(float), np.nan)


def measure(image: Image, config: CalibrateConfig) -> Sources:
    """Sources of ``image`` (electrons, with sky); MeasureError where no pixel is usable."""
    usable = ~image.bad(UNUSABLE)
    if not usable.any():
        raise MeasureError("no usable pixel: all are masked")
    sky = background.estimate(image.image, ~usable, config.background_mesh)
    image.image = image.image - sky.level
    peaks, x, y, fwhm = _first_look(image, usable, config)
    sat_x, sat_y, near = saturation.cores(image.mask, int(np.ceil(fwhm)))
    found_x, found_y = _away(peaks, near)
    fitter = Fitter(image.image, usable, _first_psf(image, usable, x, y, fwhm, config), found_x, found_y)
    fitter.add(sat_x, sat_y)
    wide = WIDE * sky.noise
    fitter.fit(1, wide)
    hidden = find(
        fitter.residual.astype(np.float32), image.variance, usable, fitter.fwhm, config.threshold, 4.0,
        (DISTRUST * fitter.model).astype(np.float32),
    )  # fmt: skip
    fitter.add(*_away(hidden, near))
    fitter.draw(wide)
    fitter.solve_fluxes()
    fitter.move()
    fitter.draw(wide)

    rest = background.estimate(fitter.residual.astype(np.float32), ~usable, config.background_mesh)
    image.image = fitter.image = image.image - rest.level
    fitter.residual -= np.where(usable, rest.level, 0.0)
    noise = 1.4826 * float(np.median(np.abs(fitter.residual[usable][::4])))  # known to 0.5 % where there are 40,000
    psf_star_at = _second_psf(fitter, image, usable, config)
    fitter.fit(config.iterations, wide)
    image.mask[peaks.detected | hidden.detected] |= MASK["DETECTED"]
    return _catalogue(fitter, image, sky.mean + rest.mean, noise, psf_star_at, config)


def _first_look(image: Image, usable: Flags, config: CalibrateConfig) -> tuple[Peaks, Array, Array, float]:
    """Peaks, positions of the PSF stars among them and their FWHM; two looks if the width was badly guessed."""
    fwhm = config.default_fwhm
    for _ in range(2):
        peaks = find(image.image, image.variance, usable, fwhm, config.threshold, 2.5)
        _, x, y, width = psf_stars.select(image, peaks, fwhm, config)
        guess, fwhm = fwhm, width
        if abs(width / guess - 1.0) < 0.25:
            break
    return peaks, x, y, fwhm


def _away(peaks: Peaks, near: Flags) -> tuple[Array, Array]:
    """Positions of the peaks that are not ``near`` (ny, nx) a saturated star, whose plateau makes peaks of its own."""
    ny, nx = near.shape
    row, column = (np.clip(np.rint(p), 0, n - 1).astype(int) for p, n in ((peaks.y, ny), (peaks.x, nx)))
    away = ~near[row, column]
    return peaks.x[away], peaks.y[away]


def _first_psf(image: Image, usable: Flags, x: Array, y: Array, fwhm: float, config: CalibrateConfig) -> PsfModel:
    if len(x) < config.psf_minimum:
        return psf_fit.default(image.shape, fwhm)
    windows = Windows(x, y, psf_fit.stamp_half(fwhm), image.shape)
    good = windows.inside & windows.take(usable)
    data, variance = windows.take(image.image).astype(float), windows.take(image.variance).astype(float)
    return psf_fit.fit(windows, data, variance, good, fwhm, 0, rough=True).model


def _second_psf(fitter: Fitter, image: Image, usable: Flags, config: CalibrateConfig) -> Array:
    """Give ``fitter`` a PSF from stars whose neighbours are subtracted; returns the positions (2, n) of those used."""
    found = fitter.result(image.variance)
    moments, psf_moments = fitter.moments()
    with np.errstate(invalid="ignore"):
        size = np.sqrt((moments[0] + moments[1]) / (psf_moments[0] + psf_moments[1]))
    stars = psf_stars.choose(image, found, size, fitter.fwhm, config)
    if len(stars) < config.psf_minimum:
        return np.zeros((2, 0))
    stamps, windows = fitter.stamps(stars)
    data = windows.take(fitter.residual) + fitter.flux[stars, None, None] * stamps
    good = windows.inside & windows.take(usable)
    fit = psf_fit.fit(windows, data, windows.take(image.variance).astype(float), good, fitter.fwhm, config.psf_order)
    fitter.use(fit.model)
    return np.stack([windows.x, windows.y])[:, fit.used]


def _catalogue(fitter: Fitter, image: Image, sky: float, noise: float, psf_star_at: Array, config: CalibrateConfig) -> Sources:
    """Measurements and flags of the sources that are inside the image, and above the noise when fitted together."""
    found = fitter.result(image.variance)
    ap_flux, ap_flux_err = fitter.aperture(config.aperture * fitter.fwhm, image.variance)
    moments, psf_moments = fitter.moments()
    ny, nx = image.shape
    core = int(np.ceil(0.6 * fitter.fwhm))
    planes = Windows(found.x, found.y, core, image.shape).take(image.mask)

    def touched(*names: str) -> Flags:
        return np.asarray((planes & sum(MASK[name] for name in names)).any(axis=(1, 2)))

    saturated, cosmic, edge = touched("SAT", "BLEED"), touched("CR"), touched("BAD", "EDGE", "NO_DATA")
    edge |= (found.x < core) | (found.y < core) | (found.x > nx - 1 - core) | (found.y > ny - 1 - core)
    star = np.zeros(len(found.x), bool)
    if psf_star_at.size:
        star[np.argmin(np.hypot(*(np.stack([found.x, found.y])[:, :, None] - psf_star_at[:, None, :])), axis=0)] = True
    keep = (found.snr >= 0.8 * config.threshold) | (saturated & (found.flux > 0))
    keep &= (found.x > -0.5) & (found.y > -0.5) & (found.x < nx - 0.5) & (found.y < ny - 0.5)
    order = np.flatnonzero(keep)
    order = order[np.lexsort((found.x[order], found.y[order]))]
    taken = Photometry(*(getattr(found, f)[order] for f in Photometry.__dataclass_fields__))
    return Sources(
        image, fitter.psf, sky, noise, taken, ap_flux[order], ap_flux_err[order],
        (moments[0][order], moments[1][order], moments[2][order]),
        (psf_moments[0][order], psf_moments[1][order], psf_moments[2][order]),
        star[order], saturated[order], edge[order], cosmic[order],
        taken.overlap > config.overlap,
    )  # fmt: skip
