"""drp collection: list, show, tag, certify and chain; what is refused changes nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake
from click.testing import CliRunner
from test_cli_ingest import drp  # noqa: F401

from lake import delta, intake
from lake.search import search
from lake.site import Lake
from pipelines.cli import collection

CHANGING = ("collection", "association", "certification")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six raws in the run c/raw, and flats of two detectors in the runs c/one and c/two."""
    lake = small_lake.make(tmp_path / "lake")
    rows = []
    for run in ("c/raw", "c/one", "c/two"):
        for n in range(6 if run == "c/raw" else 2):
            source = tmp_path / f"{run[2:]}{n}"
            source.write_text(f"{run} {n}")
            own = {"exposure": 1 + n // 3, "detector": n % 3} if run == "c/raw" else {"physical_filter": "r_cam", "detector": n}
            rows.append(
                {"source": str(source), "dataset_type": "raw" if run == "c/raw" else "flat", "run": run, "instrument": "Cam"} | own
            )
    keys = ("source", "dataset_type", "run", "instrument", "exposure", "detector", "physical_filter")
    found = intake.take_in(lake.central, pa.table({key: [row.get(key) for row in rows] for key in keys}))
    assert set(found["verdict"].to_pylist()) == {"accepted"}
    return lake


def versions(lake: Lake) -> dict[str, int]:
    return {table: delta.version(lake.central, table) for table in CHANGING}


def shown(drp: Any, lake: Lake, *words: object) -> list[dict[str, Any]]:  # noqa: F811
    code, out, _ = drp("collection", words[0], lake.root, *words[1:], "--format", "json")
    assert code == 0
    return list(json.loads(out))


def test_tags(lake: Lake, drp) -> None:  # noqa: F811
    where = ("--where", "visit = 1 AND detector IN (0..1)")
    assert drp("collection", "associate", lake.root, "USDF", "best", "raw", *where) == (
        0,
        "",
        "best at USDF: 2 of 2 datasets added\n",
    )
    assert drp("collection", "associate", lake.root, "USDF", "best", "raw")[2] == "best at USDF: 4 of 6 datasets added\n"
    assert [(row["dataset_type"], row["datasets"]) for row in shown(drp, lake, "show", "best")] == [("raw", 6)]
    code, _, error = drp("collection", "disassociate", lake.root, "USDF", "best", "--where", "visit = 1")
    assert (code, error) == (0, "best at USDF: 3 of 3 datasets taken out\n")
    assert search(lake, collections=["best"])["visit"].to_pylist() == [2, 2, 2] and len(search(lake, ["raw"])) == 6


def test_two_of_one_data_id(lake: Lake, drp) -> None:  # noqa: F811
    before = versions(lake)
    code, _, error = drp("collection", "associate", lake.root, "USDF", "best", "flat")
    assert code == 2 and "best cannot hold both flat" in error and "c/one" in error and "c/two" in error
    assert versions(lake) == before, "the collection was not made either"


def test_calibrations(lake: Lake, drp) -> None:  # noqa: F811
    change = ("flat", "--collection", "c/one", "--begin", 60000, "--end", 60030)
    assert drp("collection", "certify", lake.root, "USDF", "cal", *change)[2].startswith("cal at USDF: 2 of 2 datasets certified")
    assert [(row["detector"], row["valid_begin"], row["valid_end"]) for row in shown(drp, lake, "show", "cal")] == [
        (0, 60000, 60030), (1, 60000, 60030),
    ]  # fmt: skip
    before = versions(lake)
    code, _, error = drp(
        "collection", "certify", lake.root, "USDF", "cal", "flat", "--collection", "c/two", "--begin", 60020, "--end", 60040
    )
    assert code == 2 and "overlaps" in error and error.count("\n") == 1 and versions(lake) == before
    end = ("collection", "decertify", lake.root, "USDF", "cal", "flat", "--where", "detector = 1", "--begin", 60010)
    assert drp(*end) == (0, "", "cal at USDF: 1 range of flat ended or shortened\n")
    assert drp(*end)[0] == 1, "nothing was valid then"
    assert [row["valid_end"] for row in shown(drp, lake, "show", "cal")] == [60030, 60010]
    assert len(search(lake, ["flat"], collections=["cal"], mjd=60020.0)) == 1


def test_chains(lake: Lake, drp) -> None:  # noqa: F811
    def chain(*words: str) -> tuple[int, str]:
        code, _, error = drp("collection", "chain", lake.root, "USDF", *words)
        return code, error

    assert chain("all", "c/two", "c/one") == (0, "all at USDF: searches c/two, c/one\n")
    assert chain("all", "c/raw", "--mode", "extend")[1].endswith("searches c/two, c/one, c/raw\n")
    assert chain("all", "c/raw", "--mode", "prepend")[1].endswith("searches c/raw, c/two, c/one\n")
    assert set(search(lake, ["flat"], collections=["all"], find_first=True)["run"].to_pylist()) == {"c/two"}
    assert chain("all", "c/two", "--mode", "remove")[1].endswith("searches c/raw, c/one\n")
    assert [(row["position"], row["child"], row["kind"]) for row in shown(drp, lake, "show", "all")] == [
        (1, "c/raw", "RUN"), (2, "c/one", "RUN"),
    ]  # fmt: skip
    [row] = shown(drp, lake, "list", "--kind", "chained", "--site", "USDF")
    assert row == {"site": "USDF", "collection": "all", "kind": "CHAINED", "children": "c/raw,c/one"}
    assert chain("top", "all")[0] == 0
    before = versions(lake)
    for words, said in [
        (("all", "top"), "the chain all -> top -> all goes round in a circle"),
        (("self", "self"), "no collection 'self'"),
        (("all", "nothing"), "no collection 'nothing'; known: all, c/one"),
        (("all", "c/two", "--mode", "remove"), "c/two is not in the chain all"),
        (("all", "c/raw", "c/one", "--mode", "remove"), "a chain has children"),
        (("c/raw", "c/one"), "collection c/raw is RUN, not CHAINED"),
        (("a,b", "c/one"), "a name has no comma"),
    ]:
        code, error = chain(*words)
        assert code == 2 and said in error and error.count("\n") == 1, (words, error)
    assert versions(lake) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("show", "nothing"), 2, "no collection 'nothing'; known: c/one, c/raw, c/two"),
        (("associate", "USDF", "best"), 2, "say which datasets"),
        (("associate", "NOWHERE", "best", "raw"), 2, "NOWHERE"),
        (("associate", "USDF", "best", "nothing"), 2, "no dataset type 'nothing'"),
        (("associate", "USDF", "best", "raw", "--where", "visit = 99"), 1, "no dataset of this choice"),
        (("associate", "USDF", "best", "raw", "--where", "visit ="), 2, "position"),
        (("associate", "USDF", "c/raw", "raw"), 2, "is not a TAGGED collection (RUN)"),
        (("disassociate", "USDF", "best", "raw"), 2, "no collection 'best'"),
        (("certify", "USDF", "cal", "flat", "--begin", "2", "--end", "1"), 2, "is empty"),
        (("certify", "USDF", "cal", "flat", "--begin", "2"), 2, "--end"),
        (("certify", "USDF", "c/raw", "flat", "--collection", "c/one", "--begin", "1", "--end", "2"), 2, "is not a CALIBRATION"),
        (("decertify", "USDF", "cal", "flat"), 2, "is not a CALIBRATION collection (not registered)"),
        (("chain", "USDF", "all"), 2, "CHILD"),
        (("list", "--kind", "BAG"), 2, "BAG"),
    ],
)
def test_what_is_refused_changes_nothing(lake: Lake, drp, words: tuple[str, ...], code: int, said: str) -> None:  # noqa: F811
    before = versions(lake)
    found, out, error = drp("collection", words[0], lake.root, *words[1:])
    assert (found, out) == (code, "") and said in error and error.count("\n") == 1, error
    assert versions(lake) == before


def test_every_verb_has_an_example() -> None:
    for verb in collection.command.commands:
        result = CliRunner().invoke(collection.command, [verb, "--help"])
        assert result.exit_code == 0 and "xample" in result.output, verb


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["associate", "l", "A", "n", "raw", "b*", "--where", "x", "--collection", "c"],
         {"site": "A", "name": "n", "types": ("raw", "b*"), "where": "x", "collections": ("c",)}),
        (["certify", "l", "A", "n", "--begin", "1", "--end", "2.5"],
         {"site": "A", "name": "n", "types": (), "where": "", "collections": (), "begin": 1.0, "end": 2.5}),
        (["decertify", "l", "A", "n", "flat"],
         {"site": "A", "name": "n", "kind": "flat", "where": None, "begin": float("-inf"), "end": float("inf")}),
        (["chain", "l", "A", "n", "a", "b", "--mode", "prepend"],
         {"site": "A", "name": "n", "children": ("a", "b"), "mode": "prepend"}),
        (["show", "l", "n"], {"name": "n", "site": None, "form": "table"}),
        (["list", "l"], {"sites": (), "kind": None, "form": "table"}),
    ],
)  # fmt: skip
def test_what_is_parsed(monkeypatch: pytest.MonkeyPatch, words: list[str], wanted: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(collection.command.commands[words[0]], "callback", lambda **given: seen.append(given))
    assert CliRunner().invoke(collection.command, words).exit_code == 0
    assert seen == [{"lake": Path("l")} | wanted]
