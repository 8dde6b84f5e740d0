"""Which values of a column each row group of a file has, in the file's footer: where rows do not lie in order of the column, the
least and the greatest value of a row group do not tell whether it has one between them."""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lake.demand import Range

#: Columns of whole numbers that are listed, by table.
LISTED = {"dataset": ("exposure", "visit")}
#: A list is worth its bytes where each value that it has stands for so many rows.
ROWS_OF_VALUE = 8

#: Values in ascending order, and the row group that has each; a value stands once for each row group that has it.
Listing = tuple[NDArray[np.int64], NDArray[np.int32]]


def listings(table: str, rows: pa.Table, size: int) -> dict[str, str]:
    """Entries for the footer of a file of row groups of ``size`` rows; none for columns in whose order the rows lie."""
    found = {}
    for column in LISTED.get(table, ()):
        values, valid = _numbers(rows[column])
        known = values[valid]
        if len(rows) <= size or np.all(known[1:] >= known[:-1]):
            continue
        group = np.arange(len(rows), dtype=np.int32) // size
        first = valid.copy()
        first[1:] &= (values[1:] != values[:-1]) | (group[1:] != group[:-1]) | ~valid[:-1]
        pairs = np.unique(np.stack([values[first], group[first].astype(np.int64)]), axis=1)
        if pairs.shape[1] * ROWS_OF_VALUE <= len(rows):
            content = np.diff(pairs[0], prepend=0).astype("<i8").tobytes() + pairs[1].astype("<i4").tobytes()
            found[_key(column)] = base64.b64encode(zlib.compress(content)).decode()
    return found


def _numbers(column: pa.ChunkedArray) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    valid = np.asarray(column.is_valid())
    return np.asarray(column.fill_null(0)).astype(np.int64, copy=False), valid


def listing(footer: Mapping[bytes, bytes] | None, column: str) -> Listing | None:
    """What the footer of a file lists of a column; None where it does not. ValueError where it is damaged."""
    entry = (footer or {}).get(_key(column).encode())
    if entry is None:
        return None
    try:
        content = zlib.decompress(base64.b64decode(entry, validate=True))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"its list of {column} is damaged: {error}") from None
    count = len(content) // 12
    return np.cumsum(np.frombuffer(content, "<i8", count)), np.frombuffer(content, "<i4", count, 8 * count)


@dataclass(frozen=True)
class Listed:
    """The row groups of several files, numbered through: values in ascending order and a row group that has each, and which row
    groups are of files that list nothing."""

    values: NDArray[np.int64]
    groups: NDArray[np.int64]
    silent: NDArray[np.bool_]

    @classmethod
    def of(cls, files: Sequence[tuple[int, Listing | None]]) -> Listed:
        """Of files with so many row groups and such listings."""
        counts = [count for count, _ in files]
        starts = np.cumsum([0, *counts])
        lists = [(found, start) for (_, found), start in zip(files, starts[:-1], strict=True) if found is not None]
        values = np.concatenate([np.empty(0, np.int64), *(found[0] for found, _ in lists)])
        groups = np.concatenate([np.empty(0, np.int64), *(found[1] + start for found, start in lists)])
        order = np.argsort(values, kind="stable")
        return cls(values[order], groups[order], np.repeat(np.array([found is None for _, found in files], bool), counts))

    def may_have(self, ranges: Sequence[Range]) -> NDArray[np.bool_]:
        """Which row groups may have a value in one of the ranges (both ends included, None: open)."""
        most = np.iinfo(np.int64)
        lows = np.searchsorted(self.values, [most.min if low is None else low for low, _ in ranges], "left")
        highs = np.searchsorted(self.values, [most.max if high is None else high for _, high in ranges], "right")
        found = self.silent.copy()
        for low, high in zip(lows.tolist(), highs.tolist(), strict=True):
            found[self.groups[low:high]] = True
        return found


def _key(column: str) -> str:
    return f"row groups by {column}"
