"""A campaign on paper: simulated inputs, the real graph, rules and publication, but products written, not computed.

Two sites, two tracts, one of them processed at both. Products follow the simulator's truth (zero points off by a
millimagnitude, positions by a fraction of a pixel), so that suites, accuracy and report have something to judge.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from paper_products import PaperProducts

import schemas
from lake import datastore, delta, movement, publish, registry, slices
from lake.site import Lake, Site
from pipelines import campaign as campaigns
from pipelines import definition, graph, inception, instrument, placement, registration, simulate
from pipelines.campaign import Campaign
from pipelines.journal import Journal

TEXT = """
name: paper
description: products written down, not computed
instrument: TinyCam
skymap: tiny_rings
sites:
  USDF: {tracts: [9469]}
  FRDF: {tracts: [9470], also: [9469]}
simulate:
  nights: [20260910, 20260912]
  cloudy_nights: []
  cloudy_visits: 1
  bands: [g, r]
  epochs: 2
  exposure_time: 100.0
  star_density: 40.0
  star_break: 13.5
  star_slopes: [0.28, 0.12]
  star_range: [8.0, 16.0]
  galaxy_density: 5.0
  galaxy_range: [11.0, 15.0]
  variables: 5
  variable_range: [10.5, 13.0]
  transients: 4
  transient_range: [11.5, 13.0]
"""

Decide = Callable[[str, dict[str, Any]], str]


class Inline(Executor):
    """Runs what is submitted at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


def always(task: str, quantum: dict[str, Any]) -> str:
    """Every quantum succeeds."""
    return "succeeded"


def make(root: Path, through: str | None = None, decide: Decide = always) -> Lake:
    """The lake after all phases and steps, or after ``through``; ``decide`` gives each quantum's state."""
    campaign = campaigns.parse(TEXT, "paper")
    lake = Lake.create(root, {"USDF": {"central": True, "cores": 4}, "FRDF": {"cores": 2}})
    pipeline = definition.load()
    journal = Journal(lake, campaign.name)
    journal.write("campaign", state="running", definition=TEXT, who="op@host", why=None)
    for site in lake.sites.values():
        inception.declare(site, campaign, pipeline)
    registration.put_dimensions(lake.central, registration.instrument_records(instrument.load(campaign.instrument)))
    inception.pin_software(lake, campaign, pipeline)
    simulate.simulate(lake, campaign, Inline())
    products = PaperProducts(lake, campaign)
    for kind, name in ((kind, name) for kind, names in placement.PLANS[campaign.calibration] for name in names):
        if kind == "move":
            journal.write("step", step=name, site=lake.central.name, state="running", who="op@host")
            move(lake, campaign, name)
            journal.write("step", step=name, site=lake.central.name, state="accepted", who="op@host")
        else:
            for site in [lake.central] if kind == "central" else lake.sites.values():
                journal.write("step", step=name, site=site.name, state="running", who="op@host")
                predict(site, campaign)
                tally = run(site, campaign, name, products, decide)
                state = "reviewable" if tally["failed"] else "accepted"
                journal.write("step", step=name, site=site.name, state=state, who="op@host", **tally)
        if name == through:
            break
    else:
        journal.write("campaign", state="done", definition=TEXT, who="op@host", why=None)
    journal.flush()
    return lake


def move(lake: Lake, campaign: Campaign, phase: str) -> None:
    specs = placement.rules(phase, definition.load(), campaign, lake.central.name)
    rules = movement.add_rules(lake, specs)
    report = movement.run_rules(lake, rules)
    assert report.ok, report.stuck


def predict(site: Site, campaign: Campaign) -> None:
    """Write the site's quanta and expected datasets, once."""
    if delta.version(site, "quantum") >= 0:
        return
    quanta, expected = graph.predict(site, definition.load(), campaign)
    at = pa.array([datetime.now(UTC)] * quanta.num_rows, pa.timestamp("us", "UTC"))
    delta.append(site, "quantum", schemas.conform("quantum", quanta.append_column("noted_at", at)))
    delta.append(site, "expected_dataset", expected)


def run(site: Site, campaign: Campaign, step: str, products: PaperProducts, decide: Decide = always) -> dict[str, int]:
    """Leave what the step's quanta should leave, in one batch; returns the tally."""
    with graph.connect(site, ["quantum", "expected_dataset"]) as con:
        quanta = con.sql("FROM quantum WHERE step = $s ORDER BY quantum_id", params={"s": step}).to_arrow_table().to_pylist()
        rows = con.sql(
            "FROM expected_dataset WHERE step = $s ORDER BY dataset_type, dataset_id", params={"s": step}
        ).to_arrow_table()
    states = {q["quantum_id"]: decide(q["task"], q) for q in quanta}
    rows = [row for row in rows.to_pylist() if states[row["quantum_id"]] == "succeeded"]
    datasets = write(site, rows, products)
    attempts = [
        {
            "quantum_id": q["quantum_id"],
            "campaign": campaign.name,
            "step": step,
            "task": q["task"],
            "job": q["job"],
            "attempt": 1,
            "state": states[q["quantum_id"]],
            "reason": None if states[q["quantum_id"]] == "succeeded" else "on paper",
            "seconds": 0.1,
            "peak_memory_mb": 100.0,
            "host": "paper",
            "software": "paper",
            "noted_at": datetime.now(UTC),
        }
        for q in quanta
    ]
    batch = publish.Batch(registration.rows_with_ids(datasets), pa.Table.from_pylist(attempts, schemas.table("attempt").arrow))
    verdicts = set(publish.Publisher(site).publish(batch)["verdict"].to_pylist())
    assert verdicts <= {"accepted", "present"}, verdicts
    failed = sum(state in ("failed", "blocked") for state in states.values())
    return {"quanta": len(quanta), "succeeded": len(quanta) - failed, "failed": failed}


def write(site: Site, rows: Iterable[dict[str, Any]], products: PaperProducts) -> list[dict[str, Any]]:
    """Files and slices of expected datasets, as registry rows."""
    storage = {name: kind.storage for name, kind in definition.load().dataset_types.items()}
    written: list[dict[str, Any]] = []
    tables: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        kind = row["dataset_type"]
        known = {c: row[c] for c in ("dataset_id", "dataset_type", "run", "quantum_id", *schemas.DATA_ID)}
        if storage[kind] == "table":
            tables.setdefault(kind, []).append(known)
            continue
        path = datastore.template(row["run"], kind, row, storage[kind])
        record = datastore.write_file(site, path, hashlib.sha256(row["dataset_id"].encode()).digest() * 40)
        written.append(registration.file_row(site, kind, row["run"], known, record))
    for kind, given in tables.items():
        parts = [(row["dataset_id"], _partition(kind, row), products.rows(kind, row)) for row in given]
        records = slices.write_slices(site, kind, parts)
        written += [registration.slice_row(site, row, record) for row, record in zip(given, records, strict=True)]
    return written


def _partition(kind: str, row: dict[str, Any]) -> dict[str, Any]:
    return {c: row[c] for c in schemas.table(kind).partition_by if c != "site" and row[c] is not None}


def files(site: Site, kind: str) -> list[str]:
    """Paths of the registered files of a dataset type."""
    with delta.connect() as con:
        return sorted({row[0] for row in registry.datasets(con, site, types=[kind]).project("path").fetchall()})


def flip(path: Path) -> None:
    """Change one byte in the middle, keeping size."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
