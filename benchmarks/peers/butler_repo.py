"""A Butler repository on SQLite with an instrument, visits on a row of tracts, detectors and one dataset type."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

from astropy.time import Time
from lsst.daf.butler import Butler, DataCoordinate, DatasetIdGenEnum, DatasetRef, DatasetType, FileDataset, Timespan, version
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d

VERSION = version.__version__
RUN = "bench/raw"
TYPE = "bench_image"
DETECTORS = 100
TRACTS = 10
SIDE = 0.1


def make(root: Path, visits: int, sky: bool = False) -> Butler:
    """A new repository that knows ``visits`` visits of 100 detectors; ``sky`` adds footprints and ten tracts.

    Footprints: ten by ten detectors of 0.1 deg a side; visit v is centred on tract v modulo 10, tracts are 2 deg apart.
    """
    Butler.makeRepo(str(root))
    butler = Butler.from_config(str(root), writeable=True, run=RUN)
    begin = datetime(2026, 1, 1)
    add = butler.registry.insertDimensionData
    name = {"instrument": "Cam"}
    add("instrument", {"name": "Cam", "visit_max": 10**9, "exposure_max": 10**9, "detector_max": DETECTORS, "class_name": "x.Cam"})
    add("physical_filter", name | {"name": "r_cam", "band": "r"})
    add("day_obs", name | {"id": 20260101})
    add("detector", *[name | {"id": d, "full_name": f"d{d}", "purpose": "SCIENCE"} for d in range(DETECTORS)])
    if sky:
        add("skymap", {"name": "sky", "hash": b"sky", "tract_max": TRACTS, "patch_nx_max": 1, "patch_ny_max": 1})
        add("tract", *[{"skymap": "sky", "id": t, "region": _square(2.0 * t, 0.0, 1.0)} for t in range(TRACTS)])
    records, regions = [], []
    for v in range(visits):
        span = Timespan(_time(begin + timedelta(seconds=40 * v)), _time(begin + timedelta(seconds=40 * v + 30)))
        record = name | {"id": v, "name": f"v{v}", "physical_filter": "r_cam", "day_obs": 20260101, "timespan": span}
        ra = 2.0 * (v % TRACTS)
        records.append(record | ({"region": _square(ra, 0.0, 10 * SIDE)} if sky else {}))
        regions += [
            name | {"visit": v, "detector": d, "region": _square(ra + (d % 10 - 4.5) * SIDE, (d // 10 - 4.5) * SIDE, SIDE)}
            for d in range(DETECTORS if sky else 0)
        ]
    add("visit", *records)
    if regions:
        add("visit_detector_region", *regions)
    butler.registry.registerDatasetType(
        DatasetType(TYPE, {"instrument", "visit", "detector"}, "StructuredDataDict", universe=butler.dimensions)
    )
    return butler


def refs(butler: Butler, count: int) -> list[DatasetRef]:
    """References of the first ``count`` datasets, with ids that come from type, run and data ID (version 5)."""
    kind = butler.get_dataset_type(TYPE)
    ids = butler.registry.expandDataId  # the records, looked up once per visit and detector
    found = []
    for n in range(count):
        data_id = ids(instrument="Cam", visit=n // DETECTORS, detector=n % DETECTORS)
        found.append(DatasetRef(kind, data_id, run=RUN, id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN))
    return found


def named(butler: Butler, data_ids: list[dict[str, int | str]]) -> list[DatasetRef]:
    """References as ``butler ingest-files`` makes them, with the same ids as refs(): the records are looked up by the ingest."""
    kind = butler.get_dataset_type(TYPE)
    return [
        DatasetRef(
            kind,
            DataCoordinate.standardize(data_id, dimensions=kind.dimensions),
            run=RUN,
            id_generation_mode=DatasetIdGenEnum.DATAID_TYPE_RUN,
        )
        for data_id in data_ids
    ]


def write(folder: Path, count: int, content: bytes) -> list[str]:
    """Paths of ``count`` files, each of its own, written below ``folder``."""
    paths = [folder / str(n // DETECTORS) / f"{n}.json" for n in range(count)]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return [str(path) for path in paths]


def files(paths: list[str], references: list[DatasetRef]) -> list[FileDataset]:
    """What is to be ingested: a reference for each file."""
    formatter = "lsst.daf.butler.formatters.json.JsonFormatter"
    return [FileDataset(path=path, refs=[ref], formatter=formatter) for path, ref in zip(paths, references, strict=True)]


def _time(at: datetime) -> Time:
    return Time(at.isoformat(), scale="tai", format="isot")


def _square(ra: float, dec: float, side: float) -> ConvexPolygon:
    half = side / 2
    corners = [(ra - half, dec - half), (ra + half, dec - half), (ra + half, dec + half), (ra - half, dec + half)]
    return ConvexPolygon([UnitVector3d(LonLat.fromDegrees(r % 360.0, d)) for r, d in corners])
