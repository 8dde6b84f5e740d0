"""Fluxes on the coadds, injected transients and known variables against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from lake.query import Connection
from pipelines.accuracy import calibration
from pipelines.accuracy.figure import Figure
from pipelines.wcs import SkyWcs

SQL = Path(__file__).parent
Array = NDArray[np.float64]
#: Radius within which a source is the true one, in pixels of the detector.
RADIUS = 1.5
#: Pixels from the edge of a frame nearer than which nothing is claimed.
EDGE = 12.0
#: The reduced chi squared above which a light curve is variable, and that which a known variable must be expected to have.
VARIABLE, EXPECTED = 5.0, 15.0


def nanojansky(mag: Array) -> Array:
    """Flux of an AB magnitude in nJy."""
    return np.asarray(10 ** ((31.4 - mag) / 2.5))


def match(ra: Array, dec: Array, true_ra: Array, true_dec: Array, radius: float) -> NDArray[np.int64]:
    """Index of the nearest true position within ``radius`` (arcsec) of each position (degrees), -1 where there is none."""
    if not len(true_ra) or not len(ra):
        return np.full(len(ra), -1)
    tree = cKDTree(_vectors(true_ra, true_dec))
    distance, index = tree.query(_vectors(ra, dec), distance_upper_bound=2 * np.sin(np.radians(radius / 3600) / 2))
    return np.where(np.isfinite(distance), index, -1)


def _vectors(ra: Array, dec: Array) -> Array:
    a, d = np.radians(ra), np.radians(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


def _columns(con: Connection, sql: str, parameters: dict[str, Any] | None = None) -> dict[str, NDArray[Any]]:
    table = con.table(sql, parameters)
    return {name: table[name].to_numpy() for name in table.column_names}


def _scale(con: Connection) -> float:
    """Arcseconds per pixel of the camera, from the first true WCS."""
    found = con.table("SELECT wcs FROM truth_wcs ORDER BY visit, detector LIMIT 1")["wcs"].to_pylist()
    return SkyWcs.from_json(found[0]).pixel_scale


# -- coadds ------------------------------------------------------------------------------------------------------------


def coadd_fluxes(con: Connection, tracts: tuple[int, ...]) -> list[Figure]:
    """Median of (PSF flux / true flux - 1), in per cent, of truly isolated stars with S/N > 50 on the coadds, by band."""
    truth = _columns(
        con,
        "SELECT coord_ra, coord_dec, g_mag AS g, r_mag AS r, i_mag AS i, z_mag AS z FROM truth_star "
        "WHERE kind = 'star' AND isolated ORDER BY truthId",
    )
    seen = _columns(con, (SQL / "coadd_stars.sql").read_text(), {"tracts": list(tracts)})
    index = match(seen["coord_ra"], seen["coord_dec"], truth["coord_ra"], truth["coord_dec"], RADIUS * _scale(con))
    figures = []
    for band in sorted(set(seen["band"])):
        chosen = (index >= 0) & (seen["band"] == band)
        ratio = seen["flux"][chosen] / nanojansky(truth[band][index[chosen]]) - 1
        bias = 100 * float(np.median(ratio)) if len(ratio) else float("nan")
        figures.append(Figure(f"coadd PSF flux bias, {band}", "%", bias, int(chosen.sum()), 1.0))
    return figures or [Figure("coadd PSF flux bias", "%", float("nan"), 0, 1.0)]


# -- transients --------------------------------------------------------------------------------------------------------


def transients(con: Connection, tracts: tuple[int, ...]) -> list[Figure]:
    """Injected transients with S/N > 10 on a visit that are in ``dia_source`` of that visit; and how much else is there."""
    truth = _columns(
        con,
        "SELECT * FROM truth_transient WHERE list_contains($tracts::INTEGER[], tract) ORDER BY truthId",
        {"tracts": list(tracts)},
    )
    sources = _columns(
        con,
        "SELECT visit, diaSourceId, any_value(coord_ra) AS ra, any_value(coord_dec) AS dec FROM dia_source "
        "WHERE list_contains($tracts::INTEGER[], tract) AND NOT coalesce(flag_bad, false) GROUP BY ALL ORDER BY ALL",
        {"tracts": list(tracts)},
    )
    expected, found = 0, 0
    radius = RADIUS * _scale(con)
    frames = calibration.frames(con)
    for frame in frames:
        shown = _appearing(frame, truth)
        mine = sources["visit"] == frame["visit"]
        there = match(truth["coord_ra"][shown], truth["coord_dec"][shown], sources["ra"][mine], sources["dec"][mine], radius)
        expected, found = expected + len(there), found + int((there >= 0).sum())
    fraction = 100 * found / expected if expected else float("nan")
    visits = len({frame["visit"] for frame in frames})
    return [
        Figure("transients with S/N > 10 found", "%", fraction, expected, 80.0, least=True),
        Figure("difference sources per visit", "source", len(sources["visit"]) / max(visits, 1), visits),
    ]


def _appearing(frame: dict[str, Any], truth: dict[str, NDArray[Any]]) -> NDArray[np.int64]:
    """Transients that shine on a frame with S/N > 10: point source of true flux over the frame's own noise.

    S/N = F / sqrt(F + 4 pi sigma^2 n^2) in electrons, sigma the PSF's width and n the noise of a pixel.
    """
    with np.errstate(over="ignore", invalid="ignore"):  # far from the frame the distortion means nothing
        x, y = SkyWcs.from_json(frame["true_wcs"]).sky_to_pixel(truth["coord_ra"], truth["coord_dec"])
    flux = 10 ** ((frame["true_zero_point"] - truth["mag"]) / 2.5)
    snr = flux / np.sqrt(flux + 4 * np.pi * frame["psfSigma"] ** 2 * frame["skyNoise"] ** 2)
    lit = (truth["mjd_start"] <= frame["mjd_mid"]) & (frame["mjd_mid"] <= truth["mjd_end"])
    inside = (x > EDGE) & (x < frame["width"] - 1 - EDGE) & (y > EDGE) & (y < frame["height"] - 1 - EDGE)
    return np.flatnonzero(lit & inside & (snr > 10))


# -- variables ---------------------------------------------------------------------------------------------------------


def variables(con: Connection, tracts: tuple[int, ...]) -> list[Figure]:
    """Known variables whose light curves vary (reduced chi squared > 5), of those that truly do by enough to tell.

    A light curve is the forced fluxes of one object in one band; the expectation comes from the true amplitude and
    period at the times observed, with the errors as measured. And how many constant stars seem to vary.
    """
    truth = _columns(
        con,
        "SELECT kind, coord_ra, coord_dec, coalesce(amplitude, 0) AS amplitude, coalesce(period, 1) AS period, "
        "coalesce(phase, 0) AS phase, g_mag AS g, r_mag AS r, i_mag AS i, z_mag AS z, isolated FROM truth_star "
        "WHERE kind IN ('star', 'variable') ORDER BY truthId",
    )
    curves = _columns(con, (SQL / "light_curves.sql").read_text(), {"tracts": list(tracts)})
    index = match(curves["coord_ra"], curves["coord_dec"], truth["coord_ra"], truth["coord_dec"], RADIUS * _scale(con))
    matched = np.flatnonzero(index >= 0)
    if not len(matched):
        return [Figure("known variables seen to vary", "%", float("nan"), 0, 80.0, least=True)]
    index, curves = index[matched], {name: values[matched] for name, values in curves.items()}
    _, light_curve = np.unique(
        np.array([f"{o}|{b}" for o, b in zip(curves["objectId"], curves["band"], strict=True)]), return_inverse=True
    )
    mag = np.zeros(len(index))
    for band in "griz":
        mag = np.where(curves["band"] == band, truth[band][index], mag)
    phase = 2 * np.pi * ((curves["mjd"] - 60000.0) / truth["period"][index] + truth["phase"][index])
    true_flux = nanojansky(mag + truth["amplitude"][index] * np.sin(phase))
    seen, count = _reduced_chi2(curves["flux"], curves["err"], light_curve)
    should, _ = _reduced_chi2(true_flux, curves["err"], light_curve)
    first = np.unique(light_curve, return_index=True)[1]
    variable = (truth["kind"][index[first]] == "variable") & (count >= 3)
    tellable = variable & (should > EXPECTED)
    constant = (truth["kind"][index[first]] == "star") & truth["isolated"][index[first]] & (count >= 3)
    return [
        Figure("known variables seen to vary", "%", _percent(seen[tellable] > VARIABLE), int(tellable.sum()), 80.0, least=True),
        Figure("constant stars that seem to vary", "%", _percent(seen[constant] > VARIABLE), int(constant.sum())),
    ]


def _reduced_chi2(flux: Array, err: Array, group: NDArray[np.int64]) -> tuple[Array, Array]:
    """Chi squared per degree of freedom about the weighted mean of each group, and the number of its points."""
    weight = 1 / err**2
    count = np.bincount(group).astype(float)
    mean = np.bincount(group, weight * flux) / np.bincount(group, weight)
    chi2 = np.bincount(group, weight * (flux - mean[group]) ** 2)
    return chi2 / np.maximum(count - 1, 1), count


def _percent(flags: NDArray[np.bool_]) -> float:
    return 100 * float(flags.mean()) if len(flags) else float("nan")
