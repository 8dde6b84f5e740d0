"""What the air takes from stars of real spectral slopes: black bodies through an analytic atmosphere, in magnitudes.

Transmission exp(-tau), wavelengths in micrometres, airmass X:
- Rayleigh: tau = X 0.008569 l^-4 (1 + 0.0113 l^-2 + 0.00013 l^-4) P / P0 (Hansen & Travis 1974, Space Sci. Rev. 16, 527);
- aerosol: tau = X a (l / 0.5)^-1.4 (Angstrom's law), a of a night;
- ozone: the Chappuis band as a Gaussian at 0.60, sigma 0.05, 0.03 deep;
- water: Gaussians at 0.72, 0.82, 0.94 (and 1.13) with tau ~ (w X)^0.55, w the precipitable water in units of 5 mm: saturated
  lines grow about as the square root of what they pass (Goody & Yung 1989, Atmospheric Radiation, ch. 4).
Bands are boxes with soft edges. Colour is g - r, AB, through the standard atmosphere (X = 1.2, a = 0.04, w = 1).
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]
BANDS = ("u", "g", "r", "i", "z", "y")
#: Half-transmission wavelengths, micrometres.
EDGES = {
    "u": (0.330, 0.400),
    "g": (0.402, 0.550),
    "r": (0.552, 0.690),
    "i": (0.692, 0.818),
    "z": (0.820, 0.922),
    "y": (0.924, 1.06),
}
WATER = ((0.725, 0.012, 0.10), (0.823, 0.014, 0.12), (0.940, 0.022, 0.60), (1.135, 0.030, 0.70))
STANDARD = {"airmass": 1.2, "aerosol": 0.04, "water": 1.0}
PRESSURE = 0.74  # of sea level, at 2650 m
#: Temperatures of the black bodies, K, from red to blue.
TEMPERATURES = 10.0 ** np.linspace(np.log10(3200.0), np.log10(12000.0), 24)


def optical_depth(wavelength: Array, airmass: ArrayLike, aerosol: ArrayLike, water: ArrayLike) -> Array:
    """tau (V, W) at ``wavelength`` (W,) for airmass, aerosol depth at 0.5 micrometres and water of each of V lines of sight."""
    x, a, w = (np.asarray(v, float).reshape(-1, 1) for v in np.broadcast_arrays(airmass, aerosol, water))
    rayleigh = 0.008569 * wavelength**-4 * (1.0 + 0.0113 * wavelength**-2 + 0.00013 * wavelength**-4) * PRESSURE
    ozone = 0.03 * np.exp(-0.5 * ((wavelength - 0.60) / 0.05) ** 2)
    lines = sum(depth * np.exp(-0.5 * ((wavelength - centre) / width) ** 2) for centre, width, depth in WATER)
    return np.asarray(x * (rayleigh + ozone + a * (wavelength / 0.5) ** -1.4) + (w * x) ** 0.55 * lines)


@cache
def _band(band: str, shift: float = 0.0) -> tuple[Array, Array]:
    """Wavelengths (W,) and throughput of a band whose edges lie ``shift`` micrometres further to the red."""
    blue, red = (edge + shift for edge in EDGES[band])
    wavelength = np.arange(blue - 0.02, red + 0.02, 0.002)
    soft = 0.004
    return wavelength, 1.0 / (1.0 + np.exp((blue - wavelength) / soft)) / (1.0 + np.exp((wavelength - red) / soft))


def _photons(wavelength: Array) -> Array:
    """Photons per unit wavelength (K, W) of each black body: l^-4 / (exp(14388 / l T) - 1)."""
    return wavelength**-4 / np.expm1(14387.77 / (wavelength * TEMPERATURES[:, None]))


@cache
def magnitudes(band: str, shift: float = 0.0) -> Array:
    """AB magnitudes (K,), but for a constant of each black body, through the standard atmosphere; ``shift``: see _band."""
    wavelength, throughput = _band(band, shift)
    through = throughput * np.exp(-optical_depth(wavelength, *STANDARD.values())[0])
    ab = np.sum(through / wavelength)  # photons of a source of constant f_nu
    return np.asarray(-2.5 * np.log10(_photons(wavelength) @ through / ab))


@cache
def colours() -> Array:
    """g - r of the black bodies (K,), descending."""
    return magnitudes("g") - magnitudes("r")


def extinction(band: str, airmass: ArrayLike, aerosol: ArrayLike, water: ArrayLike) -> Array:
    """Magnitudes (V, K) that V lines of sight take from each black body beyond what the standard atmosphere takes."""
    wavelength, throughput = _band(band)
    photons = _photons(wavelength)
    standard = photons @ (throughput * np.exp(-optical_depth(wavelength, *STANDARD.values())[0]))
    given = np.stack(np.broadcast_arrays(*(np.atleast_1d(np.asarray(v, float)) for v in (airmass, aerosol, water))))
    parts = [
        -2.5 * np.log10((throughput * np.exp(-optical_depth(wavelength, *part))) @ photons.T / standard)
        for part in np.array_split(given, max(1, given.shape[1] // 20_000), axis=1)
    ]
    return np.concatenate(parts)
