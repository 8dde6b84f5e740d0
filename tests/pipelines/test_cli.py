"""The command line itself: quick, lazy, one line per error, the same forms of output everywhere."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
import toy

from lake.parquet import DeltaError
from lake.site import Lake, LakeError
from pipelines import cli
from pipelines.cli import COMMANDS, output, run
from pipelines.driver import Outcome
from pipelines.journal import Journal
from pipelines.runner import SiteRunner

ROOT = Path(__file__).parents[2]
TEXT = "name: toy\ninstrument: TinyCam\nskymap: tiny_rings\nsites: {A: {tracts: [1, 2]}}\n"


@pytest.fixture
def drp(capsys: pytest.CaptureFixture[str]):
    """Runs the command line here; returns (exit code, stdout, stderr)."""

    def call(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """A lake with a campaign whose first step ran: two images failed."""
    lake = toy.lake(tmp_path / "lake", 2, raws=True)
    journal = Journal(lake, "toy")
    journal.write("campaign", state="stopped", definition=TEXT, who="me", why="interrupted")
    runner = SiteRunner(
        lake.central, toy.pipeline(), toy.campaign(config={"isr": {"acts": {"1.0": "fail", "2.1": "fail"}}}), journal, "s"
    )
    try:
        runner.predict()
        runner.run_step("step1")
    finally:
        runner.close()
    event = {"step": "step1", "site": "A", "state": "reviewable", "quanta": 4, "succeeded": 2, "failed": 2}
    journal.write("step", **event, who="me", why=None)
    journal.flush()
    return lake


def test_help_is_quick() -> None:
    times = []
    for _ in range(3):
        began = time.monotonic()
        subprocess.run(
            [sys.executable, "-c", "from pipelines.cli import main; main(['--help'])"], cwd=ROOT, capture_output=True, check=True
        )
        times.append(time.monotonic() - began)
    assert min(times) < 1.0, "0.2 s on a quiet machine"


def test_version_and_list_of_commands(drp) -> None:
    assert drp("--version")[1].startswith("drp, version ")
    code, out, _ = drp("--help")
    assert code == 0 and [name for name in COMMANDS if f"  {name} " not in out] == []


@pytest.mark.parametrize("name", [n for n in COMMANDS if n not in ("demo", "init", "simulate", "ingest-raws")])
def test_commands_about_a_lake_refuse_what_is_none(drp, tmp_path: Path, name: str) -> None:
    step, exchange = ["step1"], ["A", tmp_path]
    more = {"accept": step, "reject": step, "retry": step, "sql": ["SELECT 1"], "prune": ["A"]}.get(name, [])
    more = exchange if name in ("export", "import", "export-butler", "import-butler") else more
    more = ["A", __file__] if name == "ingest" else more
    words = [name, "list", tmp_path] if name in ("rule", "collection") else [name, tmp_path, *more]
    code, out, error = drp(*words)
    assert (code, out) == (2, "")
    assert error == f"drp: {tmp_path} is not a lake (it has no lake.yaml); make one with 'drp init'\n"


def test_status_in_three_forms(drp, lake: Lake) -> None:
    code, out, _ = drp("status", lake.root)
    assert code == 0 and out.startswith("toy: stopped since ") and "(interrupted)" in out and "reviewable" in out
    rows = json.loads(drp("status", lake.root, "--format", "json")[1])
    assert {(r["step"], r["site"]): (r["succeeded"], r["failed"], r["waiting"]) for r in rows}["step1", "A"] == (2, 2, 0)
    table = list(csv.DictReader(io.StringIO(drp("status", lake.root, "--format", "csv")[1])))
    assert [row["step"] for row in table] == [row["step"] for row in rows]


def test_status_down_to_a_quantum(drp, lake: Lake) -> None:
    rows = json.loads(drp("status", lake.root, "--step", "step1", "--format", "json")[1])
    assert [(row["visit"], row["detector"]) for row in rows] == [(1, 0), (2, 1)]
    history = json.loads(drp("status", lake.root, "--quantum", rows[0]["quantum_id"][:10], "--format", "json")[1])
    assert [row["attempt"] for row in history] == [1, 2, 3]
    assert drp("status", lake.root, "--step", "step2a")[1].endswith("no failed quanta in step2a\n")


def test_decisions(drp, lake: Lake) -> None:
    assert drp("accept", lake.root, "step1", "--why", "known") == (0, "step1 at A: accepted (2 of 4 quanta failed)\n", "")
    assert drp("reject", lake.root, "step1")[1] == "step1 at A: rejected (2 of 4 quanta failed)\n"
    assert drp("retry", lake.root, "step1", "--site", "A")[1] == "step1 at A: 2 quanta will be tried again\n"
    assert drp("pause", lake.root)[1] == "toy: stopped -> paused\n"
    assert drp("resume", lake.root)[1] == "toy: paused -> running\n"
    assert drp("cancel", lake.root)[1] == "toy: running -> cancelled\n"
    code, out, error = drp("resume", lake.root)
    assert (code, out) == (2, "") and error.startswith("drp: campaign toy was cancelled")


def test_which_campaign(drp, lake: Lake) -> None:
    assert drp("status", lake.root, "--campaign", "other")[2].startswith("drp: no campaign 'other' in ")
    Journal(lake, "second", seconds=0.0).write("campaign", state="created", definition=TEXT, who="me", why=None)
    code, _, error = drp("status", lake.root)
    assert code == 2 and "holds 2 campaigns (second, toy); name one with --campaign" in error
    assert drp("status", lake.root, "--campaign", "toy")[0] == 0
    empty = Lake.create(lake.root.parent / "empty", {"A": {"central": True}})
    assert "start one with drp run LAKE CAMPAIGN.yaml" in drp("run", empty.root)[2]


def test_init(drp, tmp_path: Path) -> None:
    file = tmp_path / "sites.yaml"
    file.write_text("sites:\n  X: {central: true, cores: 4}\n  Y:\n")
    code, out, _ = drp("init", tmp_path / "new", "--sites", file)
    assert (code, out.splitlines()[0]) == (0, f"X (central): {tmp_path / 'new' / 'X'}")
    for text, words in (
        ("sites: {X: {centre: true}}", "'centre'"),
        ("sites: {X: {}}", "central"),
        ("sites: [", "not YAML"),
        ("x: 1", "sites"),
    ):
        file.write_text(text)
        code, out, error = drp("init", tmp_path / "other", "--sites", file)
        assert (code, out) == (2, "") and words in error and error.count("\n") == 1
    assert not (tmp_path / "other").exists()


# -- errors ------------------------------------------------------------------------------------------------------------


def storage() -> LakeError:
    try:
        raise OSError(28, "No space left on device")
    except OSError:
        try:
            raise LakeError("site A: cannot be locked") from None
        except LakeError as error:
            return error


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (LakeError("site X is not there"), 2, "drp: site X is not there\n"),
        (storage(), 1, "drp: site A: cannot be locked\n"),
        (DeltaError("site A: table t cannot be written: disk full"), 1, "drp: site A: table t cannot be written: disk full\n"),
        (OSError(28, "No space left on device", "/a/b"), 1, "drp: /a/b: No space left on device\n"),
        (ValueError("a bug\nin two lines"), 1, "drp: unexpected ValueError: a bug in two lines (DRP_DEBUG=1 shows where)\n"),
        (KeyError("x"), 1, "drp: unexpected KeyError: x (DRP_DEBUG=1 shows where)\n"),
        (KeyboardInterrupt(), 130, "\nstopped; run the same command again to continue\n"),
        (click.ClickException("no"), 2, "drp: no\n"),
    ],
)
def test_errors_are_one_line(drp, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, said: str) -> None:
    monkeypatch.delenv("DRP_DEBUG", raising=False)

    @click.command("fails")
    def fails() -> None:
        raise error

    monkeypatch.setitem(COMMANDS, "fails", ("", ""))
    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: fails)
    found, out, err = drp("fails")
    assert (found, out, err) == (code, "", said)


def test_a_reader_that_has_seen_enough() -> None:
    more = "COMMANDS.update({f'c{n}': ('', 'x' * 50) for n in range(9000)})"
    many = f"from pipelines.cli import COMMANDS, main; {more}; main(['--help'])"
    with subprocess.Popen(
        [sys.executable, "-c", many], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 1


def test_debug_shows_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DRP_DEBUG", "1")
    with pytest.raises(LakeError):
        cli.main(["status", str(tmp_path)])


# -- output ------------------------------------------------------------------------------------------------------------


def test_what_a_run_says(capsys: pytest.CaptureFixture[str]) -> None:
    run.report("c", Outcome(quanta_run=3, files_moved=2, healed=["A: fetched 1 files again from other sites"]))
    run.report("c", Outcome())
    run.report("c", Outcome(healed=["A: fetched"]))
    run.report("c", Outcome(problems=["step1 at A: 1 of 4 quanta failed"], stopped="the campaign was paused by an operator"))
    said = capsys.readouterr()
    assert said.out.splitlines() == [
        "A: fetched 1 files again from other sites",
        "c: 3 quanta run, 2 files moved",
        "c: nothing to do, everything is in place",
        "A: fetched",
        "c: nothing else to do, everything is in place",
    ]
    assert said.err.splitlines() == ["c: stopped: the campaign was paused by an operator", "c: step1 at A: 1 of 4 quanta failed"]


def test_forms_of_output(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"a": 1, "b": None}, {"a": 2.5, "b": "x,y"}]
    output.emit(rows, "csv")
    output.emit(rows, "json", ["a"])
    output.emit([], "csv", ["a", "b"])
    output.emit(rows, "table")
    said = capsys.readouterr().out
    assert said.startswith('a,b\n1,\n2.5,"x,y"\n[\n') and "]\na,b\n" in said and "x,y" in said.splitlines()[-2]


def test_progress_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with output.Bars() as bars:
        bars.phase("step1")
        bars.update("A", "isr", 1, 4)
    assert capsys.readouterr().err.endswith(" s] step1\n")
