"""Where stars with known proper motion and parallax appear at an epoch.

Sources: ESA 1997, The Hipparcos Catalogue, vol. 1, section 1.2.8 (linear motion and parallax factors);
Astronomical Almanac, section C (low-precision Sun, good to 0.01 deg: 0.2 mas for a parallax of 1 arcsec).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
YEAR = 365.25


def earth(mjd: ArrayLike) -> Array:
    """The Earth's position (..., 3) in au, equatorial axes, seen from the Sun."""
    n = np.asarray(mjd, float) - 51544.5
    g = np.radians(357.528 + 0.9856003 * n)
    longitude = np.radians(280.460 + 0.9856474 * n + 1.915 * np.sin(g) + 0.020 * np.sin(2.0 * g))
    r = 1.00014 - 0.01671 * np.cos(g) - 0.00014 * np.cos(2.0 * g)
    obliquity = np.radians(23.439)
    y = np.sin(longitude)
    return np.stack([-r * np.cos(longitude), -r * np.cos(obliquity) * y, -r * np.sin(obliquity) * y], axis=-1)


def displacement(catalogue: Mapping[str, Array], mjd: ArrayLike) -> tuple[Array, Array]:
    """How far (d_ra * cos(dec), d_dec), arcsec, stars are at ``mjd`` from their place in the catalogue.

    ``catalogue`` has ``ra``, ``dec`` (deg), ``pm_ra`` (times cos(dec)), ``pm_dec`` (mas/yr), ``parallax`` (mas), ``epoch``
    (MJD), each (N,); a motion or parallax that is NaN counts as none.
    """
    a, d = np.radians(catalogue["ra"]), np.radians(catalogue["dec"])
    years = (np.asarray(mjd, float) - catalogue["epoch"]) / YEAR
    x, y, z = np.moveaxis(earth(mjd), -1, 0)
    pm_ra, pm_dec, parallax = (np.nan_to_num(catalogue[name]) for name in ("pm_ra", "pm_dec", "parallax"))
    east = parallax * (x * np.sin(a) - y * np.cos(a)) + pm_ra * years
    north = parallax * ((x * np.cos(a) + y * np.sin(a)) * np.sin(d) - z * np.cos(d)) + pm_dec * years
    return east / 1000.0, north / 1000.0
