"""A visit that a site does not know: its raws wait, seen by all; the others go in at once; the campaign brings the record."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from campaign_state import drp, violations

import schemas
from lake import datastore, delta, dimensions, registry
from lake.site import Lake


def test_parked_shown_and_admitted(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake", {"USDF": {"central": True}, "FRDF": {}})
    begun = drp("run", lake.root, "tiny", "--step", "step1", "--site", "USDF")
    assert begun.returncode == 0, begun.stderr
    usdf, frdf = lake.central, lake.site("FRDF")
    with delta.connect() as con:
        raws = schemas.conform("dataset", registry.datasets(con, usdf, types=["raw"]).order("dataset_id").to_arrow_table())
    origin = raws.column_names.index("origin")  # as if they had come from the telescope to this site
    raws = raws.set_column(origin, "origin", pa.array(["FRDF"] * raws.num_rows, pa.string()))
    unknown = max(raws["visit"].to_pylist())
    of_unknown = pc.equal(raws["visit"], unknown)
    for row in raws.select(["path", "file_checksum"]).to_pylist():
        datastore.put_file(frdf, usdf.path(row["path"]), row["path"], expected=row["file_checksum"])
    dimensions.copy(usdf, frdf, raws.filter(pc.invert(of_unknown)))

    verdicts = registry.ingest(frdf, raws)
    parked = verdicts.filter(of_unknown).to_pylist()
    assert [v["verdict"] for v in parked] == ["parked", "parked"]
    assert all(f"visit {unknown}" in v["reason"] or f"exposure {unknown}" in v["reason"] for v in parked), parked
    assert set(verdicts.filter(pc.invert(of_unknown))["verdict"].to_pylist()) == {"accepted"}
    with delta.connect() as con:
        delta.view(con, frdf, "dataset")
        assert con.execute("SELECT count(*), max(visit) < $v FROM dataset", {"v": unknown}).fetchall() == [(10, True)]

    said = drp("sql", lake.root, "SELECT site, dataset_type, state, reason FROM parked_now", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(said.stdout)))
    assert [(row["site"], row["dataset_type"], row["state"]) for row in rows] == [("FRDF", "raw", "parked")] * 2, said.stderr
    ledger = drp("ledger", lake.root, "--step", "place", "--format", "csv")
    counts = {(row["site"], row["dataset_type"]): row for row in csv.DictReader(io.StringIO(ledger.stdout))}
    assert ledger.returncode == 1
    assert (counts["FRDF", "raw"]["visible"], counts["FRDF", "raw"]["parked"]) == ("10", "2")
    assert "2 parked" in ledger.stderr and str(unknown) in ledger.stderr

    done = drp("run", lake.root, "--through", "step1")
    assert done.returncode == 0, done.stderr
    assert registry.parked(frdf).num_rows == 0
    said = drp("sql", lake.root, "SELECT state, count(*) AS n FROM parked_now GROUP BY ALL", "--format", "csv")
    assert said.stdout == "state,n\nadmitted,2\n"
    ledger = drp("ledger", lake.root, "--step", "place", "--format", "csv")
    counts = {(row["site"], row["dataset_type"]): row for row in csv.DictReader(io.StringIO(ledger.stdout))}
    assert (counts["FRDF", "raw"]["visible"], counts["FRDF", "raw"]["parked"]) == ("12", "0")
    assert {row["reconciled"] for row in counts.values()} == {"True"}
    assert violations(lake.root) == []
