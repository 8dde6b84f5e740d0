"""A small made-up sky for the tests of step 3: stars and galaxies seen by one-detector visits over one patch.

Shapes are sums of Gaussians, so every pixel value is exact; the PSF models given to the steps are exact as well, as
what is tested is what step 3 does with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from pipelines import skymap
from pipelines.image import Image
from pipelines.psf import PsfModel
from pipelines.quantum import DatasetRef, Inputs, Quantum
from pipelines.wcs import SkyWcs

SKYMAP, TRACT, PATCH = "demo_rings", 9470, 4
SIZE = 460  # detector pixels a side: the patch's 426 and some more


@dataclass(frozen=True)
class Sky:
    """Sources: ``ra``, ``dec`` (deg), ``flux`` (nJy, N), ``radius`` (Gaussian sigma in arcsec, 0 for stars)."""

    ra: np.ndarray
    dec: np.ndarray
    flux: np.ndarray
    radius: np.ndarray


@dataclass(frozen=True)
class Visit:
    """One exposure: PSF (Gaussian ``sigma``, pixels, growing by ``psf_slope`` across the detector), rotation (deg)."""

    visit: int
    band: str = "r"
    sigma: float = 1.15
    psf_slope: float = 0.0
    rotation: float = 0.0
    offset: tuple[float, float] = (0.0, 0.0)  # pixels
    zero_point: float = 27.0
    sky: float = 400.0  # electrons per pixel
    photometric: bool = True
    scale: float = 5.0  # arcsec per pixel


def random_sky(count: int, seed: int, galaxies: float = 0.0, flux: tuple[float, float] = (3e3, 3e6)) -> Sky:
    """Sources spread over the patch and a margin, fluxes with equal numbers per magnitude."""
    rng = np.random.default_rng(seed)
    sky = skymap.load(SKYMAP)
    wcs = sky.patch_wcs(TRACT, PATCH)
    ra, dec = wcs.pixel_to_sky(rng.uniform(-15, 440, count), rng.uniform(-15, 440, count))
    fluxes = np.exp(rng.uniform(np.log(flux[0]), np.log(flux[1]), count))
    radius = np.where(rng.random(count) < galaxies, rng.uniform(5.0, 10.0, count), 0.0)
    return Sky(ra, dec, fluxes, radius)


def detector_wcs(visit: Visit, size: int = SIZE) -> SkyWcs:
    """A mildly distorted WCS centred on the patch."""
    centre = skymap.load(SKYMAP).patch_wcs(TRACT, PATCH).pixel_to_sky(212.5 + visit.offset[0], 212.5 + visit.offset[1])
    angle, scale = np.radians(visit.rotation), visit.scale / 3600.0
    c, s = scale * np.cos(angle), scale * np.sin(angle)
    return SkyWcs((float(centre[0]), float(centre[1])), ((size - 1) / 2, (size - 1) / 2), (-c, s, s, c), 2,
                  (2e-6, -1e-6, 1e-6), (1e-6, 2e-6, -1e-6))  # fmt: skip


def expose(sky: Sky, visit: Visit, seed: int | None = None, size: int = SIZE) -> Image:
    """The visit's preliminary image in electrons, without noise if ``seed`` is None."""
    wcs = detector_wcs(visit, size)
    x, y = wcs.sky_to_pixel(sky.ra, sky.dec)
    electrons = sky.flux * 10.0 ** (0.4 * (visit.zero_point - 31.4))
    width = np.hypot(visit.sigma * (1.0 + visit.psf_slope * (x / (size - 1) - 0.5)), sky.radius / visit.scale)
    model = np.zeros((size, size))
    paint(model, x, y, electrons, width)
    variance = np.maximum(model, 0) + visit.sky
    image = model if seed is None else np.random.default_rng(seed).normal(model, np.sqrt(variance))
    meta = {"visit": visit.visit, "detector": 0, "band": visit.band, "BUNIT": "electron"}
    return Image(image.astype(np.float32), variance.astype(np.float32), np.zeros((size, size), np.int16), wcs,
                 gaussian_psf(visit.sigma, visit.psf_slope, (size, size)), meta)  # fmt: skip


def paint(image: np.ndarray, x: np.ndarray, y: np.ndarray, flux: np.ndarray, sigma: np.ndarray, half: int = 20) -> None:
    """Add round Gaussians, sampled at pixel centres."""
    ny, nx = image.shape
    offset = np.arange(-half, half + 1)
    for n in np.flatnonzero((x > -half) & (x < nx + half) & (y > -half) & (y < ny + half)):
        column, row = int(np.round(x[n])) + offset, int(np.round(y[n])) + offset
        gx = np.exp(-0.5 * ((column - x[n]) / sigma[n]) ** 2)
        gy = np.exp(-0.5 * ((row - y[n]) / sigma[n]) ** 2)
        cx, cy = (column >= 0) & (column < nx), (row >= 0) & (row < ny)
        stamp = flux[n] / (2 * np.pi * sigma[n] ** 2) * np.outer(gy[cy], gx[cx])
        image[np.ix_(row[cy], column[cx])] += stamp


def gaussian_psf(sigma: float, slope: float, shape: tuple[int, int], size: int = 25) -> PsfModel:
    """A Gaussian whose width grows linearly with x by ``slope`` across the image, as a model of order 2."""
    offset = np.arange(size) - size // 2
    r2 = offset[:, None] ** 2 + offset**2

    def stamp(u: float) -> np.ndarray:
        width = sigma * (1.0 + 0.5 * slope * u)
        profile = np.exp(-0.5 * r2 / width**2)
        return profile / profile.sum()

    low, middle, high = stamp(-1.0), stamp(0.0), stamp(1.0)
    zero = np.zeros_like(middle)
    return PsfModel(np.stack([middle, 0.5 * (high - low), zero, 0.5 * (high + low) - middle, zero, zero]), 2, shape)


def summary_row(visit: Visit, wcs: SkyWcs, **changes: object) -> dict[str, object]:
    """The visit_summary row of the detector."""
    row: dict[str, object] = {
        "site": "HERE", "day_obs": 20260101, "instrument": "Cam", "band": visit.band,
        "physical_filter": f"{visit.band}_demo", "visit": visit.visit, "detector": 0,
        "mjd_mid": 61000.0 + visit.visit, "exposure_time": 30.0, "photometric": visit.photometric,
        "zeroPoint": visit.zero_point, "zeroPointErr": 0.001, "photo_source": "global",
        "wcs": wcs.to_json(), "wcs_source": "fit", "absolute": True, "ra": wcs.crval[0], "dec": wcs.crval[1],
    }  # fmt: skip
    row |= {f"{axis}{n}": 0.0 for axis in ("ra", "dec") for n in range(4)}
    return row | changes


def warp_inputs(root: Path, visit: Visit, image: Image, **changes: object) -> tuple[Quantum, Inputs]:
    """The quantum of make_warp for this visit and its inputs on disk."""
    assert image.wcs is not None
    file = Path("files") / f"{visit.visit}.fits"
    (root / "files").mkdir(parents=True, exist_ok=True)
    image.write(root / file)
    ids = {"instrument": "Cam", "visit": visit.visit, "band": visit.band, "day_obs": 20260101}
    table = table_ref(root, "visit_summary", [summary_row(visit, image.wcs, **changes)], ids)
    image_type = "preliminary_visit_image"
    refs = {
        image_type: [DatasetRef(f"p{visit.visit}", image_type, ids | {"detector": 0}, str(file))],
        "visit_summary": [table],
    }
    data_id = {"instrument": "Cam", "visit": visit.visit, "skymap": SKYMAP, "tract": TRACT, "patch": PATCH}
    return Quantum(f"w{visit.visit}", "make_warp", data_id), Inputs(root, refs)


def table_ref(root: Path, table: str, rows: Sequence[dict[str, object]], ids: dict[str, object]) -> DatasetRef:
    """Rows of a catalogue table as one dataset, written where the lake would put them."""
    schema = schemas.table(table)
    data = schemas.conform(table, pa.Table.from_pylist(list(rows), schema=schema.arrow))
    partition = "/".join(f"{key}={data[key][0].as_py()}" for key in schema.partition_by)
    name = "-".join(str(v) for v in ids.values())
    path = Path("tables/catalogues") / table / partition / f"{name}.parquet"
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(data.select(schema.payload.names), root / path)
    return DatasetRef(f"{table}{name}", table, ids, str(path), rows=data.num_rows)


def image_inputs(root: Path, dataset_type: str, images: Sequence[Image]) -> Inputs:
    """Images (of one dataset type) on disk as inputs, data IDs taken from their meta."""
    (root / "files").mkdir(parents=True, exist_ok=True)
    refs = []
    for n, image in enumerate(images):
        path = Path("files") / f"{dataset_type}-{n}.fits"
        image.write(root / path)
        ids = {key: image.meta[key] for key in ("visit", "band", "skymap", "tract", "patch") if key in image.meta}
        refs.append(DatasetRef(f"{dataset_type}{n}", dataset_type, ids, str(path)))
    return Inputs(root, {dataset_type: refs})


def coadd_quantum(band: str, **config: object) -> Quantum:
    return Quantum("c", "assemble_coadd", {"band": band, "skymap": SKYMAP, "tract": TRACT, "patch": PATCH}, config)


def with_band(visits: Sequence[Visit], band: str, first: int) -> list[Visit]:
    return [replace(v, band=band, visit=first + n) for n, v in enumerate(visits)]
