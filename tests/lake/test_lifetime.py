"""The end of a rule's lifetime: what goes, what stays and why; never the last copy of anything."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import small_lake

from checks import audit
from lake import delta, movement, prune, query
from lake.movement import ANY, Policy, RuleSpec
from lake.search import search
from lake.site import Lake

PAST, FUTURE = datetime.now(UTC) - timedelta(days=1), datetime.now(UTC) + timedelta(days=1)
KINDS = ("raw", "visit_table")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six raws and the tables of two visits (one file) at USDF, and by a rule at LANCS."""
    lake = small_lake.make(tmp_path / "lake", raws=True)
    small_lake.add_visit_tables(lake.central, range(1, 3))
    move(lake, spec(expires_at=FUTURE))
    return lake


def spec(name: str = "all", predicate: str = "true", source: str = "USDF", destination: str = "LANCS", **how) -> RuleSpec:
    return RuleSpec("c", name, KINDS, predicate, source, destination, **how)


def move(lake: Lake, *specs: RuleSpec) -> list[movement.Rule]:
    return movement.run_rules(lake, movement.add_rules(lake, specs), policy=Policy(rounds=2, backoff=0.01)).rules


def expire(lake: Lake, *specs: RuleSpec) -> None:
    assert {rule.state for rule in move(lake, *specs or [spec(expires_at=PAST)])} == {"EXPIRED"}


def count(lake: Lake, site: str = "LANCS") -> int:
    with query.connect(lake, [site]) as con:
        return con.execute("SELECT count(*) FROM dataset").fetchall()[0][0]


def ids(lake: Lake, where: str, site: str = "LANCS") -> list[str]:
    found: list[str] = search(lake, ["raw"], where, sites=[site])["dataset_id"].to_pylist()
    return found


def files(lake: Lake, site: str = "LANCS") -> list[Path]:
    found = [
        *lake.site(site).root.glob("files/**/*.fits"),
        *lake.site(site).root.glob("tables/catalogues/**/visit_table-*.parquet"),
    ]
    return sorted(found)


def test_nothing_goes_before_the_end(lake: Lake) -> None:
    assert movement.clean(lake) == []
    assert (count(lake), len(files(lake))) == (8, 7)


def test_what_nothing_needs_goes_and_the_source_stays(lake: Lake) -> None:
    expire(lake)
    [done] = movement.clean(lake)
    assert (len(done.deleted), done.kept) == (7, {})
    site = lake.site("LANCS")
    assert (count(lake), len(files(lake)), delta.files(site, "visit_table")) == (0, 7, []), "the files stay, for an undo"
    assert audit.audit(site).findings == []
    assert sorted(prune.empty(site, 0.0)) == sorted(done.deleted) and files(lake) == []
    assert (count(lake, "USDF"), len(files(lake, "USDF"))) == (8, 7)
    with query.connect(lake, ["LANCS"]) as con:
        assert con.execute("SELECT DISTINCT state FROM transfer_now").fetchall() == [("deleted",)]
    [rule] = movement.rules(lake)
    assert (rule.state, rule.reason) == ("EXPIRED", "7 files deleted")
    versions = [delta.version(lake.site("LANCS"), table) for table in ("rule", "transfer", "dataset")]
    assert [done.deleted for done in movement.clean(lake)] == [[]]
    assert [delta.version(lake.site("LANCS"), table) for table in ("rule", "transfer", "dataset")] == versions
    [rule] = move(lake, spec(expires_at=FUTURE))  # its life is lengthened: everything comes again
    assert (rule.state, count(lake), len(files(lake))) == ("OK", 8, 7)


def test_what_was_taken_out_can_be_put_back(lake: Lake) -> None:
    site = lake.site("LANCS")
    expire(lake)
    [done] = movement.clean(lake)
    assert (len(done.deleted), done.gone, count(lake)) == (7, 0, 0)
    with query.connect(lake, ["LANCS"]) as con:
        [(operation, reason, state, datasets)] = con.execute(
            "SELECT operation, reason, state, count(*) FROM tombstone_now GROUP BY ALL"
        ).fetchall()
    assert (reason, state, datasets) == ("the lifetime of its rule is over", "unstored", 8)
    assert prune.undo(site, operation)["verdict"].to_pylist() == ["accepted"] * 8
    assert (count(lake), len(files(lake)), len(delta.files(site, "visit_table"))) == (8, 7, 1)
    [done] = movement.clean(lake)
    assert done.deleted == [] and set(done.kept.values()) == {"it was put back after its time"} and count(lake) == 8


def test_the_files_go_after_the_horizon(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    expire(lake)
    operation, _ = prune.prune(
        lake, lake.site("LANCS"), ids(lake, "visit = 1 AND detector = 0"), "by hand", prune.Leave(wanted=True)
    )
    movement.clean(lake)
    assert [done.gone for done in movement.clean(lake)] == [0]
    later = time.time() + 86400 * (prune.HORIZON + 1)
    monkeypatch.setattr(prune.time, "time", lambda: later)
    assert [done.gone for done in movement.clean(lake)] == [6]
    assert len(files(lake)) == 1, "what was pruned by hand stays until somebody says --empty"
    assert prune.undo(lake.site("LANCS"), operation)["verdict"].to_pylist() == ["accepted"]
    assert (len(files(lake, "USDF")), [done.gone for done in movement.clean(lake)]) == (7, [0])


def test_its_life_is_lengthened_before_the_files_go(lake: Lake) -> None:
    expire(lake)
    movement.clean(lake)
    [rule] = move(lake, spec(expires_at=FUTURE))
    assert (rule.state, count(lake), len(files(lake))) == ("OK", 8, 7)
    assert prune.empty(lake.site("LANCS"), 0.0) == [] and audit.audit(lake.site("LANCS"), deep=True).findings == []


def test_what_another_rule_wants_stays(lake: Lake) -> None:
    move(lake, spec("visit 1", "visit = 1"))  # it found everything there: its manifest is empty
    expire(lake)
    [done] = movement.clean(lake)
    assert len(done.deleted) == 3 and set(done.kept.values()) == {"another rule wants it here"}
    assert count(lake) == 3 + 2  # the file of tables holds one that is wanted


def test_the_last_copy_stays(lake: Lake) -> None:
    expire(lake)
    gone, rotten = files(lake, "USDF")[:2]
    gone.unlink()
    rotten.write_bytes(rotten.read_bytes()[:-1] + b"!")
    [done] = movement.clean(lake)
    kept = {lake.central.relative(path): "no other site has an intact copy" for path in (gone, rotten)}
    assert done.kept == kept and len(done.deleted) == 5
    prune.empty(lake.site("LANCS"), 0.0)
    assert {lake.site("LANCS").relative(path) for path in files(lake)} == set(kept)


def test_two_sites_do_not_delete_each_others_last_copy(lake: Lake) -> None:
    move(lake, spec(destination="FRDF"))
    for path in files(lake, "USDF"):
        path.unlink()
    expire(lake, spec(expires_at=PAST), spec(destination="FRDF", expires_at=PAST))
    done = {each.site: (len(each.deleted), len(each.kept)) for each in movement.clean(lake)}
    assert sorted(done.values()) == [(0, 7), (7, 0)]
    assert count(lake) + count(lake, "FRDF") == 8


def test_a_source_that_cannot_be_asked_may_want_everything(lake: Lake) -> None:
    move(lake, spec("visit 1", "visit = 1", destination="FRDF"), spec("other", "visit = 1", source=ANY))
    expire(lake)
    root = lake.site("FRDF").root
    root.rename(root.with_name("away"))
    [done] = movement.clean(lake)
    assert done.deleted == [] and set(done.kept.values()) == {"another rule wants it here"}


def test_what_was_made_here_stays(lake: Lake) -> None:
    small_lake.add_dimensions(lake.site("LANCS"), range(3, 4))
    small_lake.add_raws(lake.site("LANCS"), range(3, 4))
    expire(lake)
    [done] = movement.clean(lake)
    assert len(done.deleted) == 7 and count(lake) == 3
