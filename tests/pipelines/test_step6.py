"""Step 6: the sources of a visit with their objects."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from difference_sky import TRACT, Site

import schemas
from pipelines.quantum import Quantum
from pipelines.step6 import consolidate

FIXED = {"skymap": "demo_rings", "tract": TRACT, "site": "TEST"}


def site_with_sources(root: Path) -> Site:
    """Two detectors of visit 5, one of visit 6; three of four sources of visit 5 have an object."""
    site = Site(root)
    for visit, detector, first, count in ((5, 1, 10, 3), (5, 2, 20, 1), (6, 1, 30, 2)):
        columns = {key: [value] * count for key, value in FIXED.items()} | {
            "visit": [visit] * count, "detector": [detector] * count, "instrument": ["TestCam"] * count, "band": ["r"] * count,
            "physical_filter": ["r_test"] * count, "diaSourceId": np.arange(first, first + count),
            "midpointMjdTai": [61000.0 + visit] * count, "coord_ra": np.full(count, 359.9), "coord_dec": np.zeros(count),
            "x": np.zeros(count), "y": np.zeros(count), "psfFlux": np.arange(count) + 0.5, "snr": np.full(count, 7, np.float32),
            "isDipole": [False] * count, "flag_bad": [n == 2 for n in range(count)],
        }  # fmt: skip
        table = schemas.conform("dia_source", pa.table(columns))
        site.put("dia_source", table, skymap="demo_rings", tract=TRACT, visit=visit, detector=detector)
    links = {key: [value] * 4 for key, value in FIXED.items()} | {
        "diaSourceId": [10, 11, 20, 30],
        "diaObjectId": [1, 2, 1, 1],
    }
    site.put("dia_association", schemas.conform("dia_association", pa.table(links)), skymap="demo_rings", tract=TRACT)
    return site


def run(site: Site, visit: int) -> pa.Table:
    quantum = Quantum("q", "consolidate_dia_sources", {"visit": visit, "tract": TRACT, "skymap": "demo_rings"})
    return consolidate.run(quantum, site.inputs("dia_source", "dia_association"))["dia_source_visit"]


def test_a_visit_has_all_its_sources_with_their_objects(tmp_path: Path) -> None:
    table = run(site_with_sources(tmp_path), 5)
    assert table.column_names == [c for c in schemas.table("dia_source_visit").arrow.names if c != "site"]
    assert table["diaSourceId"].to_pylist() == [10, 11, 12, 20]
    assert table["diaObjectId"].to_pylist() == [1, 2, None, 1]
    assert table["detector"].to_pylist() == [1, 1, 1, 2]
    assert table["psfFlux"].to_pylist() == [0.5, 1.5, 2.5, 0.5]
    assert table["flag_bad"].to_pylist() == [False, False, True, False]


def test_a_visit_without_sources_is_an_empty_table(tmp_path: Path) -> None:
    table = run(site_with_sources(tmp_path), 99)
    assert table.num_rows == 0
    declared = schemas.table("dia_source_visit").arrow
    assert table.schema.types == [f.type for f in declared if f.name != "site"]
