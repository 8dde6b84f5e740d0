"""drp sql, drp transfers, drp rule: what they print, and their exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake

from lake.site import Lake
from pipelines import cli


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return small_lake.make(tmp_path / "lake", raws=True)


@pytest.fixture
def drp(capsys: pytest.CaptureFixture[str]):
    """Runs the command line here; returns (exit code, stdout, stderr)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return end.value.code or 0, captured.out, captured.err

    return run


def test_sql_forms(lake: Lake, drp, tmp_path: Path) -> None:
    question = "SELECT site, count(*) AS n, 0.1::DOUBLE AS x FROM dataset GROUP BY site"
    assert drp("sql", lake.root, question, "--format", "csv") == (0, "site,n,x\nUSDF,6,0.1\n", "")
    code, out, _ = drp("sql", lake.root, question, "--format", "json")
    assert (code, json.loads(out)) == (0, [{"site": "USDF", "n": 6, "x": 0.1}])
    code, out, _ = drp("sql", lake.root, question)
    assert code == 0 and "USDF" in out and "0.1" in out
    file = tmp_path / "question.sql"
    file.write_text("SELECT 1 AS a, 2 AS a, 'nan'::DOUBLE AS b")
    code, out, _ = drp("sql", lake.root, "-f", file, "--format", "json")
    assert (code, json.loads(out)) == (0, [{"a": 1, "a_2": 2, "b": None}])


@pytest.mark.parametrize(
    "arguments",
    [
        ("SELEC 1",),
        ("CREATE TABLE x (a INT)",),
        ("SELECT * FROM nowhere",),
        (),
        ("SELECT 1", "-f", "x.sql"),
        ("-f", "x.sql"),
    ],
)
def test_sql_misuse_is_one_line_and_code_2(lake: Lake, drp, arguments: tuple[str, ...]) -> None:
    code, out, err = drp("sql", lake.root, *arguments)
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1


def test_rule_add_moves_and_shows(lake: Lake, drp) -> None:
    add = ("rule", "add", lake.root, "raws", "--types", "raw", "--from", "USDF", "--to", "LANCS", "--format", "json")
    code, out, _ = drp(*add)
    [rule] = json.loads(out)
    assert (code, rule["state"], rule["files"], rule["bytes"]) == (0, "OK", 6, 12000)
    assert drp(*add)[0] == 0
    code, out, _ = drp("rule", "list", lake.root, "--format", "json")
    assert [r["rule"] for r in json.loads(out)] == [rule["rule"]]
    code, out, _ = drp("rule", "show", lake.root, "raws", "--format", "json")
    assert code == 0 and {file["state"] for file in json.loads(out)} == {"ingested"}
    code, out, _ = drp("transfers", lake.root, "--format", "json")
    [row] = json.loads(out)
    assert (code, row["rule"], row["ingested"], row["eta"]) == (0, "raws", 6, 0)
    assert drp("transfers", lake.root, "--by", "link")[0] == 0


def test_a_stuck_rule_is_code_1_with_the_reason(lake: Lake, drp) -> None:
    sorted(lake.central.root.glob("files/**/*.fits"))[0].unlink()
    add = ("rule", "add", lake.root, "raws", "--types", "raw", "--from", "USDF", "--to", "LANCS")
    code, out, err = drp(*add, "--format", "json")
    assert code == 1 and "lost at USDF" in json.loads(out)[0]["reason"] and "lost at USDF" in err
    code, out, _ = drp("transfers", lake.root, "--failed", "--format", "json")
    assert code == 1 and [row["reason"] for row in json.loads(out)] == ["lost at USDF"]
    assert drp("rule", "run", lake.root)[0] == 1


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"--types": "rau"}, "rau"),
        ({"--where": "vist = 1"}, "vist"),
        ({"--to": "MARS"}, "MARS"),
        ({"--to": "USDF"}, "both"),
        ({"--to": "LANCS,FRDF", "--copies": "3"}, "3 copies of 2 sites"),
        ({"--expires": "soon"}, "'soon' is not a time"),
    ],
)
def test_rule_add_misuse(lake: Lake, drp, changed: dict[str, str], said: str) -> None:
    options = {"--types": "raw", "--from": "USDF", "--to": "LANCS"} | changed
    code, _, err = drp("rule", "add", lake.root, "x", *(part for pair in options.items() for part in pair))
    assert code == 2 and said in err and len(err.strip().splitlines()) == 1


def test_embargo_suspend_resume_and_links(lake: Lake, drp) -> None:
    add = ("rule", "add", lake.root, "raws", "--types", "raw", "--from", "any", "--to", "LANCS,FRDF", "--format", "json")
    code, out, _ = drp(*add, "--not-before", "2099-01-31")
    assert code == 0
    assert {(rule["destination"], rule["state"], rule["files"]) for rule in json.loads(out)} == {
        ("LANCS", "REPLICATING", 0), ("FRDF", "REPLICATING", 0),
    }  # fmt: skip
    assert "embargo" in json.loads(out)[0]["reason"]
    code, out, _ = drp("rule", "suspend", lake.root, "raws", "--why", "disks are full", "--format", "json")
    assert code == 0 and all(rule["state"] == "SUSPENDED" and "disks are full" in rule["reason"] for rule in json.loads(out))
    assert drp("rule", "suspend", lake.root, "raws")[0] == 2
    assert drp(*add)[0] == 0 and json.loads(drp("sql", lake.root, "FROM manifest", "--format", "json")[1]) == []
    assert drp("rule", "resume", lake.root, "raws")[0] == 0
    code, out, _ = drp("rule", "run", lake.root, "--format", "json")
    assert (code, {rule["state"] for rule in json.loads(out)}) == (0, {"OK"})
    code, out, _ = drp("transfers", lake.root, "--by", "link", "--format", "json")
    assert [(row["destination"], row["rules"], row["ok"], row["ingested"]) for row in json.loads(out)] == [
        ("FRDF", 1, 1, 6), ("LANCS", 1, 1, 6),
    ]  # fmt: skip


def test_clean_says_what_went(lake: Lake, drp) -> None:
    add = ("rule", "add", lake.root, "raws", "--types", "raw", "--from", "USDF", "--to", "LANCS")
    assert drp(*add, "--expires", "+1", "--priority", "2")[0] == 0
    assert drp("rule", "clean", lake.root, "--format", "json")[:2] == (0, "[]\n")
    assert drp(*add, "--expires", "2020-01-01")[0] == 0
    code, out, _ = drp("rule", "clean", lake.root, "--format", "json")
    assert code == 0 and [row["what"] for row in json.loads(out)] == ["deleted"] * 6
    code, out, _ = drp("rule", "show", lake.root, "raws", "--format", "json")
    assert code == 0 and {file["state"] for file in json.loads(out)} == {"deleted"}


def test_nothing_heavy_is_imported_for_help() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from pipelines.cli import rule, sql, transfers\n"
        "for command in (rule.command, sql.command, transfers.command):\n"
        "    assert CliRunner().invoke(command, ['--help']).exit_code == 0\n"
        "assert not {'duckdb', 'pyarrow', 'deltalake', 'numpy', 'rich'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(cli.__file__).parents[2])
