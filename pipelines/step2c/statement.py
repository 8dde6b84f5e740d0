"""The SQL files of this step, by name."""

from __future__ import annotations

from functools import cache
from pathlib import Path


@cache
def statement(name: str) -> str:
    """The text of ``name``.sql beside this module."""
    return Path(__file__).with_name(f"{name}.sql").read_text()
