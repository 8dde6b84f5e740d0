"""Rows of the ``object`` table from measured sources."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas
from pipelines import skymap
from pipelines.image import MASK, Image
from pipelines.step3.detect import Array
from pipelines.step3.fit import IntArray
from pipelines.step3.photometry import Photometry

BoolArray = NDArray[np.bool_]

#: Bands for which ``object`` has columns; their order decides ties for refBand.
BANDS = tuple(c.removesuffix("_psfFlux") for c in schemas.table("object").arrow.names if c.endswith("_psfFlux"))

#: A PSF flux is flagged when less than this part of sum(P**2) lies on valid pixels.
MIN_COVERAGE = 0.5
MIN_LIGHT = 1e-3  # below this part there is no flux at all
EDGE_REACH = 4  # pixels about a source that must have data


@dataclass(frozen=True)
class Sources:
    """Per source: position in patch pixels, index of its parent among the parents or -1, band of its position."""

    x: Array
    y: Array
    parent: IntArray
    is_parent: BoolArray
    band: list[str]
    extended: BoolArray

    @classmethod
    def none(cls) -> Sources:
        empty = np.zeros(0)
        return cls(empty, empty, empty.astype(np.int64), empty.astype(bool), [], empty.astype(bool))


def rows(
    data_id: Mapping[str, Any], coadds: Mapping[str, Image], sources: Sources, photometry: Mapping[str, Photometry]
) -> pa.Table:
    """The patch's slice of ``object``: declared columns without ``site``; bands without a coadd are null."""
    sky, tract, patch = skymap.load(data_id["skymap"]), int(data_id["tract"]), int(data_id["patch"])
    wcs = next(iter(coadds.values())).wcs
    assert wcs is not None
    count = len(sources.x)
    first = (tract << 40) + (patch << 32) + 1
    parents = first + int(np.count_nonzero(~sources.is_parent))
    ra, dec = wcs.pixel_to_sky(sources.x, sources.y)
    x0, y0, _, _ = (int(v) for v in sky.outer_box(patch))
    x, y = sources.x + x0, sources.y + y0
    inner = sky.inner_box(patch)
    in_patch = (x >= inner[0] - 0.5) & (x < inner[2] + 0.5) & (y >= inner[1] - 0.5) & (y < inner[3] + 0.5)
    names = list(coadds)
    reference = np.array([names.index(band) for band in sources.band])
    each = np.arange(count)

    def of_reference(values: list[NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(np.stack(values)[reference, each])

    saturated = [near(coadds[band].bad(MASK["SAT"]), sources.x, sources.y, 1, outside=False) for band in names]
    holes = [near(~np.isfinite(coadds[band].image), sources.x, sources.y, EDGE_REACH, outside=True) for band in names]
    columns: dict[str, Any] = {
        "tract": np.full(count, tract), "skymap": [data_id["skymap"]] * count, "patch": np.full(count, patch),
        "objectId": first + each, "parentObjectId": pa.array(parents + sources.parent, mask=sources.parent < 0),
        "coord_ra": ra, "coord_dec": dec, "x": x, "y": y, "refBand": sources.band,
        "refExtendedness": sources.extended.astype(np.float32),
        "detect_isPrimary": in_patch & sky.in_inner_region(tract, ra, dec) & ~sources.is_parent,
        "blendedness": of_reference([photometry[band].blendedness for band in names]).astype(np.float32),
        "flag_edge": of_reference(holes), "flag_saturated": of_reference(saturated),
    }  # fmt: skip
    for n, band in enumerate(names):
        flux = photometry[band]
        nothing = (flux.coverage < MIN_LIGHT) | ~np.isfinite(flux.psf_error)
        columns[f"{band}_psfFlux"] = pa.array(flux.psf_flux, mask=nothing)
        columns[f"{band}_psfFluxErr"] = pa.array(flux.psf_error, mask=nothing)
        columns[f"{band}_psfFlux_flag"] = (flux.coverage < MIN_COVERAGE) | nothing | saturated[n]
        columns[f"{band}_apFlux"] = pa.array(flux.aperture_flux, mask=nothing)
        columns[f"{band}_apFluxErr"] = pa.array(flux.aperture_error, mask=nothing)
    data = pa.table({"site": [""] * count, **columns})
    return schemas.conform("object", data).drop_columns(["site"])


def near(plane: BoolArray, x: Array, y: Array, reach: int, outside: bool) -> BoolArray:
    """Whether any pixel of ``plane`` within ``reach`` of (x, y) is true; beyond the edge it is ``outside``."""
    padded = np.pad(plane, reach, constant_values=outside)
    step = np.arange(2 * reach + 1)
    column = np.clip(np.floor(x + 0.5).astype(int), 0, plane.shape[1] - 1)
    row = np.clip(np.floor(y + 0.5).astype(int), 0, plane.shape[0] - 1)
    return np.asarray(padded[(row[:, None] + step)[:, :, None], (column[:, None] + step)[:, None, :]].any(axis=(1, 2)))
