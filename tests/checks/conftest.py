"""One campaign on paper for the whole room; a test that changes it works on its own copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import paper_lake
import pytest

from lake.site import Lake


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """The finished campaign; not to be changed."""
    return paper_lake.make(tmp_path_factory.mktemp("paper") / "lake")


@pytest.fixture(scope="session")
def half(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A campaign after step 1, where detector 1 of one visit failed and another found nothing to do; not to be changed."""
    first = 26091000001

    def decide(task: str, quantum: dict[str, Any]) -> str:
        if quantum["visit"] != first:
            return "succeeded"
        return "no_work" if quantum["detector"] == 0 else {"isr": "failed", "calibrate_image": "blocked"}[task]

    return paper_lake.make(tmp_path_factory.mktemp("half") / "lake", through="step1", decide=decide)


@pytest.fixture
def lake(finished: Lake, tmp_path: Path) -> Lake:
    """A copy of the finished campaign."""
    shutil.copytree(finished.root, tmp_path / "lake")
    return Lake.open(tmp_path / "lake")
