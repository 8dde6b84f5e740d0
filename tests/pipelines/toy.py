"""A toy survey: a small sky by hand, a pipeline of toy tasks that misbehave on request, and a lake to run it in.

Visits 1, 2, ... are alternately in g and r, two to a night; detectors 0 and 1. Detector 0 lies on patch 0 of tract 1,
detector 1 on patch 1 of tract 1, and in odd visits also on patch 0 of tract 2.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

import schemas
from lake import collection, datastore, dimensions, publish
from lake.site import Lake, Site
from pipelines import definition, registration, software
from pipelines.campaign import Campaign, SiteShare
from pipelines.definition import Pipeline
from pipelines.quantum import Inputs, NoWork, Payload, Quantum

DETECTORS = (0, 1)

PIPELINE = """
dataset_types:
  raw:              {dimensions: [instrument, exposure, detector], storage: json}
  flat:             {dimensions: [instrument, detector, physical_filter], storage: json}
  reference_star:   {dimensions: [skymap, tract], storage: json}
  software:         {dimensions: [instrument], storage: json}
  post_isr_image:   {dimensions: [instrument, exposure, detector], storage: json}
  visit_table:      {dimensions: [instrument, visit], storage: table}
  isolated_star:    {dimensions: [skymap, tract], storage: json}
  photo_calib:      {dimensions: [instrument, visit], storage: json}
  direct_warp:      {dimensions: [instrument, visit, skymap, tract, patch], storage: json}
  deep_coadd:       {dimensions: [band, skymap, tract, patch], storage: json}
  difference_image: {dimensions: [instrument, visit, detector, skymap, tract], storage: json}
tasks:
  isr:
    step: step1
    function: toy:isr
    dimensions: [instrument, exposure, detector]
    inputs: {raw: {}, flat: {find: calibration, optional: true}}
    outputs: [post_isr_image]
    cluster: [exposure]
  summarize:
    step: step2a
    function: toy:summarize
    dimensions: [instrument, visit]
    inputs: {post_isr_image: {partial: true}}
    outputs: [visit_table]
    cluster: [day_obs]
  stars:
    step: step2b
    function: toy:note
    dimensions: [skymap, tract]
    inputs: {post_isr_image: {partial: true}, reference_star: {optional: true}}
    outputs: [isolated_star]
  solve:
    step: step2c.solution
    site: central
    function: toy:note
    dimensions: [instrument, skymap]
    inputs: {isolated_star: {partial: true}}
    outputs: [photo_calib]
  warp:
    step: step3
    function: toy:note
    dimensions: [instrument, visit, skymap, tract, patch]
    inputs: {post_isr_image: {partial: true}, isolated_star: {}}
    outputs: [direct_warp]
    cluster: [visit, tract]
  coadd:
    step: step3
    function: toy:note
    dimensions: [band, skymap, tract, patch]
    inputs: {direct_warp: {partial: true}}
    outputs: [deep_coadd]
  subtract:
    step: step4
    function: toy:note
    dimensions: [instrument, visit, detector, skymap, tract]
    inputs: {post_isr_image: {}, deep_coadd: {partial: true}}
    outputs: [difference_image]
    cluster: [visit, tract]
"""


def pipeline() -> Pipeline:
    return definition.parse(yaml.safe_load(PIPELINE), "toy")


def campaign(
    tracts: Mapping[str, tuple[int, ...]] | None = None, config: Mapping[str, Mapping[str, Any]] | None = None, **given: Any
) -> Campaign:
    """A campaign of the toy survey; ``tracts`` by site (all at the central one by default)."""
    shares = {name: SiteShare(own) for name, own in (tracts or {"A": (1, 2)}).items()}
    return Campaign("toy", "Toy", "toy_sky", shares, text="", document={}, config=config or {}, **given)


# -- the lake ----------------------------------------------------------------------------------------------------------


def lake(root: Path, visits: int = 4, raws: bool = False, at: str = "A") -> Lake:
    """Sites A (central) and B, which know the visits; those that ``at`` names have their raws and flats, if asked for."""
    shutil.copytree(_template(visits, at if raws else "", tuple(definition.load().dataset_types)), root)
    return Lake.open(root)


@cache
def _template(visits: int, at: str, declared: tuple[str, ...]) -> Path:
    """The lake that lake() copies, made once for the dataset types that are declared: a lake does not know where it lies."""
    folder = tempfile.TemporaryDirectory(prefix="toy-lake-")
    atexit.register(folder.cleanup)
    return make(Path(folder.name) / "lake", visits, at).root


def make(root: Path, visits: int, at: str = "A") -> Lake:
    """As lake() with raws, from nothing."""
    made = Lake.create(root, {"A": {"central": True}, "B": {}})
    for site in made.sites.values():
        registration.declare(site, "toy", [])
        know(site, visits)
    for name in at:
        place(made.site(name), visits)
    return made


def know(site: Site, visits: int) -> None:
    """The dimension records of the survey's first visits."""
    outline = {f"{name}{n}": 0.0 for n in range(4) for name in ("ra", "dec")} | {"ra": 0.0, "dec": 0.0}
    boxes = dict.fromkeys(("x0", "y0", "x1", "y1", "inner_x0", "inner_y0", "inner_x1", "inner_y1"), 0)
    limits = dict.fromkeys(("dec_min", "dec_max", "ra_min", "ra_max"), 0.0)
    insert(site, "instrument", [{"instrument": "Toy", "detector_count": 2}])
    insert(site, "detector", [{"instrument": "Toy", "detector": d, "width": 8, "height": 8} for d in DETECTORS])
    insert(site, "physical_filter", [{"instrument": "Toy", "physical_filter": f"{b}_toy", "band": b} for b in "gr"])
    nights = [night(v) | {"exposure_time": 30.0, "ra": 0.0, "dec": 0.0, "mjd_mid": 60000.0 + v} for v in range(1, visits + 1)]
    insert(site, "exposure", [n | {"observation_type": "science"} for n in nights])
    insert(site, "visit", [n | {"visit": n["exposure"]} for n in nights])
    insert(
        site, "visit_detector_region",
        [outline | {"instrument": "Toy", "visit": v, "detector": d} for v in range(1, visits + 1) for d in DETECTORS],
    )  # fmt: skip
    sky = {"rings": 1, "pixel_scale": 1.0, "tract_overlap": 0.0, "patch_inner": 8, "patch_border": 0, "patches_per_side": 2}
    insert(site, "skymap", [sky | {"skymap": "toy_sky", "tracts": 3}])
    insert(site, "tract", [outline | limits | {"skymap": "toy_sky", "tract": t, "width": 16} for t in (1, 2)])
    insert(site, "patch", [outline | boxes | {"skymap": "toy_sky", "tract": t, "patch": p} for t in (1, 2) for p in (0, 1)])
    insert(site, "visit_detector_patch", [overlap | {"instrument": "Toy", "skymap": "toy_sky"} for overlap in overlaps(visits)])


def overlaps(visits: int) -> list[dict[str, int]]:
    """(visit, detector, tract, patch) of the footprint."""
    found = [{"visit": v, "detector": d, "tract": 1, "patch": d} for v in range(1, visits + 1) for d in DETECTORS]
    return found + [{"visit": v, "detector": 1, "tract": 2, "patch": 0} for v in range(1, visits + 1, 2)]


def night(visit: int) -> dict[str, Any]:
    """What an exposure implies."""
    band = "g" if visit % 2 else "r"
    day_obs = 20260101 + (visit - 1) // 2
    return {"instrument": "Toy", "exposure": visit, "day_obs": day_obs, "band": band, "physical_filter": f"{band}_toy"}


def insert(site: Site, table: str, rows: list[dict[str, Any]]) -> None:
    schema = schemas.table(table).arrow
    dimensions.insert(site, table, pa.Table.from_pylist([{c: r.get(c) for c in schema.names} for r in rows], schema=schema))


def place(site: Site, visits: int) -> None:
    """The software, raws of all visits, and flats per filter, valid before (flat 'old') and from (flat 'new') visit 3 on."""
    register(site, "software", "toy/software", [({"instrument": "Toy"}, software.describe().decode())])
    raws = [{**night(v), "visit": v, "detector": d} for v in range(1, visits + 1) for d in DETECTORS]
    register(site, "raw", "toy/raw", [(row, f"raw {row['visit']} {row['detector']}") for row in raws])
    collection.register_collections(
        site, [("toy/calib", "CALIBRATION", None), ("toy/calib/old", "RUN", None), ("toy/calib/new", "RUN", None)]
    )
    for name, begin, end in (("old", 0.0, 60003.0), ("new", 60003.0, 90000.0)):
        keys = [{"instrument": "Toy", "detector": d, "physical_filter": f"{b}_toy", "band": b} for b in "gr" for d in DETECTORS]
        rows = register(site, "flat", f"toy/calib/{name}", [(key, f"flat {name}") for key in keys])
        collection.certify(site, "toy/calib", rows, begin, end)


def register(site: Site, kind: str, run: str, files: list[tuple[dict[str, Any], str]]) -> pa.Table:
    """Write and publish file datasets: (data ID, content) each; returns their rows."""
    rows = []
    for data_id, content in files:
        path = datastore.template(run, kind, data_id, "json")
        record = datastore.write_file(site, path, content.encode())
        rows.append(registration.file_row(site, kind, run, data_id, record))
    table = registration.rows_with_ids(rows)
    verdicts = registration.publish_rows(publish.Publisher(site), table).to_pylist()
    assert {v["verdict"] for v in verdicts} == {"accepted"}, verdicts
    return table


# -- the tasks ---------------------------------------------------------------------------------------------------------


def isr(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """Copies its raw; ``config.acts`` maps 'visit.detector' to a misdeed, ``config.scratch`` is where it remembers."""
    visit, detector = quantum.data_id["exposure"], quantum.data_id["detector"]
    act = quantum.config.get("acts", {}).get(f"{visit}.{detector}")
    content = inputs.path(inputs.refs("raw")[0]).read_bytes()
    if act == "nothing":
        raise NoWork("the shutter was closed")
    if act == "fail":
        raise ValueError("the pixels are\nbroken")
    if act == "once":
        remembered = Path(quantum.config["scratch"]) / f"{visit}.{detector}"
        if not remembered.exists():
            remembered.touch()
            raise OSError("come again")
    if act == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if act == "other":
        return {"flat": content}
    if act == "exhaust":
        raise MemoryError
    return {"post_isr_image": content + b" flat " + b",".join(inputs.path(f).read_bytes() for f in inputs.refs("flat"))}


def summarize(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """One row of ``visit_table``: how many detectors there were."""
    visit = quantum.context["visit"][0]
    row = {c: visit.get(c) for c in ("day_obs", "instrument", "band", "physical_filter", "visit")}
    row |= {"expMidptMJD": visit["mjd_mid"], "expTime": 30.0, "ra": 0.0, "dec": 0.0, "photometric": True}
    row["nDetector"] = len(inputs.refs("post_isr_image"))
    schema = schemas.table("visit_table").arrow
    rows = pa.Table.from_pylist([{c: row.get(c) for c in schema.names if c != "site"}], schema=schema.remove(0))
    return {"visit_table": rows}


def note(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """Writes down what it was given."""
    kinds = {task.label: task for task in pipeline().tasks}[quantum.task]
    read = [f"{ref.dataset_type} {dict(ref.data_id)}" for given in kinds.inputs for ref in inputs.refs(given.dataset_type)]
    return {name: "\n".join([quantum.task, *read]).encode() for name in kinds.outputs}
