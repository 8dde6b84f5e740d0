"""The observations of a tract as the astrometric fit wants them: placed by a chain of maps, grouped into stars, at one epoch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines import instrument
from pipelines.quantum import NoWork
from pipelines.step2b import cells
from pipelines.step2b.chain import Chain, grid, link, terms_of
from pipelines.step2b.motion import displacement
from pipelines.step2b.position_fit import Complex, Level, Problem
from pipelines.step2b.registration import transform
from pipelines.step2b.sources import Matching, Sources
from pipelines.wcs import SkyWcs, deproject, project

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Centre = tuple[float, float]


@dataclass(frozen=True)
class Settings(Matching):
    """Orders of the polynomials of detector, visit and frame, and the size in pixels their corrections may have.

    ``frame_pixels`` is how far a frame may deviate from its detector and its visit; ``floor_pixels`` is added to every
    centroid's error; ``brightest`` stars of a frame are used; ``clip`` in sigma, ``rounds`` of fit and clip; ``reserve``:
    fraction of stars kept for testing; ``min_references`` tie connected frames to the sky; ``min_stars`` make a row.
    """

    device_order: int = 3
    visit_order: int = 2
    frame_order: int = 1
    prior_pixels: float = 1.0
    frame_pixels: float = 0.03
    floor_pixels: float = 0.01
    reference_pixels: float = 1.5
    gauge_pixels: float = 1.0
    brightest: int = 300
    clip: float = 5.0
    rounds: int = 3
    reserve: float = 0.2
    min_references: int = 5
    min_stars: int = 3


@dataclass(frozen=True)
class Field:
    """Observations of a tract: detections (by the chain of maps), the star of each, and the stars' mean positions (deg)."""

    sources: Sources
    chain: Chain
    star: IntArray
    mean: tuple[Array, Array]
    centre: Centre

    def plane(self, ra: Array, dec: Array) -> Complex:
        """Sky (deg) to the tangent plane of the tract, arcsec."""
        xi, eta = project(ra, dec, *self.centre)
        return np.asarray(3600.0 * (xi + 1.0j * eta), complex)

    def levels(self, frame: IntArray, x: Array, y: Array, settings: Settings) -> tuple[Level, ...]:
        """The corrections of detector, visit and frame at pixels (N,) of frames (N,)."""
        chain, scale = self.chain, self.sources.scale
        u, v = chain.scaled(frame, x, y)
        focal = chain.focal_plane(frame, x, y)
        focal /= max(1e-9, float(np.abs(chain.device[:, 0]).max()) + 0.5 * scale * float(chain.size.max()) / 3600.0)
        still, loose, tight = np.ones(len(x), complex), settings.prior_pixels * scale, settings.frame_pixels * scale
        visit, detector = chain.visit[frame], chain.detector[frame]
        turned = chain.phase()[visit]
        orders = settings.device_order, settings.visit_order, settings.frame_order
        return (
            Level(detector, len(chain.device), terms_of(u, v, orders[0]), turned, loose**-2),
            Level(visit, len(chain.affine), terms_of(focal[:, 0], focal[:, 1], orders[1]), still, loose**-2),
            Level(frame, len(chain.visit), terms_of(u, v, orders[2]), still, tight**-2),
        )


def observe(sources: Sources, centre: Centre, settings: Settings) -> Field:
    """Good detections of unambiguous stars, placed by the chain of maps behind the preliminary WCSs."""
    sources = sources.select(sources.good)
    if not len(sources.source):
        raise NoWork("no star good enough for astrometry in this tract")
    sizes = {f["detector"]: _size(f, sources) for f in sources.frames}
    sky = []
    for frame, affine in zip(sources.frames, sources.maps, strict=True):
        plane = project(*SkyWcs.from_json(frame["wcs"]).pixel_to_sky(*grid(sizes[frame["detector"]])), *centre)
        moved = transform(affine, 3600.0 * np.stack(plane, axis=1)) / 3600.0
        sky.append(deproject(moved[:, 0], moved[:, 1], *centre))
    chain = link(sources.frames, sky, sizes, settings.device_order)
    rank = np.lexsort((-sources.flux, sources.frame))
    place = np.empty(len(rank), np.int64)
    place[rank] = np.arange(len(rank)) - np.searchsorted(sources.frame[rank], sources.frame[rank])
    sources = sources.select(place < settings.brightest)
    ra, dec = chain.pixel_to_sky(sources.frame, sources.x, sources.y)
    sources = replace(sources, ra=ra, dec=dec)
    star = cells.group(ra, dec, settings.match_pixels * sources.scale)
    pair, repeats = np.unique(np.stack([star, sources.visit()]), axis=1, return_counts=True)
    single = np.ones(int(star.max()) + 1, bool)
    single[pair[0][repeats > 1]] = False  # two detections in one visit: which is which?
    sources, (_, star) = sources.select(single[star]), np.unique(star[single[star]], return_inverse=True)
    mean = cells.mean_vectors(cells.unit_vectors(sources.ra, sources.dec), star, int(star.max(initial=-1)) + 1)
    return Field(sources, chain, star, cells.sky_positions(mean), centre)


def pose(field: Field, references: dict[str, Array], settings: Settings) -> Problem:
    """All observations, brought to one epoch, against the reference stars at that epoch."""
    sources, star = field.sources, field.star
    mjd = np.array([f["mjd_mid"] for f in sources.frames])
    epoch = float(np.median(mjd))
    ra, dec = sources.ra, sources.dec
    reference, reference_weight = np.zeros(len(field.mean[0]), complex), np.zeros(len(field.mean[0]))
    if len(references["ra"]):
        east, north = displacement(references, epoch)
        place = _moved(references["ra"], references["dec"], east, north)
        own, known = _nearest(field.mean, place, settings.reference_pixels * sources.scale)
        reference[own] = field.plane(place[0][known], place[1][known])
        floor = settings.floor_pixels * sources.scale
        reference_weight[own] = 1.0 / (references["error"][known] ** 2 + floor**2)
        match = np.full(len(reference), -1)
        match[own] = known
        moving = np.flatnonzero(match[star] >= 0)  # these observations go back to the common epoch
        k = match[star[moving]]
        then = displacement({name: column[k] for name, column in references.items()}, mjd[sources.frame[moving]])
        ra, dec = ra.copy(), dec.copy()
        ra[moving], dec[moving] = _moved(ra[moving], dec[moving], east[k] - then[0], north[k] - then[1])
    weight = 1.0 / ((sources.variance + settings.floor_pixels**2) * sources.scale**2)
    levels = field.levels(sources.frame, sources.x, sources.y, settings)
    return Problem(levels, sources.frame, star, field.plane(ra, dec), weight, reference, reference_weight)


def _moved(ra: Array, dec: Array, east: Array, north: Array) -> tuple[Array, Array]:
    """Positions (deg) displaced by arcsec."""
    return ra + east / 3600.0 / np.cos(np.radians(dec)), dec + north / 3600.0


def _nearest(stars: tuple[Array, Array], place: tuple[Array, Array], radius: float) -> tuple[IntArray, IntArray]:
    """Pairs (star, reference) that are each other's nearest, within ``radius`` arcsec."""
    a, b = cells.unit_vectors(*stars), cells.unit_vectors(*place)
    distance, index = cKDTree(b).query(a, distance_upper_bound=cells.chord(radius))
    back = cKDTree(a).query(b)[1]
    found = np.flatnonzero(np.isfinite(distance))
    mutual = found[back[index[found]] == found]
    return mutual, index[mutual]


def _size(frame: dict[str, Any], sources: Sources) -> tuple[float, float]:
    """Imaging pixels (width, height) of a frame's detector; of a camera without a file, what the detections span."""
    try:
        detector = instrument.load(frame["instrument"]).detector(frame["detector"])
        return float(detector.width), float(detector.height)
    except instrument.InstrumentError:
        return float(np.ceil(sources.x.max())) + 1.0, float(np.ceil(sources.y.max())) + 1.0
