"""Simulate a campaign's inputs at a site: raws, calibrations, reference stars and truth; only what is not there yet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake import collection, delta, publish, registry
from lake.site import Lake, Site
from pipelines import registration
from pipelines.campaign import Campaign
from pipelines.raw import header_facts, night_begin
from pipelines.registration import Row
from pipelines.simulate import exposure, survey, work
from pipelines.simulate.catalogues import TRUTH
from pipelines.simulate.settings import SimulateError
from pipelines.simulate.survey import Plan

Progress = Callable[[int, int], None]
Job = tuple[Callable[..., list[Row]], tuple[Any, ...]]
#: Rows are published when this many seconds have passed.
PUBLISH_SECONDS = 1.0
#: Days after the last night for which its calibrations hold.
LAST_VALIDITY = 365.0


@dataclass
class Summary:
    """What simulate() did: datasets by type that are new, and how many of the campaign's inputs were there before."""

    site: str
    visits: int
    new: dict[str, int] = field(default_factory=dict)
    present: int = 0
    bytes: int = 0
    seconds: float = 0.0


def simulate(lake: Lake, campaign: Campaign | Mapping[str, Any], executor: Executor, progress: Progress | None = None) -> Summary:
    """Make what is missing of a campaign's simulated inputs; ``progress(done, total)`` counts datasets.

    Killed at any moment and run again, it continues: what is registered is not made again, and files come out the same.
    Raises SimulateError where the campaign's ``simulate`` section is wrong, or the registry refuses a dataset.
    """
    start = time.monotonic()
    plan = survey.plan(survey.mapping(campaign))
    site = lake.site(plan.settings.site) if plan.settings.site else lake.central
    frames = [
        header_facts(exposure.header(plan, visit, d.detector), plan.instrument)
        for visit in plan.visits
        for d in plan.instrument.detectors
    ]
    registration.declare(site, plan.campaign, [work.calibration_run(plan, e) for e in plan.epochs], TRUTH)
    records = registration.dimension_records(plan.instrument, plan.skymap, frames)
    registration.put_dimensions(site, records)
    tracts = records["tract"]["tract"].to_pylist()
    expected = registration.rows_with_ids(
        [*_raws(plan, frames), *_calibrations(plan), *_catalogues(plan, tracts)], {k: d for k, (d, _) in TRUTH.items()}
    )
    missing = _missing(site, expected)
    summary = Summary(site.name, len(plan.visits), present=expected.num_rows - missing.num_rows)
    _run(site, plan, missing.to_pylist(), tracts, executor, summary, progress)
    _certify(site, plan, expected)
    summary.seconds = time.monotonic() - start
    return summary


# -- what should be there ----------------------------------------------------------------------------------------------


def _raws(plan: Plan, frames: list[dict[str, Any]]) -> list[Row]:
    run = f"{plan.campaign}/raw"
    return [{**registration.raw_id(f), "dataset_type": "raw", "run": run} for f in frames]


def _calibrations(plan: Plan) -> list[Row]:
    return [row for d in plan.instrument.detectors for row in work.calibration_rows(plan, d.detector)]


def _catalogues(plan: Plan, tracts: list[int]) -> list[Row]:
    truth = f"{plan.campaign}/truth"
    rows: list[Row] = []
    for tract in tracts:
        sky = {"skymap": plan.skymap_name, "tract": tract}
        rows.append({**sky, "dataset_type": "reference_star", "run": f"{plan.campaign}/refcat"})
        rows += [{**sky, "dataset_type": kind, "run": truth} for kind in ("truth_star", "truth_transient")]
    for v in plan.visits:
        visit = {
            "instrument": plan.instrument_name, "exposure": v.visit, "visit": v.visit, "band": v.band,
            "physical_filter": v.physical_filter, "day_obs": v.day_obs,
        }  # fmt: skip
        rows += [{**visit, "dataset_type": kind, "run": truth} for kind in ("truth_photo_calib", "truth_wcs")]
    return rows


def _missing(site: Site, expected: pa.Table) -> pa.Table:
    """Expected datasets that are not registered, in their order."""
    with delta.connect() as con:
        con.register("expected", expected.append_column("ordinal", pa.array(range(expected.num_rows), pa.int64())))
        registry.datasets(con, site, types=expected["dataset_type"].unique().to_pylist()).create_view("known")
        return con.sql(
            "SELECT * EXCLUDE (ordinal) FROM expected ANTI JOIN known USING (dataset_id) ORDER BY ordinal"
        ).to_arrow_table()


# -- making it ---------------------------------------------------------------------------------------------------------


def _jobs(site: Site, plan: Plan, missing: list[Row], tracts: list[int]) -> Iterator[Job]:
    """Catalogues and calibrations first, then visits in order of time; each job's rows lie in one partition at most."""
    catalogue = [row for row in missing if row["dataset_type"] in ("reference_star", "truth_star", "truth_transient")]
    if catalogue:
        yield work.tract_catalogues, (site, plan, catalogue, tracts)
    truth = [row for row in missing if row["dataset_type"] in ("truth_photo_calib", "truth_wcs")]
    for night in sorted({row["day_obs"] for row in truth}):
        yield work.visit_truth, (site, plan, [row for row in truth if row["day_obs"] == night])
    for detector in sorted({row["detector"] for row in missing if row["run"].startswith(f"{plan.campaign}/calib/")}):
        yield work.detector_calibrations, (site, plan, detector)
    raws: dict[int, list[int]] = {}
    for row in missing:
        if row["dataset_type"] == "raw":
            raws.setdefault(row["visit"], []).append(row["detector"])
    for visit, detectors in raws.items():
        yield work.visit_raws, (site, plan, visit, detectors)


def _run(
    site: Site, plan: Plan, missing: list[Row], tracts: list[int], executor: Executor, summary: Summary,
    progress: Progress | None,
) -> None:  # fmt: skip
    if not missing:
        return
    publisher = publish.Publisher(site)
    jobs = _jobs(site, plan, missing, tracts)
    running: set[Future[list[Row]]] = {executor.submit(function, *arguments) for function, arguments in jobs}
    rows: list[Row] = []
    published, done, total = time.monotonic(), 0, len(missing)
    try:
        while running:
            finished, running = wait(running, timeout=PUBLISH_SECONDS, return_when=FIRST_COMPLETED)
            for future in finished:
                rows += future.result()
            if rows and (not running or time.monotonic() - published > PUBLISH_SECONDS):
                _publish(publisher, rows, summary)
                done += len(rows)
                rows, published = [], time.monotonic()
                if progress is not None:
                    progress(min(done, total), total)
    finally:
        for future in running:
            future.cancel()


def _publish(publisher: publish.Publisher, rows: list[Row], summary: Summary) -> None:
    table = registration.rows_with_ids(rows, {k: d for k, (d, _) in TRUTH.items()})
    verdicts = registration.publish_rows(publisher, table)
    for row, verdict in zip(rows, verdicts.to_pylist(), strict=True):
        if verdict["verdict"] in ("rejected", "parked"):
            raise SimulateError(f"{row['path']}: {verdict['verdict']}: {verdict['reason']}")
        if verdict["verdict"] == "accepted":
            summary.new[row["dataset_type"]] = summary.new.get(row["dataset_type"], 0) + 1
            summary.bytes += row["bytes"]


def _certify(site: Site, plan: Plan, expected: pa.Table) -> None:
    """Each epoch's flats hold until the next epoch begins; the rest holds for the whole survey."""
    begins = [night_begin(night) for night in plan.epochs]
    end = night_begin(plan.settings.nights[-1]) + LAST_VALIDITY
    ends = [*begins[1:], end]
    inputs = registration.calibrations(plan.campaign)
    for i, epoch in enumerate(plan.epochs):
        mine = expected.filter(pc.equal(expected["run"], work.calibration_run(plan, epoch)))
        flats = pc.equal(mine["dataset_type"], "flat")
        collection.certify(site, inputs, mine.filter(flats), begins[i], ends[i])
        if i == 0:
            collection.certify(site, inputs, mine.filter(pc.invert(flats)), begins[i], end)
