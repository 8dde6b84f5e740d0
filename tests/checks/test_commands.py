"""drp audit, ledger, qa and report: what they print and how they end."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from click.testing import CliRunner, Result
from paper_lake import files

from lake.site import Lake
from pipelines.cli import cli


def drp(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def test_a_sound_campaign_ends_well(lake: Lake) -> None:
    done = drp("audit", lake.root, "--deep")
    assert done.exit_code == 0 and "0 lost, 0 damaged, 0 orphan" in done.stderr and done.stdout == ""
    done = drp("ledger", lake.root, "--step", "step4", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert done.exit_code == 0 and len(rows) == 8 and all(row["step"] == "step4" and row["lost"] == "0" for row in rows)
    done = drp("qa", lake.root, "--suite", "keys", "--format", "json")
    assert done.exit_code == 0 and {row["verdict"] for row in json.loads(done.stdout)} == {"met"}


def test_damage_ends_badly_in_each(lake: Lake) -> None:
    site = lake.site("FRDF")
    gone = files(site, "visit_image")[0]
    site.path(gone).unlink()
    stray = site.path("files/stray.fits")
    stray.write_bytes(b"stray")
    done = drp("audit", lake.root, "FRDF", "--format", "json")
    assert done.exit_code == 1
    assert {(row["state"], row["path"]) for row in json.loads(done.stdout)} == {("lost", gone), ("orphan", "files/stray.fits")}
    done = drp("audit", lake.root, "--remove-orphans", "--format", "csv")
    assert done.exit_code == 1 and not stray.exists() and "stray" not in done.stdout and "removed 1 orphans" in done.stderr
    done = drp("ledger", lake.root, "--site", "FRDF")
    assert done.exit_code == 1 and "NOT reconciled: FRDF step4 visit_image: 1 lost" in done.stderr and "lost" in done.stdout
    done = drp("ledger", lake.root, "--raws", "--format", "json")
    assert [raw["stopped_type"] for raw in json.loads(done.stdout)] == ["visit_image"]
    done = drp("qa", lake.root, "--suite", "storage")
    assert done.exit_code == 1 and "NOT met" in done.stdout and gone.rpartition("/")[2][:20] in done.stdout


def test_the_report_names_its_file(lake: Lake, tmp_path: Path) -> None:
    done = drp("report", lake.root, "-o", tmp_path / "r.html")
    assert done.exit_code == 0 and done.stdout.strip() == str(tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text().startswith("<!doctype html>")


def test_misuse_is_refused(finished: Lake) -> None:
    assert "no step 'step9'" in drp("ledger", finished.root, "--step", "step9").stderr
    assert drp("ledger", finished.root, "--step", "step9").exit_code == 2
    for words in (
        ("audit", finished.root, "MARS"),
        ("ledger", finished.root, "--site", "MARS"),
        ("qa", finished.root, "--suite", "x"),
    ):
        done = drp(*words)
        assert done.exit_code != 0 and ("MARS" in str(done.exception) or "no suite 'x'" in str(done.exception))
