"""Fluxes at known positions, and their units.

Fluxes are nJy on the AB scale: f = 10^((31.4 - m) / 2.5). An image in electrons with zero point Z
(m = Z - 2.5 log10 electrons) becomes nJy by the factor ``nanojansky_per_electron(Z)``.

Forced PSF photometry: with the PSF P at the position and data d of variance v, over the usable pixels,
f = sum(P d) / sum(P^2), var f = sum(P^2 v) / sum(P^2)^2. Pixels are not weighted by v, which holds the source's own
photons: a weighted sum would make the answer depend on brightness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

import schemas
from pipelines.boxes import Boxes
from pipelines.image import MASK, UNUSABLE, Image
from pipelines.quantum import Quantum
from pipelines.wcs import SkyWcs, project

Array = NDArray[np.float64]

AB_ZERO_POINT = 31.4  # magnitude of 1 nJy

#: Fluxes are not given where less than this fraction of sum(P^2) falls on usable pixels, and flagged below the second.
_LEAST_COVERAGE, _GOOD_COVERAGE = 0.1, 0.6


def nanojansky_per_electron(zero_point: ArrayLike) -> Array:
    """nJy of one electron where mag_AB = zero_point - 2.5 log10(electrons)."""
    return np.asarray(10.0 ** ((AB_ZERO_POINT - np.asarray(zero_point, float)) / 2.5))


def magnitude(flux: ArrayLike) -> Array:
    """AB magnitude of a flux in nJy; NaN where it is not positive."""
    flux = np.asarray(flux, float)
    return np.asarray(AB_ZERO_POINT - 2.5 * np.log10(flux, out=np.full(flux.shape, np.nan), where=flux > 0))


@dataclass(frozen=True)
class PsfFluxes:
    """Per position (N,): ``flux`` and ``error`` in the units of the image (NaN where there is nothing to measure),
    ``coverage`` (fraction of sum(P^2) on usable pixels), ``chi2`` per degree of freedom of the fit over the core, and
    ``flag`` (edge, saturated, no data)."""

    flux: Array
    error: Array
    coverage: Array
    chi2: Array
    flag: NDArray[np.bool_]


def forced(image: Image, x: ArrayLike, y: ArrayLike, planes: int = UNUSABLE) -> PsfFluxes:
    """PSF fluxes of ``image`` (which needs a PSF) at pixel positions (N,); pixels with any of ``planes`` are left out."""
    if image.psf is None:
        raise ValueError("an image without a PSF has no PSF fluxes")
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    # Five widths hold all but 1e-5 of sum(P^2); the rest of the stamp would only cost time.
    half = int(np.ceil(5 * image.psf.width))
    stamps, x0, y0 = image.psf.rendered(x, y, half)
    boxes = Boxes(x0, y0, stamps.shape[-1], image.shape)
    data, variance, mask = boxes.take(image.image), boxes.take(image.variance), boxes.take(image.mask)
    usable = boxes.inside & ((mask & planes) == 0) & np.isfinite(data) & np.isfinite(variance)
    data, variance = np.where(usable, data, 0.0), np.where(usable, variance, 0.0)
    square = stamps**2
    whole, seen = square.sum(axis=(1, 2)), _sum(square, usable)
    coverage = seen / whole
    enough = coverage >= _LEAST_COVERAGE
    norm = np.where(enough, seen, np.nan)
    flux = _sum(stamps, data) / norm
    error = np.sqrt(_sum(square, variance)) / norm
    core = stamps > 0.1 * stamps.max(axis=(1, 2), keepdims=True)
    bright = core & usable & (variance > 0)
    residual = (data - flux[:, None, None] * stamps) ** 2 / np.where(bright, variance, 1.0)
    chi2 = _sum(residual, bright) / np.maximum(bright.sum(axis=(1, 2)) - 1, 1)
    saturated = (core & boxes.inside & ((mask & MASK["SAT"]) != 0)).any(axis=(1, 2))
    flag = ~(coverage >= _GOOD_COVERAGE) | saturated | ~np.isfinite(flux)
    return PsfFluxes(flux, error, coverage, chi2, flag)


def _sum(a: NDArray[Any], b: NDArray[Any]) -> Array:
    """Sum over each stamp (N,) of a product of stamps (N, n, n)."""
    return np.asarray(np.einsum("nij,nij->n", a, b))


def _unknown(n: int) -> PsfFluxes:
    nothing = np.full(n, np.nan)
    return PsfFluxes(nothing, nothing, np.zeros(n), nothing, np.ones(n, bool))


def forced_rows(
    name: str,
    quantum: Quantum,
    images: tuple[Image, Image | None],
    ids: tuple[str, NDArray[np.int64]],
    ra: Array,
    dec: Array,
) -> pa.Table:
    """Rows of the forced-source table ``name`` for the positions (N,) of named ids that fall on a detector.

    ``images`` are its visit image and difference image (None where there is none: null fluxes, flag_bad).
    """
    visit_image, difference = images
    if visit_image.wcs is None:
        raise ValueError("a visit image without a WCS cannot be measured at sky positions")
    on, x, y = on_image(visit_image.wcs, visit_image.shape, ra, dec)
    direct = forced(visit_image, x, y)
    different = forced(difference, x, y) if difference is not None else _unknown(len(on))
    meta = visit_image.meta
    return rows(
        name,
        len(on),
        {
            **{key: quantum.data_id[key] for key in ("tract", "skymap", "visit", "instrument")},
            **{key: meta[key] for key in ("detector", "band", "physical_filter")},
            "midpointMjdTai": float(meta["mjd_mid"]),
        },
        {
            ids[0]: ids[1][on],
            "psfFlux": direct.flux, "psfFluxErr": direct.error,
            "psfDiffFlux": different.flux, "psfDiffFluxErr": different.error,
            "flag_bad": direct.flag | different.flag,
        },
    )  # fmt: skip


def on_image(wcs: SkyWcs, shape: tuple[int, int], ra: Array, dec: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """Indices of the sky positions (N,) that fall on an image of ``shape`` (ny, nx), and their pixels x, y."""
    ny, nx = shape
    # most of a tract is elsewhere: a look at the tangent plane spares it the distortions
    centre = project(*wcs.pixel_to_sky((nx - 1) / 2, (ny - 1) / 2), *wcs.crval)
    xi, eta = project(ra, dec, *wcs.crval)
    reach = 0.6 * np.hypot(nx, ny) * wcs.pixel_scale / 3600.0
    near = np.flatnonzero(np.hypot(xi - centre[0], eta - centre[1]) < reach)
    x, y = wcs.sky_to_pixel(ra[near], dec[near])
    on = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    return near[on], x[on], y[on]


def rows(
    name: str, n: int, constant: Mapping[str, Any], columns: Mapping[str, NDArray[Any] | pa.Array | pa.ChunkedArray]
) -> pa.Table:
    """``n`` rows of a declared table without ``site``: values that all rows share, and columns (NaN becomes null)."""
    fields = [field for field in schemas.table(name).arrow if field.name != "site"]
    arrays = [
        pa.repeat(pa.scalar(constant[f.name], f.type), n) if f.name in constant
        else _arrow(columns[f.name], f.type)
        for f in fields
    ]  # fmt: skip
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _arrow(values: NDArray[Any] | pa.Array | pa.ChunkedArray, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, np.ndarray):
        return pa.array(values, kind, from_pandas=True)
    return values.cast(kind)
