"""How raw frames become known to a site: dimension records from their headers, rows for the registry, certifications.

Simulated and real frames take this one way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

import schemas
from lake import collection, dimensions, publish, registry
from lake.datastore import FileRecord
from lake.site import Site
from lake.slices import SliceRecord
from pipelines import definition
from pipelines.instrument import Instrument
from pipelines.overlap import overlaps
from pipelines.raw import Facts
from pipelines.skymap import RingsSkyMap

Row = dict[str, Any]

#: Columns of an exposure record that come straight from the header facts.
EXPOSURE = (
    "instrument", "exposure", "day_obs", "seq_num", "physical_filter", "band", "observation_type", "target_name",
    "mjd_mid", "exposure_time", "ra", "dec", "rotation", "airmass",
)  # fmt: skip


# -- dimension records -------------------------------------------------------------------------------------------------


def dimension_records(instrument: Instrument, skymap: RingsSkyMap, frames: Sequence[Facts]) -> dict[str, pa.Table]:
    """Records of every dimension table for science frames (one Facts per exposure and detector), by table.

    A visit is an exposure; its record comes from its first detector. Tracts are those that a footprint touches.
    """
    frames = sorted(frames, key=lambda f: (f["exposure"], f["detector"]))
    exposures = list({f["exposure"]: f for f in reversed(frames)}.values())[::-1]
    regions = footprints(instrument, frames)
    touched = skymap.tracts_touching(regions) if frames else np.zeros(0, np.int64)
    patches = skymap.patch_records(touched)
    visits = [{**f, "visit": f["exposure"]} for f in exposures]
    return {
        **instrument_records(instrument),
        "exposure": _table("exposure", [{c: f[c] for c in EXPOSURE} for f in exposures]),
        "visit": _table("visit", visits),
        "visit_detector_region": regions,
        "skymap": skymap.skymap_record(),
        "tract": skymap.tract_records(touched),
        "patch": patches,
        "visit_detector_patch": overlaps(regions, patches) if frames else _table("visit_detector_patch", []),
    }


def instrument_records(instrument: Instrument) -> dict[str, pa.Table]:
    """Records of ``instrument``, ``detector`` and ``physical_filter``."""
    camera = {
        "instrument": instrument.name, "class_name": f"{instrument.name}.yaml",
        "detector_count": len(instrument.detectors),
    }  # fmt: skip
    detectors = [
        {
            "instrument": instrument.name, "detector": d.detector, "full_name": d.name, "purpose": d.purpose,
            "width": d.width, "height": d.height, "x_centre": d.x_centre, "y_centre": d.y_centre,
        }
        for d in instrument.detectors
    ]  # fmt: skip
    filters = [{"instrument": instrument.name, "physical_filter": k, "band": f.band} for k, f in instrument.filters.items()]
    return {
        "instrument": _table("instrument", [camera]),
        "detector": _table("detector", detectors),
        "physical_filter": _table("physical_filter", filters),
    }


def footprints(instrument: Instrument, frames: Iterable[Facts]) -> pa.Table:
    """Rows of ``visit_detector_region``: the nominal outline of each frame, grown by the pointing tolerance."""
    grow = 3600.0 * instrument.pointing_tolerance / instrument.pixel_scale
    rows = []
    for f in frames:
        d = instrument.detector(f["detector"])
        wcs = instrument.nominal_wcs(f["ra"], f["dec"], f["rotation"], d.detector)
        x = np.array([-0.5 - grow, d.width - 0.5 + grow, d.width - 0.5 + grow, -0.5 - grow, 0.5 * (d.width - 1)])
        y = np.array([-0.5 - grow, -0.5 - grow, d.height - 0.5 + grow, d.height - 0.5 + grow, 0.5 * (d.height - 1)])
        # A mirrored camera sees the corners the other way round.
        order = np.array([0, 1, 2, 3, 4] if instrument.parity > 0 else [0, 3, 2, 1, 4])
        ra, dec = wcs.pixel_to_sky(x[order], y[order])
        row = {
            "instrument": instrument.name,
            "visit": f["exposure"],
            "detector": d.detector,
            "ra": ra[4],
            "dec": dec[4],
        }
        rows.append(row | {f"ra{n}": ra[n] for n in range(4)} | {f"dec{n}": dec[n] for n in range(4)})
    return _table("visit_detector_region", rows)


def put_dimensions(site: Site, records: Mapping[str, pa.Table]) -> int:
    """Insert dimension records in the order in which they refer to each other; returns how many were new."""
    return sum(dimensions.insert(site, table, records[table]) for table in dimensions.TABLES if table in records)


def _table(name: str, rows: Sequence[Mapping[str, Any]]) -> pa.Table:
    schema = schemas.table(name).arrow
    return schemas.conform(name, pa.Table.from_pylist([{c: r.get(c) for c in schema.names} for r in rows], schema=schema))


# -- datasets ----------------------------------------------------------------------------------------------------------


def declare(
    site: Site,
    campaign: str,
    calibration_runs: Iterable[str],
    extra: Mapping[str, tuple[Sequence[str], str]] | None = None,
) -> None:
    """Make the pipeline's dataset types (and ``extra`` ones) and the collections of a campaign's inputs known."""
    kinds = {k.name: (k.dimensions, k.storage) for k in definition.load().dataset_types.values()}
    registry.register_dataset_types(site, {**kinds, **(extra or {})})
    runs = [f"{campaign}/raw", f"{campaign}/refcat", *calibration_runs, *([f"{campaign}/truth"] if extra else [])]
    collection.register_collections(site, [*((run, "RUN", None) for run in runs), (calibrations(campaign), "CALIBRATION", None)])


def calibrations(campaign: str) -> str:
    """The CALIBRATION collection in which a campaign's master frames are certified."""
    return f"{campaign}/calib"


def raw_id(facts: Facts) -> Row:
    """The data ID of a raw frame, with all that its visit implies."""
    names = ("instrument", "exposure", "detector", "physical_filter", "band", "day_obs")
    return {**{c: facts[c] for c in names}, "visit": facts["exposure"]}


def rows_with_ids(rows: Sequence[Row], types: Mapping[str, Sequence[str]] | None = None) -> pa.Table:
    """Dataset rows (dataset_type, run and data ID at least) as a table of the schema ``dataset``, ids computed."""
    schema = schemas.table("dataset").arrow
    blank = {"dataset_id": "", "registered_at": datetime.now(UTC)}
    table = pa.Table.from_pylist([{c: {**blank, **row}.get(c) for c in schema.names} for row in rows], schema=schema)
    return registry.with_ids(None, table, {**definition.load().dimensions(), **(types or {})})


def file_row(site: Site, dataset_type: str, run: str, data_id: Row, record: FileRecord) -> Row:
    """The registry row of a file dataset that was just written at its site (id still empty)."""
    return {
        **data_id, "dataset_type": dataset_type, "run": run, "origin": site.name, "path": record.path,
        "bytes": record.bytes, "checksum": record.checksum,
        "file_bytes": record.bytes, "file_checksum": record.checksum,
    }  # fmt: skip


def slice_row(site: Site, row: Row, record: SliceRecord) -> Row:
    """The registry row of a table slice; ``row`` has dataset_type, run and data ID."""
    return {
        **row, "origin": site.name, "path": record.path, "bytes": record.bytes, "rows": record.rows,
        "checksum": record.checksum, "file_bytes": record.file_bytes, "file_checksum": record.file_checksum,
    }  # fmt: skip


def publish_rows(publisher: publish.Publisher, rows: pa.Table) -> pa.Table:
    """Register datasets whose bytes are durable; returns the verdicts (dataset_id, verdict, reason), in order."""
    return publisher.publish(publish.Batch(datasets=rows, attempts=schemas.table("attempt").arrow.empty_table()))
