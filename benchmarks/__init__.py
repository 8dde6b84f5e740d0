"""The figures that the project claims, each as a command that anyone can run: ``python -m benchmarks [NAME]``.

A benchmark is a module here with ``ABOUT`` (one line), ``OPTIONS`` (click options it takes besides --scale) and
``run(scale, **options)``, which yields a Quantity per line.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Peer:
    """Who else was measured in the same run, and the figure they gave."""

    name: str
    version: str
    figure: float


@dataclass(frozen=True)
class Quantity:
    """One measured quantity. ``wanted`` is the claim in words, ``ok`` whether it holds (None: nothing is claimed)."""

    name: str
    unit: str
    ours: float
    wanted: str = ""
    ok: bool | None = None
    peer: Peer | None = None
    count: int | None = None

    @property
    def ratio(self) -> float | None:
        """Ours divided by the peer's."""
        return self.ours / self.peer.figure if self.peer and self.peer.figure else None

    def record(self, scale: int, load: float) -> dict[str, Any]:
        """The quantity as one JSON object, with the scale and the machine's load it was measured at."""
        return {**asdict(self), "ratio": self.ratio, "scale": scale, "load": load}
