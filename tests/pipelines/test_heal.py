"""Healing from the archive: what no site has any more comes back from a bundle, and a lost bundle is made again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake

from checks import audit
from lake import archive, datastore
from lake.site import Lake
from pipelines import heal
from pipelines.driver import Silent


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six raws at USDF, in a bundle at FRDF."""
    lake = small_lake.make(tmp_path / "lake", raws=True)
    archive.archive(lake, lake.central, archive.Shelf(lake.site("FRDF")))
    return lake


def test_a_bundle_is_known_to_the_audit(lake: Lake) -> None:
    frdf = lake.site("FRDF")
    report = audit.audit(frdf, deep=True)
    assert report.ok and (report.files, report.datasets) == (1, 6)
    [bundle] = archive.bundles(lake)
    file = frdf.path(bundle.path)
    content = file.read_bytes()
    file.write_bytes(content[:-1] + b"x")
    assert [f.state for f in audit.audit(frdf, deep=True).findings] == ["damaged"]
    file.unlink()
    assert [f.state for f in audit.audit(frdf).findings] == ["lost"]


def test_what_no_other_site_has_comes_from_the_archive(lake: Lake) -> None:
    lost, damaged, *_ = sorted(lake.central.root.glob("files/**/*.fits"))
    content = {path: path.read_bytes() for path in (lost, damaged)}
    lost.unlink()
    damaged.write_bytes(b"x" + content[damaged][1:])
    assert len(audit.audit(lake.central, deep=True).findings) == 2
    healed = heal.heal(lake, {}, Silent())
    assert healed == heal.Healed(["USDF: recalled 2 files from the archive"], [])
    assert {path: path.read_bytes() for path in (lost, damaged)} == content
    assert audit.audit(lake.central, deep=True).ok


def test_a_lost_bundle_is_made_again(lake: Lake) -> None:
    [bundle] = archive.bundles(lake)
    file = lake.site("FRDF").path(bundle.path)
    file.unlink()
    assert heal.heal(lake, {}, Silent()).done == ["FRDF: made 1 bundles of the archive again"]
    assert datastore.checksum(file) == bundle.checksum


def test_what_cannot_be_made_again_is_said_once(lake: Lake) -> None:
    [bundle] = archive.bundles(lake)
    lake.site("FRDF").path(bundle.path).unlink()
    gone = min(lake.central.root.glob("files/**/*.fits"))
    gone.unlink()
    healed = heal.heal(lake, {}, Silent())
    assert sorted(line.split(" is lost for good")[0] for line in healed.hopeless) == [
        f"FRDF: {bundle.path}", f"USDF: {lake.central.relative(gone)}",
    ]  # fmt: skip
    assert [line.split()[0] for line in heal.heal(lake, {}, Silent()).hopeless] == ["USDF:"]
