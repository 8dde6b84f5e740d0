"""What worker processes do: files of one visit, one detector's calibrations, or the catalogues, written at a site.

Functions here are top level and take small picklable arguments; they return registry rows (without ids), never data.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyarrow as pa

from lake import datastore, slices
from lake.site import Site
from pipelines import registration
from pipelines.image import Image
from pipelines.raw import header_facts, write_raw
from pipelines.registration import Row
from pipelines.simulate import calibrations, catalogues, exposure
from pipelines.simulate.survey import Plan


def visit_raws(site: Site, plan: Plan, visit: int, detectors: Iterable[int]) -> list[Row]:
    """Raw frames of a visit."""
    run, one = f"{plan.campaign}/raw", plan.visit(visit)
    rows = []
    for detector in detectors:
        pixels, header = exposure.render(plan, one, detector)
        data_id = registration.raw_id(header_facts(header, plan.instrument))
        path = datastore.template(run, "raw", data_id)
        record = datastore.write_file(site, path, lambda file, p=pixels, h=header: write_raw(file, p, h))  # type: ignore[misc]
        rows.append(registration.file_row(site, "raw", run, data_id, record))
    return rows


def detector_calibrations(site: Site, plan: Plan, detector: int) -> list[Row]:
    """Bias, dark, defects of a detector, and its flats of all bands and epochs."""
    first = plan.epochs[0]
    rows = [
        _write(site, plan, first, "bias", detector, None, calibrations.master_bias(plan, detector)),
        _write(site, plan, first, "dark", detector, None, calibrations.master_dark(plan, detector)),
        _write(site, plan, first, "defects", detector, None, calibrations.defects(plan, detector)),
    ]
    for epoch in plan.epochs:
        for band in plan.settings.bands:
            name = plan.filter(band).physical_filter
            flat = calibrations.master_flat(plan, epoch, name, detector)
            rows.append(_write(site, plan, epoch, "flat", detector, name, flat))
    return rows


def calibration_run(plan: Plan, epoch: int) -> str:
    """The RUN of the master frames of an epoch."""
    return f"{registration.calibrations(plan.campaign)}/{epoch}"


def calibration_rows(plan: Plan, detector: int) -> list[Row]:
    """The rows (type, run, data ID) that detector_calibrations() leaves, in its order."""
    first = plan.epochs[0]
    rows = [_calibration(plan, first, kind, detector, None) for kind in ("bias", "dark", "defects")]
    filters = [plan.filter(band).physical_filter for band in plan.settings.bands]
    return rows + [_calibration(plan, e, "flat", detector, name) for e in plan.epochs for name in filters]


def _calibration(plan: Plan, epoch: int, kind: str, detector: int, physical_filter: str | None) -> Row:
    row: Row = {"instrument": plan.instrument_name, "detector": detector}
    if physical_filter is not None:
        row |= {"physical_filter": physical_filter, "band": plan.instrument.filters[physical_filter].band}
    return row | {"dataset_type": kind, "run": calibration_run(plan, epoch)}


def _write(site: Site, plan: Plan, epoch: int, kind: str, detector: int, name: str | None, image: Image) -> Row:
    row = _calibration(plan, epoch, kind, detector, name)
    record = datastore.write_file(site, datastore.template(row["run"], kind, row), image.write)
    return registration.file_row(site, kind, row["run"], row, record)


def tract_catalogues(site: Site, plan: Plan, rows: list[Row], tracts: list[int]) -> list[Row]:
    """Reference and truth catalogues: the given rows (with ids), written as slices. ``tracts`` are all in use."""
    make = {
        "reference_star": lambda t: catalogues.reference_stars(plan, t, site.name),
        "truth_star": lambda t: catalogues.truth_stars(plan, t, tracts, site.name),
        "truth_transient": lambda t: catalogues.truth_transients(plan, t, site.name),
    }
    return _slices(site, [(row, {"tract": row["tract"]}, make[row["dataset_type"]](row["tract"])) for row in rows])


def visit_truth(site: Site, plan: Plan, rows: list[Row]) -> list[Row]:
    """True zero points and WCS of visits: the given rows (with ids), written as slices."""
    make = {"truth_photo_calib": catalogues.truth_photo_calib, "truth_wcs": catalogues.truth_wcs}
    return _slices(
        site,
        [(row, {"day_obs": row["day_obs"]}, make[row["dataset_type"]](plan, plan.visit(row["visit"]), site.name)) for row in rows],
    )


def _slices(site: Site, parts: list[tuple[Row, Mapping[str, object], pa.Table]]) -> list[Row]:
    written = []
    for kind in sorted({row["dataset_type"] for row, _, _ in parts}):
        chosen = [part for part in parts if part[0]["dataset_type"] == kind]
        records = slices.write_slices(site, kind, [(row["dataset_id"], keys, table) for row, keys, table in chosen])
        written += [registration.slice_row(site, row, r) for (row, _, _), r in zip(chosen, records, strict=True)]
    return written
