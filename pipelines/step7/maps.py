"""survey_maps: one band's sky in HEALPix cells, over all sites: exposures, coverage and depth.

Fields of the map (healsparse, NEST): ``n_exposure`` detector images whose outline holds the cell's centre;
``depth_visits`` 5 sigma point-source depth (mag) that these should add up to by their own limits; ``depth`` what the
deep coadds really have; ``coverage`` part of the cell on which a coadd has data. Depths are UNSEEN where there is
nothing to tell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import duckdb
import healsparse
import hpgeom
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.image import Image
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.step7.config import MapConfig

Array = NDArray[np.float64]
Cells = NDArray[np.int64]

#: Zero point of fluxes in nJy.
NJY_ZERO_POINT = 31.4
FIELDS = [("n_exposure", "i4"), ("depth_visits", "f4"), ("depth", "f4"), ("coverage", "f4")]
OUTLINES = Path(__file__).with_name("outlines.sql")
FINER = 4  # the coadds are sampled at the centres of this many cells along each side of a map's cell


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``visit_detector_table`` and ``deep_coadd`` of one band to ``survey_map`` (bytes of a healsparse FITS file).

    NoWork when the band has neither exposures nor coadds.
    """
    config = MapConfig.read(quantum.config, quantum.task)
    with duckdb.connect(config={"threads": 1}) as con:
        inputs.relation(con, "visit_detector_table")
        detectors = con.sql(OUTLINES.read_text(), params={"band": quantum.data_id["band"]}).to_arrow_table()
    images = (Image.read(inputs.path(ref)) for ref in inputs.refs("deep_coadd"))
    cells, count, depth_visits = exposures(detectors, config.nside)
    coadd_cells, coverage, depth = coadd_depth(images, config.nside)
    everywhere = np.union1d(cells, coadd_cells)
    if not len(everywhere):
        raise NoWork(f"band {quantum.data_id['band']} has no exposure and no coadd")
    values = np.zeros(len(everywhere), FIELDS)
    values["depth_visits"] = values["depth"] = hpgeom.UNSEEN
    here = np.searchsorted(everywhere, cells)
    values["n_exposure"][here], values["depth_visits"][here] = count, depth_visits
    here = np.searchsorted(everywhere, coadd_cells)
    values["coverage"][here], values["depth"][here] = coverage, depth
    sky = healsparse.HealSparseMap.make_empty(config.nside_coverage, config.nside, dtype=FIELDS, primary="n_exposure")
    sky.update_values_pix(everywhere, values)
    return {"survey_map": as_bytes(sky)}


def exposures(detectors: pa.Table, nside: int) -> tuple[Cells, NDArray[np.int64], Array]:
    """Cells under the outlines (ra0, dec0 ... ra3, dec3, magLim): cells (N,) in order, exposures and joint depth (mag).

    Depths add as inverse squares of the limiting flux. A detector without a limit counts as an exposure only.
    """
    ra, dec = (np.stack([detectors[f"{axis}{n}"].to_numpy() for n in range(4)], axis=1) for axis in ("ra", "dec"))
    limit = 10.0 ** (-0.4 * (np.nan_to_num(detectors["magLim"].to_numpy().astype(float), nan=-np.inf) - NJY_ZERO_POINT))
    covered = [hpgeom.query_polygon(nside, ra[n], dec[n]) for n in range(len(ra))]
    if not covered:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    weight = np.repeat(limit**-2.0, [len(cells) for cells in covered])
    cells, at, count = np.unique(np.concatenate(covered), return_inverse=True, return_counts=True)
    total = np.bincount(at, weight)
    depth = np.full(len(cells), hpgeom.UNSEEN)
    depth[total > 0] = NJY_ZERO_POINT + 1.25 * np.log10(total[total > 0])
    return cells.astype(np.int64), count, depth


def coadd_depth(images: Iterable[Image], nside: int) -> tuple[Cells, Array, Array]:
    """Cells (N,) in order on which coadds (nJy, with WCS and PSF) have data, the part covered, and the depth (mag).

    Each coadd is sampled at the centres of FINER**2 cells in each cell; where patches overlap, samples are averaged.
    Depth is that of a point source at 5 sigma: 25 variance / sum(P**2) is the square of its flux.
    """
    samples: list[tuple[Cells, Array]] = []
    for image in images:
        if image.wcs is None or image.psf is None:
            raise ValueError("deep_coadd: an image has no WCS or no PSF")
        ny, nx = image.shape
        corners = image.wcs.pixel_to_sky([-0.5, nx - 0.5, nx - 0.5, -0.5], [-0.5, -0.5, ny - 0.5, ny - 0.5])
        fine = hpgeom.query_polygon(nside * FINER, *corners).astype(np.int64)
        x, y = image.wcs.sky_to_pixel(*hpgeom.pixel_to_angle(nside * FINER, fine))
        column = np.clip(np.floor(x + 0.5).astype(np.int64), 0, nx - 1)
        row = np.clip(np.floor(y + 0.5).astype(np.int64), 0, ny - 1)
        variance = image.variance[row, column].astype(float)
        good = np.isfinite(image.image[row, column]) & (variance > 0)
        area = float(image.psf.noise_area((nx - 1) / 2, (ny - 1) / 2)[0])
        samples.append((fine[good], 25.0 * area * variance[good]))
    if not samples:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
    fine, at, times = np.unique(np.concatenate([s[0] for s in samples]), return_inverse=True, return_counts=True)
    square = np.bincount(at, np.concatenate([s[1] for s in samples])) / times
    cells, at, times = np.unique(fine // FINER**2, return_inverse=True, return_counts=True)
    depth = NJY_ZERO_POINT - 1.25 * np.log10(np.bincount(at, square) / times)
    return cells, times / FINER**2, depth


def as_bytes(sky: healsparse.HealSparseMap) -> bytes:
    """The map as its FITS file; the same map gives the same bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "map.hs"
        sky.write(str(path))
        return path.read_bytes()
