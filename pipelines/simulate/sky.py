"""The simulated sky: stars, variables, galaxies and transients of the inner region of each tract.

A tract's content depends on the seed and the tract number alone, so that neighbours, sites and campaigns agree.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.simulate.settings import SimulateError, generator
from pipelines.simulate.survey import Plan, Visit
from pipelines.wcs import project

Array = NDArray[np.float64]
BANDS = ("g", "r", "i", "z")
#: Effective wavelengths of the bands, nm.
WAVELENGTH = {"g": 477.0, "r": 622.0, "i": 763.0, "z": 905.0}
STAR, VARIABLE, GALAXY, TRANSIENT = range(4)
KINDS = ("star", "variable", "galaxy", "transient")
#: Phases of variables are counted from this MJD.
PHASE_ZERO = 60000.0
#: Kinds and running numbers within a tract make the id: tract * 2^24 + kind * 2^22 + number.
TRACT_SHIFT, KIND_SHIFT = 24, 22


@dataclass(frozen=True)
class Sources:
    """Arrays (N,): ``ra``, ``dec`` (deg) at ``PLAN.mid_survey``, ``pm_*`` mas/yr, ``mag`` (N, 4) in BANDS, mean AB.

    ``radius`` half-light, arcsec; ``q``, ``angle`` axis ratio and position angle (deg) of galaxies; ``amplitude`` mag,
    ``period`` d, ``phase``; ``start``, ``end`` MJD between which the source shines.
    """

    truth_id: NDArray[np.int64]
    kind: NDArray[np.int8]
    ra: Array
    dec: Array
    pm_ra: Array
    pm_dec: Array
    mag: Array
    radius: Array
    q: Array
    angle: Array
    amplitude: Array
    period: Array
    phase: Array
    start: Array
    end: Array

    def __len__(self) -> int:
        return len(self.ra)

    def take(self, which: NDArray) -> Sources:
        return Sources(**{f.name: getattr(self, f.name)[which] for f in fields(self)})


def join(parts: list[Sources]) -> Sources:
    return Sources(**{f.name: np.concatenate([getattr(p, f.name) for p in parts]) for f in fields(Sources)})


def colours(temperature: Array) -> Array:
    """AB magnitudes relative to r (N, 4) of black bodies of the given temperatures (N,) in K."""
    x = 1.438777e7 / (np.array([WAVELENGTH[b] for b in BANDS]) * temperature[:, None])  # hc / (lambda k T)
    mag = -2.5 * np.log10(x**3 / np.expm1(x))
    return np.asarray(mag - mag[:, 1:2])


def _magnitudes(u: Array, slopes: tuple[float, float], knee: float, limits: tuple[float, float]) -> Array:
    """Inverse of the cumulative counts 10^(slope (m - knee)), with one slope on each side of the knee; u in [0, 1)."""
    count = np.array([10 ** (slopes[0 if m < knee else 1] * (m - knee)) for m in limits])
    n = count[0] + u * (count[1] - count[0])
    return np.asarray(knee + np.log10(n) / np.where(n < 1.0, slopes[0], slopes[1]))


def _number(density: float, slopes: tuple[float, float], knee: float, limits: tuple[float, float], area: float) -> float:
    """Expected number between the limits, for a density of all that is brighter than the knee."""
    low, high = (10 ** (slopes[0 if m < knee else 1] * (m - knee)) for m in limits)
    return density * area * (high - low)


@lru_cache(maxsize=64)
def tract_sources(plan: Plan, tract: int) -> Sources:
    """Everything in the inner region of one tract, in order of kind and number."""
    s, skymap = plan.settings, plan.skymap
    ra_min, ra_max, dec_min, dec_max = (float(a) for a in skymap.inner_bounds(tract))
    sin_min, sin_max = np.sin(np.radians([dec_min, dec_max]))
    area = (ra_max - ra_min) * np.degrees(sin_max - sin_min)

    def anywhere(rng: np.random.Generator, n: int) -> tuple[Array, Array]:
        ra = np.mod(rng.uniform(ra_min, ra_max, n), 360.0)
        return ra, np.degrees(np.arcsin(rng.uniform(sin_min, sin_max, n)))

    rng = generator(s.seed, "stars", tract)
    n = int(rng.poisson(_number(s.star_density, s.star_slopes, s.star_break, s.star_range, area)))
    ra, dec = anywhere(rng, n)
    r = _magnitudes(rng.random(n), s.star_slopes, s.star_break, s.star_range)
    # Disc and halo stars of about 5600 K, and red dwarfs that grow in number to faint magnitudes.
    red = rng.random(n) < np.clip(0.1 + 0.06 * (r - 12.0), 0.05, 0.5)
    temperature = np.where(red, rng.normal(3500.0, 250.0, n), rng.lognormal(np.log(5600.0), 0.13, n))
    motion = rng.normal(0.0, 1.0, (2, n)) * 10 ** (1.2 - 0.05 * (r - 12.0))
    stars = _points(tract, STAR, ra, dec, r[:, None] + colours(np.clip(temperature, 2800.0, 20000.0)), motion)
    if s.real_bright_stars:
        stars = _with_real_stars(stars, s.real_bright_stars, tract, (ra_min, ra_max, dec_min, dec_max))

    rng = generator(s.seed, "variables", tract)
    n = s.variables
    ra, dec = anywhere(rng, n)
    r = rng.uniform(*s.variable_range, n)
    variables = _points(tract, VARIABLE, ra, dec, r[:, None] + colours(rng.normal(6800.0, 300.0, n)), np.zeros((2, n)))
    variables.amplitude[:] = rng.uniform(0.15, 0.5, n)
    variables.period[:] = np.exp(rng.uniform(np.log(0.3), np.log(6.0), n))
    variables.phase[:] = rng.random(n)

    rng = generator(s.seed, "galaxies", tract)
    slopes = (s.galaxy_slope, s.galaxy_slope)
    n = int(rng.poisson(s.galaxy_density * area))
    ra, dec = anywhere(rng, n)
    r = _magnitudes(rng.random(n), slopes, s.galaxy_range[1], s.galaxy_range)
    g, i, z = rng.normal([[0.65], [-0.33], [-0.55]], [[0.2], [0.1], [0.15]], (3, n))
    tilt = np.stack([g, np.zeros(n), i, z], axis=1)
    galaxies = _points(tract, GALAXY, ra, dec, r[:, None] + tilt, np.zeros((2, n)))
    galaxies.radius[:] = rng.lognormal(np.log(3.5), 0.35, n) * 10 ** (-0.13 * (r - 18.0))
    galaxies.q[:] = rng.uniform(0.3, 1.0, n)
    galaxies.angle[:] = rng.uniform(0.0, 180.0, n)
    return join([stars, variables, galaxies, _transients(plan, tract, galaxies, anywhere)])


def _transients(plan: Plan, tract: int, galaxies: Sources, anywhere) -> Sources:  # type: ignore[no-untyped-def]
    """Half of them in galaxies; each shines on whole nights, so that every band sees it."""
    s = plan.settings
    rng = generator(s.seed, "transients", tract)
    n = s.transients
    ra, dec = anywhere(rng, n)
    if len(galaxies):
        host = rng.integers(0, len(galaxies), n)
        offset = rng.normal(0.0, 0.5, (2, n)) * galaxies.radius[host] / 3600.0
        hosted = rng.random(n) < 0.5
        dec = np.where(hosted, galaxies.dec[host] + offset[1], dec)
        ra = np.where(hosted, np.mod(galaxies.ra[host] + offset[0] / np.cos(np.radians(dec)), 360.0), ra)
    mag = np.repeat(rng.uniform(*s.transient_range, n)[:, None], len(BANDS), axis=1)
    found = _points(tract, TRANSIENT, ra, dec, mag, np.zeros((2, n)))
    nights = np.array(sorted({v.day_obs for v in plan.visits}))
    begin = np.array([min(v.mjd_mid for v in plan.visits if v.day_obs == d) for d in nights]) - 0.1
    end = np.array([max(v.mjd_mid for v in plan.visits if v.day_obs == d) for d in nights]) + 0.1
    length = np.minimum(rng.integers(s.transient_nights[0], s.transient_nights[1] + 1, n), len(nights))
    first = np.floor(rng.random(n) * (len(nights) - length + 1)).astype(int)
    found.start[:], found.end[:] = begin[first], end[first + length - 1]
    return found


def _points(tract: int, kind: int, ra: Array, dec: Array, mag: Array, motion: Array) -> Sources:
    n = len(ra)
    number = np.arange(n, dtype=np.int64)
    if n >= 1 << KIND_SHIFT:
        raise SimulateError(f"simulate: {n} sources of one kind in tract {tract}; lower the densities")
    return Sources(
        truth_id=(tract << TRACT_SHIFT) + (kind << KIND_SHIFT) + number, kind=np.full(n, kind, np.int8),
        ra=ra, dec=dec, pm_ra=motion[0], pm_dec=motion[1], mag=mag,
        radius=np.zeros(n), q=np.ones(n), angle=np.zeros(n),
        amplitude=np.zeros(n), period=np.ones(n), phase=np.zeros(n),
        start=np.full(n, -np.inf), end=np.full(n, np.inf),
    )  # fmt: skip


def _with_real_stars(stars: Sources, path: str, tract: int, bounds: tuple[float, float, float, float]) -> Sources:
    """Stars brighter than the faint end of the catalogue (V = 11.3) replaced by its own; colours stay simulated."""
    limit = 11.3
    ra_min, ra_max, dec_min, dec_max = bounds
    with duckdb.connect() as con:
        found = con.execute(
            "SELECT ra, dec, vt FROM read_parquet($path) WHERE dec >= $d0 AND dec < $d1 AND vt < $limit"
            " AND (ra - $a0) - 360 * floor((ra - $a0) / 360) < $width ORDER BY ra, dec",
            {"path": path, "d0": dec_min, "d1": dec_max, "limit": limit, "a0": ra_min, "width": ra_max - ra_min},
        ).fetchnumpy()
    n = len(found["ra"])
    rng = generator("real stars", tract)
    shape = colours(rng.lognormal(np.log(5600.0), 0.13, n))
    real = _points(tract, STAR, found["ra"], found["dec"], found["vt"].astype(float)[:, None] - 0.1 + shape, np.zeros((2, n)))
    faint = stars.take(stars.mag[:, 1] >= limit - 0.1)
    both = join([real, faint])
    ids = (tract << TRACT_SHIFT) + np.arange(len(both), dtype=np.int64)
    return replace(both, truth_id=ids)


def tracts_near(plan: Plan, ra: float, dec: float, radius: float) -> list[int]:
    """Tracts whose inner region comes within ``radius`` (deg) of a position, sorted."""
    angle, ring = np.meshgrid(np.linspace(0.0, 360.0, 24, endpoint=False), np.linspace(0.0, radius, 6))
    ds, dx = np.cos(np.radians(angle)) * ring, np.sin(np.radians(angle)) * ring
    d = np.clip(dec + ds, -89.9, 89.9)
    return np.unique(plan.skymap.find_tract(np.mod(ra + dx / np.cos(np.radians(d)), 360.0), d)).tolist()  # type: ignore[no-any-return]


@lru_cache(maxsize=4)
def visit_sources(plan: Plan, visit: Visit) -> tuple[Sources, Array, Array]:
    """Sources that may fall on the camera, at the visit's epoch; their tangent-plane positions about its true pointing.

    Magnitudes are those of the moment in all bands: variables at their phase, transients only while they shine.
    """
    camera = plan.instrument
    reach = 1.1 * max(
        float(np.hypot(d.x_centre, d.y_centre)) + 0.75 * max(d.width, d.height) * camera.pixel_scale / 3600.0
        for d in camera.detectors
    )
    near = tracts_near(plan, visit.true_ra, visit.true_dec, reach)
    everything = join([tract_sources(plan, t) for t in near])
    xi, eta = project(everything.ra, everything.dec, visit.true_ra, visit.true_dec)
    now = (np.hypot(xi, eta) < reach) & (everything.start <= visit.mjd_mid) & (everything.end > visit.mjd_mid)
    found = everything.take(np.flatnonzero(now))
    years = (visit.mjd_mid - plan.mid_survey) / 365.25
    found.dec[:] += found.pm_dec * years / 3.6e6
    found.ra[:] = np.mod(found.ra + found.pm_ra * years / 3.6e6 / np.cos(np.radians(found.dec)), 360.0)
    found.mag[:] += brightening(found, visit.mjd_mid)[:, None]
    xi, eta = project(found.ra, found.dec, visit.true_ra, visit.true_dec)
    return found, xi, eta


def brightening(sources: Sources, mjd: float) -> Array:
    """Magnitudes to add to the mean at a time (N,): the sinusoids of variables."""
    return sources.amplitude * np.sin(2.0 * np.pi * ((mjd - PHASE_ZERO) / sources.period + sources.phase))


def isolated(plan: Plan, sources: Sources, others: Sources) -> NDArray[np.bool_]:
    """No neighbour in ``others`` brighter than 1 % of the source in r within four widths (sigma) of a median PSF."""
    reach = 4.0 * plan.settings.seeing / 2.355 * plan.instrument.pixel_scale

    def vectors(s: Sources) -> Array:
        a, d = np.radians(s.ra), np.radians(s.dec)
        return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)

    from scipy.spatial import cKDTree  # dear to import, and not needed to see that everything is there

    pairs = cKDTree(vectors(sources)).sparse_distance_matrix(
        cKDTree(vectors(others)), 2.0 * np.sin(np.radians(reach / 3600.0) / 2.0), output_type="coo_matrix"
    )
    here, there = pairs.row, pairs.col
    disturbs = (sources.truth_id[here] != others.truth_id[there]) & (others.mag[there, 1] < sources.mag[here, 1] + 5.0)
    alone = np.ones(len(sources), bool)
    alone[here[disturbs]] = False
    return alone
