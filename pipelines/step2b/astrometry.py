"""Step 2b, astrometric fit of a tract: the WCS of every (visit, detector), from all its stars and the reference stars at once.

Stars at unknown positions tie the frames together, reference stars (moved to the epoch of each visit) tie them to the sky.
Where no reference star is connected, the mean positions by the preliminary WCSs are the gauge, and ``absolute`` is false.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines import instrument, skymap
from pipelines.quantum import Inputs, NoWork, Quantum
from pipelines.step2b import cells
from pipelines.step2b.associate import declared
from pipelines.step2b.motion import displacement
from pipelines.step2b.position_fit import STARS_NEEDED, Problem, allowed, components, solve, terms_of
from pipelines.step2b.registration import transform
from pipelines.step2b.sources import Matching, Sources, read
from pipelines.step2b.statement import statement
from pipelines.wcs import SkyWcs, deproject, fit_tan_sip, project

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Settings(Matching):
    """``order`` of the correction to the preliminary WCS; ``prior_pixels``: how large its coefficients may be;
    ``floor_pixels``: error added to every centroid; ``clip`` in sigma; ``rounds`` of fit and clip; ``reserve``: fraction
    of stars kept for testing; ``min_references`` that tie connected frames to the sky."""

    order: int = 3
    prior_pixels: float = 3.0
    floor_pixels: float = 0.01
    reference_pixels: float = 1.0
    clip: float = 5.0
    rounds: int = 3
    reserve: float = 0.2
    min_references: int = 5
    gauge_pixels: float = 1.0


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``visit_wcs`` of a tract: one row per (visit, detector) with stars enough for a fit; NoWork where it has no detection."""
    settings = quantum.settings(Settings)
    tract, sky = int(quantum.data_id["tract"]), skymap.load(quantum.data_id["skymap"])
    centre = (float(sky.tract_centre(tract)[0]), float(sky.tract_centre(tract)[1]))
    with duckdb.connect(config={"threads": 1}) as con:
        sources = read(con, inputs, centre, settings)
        inputs.relation(con, "reference_star")
        references = con.execute(statement("reference_positions")).fetchnumpy()
    rows = fit(sources, {k: np.ma.filled(v, np.nan) for k, v in references.items()}, centre, settings)
    columns = {"tract": [tract] * len(rows), "skymap": [sky.name] * len(rows)}
    columns |= {key: [row[key] for row in rows] for key in ROW}
    return {"visit_wcs": declared("visit_wcs", pa.table(columns).cast(_SCHEMA))}


ROW = ("visit", "detector", "band", "wcs", "nStar", "rms", "rms_reserved", "absolute")
_SCHEMA = pa.schema(
    [("tract", pa.int32()), ("skymap", pa.string()), ("visit", pa.int64()), ("detector", pa.int32()), ("band", pa.string()),
     ("wcs", pa.string()), ("nStar", pa.int32()), ("rms", pa.float64()), ("rms_reserved", pa.float64()), ("absolute", pa.bool_())]
)  # fmt: skip


def fit(sources: Sources, references: dict[str, Array], centre: tuple[float, float], settings: Settings) -> list[dict]:
    """The rows of ``visit_wcs`` but for tract and skymap, ordered by visit and detector."""
    sources = sources.select(sources.good)
    if not len(sources.source):
        raise NoWork("no star good enough for astrometry in this tract")
    sources, star, mean = _stars(sources, settings)
    reserved = cells.lot(cells.sky_cell(*mean, 60.0), salt=2) < settings.reserve
    problem = _problem(sources, star, mean, references, centre, settings)
    fitted = ~reserved[star]
    usable = fitted.copy()  # observations that are neither reserved nor clipped
    coefficients: Array | None = None
    for _ in range(settings.rounds):
        stars = np.bincount(problem.frame[usable], minlength=len(problem.prior))
        mask = allowed(stars, settings.order)
        current = replace(
            problem, terms=problem.terms * mask[problem.frame], weight=np.where(usable, problem.weight, 0.0),
            reference_weight=np.where(reserved, 0.0, problem.reference_weight),
        )  # fmt: skip
        group, tied = _gauge(current, settings)
        loose = ~tied[group[current.frame]]
        current = _with_gauge(current, np.unique(current.star[loose]), (settings.gauge_pixels * sources.scale) ** -2)
        coefficients = solve(current, coefficients)
        shifted = problem.position + np.einsum("jk,jkc->jc", current.terms, coefficients[problem.frame])
        # reserved stars have their own means: they test the maps without having shaped them
        means = replace(current, weight=np.where(usable | ~fitted, problem.weight, 0.0)).star_means(shifted)
        residual = shifted - means[star]
        usable = fitted & ~_outliers(residual, problem.weight, star, usable, settings.clip)
    assert coefficients is not None
    return _rows(sources, residual, usable, fitted, stars, coefficients * mask[:, :, None], group, tied, centre, settings)


def _stars(sources: Sources, settings: Settings) -> tuple[Sources, IntArray, tuple[Array, Array]]:
    """Detections of unambiguous stars, the star of each, and the stars' mean positions (deg)."""
    star = cells.group(sources.ra, sources.dec, settings.match_pixels * sources.scale)
    pair, repeats = np.unique(np.stack([star, sources.visit()]), axis=1, return_counts=True)
    single = np.ones(int(star.max()) + 1, bool)
    single[pair[0][repeats > 1]] = False
    keep = single[star]
    sources, (_, star) = sources.select(keep), np.unique(star[keep], return_inverse=True)
    mean = cells.mean_vectors(cells.unit_vectors(sources.ra, sources.dec), star, int(star.max(initial=-1)) + 1)
    return sources, star, cells.sky_positions(mean)


def _problem(
    sources: Sources, star: IntArray, mean: tuple[Array, Array], references: dict[str, Array],
    centre: tuple[float, float], settings: Settings,
) -> Problem:  # fmt: skip
    """All observations, brought to one epoch, against the reference stars at that epoch."""
    mjd = np.array([f["mjd_mid"] for f in sources.frames])
    epoch = float(np.median(mjd))
    stars = len(mean[0])
    reference, weight = np.zeros((stars, 2)), np.zeros(stars)
    ra, dec = sources.ra, sources.dec
    if len(references["ra"]):
        motion = (references["pm_ra"], references["pm_dec"], references["parallax"])
        place = _moved(references["ra"], references["dec"], *displacement(
            references["ra"], references["dec"], *motion, references["epoch"], np.full(len(references["ra"]), epoch)))  # fmt: skip
        own, known = _nearest(place, mean, settings.reference_pixels * sources.scale)
        reference[own] = 3600.0 * np.stack(project(place[0][known], place[1][known], *centre), axis=1)
        error = references["error"][known]
        weight[own] = 1.0 / (error**2 + (settings.floor_pixels * sources.scale) ** 2)
        match = np.full(stars, -1)
        match[own] = known
        moving = np.flatnonzero(match[star] >= 0)
        k, when = match[star[moving]], mjd[sources.frame[moving]]
        at = [references[c][k] for c in ("ra", "dec", "pm_ra", "pm_dec", "parallax", "epoch")]
        then, now = displacement(*at, np.full(len(k), epoch)), displacement(*at, when)
        ra, dec = ra.copy(), dec.copy()
        ra[moving], dec[moving] = _moved(ra[moving], dec[moving], then[0] - now[0], then[1] - now[1])
    position = 3600.0 * np.stack(project(ra, dec, *centre), axis=1)
    half = np.array([_size(f, sources) for f in sources.frames])[sources.frame] / 2.0
    terms = terms_of(sources.x / half[:, 0] - 1.0, sources.y / half[:, 1] - 1.0, settings.order)
    variance = (sources.variance + settings.floor_pixels**2) * sources.scale**2
    prior = np.full((len(sources.frames), terms.shape[1]), (settings.prior_pixels * sources.scale) ** -2)
    return Problem(sources.frame, star, terms, position, 1.0 / variance, reference, weight, prior)


def _moved(ra: Array, dec: Array, east: Array, north: Array) -> tuple[Array, Array]:
    """Positions (deg) displaced by arcsec."""
    return ra + east / 3600.0 / np.cos(np.radians(dec)), dec + north / 3600.0


def _nearest(place: tuple[Array, Array], mean: tuple[Array, Array], radius: float) -> tuple[IntArray, IntArray]:
    """Pairs (star, reference) that are each other's nearest, within ``radius`` arcsec."""
    a, b = cells.unit_vectors(*mean), cells.unit_vectors(*place)
    distance, index = cKDTree(b).query(a, distance_upper_bound=cells.chord(radius))
    back = cKDTree(a).query(b)[1]
    found = np.flatnonzero(np.isfinite(distance))
    mutual = found[back[index[found]] == found]
    return mutual, index[mutual]


def _size(frame: dict, sources: Sources) -> tuple[float, float]:
    """Imaging pixels (width, height) of a frame's detector; of an unknown camera, what its detections span."""
    try:
        detector = instrument.load(frame["instrument"]).detector(frame["detector"])
        return float(detector.width), float(detector.height)
    except instrument.InstrumentError:
        return float(np.ceil(sources.x.max()) + 1), float(np.ceil(sources.y.max()) + 1)


def _gauge(problem: Problem, settings: Settings) -> tuple[IntArray, Mask]:
    """The connected component of each frame, and which components the reference stars tie to the sky."""
    group = components(problem)
    counts = problem.reference_weight[problem.star] * problem.weight > 0
    known = np.unique(np.stack([group[problem.frame[counts]], problem.star[counts]]), axis=1)[0]
    return group, np.bincount(known, minlength=int(group.max()) + 1) >= settings.min_references


def _with_gauge(problem: Problem, stars: IntArray, weight: float) -> Problem:
    """Stars of components that nothing ties are given their preliminary mean positions, weakly, as references."""
    reference, weights = problem.reference.copy(), problem.reference_weight.copy()
    weights[stars] = 0.0
    free = replace(problem, reference_weight=weights)
    reference[stars] = free.star_means(problem.position)[stars]
    weights[stars] = np.where(np.isfinite(reference[stars, 0]), weight, 0.0)
    return replace(problem, reference=np.nan_to_num(reference), reference_weight=weights)


def _outliers(residual: Array, weight: Array, star: IntArray, usable: Mask, clip: float) -> Mask:
    """Observations beyond ``clip`` sigma in the scale of the bulk; of each star only the worst, for it drags the mean along."""
    size = np.sqrt(np.nan_to_num(np.sum(residual**2, axis=1) * weight))
    bulk = float(np.median(size[usable])) / np.sqrt(2.0 * np.log(2.0)) if usable.any() else 1.0
    far = np.flatnonzero(size > clip * max(bulk, 1e-12))
    order = far[np.lexsort((far, -size[far], star[far]))]
    worst = order[np.unique(star[order], return_index=True)[1]]
    found = np.zeros(len(size), bool)
    found[worst] = True
    return found | (~usable & (size > clip * bulk))


def _rows(
    sources: Sources, residual: Array, usable: Mask, fitted: Mask, stars: IntArray, coefficients: Array, group: IntArray,
    tied: Mask, centre: tuple[float, float], settings: Settings,
) -> list[dict]:  # fmt: skip
    """One row per frame that had stars for at least a shift."""
    squares = np.mean(np.nan_to_num(residual) ** 2, axis=1)
    rms = [_frame_rms(sources.frame, squares, which, len(stars)) for which in (usable, ~fitted)]
    rows = []
    for f in np.flatnonzero(stars >= STARS_NEEDED[0]):
        frame = sources.frames[f]
        preliminary = SkyWcs.from_json(frame["wcs"])
        wcs = corrected(preliminary, sources.maps[f], coefficients[f], _size(frame, sources), centre, settings.order)
        rows.append(
            {
                "visit": frame["visit"], "detector": frame["detector"], "band": frame["band"], "wcs": wcs.to_json(),
                "nStar": int(stars[f]), "rms": float(rms[0][f]),
                "rms_reserved": None if np.isnan(rms[1][f]) else float(rms[1][f]), "absolute": bool(tied[group[f]]),
            }
        )  # fmt: skip
    return rows


def _frame_rms(frame: IntArray, squares: Array, which: Mask, frames: int) -> Array:
    count = np.bincount(frame[which], minlength=frames)
    return np.sqrt(np.bincount(frame[which], squares[which], frames) / np.where(count > 0, count, np.nan))


def corrected(
    wcs: SkyWcs, affine: Array, coefficients: Array, size: tuple[float, float], centre: tuple[float, float], order: int
) -> SkyWcs:
    """The WCS of a detector of ``size`` pixels: the preliminary one, its registration (arcsec in the tangent plane at
    ``centre``), and the correction with ``coefficients`` (K, 2), arcsec; written as one TAN-SIP through a grid of pixels."""
    grid = np.meshgrid(np.linspace(0.0, size[0] - 1.0, 9), np.linspace(0.0, size[1] - 1.0, 9))
    x, y = grid[0].ravel(), grid[1].ravel()
    plane = 3600.0 * np.stack(project(*wcs.pixel_to_sky(x, y), *centre), axis=1)
    terms = terms_of(2.0 * x / size[0] - 1.0, 2.0 * y / size[1] - 1.0, order)
    plane = transform(affine, plane) + np.einsum("jk,kc->jc", terms, coefficients)
    ra, dec = deproject(plane[:, 0] / 3600.0, plane[:, 1] / 3600.0, *centre)
    middle = ((size[0] - 1.0) / 2.0, (size[1] - 1.0) / 2.0)
    return fit_tan_sip(x, y, ra, dec, (float(ra[40]), float(dec[40])), middle, max(order, wcs.order, 1))
