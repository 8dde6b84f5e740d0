"""The software's fingerprint: what it tells, and that a campaign does not go on with other software."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import toy

from lake import delta
from pipelines import inception, software
from pipelines.inception import FingerprintError


def test_what_it_tells() -> None:
    told = json.loads(software.describe())
    assert set(told) == {"packages", "python", "machine", "source"}
    assert told["packages"].keys() == set(software.PACKAGES)
    assert len(told["source"]) == 64
    assert len(software.fingerprint()) == 16 and software.fingerprint() == software.fingerprint()


def test_pinned_once_and_found_again(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 1)
    for _ in range(2):
        inception.pin_software(lake, toy.campaign(), toy.pipeline())
    with delta.connect() as con:
        delta.view(con, lake.central, "dataset")
        rows = con.execute("SELECT run, path FROM dataset WHERE dataset_type = 'software'").fetchall()
    assert [run for run, _ in rows] == ["toy/software"]
    assert lake.central.path(rows[0][1]).read_bytes() == software.describe()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"packages": {"numpy": "0.1"}}, "numpy .* then, 0.1 now"),
        ({"python": "2.7.18"}, r"python .* then, 2\.7\.18 now"),
        ({"source": "0" * 64}, "the project's own source has changed"),
    ],
)
def test_other_software_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, words: str) -> None:
    lake = toy.lake(tmp_path / "lake", 1)
    pipeline = toy.pipeline()
    inception.pin_software(lake, toy.campaign(), pipeline)
    told = json.loads(software.describe())
    other = told | change | ({"packages": told["packages"] | change["packages"]} if "packages" in change else {})
    monkeypatch.setattr(software, "describe", lambda: json.dumps(other).encode())
    with pytest.raises(FingerprintError, match=words) as refused:
        inception.pin_software(lake, toy.campaign(), pipeline)
    assert "campaign toy was begun with other software" in str(refused.value)
