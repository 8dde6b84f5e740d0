"""Rows of a registry table by ranges of its columns, out of the few row groups that can hold them.

An engine for queries plans and looks at every row group each time, which costs more than reading what a look-up needs.
Here the least and greatest values of row groups are kept for as long as a connection is open: files never change, and a
commit is looked for each time.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
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
#: Files that are kept open, and how many row groups their footers may have: those of a million rows take 5 MB.
OPEN_FILES, OPEN_GROUPS = 64, 4096
_LEAST: dict[type, Any] = {int: -(2**63), str: ""}
_GREATEST: dict[type, Any] = {int: 2**63 - 1, str: chr(0x10FFFF)}


class RowGroups:
    """The row groups of a site's table; ``prune`` as in delta.files(). One thread at a time."""

    def __init__(self, site: Site, table: str, prune: str | None = None) -> None:
        self._site, self._table, self._prune = site, table, prune
        self._folder = site.table_path(table)
        self._fields = {each.name: each.remove_metadata().with_nullable(True) for each in schemas.table(table).arrow}
        self._opened: OrderedDict[str, pq.ParquetFile] = OrderedDict()  # the one used last at the end
        self._version: int | None = None
        self._files: dict[str, _File] = {}
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
        live = delta.files(self._site, self._table, self._prune)
        self._files = {path: self._files.get(path) or self._file(path) for path in live}
        self._opened = OrderedDict((path, file) for path, file in self._opened.items() if path in self._files)
        self._selections = {}
        self._version = version

    def _file(self, path: str) -> _File:
        values = partition_of(path.removeprefix(f"{self._folder}/")).items()
        return _File({name: pa.scalar(value).cast(self._fields[name].type).as_py() for name, value in values})

    def _selected(self, demands: Sequence[Demand]) -> _Selection:
        """The row groups of the files whose partition meets the demands."""
        key = repr(demands)
        if key not in self._selections:
            paths = [path for path, file in self._files.items() if all((file.fixed[c], file.fixed[c]) in r for c, r in demands)]
            for path in paths:
                if not (sizes := self._files[path].sizes):
                    footer = self._open(path).metadata
                    sizes += [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]
            groups = [(n, g, rows) for n, path in enumerate(paths) for g, rows in enumerate(self._files[path].sizes)]
            self._selections[key] = _Selection(paths, np.array(groups, np.int64).reshape(-1, 3))
        return self._selections[key]

    def _bounds_of(self, selection: _Selection, column: str) -> Bounds:
        """The least and the greatest value of a column in each row group."""
        if column not in selection.bounds:
            kind = int if pa.types.is_integer(self._fields[column].type) else str
            for path in selection.files:
                if column not in self._files[path].bounds:
                    self._files[path].bounds[column] = _bounds(self._open(path).metadata, column, kind)
            parts = [self._files[path].bounds[column] for path in selection.files]
            empty = np.empty(0, np.int64 if kind is int else object)
            selection.bounds[column] = (
                np.concatenate([empty, *(low for low, _ in parts)]),
                np.concatenate([empty, *(high for _, high in parts)]),
            )
        return selection.bounds[column]

    def _open(self, path: str) -> pq.ParquetFile:
        """A file that stays open: opening it and reading its footer would often cost more than what is read."""
        if path not in self._opened:
            texts = [each.name for each in self._fields.values() if pa.types.is_string(each.type)]
            repeated = [name for name in texts if name not in (*SINGULAR.get(self._table, ()), *self._files[path].fixed)]
            try:
                self._opened[path] = pq.ParquetFile(source(at(path)), read_dictionary=repeated, page_checksum_verification=True)
            except (OSError, pa.ArrowInvalid) as error:
                raise self._unreadable(path, error) from None
            while len(self._opened) > OPEN_FILES or (
                len(self._opened) > 1 and sum(file.num_row_groups for file in self._opened.values()) > OPEN_GROUPS
            ):
                self._opened.popitem(last=False)
        self._opened.move_to_end(path)
        return self._opened[path]

    def _unreadable(self, path: str, error: Exception) -> DeltaError:
        return DeltaError(f"site {self._site.name}: table {self._table}: {path} cannot be read: {one_line(error)}; restore it")

    def _read(self, path: str, groups: np.ndarray, tests: Sequence[Demand], schema: pa.Schema) -> pa.Table:
        """The rows that meet the tests out of row groups (number, rows) of a file: other columns only of those with any."""
        numbers, of_group = groups[:, 0].tolist(), np.repeat(np.arange(len(groups)), groups[:, 1])
        met, found = np.ones(len(of_group), bool), dict[str, pa.ChunkedArray]()
        try:
            file, known = self._open(path), self._files[path]
            same = known.fixed | dict(set.intersection(*(known.same(file.metadata, g) for g in numbers)))
            tests = [(column, ranges) for column, ranges in tests if column not in same or not _lies(same[column], ranges)]
            tested = list(dict.fromkeys(column for column, _ in tests))
            if tested:
                rows = file.read_row_groups(numbers, columns=tested, use_threads=False)
                met = _meet(rows, tests)
                found |= zip(tested, rows.filter(pa.array(met)).columns, strict=True)
            others = [name for name in schema.names if name not in tested and name not in same]
            hit = np.bincount(of_group[met], minlength=len(groups)) > 0
            if hit.any() and others:
                rows = file.read_row_groups(groups[hit, 0].tolist(), columns=others)
                found |= zip(others, rows.filter(pa.array(met[hit[of_group]])).columns, strict=True)
        except (OSError, pa.ArrowInvalid) as error:
            self._opened.pop(path, None)  # what is restored has its name
            raise self._unreadable(path, error) from None
        if not hit.any():
            return schema.empty_table()
        count = np.count_nonzero(met)
        for name in schema.names:
            kind = self._fields[name].type
            if name not in found:
                found[name] = pa.chunked_array([pa.repeat(pa.scalar(same[name], kind), count)])
            elif found[name].type != kind:
                found[name] = found[name].cast(kind)
        return pa.table([found[name] for name in schema.names], schema=schema)


@dataclass
class _File:
    """What is known of a file: values of its partition; by row group how many rows, bounds of columns, columns of one value."""

    fixed: dict[str, Any]
    sizes: list[int] = field(default_factory=list)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    constants: dict[int, set[tuple[str, Any]]] = field(default_factory=dict)

    def same(self, footer: pq.FileMetaData, group: int) -> set[tuple[str, Any]]:
        """Columns that have one value in a row group, or only null, with it: they need not be read."""
        if group not in self.constants:
            self.constants[group] = set(_same(footer.row_group(group)))
        return self.constants[group]


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


def _lies(value: Any, ranges: Sequence[Range]) -> bool:
    """Whether a value lies in one of the ranges."""
    return value is not None and any((low is None or low <= value) and (high is None or value <= high) for low, high in ranges)


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


def _same(group: pq.RowGroupMetaData) -> Iterator[tuple[str, Any]]:
    """Columns of which all rows of a row group have one value (a NaN would not be counted: no floats), or null."""
    for column in map(group.column, range(group.num_columns)):
        known = column.statistics
        if known is None or not known.has_null_count:
            continue
        if known.null_count == group.num_rows:
            yield column.path_in_schema, None
        elif not known.null_count and known.has_min_max and known.min == known.max and not isinstance(known.min, float):
            yield column.path_in_schema, known.min
