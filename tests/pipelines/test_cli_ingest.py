"""drp ingest: tables in three forms, a verdict per file, one line for what cannot be used."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake
from click.testing import CliRunner
from test_intake import given

from lake import delta, intake
from lake.search import search
from lake.site import Lake
from pipelines import cli
from pipelines.cli import ingest


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return small_lake.make(tmp_path / "lake")


@pytest.fixture
def drp(capsys: pytest.CaptureFixture[str]):
    """Runs the command line here; returns (exit code, stdout, stderr)."""

    def run(*words: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return run


def listed(path: Path, rows: pa.Table) -> Path:
    """A table of files in the form that the name tells."""
    if path.suffix == ".parquet":
        pq.write_table(rows, path)
    elif path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, rows.column_names)
        writer.writeheader()
        writer.writerows(rows.to_pylist())
        path.write_text(text.getvalue())
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows.to_pylist()))
    return path


@pytest.mark.parametrize("ending", ["csv", "parquet", "jsonl"])
def test_three_forms_of_tables(tmp_path: Path, lake: Lake, drp, ending: str) -> None:
    table = listed(tmp_path / f"files.{ending}", given(tmp_path / "given", checksum=[None] * 6))
    assert drp("ingest", lake.root, "USDF", table) == (0, "", "USDF: 6 files: 6 accepted\n")
    code, out, error = drp("ingest", lake.root, "USDF", table, "--format", "json")
    assert (code, error) == (0, "USDF: 6 files: 6 present\n") and {row["verdict"] for row in json.loads(out)} == {"present"}
    assert search(lake, ["raw"], collections=["c/raw"])["visit"].to_pylist() == [1, 1, 1, 2, 2, 2], "the run is a collection"


@pytest.mark.parametrize("mode", intake.MODES)
def test_modes(tmp_path: Path, lake: Lake, drp, mode: str) -> None:
    folder = lake.central.path("files/here") if mode == "direct" else tmp_path / "given"
    table = listed(tmp_path / "files.csv", given(folder))
    assert drp("ingest", lake.root, "USDF", table, "--mode", mode)[0] == 0
    assert len(list(folder.iterdir())) == (0 if mode == "move" else 6)
    [first] = search(lake, ["raw"], "visit = 1 AND detector = 0").to_pylist()
    assert lake.central.path(first["path"]).samefile(folder / "0.fits") if mode in ("link", "direct") else True


def test_a_verdict_for_every_file(tmp_path: Path, lake: Lake, drp) -> None:
    files = given(tmp_path / "given", checksum=[None, "0" * 64, None, None, None, None], exposure=[1, 1, 1, 2, 2, 77])
    table = listed(tmp_path / "files.parquet", files)
    (tmp_path / "given" / "0.fits").unlink()
    code, out, error = drp("ingest", lake.root, "USDF", table)
    assert code == 1 and error == "USDF: 6 files: 3 accepted, 1 parked, 2 rejected\n"
    assert "No such file" in out and "is damaged" in out and "exposure 77 is not known" in out and "3.fits" not in out
    code, out, _ = drp("ingest", lake.root, "USDF", table, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 1 and [row["verdict"] for row in rows] == ["rejected", "rejected", "present", "present", "present", "parked"]
    assert [row["source"] for row in rows] == files["source"].to_pylist() and all(len(row["dataset_id"]) == 36 for row in rows)
    assert "3.fits" in drp("ingest", lake.root, "USDF", table, "--all")[1]


def test_sources_below_a_prefix(tmp_path: Path, lake: Lake, drp) -> None:
    rows = given(tmp_path / "given", 2)
    mixed = ["0.fits", str(tmp_path / "given" / "1.fits")]
    table = listed(tmp_path / "files.csv", rows.set_column(0, "source", pa.array(mixed)))
    assert drp("ingest", lake.root, "USDF", table, "--prefix", tmp_path / "given")[0] == 0
    assert len(search(lake, ["raw"])) == 2


def test_a_new_dataset_type(tmp_path: Path, lake: Lake, drp) -> None:
    table = listed(tmp_path / "files.csv", given(tmp_path / "given", dataset_type=["mask"] * 6))
    code, _, error = drp("ingest", lake.root, "USDF", table)
    assert code == 2 and "dataset type mask is not known; known: flat, raw" in error and error.count("\n") == 1
    declare = ("--register", "mask=instrument,exposure,detector:fits")
    assert drp("ingest", lake.root, "USDF", table, *declare) == (0, "", "USDF: 6 files: 6 accepted\n")
    code, _, error = drp("ingest", lake.root, "USDF", table, "--register", "mask=instrument")
    assert code == 2 and "is known as" in error


def test_a_table_without_rows(tmp_path: Path, lake: Lake, drp) -> None:
    table = tmp_path / "files.csv"
    table.write_text("source,dataset_type,run\n")
    assert drp("ingest", lake.root, "USDF", table) == (0, "", "USDF: 0 files\n")


HEAD = "source,dataset_type,run,instrument,exposure,detector\n"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("f.csv", "dataset_type,run\nraw,c/raw\n", "there is no column source; it has dataset_type, run"),
        ("f.csv", "source,dataset_type\nx,raw\n", "needs a value in the column run"),
        ("f.csv", HEAD + "x,raw,,Cam,1,0\n", "needs a value in the column run"),
        ("f.csv", HEAD + "x,raw,c/raw,Cam,one,0\n", "cannot be read as csv"),
        ("f.csv", HEAD + "x,raw\n", "cannot be read as csv"),
        ("f.csv", "", "cannot be read as csv"),
        ("f.csv", HEAD.replace("detector", "exposure") + "x,raw,c/raw,Cam,1,1\n", "the column exposure is there more than once"),
        ("f.csv", HEAD.replace("detector", "colour") + "x,raw,c/raw,Cam,1,1\n", "the column colour has no meaning here; known:"),
        ("f.csv", HEAD + "x,nothing,c/raw,Cam,1,0\n", "x: dataset type nothing is not known; known:"),
        ("f.csv", HEAD + "x,visit_table,c/raw,Cam,1,0\n", "is a slice of a catalogue table"),
        ("f.csv", HEAD + "x,raw,tag,Cam,1,0\n", "run tag is a TAGGED collection"),
        ("f.jsonl", "{nonsense\n", "cannot be read as json"),
        ("f.jsonl", '{"source": 3}\n', "cannot be read as json"),
        ("f.parquet", "no parquet", "cannot be read as parquet"),
        ("f.txt", "x", "the form of a table is told by its name: .csv"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, lake: Lake, drp, name: str, text: str, said: str) -> None:
    from lake.collection import register_collections

    register_collections(lake.central, [("tag", "TAGGED", None)])
    (tmp_path / name).write_text(text)
    before = {table: delta.version(lake.central, table) for table in ("dataset", "parked", "collection", "dataset_type")}
    code, out, error = drp("ingest", lake.root, "USDF", tmp_path / name)
    assert (code, out) == (2, "") and error.count("\n") == 1 and error.startswith("drp: ") and said in error
    assert before == {table: delta.version(lake.central, table) for table in before}
    assert not lake.central.path("files/c").exists()


@pytest.mark.parametrize(
    "words",
    [
        ("USDF", "nowhere.csv"),
        ("NOWHERE", __file__),
        ("USDF", __file__, "--mode", "steal"),
        ("USDF", __file__, "--format", "x"),
        ("USDF",),
    ],
)
def test_misuse(lake: Lake, drp, words: tuple[str, ...]) -> None:
    code, out, error = drp("ingest", lake.root, *words)
    assert (code, out, error.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("text", ["mask", "mask=", "=visit", "mask=visit:table", "mask=colour"])
def test_declarations_that_say_nothing(tmp_path: Path, lake: Lake, drp, text: str) -> None:
    table = listed(tmp_path / "files.csv", given(tmp_path / "given"))
    code, _, error = drp("ingest", lake.root, "USDF", table, "--register", text)
    assert code == 2 and error.count("\n") == 1 and len(search(lake, ["raw"])) == 0


def test_what_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(ingest.command, "callback", lambda **given: seen.append(given))
    table = tmp_path / "f.csv"
    table.write_text("")
    words = ["l", "A", str(table), "--mode", "move", "--prefix", "p", "--register", "a=visit", "--register", "b=tract", "--all"]
    assert CliRunner().invoke(ingest.command, words).exit_code == 0
    assert CliRunner().invoke(ingest.command, ["l", "A", str(table)]).exit_code == 0
    assert seen == [
        {"lake": Path("l"), "site": "A", "table": table, "mode": "move", "prefix": Path("p"), "declared": ("a=visit", "b=tract"),
         "everything": True, "form": "table"},
        {"lake": Path("l"), "site": "A", "table": table, "mode": "copy", "prefix": Path(), "declared": (), "everything": False,
         "form": "table"},
    ]  # fmt: skip
