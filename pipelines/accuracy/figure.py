"""A figure: what was measured, what is wanted."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Figure:
    """``limit`` is the largest absolute value wanted (smallest value where ``least``); None where nothing is claimed.

    ``count``: how many things (zero points, frames, stars, ...) it was measured on.
    """

    name: str
    unit: str
    value: float
    count: int
    limit: float | None = None
    least: bool = False

    @property
    def wanted(self) -> str:
        """The claim in words, empty where there is none."""
        return "" if self.limit is None else f"{'>=' if self.least else '<='} {self.limit:g}"

    @property
    def ok(self) -> bool | None:
        """Whether the claim holds; None where there is none. A figure on nothing does not hold."""
        if self.limit is None:
            return None
        if not self.count or self.value != self.value:
            return False
        return self.value >= self.limit if self.least else abs(self.value) <= self.limit
