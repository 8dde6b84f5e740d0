"""The tables of step 1: sources, and the one row that sums up the detector."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
from pipelines.step1.astrometry import Solution
from pipelines.step1.measure import Sources
from pipelines.step1.zero_point import ZeroPoint

#: Running numbers of a detector have 16 bits of the source id; of more sources, the brightest are kept.
MOST = 1 << 16
DIMENSIONS = ("day_obs", "instrument", "band", "physical_filter", "visit", "detector")


def star_table(sources: Sources, solution: Solution, meta: Mapping[str, Any]) -> pa.Table:
    """single_visit_star rows (no ``site``), by sourceId, which counts in order of y, x."""
    found = sources.photometry
    rows = np.arange(len(found.x))
    if len(rows) > MOST:
        rows = np.sort(np.argsort(-found.flux, kind="stable")[:MOST])
    ra, dec = solution.wcs.pixel_to_sky(found.x, found.y)
    number = np.zeros(len(found.x), np.int64)
    number[rows] = np.arange(len(rows))
    columns: dict[str, NDArray[Any]] = {
        "sourceId": int(meta["visit"]) * (1 << 24) + int(meta["detector"]) * (1 << 16) + number,
        "x": found.x, "y": found.y, "xErr": found.x_err, "yErr": found.y_err, "coord_ra": ra, "coord_dec": dec,
        "instFlux": found.flux, "instFluxErr": found.flux_err,
        "apFlux": sources.ap_flux, "apFluxErr": sources.ap_flux_err,
        "ixx": sources.moments[0], "iyy": sources.moments[1], "ixy": sources.moments[2], "snr": found.snr,
        "extendedness": sources.extended, "psf_candidate": sources.psf_star, "flag_saturated": sources.saturated,
        "flag_edge": sources.edge, "flag_cosmic": sources.cosmic, "flag_deblended": sources.blended,
        "flag_bad": sources.bad,
    }  # fmt: skip
    return _table("single_visit_star", {name: values[rows] for name, values in columns.items()}, len(rows), meta)


def detector_summary(
    sources: Sources, solution: Solution, zero_point: ZeroPoint, absolute: bool, meta: Mapping[str, Any]
) -> pa.Table:
    """The preliminary_detector_summary row (no ``site``)."""
    ny, nx = sources.image.shape
    x, y = 0.5 * (nx - 1), 0.5 * (ny - 1)
    ra, dec = solution.wcs.pixel_to_sky(x, y)
    depth = 5.0 * sources.noise * np.sqrt(sources.psf.area)
    row = {
        "psfSigma": sources.psf.width, "psfFwhm": sources.psf.fwhm(x, y) * solution.wcs.pixel_scale,
        "psfStarDeltaE1Median": _delta_e1(sources), "nPsfStar": int(sources.psf_star.sum()),
        "skyBg": sources.sky, "skyNoise": sources.noise,
        "zeroPoint": zero_point.value, "zeroPointErr": zero_point.error, "nPhotometricMatch": zero_point.stars,
        "nAstrometricMatch": len(solution.source), "astromOffsetStd": solution.rms, "absolute": absolute,
        "magLim": zero_point.value - 2.5 * np.log10(depth), "wcs": solution.wcs.to_json(),
        "ra": float(ra), "dec": float(dec), "nSource": len(sources.photometry.x),
    }  # fmt: skip
    return _table("preliminary_detector_summary", {name: np.array([value]) for name, value in row.items()}, 1, meta)


def _delta_e1(sources: Sources) -> float:
    """Median over the PSF stars of e1 = (ixx - iyy) / (ixx + iyy), star minus model; NaN without stars."""
    star = sources.psf_star
    (sxx, syy, _), (mxx, myy, _) = sources.moments, sources.psf_moments
    e1 = ((sxx - syy) / (sxx + syy) - (mxx - myy) / (mxx + myy))[star]
    e1 = e1[np.isfinite(e1)]
    return float(np.median(e1)) if len(e1) else float("nan")


def _table(name: str, columns: Mapping[str, NDArray[Any]], rows: int, meta: Mapping[str, Any]) -> pa.Table:
    """Columns with the data ID's, in declared order and type; NaN becomes null."""
    fields = [f for f in schemas.table(name).arrow if f.name != "site"]
    arrays = []
    for f in fields:
        values = np.full(rows, meta[f.name]) if f.name in DIMENSIONS else columns[f.name]
        arrays.append(pa.array(values, from_pandas=True).cast(f.type))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))
