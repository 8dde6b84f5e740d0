"""Accuracy against the truth: the errors that were put into a campaign come out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.__main__ import cli
from lake.site import Lake, LakeError
from pipelines import accuracy
from pipelines.accuracy import sources
from pipelines.accuracy.figure import Figure


def test_what_was_put_in_comes_out(finished: Lake) -> None:
    figures = {figure.name: figure for figure in accuracy.measure(finished, (9469, 9470))}
    assert figures["zero point error, all bands"].value == pytest.approx(1.0, abs=1e-3)
    assert figures["zero point error, all bands"].ok and figures["zero point constant, g"].ok
    assert figures["WCS error, fitted frames"].value == pytest.approx(np.hypot(0.02, 0.02), abs=1e-4)
    assert figures["coadd PSF flux bias, r"].value == pytest.approx(0.2, abs=1e-3)
    found = figures["transients with S/N > 10 found"]
    assert found.value == 100.0 and found.count >= 3 and found.ok
    assert figures["known variables seen to vary"].ok is False, "the paper's forced fluxes do not vary: a claim on nothing fails"


def test_the_benchmark_prints_one_line_per_figure(finished: Lake) -> None:
    done = CliRunner().invoke(cli, ["accuracy", "--lake", str(finished.root), "--json"])
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.exit_code == 1 and records[0]["unit"] == "mmag" and records[0]["wanted"] == "<= 3" and records[0]["ok"] is True
    assert "accuracy" in CliRunner().invoke(cli, []).stdout


def test_a_lake_without_truth_says_so(tmp_path: Path) -> None:
    empty = Lake.create(tmp_path / "lake", {"USDF": {"central": True}})
    with pytest.raises(LakeError, match="holds no truth"):
        accuracy.measure(empty, (1,))


def test_figures_know_what_is_wanted() -> None:
    assert Figure("f", "mmag", -2.0, 5, 3.0).ok and not Figure("f", "mmag", -4.0, 5, 3.0).ok
    assert Figure("f", "%", 81.0, 5, 80.0, least=True).ok and Figure("f", "%", 99.0, 0, 80.0, least=True).ok is False
    assert Figure("f", "x", float("nan"), 5, 1.0).ok is False and Figure("f", "x", 1.0, 5).ok is None


def test_matching_finds_the_nearest_within_the_radius_across_ra_zero() -> None:
    ra, dec = np.array([359.9999, 10.0, 20.0]), np.array([0.0, 5.0, 0.0])
    index = sources.match(ra, dec, np.array([0.0001, 10.0003, 50.0]), np.array([0.0, 5.0, 0.0]), 1.5)
    assert index.tolist() == [0, 1, -1]
    assert sources.match(ra, dec, np.array([]), np.array([]), 1.5).tolist() == [-1, -1, -1]
