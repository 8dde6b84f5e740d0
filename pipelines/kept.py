"""What a process has read lately, kept while it fits: the quanta of a job, and jobs that follow, ask for the same again.

Keeping is only a matter of speed: files are immutable, and a key names what a file holds (its checksum), so what is kept is
what would be read.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, Protocol, TypeVar


class Sized(Protocol):
    """Anything that knows how many bytes of memory it holds."""

    @property
    def nbytes(self) -> int: ...


V = TypeVar("V", bound=Sized)


class Kept(Generic[V]):
    """Values by key, up to ``limit`` bytes in all; those go first that were not asked for the longest."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[Hashable, V] = OrderedDict()
        self._held = 0

    def get(self, key: Hashable, read: Callable[[], V]) -> V:
        """The value of ``key``, which the caller must not change; ``read`` is called when it is not there."""
        if key in self._values:
            self._values.move_to_end(key)
            return self._values[key]
        value = self._values[key] = read()
        self._held += value.nbytes
        while self._held > self.limit and len(self._values) > 1:  # the newest stays, however large
            self._held -= self._values.popitem(last=False)[1].nbytes
        return value
