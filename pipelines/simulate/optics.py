"""The telescope as built: where light falls (true WCS), and how it is spread (PSF) over the field of each visit.

The optics differ from the design in the instrument file by a few per cent of the distortion, by detectors that sit up
to about a pixel off, and by a small distortion of each visit's own.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pipelines.instrument import distort
from pipelines.simulate.settings import generator
from pipelines.simulate.survey import Plan, Visit
from pipelines.wcs import SkyWcs, fit_tan_sip

Array = NDArray[np.float64]

#: Two concentric elliptical Gaussians make the PSF: weights, and widths in units of the inner sigma.
WEIGHTS, WIDTHS = (0.9, 0.1), (1.0, 2.0)
#: FWHM of that sum in units of the inner sigma.
FWHM_OF_SIGMA = 2.390
#: An exponential disc as a sum of Gaussians of these weights and of sigma in half-light radii (our least-squares fit
#: to exp(-1.678 r), good to 0.6 % of the light inside any radius).
DISC_WEIGHTS = (0.0074, 0.0957, 0.4367, 0.4602)
DISC_SIGMAS = (0.1142, 0.3250, 0.6942, 1.3138)


def focal_plane(plan: Plan, visit: Visit, detector: int, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
    """Pixels to the true focal plane, distortions included (deg, as Instrument.to_sky takes them)."""
    camera = plan.instrument
    d = camera.detector(detector)
    built = generator(plan.settings.seed, "optics", camera.name)
    stretch = 1.0 + 0.05 * built.normal(size=2)
    misplaced = generator(plan.settings.seed, "mount", camera.name, detector).normal(size=3)
    pixel = camera.pixel_scale / 3600.0
    fx, fy = d.to_focal_plane(x, y, camera.pixel_scale)
    angle = np.radians(0.02 * misplaced[2])
    cx, cy = fx - d.x_centre, fy - d.y_centre
    fx = d.x_centre + 0.6 * pixel * misplaced[0] + cx * np.cos(angle) - cy * np.sin(angle)
    fy = d.y_centre + 0.6 * pixel * misplaced[1] + cx * np.sin(angle) + cy * np.cos(angle)
    fx, fy = distort(fx, fy, (camera.distortion[0] * stretch[0], camera.distortion[1] * stretch[1]))
    w = np.array(visit.warp) * pixel
    # Linear terms: scale and shear of refraction and flexure; quadratic ones: the optics out of collimation.
    fx, fy = (
        fx + 0.15 * (w[0] * fx + w[1] * fy) + 0.10 * (w[2] * fx**2 + w[3] * fx * fy + w[4] * fy**2),
        fy + 0.15 * (w[5] * fx + w[6] * fy) + 0.10 * (w[7] * fx**2 + w[8] * fx * fy + w[9] * fy**2),
    )
    return fx, fy


@lru_cache(maxsize=64)
def true_wcs(plan: Plan, visit: Visit, detector: int) -> SkyWcs:
    """The WCS that the simulated image has: the truth, by definition (a TAN-SIP of order 4 through the optics)."""
    camera = plan.instrument
    d = camera.detector(detector)
    grid = np.meshgrid(np.linspace(0, d.width - 1, 9), np.linspace(0, d.height - 1, 9))
    x, y = grid[0].ravel(), grid[1].ravel()
    pointing = (visit.true_ra, visit.true_dec, visit.true_rotation)
    sky = camera.to_sky(*focal_plane(plan, visit, detector, x, y), *pointing)
    middle = (0.5 * (d.width - 1), 0.5 * (d.height - 1))
    centre = camera.to_sky(*focal_plane(plan, visit, detector, *middle), *pointing)
    return fit_tan_sip(x, y, *sky, (float(centre[0]), float(centre[1])), middle, 4)


def psf_covariance(plan: Plan, visit: Visit, fx: ArrayLike, fy: ArrayLike) -> Array:
    """Covariance (N, 3) = (xx, xy, yy), pixel^2, of the inner Gaussian at focal-plane positions (N,) in degrees.

    Focus falls off towards the edge of the field, more so along one diagonal, and images get longer away from the axis;
    the visit adds its own size and shape.
    """
    fx, fy = np.asarray(fx, float), np.asarray(fy, float)
    edge = max(float(np.hypot(d.x_centre, d.y_centre)) for d in plan.instrument.detectors) + 0.2
    u, v = fx / edge, fy / edge
    sigma = visit.fwhm / FWHM_OF_SIGMA * (1.0 + 0.05 * (u**2 + v**2) + 0.025 * (u * v) + 0.02 * u)
    e1 = visit.e1 + 0.035 * (u**2 - v**2)
    e2 = visit.e2 + 0.035 * 2.0 * u * v
    return np.stack([sigma**2 * (1.0 + e1), sigma**2 * e2, sigma**2 * (1.0 - e1)], axis=1)
