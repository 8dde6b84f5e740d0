"""The tables of visits and detectors."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from step2b_sky import TableInputs, table

import schemas
from pipelines.quantum import NoWork, Quantum
from pipelines.step2e import tables

QUANTUM = Quantum("q", "make_visit_tables", {"instrument": "DemoCam", "visit": 7})


def summary(**columns: Any) -> pa.Table:
    """Three detectors around RA 0."""
    rows: dict[str, Any] = {
        "day_obs": [20260101] * 3, "instrument": ["DemoCam"] * 3, "band": ["g"] * 3, "physical_filter": ["g_demo"] * 3,
        "visit": [7] * 3, "detector": [2, 0, 1], "mjd_mid": [61041.5] * 3, "exposure_time": [86.4] * 3, "airmass": [1.3] * 3,
        "zeroPoint": [27.2, 27.0, 27.1], "photo_source": ["global"] * 3, "photometric": [True] * 3, "wcs": ["{}"] * 3,
        "wcs_source": ["fit"] * 3, "absolute": [True] * 3, "ra": [0.5, 359.5, 0.0], "dec": [0.1] * 3,
        "psfFwhm": [13.0, 12.0, 14.0],
    }  # fmt: skip
    rows |= {f"{c}{k}": [0.0] * 3 for c in ("ra", "dec") for k in range(4)}
    return table("visit_summary", rows | columns)


def test_payloads_are_as_declared() -> None:
    for name, rows in tables.run(QUANTUM, TableInputs({"visit_summary": summary()})).items():
        schemas.check(
            name, rows.append_column("site", pa.array(["A"] * rows.num_rows)).select(schemas.table(name).arrow.names).schema
        )


def test_a_visit_across_ra_zero() -> None:
    row = tables.run(QUANTUM, TableInputs({"visit_summary": summary()}))["visit_table"].to_pylist()[0]
    assert min(row["ra"], 360 - row["ra"]) < 1e-9 and row["dec"] == pytest.approx(0.1, abs=1e-4)
    assert row["zeroPoint"] == 27.1 and row["zeroPointScatter"] == pytest.approx(0.1) and row["nDetector"] == 3
    assert row["obsStartMJD"] == pytest.approx(61041.4995) and row["psfFwhm"] == 13.0 and row["photometric"]


def test_a_visit_is_photometric_where_all_its_detectors_are() -> None:
    rows = summary(photometric=[True, False, True])
    result = tables.run(QUANTUM, TableInputs({"visit_summary": rows}))
    assert not result["visit_table"]["photometric"][0].as_py()
    assert result["visit_detector_table"]["photometric"].to_pylist() == [False, True, True]
    assert result["visit_detector_table"]["detector"].to_pylist() == [0, 1, 2]


def test_no_summary() -> None:
    with pytest.raises(NoWork, match="visit 7"):
        tables.run(QUANTUM, TableInputs({}))
