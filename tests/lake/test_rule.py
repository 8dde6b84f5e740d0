"""How rules are handled: embargo, lifetime, priority, quota, any source, copies, once, suspension, links."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import small_lake
import yaml

from lake import haul, movement, query
from lake.link import Link, parse
from lake.movement import ANY, Policy, RuleSpec
from lake.site import CONFIG, Lake, LakeError

QUICK = Policy(rounds=2, backoff=0.01)
NOW = datetime.now(UTC)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six raws of 2,000 bytes at USDF."""
    return small_lake.make(tmp_path / "lake", raws=True)


def spec(name: str = "raws", predicate: str = "true", source: str = "USDF", destination: str = "LANCS", **how) -> RuleSpec:
    return RuleSpec("c", name, ("raw",), predicate, source, destination, **how)


def run(lake: Lake, *specs: RuleSpec) -> list[movement.Rule]:
    return movement.run_rules(lake, movement.add_rules(lake, specs), policy=QUICK).rules


def configured(lake: Lake, **changed) -> Lake:
    """The lake with other options of its sites, or with links."""
    document = yaml.safe_load((lake.root / CONFIG).read_text())
    for name, options in changed.items():
        document.update({"links": options} if name == "links" else {})
        document["sites"].get(name, {}).update(options)
    (lake.root / CONFIG).write_text(yaml.safe_dump(document))
    return Lake.open(lake.root)


def table(lake: Lake, sql: str, site: str = "LANCS") -> list[dict]:
    with query.connect(lake, [site]) as con:
        return con.table(sql).to_pylist()


def test_nothing_leaves_before_its_time(lake: Lake) -> None:
    [rule] = run(lake, spec(not_before=NOW + timedelta(days=1)))
    assert (rule.state, rule.files) == ("REPLICATING", 0) and "embargo: nothing leaves before" in rule.reason
    assert table(lake, "FROM manifest") == table(lake, "FROM visit") == table(lake, "FROM dataset") == []
    [rule] = run(lake, spec(not_before=NOW - timedelta(days=1)))
    assert (rule.state, rule.reason, rule.files, rule.revision) == ("OK", None, 6, 3)


def test_once_freezes_and_a_subscription_goes_on(lake: Lake) -> None:
    frozen, grows = spec("frozen", once=True), spec("grows", destination="FRDF")
    run(lake, frozen, grows)
    small_lake.add_dimensions(lake.central, range(3, 4))
    small_lake.add_raws(lake.central, range(3, 4))
    again = movement.run_rules(lake, movement.evaluate(lake, movement.rules(lake))).rules
    assert {rule.name: (rule.state, rule.files) for rule in again} == {"frozen": ("OK", 6), "grows": ("OK", 9)}


def test_priority_orders_the_queue_across_rules(lake: Lake) -> None:
    run(lake, spec("low", "visit = 1"), spec("high", "visit = 2", priority=5), spec("mid", "detector = 0", priority=1))
    log = table(lake, "SELECT path FROM transfer WHERE state = 'copying'")
    order = [row["path"].rpartition("_2_" if "_2_" in row["path"] else "_1_")[1:] for row in log]
    first = list(dict.fromkeys(order))
    assert [name for name, _ in first] == ["_2_"] * 3 + ["_1_"] * 3 and first[3][1] == "d0.fits", first


def test_priority_may_change_and_the_rule_stays_the_same(lake: Lake) -> None:
    [before], [after] = run(lake, spec()), run(lake, spec(priority=3))
    assert (before.rule_id, before.priority, after.priority, after.state) == (after.rule_id, 0, 3, "OK")
    assert len(movement.rules(lake)) == 1


def test_a_quota_stalls_only_the_rule_that_exceeds_it(lake: Lake) -> None:
    lake = configured(lake, LANCS={"storage_tb": 9000e-12})
    all_of_it, half = run(lake, spec("all", priority=1), spec("half", "visit = 1"))
    assert all_of_it.state == "STUCK" and "quota of LANCS: 1.2e-05 GB more are wanted" in all_of_it.reason
    assert half.state == "OK"
    assert len(table(lake, "FROM dataset")) == 3
    lake = configured(lake, LANCS={"storage_tb": 12000e-12})
    assert [rule.state for rule in run(lake, spec("all", priority=1))] == ["OK"]  # what is there already costs nothing


def test_any_source_takes_the_best_replica(lake: Lake) -> None:
    run(lake, spec(destination="FRDF"))
    for path in lake.central.root.glob("files/**/*.fits"):
        path.write_bytes(b"rotten")
    [rule] = run(lake, spec("any", source=ANY))
    assert rule.state == "OK"
    counts = "SELECT source, state, count(*) AS n FROM transfer WHERE state IN ('failed', 'verified') GROUP BY ALL ORDER BY 2"
    served = table(lake, counts)
    assert [(row["source"], row["state"], row["n"]) for row in served] == [("USDF", "failed", 6), ("FRDF", "verified", 6)]
    small_lake.add_dimensions(lake.central, range(3, 4))
    small_lake.add_raws(lake.central, range(3, 4))
    run(lake, spec(destination="FRDF"))
    run(lake, spec("any", source=ANY))  # USDF failed lately: FRDF is asked first now
    first = table(lake, "SELECT DISTINCT source FROM transfer WHERE state = 'copying' AND contains(path, '3_')")
    assert [row["source"] for row in first] == ["FRDF"]


def test_copies_go_to_so_many_of_the_sites_and_stay_there(lake: Lake) -> None:
    lake = configured(lake, LANCS={"storage_tb": 1e-9}, FRDF={"storage_tb": 1e-6})
    [chosen] = movement.spread(lake, spec("one"), ["LANCS", "FRDF"], 1)
    assert chosen.destination == "FRDF"
    run(lake, chosen)
    lake = configured(lake, LANCS={"storage_tb": 1.0})
    assert movement.spread(lake, spec("one"), ["LANCS", "FRDF"], 1) == [chosen]
    assert [s.destination for s in movement.spread(lake, spec("two"), ["LANCS", "FRDF", "USDF"], 2)] == ["LANCS", "FRDF"]
    with pytest.raises(movement.RuleError, match="3 copies of 2 sites"):
        movement.spread(lake, spec("three"), ["LANCS", "FRDF"], 3)


def test_an_operator_suspends_and_resumes(lake: Lake) -> None:
    [rule] = movement.add_rules(lake, [spec()])
    held = movement.suspend(lake, rule, "ada@example", "disks are full")
    assert (held.state, held.reason) == ("SUSPENDED", "by ada@example: disks are full")
    with pytest.raises(movement.RuleError, match="suspended already"):
        movement.suspend(lake, rule, "ada@example")
    assert movement.run_rules(lake, [rule]).rules == [held]  # the caller's word for it is old
    [again] = run(lake, spec())
    assert again == held and table(lake, "FROM dataset") == []
    movement.resume(lake, held, "ada@example")
    assert [r.state for r in run(lake, spec())] == ["OK"]
    with pytest.raises(movement.RuleError, match="it is OK, not SUSPENDED"):
        movement.resume(lake, held, "ada@example")


def test_suspended_while_it_runs_stays_suspended(lake: Lake) -> None:
    [rule] = movement.add_rules(lake, [spec()])
    held = []

    def operator(done: int, total: int) -> None:
        if not held:
            held.append(movement.suspend(lake, rule, "ada@example"))

    [after] = movement.run_rules(lake, [rule], operator).rules
    assert after.state == "SUSPENDED" and movement.rules(lake)[0].state == "SUSPENDED"


def test_stuck_for_long_is_suspended_by_itself(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    sorted(lake.central.root.glob("files/**/*.fits"))[0].unlink()
    [rule] = run(lake, spec())
    assert rule.state == "STUCK" and rule.stuck_since is not None
    [again] = run(lake, spec())
    assert again.state == "STUCK" and again.stuck_since == rule.stuck_since
    monkeypatch.setattr(haul, "PATIENCE", timedelta(0))
    [rule] = run(lake, spec())
    assert rule.state == "SUSPENDED" and "lost at USDF" in rule.reason


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"name": ""}, "a rule's name is"),
        ({"name": "a\nb"}, "printable"),
        ({"name": "refetch"}, "taken"),
        ({"not_before": NOW, "expires_at": NOW}, "would expire before it may begin"),
    ],
)
def test_rules_that_cannot_be(lake: Lake, changed: dict, said: str) -> None:
    with pytest.raises(movement.RuleError, match=said):
        movement.add_rules(lake, [replace(spec(), **changed)])
    assert movement.rules(lake) == []


def test_paths_from_another_registry_stay_below_the_site(lake: Lake, tmp_path: Path) -> None:
    away = tmp_path / "away"
    away.mkdir()
    night = next(lake.central.root.glob("files/**/*.fits")).parent
    here = lake.site("LANCS").path(lake.central.relative(night))
    here.parent.mkdir(parents=True)
    here.symlink_to(away)
    [rule] = run(lake, spec())
    assert rule.state == "STUCK" and "a symbolic link takes" in rule.reason
    assert list(away.iterdir()) == []


def test_a_link_passes_no_more_than_its_bandwidth(lake: Lake) -> None:
    link = Link(bytes_per_second=1e6)
    begin = time.monotonic()
    threads = [threading.Thread(target=link.take, args=(150_000,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert time.monotonic() - begin > 0.3  # 0.6 MB, of which a quarter of a second's worth may pass at once


def test_links_are_read_and_kept(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = configured(lake, links={"* -> LANCS": {"mb_per_second": 1000, "streams": 1}})
    running, most, copy = [], [], haul.deliver.__globals__["copy_file"]

    def watched(order):
        running.append(order)
        most.append(len(running))
        time.sleep(0.01)
        done = copy(order)
        running.remove(order)
        return done

    monkeypatch.setattr("lake.transfer.copy_file", watched)
    assert [rule.state for rule in run(lake, spec(), spec("two", destination="FRDF"))] == ["OK", "OK"]
    assert max(most[:6]) >= 1 and len(most) == 12
    to_lancs = most[6:]  # FRDF comes first
    assert max(to_lancs) == 1 and max(most[:6]) > 1


@pytest.mark.parametrize(
    ("links", "said"),
    [
        ({"USDF LANCS": {}}, "a link is written SOURCE -> DESTINATION"),
        ({"USDF -> MARS": {}}, "no site 'MARS'"),
        ({"USDF -> USDF": {}}, "the same site"),
        ({"USDF -> LANCS": 5}, "must be a mapping"),
        ({"USDF -> LANCS": {"speed": 5}}, "unknown key 'speed'; known: mb_per_second, streams"),
        ({"USDF -> LANCS": {"mb_per_second": 0}}, "mb_per_second: 0 is not a positive number"),
        ({"USDF -> LANCS": {"streams": 1.5}}, "streams: 1.5 is not a whole number"),
    ],
)
def test_links_that_cannot_be(links: dict, said: str) -> None:
    with pytest.raises(LakeError, match=said):
        parse(links, ["USDF", "LANCS"])
