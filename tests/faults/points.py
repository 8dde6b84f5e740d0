"""How much of a fault test is run: a part by default, so that all tests end in minutes; all of it with DRP_FAULTS=long."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

LONG = os.environ.get("DRP_FAULTS") == "long"


def some(points: Sequence[T], every: int = 3) -> Sequence[T]:
    """All points of a list, or by default one of ``every``, the first among them."""
    return points if LONG else points[::every]
