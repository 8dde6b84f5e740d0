"""Step 2d: a visit with its final calibration: a summary row per detector, and its sources in nJy and final coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pipelines import instrument
from pipelines.quantum import Inputs, NoWork, Quantum, returned
from pipelines.wcs import SkyWcs

FINAL_CALIBRATION = Path(__file__).with_name("final_calibration.sql").read_text()
SOURCES = Path(__file__).with_name("sources.sql").read_text()


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``visit_summary`` and ``source`` of one visit; NoWork where step 1 left no detector of it."""
    visit = int(quantum.data_id["visit"])
    with duckdb.connect(config={"threads": 1}) as con:
        for name in ("preliminary_visit_summary", "single_visit_star", "photo_calib", "visit_wcs"):
            inputs.relation(con, name)
        calibration = con.sql(FINAL_CALIBRATION, params={"visit": visit}).to_arrow_table()
        if not calibration.num_rows:
            raise NoWork(f"no calibrated detector in visit {visit}")
        con.register("calibration", calibration)
        rows = calibration.select(["instrument", "detector", "wcs"]).to_pylist()
        wcs = {int(row["detector"]): SkyWcs.from_json(row["wcs"]) for row in rows}
        size = {d: detector_size(quantum, rows[0]["instrument"], d) for d in wcs}
        con.register("position", positions(con, wcs))
        sources = con.sql(SOURCES).to_arrow_table()
    return {
        "visit_summary": returned("visit_summary", with_geometry(calibration, list(wcs.values()), list(size.values()))),
        "source": returned("source", sources),
    }


def positions(con: duckdb.DuckDBPyConnection, wcs: dict[int, SkyWcs]) -> pa.Table:
    """Sky positions (deg) of the detections of the calibrated detectors, by sourceId."""
    rows = con.sql("SELECT sourceId, detector, x, y FROM single_visit_star").fetchnumpy()
    detector, x, y = (np.asarray(rows[c]) for c in ("detector", "x", "y"))
    ra, dec = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for number, solution in wcs.items():
        own = detector == number
        ra[own], dec[own] = solution.pixel_to_sky(x[own], y[own])
    return pa.table({"sourceId": rows["sourceId"], "coord_ra": ra, "coord_dec": dec})


def detector_size(quantum: Quantum, camera: str, detector: int) -> tuple[int, int]:
    """Imaging pixels (width, height): of the dimension record, else of the camera's own file."""
    for record in quantum.context.get("detector", []):
        if record["detector"] == detector and record["instrument"] == camera:
            return record["width"], record["height"]
    found = instrument.load(camera).detector(detector)
    return found.width, found.height


def with_geometry(calibration: pa.Table, wcs: list[SkyWcs], sizes: list[tuple[int, int]]) -> pa.Table:
    """Add the detector centre ``ra``, ``dec`` and the corners of its outer pixel edges, counter-clockwise in pixels."""
    points: list[tuple[Any, Any]] = []
    for solution, (width, height) in zip(wcs, sizes, strict=True):
        x = np.array([(width - 1) / 2.0, -0.5, width - 0.5, width - 0.5, -0.5])
        y = np.array([(height - 1) / 2.0, -0.5, -0.5, height - 0.5, height - 0.5])
        points.append(solution.pixel_to_sky(x, y))
    for k, suffix in enumerate(("", "0", "1", "2", "3")):
        calibration = calibration.append_column("ra" + suffix, pa.array([float(ra[k]) for ra, _ in points]))
        calibration = calibration.append_column("dec" + suffix, pa.array([float(dec[k]) for _, dec in points]))
    return calibration
