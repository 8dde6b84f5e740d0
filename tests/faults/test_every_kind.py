"""Every kind of fault that movement meets, injected many times: after a normal run nothing is lost, nothing is there twice.

Each test is one kind: it injects faults, runs the rules as an operator would, heals what an audit finds, and then asks for
everything. How many faults were injected of each kind, and what became of them, is printed at the end of the test run.
DRP_FAULTS=long injects twenty times as many; DRP_SEED chooses others.
"""

from __future__ import annotations

import errno
import io
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake
from points import LONG

from checks import audit
from lake import datastore, movement, query, registry, transfer_log
from lake.ingester import ingest
from lake.site import Lake

MANY = 20 if LONG else 1
VISITS, DETECTORS = 8, 3
FAST = movement.Policy(rounds=4, backoff=0.01)
RUN = "import sys; from test_every_kind import run; from lake.site import Lake; run(Lake.open(sys.argv[1]))"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = small_lake.make(tmp_path / "lake", VISITS, DETECTORS, raws=True)
    small_lake.add_visit_tables(lake.central, range(1, VISITS + 1))
    return lake


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    return random.Random(f"{os.environ.get('DRP_SEED', '7')} {request.node.name}")


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Note how many faults were injected of a kind, and what became of them, for the summary."""
    return lambda kind, number: record_property("fault", (kind, number))


def run(lake: Lake) -> movement.Report:
    """What an operator's run does to LANCS: rules evaluated, files moved and taken in."""
    wanted = [movement.add_rule(lake, "c", kind, [kind], "true", "USDF", "LANCS") for kind in ("raw", "visit_table")]
    return movement.run_rules(lake, wanted, policy=FAST)


def heal(lake: Lake) -> None:
    """What the next run does first: what an audit finds wrong is fetched again, what nothing names goes."""
    site = lake.site("LANCS")
    found = audit.audit(site, deep=True).findings
    movement.refetch(lake, site, [f.path for f in found if f.state in ("lost", "damaged")])
    audit.remove_orphans(site)


def whole(lake: Lake, visits: int = VISITS) -> None:
    """Everything is at LANCS, intact, registered once; every log agrees; an audit finds nothing."""
    site = lake.site("LANCS")
    with query.connect(lake) as con:
        there = con.execute('SELECT dataset_id, checksum FROM "LANCS".dataset ORDER BY ALL').fetchall()
        assert there == con.execute('SELECT dataset_id, checksum FROM "USDF".dataset ORDER BY ALL').fetchall()
        assert len(there) == visits * (DETECTORS + 1)
        assert con.execute('SELECT count(*), count(DISTINCT visit) FROM "LANCS".visit_table').fetchall() == [(visits, visits)]
        assert con.execute("SELECT DISTINCT state FROM \"LANCS\".rule_now WHERE name <> 'refetch'").fetchall() == [("OK",)]
        for path, checksum in con.execute('SELECT DISTINCT path, file_checksum FROM "LANCS".dataset').fetchall():
            assert datastore.checksum(site.path(path)) == checksum
        for table in ("visit", "detector", "dataset_type"):
            rows = con.table(f'FROM "LANCS".{table}').to_pylist()
            assert len(rows) == len({str(row) for row in rows}), table
    assert audit.audit(site, deep=True).findings == []


class Faulty(io.RawIOBase):
    """A file that fails, or lies, after some bytes."""

    def __init__(self, inner: io.RawIOBase, after: int, what: str) -> None:
        self._inner, self._left, self._what = inner, after, what

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._inner.fileno()

    def readinto(self, buffer: Any) -> int:
        got = self._inner.readinto(buffer)
        if got > self._left:
            if self._what == "cut":
                raise OSError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
            buffer[self._left] ^= 1 << (got % 8)
            self._left = sys.maxsize
        self._left -= got or 0
        return got or 0

    def write(self, data: Any) -> int:
        if len(data) > self._left:
            self._inner.write(data[: self._left])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._left -= len(data)
        return self._inner.write(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


def disturbed(
    monkeypatch: pytest.MonkeyPatch, site: Path, mode: str, faults: int, fault: Callable[[Path, io.RawIOBase], io.RawIOBase]
) -> list[Path]:
    """Let ``fault`` replace the next ``faults`` files that are opened in ``mode`` below a site; returns those it was done to."""
    met: list[Path] = []
    opened, turn = Path.open, threading.Lock()

    def open_(path: Path, *rest: Any, **named: Any) -> Any:
        file = opened(path, *rest, **named)
        if [*rest, *named.values()][:1] != [mode] or site not in path.parents or "raw_" not in path.name:
            return file
        with turn:
            if len(met) >= faults:
                return file
            met.append(path)
        return fault(path, file)

    monkeypatch.setattr(Path, "open", open_)
    return met


# -- while files move --------------------------------------------------------------------------------------------------


def test_connections_that_are_cut(lake: Lake, chance: random.Random, monkeypatch, count) -> None:
    met = disturbed(
        monkeypatch, lake.central.root, "rb", min(24 * MANY, 60), lambda _, file: Faulty(file, chance.randrange(2000), "cut")
    )
    for _ in range(6):
        if run(lake).ok:
            break
    monkeypatch.undo()
    assert len(met) >= 24
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("connections cut in the middle of a file: copied again", len(met))


def test_bytes_that_change_on_the_way(lake: Lake, chance: random.Random, monkeypatch, count) -> None:
    """A source that changes while it is copied, or a line that flips bits: what does not match is never given its name."""
    met = disturbed(monkeypatch, lake.central.root, "rb", 24, lambda _, file: Faulty(file, chance.randrange(2000), "flip"))
    for _ in range(6):
        if run(lake).ok:
            break
    monkeypatch.undo()
    assert len(met) == 24
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("bytes changed while they were copied: refused, copied again", len(met))


def test_a_disk_that_is_full_now_and_then(lake: Lake, chance: random.Random, monkeypatch, count) -> None:
    met = disturbed(monkeypatch, lake.site("LANCS").root, "wb", 12, lambda _, file: Faulty(file, chance.randrange(2000), "full"))
    for _ in range(6):
        if run(lake).ok:
            break
    monkeypatch.undo()
    assert len(met) == 12
    assert not [p for p in lake.site("LANCS").path("files").rglob(".tmp-*") if p.stat().st_size]
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("writes refused by a full disk: written when there was room", len(met))


def test_a_site_that_is_away_for_a_while(lake: Lake, count) -> None:
    files, away = lake.central.path("files"), lake.central.root / "away"
    for _ in range(2 * MANY):
        files.rename(away)
        report = run(lake)
        assert not report.ok and "lost at USDF" in str(report.stuck[0].reason)
        away.rename(files)
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("runs while the source was away: stuck with the reason, then done", 2 * MANY)


# -- what arrives ------------------------------------------------------------------------------------------------------


def events(lake: Lake) -> list[transfer_log.Event]:
    """Files of all raws lie at LANCS as if copied; the events that a copy engine would have left, one per file."""
    site = lake.site("LANCS")
    rule = movement.add_rule(lake, "c", "raw", ["raw"], "true", "USDF", "LANCS")
    shutil.copytree(lake.central.path("files"), site.path("files"), dirs_exist_ok=True)
    registry.register_dataset_types(site, small_lake.TYPES)
    with query.connect(lake, ["LANCS"]) as con:
        rows = con.table("SELECT DISTINCT path, file_bytes FROM manifest ORDER BY path").to_pylist()
    return [transfer_log.Event(rule.rule_id, r["path"], "USDF", "LANCS", "verified", 1, r["file_bytes"]) for r in rows]


def test_events_that_come_twice_and_in_disorder(lake: Lake, chance: random.Random, count) -> None:
    site = lake.site("LANCS")
    small_lake.add_dimensions(site, range(1, VISITS + 1), DETECTORS)
    told = events(lake) * 3
    chance.shuffle(told)
    now = datetime.now(UTC)
    for n, event in enumerate(told):
        told[n] = transfer_log.Event(
            **{**vars(event), "noted_at": now - timedelta(seconds=chance.uniform(0, 600)), "state": "verified"}
        )
    while told:
        batch, told = told[:10], told[10:]
        transfer_log.write(site, batch)
        if chance.random() < 0.5:
            ingest(site)
    ingest(site)
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("events repeated or out of order: each file taken in once", 2 * VISITS * DETECTORS)


def test_dimension_records_that_come_late(lake: Lake, chance: random.Random, monkeypatch, count) -> None:
    site = lake.site("LANCS")
    transfer_log.write(site, events(lake))
    assert ingest(site).parked == VISITS * DETECTORS
    order = list(range(1, VISITS + 1))
    chance.shuffle(order)
    admitted = 0
    for visit in order:
        small_lake.add_dimensions(site, range(visit, visit + 1), DETECTORS)
        admitted += ingest(site).admitted
    assert admitted == VISITS * DETECTORS
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("datasets before their dimension records: parked, then admitted", admitted)


def test_ingesters_that_run_at_once(lake: Lake, count) -> None:
    site = lake.site("LANCS")
    small_lake.add_dimensions(site, range(1, VISITS + 1), DETECTORS)
    told = events(lake)
    taken: list[int] = []
    for half in (told[::2], told[1::2]):
        transfer_log.write(site, half)
        racers = [threading.Thread(target=lambda: taken.append(ingest(site).accepted)) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
    assert sum(taken) == VISITS * DETECTORS
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("ingesters at one site at once: each file taken in once", len(taken))


# -- at rest, and at any time ------------------------------------------------------------------------------------------


def test_bits_that_flip_at_rest(lake: Lake, chance: random.Random, count) -> None:
    assert run(lake).ok
    site = lake.site("LANCS")
    files = sorted(p for p in site.path("files").rglob("*.fits"))
    flipped = 0
    for _ in range(2 * MANY):
        hit = chance.sample(files, 8)
        for path in hit:
            data = bytearray(path.read_bytes())
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            path.write_bytes(data)
        found = {f.path for f in audit.audit(site, deep=True).findings if f.state == "damaged"}
        assert found == {site.relative(path) for path in hit}, "each and only these"
        heal(lake)
        flipped += len(hit)
    whole(lake)
    count("bits flipped at rest: each found, each file fetched again", flipped)


def states(lake: Lake) -> list[str]:
    """The present states of rules and of files at LANCS."""
    with query.connect(lake, ["LANCS"]) as con:
        rows = con.execute("SELECT state FROM rule_now UNION SELECT state FROM transfer_now ORDER BY 1").fetchall()
    return [row[0] for row in rows]


def test_a_clock_that_jumps_back(lake: Lake, monkeypatch, count) -> None:
    class Past(datetime):
        back = timedelta(0)

        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime.now(tz) - cls.back

    for module in ("lake.transfer_log", "lake.transfer", "lake.rule", "lake.registry"):
        monkeypatch.setattr(f"{module}.datetime", Past, raising=False)
    visits = VISITS
    for hours in (0, 5, 48, 1, 0) if LONG else (0, 48):
        Past.back = timedelta(hours=hours)
        visits += 1
        small_lake.add_dimensions(lake.central, range(visits, visits + 1), DETECTORS)
        path = lake.central.path(small_lake.add_raws(lake.central, range(visits, visits + 1), DETECTORS)[0])
        small_lake.add_visit_tables(lake.central, range(visits, visits + 1))
        data = path.read_bytes()
        path.write_bytes(data[::-1])
        assert not run(lake).ok
        assert states(lake) == ["OK", "STUCK", "failed", "ingested"], f"the clock {hours} h back"
        path.write_bytes(data)
        assert run(lake).ok
        assert states(lake) == ["OK", "ingested"], f"the clock {hours} h back"
    heal(lake)
    whole(lake, visits)
    count("jumps of the clock: the present state stays the present one", visits - VISITS)


def test_killed_at_any_moment(lake: Lake, chance: random.Random, count) -> None:
    """Copier, ingester and committer are one process here: kill -9 at random moments of its whole life."""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}{os.pathsep}{Path(movement.__file__).parents[1]}"}
    kills = 0
    for _ in range(6 * MANY):
        process = subprocess.Popen([sys.executable, "-c", RUN, str(lake.root)], env=environment, stderr=subprocess.DEVNULL)
        time.sleep(0.4 + chance.uniform(0, 1.0))
        if process.poll() is None:
            process.kill()
            kills += 1
        process.wait()
        if chance.random() < 0.3:  # begin again with an empty destination: all moments of a run should be met
            shutil.rmtree(lake.site("LANCS").root)
            lake.site("LANCS").path("tables").mkdir(parents=True)  # a site without it counts as one that cannot be reached
    assert kills
    assert run(lake).ok
    heal(lake)
    whole(lake)
    count("processes killed at random moments: continued", kills)
