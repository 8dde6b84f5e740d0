"""A synthetic sky for the tests of step 2b: stars, visits with known WCSs, and what step 1 would have made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import schemas
from pipelines import instrument, skymap
from pipelines.quantum import Inputs
from pipelines.wcs import SkyWcs, fit_tan_sip

CAMERA = instrument.load("DemoCam")
MAP = skymap.load("demo_rings")


class TableInputs(Inputs):
    """Inputs that come from tables in memory, in whatever row order they have."""

    def __init__(self, tables: dict[str, pa.Table]) -> None:
        super().__init__(".", {})
        self.tables = tables

    def relation(self, con: duckdb.DuckDBPyConnection, dataset_type: str) -> duckdb.DuckDBPyRelation:
        con.register(dataset_type, self.tables.get(dataset_type, schemas.table(dataset_type).arrow.empty_table()))
        return con.table(dataset_type)


def shuffled(table: pa.Table, seed: int = 5) -> pa.Table:
    """The same rows in another order."""
    return table.take(np.random.default_rng(seed).permutation(table.num_rows))


def table(name: str, columns: dict[str, Any]) -> pa.Table:
    """Rows of a declared table; absent columns are null, ``site`` is filled."""
    rows = len(next(iter(columns.values())))
    return schemas.conform(name, pa.table({"site": ["A"] * rows, **columns}))


@dataclass
class Sky:
    """Stars (true ra, dec at the epoch of the visits) and the tables step 1 and 2a would have left; ``truth`` WCS by frame."""

    ra: np.ndarray
    dec: np.ndarray
    inputs: dict[str, pa.Table]
    truth: dict[tuple[int, int], SkyWcs]
    star_of_source: dict[int, int]


def perturbed(wcs: SkyWcs, rng: np.random.Generator, size: float, order: int = 2, side: int = 400) -> SkyWcs:
    """A WCS that is off by about ``size`` pixels, smoothly."""
    x, y = (g.ravel() for g in np.meshgrid(np.linspace(0, side - 1, 6), np.linspace(0, side - 1, 6)))
    u, v = 2 * x / side - 1, 2 * y / side - 1
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)[:, : (order + 1) * (order + 2) // 2]
    dx, dy = (terms @ rng.normal(0, size / 2, terms.shape[1]) for _ in range(2))
    ra, dec = wcs.pixel_to_sky(x + dx, y + dy)
    return fit_tan_sip(x, y, ra, dec, wcs.crval, wcs.crpix, 3)


def make(
    tracts: tuple[int, ...] = (9469,), visits: int = 12, density: float = 700.0, seed: int = 1, offset: float = 0.2,
    absolute: bool = True, references: bool = True, detectors: tuple[int, ...] = tuple(range(9)), pointing: float = 0.0,
    motion: float = 0.0,
) -> Sky:  # fmt: skip
    """Visits dithered over ``tracts``; ``offset`` pixels of error in the preliminary WCSs, ``pointing`` arcsec more per visit;
    ``motion`` mas/yr of proper motion of every tenth star, catalogue ten years before the visits."""
    rng = np.random.default_rng(seed)
    ra0, dec0 = (np.asarray(c, float) for c in MAP.tract_centre(np.array(tracts)))
    ra0 = np.where(ra0 - ra0[0] > 180, ra0 - 360, ra0)
    low, high = ra0.min() - 2.2, ra0.max() + 2.2
    area = (high - low) * 4.4
    n = int(density * area)
    ra, dec = rng.uniform(low, high, n), dec0.mean() + rng.uniform(-2.2, 2.2, n)
    apart = np.ones(n, bool)
    mag = 12.0 + 5.0 * rng.power(3.0, n)
    pm = np.where((np.arange(n) % 10 == 0)[:, None], rng.normal(0, 1, (n, 2)) * motion, 0.0)
    stars: list[dict] = []
    summaries: list[dict] = []
    truth: dict[tuple[int, int], SkyWcs] = {}
    belongs: dict[int, int] = {}
    bands = ("g", "r", "i")
    optics = rng.integers(0, 2**31)  # what the camera as built differs from its design, the same in every visit
    for k in range(visits):
        visit = 2026010100 + k
        mjd = 61041.0 + k
        centre = ra0[k % len(ra0)] + rng.uniform(-0.4, 0.4), dec0.mean() + rng.uniform(-0.4, 0.4)
        rotation = rng.normal(0, 0.02)
        band = bands[k % 3]
        off = rng.normal(0, pointing / 3600.0, 2) if k else np.zeros(2)
        for d in detectors:
            design = CAMERA.nominal_wcs(centre[0], centre[1], rotation, d)
            true = perturbed(design, np.random.default_rng([optics, d]), 1.0)
            wcs = perturbed(true, rng, offset)
            wcs = SkyWcs((wcs.crval[0] + off[0], wcs.crval[1] + off[1]), wcs.crpix, wcs.cd, wcs.order, wcs.a, wcs.b)
            truth[(visit, d)] = true
            now = ra + pm[:, 0] * 10.0 / 3.6e6 / np.cos(np.radians(dec)), dec + pm[:, 1] * 10.0 / 3.6e6
            near = np.flatnonzero(np.hypot((now[0] - true.crval[0] + 180) % 360 - 180, now[1] - true.crval[1]) < 0.45)
            x, y = true.sky_to_pixel(now[0][near], now[1][near])
            snr = np.minimum(10 ** (-0.4 * (mag[near] - 18.3)), 500.0) * rng.normal(1, 0.01, len(near))
            inside = (x > 1) & (x < 398) & (y > 1) & (y < 398) & (snr > 5)
            x, y, near, snr = x[inside], y[inside], near[inside], snr[inside]
            sigma = 1.2 / snr
            x, y = x + rng.normal(0, sigma), y + rng.normal(0, sigma)
            sky = wcs.pixel_to_sky(x, y)
            source = visit * 2**24 + d * 2**16 + np.arange(len(x))
            belongs |= dict(zip(source.tolist(), near.tolist(), strict=True))
            common = {
                "day_obs": 20260101, "instrument": "DemoCam", "band": band, "physical_filter": band + "_demo",
                "visit": visit, "detector": d,
            }  # fmt: skip
            stars.append(
                {
                    **common, "sourceId": source, "x": x, "y": y, "xErr": sigma, "yErr": sigma, "coord_ra": sky[0],
                    "coord_dec": sky[1], "instFlux": snr**2 * 10, "instFluxErr": snr * 10, "snr": snr,
                }
            )  # fmt: skip
            summaries.append(
                {
                    **common, "mjd_mid": mjd, "exposure_time": 30.0, "airmass": 1.2, "absolute": absolute,
                    "wcs": wcs.to_json(), "ra": wcs.crval[0] % 360, "dec": wcs.crval[1], "nSource": len(x), "nDetector": 9,
                }
            )  # fmt: skip
    parts = []
    for part in stars:
        rows = len(part["x"])
        parts.append(pa.table({k: (v if isinstance(v, np.ndarray) else [v] * rows) for k, v in part.items()}))
    star = pa.concat_tables(parts)
    for name, value in {"psf_candidate": False, "flag_saturated": False, "flag_edge": False, "flag_cosmic": False,
                        "flag_deblended": False, "flag_bad": False}.items():  # fmt: skip
        star = star.append_column(name, pa.array([value] * star.num_rows))
    star = star.set_column(star.column_names.index("xErr"), "xErr", star["xErr"].cast(pa.float32(), safe=False))
    star = star.set_column(star.column_names.index("yErr"), "yErr", star["yErr"].cast(pa.float32(), safe=False))
    star = star.set_column(star.column_names.index("snr"), "snr", star["snr"].cast(pa.float32(), safe=False))
    inputs = {
        "single_visit_star": table("single_visit_star", {c: star[c] for c in star.column_names}),
        "preliminary_visit_summary": table("preliminary_visit_summary", {c: [row[c] for row in summaries] for c in summaries[0]}),
    }
    if references:
        known = np.flatnonzero((mag < 15.5) & apart & (MAP.find_tract(ra % 360, dec) == tracts[0]))
        inputs["reference_star"] = table(
            "reference_star",
            {
                "tract": np.full(len(known), tracts[0]), "skymap": [MAP.name] * len(known), "reference_id": known,
                "coord_ra": (ra[known] + rng.normal(0, 0.01, len(known)) / 3600) % 360,
                "coord_dec": dec[known] + rng.normal(0, 0.01, len(known)) / 3600,
                "pm_ra": pm[known, 0], "pm_dec": pm[known, 1], "epoch": np.full(len(known), 61041.0 - 3652.5),
            },
        )  # fmt: skip
    return Sky(ra % 360, dec, inputs, truth, belongs)
