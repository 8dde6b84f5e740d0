"""What was read is kept while it fits, and read again when it went."""

from __future__ import annotations

import numpy as np

from pipelines.kept import Kept


def test_the_least_recently_used_go_first() -> None:
    read: list[str] = []
    kept: Kept[np.ndarray] = Kept(250)

    def get(key: str, size: int = 100) -> np.ndarray:
        def make() -> np.ndarray:
            read.append(key)
            return np.full(size, ord(key), np.uint8)

        return kept.get(key, make)

    for key in "aabbaca":
        assert get(key)[0] == ord(key)
    assert read == ["a", "b", "c"]  # a was asked for after b: b went for c
    get("b")
    assert read == ["a", "b", "c", "b"]
    assert len(get("d", 1000)) == 1000 and len(get("d", 1000)) == 1000
    assert read[-1] == "d" and read.count("d") == 1  # larger than all room: kept alone
    get("a")
    assert read[-1] == "a"
