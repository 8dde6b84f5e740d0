"""Settings of step 1, with defaults that run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IsrConfig:
    """Task ``isr``."""

    overscan_order: int = 3  # polynomial along the rows; the row-to-row noise of the overscan is not worth following
    minimum_flat: float = 0.3  # below, a pixel is BAD
    saturation_grow: int = 1  # pixels, all around
    bleed_length: int = 12  # saturated run along a column that counts as a bleed trail, pixels
    bleed_grow: int = 3  # pixels beyond the ends of the trail
    cosmic_rays: bool = True
    cosmic_sigma: float = 5.0  # of the Laplacian
    cosmic_contrast: float = 5.0  # Laplacian over fine structure
    cosmic_fraction: float = 0.3  # of cosmic_sigma, for pixels beside a cosmic ray
    sharpest_fwhm: float = 2.0  # pixels; what is as wide as such a star is not a cosmic ray


@dataclass(frozen=True)
class CalibrateConfig:
    """Task ``calibrate_image``."""

    background_mesh: int = 64  # pixels
    psf_snr: float = 50.0  # least signal to noise of a PSF star
    psf_stars: int = 150  # the brightest so many
    psf_order: int = 2  # of the polynomial over the detector, where there are stars enough
    psf_minimum: int = 4  # with fewer stars, the PSF is a circle of default_fwhm
    default_fwhm: float = 3.0  # pixels
    threshold: float = 5.0  # detection, sigma of the matched filter
    iterations: int = 1  # of the final simultaneous fit; two came before, with a rougher PSF
    overlap: float = 0.05  # neighbours' flux under the PSF over the own one, above which a source is deblended
    aperture: float = 1.5  # radius, FWHM
    match_stars: int = 200  # the brightest so many for the pattern
    rotation_tolerance: float = 0.3  # degrees
    match_radius: float = 1.0  # final, pixels
    match_minimum: int = 6  # fewer do not fix a WCS
    wcs_order: int = 3
    zero_point_snr: float = 25.0
    zero_point_floor: float = 0.02  # mag, scatter of reference magnitudes in our passband
    zero_point_minimum: int = 3
