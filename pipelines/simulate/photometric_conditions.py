"""The design of a photometric survey, and what the sky and the camera did during it: the truth that calibration is to find."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipelines.simulate import atmosphere
from pipelines.simulate.mosaic import Mosaic

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
WAVES = 3


@dataclass(frozen=True)
class Stars:
    """Positions (N,) in deg, natural magnitude in r and colour g - r of the stars there are."""

    ra: Array
    dec: Array
    r: Array
    colour: Array

    def __len__(self) -> int:
        return len(self.ra)


@dataclass(frozen=True)
class Pointings:
    """Exposures (V,). ``band`` names; ``rotation`` deg; ``exposure_time`` s. ``detector``: where given, a pointing is that of a
    single detector (its own centre), and ``visit`` may repeat."""

    visit: IntArray
    band: NDArray[np.str_]
    day_obs: IntArray
    mjd: Array
    ra: Array
    dec: Array
    rotation: Array
    airmass: Array
    exposure_time: Array
    detector: IntArray | None = None

    def __len__(self) -> int:
        return len(self.visit)


@dataclass(frozen=True)
class Design:
    """A survey. Magnitudes unless said otherwise.

    ``zero_point``: of 1 e-/s through the standard atmosphere; ``sky``: brightness of the sky under a star image.
    Air: ``spectra`` True: black bodies through an atmosphere whose aerosol varies by ``aerosol`` (part of the mean) and whose
    water by ``water`` (log rms) from night to night; False: ``extinction`` per airmass, varying by ``night_extinction`` rms,
    ``second_order`` per airmass and magnitude of colour, and a water term (``water_colour``, airmass^1.5, quadratic in colour).
    Visits: ``night_zero``, ``jitter`` rms; the part ``cloudy`` of them, in spells of ``spell`` on the nights ``cloudy_nights``
    (default: all), lies under clouds of ``cloud_depth`` (range), ``cloud_gradient`` per deg and waves of ``cloud_structure``
    rms. ``scatter`` rms of each (visit, detector) by itself.
    Flats: new ones from the nights ``epochs``; ``flat`` rms by detector, ``illumination`` rms of a smooth pattern over the
    field, ``shape`` rms of second-order curvature inside a detector (zero mean there).
    Measurement: ``floor`` beyond the stated errors; ``min_snr``; the parts ``variables`` of stars (scatter
    ``variable_amplitude``) and ``wrong_matches`` of observations.
    Catalogues: references brighter than r = ``reference_limit`` with ``reference_error``, through bands ``reference_shift``
    micrometres redder; they agree with the natural system for the colour ``pivot``, for which zero points hold;
    ``preliminary_error`` of the preliminary zero points; ``every_detector``: whether detectors without stars have summaries.
    ``zero_points`` (V,): truth that replaces all of air, clouds and flats.
    """

    mosaic: Mosaic
    stars: Stars
    pointings: Pointings
    seed: int = 1
    skymap: str = "hsc_rings_v1"
    zero_point: Mapping[str, float] = field(
        default_factory=lambda: {"u": 23.8, "g": 25.9, "r": 25.9, "i": 25.7, "z": 25.3, "y": 24.2}
    )
    sky: Mapping[str, float] = field(default_factory=lambda: {"u": 20.3, "g": 19.7, "r": 18.7, "i": 17.8, "z": 16.9, "y": 16.0})
    spectra: bool = True
    aerosol: float = 0.4
    water: float = 0.35
    extinction: Mapping[str, float] = field(
        default_factory=lambda: {"u": 0.45, "g": 0.18, "r": 0.10, "i": 0.07, "z": 0.06, "y": 0.06}
    )
    night_extinction: float = 0.02
    second_order: Mapping[str, float] = field(default_factory=lambda: {"u": -0.03, "g": -0.02, "r": -0.005})
    water_colour: Mapping[str, float] = field(default_factory=lambda: {"z": -0.003, "y": 0.006})
    night_zero: float = 0.01
    jitter: float = 0.003
    cloudy: float = 0.0
    cloudy_nights: tuple[int, ...] | None = None
    spell: int = 9
    cloud_depth: tuple[float, float] = (0.05, 0.5)
    cloud_gradient: float = 0.08
    cloud_structure: float = 0.005
    scatter: float = 0.0
    epochs: tuple[int, ...] = ()
    flat: float = 0.01
    illumination: float = 0.0
    shape: float = 0.0
    floor: float = 0.003
    min_snr: float = 10.0
    variables: float = 0.01
    variable_amplitude: float = 0.1
    wrong_matches: float = 0.001
    reference_limit: float = 18.0
    reference_error: float = 0.02
    reference_shift: float = 0.004
    pivot: float = 0.6
    preliminary_error: float = 0.005
    every_detector: bool = True
    zero_points: Array | None = None


@dataclass(frozen=True)
class Conditions:
    """The truth by pointing (V,), by black body (K) and by epoch (E), band (B) and detector (D).

    ``zero`` of a star of the reference colour on the boresight, before the flats; ``chromatic`` (V, K): what other stars lose
    beyond it; ``gradient`` (V, 2) mag/deg and ``waves`` (V, WAVES, 4: kx, ky in rad/deg, phase, mag): what clouds take;
    ``flats`` (E, B, D): what detectors lose; ``shapes`` (E, B, D, 3): P2(u), P2(v), u v, of pixels scaled to -1..1;
    ``scatter`` rms of each (pointing, detector).
    """

    band: IntArray
    epoch: IntArray
    zero: Array
    chromatic: Array
    cloudy: Mask
    gradient: Array
    waves: Array
    flats: Array
    shapes: Array
    scatter: float
    seed: int

    def clouds(self, pointing: IntArray, fx: Array, fy: Array, size: tuple[float, float] = (0.0, 0.0)) -> Array:
        """What clouds take at focal-plane positions, beyond the boresight's zero point, means over rectangles of ``size`` (deg)."""
        taken = np.zeros(len(pointing))
        under = np.flatnonzero(self.cloudy[pointing])
        p, x, y = pointing[under], fx[under], fy[under]
        loss = self.gradient[p, 0] * x + self.gradient[p, 1] * y
        for k in range(WAVES):
            kx, ky, phase, amplitude = self.waves[p, k].T
            amplitude = amplitude * np.sinc(kx * size[0] / (2 * np.pi)) * np.sinc(ky * size[1] / (2 * np.pi))
            loss += amplitude * np.sin(kx * x + ky * y + phase)
        taken[under] = loss
        return taken

    def zero_point(
        self, pointing: IntArray, detector: IntArray, fx: Array, fy: Array, size: tuple[float, float] = (0.0, 0.0)
    ) -> Array:
        """Zero points (N,) for a star of the reference colour; ``detector``: index in the mosaic's order; ``size``: of clouds()."""
        flat = self.flats[self.epoch[pointing], self.band[pointing], detector]
        zero = self.zero[pointing] - flat - self.clouds(pointing, fx, fy, size)
        if self.scatter:
            zero += self.scatter * normal(pointing * self.flats.shape[2] + detector, self.seed + 1)
        return np.asarray(zero)

    def shape(self, pointing: IntArray, detector: IntArray, u: Array, v: Array) -> Array:
        """What the curvature of the flat takes inside a detector, at pixels scaled to -1..1."""
        if not self.shapes.any():
            return np.zeros(len(u))
        a, b, c = self.shapes[self.epoch[pointing], self.band[pointing], detector].T
        return np.asarray(a * (1.5 * u**2 - 0.5) + b * (1.5 * v**2 - 0.5) + c * u * v)


def bands(design: Design) -> list[str]:
    """Bands of the survey, from blue to red."""
    there = set(np.unique(design.pointings.band).tolist())
    return [band for band in atmosphere.BANDS if band in there]


def kind_of(colour: Array) -> Array:
    """Place (N,) of stars among the black bodies, as a real number: whole numbers are the black bodies themselves."""
    locus = atmosphere.colours()
    return np.asarray(np.interp(-colour, -locus, np.arange(len(locus), dtype=float)))


def along(curve: Array, kind: Array) -> Array:
    """A curve (K,), or one for each star (N, K), at the places ``kind`` (N,)."""
    low = np.minimum(kind.astype(np.int64), curve.shape[-1] - 2)
    part = kind - low
    if curve.ndim == 1:
        return np.asarray(curve[low] * (1.0 - part) + curve[low + 1] * part)
    row = np.arange(len(kind))
    return np.asarray(curve[row, low] * (1.0 - part) + curve[row, low + 1] * part)


def natural(design: Design, band: str, shift: float = 0.0) -> Array:
    """Natural magnitudes (N,) of the stars in ``band``, or in one whose edges lie ``shift`` micrometres to the red, which
    agrees with it at the reference colour."""
    curve = atmosphere.magnitudes(band) - atmosphere.magnitudes("r")
    if shift:
        other = atmosphere.magnitudes(band, shift) - atmosphere.magnitudes(band)
        curve = curve + other - along(other, kind_of(np.array([design.pivot])))
    return np.asarray(design.stars.r + along(curve, kind_of(design.stars.colour)))


def conditions(design: Design) -> Conditions:
    """Draw the truth; a function of the design and its seed."""
    p, names, rng = design.pointings, bands(design), np.random.default_rng([design.seed, 1])
    count, nights = len(p), np.unique(p.day_obs)
    band = _index(names, p.band)
    night = np.searchsorted(nights, p.day_obs)
    detectors = len(design.mosaic.detectors)
    pivot = kind_of(np.array([design.pivot]))
    curve = np.zeros((count, len(atmosphere.TEMPERATURES)))
    if design.zero_points is not None:
        zero = np.array(design.zero_points, float)
    else:
        air = _spectral if design.spectra else _linear
        curve = air(design, names, band, night, len(nights), rng)
        grey = along(curve, np.full(count, pivot[0]))
        curve = curve - grey[:, None]
        zero = np.array([design.zero_point[b] for b in names])[band] + 2.5 * np.log10(p.exposure_time) - grey
        zero += rng.normal(0, design.night_zero, (len(names), len(nights)))[band, night] + rng.normal(0, design.jitter, count)
    cloudy = _spells(design, rng)
    lean = rng.normal(0, design.cloud_gradient, (count, 2)) * cloudy[:, None]
    zero -= cloudy * (rng.uniform(*design.cloud_depth, count) + np.hypot(*lean.T) * design.mosaic.radius)
    length, turn = rng.uniform(0.3, 1.5, (count, WAVES)), rng.uniform(0, 2 * np.pi, (2, count, WAVES))
    amplitude = rng.normal(0, design.cloud_structure * np.sqrt(2.0 / WAVES), (count, WAVES))
    waves = np.stack([2 * np.pi / length * np.cos(turn[0]), 2 * np.pi / length * np.sin(turn[0]), turn[1], amplitude], axis=2)
    kinds = len(design.epochs) + 1, len(names), detectors
    flats = rng.normal(0, design.flat, kinds) + _illumination(design, kinds, rng)
    flats -= flats.mean(axis=2, keepdims=True)
    shapes = rng.normal(0, design.shape, (*kinds, 3))
    if design.zero_points is not None:
        flats, shapes = np.zeros_like(flats), np.zeros_like(shapes)
    epoch = np.searchsorted(np.sort(np.array(design.epochs, np.int64)), p.day_obs, side="right")
    return Conditions(band, epoch, zero, curve, cloudy, lean, waves, flats, shapes, design.scatter, design.seed)


def _index(names: list[str], band: NDArray[np.str_]) -> IntArray:
    order = np.argsort(names)
    return np.asarray(order[np.searchsorted(np.array(names)[order], band)], np.int64)


def _spectral(design: Design, names: list[str], band: IntArray, night: IntArray, nights: int, rng: np.random.Generator) -> Array:
    """Extinction (V, K) beyond the standard atmosphere: aerosol and water of the night, water drifting by 10 % an hour."""
    p = design.pointings
    aerosol = atmosphere.STANDARD["aerosol"] * np.maximum(0.2, 1.0 + rng.normal(0, design.aerosol, nights))
    water = atmosphere.STANDARD["water"] * np.exp(rng.normal(0, design.water, nights))
    hours = 24.0 * (p.mjd - np.floor(p.mjd - 0.5) - 1.0)
    drift = 1.0 + 0.1 * np.clip(rng.normal(0, 1.0, nights)[night] * hours, -5.0, 5.0)
    result = np.zeros((len(p), len(atmosphere.TEMPERATURES)))
    for number, name in enumerate(names):
        own = band == number
        result[own] = atmosphere.extinction(name, p.airmass[own], aerosol[night[own]], water[night[own]] * drift[own])
    return result


def _linear(design: Design, names: list[str], band: IntArray, night: IntArray, nights: int, rng: np.random.Generator) -> Array:
    """Extinction (V, K) beyond airmass 1.2: grey, second order, and a water term that depends on the night."""
    x, c = design.pointings.airmass, atmosphere.colours() - design.pivot
    x0 = atmosphere.STANDARD["airmass"]
    mean = np.array([design.extinction[b] for b in names])[:, None]
    grey = (mean + rng.normal(0, design.night_extinction, (len(names), nights)))[band, night]
    colour = np.array([design.second_order.get(b, 0.0) for b in names])[band]
    water = np.array([design.water_colour.get(b, 0.0) for b in names])[band]
    water = water * rng.normal(0, 1.0, nights)[night] * x**1.5
    return np.asarray((grey * (x - x0))[:, None] + np.outer(colour * (x - x0), c) + np.outer(water, c + 0.3 * c**2))


def _spells(design: Design, rng: np.random.Generator) -> Mask:
    """Which visits lie under clouds: spells of consecutive visits, until the wanted part of all visits."""
    p = design.pointings
    cloudy = np.zeros(len(p), bool)
    may = np.ones(len(p), bool) if design.cloudy_nights is None else np.isin(p.day_obs, design.cloudy_nights)
    order = np.flatnonzero(may)[np.argsort(p.mjd[may], kind="stable")]
    spells = np.array_split(order, max(1, -(-len(order) // design.spell)))
    wanted = min(round(design.cloudy * len(p)), len(order))
    for spell in rng.permutation(len(spells)) if wanted else []:
        cloudy[spells[spell]] = True
        if cloudy.sum() >= wanted:
            break
    return cloudy


def _illumination(design: Design, kinds: tuple[int, int, int], rng: np.random.Generator) -> Array:
    """A smooth pattern of second order over the field (E, B, D)."""
    x, y = (design.mosaic.centres / design.mosaic.radius).T
    terms = np.stack([x, y, x * x, x * y, y * y])
    terms = terms - terms.mean(axis=1, keepdims=True)
    size = np.sqrt(np.sum(terms**2) / terms.shape[1]) or 1.0
    return np.asarray(np.tensordot(rng.normal(0, design.illumination / size, (*kinds[:2], 5)), terms, axes=1))


def uniform(number: IntArray, seed: int) -> Array:
    """A number in [0, 1) that depends on ``number`` and ``seed`` alone (the finaliser of SplitMix64)."""
    h = number.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((h ^ (h >> np.uint64(31))) >> np.uint64(11), float) * 2.0**-53


def normal(number: IntArray, seed: int) -> Array:
    """Likewise of unit variance (Box & Muller)."""
    a, b = uniform(2 * number, seed), uniform(2 * number + 1, seed)
    return np.asarray(np.sqrt(-2.0 * np.log1p(-a)) * np.cos(2.0 * np.pi * b))
