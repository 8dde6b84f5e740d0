"""The ingester: what is verified becomes registered once, what cannot yet waits, what must not is named."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import small_lake

from lake import delta, dimensions, ingester, movement, query, registry, transfer_log, upkeep
from lake.ingester import Ingested, ingest
from lake.site import Lake
from lake.sql import statement
from lake.transfer_log import Event


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Raws of two visits at the centre, and their files, but nothing registered, at LANCS."""
    lake = small_lake.make(tmp_path / "lake", raws=True)
    shutil.copytree(lake.central.path("files"), lake.site("LANCS").path("files"), dirs_exist_ok=True)
    return lake


def report_verified(lake: Lake, rule: movement.Rule, paths: Sequence[str] | None = None) -> None:
    """Events as the copy engine leaves them."""
    site = lake.site("LANCS")
    with query.connect(lake, ["LANCS"]) as con:
        rows = con.table("SELECT DISTINCT path, file_bytes FROM manifest WHERE rule_id = $r", {"r": rule.rule_id})
    events = [
        Event(rule.rule_id, row["path"], "USDF", "LANCS", "verified", 1, row["file_bytes"])
        for row in rows.to_pylist()
        if paths is None or row["path"] in paths
    ]
    transfer_log.write(site, events)


def raws(lake: Lake, predicate: str = "true") -> movement.Rule:
    return movement.add_rule(lake, "c", "raws", ["raw"], predicate, "USDF", "LANCS")


def know_everything(lake: Lake) -> None:
    site = lake.site("LANCS")
    registry.register_dataset_types(site, small_lake.TYPES)
    small_lake.add_dimensions(site, range(1, 3))


def count(lake: Lake, sql: str) -> int:
    with query.connect(lake, ["LANCS"]) as con:
        return con.execute(sql).fetchall()[0][0]


def test_verified_files_become_datasets_once(lake: Lake) -> None:
    know_everything(lake)
    report_verified(lake, raws(lake))
    assert ingest(lake.site("LANCS")) == Ingested(accepted=6, files=6)
    versions = [delta.version(lake.site("LANCS"), table) for table in ("transfer", "dataset")]
    assert ingest(lake.site("LANCS")) == Ingested()
    assert [delta.version(lake.site("LANCS"), table) for table in ("transfer", "dataset")] == versions
    assert count(lake, "SELECT count(*) FROM dataset") == 6
    assert count(lake, "SELECT count(*) FROM transfer_now WHERE state = 'ingested'") == 6


def test_a_repeated_report_registers_nothing_twice(lake: Lake) -> None:
    know_everything(lake)
    rule = raws(lake)
    report_verified(lake, rule)
    ingest(lake.site("LANCS"))
    report_verified(lake, rule)
    assert ingest(lake.site("LANCS")) == Ingested()  # the same attempt, already ingested
    assert count(lake, "SELECT count(*) FROM dataset") == 6


def test_an_unknown_visit_waits_and_the_rest_goes_in(lake: Lake) -> None:
    site = lake.site("LANCS")
    registry.register_dataset_types(site, small_lake.TYPES)
    small_lake.add_dimensions(site, range(1, 2))
    report_verified(lake, raws(lake))
    assert ingest(site) == Ingested(accepted=3, parked=3, files=3)
    with query.connect(lake, ["LANCS"]) as con:
        reasons = con.table("SELECT DISTINCT reason FROM transfer_now WHERE state = 'parked'")["reason"].to_pylist()
    assert reasons == ["exposure 2 is not known at LANCS"]
    waiting = registry.parked(site)
    assert waiting["reason"].unique().to_pylist() == reasons and waiting.num_rows == 3
    events = count(lake, "SELECT count(*) FROM parked") + count(lake, "SELECT count(*) FROM transfer")
    assert ingest(site) == Ingested()
    assert count(lake, "SELECT count(*) FROM parked") + count(lake, "SELECT count(*) FROM transfer") == events
    small_lake.add_dimensions(site, range(2, 3))
    assert ingest(site) == Ingested(admitted=3, files=3)
    assert count(lake, "SELECT count(*) FROM dataset") == 6
    assert count(lake, "SELECT count(*) FROM transfer_now WHERE state = 'ingested'") == 6
    assert ingest(site) == Ingested()


def test_a_rule_waits_for_parked_datasets_and_then_is_satisfied(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimensions, "copy", lambda *_: {})  # the centre itself lacks the records, say
    rule = raws(lake)
    report = movement.run_rules(lake, [rule])
    assert "parked: instrument Cam is not known at LANCS" in report.stuck[0].reason
    again = movement.run_rules(lake, [rule])
    assert again.stuck and count(lake, "SELECT count(*) FROM parked_now WHERE state = 'parked'") == 6
    assert count(lake, "SELECT count(*) FROM transfer WHERE state = 'parked'") == 6, "noted once, and in the log alone"
    assert count(lake, "SELECT count(*) FROM parked") == 0
    monkeypatch.undo()
    report = movement.run_rules(lake, [rule])  # now it knows them: they travel, and what waited is admitted
    assert (report.rules[0].state, report.files) == ("OK", 0)


def test_a_file_that_vanished_is_rejected_by_name_and_brought_again(lake: Lake) -> None:
    know_everything(lake)
    rule = raws(lake)
    report_verified(lake, rule)
    gone = sorted(lake.site("LANCS").root.glob("files/**/*.fits"))[0]
    gone.unlink()
    assert ingest(lake.site("LANCS")) == Ingested(accepted=5, rejected=1, files=5)
    with query.connect(lake, ["LANCS"]) as con:
        [row] = con.table("SELECT path, reason FROM transfer_now WHERE state = 'failed'").to_pylist()
    assert row["path"] in row["reason"] and "lost" in row["reason"]
    assert movement.run_rules(lake, [rule]).ok
    assert count(lake, "SELECT count(*) FROM dataset") == 6


def test_a_file_that_came_for_nothing_is_dropped(lake: Lake) -> None:
    """The visit tables of one night, made at two sites in different files: the second file brings nothing new."""
    for name in ("USDF", "FRDF"):
        if name != "USDF":
            registry.register_dataset_types(lake.site(name), small_lake.TYPES)
            small_lake.add_dimensions(lake.site(name), range(1, 3))
        small_lake.add_visit_tables(lake.site(name), range(1, 3))
    rules = [movement.add_rule(lake, "c", "tables", ["visit_table"], "true", name, "LANCS") for name in ("USDF", "FRDF")]
    report = movement.run_rules(lake, rules)
    assert report.ok
    assert count(lake, "SELECT count(*) FROM dataset WHERE dataset_type = 'visit_table'") == 2
    [live] = delta.files(lake.site("LANCS"), "visit_table")
    assert [str(path) for path in lake.site("LANCS").root.rglob("visit_table-*.parquet")] == [live]


def test_a_swept_log_is_read_as_it_stands(lake: Lake) -> None:
    know_everything(lake)
    site, rule = lake.site("LANCS"), raws(lake)
    with query.connect(lake, ["LANCS"]) as con:
        paths = con.table("SELECT path FROM manifest ORDER BY path")["path"].to_pylist()
    for path in paths:
        report_verified(lake, rule, [path])
    assert upkeep.compact(site, "transfer", at_least=2) == 6
    assert upkeep.sweep(site, "transfer", hours=0)[0] == 6
    assert ingest(site) == Ingested(accepted=6, files=6)
    assert ingest(site) == Ingested()


def test_the_place_is_in_the_log_itself(lake: Lake) -> None:
    know_everything(lake)
    site = lake.site("LANCS")
    report_verified(lake, raws(lake))
    version = delta.version(site, "transfer")
    ingest(site)
    assert delta.transaction_version(site, "transfer", ingester.APPLICATION) == version


def test_two_at_once_register_everything_once(lake: Lake) -> None:
    know_everything(lake)
    report_verified(lake, raws(lake))
    code = (
        "import sys; from lake.site import Lake; from lake.ingester import ingest; "
        "print(ingest(Lake.open(sys.argv[1]).site('LANCS')).accepted)"
    )
    command = [sys.executable, "-c", code, str(lake.root)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert sorted(int(process.communicate()[0]) for process in both) == [0, 6]
    assert count(lake, "SELECT count(*) FROM dataset") == 6
    assert count(lake, "SELECT count(*) FROM transfer WHERE state = 'ingested'") == 6


def test_statements_name_what_they_make() -> None:
    for name in ("verified_records", "file_states", "claimed_paths", "admitted_files", "manifest_outstanding"):
        assert statement(name).startswith("-- Makes: ")
