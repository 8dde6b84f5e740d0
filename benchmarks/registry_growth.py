"""A registry that grows night by night and is looked after as it does: 1e6, 1e7, 1e8 rows at scale 1, 10, 100.

Each night brings 20,000 datasets of 200 visits to scattered tracts. What upkeep costs: how often a row is written again, how long
it takes; and what it buys: in how few files a tract is, and how fast it is found.
"""

from __future__ import annotations

import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np

from benchmarks import Quantity

ABOUT = "A registry that grows night by night: rows that upkeep writes again, its time, files and milliseconds for a tract."
OPTIONS: list[click.Option] = []
NIGHT, DAYS, LOOKS = 20_000, 25, 50


def run(scale: int) -> Iterator[Quantity]:
    """Cost of upkeep by row and night, and look-ups in what it left."""
    from benchmarks import _registry
    from lake import delta, query, registry, upkeep
    from lake.search import REFERENCE, look
    from lake.where import parse

    nights, took, chance = 50 * scale, [], random.Random(1)
    rows = nights * NIGHT
    visits = rows // _registry.DETECTORS
    tracts = visits // _registry.VISITS
    with tempfile.TemporaryDirectory(prefix="drp-growth-") as folder:
        site = _registry.make(Path(folder) / "lake", visits, scattered=True)
        for night in range(nights):
            registry.ingest(site, _registry.datasets(NIGHT, "bench", start=night * NIGHT), verify=False)
            began = time.perf_counter()
            upkeep.tend(site)
            took.append(time.perf_counter() - began)
            if night % DAYS == DAYS - 1:  # days pass, and what was given up goes
                upkeep.sweep(site, "dataset", hours=0)
        log = site.table_path("dataset") / "_delta_log"
        actions = [json.loads(line) for entry in sorted(log.glob("*.json")) for line in entry.read_text().splitlines()]
        added = [action["add"] for action in actions if "add" in action]
        again = sum(json.loads(add["stats"])["numRecords"] for add in added if not add["dataChange"])
        found, files = [], []
        with query.connect(site.lake, ["A"], "A") as con:
            for _ in range(LOOKS + 1):
                condition = parse(f"instrument = 'Cam' AND run = 'bench' AND skymap = 'sky' AND tract = {chance.randrange(tracts)}")
                began = time.perf_counter()
                count = look(con, site, [_registry.TYPE], condition, columns=REFERENCE).num_rows
                found.append(1e3 * (time.perf_counter() - began))
                if count != _registry.VISITS * _registry.DETECTORS:
                    raise click.ClickException(f"{count} datasets were found")
            named = delta.scan("dataset", delta.files(site, "dataset"), filename=True)
            for tract in chance.sample(range(tracts), min(tracts, LOOKS)):
                seen = ", ".join(str(visit) for visit in np.arange(tract, visits, tracts).tolist())
                files.append(con.table(f"SELECT count(DISTINCT filename) FROM ({named}) WHERE visit IN ({seen})")[0][0].as_py())
    yield Quantity("times a row is written again", "1", again / rows, count=rows)
    yield Quantity("upkeep after a night, mean", "ms", 1e3 * statistics.mean(took), count=rows)
    yield Quantity("upkeep after a night, the longest", "ms", 1e3 * max(took), count=rows)
    yield Quantity("files that have images of a tract, mean", "1", statistics.mean(files), count=rows)
    yield Quantity("all of a tract, as references", "ms", statistics.median(found[1:]), count=rows)
