"""Rows of a registry table by ranges of its columns, out of the few row groups that can hold them.

An engine for queries plans and looks at every row group each time, which costs more than reading what a look-up needs.
Here the least and greatest values of row groups are kept for as long as a connection is open: files never change, and a
commit is looked for each time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from lake import delta
from lake.access import at, source
from lake.parquet import SINGULAR, DeltaError, partition_of
from lake.site import Site, one_line

Range = tuple[str | float | None, str | float | None]
#: A column, and ranges (both ends included, None: open) of which one must hold its value. Of texts, points only.
Demand = tuple[str, Sequence[Range]]
Bounds = tuple[np.ndarray, np.ndarray]
#: Above so many rows in row groups, or files, a query engine is the faster reader.
MOST_ROWS, MOST_FILES = 1_000_000, 32
#: Footers that are kept; that of a million rows takes 5 MB.
FOOTERS = 16
_LEAST: dict[type, Any] = {int: -(2**63), str: ""}
_GREATEST: dict[type, Any] = {int: 2**63 - 1, str: chr(0x10FFFF)}


class RowGroups:
    """The row groups of a site's table; ``prune`` as in delta.files(). One thread at a time."""

    def __init__(self, site: Site, table: str, prune: str | None = None) -> None:
        self._site, self._table, self._prune = site, table, prune
        self._folder = site.table_path(table)
        self._fields = {each.name: each.remove_metadata().with_nullable(True) for each in schemas.table(table).arrow}
        self._footer = lru_cache(FOOTERS)(self._read_footer)
        self._version: int | None = None
        self._partitions: dict[str, dict[str, str]] = {}  # by file
        self._sizes: dict[str, list[int]] = {}
        self._bounds: dict[str, dict[str, Bounds]] = {}
        self._selections: dict[str, _Selection] = {}

    def rows(self, demands: Sequence[Demand], columns: Sequence[str]) -> pa.Table | None:
        """``columns`` of the rows as of the last commit that meet all demands, in no order; None where too much would be read.

        DeltaError names a file that cannot be read.
        """
        self._renew()
        schema = pa.schema([self._fields[name] for name in columns])
        by = schemas.table(self._table).partition_by
        within = [demand for demand in demands if demand[0] not in by]
        selection = self._selected([demand for demand in demands if demand[0] in by])
        chosen = np.arange(len(selection.groups))
        for column, ranges in sorted(within, key=lambda demand: pa.types.is_string(self._fields[demand[0]].type)):
            least, greatest = self._bounds_of(selection, column)
            chosen = chosen[_overlap(least[chosen], greatest[chosen], ranges)]
        groups = selection.groups[chosen]
        files = np.unique(groups[:, 0])
        if groups[:, 2].sum() > MOST_ROWS or len(files) > MOST_FILES:
            return None
        parts = [self._read(selection.files[n], groups[groups[:, 0] == n, 1:], within, schema) for n in files]
        return pa.concat_tables(parts) if parts else schema.empty_table()

    def _renew(self) -> None:
        """Look for a commit since the last time."""
        version = delta.newest(self._site, self._table, self._version)
        if version == self._version:
            return
        files = delta.files(self._site, self._table, self._prune)
        self._partitions = {path: partition_of(path.removeprefix(f"{self._folder}/")) for path in files}
        self._sizes = {path: self._sizes[path] for path in files if path in self._sizes}
        self._bounds = {path: self._bounds.get(path, {}) for path in files}
        self._selections = {}
        self._version = version

    def _selected(self, demands: Sequence[Demand]) -> _Selection:
        """The row groups of the files whose partition meets the demands."""
        key = repr(demands)
        if key not in self._selections:
            files = [path for path, fixed in self._partitions.items() if all((fixed[c], fixed[c]) in r for c, r in demands)]
            for path in files:
                if path not in self._sizes:
                    footer = self._footer(path)
                    self._sizes[path] = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
            groups = [(n, g, rows) for n, path in enumerate(files) for g, rows in enumerate(self._sizes[path])]
            self._selections[key] = _Selection(files, np.array(groups, np.int64).reshape(-1, 3))
        return self._selections[key]

    def _bounds_of(self, selection: _Selection, column: str) -> Bounds:
        """The least and the greatest value of a column in each row group."""
        if column not in selection.bounds:
            kind = int if pa.types.is_integer(self._fields[column].type) else str
            for path in selection.files:
                if column not in self._bounds[path]:
                    self._bounds[path][column] = _bounds(self._footer(path), column, kind)
            parts = [self._bounds[path][column] for path in selection.files]
            empty = np.empty(0, np.int64 if kind is int else object)
            selection.bounds[column] = (
                np.concatenate([empty, *(low for low, _ in parts)]),
                np.concatenate([empty, *(high for _, high in parts)]),
            )
        return selection.bounds[column]

    def _read_footer(self, path: str) -> pq.FileMetaData:
        try:
            return pq.read_metadata(source(at(path)))
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(path, error) from None

    def _unreadable(self, path: str, error: Exception) -> DeltaError:
        return DeltaError(f"site {self._site.name}: table {self._table}: {path} cannot be read: {one_line(error)}; restore it")

    def _read(self, path: str, groups: np.ndarray, tests: Sequence[Demand], schema: pa.Schema) -> pa.Table:
        """The rows that meet the tests out of row groups (number, rows) of a file: other columns only of those with any."""
        fixed = self._partitions[path]
        stored = [name for name in schema.names if name not in fixed]
        tested = list(dict.fromkeys(column for column, _ in tests)) or stored[:1]
        others = [name for name in stored if name not in tested]
        texts = [name for name in (*tested, *others) if pa.types.is_string(self._fields[name].type)]
        repeated = [name for name in texts if name not in SINGULAR.get(self._table, ())]
        try:
            with pq.ParquetFile(
                source(at(path)), metadata=self._footer(path), read_dictionary=repeated, page_checksum_verification=True
            ) as file:
                rows = file.read_row_groups(groups[:, 0].tolist(), columns=tested, use_threads=False)
                met = _meet(rows, tests)
                of_group = np.repeat(np.arange(len(groups)), groups[:, 1])
                hit = np.unique(of_group[met])
                found = dict(zip(tested, rows.filter(pa.array(met)).columns, strict=True))
                if len(hit) and others:
                    rows = file.read_row_groups(groups[hit, 0].tolist(), columns=others)
                    met = met[np.isin(of_group, hit)] if len(hit) < len(groups) else met
                    found |= zip(others, rows.filter(pa.array(met)).columns, strict=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(path, error) from None
        if not len(hit):
            return schema.empty_table()
        count = len(next(iter(found.values())))
        found |= {name: pa.chunked_array([pa.repeat(value, count)]) for name, value in fixed.items()}
        return pa.table([found[name].cast(self._fields[name].type) for name in schema.names], schema=schema)


@dataclass
class _Selection:
    """Row groups of some files (which file, which group there, how many rows) and, of columns that were asked for, their bounds."""

    files: list[str]
    groups: np.ndarray
    bounds: dict[str, Bounds] = field(default_factory=dict)


def _meet(rows: pa.Table, tests: Sequence[Demand]) -> np.ndarray:
    """Which rows meet all tests; null meets none."""
    met = np.ones(rows.num_rows, bool)
    for column, ranges in tests:
        met &= np.concatenate([_lie(chunk, ranges) for chunk in rows[column].chunks])
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
        lie |= (numbers >= (_LEAST[int] if low is None else low)) & (numbers <= (_GREATEST[int] if high is None else high))
    return lie & np.asarray(values.is_valid()) if values.null_count else lie


def _overlap(least: np.ndarray, greatest: np.ndarray, ranges: Sequence[Range]) -> np.ndarray:
    """Which row groups may hold a value in one of the ranges."""
    kind = str if least.dtype == object else int
    ends: Iterator[tuple[Any, Any]] = (
        (_LEAST[kind] if low is None else low, _GREATEST[kind] if high is None else high) for low, high in ranges
    )
    sound = sorted(pair for pair in ends if pair[0] <= pair[1])
    if not sound:
        return np.zeros(len(least), bool)
    lows, highs = (np.array(end, least.dtype) for end in zip(*sound, strict=True))
    first = np.searchsorted(np.maximum.accumulate(highs), least)  # the first range that does not end before the row group begins
    return (first < len(lows)) & (lows[np.minimum(first, len(lows) - 1)] <= greatest)


def _bounds(footer: pq.FileMetaData, column: str, kind: type) -> Bounds:
    """The least and the greatest value of a column in each row group: crossed where all are null, wide where not known."""
    dtype, count = np.int64 if kind is int else object, footer.num_row_groups
    low, high = np.full(count, _LEAST[kind], dtype), np.full(count, _GREATEST[kind], dtype)
    place = footer.schema.names.index(column)
    for g in range(count):
        known = footer.row_group(g).column(place).statistics
        if known is not None and known.has_min_max:
            low[g], high[g] = known.min, known.max
        elif known is not None and known.has_null_count and known.null_count == footer.row_group(g).num_rows:
            low[g], high[g] = high[g], low[g]
    return low, high
