"""What is demanded of rows: in which ranges columns must lie. Which rows meet that, and which row groups may have such rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Range = tuple[str | float | None, str | float | None]
#: A column, and ranges (both ends included, None: open) of which one must hold its value. Of texts, points only.
Demand = tuple[str, Sequence[Range]]
#: Less and more than all values, by the kind of a column.
LEAST: dict[type, Any] = {int: -(2**63), str: ""}
GREATEST: dict[type, Any] = {int: 2**63 - 1, str: chr(0x10FFFF)}


def meet(rows: pa.Table, tests: Iterable[Demand]) -> np.ndarray:
    """Which rows meet all tests; null meets none."""
    met = np.ones(rows.num_rows, bool)
    for column, ranges in tests:
        values = rows[column]
        chunks = values.chunks if pa.types.is_dictionary(values.type) else [values.combine_chunks()]
        met &= np.concatenate([_lie(chunk, ranges) for chunk in chunks])
    return met


def _lie(values: pa.Array, ranges: Sequence[Range]) -> np.ndarray:
    """Which values lie in one of the ranges; of texts, only points."""
    if pa.types.is_dictionary(values.type):
        met = np.append(_lie(values.dictionary, ranges), False)  # the last is for null
        return np.asarray(met[pc.fill_null(values.indices, -1).to_numpy()])
    points = [low for low, high in ranges if low == high and low is not None]
    if pa.types.is_string(values.type):
        return np.asarray(pc.is_in(values, pa.array(points, pa.string())))
    numbers, lie = pc.fill_null(values, 0).to_numpy(), np.zeros(len(values), bool)
    if len(points) > 1:
        lie |= np.isin(numbers, points)
    for low, high in ranges if len(points) < 2 else (r for r in ranges if r[0] != r[1]):
        lie |= (numbers >= (LEAST[int] if low is None else low)) & (numbers <= (GREATEST[int] if high is None else high))
    return lie & np.asarray(values.is_valid()) if values.null_count else lie


def lies(value: Any, ranges: Sequence[Range]) -> bool:
    """Whether a value lies in one of the ranges."""
    return value is not None and any((low is None or low <= value) and (high is None or value <= high) for low, high in ranges)


def overlap(least: np.ndarray, greatest: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    """Which row groups may hold a value in one of the ranges."""
    kind = str if least.dtype == object else int
    ends: Iterator[tuple[Any, Any]] = (
        (LEAST[kind] if low is None else low, GREATEST[kind] if high is None else high) for low, high in ranges
    )
    sound = sorted(pair for pair in ends if pair[0] <= pair[1])
    if not sound:
        return np.zeros(len(least), bool)
    lows, highs = (np.array(end, least.dtype) for end in zip(*sound, strict=True))
    first = np.searchsorted(np.maximum.accumulate(highs), least)  # the first range that does not end before the row group begins
    return (first < len(lows)) & (lows[np.minimum(first, len(lows) - 1)] <= greatest)
