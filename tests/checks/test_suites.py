"""Suites judge data, name the rows at fault, and never take a broken check for bad data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from paper_lake import files

import schemas
from checks import measures, suites
from checks.subject import METRICS
from checks.suites import Check, Verdict
from lake import delta, slices
from lake.query import connect
from lake.site import Lake, LakeError, Site


def named(verdict: Verdict, words: str) -> Check:
    return next(check for check in verdict.rows if words in check.expectation)


def corrupt(site: Site, kind: str, **changed: Any) -> None:
    """Add a slice of unregistered rows to a catalogue table: its first file's, with columns set to a value."""
    path = files(site, kind)[0]
    held = next(i for i, rows in slices.contents(site, path) if rows)
    rows = slices.read_slice(site, path, held).slice(0, 1)
    for name, value in changed.items():
        kind_of = rows.schema.field(name).type
        rows = rows.set_column(rows.column_names.index(name), name, pa.array([value] * rows.num_rows, kind_of))
    partition = slices.add_file(site, path).partition
    keys = {c: int(v) if c != "site" else v for c, v in partition.items()}
    record = slices.write_slices(site, kind, [("corrupted", keys, rows)])[0]
    delta.add_files(site, kind, [slices.add_file(site, record.path)])


def test_a_sound_campaign_meets_every_expectation(lake: Lake) -> None:
    verdict = suites.judge(lake, "paper")
    assert verdict.success, verdict.summary
    assert verdict.summary == f"{len(verdict.rows)} of {len(verdict.rows)} expectations met"
    assert {check.suite for check in verdict.rows} == set(suites.suites())
    assert all(check.observed != "nothing to judge yet" for check in verdict.rows)
    repeat = verdict.tables[("photometry", "repeatability")].to_pylist()
    assert {row["sample"] for row in repeat} == {"fitted", "reserved"}
    assert all(2 < row["repeatability"] < 5 for row in repeat if row["sample"] == "fitted")
    with connect(lake) as con:
        kept = con.table("SELECT suite, expectation, success, offenders FROM validation").to_pylist()
        numbers = con.table("SELECT metric, band, value, unit FROM metric WHERE metric LIKE 'photometric%'").to_pylist()
    assert len(kept) == len(verdict.rows) and all(row["success"] and row["offenders"] is None for row in kept)
    assert {row["unit"] for row in numbers} == {"mmag"} and {row["band"] for row in numbers} == {"g", "r"}


def test_doubled_keys_are_named(lake: Lake) -> None:
    corrupt(lake.site("FRDF"), "visit_table")
    check = named(suites.judge(lake, "paper", "keys", keep=False), "keys are unique")
    assert not check.success and check.error is None
    assert check.offenders[0]["table"] == "visit_table" and check.offenders[0]["rows"] == 2


def test_unphysical_values_are_named_row_by_row(lake: Lake) -> None:
    corrupt(lake.site("FRDF"), "visit_detector_table", detector=9, psfFwhm=-3.0)
    corrupt(lake.site("FRDF"), "object", coord_ra=float("nan"), objectId=12345)
    verdict = suites.judge(lake, "paper", "ranges")
    odd = named(verdict, "physical")
    assert [row["psfFwhm"] for row in odd.offenders] == [-3.0] * len(odd.offenders) and odd.offenders[0]["detector"] == 9
    assert named(verdict, "are there").offenders[0]["objectId"] == 12345
    with connect(lake) as con:
        kept = con.table("SELECT offenders FROM validation WHERE NOT success ORDER BY ALL")["offenders"].to_pylist()
    assert any(json.loads(text)[0].get("psfFwhm") == -3.0 for text in kept)


def test_other_content_at_another_site_is_found_in_rows_and_checksums(lake: Lake) -> None:
    site = lake.site("FRDF")
    with delta.connect() as con:
        delta.relation(con, site, "dataset").create_view("d")
        shared = con.sql("FROM d WHERE dataset_type = 'object' AND tract = 9469 ORDER BY patch LIMIT 1").to_arrow_table()
    row = shared.to_pylist()[0]
    rows = slices.read_slice(site, row["path"], row["dataset_id"])
    flux = rows["r_psfFlux"].to_pylist()
    flux[0] += 1.0
    rows = rows.set_column(rows.column_names.index("r_psfFlux"), "r_psfFlux", pa.array(flux))
    record = slices.write_slices(site, "object", [(row["dataset_id"], {"tract": 9469}, rows)])[0]
    replace(site, row["path"], record, row["dataset_id"])
    verdict = suites.judge(lake, "paper", "site_independence", keep=False)
    assert named(verdict, "same checksum").success is False
    check = named(verdict, "rows made at two sites")
    assert not check.success and {o["site"] for o in check.offenders} == {"USDF", "FRDF"} and len(check.offenders) == 2
    one, two = (o["r_psfFlux"] for o in check.offenders)
    assert abs(one - two) == pytest.approx(1.0)


def replace(site: Site, old: str, record: slices.SliceRecord, dataset_id: str) -> None:
    """Point the registry and the table at another file for one dataset, as nothing in the project would."""
    with delta.connect() as con:
        rows = con.sql(f"FROM ({delta.select(site, 'dataset')})").to_arrow_table().to_pylist()
    changed = [{**r, "path": record.path, "checksum": record.checksum} if r["dataset_id"] == dataset_id else r for r in rows]
    changed = [r for r in changed if r["dataset_type"] == "object"]
    root = str(site.table_path("dataset")) + "/"
    old_files = [p.removeprefix(root) for p in delta.files(site, "dataset") if "dataset_type=object/" in p]
    delta.remove_files(site, "dataset", old_files)
    delta.append(site, "dataset", pa.Table.from_pylist(changed, schema=schemas.table("dataset").arrow))
    kept = [i for i, _ in slices.contents(site, old) if i != dataset_id]
    delta.remove_files(site, "object", [old.removeprefix("tables/catalogues/object/")])
    paths = [record.path, *({r.path for r in slices.extract(site, old, kept)} if kept else ())]
    delta.add_files(site, "object", [slices.add_file(site, path) for path in paths])


def test_lost_files_and_open_ledgers_fail_their_suites(lake: Lake) -> None:
    site = lake.site("FRDF")
    gone = files(site, "visit_image")[0]
    site.path(gone).unlink()
    verdict = suites.judge(lake, "paper", "storage")
    assert named(verdict, "is lost").offenders[0]["path"] == gone
    check = named(suites.judge(lake, "paper", "completeness"), "present or explained")
    assert check.offenders[0]["dataset_type"] == "visit_image" and check.offenders[0]["unexplained"] == 1


def test_a_broken_check_is_an_error_not_a_verdict(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = {
        "odd": [
            {
                "metric": "storage",
                "index": ["site"],
                "expect": [
                    {"says": "a column exists", "check": "ExpectColumnValuesToBeBetween", "column": "nonesuch", "max_value": 0},
                    {"says": "an expectation exists", "check": "ExpectNothingOfTheKind", "column": "lost"},
                ],
            },
            {"metric": "nonesuch", "index": ["site"], "expect": [{"says": "a metric exists", "check": "X", "column": "y"}]},
        ]
    }
    monkeypatch.setattr(suites, "suites", lambda: broken)
    verdict = suites.judge(lake, "paper", keep=False)
    assert not verdict.success and [bool(check.error) for check in verdict.rows] == [True, True, True]
    assert "nonesuch" in str(verdict.rows[0].error) and "could not be judged" in verdict.summary


def test_unknown_suites_and_campaigns_are_refused(finished: Lake) -> None:
    with pytest.raises(LakeError, match="no suite 'weather'; known: storage"):
        suites.judge(finished, "paper", "weather")
    with pytest.raises(LakeError, match="no campaign 'none'"):
        suites.judge(finished, "none")


def test_every_suite_names_a_metric_and_every_range_a_column() -> None:
    for parts in suites.suites().values():
        for part in parts:
            assert part["metric"] in measures.MEASURES or (METRICS / f"{part['metric']}.sql").exists()
    for name, columns in measures.ranges()["tables"].items():
        assert set(columns) - {"where"} <= set(schemas.table(name).arrow.names), name


def test_the_judge_is_loaded_only_when_it_judges() -> None:
    import subprocess
    import sys

    heavy = "[m for m in ('great_expectations', 'pandas', 'matplotlib') if m in sys.modules]"
    code = f"import sys, checks.audit, checks.ledger, checks.suites, checks.report; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.strip() == "[]", done.stderr
