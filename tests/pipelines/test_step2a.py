"""Step 2a: the preliminary summary of a visit from those of its detectors."""

from __future__ import annotations

from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest

import schemas
from pipelines.quantum import Inputs, NoWork, Quantum
from pipelines.step2a import consolidate

VISIT = 26010100001
RECORD: dict[str, Any] = {
    "instrument": "DemoCam", "visit": VISIT, "exposure": VISIT, "day_obs": 20260101, "physical_filter": "r_demo", "band": "r",
    "mjd_mid": 61041.2, "exposure_time": 300.0, "ra": 150.0, "dec": 2.0, "rotation": 0.0, "airmass": 1.2,
}  # fmt: skip


class Detectors(Inputs):
    """preliminary_detector_summary rows in memory."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__(".", {})
        self.rows = pa.Table.from_pylist(rows, schema=schemas.table("preliminary_detector_summary").arrow)

    def relation(self, con: duckdb.DuckDBPyConnection, dataset_type: str) -> duckdb.DuckDBPyRelation:
        con.register(dataset_type, self.rows)
        return con.table(dataset_type)


def detector(number: int, zero_point: float | None, fwhm: float = 12.0) -> dict[str, Any]:
    return {
        "site": "A", "day_obs": 20260101, "instrument": "DemoCam", "band": "r", "physical_filter": "r_demo", "visit": VISIT,
        "detector": number, "psfSigma": 1.1, "psfFwhm": fwhm, "nPsfStar": 50, "skyBg": 900.0, "skyNoise": 31.0,
        "zeroPoint": zero_point, "absolute": zero_point is not None, "wcs": "{}", "ra": 150.0, "dec": 2.0, "nSource": 400,
    }  # fmt: skip


def consolidated(rows: list[dict[str, Any]], records: list[dict[str, Any]] | None = None) -> pa.Table:
    quantum = Quantum(
        "q", "consolidate_visit", {"instrument": "DemoCam", "visit": VISIT},
        context={"visit": [RECORD] if records is None else records},
    )  # fmt: skip
    made = consolidate.run(quantum, Detectors(rows))["preliminary_visit_summary"]
    assert isinstance(made, pa.Table)
    return made


def test_one_row_per_detector_with_the_facts_of_the_visit():
    made = consolidated([detector(8, 26.2), detector(0, 26.0), detector(3, 26.1, 15.0)])
    whole = schemas.conform("preliminary_visit_summary", made.append_column("site", pa.array(["A"] * 3)))
    rows = whole.to_pylist()
    assert [r["detector"] for r in rows] == [0, 3, 8]
    assert {r["visit_zeroPoint"] for r in rows} == {26.1} and {r["visit_psfFwhm"] for r in rows} == {12.0}
    assert {r["nDetector"] for r in rows} == {3} and {r["airmass"] for r in rows} == {1.2}
    assert [r["zeroPoint"] for r in rows] == [26.0, 26.1, 26.2] and rows[1]["nSource"] == 400


def test_order_of_the_rows_does_not_matter():
    rows = [detector(n, 26.0 + 0.01 * n) for n in range(9)]
    turned = [rows[i] for i in np.random.default_rng(1).permutation(9)]
    assert consolidated(rows).equals(consolidated(turned))


def test_unknown_zero_points_do_not_spoil_the_median():
    rows = consolidated([detector(0, 26.0), detector(1, None), detector(2, 26.2)]).to_pylist()
    assert rows[1]["zeroPoint"] is None and rows[1]["visit_zeroPoint"] == 26.1 and rows[1]["nDetector"] == 3


def test_a_visit_without_detectors_is_no_work():
    with pytest.raises(NoWork, match=f"visit {VISIT}: no detector was calibrated"):
        consolidated([])


def test_a_visit_without_its_record_is_named():
    with pytest.raises(consolidate.ConsolidateError, match=f"DemoCam visit {VISIT}: 0 visit records"):
        consolidated([detector(0, 26.0)], [])
