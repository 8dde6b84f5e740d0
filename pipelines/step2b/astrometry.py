"""Step 2b, astrometric fit of a tract: the WCS of every (visit, detector), from all stars and the reference stars at once.

Stars at unknown positions tie the frames together; reference stars, moved to the epoch of each visit, tie them to the sky.
Where no reference star is connected, the mean positions by the preliminary WCSs are the gauge, and ``absolute`` is false.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines import instrument, skymap
from pipelines.quantum import Inputs, NoWork, Quantum
from pipelines.step2b import cells
from pipelines.step2b.associate import declared
from pipelines.step2b.chain import Chain, grid, link, terms_of
from pipelines.step2b.motion import displacement
from pipelines.step2b.position_fit import Complex, Level, Problem, components, solve
from pipelines.step2b.registration import transform
from pipelines.step2b.sources import Matching, Sources, read
from pipelines.step2b.statement import statement
from pipelines.wcs import SkyWcs, deproject, fit_tan_sip, project

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
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
    frame_order: int = 2
    prior_pixels: float = 2.0
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
        return 3600.0 * (xi + 1.0j * eta)

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


@dataclass(frozen=True)
class Solution:
    """``coefficients`` of the levels; ``residual`` (N,) complex arcsec; ``usable``, ``fitted`` (N,); per frame (F,): ``stars``
    used and whether it is ``tied`` to the sky."""

    coefficients: Complex
    residual: Complex
    usable: Mask
    fitted: Mask
    stars: IntArray
    tied: Mask


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``visit_wcs`` of a tract: one row per (visit, detector) with enough stars; NoWork where it has no detection."""
    settings = quantum.settings(Settings)
    tract, sky = int(quantum.data_id["tract"]), skymap.load(quantum.data_id["skymap"])
    centre = (float(sky.tract_centre(tract)[0]), float(sky.tract_centre(tract)[1]))
    with duckdb.connect(config={"threads": 1}) as con:
        sources = read(con, inputs, centre, settings)
        inputs.relation(con, "reference_star")
        found = con.execute(statement("reference_positions")).fetchnumpy()
    references = {name: np.ma.filled(column, np.nan) for name, column in found.items()}
    field = observe(sources, centre, settings)
    solution = fit(field, references, settings)
    rows = [{"tract": tract, "skymap": sky.name, **row} for row in summarise(field, solution, settings)]
    columns = {name: [row[name] for row in rows] for name in ROW.names}
    return {"visit_wcs": declared("visit_wcs", pa.table(columns, ROW))}


ROW = pa.schema(
    [
        ("tract", pa.int32()), ("skymap", pa.string()), ("visit", pa.int64()), ("detector", pa.int32()),
        ("band", pa.string()), ("wcs", pa.string()), ("nStar", pa.int32()), ("rms", pa.float64()),
        ("rms_reserved", pa.float64()), ("absolute", pa.bool_()),
    ]
)  # fmt: skip


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


def fit(field: Field, references: dict[str, Array], settings: Settings) -> Solution:
    """Solve, clip, and solve again; see position_fit for the problem."""
    star, frames = field.star, len(field.sources.frames)
    problem = _problem(field, references, settings)
    reserved = cells.lot(cells.sky_cell(*field.mean, 60.0), salt=2) < settings.reserve
    fitted = ~reserved[star]
    usable, coefficients = fitted.copy(), None
    for _ in range(settings.rounds):
        current = replace(
            problem,
            weight=np.where(usable, problem.weight, 0.0),
            reference_weight=np.where(reserved, 0.0, problem.reference_weight),
        )
        group = components(current, frames)
        tied = _tied(current, group, settings.min_references)[group]
        current = _with_gauge(current, tied, (settings.gauge_pixels * field.sources.scale) ** -2)
        coefficients, correction = solve(current, coefficients)
        seen = problem.position + correction
        # reserved stars have means of their own: they test the maps without having shaped them
        means = replace(current, weight=np.where(usable | ~fitted, problem.weight, 0.0)).star_means(seen)
        residual = np.nan_to_num(seen - means[star])
        stars = np.bincount(problem.frame[usable], minlength=frames)
        usable = fitted & ~_outliers(residual, problem.weight, star, usable, settings.clip)
    return Solution(coefficients, residual, usable, fitted, stars, tied)


def _problem(field: Field, references: dict[str, Array], settings: Settings) -> Problem:
    """All observations, brought to one epoch, against the reference stars at that epoch."""
    sources, star = field.sources, field.star
    mjd = np.array([f["mjd_mid"] for f in sources.frames])
    epoch = float(np.median(mjd))
    ra, dec = sources.ra, sources.dec
    reference, reference_weight = np.zeros(len(field.mean[0]), complex), np.zeros(len(field.mean[0]))
    if len(references["ra"]):
        motion = [references[c] for c in ("ra", "dec", "pm_ra", "pm_dec", "parallax", "epoch")]
        shift = displacement(*motion, mjd=np.full(len(motion[0]), epoch))
        place = _moved(motion[0], motion[1], *shift)
        own, known = _nearest(field.mean, place, settings.reference_pixels * sources.scale)
        reference[own] = field.plane(place[0][known], place[1][known])
        floor = settings.floor_pixels * sources.scale
        reference_weight[own] = 1.0 / (references["error"][known] ** 2 + floor**2)
        match = np.full(len(reference), -1)
        match[own] = known
        moving = np.flatnonzero(match[star] >= 0)
        of = [c[match[star[moving]]] for c in motion]
        east, north = displacement(*of, mjd=mjd[sources.frame[moving]])
        ra, dec = ra.copy(), dec.copy()
        back = shift[0][match[star[moving]]] - east, shift[1][match[star[moving]]] - north
        ra[moving], dec[moving] = _moved(ra[moving], dec[moving], *back)
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


def _tied(problem: Problem, group: IntArray, enough: int) -> Mask:
    """Which connected components hold ``enough`` reference stars."""
    counts = (problem.reference_weight[problem.star] > 0) & (problem.weight > 0)
    known = np.unique(np.stack([group[problem.frame[counts]], problem.star[counts]]), axis=1)[0]
    return np.asarray(np.bincount(known, minlength=int(group.max()) + 1) >= enough)


def _with_gauge(problem: Problem, tied: Mask, weight: float) -> Problem:
    """Stars of frames that nothing ties to the sky get their preliminary mean positions, weakly, as references."""
    stars = np.unique(problem.star[~tied[problem.frame]])
    weights = problem.reference_weight.copy()
    weights[stars] = 0.0
    means = replace(problem, reference_weight=weights).star_means(problem.position)[stars]
    weights[stars] = np.where(np.isfinite(means), weight, 0.0)
    reference = problem.reference.copy()
    reference[stars] = np.nan_to_num(means)
    return replace(problem, reference=reference, reference_weight=weights)


def _outliers(residual: Complex, weight: Array, star: IntArray, usable: Mask, clip: float) -> Mask:
    """Observations beyond ``clip`` sigma, in the scale of the bulk; of a star only the worst: it drags the mean along."""
    size = np.abs(residual) * np.sqrt(weight)
    bulk = float(np.median(size[usable])) / np.sqrt(2.0 * np.log(2.0)) if usable.any() else 1.0
    far = np.flatnonzero(size > clip * max(bulk, 1e-12))
    order = far[np.lexsort((far, -size[far], star[far]))]
    found = np.zeros(len(size), bool)
    found[order[np.unique(star[order], return_index=True)[1]]] = True
    return np.asarray(found | (~usable & (size > clip * bulk)))


def summarise(field: Field, solution: Solution, settings: Settings) -> list[dict[str, Any]]:
    """The rows of ``visit_wcs`` but for tract and skymap, ordered by visit and detector."""
    sources, chain = field.sources, field.chain
    pixels = [grid(tuple(size)) for size in chain.size]
    ends = np.cumsum([len(pixels[d][0]) for d in chain.detector])
    x, y = (np.concatenate([pixels[d][k] for d in chain.detector]) for k in range(2))
    frame = np.searchsorted(ends, np.arange(len(x)), side="right")
    correction = sum_of(field.levels(frame, x, y, settings), solution.coefficients)
    plane = (field.plane(*chain.pixel_to_sky(frame, x, y)) + correction) / 3600.0
    ra, dec = deproject(plane.real, plane.imag, *field.centre)
    squares = np.abs(solution.residual) ** 2 / 2.0
    rms = [_frame_rms(sources.frame, squares, use, len(chain.visit)) for use in (solution.usable, ~solution.fitted)]
    order = max(3, settings.device_order)
    rows = []
    for f in np.flatnonzero(solution.stars >= settings.min_stars):
        own = slice(ends[f] - len(pixels[chain.detector[f]][0]), ends[f])
        middle = (own.start + own.stop) // 2
        crpix = (float(x[middle]), float(y[middle]))
        wcs = fit_tan_sip(x[own], y[own], ra[own], dec[own], (float(ra[middle]), float(dec[middle])), crpix, order)
        info = sources.frames[f]
        rows.append(
            {
                "visit": info["visit"], "detector": info["detector"], "band": info["band"], "wcs": wcs.to_json(),
                "nStar": int(solution.stars[f]), "rms": float(np.nan_to_num(rms[0][f])),
                "rms_reserved": None if np.isnan(rms[1][f]) else float(rms[1][f]), "absolute": bool(solution.tied[f]),
            }
        )  # fmt: skip
    return rows


def sum_of(levels: tuple[Level, ...], coefficients: Complex) -> Complex:
    """The correction (N,) that all levels together make, arcsec."""
    total, at = np.zeros(len(levels[0].index), complex), 0
    for level in levels:
        end = at + level.count * level.terms.shape[1]
        total += level.design() @ coefficients[at:end]
        at = end
    return total


def _frame_rms(frame: IntArray, squares: Array, which: Mask, frames: int) -> Array:
    """Root mean square per frame (F,) of the squares of ``which`` observations; NaN where there are none."""
    count = np.bincount(frame[which], minlength=frames)
    return np.sqrt(np.bincount(frame[which], squares[which], frames) / np.where(count > 0, count, np.nan))
