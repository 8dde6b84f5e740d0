"""drp upkeep, and upkeep on the way: the journal's tables, a site's tables at the end of a step."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import toy

from lake import delta, snapshot, upkeep
from lake.site import Lake
from pipelines import cli, journal
from pipelines.journal import Journal, latest
from pipelines.runner import SiteRunner


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}, "B": {}})


@pytest.fixture
def drp(capsys: pytest.CaptureFixture[str]):
    """Runs the command line here; returns (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


def events(lake: Lake, count: int) -> None:
    log = Journal(lake, "c", seconds=0)
    for n in range(count):
        log.write("step", step=f"step{n}", site="A", state="running", quanta=n, succeeded=0, failed=0, who="op", why=None)


def test_the_journal_looks_after_its_tables(lake: Lake) -> None:
    events(lake, journal.TEND_EVERY + 5)
    assert len(delta.files(lake.central, "step")) == 6
    rows = latest(lake, "step", "step", "c")
    assert len(rows) == journal.TEND_EVERY + 5 and {row["quanta"] for row in rows} == set(range(len(rows)))


def test_a_step_ends_with_upkeep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lake = toy.lake(tmp_path / "lake", 1, raws=True)
    tended: list[str] = []
    monkeypatch.setattr(upkeep, "tend", lambda *sites: tended.extend(site.name for site in sites))
    runner = SiteRunner(lake.central, toy.pipeline(), toy.campaign(), Journal(lake, "toy"), "software")
    try:
        runner.run_step("step1")
    finally:
        runner.close()
    assert tended == ["A"]


def test_the_command(lake: Lake, drp) -> None:
    assert drp("upkeep", lake.root) == (0, "nothing to do\n", "")
    events(lake, 40)
    site, litter = lake.central, lake.site("B").path("files/.tmp-x")
    litter.write_bytes(b"12345")
    code, out, _ = drp("upkeep", lake.root, "--dry-run", "--format", "json")
    wanted = [{"site": "A", "table": "step", "merged": 40, "removed": 0, "freed": 0, "log_entries": 0}]
    assert code == 0 and json.loads(out) == wanted and len(delta.files(site, "step")) == 40
    code, out, _ = drp("upkeep", lake.root, "--format", "json")
    assert code == 0 and json.loads(out) == wanted and len(delta.files(site, "step")) == 1
    assert drp("upkeep", lake.root, "B")[1] == "nothing to do\n" and litter.exists(), "the writer may still live"


def test_snapshots_on_the_command_line(lake: Lake, drp) -> None:
    events(lake, 3)
    assert drp("upkeep", lake.root, "A", "--keep", "dr1") == (0, "nothing to do\n", "A: 3 files are kept as dr1\n")
    code, _, error = drp("upkeep", lake.root, "A", "--keep", "dr1")
    assert code == 2 and error == "drp: site A: snapshot dr1 is there already; choose another name, or drop it first\n"
    assert len(snapshot.files(lake.central, "dr1", "step")) == 3
    assert drp("upkeep", lake.root, "A", "--drop", "dr1")[0] == 0 and snapshot.names(lake.central) == []
    code, _, error = drp("upkeep", lake.root, "--drop", "dr1")
    assert code == 2 and error == f"drp: no site of {lake.root} keeps a snapshot dr1\n"
    code, _, error = drp("upkeep", lake.root, "--dry-run", "--keep", "x")
    assert code == 2 and error.startswith("drp: --dry-run changes nothing")


def test_damage_is_named(lake: Lake, drp) -> None:
    events(lake, 40)
    path = Path(delta.files(lake.central, "step")[0])
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)
    code, out, error = drp("upkeep", lake.root)
    assert code == 1 and out == "" and error.count("\n") == 1 and f"{path.name} cannot be read" in error


def test_upkeep_in_turn(lake: Lake, drp) -> None:
    """One that is busy elsewhere is waited for by the command, and not at all on the way."""
    events(lake, 40)
    with lake.central.lock("upkeep"):
        began = time.monotonic()
        upkeep.tend(lake.central)
        assert time.monotonic() - began < 2 and len(delta.files(lake.central, "step")) == 40
    os.utime(lake.central.path(".lock/upkeep"))
    assert drp("upkeep", lake.root)[0] == 0 and len(delta.files(lake.central, "step")) == 1
