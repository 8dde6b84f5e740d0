"""Settings of step 3, with defaults that run. Lengths about a source are in PSF widths, not in some camera's pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class WarpConfig:
    """Task ``make_warp``."""

    max_zero_point_error: float = 0.05  # mag, of detectors of visits that are not photometric
    min_pixels: int = 100  # usable ones that make a warp
    psf_grid: int = 5  # PSF samples a side of the patch
    psf_order: int = 1  # of the polynomial over the patch


@dataclass(frozen=True)
class CoaddConfig:
    """Task ``assemble_coadd``; for rejection see outliers.py."""

    clip_sigma: float = 5.0  # seeds of rejection
    grow_sigma: float = 2.0  # pixels near a seed
    psf_margin: float = 0.1  # part of the local brightness that errors of position and calibration may change
    template_fraction: float = 2 / 3  # of the visits, best seeing first
    template_min: int = 3  # visits in a template, where there are so many
    min_relative_weight: float = 0.02  # of the best warp's: lighter ones would only harm the median
    psf_grid: int = 8
    psf_order: int = 2


@dataclass(frozen=True)
class MeasureConfig:
    """Task ``measure_objects``."""

    threshold: float = 5.0  # detection, sigma of a point source
    background_mesh: int = 64  # pixels
    aperture: float = 3.5  # radius, sigma of the PSF
    stamp: float = 5.5  # half size of the stamps, sigma of the PSF
    extended_width: float = 0.15  # variance beyond the PSF's, as a part of it, that makes a source extended
    extended_sigma: float = 3.0  # significance of that
    rounds: int = 4  # of fitting positions on the detection image; after the second, the residuals are searched
    doubt: float = 0.15  # part of the subtracted light that a source found in the residuals must exceed
    min_distance: float = 0.8  # between sources, pixels
