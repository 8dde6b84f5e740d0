"""A small synthetic sky for the tests of steps 4, 5 and 6: a few visits of one detector, their coadd, injected transients."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

import schemas
from pipelines import skymap
from pipelines.image import MASK, Image
from pipelines.pixel_map import PixelMap
from pipelines.psf import PsfModel
from pipelines.quantum import DatasetRef, Inputs
from pipelines.resample import carried_psf, resample
from pipelines.wcs import SkyWcs

TRACT = 9469  # crosses RA 0
SIZE = 400
SCALE = 5.0 / 3600.0
ZERO_POINT = 28.0
NJY = 10 ** ((31.4 - ZERO_POINT) / 2.5)
SKY_ELECTRONS = 400.0


def moffat_psf(fwhm: float, ellipticity: float, slope: float, seed: int, shape: tuple[int, int] = (SIZE, SIZE)) -> PsfModel:
    """An elliptical Moffat PSF (beta 3.5) whose width and shape change over the image."""
    half = 12
    dy, dx = np.mgrid[-half : half + 1, -half : half + 1]
    gx, gy = (g.ravel() for g in np.meshgrid(np.linspace(0, shape[1] - 1, 6), np.linspace(0, shape[0] - 1, 6)))
    angle = np.random.default_rng(seed).uniform(0, np.pi)
    stamps = []
    for x, y in zip(gx, gy, strict=True):
        u, v = x / shape[1] - 0.5, y / shape[0] - 0.5
        width = fwhm * (1 + slope * u + 0.5 * slope * v**2)
        alpha = width / (2 * np.sqrt(2 ** (1 / 3.5) - 1))
        e1, e2 = ellipticity * np.cos(2 * angle) + 0.02 * u, ellipticity * np.sin(2 * angle) + 0.02 * v
        r2 = ((1 - e1) * dx**2 + (1 + e1) * dy**2 - 2 * e2 * dx * dy) / alpha**2
        stamp = (1 + r2) ** -3.5
        stamps.append(stamp / stamp.sum())
    return PsfModel.through(np.array(stamps), gx, gy, 2, shape)


@dataclass
class Sources:
    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    flux: NDArray[np.float64]  # nJy


@dataclass
class Visit:
    number: int
    wcs: SkyWcs
    psf: PsfModel
    image: Image = field(init=False)


def detector_wcs(dx: float, dy: float, rotation: float) -> SkyWcs:
    """A detector near the tract's centre, moved by (dx, dy) pixels, slightly distorted."""
    c, s = np.cos(rotation) * SCALE, np.sin(rotation) * SCALE
    centre = (SIZE - 1) / 2
    ra, dec = skymap.load("demo_rings").tract_centre(TRACT)
    return SkyWcs((float(ra), float(dec)), (centre + dx, centre + dy), (-c, s, s, c), 2, (2e-6, 1e-6, -1e-6), (-1e-6, 2e-6, 1e-6))


def field_sources(seed: int, stars: int, galaxies: int, faint: float = 3e3, bright: float = 3e6) -> Sources:
    """Stars (flux ~ F^-1.6) and galaxies (clouds of 40 points) around the tract centre."""
    rng = np.random.default_rng(seed)
    ra0, dec0 = skymap.load("demo_rings").tract_centre(TRACT)
    reach = 0.6 * SIZE * SCALE

    def uniform(n: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return rng.uniform(-reach, reach, n), rng.uniform(-reach, reach, n)

    x, y = uniform(stars)
    flux = faint * (1 - rng.uniform(0, 1 - (faint / bright) ** 0.6, stars)) ** (-1 / 0.6)
    gx, gy = uniform(galaxies)
    gf = rng.uniform(3e4, 5e5, galaxies)
    spread = rng.uniform(1.0, 2.5, galaxies) * SCALE
    cloud = rng.normal(0, 1, (2, galaxies, 40))
    x = np.concatenate([x, (gx[:, None] + spread[:, None] * cloud[0]).ravel()])
    y = np.concatenate([y, (gy[:, None] + spread[:, None] * cloud[1]).ravel()])
    flux = np.concatenate([flux, np.repeat(gf / 40, 40)])
    return Sources(np.mod(float(ra0) + x, 360), float(dec0) + y, flux)


def render(shape: tuple[int, int], wcs: SkyWcs, psf: PsfModel, sources: Sources) -> NDArray[np.float64]:
    """Noiseless image in nJy."""
    x, y = wcs.sky_to_pixel(sources.ra, sources.dec)
    near = (x > -12) & (x < shape[1] + 12) & (y > -12) & (y < shape[0] + 12)
    stamps, x0, y0 = psf.rendered(x[near], y[near])
    pad, size = 40, psf.size
    plane = np.zeros((shape[0] + 2 * pad, shape[1] + 2 * pad))
    for stamp, flux, column, row in zip(stamps, sources.flux[near], x0 + pad, y0 + pad, strict=True):
        plane[row : row + size, column : column + size] += flux * stamp
    return plane[pad:-pad, pad:-pad]


def observe(visit: Visit, sources: Sources, extra: Sources | None = None) -> Image:
    """A calibrated visit image: photon noise of sources and sky, a dead column, a saturated core for bright stars."""
    rng = np.random.default_rng(1000 + visit.number)
    truth = render((SIZE, SIZE), visit.wcs, visit.psf, sources)
    if extra is not None:
        truth = truth + render((SIZE, SIZE), visit.wcs, visit.psf, extra)
    electrons = np.maximum(truth / NJY, 0) + SKY_ELECTRONS
    noisy = rng.normal(electrons, np.sqrt(electrons)) - SKY_ELECTRONS
    mask = np.zeros((SIZE, SIZE), np.int16)
    mask[electrons > 60000] |= MASK["SAT"]
    mask[:, 300] |= MASK["BAD"]
    noisy[:, 300] = 0
    meta: dict[str, str | float | int | bool] = {
        "instrument": "TestCam", "visit": visit.number, "detector": 4, "band": "r", "physical_filter": "r_test",
        "day_obs": 20260101, "mjd_mid": 61000.0 + visit.number, "exposure_time": 30.0, "airmass": 1.2, "BUNIT": "nJy",
        "zeroPoint": ZERO_POINT,
    }  # fmt: skip
    return Image((noisy * NJY).astype(np.float32), (electrons * NJY**2).astype(np.float32), mask, visit.wcs, visit.psf, meta)


def coadd(images: list[Image], psfs: list[PsfModel]) -> list[Image]:
    """Template patches: the mean of the resampled visits and of their PSFs, per patch of the tract."""
    sky = skymap.load("demo_rings")
    patches = []
    for patch in range(sky.patches_per_side**2):
        x0, y0, x1, y1 = (int(v) for v in sky.outer_box(patch))
        shape, wcs = (y1 - y0 + 1, x1 - x0 + 1), sky.patch_wcs(TRACT, patch)
        warps = [resample(image, wcs, shape) for image in images]
        good = np.array([(w.mask & (MASK["NO_DATA"] | MASK["BAD"])) == 0 for w in warps])
        if not good.any():
            continue
        # one weight per visit: weights that follow the sources' own photons would change the profiles of bright stars
        total = np.maximum(good.sum(0), 1)
        mean = np.where(good, [w.image for w in warps], 0).sum(0) / total
        noise = np.where(good, [w.variance for w in warps], 0).sum(0) / total**2
        empty = ~good.any(0)
        mask = np.where(empty, MASK["NO_DATA"], 0).astype(np.int16)
        mask[(np.array([w.mask & MASK["SAT"] for w in warps]) * good).any(0)] |= MASK["SAT"]
        gx, gy = (g.ravel() for g in np.meshgrid(np.linspace(0, shape[1] - 1, 5), np.linspace(0, shape[0] - 1, 5)))
        stamps = np.zeros((25, 25, 25))
        for image, psf in zip(images, psfs, strict=True):
            assert image.wcs is not None
            stamps += carried_psf(psf, PixelMap.between(wcs, image.wcs, (0, shape[1], 0, shape[0])), gx, gy, 25)
        patches.append(
            Image(
                np.where(empty, 0, mean).astype(np.float32), np.where(empty, np.inf, noise).astype(np.float32), mask, wcs,
                PsfModel.through(stamps / len(images), gx, gy, 2, shape), {"x0": x0, "y0": y0, "tract": TRACT, "patch": patch},
            )
        )  # fmt: skip
    return patches


def make_visits(fwhms: list[float]) -> list[Visit]:
    """Dithered, slightly rotated visits with the given seeing (pixels)."""
    rng = np.random.default_rng(7)
    return [
        Visit(
            n,
            detector_wcs(*rng.uniform(-20, 20, 2), rng.uniform(-0.05, 0.05)),
            moffat_psf(f, rng.uniform(0, 0.08), 0.06, n),
        )
        for n, f in enumerate(fwhms)
    ]


@dataclass
class Site:
    """A directory with datasets as a site has them, and Inputs over any of them."""

    root: Path
    refs: dict[str, list[DatasetRef]] = field(default_factory=dict)

    def put(self, dataset_type: str, payload: Image | pa.Table, **data_id: object) -> None:
        name = "_".join(str(data_id[key]) for key in sorted(data_id))
        if isinstance(payload, Image):
            path, rows = self.root / "files" / dataset_type / f"{name}.fits", None
            path.parent.mkdir(parents=True, exist_ok=True)
            payload.write(path)
        else:
            partition = schemas.table(dataset_type).partition_by
            folder = "/".join(f"{key}={'TEST' if key == 'site' else data_id[key]}" for key in partition)
            path, rows = self.root / "tables" / dataset_type / folder / f"{name}.parquet", payload.num_rows
            path.parent.mkdir(parents=True, exist_ok=True)
            pq.write_table(payload.drop_columns([c for c in partition if c in payload.column_names]), path)
        ref = DatasetRef(name, dataset_type, data_id, str(path.relative_to(self.root)), rows)
        self.refs.setdefault(dataset_type, []).append(ref)

    def inputs(self, *dataset_types: str, **data_id: object) -> Inputs:
        """Inputs of these types, those whose data ID does not contradict ``data_id``, in canonical order."""
        chosen = {
            name: sorted(
                (r for r in self.refs.get(name, []) if all(r.data_id.get(k, v) == v for k, v in data_id.items())),
                key=lambda r: [str(r.data_id[k]).zfill(20) for k in sorted(r.data_id)],
            )
            for name in dataset_types
        }
        return Inputs(self.root, chosen)
