"""One driver per campaign: the second is refused, a dead one's lease is taken over, of two that race one wins."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest

from lake import delta
from lake.parquet import DeltaError
from lake.site import Lake
from pipelines import lease
from pipelines.journal import now
from pipelines.lease import Lease, LeaseError

#: Takes the lease, says so, and holds it until its standard input ends.
HOLD = """
import sys
from lake.site import Lake
from pipelines.lease import Lease, LeaseError
lake = Lake.open(sys.argv[1])
sys.stdin.readline()
try:
    with Lease(lake, "c"):
        print("held", flush=True)
        sys.stdin.readline()
except LeaseError as error:
    print(f"refused: {error}", flush=True)
"""


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}})


def start(lake: Lake) -> subprocess.Popen[str]:
    root = Path(lease.__file__).parents[1]
    return subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lake.root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root
    )


def tell(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


def events(lake: Lake) -> list[tuple[str, str]]:
    with delta.connect() as con:
        delta.view(con, lake.central, "lease")
        return con.execute("SELECT campaign, state FROM lease ORDER BY noted_at").fetchall()


def test_a_second_driver_is_refused_and_told_who_holds(lake: Lake) -> None:
    with Lease(lake, "c"):
        with pytest.raises(LeaseError) as refused, Lease(lake, "c"):
            pass
        assert f"pid {os.getpid()}" in str(refused.value) and "campaign c is driven by" in str(refused.value)
        with Lease(lake, "other"):
            pass
    with Lease(lake, "c"):
        pass
    assert [state for name, state in events(lake) if name == "c"] == ["held", "released"] * 2


def test_another_process_is_refused_until_the_holder_is_dead(lake: Lake) -> None:
    with start(lake) as holder:
        tell(holder)
        assert heard(holder) == "held\n"
        with pytest.raises(LeaseError, match=f"pid {holder.pid}"), Lease(lake, "c"):
            pass
        holder.kill()
    began = time.monotonic()
    with Lease(lake, "c"):
        assert time.monotonic() - began < 5.0, "nobody waits for the lease of a dead process to run out"


def test_of_two_that_race_one_wins(lake: Lake) -> None:
    racers = [start(lake) for _ in range(4)]
    time.sleep(1.0)
    for racer in racers:
        tell(racer)
    said = [heard(racer) for racer in racers]
    assert said.count("held\n") == 1, said
    assert all("driven by" in line or "at the same moment" in line for line in said if line != "held\n")
    assert [state for _, state in events(lake)] == ["held"]
    for racer in racers:
        racer.communicate("\n")
    assert [state for _, state in events(lake)] == ["held", "released"]


def test_a_lease_that_ran_out_is_taken_over(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """The holder is on another machine, so that nobody can see whether it lives."""
    monkeypatch.setattr(lease, "_identity", lambda: "someone@elsewhere pid 1 start 1")
    lost = Lease(lake, "c")
    assert lost._append("held", 1)
    with pytest.raises(LeaseError, match=r"someone@elsewhere pid 1 \(lease until"), Lease(lake, "c"):
        pass
    monkeypatch.setattr(lease, "LASTS", timedelta(seconds=-1))
    assert lost._append("held", 2)
    monkeypatch.undo()
    with Lease(lake, "c"):
        assert lease.current(lake, "c")["token"] != lost.token


def test_it_is_renewed_and_a_thief_is_noticed(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.05)
    with Lease(lake, "c") as held:
        deadline = time.monotonic() + 20
        while len(events(lake)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(events(lake)) >= 3 and not held.lost.is_set()
        thief = Lease(lake, "c")
        while not thief._append("held", thief._number() + 1):
            pass
        assert held.lost.wait(20)
    assert events(lake)[-1] == ("c", "held"), "who has lost the lease does not release it"
    assert lease.current(lake, "c")["token"] == thief.token


def test_a_passing_fault_of_storage_does_not_lose_it(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEW", 0.05)
    tried = []

    def fail(*arguments: object) -> bool:
        tried.append(now())
        raise DeltaError("the disk is full")

    with Lease(lake, "c") as held:
        monkeypatch.setattr(held, "_append", fail)
        deadline = time.monotonic() + 20
        while len(tried) < 3 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(tried) >= 3 and not held.lost.is_set()
        held._expires = now()
        assert held.lost.wait(20), "shortly before it runs out the driver must know"


def test_who_is_dead(lake: Lake) -> None:
    me = lease._identity()
    assert not lease.dead(me)
    assert lease.dead(me.rpartition(" ")[0] + " 1"), "the number was given to another process"
    assert not lease.dead("x@elsewhere pid 1 start 1")
    assert not lease.dead("unreadable")
