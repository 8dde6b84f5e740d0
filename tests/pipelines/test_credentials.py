"""Credentials stay in the environment: nothing writes the environment to a table, a file, or what is said to the operator."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy

import schemas
from lake import delta
from lake.site import Lake
from pipelines.journal import Journal
from pipelines.runner import SiteRunner

ROOT = Path(__file__).parents[2]
SECRET = "dXJsZm9yYmlkZGVu-8841"
NAMES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "DRP_PASSWORD")


def leaks(root: Path, secret: str, *said: str) -> list[str]:
    """Where a secret can be found: rows of tables, files of a lake (also in their names), and texts."""
    found = [f"said: {text[:80]}" for text in said if secret in text]
    for path in root.rglob("*"):
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes()):
            found.append(str(path))
    for site in Lake.open(root).sites.values():
        with delta.cursor() as con:
            for table in schemas.tables():
                rows = con.sql(
                    f"SELECT count(*) FROM ({delta.select(site, table)}) t WHERE contains(t::VARCHAR, $secret)",
                    params={"secret": secret},
                ).fetchall()
                found += [f"{site.name}.{table}"] if rows[0][0] else []
    return found


def test_the_search_finds_what_is_there(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake", {"A": {"central": True}})
    assert leaks(lake.root, SECRET, "nothing") == []
    journal = Journal(lake, "c")
    journal.write("step", step="step1", site="A", state="failed", quanta=0, succeeded=0, failed=0, who="op", why=f"key {SECRET}")
    journal.flush()
    lake.central.path("files/note").write_text(SECRET)
    places = {f"said: error: {SECRET}", str(lake.central.path("files/note")), "A.step"}
    assert places <= set(leaks(lake.root, SECRET, f"error: {SECRET}"))


def test_nothing_writes_the_environment_down(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs that fail and succeed, commands that work and do not, all with credentials in their environment."""
    for name in NAMES:
        monkeypatch.setenv(name, SECRET)
    lake = toy.make(tmp_path / "lake", 2)
    journal = Journal(lake, "toy")
    campaign = toy.campaign(config={"isr": {"acts": {"1.0": "fail"}}}, attempts=1)
    runner = SiteRunner(lake.central, toy.pipeline(), campaign, journal, "software")
    try:
        runner.predict()
        runner.run_step("step1")
        runner.run_step("step2a")
    finally:
        runner.close()
    text = "name: toy\ninstrument: TinyCam\nskymap: tiny_rings\nsites: {A: {tracts: [1, 2]}}\n"
    journal.write("campaign", state="running", definition=text, who="op@host", why=None)
    journal.flush()
    said = []
    for words in (
        ["status", lake.root, "--step", "step1"], ["sql", lake.root, "SELECT * FROM attempt"], ["upkeep", lake.root],
        ["sql", lake.root, "SELECT getenv('DRP_PASSWORD')"], ["audit", lake.root], ["run", lake.root, tmp_path / "none.yaml"],
    ):  # fmt: skip
        command = [sys.executable, "-c", "from pipelines.cli import main; main()", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
        said.append(done.stdout + done.stderr)
    assert all(said), "every command says something"
    assert leaks(lake.root, SECRET, *said) == []
