"""What a campaign starts from: the software fingerprint, and its raws, calibrations and reference stars at their sites."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures.process import BrokenProcessPool
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

import schemas
from lake import datastore, delta, movement, registry
from lake.site import Lake, Site
from pipelines import execute, instrument, placement, registration, software
from pipelines.campaign import Campaign, CampaignError
from pipelines.definition import Pipeline, Task
from pipelines.journal import now
from pipelines.runner import WorkerError

if TYPE_CHECKING:
    from pipelines.driver import Progress


class FingerprintError(RuntimeError):
    """The software that runs is not the software that the campaign pinned."""


def check(lake: Lake, campaign: Campaign, pipeline: Pipeline) -> None:
    """Refuse a campaign that speaks of a site, instrument or setting that does not exist, before anything is written."""
    instrument.load(campaign.instrument)
    for task in pipeline.tasks:
        if task.label in campaign.config:
            _check_settings(f"campaign {campaign.name}: config.{task.label}", task, campaign.config[task.label])
    for name in {**campaign.sites, **(campaign.raws or {})}:
        lake.site(name)
    if lake.central.name not in campaign.sites:
        raise CampaignError(
            f"campaign {campaign.name}: sites: {lake.central.name} is missing: it is the central site "
            "(give it 'tracts: []' if it is to process none)"
        )
    movement.check(lake, placement.own_rules(lake, pipeline, campaign))
    if campaign.simulate is not None:
        from pipelines.simulate import survey

        survey.plan(survey.mapping(campaign))


def _check_settings(where: str, task: Task, given: Mapping[str, Any]) -> None:
    kind = task.load_settings()
    known = {f.name: f.default for f in fields(kind)} if kind is not None else {}
    for key, value in given.items():
        if key not in known:
            raise CampaignError(f"{where}: unknown setting {key!r}; known settings: {', '.join(known) or 'none'}")
        number = isinstance(known[key], (int, float)) and not isinstance(known[key], bool)
        if number and (isinstance(value, bool) or not isinstance(value, (int, float))):
            raise CampaignError(f"{where}.{key}: {value!r} is not a number (the default is {known[key]})")
        if isinstance(known[key], bool) and not isinstance(value, bool):
            raise CampaignError(f"{where}.{key}: {value!r} is neither true nor false")


def fill(lake: Lake, campaign: Campaign, pipeline: Pipeline, progress: Progress) -> None:
    """Register the campaign's dataset types and runs, pin the software, and simulate or ingest the raws it names.

    Everything here looks first at what exists, so that it costs little on a campaign that has started.
    """
    for site in lake.sites.values():
        declare(site, campaign, pipeline)
    registration.put_dimensions(lake.central, registration.instrument_records(instrument.load(campaign.instrument)))
    pin_software(lake, campaign, pipeline)
    if campaign.simulate is not None:
        progress.phase("simulate")
        _simulate(lake, campaign, progress)
    if campaign.raws is not None:
        ingest(lake, campaign)


def _simulate(lake: Lake, campaign: Campaign, progress: Progress) -> None:
    """Make the inputs that are not there yet; where a worker dies, what it had in hand is made again."""
    from pipelines.simulate import simulate

    for left in reversed(range(campaign.attempts)):
        try:
            with execute.pool(os.cpu_count() or 2) as executor:
                simulate(lake, campaign, executor, lambda done, total: progress.update("simulate", "exposures", done, total))
            return
        except BrokenProcessPool:
            if not left:
                raise WorkerError(f"campaign {campaign.name}: worker processes die while they simulate (out of memory?)") from None


def declare(site: Site, campaign: Campaign, pipeline: Pipeline) -> None:
    """Make the pipeline's dataset types and the campaign's collections known at a site."""
    registry.register_dataset_types(site, {k.name: (k.dimensions, k.storage) for k in pipeline.dataset_types.values()})
    runs = sorted({pipeline.run(campaign.name, name) for name in pipeline.dataset_types})
    calibration = f"{campaign.name}/calib"
    registry.register_collections(
        site,
        [(run, "CALIBRATION" if run == calibration else "RUN", None) for run in runs]
        + [(campaign.name, "CHAINED", ",".join(reversed(runs)))],
    )


def pin_software(lake: Lake, campaign: Campaign, pipeline: Pipeline) -> None:
    """Register the fingerprint once, at the central site; refuse to continue a campaign with other software."""
    site, run = lake.central, pipeline.run(campaign.name, "software")
    with delta.connect() as con:
        held = registry.datasets(con, site, "run = $run", {"run": run}, ["software"]).select("path").fetchall()
    if held:
        pinned = site.path(held[0][0]).read_bytes()
        if pinned != software.describe():
            raise FingerprintError(
                f"campaign {campaign.name} was begun with other software: {difference(pinned, software.describe())}; "
                f"install that again, or start a new campaign"
            )
        return
    row: dict[str, Any] = dict.fromkeys(schemas.table("dataset").arrow.names)
    row |= {"dataset_type": "software", "run": run, "instrument": campaign.instrument}
    record = datastore.write_file(site, datastore.template(run, "software", row, "json"), software.describe())
    row |= {
        "path": record.path, "bytes": record.bytes, "checksum": record.checksum, "file_bytes": record.bytes,
        "file_checksum": record.checksum, "origin": site.name, "registered_at": now(), "dataset_id": "",
    }  # fmt: skip
    rows = pa.Table.from_pylist([row], schema=schemas.table("dataset").arrow)
    (verdict,) = registry.ingest(site, registry.with_ids(None, rows, pipeline.dimensions())).to_pylist()
    if verdict["verdict"] not in ("accepted", "present"):
        raise FingerprintError(f"the software fingerprint cannot be registered: {verdict['reason']}")


def difference(pinned: bytes, running: bytes) -> str:
    """What differs between two fingerprints, in words."""
    import json

    old, new = json.loads(pinned), json.loads(running)
    found = [
        f"{name} {old['packages'].get(name)} then, {new['packages'].get(name)} now"
        for name in sorted({*old["packages"], *new["packages"]})
        if old["packages"].get(name) != new["packages"].get(name)
    ]
    found += [f"{k} {old[k]} then, {new[k]} now" for k in ("python", "machine") if old[k] != new[k]]
    return "; ".join(found) or "the project's own source has changed"


def ingest(lake: Lake, campaign: Campaign) -> None:
    """Ingest the real frames that the campaign names: ``raws: {SITE: [patterns]}`` below DRP_REAL_DATA."""
    from pipelines.ingest_raws import ingest_raws

    root = Path(os.environ.get("DRP_REAL_DATA", "../shared/data"))
    for name, patterns in (campaign.raws or {}).items():
        files = sorted(file for pattern in patterns for file in root.glob(pattern))
        if not files:
            raise CampaignError(
                f"campaign {campaign.name}: raws.{name}: no file matches {patterns} below {root} (set DRP_REAL_DATA)"
            )
        ingest_raws(lake, lake.site(name), files, campaign)
