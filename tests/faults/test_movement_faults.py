"""Movement under faults: a copy that ends in the middle, a clean that dies, a site that is away, a clock that jumps back,
events that come twice or late. After each, a normal run heals it: nothing is lost, nothing is there twice."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import zlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake

from checks import audit
from lake import datastore, delta, haul, ingester, movement, prune, query, rule, transfer, transfer_log
from lake.movement import Policy, RuleSpec
from lake.site import Lake
from lake.transfer import CHUNK, Order, ReplicaError, copy_file

QUICK = Policy(rounds=2, backoff=0.01)
LONG = os.environ.get("DRP_FAULTS") == "long"
RAWS = RuleSpec("c", "raws", ("raw",), "true", "USDF", "LANCS")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return small_lake.make(tmp_path / "lake", raws=True)


def run(lake: Lake, *specs: RuleSpec) -> list[movement.Rule]:
    return movement.run_rules(lake, movement.add_rules(lake, specs or [RAWS]), policy=QUICK).rules


def whole(lake: Lake, site: str = "LANCS") -> None:
    """Six raws, each once, with the registered content; the rule and the log agree."""
    with query.connect(lake, [site]) as con:
        rows = con.execute("SELECT path, file_checksum FROM dataset").fetchall()
        assert len(rows) == len(set(rows)) == 6
        assert con.execute("SELECT DISTINCT state FROM transfer_now").fetchall() == [("ingested",)]
        assert con.execute("SELECT name, state FROM rule_now").fetchall() == [("raws", "OK")]
    assert all(datastore.checksum(lake.site(site).path(path)) == checksum for path, checksum in rows)
    assert not list(lake.root.rglob(".tmp-*"))


# -- large files ---------------------------------------------------------------------------------------------------------

COPY = """
import sys
from pathlib import Path
from lake import transfer
transfer.RESUMABLE = 4 << 20
transfer.copy_file(transfer.Order("files/big", "USDF", Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4]))
"""


@pytest.fixture
def big(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Order:
    """A file of 12 chunks, of which four must be there to be gone on with."""
    monkeypatch.setattr(transfer, "RESUMABLE", 4 * CHUNK)
    content = random.Random(1).randbytes(12 * CHUNK - 5)
    (tmp_path / "replica").write_bytes(content)
    return Order(
        "files/big", "USDF", tmp_path / "replica", tmp_path / "site" / "big", len(content), hashlib.sha256(content).hexdigest()
    )


def kill_at(order: Order, chunk: int) -> Path:
    """Copy it in a process that dies after so many chunks; returns what it leaves."""
    arguments = [str(order.replica), str(order.target), str(order.bytes), order.checksum]
    environment = os.environ | {"DRP_FAULT": f"transfer:chunk:{chunk}"}
    died = subprocess.run([sys.executable, "-c", COPY, *arguments], env=environment, cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL
    return order.target.with_name(".tmp-big")


def read_from(order: Order, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Copy it here; the positions at which the replica was read."""
    positions: list[int] = []
    opened = Path.open

    class Watched:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def readinto(self, buffer):
            positions.append(self.file.tell())
            return self.file.readinto(buffer)

    with monkeypatch.context() as patch:
        patch.setattr(
            Path, "open", lambda path, *a, **k: Watched(opened(path, *a, **k)) if path == order.replica else opened(path, *a, **k)
        )
        done = copy_file(order)
    content = order.replica.read_bytes()
    assert order.target.read_bytes() == content
    assert (done.copied, done.adler32) == (True, f"{zlib.adler32(content):08x}")
    assert [path.name for path in order.target.parent.iterdir()] == ["big"]
    return positions


@pytest.mark.parametrize("chunk", range(1, 13) if LONG else (2, 7))
def test_a_killed_copy_of_a_large_file_goes_on(big: Order, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = kill_at(big, chunk)
    size = left.stat().st_size
    positions = read_from(big, monkeypatch)
    assert positions[0] == (size if chunk >= 4 else 0)


def test_what_was_left_is_never_trusted(big: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    left = kill_at(big, 7)
    with left.open("r+b") as file:
        file.seek(CHUNK)
        file.write(b"rotten")
    positions = read_from(big, monkeypatch)
    assert positions[0] == 7 * CHUNK and positions.count(0) == 1  # gone on with, found to be wrong, begun again


def test_a_cut_connection_keeps_what_came(big: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    readinto, count = transfer.Digest.update, []

    def cut(self, piece):
        readinto(self, piece)
        count.append(1)
        if len(count) == 6:
            raise ReplicaError("cannot be read at USDF: Connection reset by peer")

    with monkeypatch.context() as patch:
        patch.setattr(transfer.Digest, "update", cut)
        with pytest.raises(ReplicaError, match="Connection reset"):
            copy_file(big)
    assert read_from(big, monkeypatch)[0] == 5 * CHUNK


def test_a_source_that_changes_while_it_is_copied(big: Order, monkeypatch: pytest.MonkeyPatch) -> None:
    update, count = transfer.Digest.update, []

    def change(self, piece):
        update(self, piece)
        count.append(1)
        if len(count) == 3:
            with big.replica.open("r+b") as file:
                file.seek(8 * CHUNK)
                file.write(b"other")

    with monkeypatch.context() as patch:
        patch.setattr(transfer.Digest, "update", change)
        with pytest.raises(ReplicaError, match="damaged at USDF: sha256"):
            copy_file(big)
    assert list(big.target.parent.iterdir()) == []


# -- sites and clocks ----------------------------------------------------------------------------------------------------


def away(lake: Lake, site: str) -> Path:
    root = lake.site(site).root
    return root.rename(root.with_name(f"{site}-away"))


def test_a_source_that_is_away_for_a_while(lake: Lake) -> None:
    movement.add_rules(lake, [RAWS])
    hidden = away(lake, "USDF")
    [stuck] = run(lake)
    assert stuck.state == "STUCK" and "USDF cannot be reached" in stuck.reason
    events = delta.version(lake.site("LANCS"), "transfer")
    assert run(lake)[0].state == "STUCK"
    assert delta.version(lake.site("LANCS"), "transfer") == events, "the same failure is noted once"
    with query.connect(lake, ["LANCS"]) as con:
        assert con.execute("SELECT count(*) FROM rule WHERE name = 'refetch'").fetchall() == [(0,)]
    hidden.rename(lake.central.root)
    assert run(lake)[0].state == "OK"
    whole(lake)


def test_a_new_rule_whose_source_is_away_is_not_satisfied(lake: Lake) -> None:
    hidden = away(lake, "USDF")
    [rule] = run(lake)
    assert (rule.state, rule.reason) == ("STUCK", "USDF cannot be reached: what it has for this rule is not known")
    hidden.rename(lake.central.root)
    assert run(lake)[0].state == "OK"
    whole(lake)


def test_a_source_that_goes_away_in_the_middle_is_not_called_damaged(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    copy, done = copy_file, []

    def leaving(order):
        if len(done) == 2:
            away(lake, "USDF")
        done.append(order)
        return copy(order)

    monkeypatch.setattr(transfer, "copy_file", leaving)
    report = movement.run_rules(lake, movement.add_rules(lake, [RAWS]), policy=Policy(rounds=2, backoff=0.01, workers=1))
    assert report.files == 2 and report.damaged == {} and "USDF cannot be reached" in report.stuck[0].reason
    monkeypatch.undo()
    (lake.root / "USDF-away").rename(lake.central.root)
    assert run(lake)[0].state == "OK"
    whole(lake)


def test_another_replica_serves_while_the_source_is_away(lake: Lake) -> None:
    run(lake, RuleSpec("c", "raws", ("raw",), "true", "USDF", "FRDF"))
    movement.add_rules(lake, [RAWS])
    hidden = away(lake, "USDF")
    [rule] = run(lake)
    with query.connect(lake, ["LANCS"]) as con:
        assert con.execute("SELECT count(*) FROM dataset").fetchall() == [(6,)]
    assert rule.state == "STUCK" and "what it has for this rule is not known" in rule.reason
    hidden.rename(lake.central.root)
    assert run(lake)[0].state == "OK"
    whole(lake)


def test_a_destination_that_is_away_stops_only_its_own_rules(lake: Lake) -> None:
    hidden = away(lake, "LANCS")
    there, here = run(lake, RAWS, RuleSpec("c", "raws", ("raw",), "true", "USDF", "FRDF"))
    assert (there.state, there.reason, here.state) == ("STUCK", "LANCS cannot be reached", "OK")
    assert not lake.site("LANCS").root.exists(), "nothing is written where a site should be mounted"
    hidden.rename(lake.site("LANCS").root)
    assert run(lake)[0].state == "OK"
    whole(lake)


class Clock(datetime):
    """Says what it is told to, later by a second each time."""

    at = datetime(2026, 6, 1, tzinfo=UTC)

    @classmethod
    def now(cls, tz=None):
        cls.at += timedelta(seconds=1)
        return cls.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> type[Clock]:
    for module in (haul, rule, transfer, transfer_log, movement):
        monkeypatch.setattr(module, "datetime", Clock)
    return Clock


def test_a_clock_that_jumps_back(lake: Lake, clock: type[Clock]) -> None:
    path = sorted(lake.central.root.glob("files/**/*.fits"))[0]
    kept = path.read_bytes()
    path.unlink()
    assert run(lake)[0].state == "STUCK"
    path.write_bytes(kept)
    clock.at -= timedelta(days=30)
    assert run(lake)[0].state == "OK"
    whole(lake)
    clock.at -= timedelta(days=30)
    versions = [delta.version(lake.site("LANCS"), table) for table in ("rule", "transfer")]
    assert run(lake)[0].state == "OK"
    assert [delta.version(lake.site("LANCS"), table) for table in ("rule", "transfer")] == versions


def test_a_clock_that_jumps_back_while_files_move(lake: Lake, clock: type[Clock]) -> None:
    [added] = movement.add_rules(lake, [RAWS])

    def back(done: int, total: int) -> None:
        clock.at -= timedelta(hours=1)

    assert movement.run_rules(lake, [added], back, QUICK).ok
    whole(lake)


def test_events_twice_and_out_of_order(lake: Lake) -> None:
    run(lake)
    site = lake.site("LANCS")
    with query.connect(lake, ["LANCS"]) as con:
        names = ", ".join(field for field in transfer_log.Event.__dataclass_fields__)
        rows = con.table(f"SELECT {names} FROM transfer").to_pylist()
    events = [transfer_log.Event(**row) for row in rows]
    shuffled = random.Random(3).sample(events, len(events))
    transfer_log.write(site, [transfer_log.Event(**{**vars(event), "noted_at": None}) for event in shuffled])
    assert ingester.ingest(site) == ingester.Ingested()
    whole(lake)
    assert run(lake)[0].state == "OK"
    whole(lake)


CLEAN = "import sys; from lake import movement; from lake.site import Lake; movement.clean(Lake.open(sys.argv[1]))"


@pytest.mark.parametrize("fault", ["prune:noted", "prune:rewriting", "prune:out", "lifetime:withdrawn", "lifetime:removed"])
def test_a_killed_clean_is_finished_by_the_next(lake: Lake, fault: str) -> None:
    small_lake.add_visit_tables(lake.central, range(1, 3))
    both = RuleSpec("c", "raws", ("raw", "visit_table"), "true", "USDF", "LANCS", expires_at=datetime.now(UTC) + timedelta(hours=1))
    run(lake, both)
    ended = RuleSpec(**{**vars(both), "expires_at": datetime.now(UTC)})
    run(lake, ended)
    command = [sys.executable, "-c", CLEAN, str(lake.root)]
    died = subprocess.run(command, env=os.environ | {"DRP_FAULT": fault}, cwd=Path(__file__).parents[2])
    assert died.returncode == -signal.SIGKILL
    movement.clean(lake)
    site = lake.site("LANCS")
    with query.connect(lake) as con:
        assert con.execute('SELECT count(*) FROM "LANCS".dataset').fetchall() == [(0,)]
        assert con.execute('SELECT count(*) FROM "USDF".dataset').fetchall() == [(8,)]
        assert con.execute("SELECT DISTINCT state FROM transfer_now").fetchall() == [("deleted",)]
    assert audit.audit(site).findings == [] and len(prune.empty(site, 0.0)) == 7
    assert (
        delta.files(site, "visit_table") == []
        and not list(site.root.rglob("*.fits"))
        and not list(site.root.rglob("visit_table-*"))
    )
