"""Rows of every product of the paper campaign, from the simulator's truth."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import pyarrow as pa

import schemas
from lake import delta
from lake.site import Lake
from pipelines import instrument as instruments
from pipelines.campaign import Campaign
from pipelines.wcs import SkyWcs

Columns = dict[str, Any]
PER_DETECTOR = {
    "preliminary_detector_summary",
    "preliminary_visit_summary",
    "visit_summary",
    "photo_calib",
    "visit_detector_table",
}
#: Values of columns that the makers below do not set.
USUAL = {
    "psfFwhm": 25.0,
    "psfSigma": 1.06,
    "airmass": 1.2,
    "magLim": 15.5,
    "magStd": 0.003,
    "scatter": 0.001,
    "gauge": "reference stars",
    "zeroPointErr": 0.001,
    "skyBg": 900.0,
    "skyNoise": 30.0,
    "nStar": 40,
    "exposure_time": 100.0,
    "expTime": 100.0,
    "chi2": 1.0,
    "nobs": 4,
    "nDetector": 2,
    "zeroPointScatter": 0.002,
    "photo_source": "global",
    "wcs_source": "fit",
    "photometric": True,
    "absolute": True,
    "rms": 0.4,
    "rms_reserved": 0.5,
    "snr": 50.0,
    "detect_isPrimary": True,
    "epoch": "20260910",
    "psfFluxErr": 5000.0,
    "psfDiffFluxErr": 5000.0,
    "midpointMjdTai": 61293.0,
    "instFlux": 1e5,
    "instFluxErr": 500.0,
    "psfFlux": 1e5,
    "coord_ra": 0.5,
    "nDiaSources": 1,
}


class PaperProducts:
    """Rows that depend on the data ID and the truth alone, never on the site."""

    def __init__(self, lake: Lake, campaign: Campaign) -> None:
        self.skymap = campaign.skymap
        self.camera = instruments.load(campaign.instrument)
        site = lake.central
        with delta.connect() as con:
            for table in (
                "truth_star",
                "truth_transient",
                "truth_photo_calib",
                "truth_wcs",
                "visit",
                "visit_detector_patch",
            ):
                delta.relation(con, site, table).create_view(table)
            self.stars = con.sql("FROM truth_star ORDER BY truthId").to_arrow_table()
            self.transients = con.sql("FROM truth_transient ORDER BY truthId").to_arrow_table()
            frames = con.sql(
                "SELECT p.visit, p.detector, p.band, p.zeroPoint, p.photometric, w.wcs, v.mjd_mid, v.day_obs "
                "FROM truth_photo_calib p JOIN truth_wcs w USING (visit, detector) JOIN visit v USING (visit) "
                "ORDER BY ALL"
            )
            self.frames = {(row[0], row[1]): row[2:] for row in frames.fetchall()}
            found = con.sql("SELECT DISTINCT visit, detector, tract FROM visit_detector_patch ORDER BY ALL").fetchall()
        self.tract_frames: dict[int, list[tuple[int, int]]] = {}
        for visit, detector, tract in found:
            self.tract_frames.setdefault(tract, []).append((visit, detector))

    def rows(self, kind: str, row: Columns) -> pa.Table:
        """The rows of one dataset."""
        maker = getattr(self, f"_{kind}", None)
        rng = np.random.default_rng(zlib.crc32(f"{kind}|{row['dataset_id']}".encode()))
        columns = maker(row, rng) if maker else self._plain(kind, row)
        return self._completed(kind, row, columns)

    def _completed(self, kind: str, row: Columns, given: Columns) -> pa.Table:
        n = len(next(iter(given.values())))
        columns = {}
        for field in schemas.table(kind).arrow:
            name = field.name
            if name in given:
                columns[name] = pa.array(list(given[name]), field.type)
            elif name == "site":
                columns[name] = pa.array([""] * n)
            elif row.get(name) is not None:
                columns[name] = pa.array([row[name]] * n, field.type)
            elif name in USUAL:
                columns[name] = pa.array([USUAL[name]] * n, field.type)
            elif name.endswith("Err"):
                columns[name] = pa.array([0.01] * n, field.type)
            elif field.nullable:
                columns[name] = pa.nulls(n, field.type)
            else:
                zero = {pa.string(): "", pa.bool_(): False}.get(field.type, 0)
                columns[name] = pa.array([zero] * n, field.type)
        return pa.table(columns).drop_columns(["site"])

    def _plain(self, kind: str, row: Columns) -> Columns:
        """One row per detector where the table wants it, else one row, with unique numbers for keys."""
        if kind in PER_DETECTOR:
            return self._detectors(row)
        key = next(c for c in schemas.table(kind).primary_key if c not in ("visit", "tract", "site"))
        if schemas.table(kind).arrow.field(key).type == pa.string():
            return {key: ["paper"]}
        number = zlib.crc32(row["dataset_id"].encode())
        return {key: [number, number + 2**33]}

    # -- visits --------------------------------------------------------------------------------------------------------

    def _detectors(self, row: Columns) -> Columns:
        detectors = [d.detector for d in self.camera.detectors if row.get("detector") in (None, d.detector)]
        frames = [self.frames[(row["visit"], d)] for d in detectors]
        columns: Columns = {
            "detector": detectors,
            "zeroPoint": [f[1] + 0.001 * (-1) ** (row["visit"] + d) for f, d in zip(frames, detectors, strict=True)],
            "photometric": [f[2] for f in frames],
            "wcs": [SkyWcs.from_json(f[3]).shifted(0.02, -0.02).to_json() for f in frames],
            "mjd_mid": [f[4] for f in frames],
            "expMidptMJD": [f[4] for f in frames],
        }
        for name, x, y in (("", 99.5, 99.5), ("0", 0, 0), ("1", 199, 0), ("2", 199, 199), ("3", 0, 199)):
            corners = [SkyWcs.from_json(f[3]).pixel_to_sky(x, y) for f in frames]
            columns |= {f"ra{name}": [float(c[0]) for c in corners], f"dec{name}": [float(c[1]) for c in corners]}
        return columns

    def _visit_table(self, row: Columns, rng: np.random.Generator) -> Columns:
        frame = self._detectors(row)
        return {
            "visit": [row["visit"]],
            "zeroPoint": [np.median(frame["zeroPoint"])],
            "photometric": [frame["photometric"][0]],
            "expMidptMJD": frame["mjd_mid"][:1],
            "obsStartMJD": frame["mjd_mid"][:1],
            "ra": frame["ra"][:1],
            "dec": frame["dec"][:1],
        }

    # -- the photometric solution --------------------------------------------------------------------------------------

    def _tract_visits(self, tract: int) -> list[int]:
        return sorted({visit for visit, _ in self.tract_frames[tract]})

    def _normal_term(self, row: Columns, rng: np.random.Generator) -> Columns:
        visits = self._tract_visits(row["tract"])
        return {
            "term": range(len(visits)),
            "band": [self.frames[(v, 0)][0] for v in visits],
            "kind": ["zero_point"] * len(visits),
            "visit": visits,
        }

    def _normal_equation(self, row: Columns, rng: np.random.Generator) -> Columns:
        visits = self._tract_visits(row["tract"])
        bands = [self.frames[(v, 0)][0] for v in visits]
        return {"band": bands, "i": range(len(visits)), "j": range(len(visits)), "n11": [1.0] * len(visits)}

    def _visit_scatter(self, row: Columns, rng: np.random.Generator) -> Columns:
        visits = self._tract_visits(row["tract"])
        return {"visit": visits, "band": [self.frames[(v, 0)][0] for v in visits]}

    def _calib_visit(self, row: Columns, rng: np.random.Generator) -> Columns:
        visits = {visit: self.frames[(visit, detector)] for visit, detector in self.frames if detector == 0}
        return {
            "visit": list(visits),
            "band": [f[0] for f in visits.values()],
            "physical_filter": [f"{f[0]}_tiny" for f in visits.values()],
            "day_obs": [f[5] for f in visits.values()],
            "mjd": [f[4] for f in visits.values()],
            "zeroPoint": [f[1] for f in visits.values()],
            "photometric": [f[2] for f in visits.values()],
        }

    def _calib_error(self, row: Columns, rng: np.random.Generator) -> Columns:
        frames = sorted(self.frames)
        return {
            "visit": [v for v, _ in frames],
            "detector": [d for _, d in frames],
            "band": [self.frames[f][0] for f in frames],
            "variance": [1e-6] * len(frames),
        }

    def _calib_component(self, row: Columns, rng: np.random.Generator) -> Columns:
        first = {f[0]: visit for (visit, _), f in sorted(self.frames.items(), reverse=True)}
        return {"band": sorted(first), "visit": [first[band] for band in sorted(first)], "nReference": [50] * len(first)}

    def _calib_residual(self, row: Columns, rng: np.random.Generator) -> Columns:
        frames = self.tract_frames[row["tract"]]
        return {
            "visit": [v for v, _ in frames],
            "detector": [d for _, d in frames],
            "band": [self.frames[f][0] for f in frames],
            "residual": 0.001 * rng.standard_normal(len(frames)),
            "weight": [1e6] * len(frames),
        }

    def _calib_residual_map(self, row: Columns, rng: np.random.Generator) -> Columns:
        cells = [
            (b, d, x, y) for b in sorted({f[0] for f in self.frames.values()}) for d in (0, 1) for x in range(8) for y in range(8)
        ]
        return {
            **{name: [cell[i] for cell in cells] for i, name in enumerate(("band", "detector", "ix", "iy"))},
            "residual": 0.002 * rng.standard_normal(len(cells)),
            "weight": [1e6] * len(cells),
            "nStar": [20] * len(cells),
        }

    def _calib_flat(self, row: Columns, rng: np.random.Generator) -> Columns:
        return {
            "detector": [0, 1, 0, 1],
            "band": ["g", "g", "r", "r"],
            "offset": [0.01, -0.01, 0.005, -0.005],
            "t10": [0.004, -0.004, None, None],
        }

    def _calib_night(self, row: Columns, rng: np.random.Generator) -> Columns:
        nights = sorted({(frame[0], frame[5]) for frame in self.frames.values()})
        zero = [np.mean([f[1] for f in self.frames.values() if (f[0], f[5]) == key]) for key in nights]
        return {
            "band": [b for b, _ in nights],
            "day_obs": [d for _, d in nights],
            "zeroPoint": zero,
            "extinction": [0.1] * len(nights),
            "fitted": [False] * len(nights),
            "nVisit": [2] * len(nights),
            "nPhotometric": [2] * len(nights),
        }

    def _visit_wcs(self, row: Columns, rng: np.random.Generator) -> Columns:
        frames = self.tract_frames[row["tract"]]
        return {
            "visit": [v for v, _ in frames],
            "detector": [d for _, d in frames],
            "band": [self.frames[f][0] for f in frames],
            "wcs": [self.frames[f][3] for f in frames],
        }

    # -- stars ---------------------------------------------------------------------------------------------------------

    def _tract_stars(self, tract: int) -> dict[str, np.ndarray]:
        table = self.stars.filter(pa.compute.equal(self.stars["tract"], tract))
        return {name: table[name].to_numpy() for name in ("truthId", "coord_ra", "coord_dec", "g_mag", "r_mag", "kind")}

    def _isolated_star(self, row: Columns, rng: np.random.Generator) -> Columns:
        stars = self._tract_stars(row["tract"])
        n = len(stars["truthId"])
        return {
            "isolatedStarId": row["tract"] * 2**32 + np.arange(n),
            "coord_ra": stars["coord_ra"],
            "coord_dec": stars["coord_dec"],
            "reserved": np.arange(n) % 10 == 0,
        }

    def _standard_star(self, row: Columns, rng: np.random.Generator) -> Columns:
        star, mags = self._isolated_star(row, rng), self._tract_stars(row["tract"])
        return {name: np.tile(values, 2) for name, values in star.items()} | {
            "band": np.repeat(["g", "r"], len(star["coord_ra"])),
            "mag": np.concatenate([mags["g_mag"], mags["r_mag"]]),
        }

    def _isolated_star_association(self, row: Columns, rng: np.random.Generator) -> Columns:
        stars = self._tract_stars(row["tract"])
        parts: dict[str, list[np.ndarray]] = {}
        for visit, detector in self.tract_frames[row["tract"]]:
            band, zero, _, wcs, *_ = self.frames[(visit, detector)]
            x, y = SkyWcs.from_json(wcs).sky_to_pixel(stars["coord_ra"], stars["coord_dec"])
            seen = np.flatnonzero((x > 5) & (x < 194) & (y > 5) & (y < 194) & (stars["kind"] == "star"))
            flux = 10 ** ((zero - stars[f"{band}_mag"][seen]) / 2.5)
            new = {
                "isolatedStarId": row["tract"] * 2**32 + seen,
                "sourceId": visit * 2**24 + detector * 2**16 + seen,
                "visit": np.full(len(seen), visit),
                "detector": np.full(len(seen), detector),
                "band": np.full(len(seen), band),
                "physical_filter": np.full(len(seen), f"{band}_tiny"),
                "x": x[seen],
                "y": y[seen],
                "instFlux": flux * (1 + 0.003 * rng.standard_normal(len(seen))),
                "instFluxErr": 0.003 * flux,
                "instrument": np.full(len(seen), self.camera.name),
            }
            for name, values in new.items():
                parts.setdefault(name, []).append(values)
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _object(self, row: Columns, rng: np.random.Generator) -> Columns:
        stars = self._tract_stars(row["tract"])
        mine = np.flatnonzero(np.arange(len(stars["truthId"])) % 4 == row["patch"] % 4)
        columns: Columns = {
            "objectId": row["tract"] * 2**40 + row["patch"] * 2**32 + mine,
            "coord_ra": stars["coord_ra"][mine],
            "coord_dec": stars["coord_dec"][mine],
            "refExtendedness": np.zeros(len(mine)),
        }
        for band in "gr":
            flux = 10 ** ((31.4 - stars[f"{band}_mag"][mine]) / 2.5)
            columns |= {
                f"{band}_psfFlux": flux * 1.002,
                f"{band}_psfFluxErr": flux / 300,
                f"{band}_psfFlux_flag": flux < 0,
            }
        return columns

    # -- what changes --------------------------------------------------------------------------------------------------

    def _changing(self, tract: int) -> list[tuple[float, float, float, float, float]]:
        """(ra, dec, flux, begin, end) of the tract's transients."""
        table = self.transients.filter(pa.compute.equal(self.transients["tract"], tract)).to_pylist()
        return [(r["coord_ra"], r["coord_dec"], 10 ** ((31.4 - r["mag"]) / 2.5), r["mjd_start"], r["mjd_end"]) for r in table]

    def _dia_source(self, row: Columns, rng: np.random.Generator) -> Columns:
        _, _, _, wcs, mjd, _ = self.frames[(row["visit"], row["detector"])]
        found = []
        for n, (ra, dec, flux, begin, end) in enumerate(self._changing(row["tract"])):
            x, y = SkyWcs.from_json(wcs).sky_to_pixel(ra, dec)
            if begin <= mjd <= end and 0 < x < 199 and 0 < y < 199:
                found.append((zlib.crc32(row["dataset_id"].encode()) * 2**16 + n, mjd, ra, dec, float(x), float(y), flux))
        names = ("diaSourceId", "midpointMjdTai", "coord_ra", "coord_dec", "x", "y", "psfFlux")
        return {name: [f[i] for f in found] for i, name in enumerate(names)}

    def _dia_object(self, row: Columns, rng: np.random.Generator) -> Columns:
        found = self._changing(row["tract"])
        return {
            "diaObjectId": [row["tract"] * 2**32 + n for n in range(len(found))],
            "coord_ra": [f[0] for f in found],
            "coord_dec": [f[1] for f in found],
            "nDiaSources": [2] * len(found),
        }

    def _dia_object_forced_source(self, row: Columns, rng: np.random.Generator) -> Columns:
        found = self._changing(row["tract"])
        detectors = [d for v, d in self.tract_frames[row["tract"]] if v == row["visit"]][:1]
        mjd = self.frames[(row["visit"], detectors[0])][4]
        flux = [f[2] if f[3] <= mjd <= f[4] else 0.0 for f in found]
        return {
            "diaObjectId": [row["tract"] * 2**32 + n for n in range(len(found))],
            "detector": detectors * len(found),
            "midpointMjdTai": [mjd] * len(found),
            "psfFlux": flux,
            "psfDiffFlux": flux,
        }

    def _survey_metric(self, row: Columns, rng: np.random.Generator) -> Columns:
        return {
            "metric": ["depth", "depth"],
            "band": ["g", "r"],
            "tract": [9469, 9469],
            "value": [15.5, 15.6],
            "unit": ["mag"] * 2,
        }
