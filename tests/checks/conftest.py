"""One campaign on paper for the whole room; a test that changes it works on its own copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lake.site import Lake
from tests.checks import paper_lake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The finished campaign; not to be changed."""
    return paper_lake.make(tmp_path_factory.mktemp("paper") / "lake")


@pytest.fixture
def lake(finished: Lake, tmp_path: Path) -> Lake:
    """A copy of the finished campaign."""
    shutil.copytree(finished.root, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")
