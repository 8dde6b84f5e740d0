"""SQL statements of the lake, one per file, named after what they produce."""

from __future__ import annotations

from functools import cache
from importlib import resources


@cache
def statement(name: str) -> str:
    """The text of ``lake/sql/<name>.sql``."""
    return (resources.files(__package__) / f"{name}.sql").read_text()
