"""A synthetic detector for the tests of step 1: its own small simulator, so that step 1 is not judged by the one of the project."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import fitsio
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import erf

import schemas
from pipelines import instrument
from pipelines.image import MASK, Image
from pipelines.quantum import DatasetRef, Inputs, Quantum
from pipelines.step1 import calibrate, isr
from pipelines.wcs import SkyWcs

CAMERA = instrument.load("DemoCam")
DETECTOR = CAMERA.detector(5)
SIDE = 400
EXPOSURE, MJD, SECONDS, AIRMASS = 26010100001, 61041.2, 300.0, 1.2
DATA_ID = {"instrument": "DemoCam", "exposure": EXPOSURE, "visit": EXPOSURE, "detector": 5}
FILTER = "r_demo"
NOMINAL_ZERO_POINT = CAMERA.filters[FILTER].nominal_zero_point(SECONDS, AIRMASS)


def draw(x: np.ndarray, y: np.ndarray, flux: np.ndarray, fwhm: np.ndarray | float, half: int = 20) -> np.ndarray:
    """Stars integrated over pixels (SIDE, SIDE): 0.85 of a round Gaussian of ``fwhm`` and 0.15 of one twice as wide."""
    image = np.zeros((SIDE + 2 * half + 40, SIDE + 2 * half + 40))
    off = half + 20
    for xi, yi, fi, wi in zip(x, y, flux, np.broadcast_to(fwhm, x.shape), strict=True):
        cx, cy = round(float(xi)), round(float(yi))
        edges = np.arange(-half, half + 2) - 0.5
        for part, width in ((0.85, 1.0), (0.15, 2.0)):
            s = np.sqrt(2.0) * width * wi / 2.3548
            px, py = (0.5 * np.diff(erf((edges + c - v) / s)) for c, v in ((cx, xi), (cy, yi)))
            box = image[cy - half + off : cy + half + 1 + off, cx - half + off : cx + half + 1 + off]
            box += part * fi * py[:, None] * px[None, :]
    return image[off : off + SIDE, off : off + SIDE]


@dataclass
class Scene:
    """What is on the sky and in the camera. ``shift`` (pixels) and ``turn`` (deg): by how much the pointing was missed."""

    seed: int = 1
    stars: int = 450
    fwhm: float = 2.6
    sky: float = 1500.0
    zero_point: float = NOMINAL_ZERO_POINT - 0.3
    shift: tuple[float, float] = (3.7, -2.4)
    turn: float = 0.05
    cosmic_rays: int = 15
    epoch: float = MJD
    x: np.ndarray = field(init=False)
    y: np.ndarray = field(init=False)
    flux: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        self.x, self.y = rng.uniform(-8, SIDE + 8, (2, self.stars))
        self.flux = np.minimum(3000.0 * rng.uniform(0, 1, self.stars) ** -1.2, 4e5)
        self.x[0], self.y[0], self.flux[0] = 50.3, 330.6, 4e6  # this one saturates, and bleeds
        self.rng = rng

    @property
    def nominal(self) -> SkyWcs:
        return CAMERA.nominal_wcs(150.0, 2.0, 30.0, 5)

    def sky_position(self, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """True sky position of pixels: the nominal WCS, missed by shift and turn, and a little bent."""
        u, v = x - 199.5, y - 199.5
        c, s = np.cos(np.radians(self.turn)), np.sin(np.radians(self.turn))
        bend = 0.4 * (u / 200) ** 2
        return self.nominal.pixel_to_sky(199.5 + c * u - s * v + self.shift[0] + bend, 199.5 + s * u + c * v + self.shift[1])

    def light(self) -> np.ndarray:
        """Electrons of the stars, before noise; the PSF is 6 % wider at the right edge than at the left."""
        return draw(self.x, self.y, self.flux, self.fwhm * (1.0 + 0.06 * (self.x / SIDE - 0.5)))


@dataclass
class Camera:
    """Masters and truth of what the camera did."""

    bias: np.ndarray
    dark: np.ndarray
    flat: np.ndarray
    defects: np.ndarray
    cosmic: np.ndarray
    electrons: np.ndarray


def expose(scene: Scene, root: Path) -> Camera:
    """Write raw and master frames of a scene below ``root``; returns what went in."""
    rng = scene.rng
    yy, xx = np.mgrid[0:SIDE, 0:SIDE] / SIDE
    bias = 3.0 * np.sin(8 * xx) + 2.0 * yy
    dark = 0.02 + 0.03 * yy
    flat = (1.0 - 0.15 * ((xx - 0.4) ** 2 + (yy - 0.5) ** 2)) * rng.normal(1.0, 0.01, (SIDE, SIDE))
    defects = np.zeros((SIDE, SIDE), bool)
    defects[:, 77], defects[120:124, 300:303] = True, True
    flat[200, 200] = 0.01
    electrons = scene.light() + scene.sky
    charge = rng.poisson(electrons * flat + dark * DETECTOR.gain * SECONDS).astype(float)
    charge[defects] += 3e4
    cosmic = np.zeros_like(charge)
    for _ in range(scene.cosmic_rays):
        x0, y0, angle, length = rng.uniform(20, 380), rng.uniform(20, 380), rng.uniform(0, np.pi), rng.uniform(1, 10)
        steps = np.arange(0, length, 0.2)
        rows, columns = (y0 + steps * np.sin(angle)).astype(int), (x0 + steps * np.cos(angle)).astype(int)
        np.add.at(cosmic, (rows, columns), 0.2 * rng.uniform(600, 4000))
    charge += cosmic
    _bleed(charge, DETECTOR.gain * 59500.0)
    level = 1000.0 + np.linspace(0, 4, SIDE)[:, None]
    raw = np.empty(DETECTOR.raw_shape)
    noise = rng.normal(0, DETECTOR.read_noise / DETECTOR.gain, raw.shape)
    raw[:, :SIDE], raw[:, SIDE:] = charge / DETECTOR.gain + bias + level, level
    raw = np.clip(np.rint(raw + noise), 0, 65535).astype(np.uint16)
    header = {
        "EXPID": EXPOSURE, "DAYOBS": 20260101, "SEQNUM": 1, "DETECTOR": 5, "FILTER": FILTER, "IMGTYPE": "science",
        "OBJECT": "test", "EXPTIME": SECONDS, "MJD-MID": MJD, "RA": 150.0, "DEC": 2.0, "ROTPA": 30.0, "AIRMASS": AIRMASS,
    }  # fmt: skip
    fitsio.write(str(root / "raw.fits"), raw, header=[{"name": k, "value": v} for k, v in header.items()], clobber=True)
    for name, values in (("bias", bias), ("dark", dark), ("flat", flat), ("defects", np.zeros_like(bias))):
        mask = np.where(defects, MASK["BAD"], 0) if name == "defects" else np.zeros_like(bias)
        write_master(root, name, values, mask)
    return Camera(bias, dark, flat, defects, cosmic, electrons)


def _bleed(charge: np.ndarray, full: float) -> None:
    """Charge above the full well runs along its column, both ways."""
    for column in np.flatnonzero((charge > full).any(axis=0)):
        for row in np.flatnonzero(charge[:, column] > full):
            excess = charge[row, column] - full
            charge[row, column] = full
            for cells in (charge[row + 1 :, column], charge[:row, column][::-1]):
                left = 0.5 * excess
                for i in range(len(cells)):
                    room = max(full - cells[i], 0.0)
                    cells[i] += min(room, left)
                    left -= min(room, left)
                    if left <= 0:
                        break


def write_master(root: Path, name: str, values: np.ndarray, mask: np.ndarray) -> None:
    """A master frame below ``root``."""
    path = root / f"{name}.fits"
    path.unlink(missing_ok=True)
    zero = np.zeros(values.shape, np.float32)
    Image(values.astype(np.float32), zero, mask.astype(np.int16), meta={"BUNIT": "adu"}).write(path)


def write_references(scene: Scene, root: Path, limit: float = 17.0, motion: float = 0.0) -> int:
    """Reference stars of the scene's stars brighter than ``limit``, good to 20 mmag; proper ``motion`` mas/yr in both."""
    rng = np.random.default_rng(99)
    ra, dec = scene.sky_position(scene.x, scene.y)
    mag = scene.zero_point - 2.5 * np.log10(scene.flux)
    keep = np.flatnonzero(mag < limit)
    years = (scene.epoch - MJD) / 365.25
    n = len(keep)
    columns = {
        "skymap": ["demo_rings"] * n, "reference_id": keep,
        "coord_ra": ra[keep] + motion * years / 3.6e6 / np.cos(np.radians(dec[keep])),
        "coord_dec": dec[keep] + motion * years / 3.6e6, "coord_raErr": np.full(n, 2e-6), "coord_decErr": np.full(n, 2e-6),
        "pm_ra": np.full(n, motion), "pm_dec": np.full(n, motion), "epoch": np.full(n, scene.epoch),
        "r_mag": mag[keep] + rng.normal(0, 0.02, n), "r_magErr": np.full(n, 0.02),
    }  # fmt: skip
    full = schemas.conform("reference_star", pa.table({"site": ["A"] * n, "tract": [7] * n, **columns}))
    path = root / "tables/site=A/tract=7/stars.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(full.drop_columns(["site", "tract"]), path)
    return n


def inputs(root: Path, *, without: tuple[str, ...] = (), references: int = 0) -> Inputs:
    """Inputs from the files that expose() and write_references() left below ``root``."""
    refs = {
        name: [DatasetRef(name, name, DATA_ID, f"{name}.fits")]
        for name in ("raw", "bias", "dark", "flat", "defects", "post_isr_image")
        if name not in without and (root / f"{name}.fits").exists()
    }
    if references:
        sky_id = {"skymap": "demo_rings", "tract": 7}
        path = "tables/site=A/tract=7/stars.parquet"
        refs["reference_star"] = [DatasetRef("r", "reference_star", sky_id, path, rows=references)]
    return Inputs(root, refs)


def run_isr(root: Path, **config: float) -> Image:
    """The post_isr_image of the frames below ``root``; also left there."""
    image = isr.run(Quantum("q", "isr", DATA_ID, config), inputs(root))["post_isr_image"]
    assert isinstance(image, Image)
    (root / "post_isr_image.fits").unlink(missing_ok=True)
    image.write(root / "post_isr_image.fits")
    return image


def run_calibrate(root: Path, references: int = 0, **config: float) -> tuple[Image, pa.Table, dict]:
    """Image, stars and the summary row from the post_isr_image below ``root``."""
    quantum = Quantum("q", "calibrate_image", DATA_ID, config)
    made = calibrate.run(quantum, inputs(root, references=references))
    image, stars, summary = (made[k] for k in ("preliminary_visit_image", "single_visit_star", "preliminary_detector_summary"))
    assert isinstance(image, Image) and isinstance(stars, pa.Table) and isinstance(summary, pa.Table)
    assert summary.num_rows == 1
    return image, stars, summary.to_pylist()[0]
