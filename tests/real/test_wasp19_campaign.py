"""Ten real frames, half at one site and half at the other, through every step to light curves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lake.query import query

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("DRP_REAL_DATA", ROOT.parent / "shared" / "data"))

pytestmark = pytest.mark.skipif(
    not (DATA / "sara_wasp19_raw").is_dir(), reason=f"no real frames at {DATA / 'sara_wasp19_raw'} (set DRP_REAL_DATA)"
)


def drp(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "DRP_REAL_DATA": str(DATA)}, cwd=ROOT)


@pytest.mark.timeout(900)
def test_real_frames_reach_their_light_curves(tmp_path: Path) -> None:
    root = str(tmp_path / "lake")
    sites = tmp_path / "sites.yaml"
    sites.write_text("sites:\n  USDF: {central: true}\n  FRDF: {}\n")
    assert drp("init", root, "--sites", str(sites)).returncode == 0
    run = drp("run", root, "wasp19")
    assert run.returncode == 0, run.stderr
    ledger = drp("ledger", root)
    assert ledger.returncode == 0, ledger.stdout + ledger.stderr

    raws = query(
        root, "SELECT site, count(*) AS n FROM dataset WHERE dataset_type = 'raw' AND origin = site GROUP BY site ORDER BY site"
    )
    assert raws.to_pylist() == [{"site": "FRDF", "n": 5}, {"site": "USDF", "n": 5}]
    tied = query(root, "SELECT bool_or(absolute) AS tied FROM photo_calib").to_pylist()
    assert tied == [{"tied": False}]  # no reference catalogue: the products say so
    curves = query(
        root,
        "SELECT count(*) AS stars, median(scatter) AS scatter FROM (SELECT objectId, count(*) AS n, "
        "1.4826 * mad(psfFlux) / median(psfFlux) AS scatter, median(psfFlux / psfFluxErr) AS snr FROM object_forced_source "
        "WHERE NOT flag_bad GROUP BY objectId HAVING n >= 8 AND snr > 200)",
    ).to_pylist()[0]
    assert curves["stars"] > 20
    assert curves["scatter"] < 0.03  # bright stars repeat to a few per cent on every frame
