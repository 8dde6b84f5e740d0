"""A synthetic photometric survey for the tests of step 2c: what steps 2a and 2b would have left, with true zero points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from step2b_sky import table

from pipelines import instrument
from pipelines.quantum import Inputs
from pipelines.wcs import project

CAMERA = instrument.load("DemoCam")
PIVOT = CAMERA.reference_colour
NAMES = ("isolated_star", "isolated_star_association", "preliminary_visit_summary", "reference_star")


@dataclass
class Survey:
    """``tables`` by dataset type; ``truth``: (visit, detector) -> zero point for a star of the reference colour;
    ``cloudy``: visits under clouds; ``magnitudes`` (N, 3): natural g, r, i of star id = row."""

    tables: dict[str, pa.Table]
    truth: dict[tuple[int, int], float]
    cloudy: set[int]
    magnitudes: np.ndarray

    def connect(self, threads: int = 1, shuffle: int | None = None) -> duckdb.DuckDBPyConnection:
        """The tables as views, rows shuffled on demand."""
        con = duckdb.connect(config={"threads": threads})
        for name, rows in self.tables.items():
            if shuffle is not None:
                rows = rows.take(np.random.default_rng(shuffle).permutation(rows.num_rows))
            con.register(name, rows)
        return con


def make(
    stars: int = 6000, visits: int = 30, nights: int = 5, cloudy_nights: tuple[int, ...] = (2,), bands: str = "gri",
    seed: int = 3, references: bool = True, field: float = 1.6, flat: float = 0.01, second_order: float = 0.02,
    islands: int = 1, reference_error: float = 0.02, centre: tuple[float, float] = (359.8, 0.7), variables: int = 0,
    drift: float = 0.0,
) -> Survey:  # fmt: skip
    """``visits`` per band over ``nights``; stars in a square of half-width ``field`` deg (one square per island, nights shared
    out among islands); ``second_order`` extinction per airmass and magnitude of colour in g, a third of it in r; with a ``drift``
    visits of a band come every half hour, and zero points rise (on every other night fall) by so much an hour."""
    rng = np.random.default_rng(seed)
    island = np.arange(stars) % islands
    ra = centre[0] + rng.uniform(-field, field, stars) + 30.0 * island
    dec = centre[1] + rng.uniform(-field, field, stars)
    colour = np.clip(rng.normal(0.65, 0.3, stars), 0.0, 1.6)
    r = 11.0 + 5.5 * rng.power(2.5, stars)
    ab = np.stack([r + colour, r, r - (0.45 * colour - 0.05)], axis=1)
    filters = [CAMERA.filter_of_band(b) for b in "gri"]
    terms = np.array([f.colour_term for f in filters])
    natural = ab + terms * (colour - PIVOT)[:, None]
    chromatic = dict(zip("gri", second_order * np.array([1.0, 0.33, 0.1]), strict=True))
    flats = {(b, d): rng.normal(0, flat) for b in "gri" for d in range(9)}
    extinction = {(b, n): filters["gri".index(b)].extinction + rng.normal(0, 0.02) for b in "gri" for n in range(nights)}
    night_zero = {(b, n): rng.normal(0, 0.02) for b in "gri" for n in range(nights)}
    associations: list[dict[str, Any]] = []
    summaries: list[dict[str, Any]] = []
    truth: dict[tuple[int, int], float] = {}
    cloudy: set[int] = set()
    seen = np.zeros(stars, int)
    for k in range(visits * len(bands)):
        band = bands[k % len(bands)]
        night = (k // len(bands)) * nights // visits
        here = night % islands
        visit = 1000 + k
        airmass = rng.uniform(1.0, 1.7)
        pointing = centre[0] + 30.0 * here + rng.uniform(-0.8, 0.8), centre[1] + rng.uniform(-0.8, 0.8)
        clear = CAMERA.filter_of_band(band).zero_point + 2.5 * np.log10(30.0) - extinction[band, night] * airmass
        clear += night_zero[band, night] + rng.normal(0, 0.003)
        hours = 0.5 * (k // len(bands) - -(-night * visits // nights)) if drift else 0.0
        clear += drift * (-1) ** night * hours
        cloud, slope = 0.0, np.zeros(2)
        if night in cloudy_nights:
            cloudy.add(visit)
            cloud, slope = rng.uniform(0.05, 0.5), rng.normal(0, 0.08, 2)
        near = np.flatnonzero((np.hypot(ra - pointing[0], dec - pointing[1]) < 1.5) & (island == here))
        xi, eta = project(ra[near], dec[near], *pointing)
        common = {"instrument": "DemoCam", "band": band, "physical_filter": band + "_demo", "visit": visit}
        for d in CAMERA.detectors:
            x, y = (xi - d.x_centre) * 720 + 200, (eta - d.y_centre) * 720 + 200
            on = (x > 2) & (x < 398) & (y > 2) & (y < 398)
            own = near[on]
            zero = clear - cloud - flats[band, d.detector]
            truth[visit, d.detector] = zero - slope @ [d.x_centre, d.y_centre]
            local = zero - np.stack([xi[on], eta[on]], axis=1) @ slope
            m = natural[own, "gri".index(band)] + chromatic[band] * airmass * (colour[own] - PIVOT)
            if variables:
                m = m + np.where(own < variables, rng.normal(0, 0.2, len(own)), 0.0)
            electrons = 10 ** (-0.4 * (m - local))
            error = np.sqrt(electrons + 10 * 60.0)
            measured = electrons + rng.normal(0, error)
            good = measured / error > 10
            own = own[good]
            seen[own] += 1
            source = visit * 2**24 + d.detector * 2**16 + np.arange(len(own))
            associations.append(
                {
                    "tract": np.full(len(own), 9469), "isolatedStarId": own, "sourceId": source, "x": x[on][good],
                    "y": y[on][good], "instFlux": measured[good], "instFluxErr": error[good],
                    "detector": np.full(len(own), d.detector), "visit": np.full(len(own), visit),
                }
                | {key: np.full(len(own), value) for key, value in common.items() if key != "visit"}
            )  # fmt: skip
            summaries.append(
                {
                    **common, "detector": d.detector, "day_obs": 20260101 + night, "mjd_mid": 61041.0 + night + hours / 24.0,
                    "exposure_time": 30.0, "airmass": airmass, "absolute": references,
                    "zeroPoint": truth[visit, d.detector] + rng.normal(0, 0.03),
                    "wcs": CAMERA.nominal_wcs(*pointing, 0.0, d.detector).to_json(), "ra": pointing[0] % 360,
                    "dec": pointing[1], "nSource": len(own), "nDetector": 9,
                }
            )  # fmt: skip
    known = np.flatnonzero(seen > 1)
    joined = {c: np.concatenate([a[c] for a in associations]) for c in associations[0]}
    keep = np.isin(joined["isolatedStarId"], known)
    tables = {
        "isolated_star_association": table(
            "isolated_star_association",
            {c: v[keep] for c, v in joined.items()} | {"skymap": ["demo_rings"] * int(keep.sum())},
        ),
        "isolated_star": table(
            "isolated_star",
            {
                "tract": np.full(len(known), 9469), "skymap": ["demo_rings"] * len(known), "isolatedStarId": known,
                "coord_ra": ra[known] % 360, "coord_dec": dec[known], "nobs": seen[known], "reserved": known % 10 == 7,
            },
        ),
        "preliminary_visit_summary": table(
            "preliminary_visit_summary", {c: [row[c] for row in summaries] for c in summaries[0]}
        ),
    }  # fmt: skip
    bright = np.flatnonzero(r < 15.0) if references else np.array([], int)
    noisy = ab[bright] + rng.normal(0, reference_error, (len(bright), 3))
    tables["reference_star"] = table(
        "reference_star",
        {
            "tract": np.full(len(bright), 9469), "skymap": ["demo_rings"] * len(bright), "reference_id": bright,
            "coord_ra": ra[bright] % 360, "coord_dec": dec[bright], "epoch": np.full(len(bright), 57388.5),
        }
        | {f"{b}_mag": noisy[:, i] for i, b in enumerate("gri")}
        | {f"{b}_magErr": np.full(len(bright), reference_error) for b in "gri"},
    )  # fmt: skip
    return Survey(tables, truth, cloudy, natural)


class SurveyInputs(Inputs):
    """The survey as the inputs of a quantum."""

    def __init__(self, survey: Survey) -> None:
        super().__init__(".", {})
        self.survey = survey

    def relation(self, con: duckdb.DuckDBPyConnection, dataset_type: str) -> duckdb.DuckDBPyRelation:
        con.register(dataset_type, self.survey.tables[dataset_type])
        return con.table(dataset_type)


def errors(survey: Survey, rows: pa.Table, band: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Zero point minus truth, its stated error, and whether the visit was clear, for the rows of a band."""
    chosen = [row for row in rows.to_pylist() if row["band"] == band]
    off = np.array([row["zeroPoint"] - survey.truth[row["visit"], row["detector"]] for row in chosen])
    clear = np.array([row["visit"] not in survey.cloudy for row in chosen])
    return off, np.array([row["zeroPointErr"] for row in chosen]), clear
