"""The photometric calibration in both modes: the same products to the bit, and its four steps under their common name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lake import delta
from lake.site import Lake
from pipelines import campaign as campaigns
from pipelines import definition, placement
from pipelines.cli import cli

ROOT = Path(__file__).parents[2]
PARTS = definition.steps("step2c")
MADE = sorted({kind for part in PARTS for task in definition.load().step(part) for kind in task.outputs})

Lakes = dict[str, Lake]


def drp(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Lakes:
    """The tiny campaign through the calibration, in both modes, side by side."""
    found: Lakes = {}
    runs = []
    text = (Path(campaigns.__file__).parent / "campaigns" / "tiny.yaml").read_text()
    for mode in campaigns.MODES:
        root = tmp_path_factory.mktemp(mode)
        found[mode] = Lake.create(root / "lake", {"USDF": {"central": True}, "FRDF": {}})
        (root / "tiny.yaml").write_text(f"{text}\ncalibration: {{mode: {mode}}}\n")
        words = ["run", root / "lake", root / "tiny.yaml", "--through", "step2c"]
        command = [sys.executable, "-c", "from pipelines.cli import main; main()", *map(str, words)]
        runs.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT))
    for run in runs:
        said, _ = run.communicate(timeout=280)
        assert run.returncode == 0, said
    return found


def checksums(lake: Lake) -> dict[tuple[str, ...], str]:
    """At the central site: the checksum of every dataset of the calibration, by type, tract and visit."""
    with delta.connect() as con:
        delta.relation(con, lake.central, "dataset").create_view("dataset")
        kinds = ", ".join(f"'{kind}'" for kind in MADE)
        rows = con.sql(f"SELECT dataset_type, tract, visit, checksum FROM dataset WHERE dataset_type IN ({kinds})").fetchall()
    assert len({row[:3] for row in rows}) == len(rows)
    return {tuple(map(str, row[:3])): row[3] for row in rows}


def test_both_modes_make_the_same_products(lakes: Lakes) -> None:
    catalogue, partial = (checksums(lakes[mode]) for mode in ("catalogue", "partial"))
    assert {kind for kind, *_ in catalogue} == set(MADE) and len(MADE) == 12
    assert catalogue == partial


def test_each_part_runs_where_its_mode_says(lakes: Lakes) -> None:
    for mode, lake in lakes.items():
        rows = json.loads(drp("status", lake.root, "--format", "json").stdout)
        ran = {(row["step"], row["site"]) for row in rows if row["step"].startswith("step2c")}
        central = {(part, "USDF") for part in PARTS}
        away = {("step2c.equations", "FRDF"), ("step2c.standards", "FRDF")}
        assert ran == (central if mode == "catalogue" else central | away)


def test_the_traffic_of_the_calibration_is_added_up(lakes: Lakes) -> None:
    for mode, lake in lakes.items():
        done = drp("transfers", lake.root, "--by", "phase", "--format", "json")
        *rows, total = json.loads(done.stdout)
        assert done.exit_code == 0 and (total["phase"], total["dataset_type"]) == ("calibration", "total")
        mine = [row for row in rows if row["calibration"]]
        assert all(total[name] == sum(row[name] for row in mine) > 0 for name in ("files", "ingested", "datasets", "bytes"))
        kinds = {(row["phase"], row["dataset_type"]) for row in mine}
        assert {("fan-in", kind) for kind in placement.STARS[mode]} < kinds and ("place", "reference_star") not in kinds
        assert {phase for phase, _ in kinds} == ({"fan-in"} if mode == "catalogue" else {"fan-in", "solution", "residuals"})
        by_rule = json.loads(drp("transfers", lake.root, "--format", "json").stdout)
        assert sum(row["bytes"] for row in rows) == sum(rule["bytes"] for rule in by_rule)
        assert sum(row["files"] for row in rows) == sum(rule["files"] for rule in by_rule)
        assert "total" in drp("transfers", lake.root, "--by", "phase").stdout


def test_the_common_name_means_all_parts(lakes: Lakes) -> None:
    lake = lakes["partial"]
    ledger = json.loads(drp("ledger", lake.root, "--step", "step2c", "--format", "json").stdout)
    assert {row["step"] for row in ledger} == set(PARTS)
    one = json.loads(drp("ledger", lake.root, "--step", "step2c.solution", "--format", "json").stdout)
    assert {row["step"] for row in one} == {"step2c.solution"}
    assert drp("status", lake.root, "--step", "step2c").exit_code == 0
    done = drp("status", lake.root, "--step", "step2c.x")
    assert isinstance(done.exception, campaigns.CampaignError) and "unknown step 'step2c.x'" in str(done.exception)
