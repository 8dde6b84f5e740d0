"""Rules: what they take in, when they are satisfied, and what they say when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_lake

from lake import collection, datastore, delta, dimensions, movement, query, registry
from lake.movement import Policy, RuleSpec
from lake.query import connect
from lake.site import Lake, LakeError

QUICK = Policy(rounds=2, backoff=0.01)
TRACT = "visit IN (SELECT visit FROM visit_detector_patch WHERE tract = 9469)"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return small_lake.make(tmp_path / "lake", raws=True)


def raws(lake: Lake, predicate: str = "true", source: str = "USDF", destination: str = "LANCS") -> movement.Rule:
    return movement.add_rule(lake, "c", "raws", ["raw"], predicate, source, destination)


def ids(lake: Lake, site: str, kind: str = "raw") -> list[str]:
    with query.connect(lake, [site]) as con:
        rows = con.table("SELECT dataset_id FROM dataset WHERE dataset_type = $kind ORDER BY ALL", {"kind": kind})
    return rows["dataset_id"].to_pylist()


def states(lake: Lake, site: str, path: str) -> list[str]:
    sql = "SELECT state FROM transfer WHERE path = $path ORDER BY noted_at, state = 'verified'"
    with query.connect(lake, [site]) as con:
        return con.table(sql, {"path": path})["state"].to_pylist()


def test_a_rule_moves_what_it_names(lake: Lake) -> None:
    rule = raws(lake, TRACT)
    assert (rule.state, rule.files, rule.bytes) == ("REPLICATING", 3, 6000)
    seen = []
    report = movement.run_rules(lake, [rule], lambda done, total: seen.append((done, total)))
    assert [r.state for r in report.rules] == ["OK"]
    assert (report.files, report.bytes, report.stuck) == (3, 6000, [])
    assert seen[-1] == (3, 3)
    assert len(ids(lake, "LANCS")) == 3
    with query.connect(lake, ["LANCS"]) as con:
        moved = con.table("SELECT path, file_checksum, origin FROM dataset").to_pylist()
    for row in moved:
        assert datastore.checksum(lake.site("LANCS").path(row["path"])) == row["file_checksum"]
        assert row["origin"] == "USDF"
    assert states(lake, "LANCS", moved[0]["path"]) == ["queued", "copying", "arrived", "verified", "ingested"]


def test_dimension_records_types_and_certifications_come_too(lake: Lake) -> None:
    site, there = lake.central, lake.site("LANCS")
    row = small_lake.visit_row("flat", "c/calib", 1, detector=0) | {"visit": None, "exposure": None, "day_obs": None}
    file = datastore.write_file(site, datastore.template("c/calib", "flat", row), b"flat")
    row |= {"path": file.path, "bytes": 4, "file_bytes": 4, "checksum": file.checksum, "file_checksum": file.checksum}
    small_lake.register(site, [row])
    collection.register_collections(site, [("c/calib", "CALIBRATION", None), ("c", "CHAINED", "c/calib")])
    flat = registry.with_ids(None, small_lake.table([row]), small_lake.DIMENSIONS)
    collection.certify(site, "c/calib", flat, 0.0, 1e6)
    rules = [raws(lake), movement.add_rule(lake, "c", "flats", ["flat"], "true", "USDF", "LANCS")]
    assert movement.run_rules(lake, rules).ok
    assert dimensions.read(there, "visit").num_rows == 2
    assert dimensions.read(there, "detector").num_rows == 3
    assert set(registry.dataset_types(there)) == {"raw", "flat"}
    with query.connect(lake, ["LANCS"]) as con:
        assert con.table("SELECT collection FROM collection_now ORDER BY ALL")["collection"].to_pylist() == [
            "c",
            "c/calib",
        ]
        assert con.table("FROM certification").num_rows == 1


def test_adding_again_takes_in_only_what_is_new(lake: Lake) -> None:
    rule = raws(lake)
    movement.run_rules(lake, [rule])
    versions = [delta.version(lake.site("LANCS"), table) for table in ("rule", "manifest", "transfer", "dataset")]
    again = raws(lake)
    report = movement.run_rules(lake, [again])
    assert (again.rule_id, again.state, report.files) == (rule.rule_id, "OK", 0)
    after = [delta.version(lake.site("LANCS"), table) for table in ("rule", "manifest", "transfer", "dataset")]
    assert after == versions
    small_lake.add_dimensions(lake.central, range(3, 4))
    small_lake.add_raws(lake.central, range(3, 4))
    grown = raws(lake)
    assert (grown.state, grown.files) == ("REPLICATING", 9)
    report = movement.run_rules(lake, [grown])
    assert (report.files, report.rules[0].state) == (3, "OK")
    assert ids(lake, "LANCS") == ids(lake, "USDF")


def test_the_manifest_is_frozen(lake: Lake) -> None:
    rule = raws(lake)
    small_lake.add_dimensions(lake.central, range(3, 4))
    small_lake.add_raws(lake.central, range(3, 4))
    movement.run_rules(lake, [rule])
    assert len(ids(lake, "LANCS")) == 6


def test_a_file_is_copied_once_for_all_rules(lake: Lake) -> None:
    rules = movement.add_rules(
        lake,
        [RuleSpec("c", name, ("raw",), predicate, "USDF", "LANCS") for name, predicate in (("a", "true"), ("b", TRACT))],
    )
    report = movement.run_rules(lake, rules)
    assert (report.files, [rule.state for rule in report.rules]) == (6, ["OK", "OK"])
    assert len(ids(lake, "LANCS")) == len(set(ids(lake, "LANCS"))) == 6


def test_what_the_destination_has_is_left_out(lake: Lake) -> None:
    movement.run_rules(lake, [raws(lake, TRACT)])
    rest = movement.add_rule(lake, "c", "all", ["raw"], "true", "USDF", "LANCS")
    assert rest.files == 3


def test_slices_share_a_file_and_join_the_catalogue(lake: Lake) -> None:
    path = small_lake.add_visit_tables(lake.central, range(1, 3))
    first = movement.add_rule(lake, "c", "one", ["visit_table"], "visit = 1", "USDF", "LANCS")
    assert movement.run_rules(lake, [first]).files == 1
    assert len(ids(lake, "LANCS", "visit_table")) == 1
    both = movement.add_rule(lake, "c", "both", ["visit_table"], "true", "USDF", "LANCS")
    (lake.central.path(path)).unlink()  # the file is there already: nothing is read from the source
    report = movement.run_rules(lake, [both])
    assert report.ok
    assert len(ids(lake, "LANCS", "visit_table")) == 2
    assert delta.files(lake.site("LANCS"), "visit_table") == [str(lake.site("LANCS").path(path))]


def test_a_rule_without_datasets_is_satisfied(lake: Lake) -> None:
    rule = raws(lake, "visit = 99")
    assert (rule.state, rule.files) == ("OK", 0)
    assert movement.run_rules(lake, [rule]).ok


@pytest.mark.parametrize("predicate", ["vist = 1", "visit IN (", "tract IN (SELECT tract FROM nowhere)", "true; SELECT 1"])
def test_a_wrong_predicate_is_one_clear_line(lake: Lake, predicate: str) -> None:
    with pytest.raises(movement.RuleError, match="rule raws: its predicate") as error:
        raws(lake, predicate)
    assert "\n" not in str(error.value)
    assert movement.rules(lake) == []


def test_wrong_sites(lake: Lake) -> None:
    with pytest.raises(LakeError, match="MARS"):
        raws(lake, source="MARS")
    with pytest.raises(LakeError, match="both USDF"):
        raws(lake, destination="USDF")


def test_a_lost_file_makes_the_rule_stuck_and_says_which(lake: Lake) -> None:
    path = sorted(lake.central.root.glob("files/**/*.fits"))[0]
    path.unlink()
    report = movement.run_rules(lake, [raws(lake)], policy=QUICK)
    [rule] = report.stuck
    relative = lake.central.relative(path)
    assert relative in rule.reason and "lost at USDF" in rule.reason
    assert report.damaged == {("USDF", relative): "lost at USDF"}
    assert report.files == 5
    with query.connect(lake, ["LANCS"]) as con:
        [row] = con.table("SELECT path, attempt, reason FROM transfer_now WHERE state = 'failed'").to_pylist()
    assert row == {"path": relative, "attempt": 2, "reason": "lost at USDF"}


def test_a_stuck_rule_recovers_when_run_again(lake: Lake) -> None:
    path = sorted(lake.central.root.glob("files/**/*.fits"))[0]
    kept = path.read_bytes()
    path.unlink()
    rule = raws(lake)
    assert movement.run_rules(lake, [rule], policy=QUICK).stuck
    path.write_bytes(kept)
    report = movement.run_rules(lake, [raws(lake)], policy=QUICK)
    assert (report.rules[0].state, report.rules[0].reason, report.files) == ("OK", None, 1)


def test_a_damaged_replica_is_declared_and_another_site_serves(lake: Lake) -> None:
    movement.run_rules(lake, [raws(lake, destination="FRDF")])
    path = sorted(lake.central.root.glob("files/**/*.fits"))[0]
    good = path.read_bytes()
    path.write_bytes(good[:-1] + b"!")
    relative = lake.central.relative(path)
    report = movement.run_rules(lake, [raws(lake)], policy=QUICK)
    assert report.ok
    with query.connect(lake, ["LANCS"]) as con:
        [failed] = con.table("SELECT source, reason FROM transfer WHERE state = 'failed'").to_pylist()
        [served] = con.table(
            "SELECT source FROM transfer WHERE state = 'verified' AND path = $path", {"path": relative}
        ).to_pylist()
    assert failed["source"] == "USDF" and failed["reason"].startswith("damaged at USDF: sha256")
    assert served["source"] == "FRDF"
    assert path.read_bytes() == good
    assert list(report.healed) == [("USDF", relative)]


def test_other_content_under_the_same_id_is_never_dropped_silently(lake: Lake) -> None:
    there = lake.site("LANCS")
    registry.register_dataset_types(there, small_lake.TYPES)
    small_lake.add_dimensions(there, range(1, 3))
    small_lake.add_raws(there, range(1, 2), detectors=1, size=999)
    report = movement.run_rules(lake, [raws(lake)], policy=QUICK)
    [rule] = report.stuck
    assert "is registered at LANCS with other content" in rule.reason
    assert len(ids(lake, "LANCS")) == 6
    versions = delta.version(there, "transfer"), delta.version(there, "rule")
    assert movement.run_rules(lake, [rule], policy=QUICK).stuck
    assert (delta.version(there, "transfer"), delta.version(there, "rule")) == versions


def test_refetch_heals_from_a_good_replica(lake: Lake) -> None:
    movement.run_rules(lake, [raws(lake), raws(lake, destination="FRDF")])
    lancs = lake.site("LANCS")
    lost, damaged, hopeless = sorted(lancs.root.glob("files/**/*.fits"))[:3]
    kept = lost.read_bytes(), damaged.read_bytes()
    lost.unlink()
    damaged.write_bytes(b"short")
    (lake.site("FRDF").path(lancs.relative(damaged))).write_bytes(b"short")  # one of two replicas is bad as well
    for site in lake.sites.values():
        site.path(lancs.relative(hopeless)).unlink()
    wanted = [lancs.relative(path) for path in (lost, damaged, hopeless)] + ["files/unheard/of.fits"]
    result = movement.refetch(lake, lancs, wanted)
    assert (lost.read_bytes(), damaged.read_bytes()) == kept
    assert set(result.healed) == set(wanted[:2]) and result.healed[wanted[1]] == "USDF"
    assert result.failed[wanted[2]].startswith("lost at ")
    assert result.failed[wanted[3]] == "not registered at LANCS"
    [rule] = [rule for rule in movement.rules(lake) if rule.name == "refetch"]
    assert rule.state == "STUCK" and wanted[2] in rule.reason
    assert movement.refetch(lake, "LANCS", wanted[:2]).failed == {}


def test_rules_as_they_stand(lake: Lake) -> None:
    rule = raws(lake)
    report = movement.run_rules(lake, [rule])
    assert movement.rules(lake) == report.rules
    assert movement.rules(lake, campaign="other") == []
    with query.connect(lake) as con:
        [row] = con.table("FROM rule_progress").to_pylist()
    assert (row["site"], row["files"], row["ingested"], row["bytes"], row["bytes_done"]) == (
        "LANCS",
        6,
        6,
        12000,
        12000,
    )
    assert row["rate"] > 0 and row["eta"] == 0


def test_a_predicate_may_look_into_the_registry(lake: Lake) -> None:
    small_lake.add_visit_tables(lake.central, range(2, 3))
    rule = raws(lake, "visit IN (SELECT visit FROM dataset WHERE dataset_type = 'visit_table')")
    assert rule.files == 3


def test_a_site_has_no_row_twice_when_a_file_brings_datasets_that_it_has(lake: Lake) -> None:
    small_lake.add_visit_tables(lake.central, range(1, 3))
    first = movement.add_rule(lake, "c", "one", ["visit_table"], "visit = 1", "USDF", "LANCS")
    assert movement.run_rules(lake, [first]).ok
    small_lake.add_dimensions(lake.site("LANCS"), range(1, 3))
    small_lake.add_visit_tables(lake.site("LANCS"), range(2, 3))
    with connect(lake) as con:
        rows = con.execute('SELECT visit, site FROM "LANCS".visit_table ORDER BY ALL').fetchall()
    assert rows == [(1, "USDF"), (2, "LANCS")]  # the file from USDF holds visit 2 as well
