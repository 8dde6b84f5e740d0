"""An import from a Butler that is killed is finished by the same command, and then as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lake import delta
from lake.site import Lake, Site

RECORDED = Path(__file__).parent.parent / "lake" / "data" / "butler_export"
POINTS = [
    "publish:written:2",
    "butler:tags",
    "registry:dataset",
    "butler:records",
    "publish:registered",
    "butler:datasets",
    "butler:ids",
]
POINTS = POINTS if os.environ.get("DRP_FAULTS") == "long" else POINTS[:2]
COLUMNS = {
    "dataset": "* EXCLUDE (registered_at)",
    "association": "collection, dataset_id",
    "certification": "collection, dataset_id, valid_begin, valid_end",
    "butler_id": "dataset_id, butler_id",
    "exposure": "*",
    "collection": "collection, kind, children",
}


def run(lake: Path, sizes: Path, fault: str | None = None) -> int:
    code = "from pipelines.cli import main; main()"
    command = [sys.executable, "-c", code, "import-butler", str(lake), "A", str(RECORDED), "--definitions", str(sizes)]
    environment = {**os.environ, "DRP_FAULT": fault} if fault else dict(os.environ)
    return subprocess.run(command, env=environment, capture_output=True).returncode


def state(site: Site) -> dict[str, list[Any]]:
    with delta.cursor() as con:
        tables = {t: con.sql(f"SELECT {c} FROM ({delta.select(site, t)}) ORDER BY ALL").fetchall() for t, c in COLUMNS.items()}
    return tables | {"files": sorted(str(p.relative_to(site.root)) for p in site.path("files").rglob("*") if p.is_file())}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, list[Any]]]:
    """An empty lake, the sizes of detectors, and what a whole import leaves."""
    folder = tmp_path_factory.mktemp("begun")
    Lake.create(folder / "lake", {"A": {"central": True}})
    (folder / "sizes.yaml").write_text("records: {detector: {width: 4000, height: 4096}}\n")
    whole = Lake.open(shutil.copytree(folder / "lake", folder / "whole")).central
    assert run(whole.home, folder / "sizes.yaml") == 1, "parts of the recorded export have no counterpart"
    return folder / "lake", folder / "sizes.yaml", state(whole)


@pytest.mark.parametrize("point", POINTS)
def test_a_killed_import_is_finished_by_the_next(
    begun: tuple[Path, Path, dict[str, list[Any]]], tmp_path: Path, point: str
) -> None:
    empty, sizes, whole = begun
    site = Lake.open(shutil.copytree(empty, tmp_path / "lake")).central
    assert run(site.home, sizes, point) == -signal.SIGKILL, f"{point} was not reached"
    assert run(site.home, sizes) == 1
    assert state(site) == whole
