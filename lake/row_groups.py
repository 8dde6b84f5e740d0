"""Rows of a registry table by ranges of its columns, out of the few row groups that can hold them.

An engine for queries plans and looks at every row group each time, which costs more than reading what a look-up needs.
Here the least and greatest values of row groups are kept for as long as a connection is open: files never change, and a
commit is looked for each time.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from lake import delta
from lake.access import at, source
from lake.demand import Demand, lies, meet, overlap
from lake.footer import Bounds, bounds, same
from lake.listing import LISTED, Listed, Listing, listing
from lake.parquet import SINGULAR, DeltaError, partition_of
from lake.site import Site, one_line

#: Above so many rows in row groups, or files, a query engine is the faster reader.
MOST_ROWS, MOST_FILES = 1_000_000, 32
#: Of so many rows of a file all columns are read at once, those in which rows have values of their own, too; so many by one thread.
FEW_ROWS, ONE_THREAD = 8_192, 16_384
#: Files that are kept open, and how many row groups their footers may have: those of a million rows take 5 MB.
OPEN_FILES, OPEN_GROUPS = 64, 4096


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
            chosen = chosen[overlap(least[chosen], greatest[chosen], ranges)]
            if column in LISTED.get(self._table, ()):
                chosen = chosen[self._listed(selection, column).may_have(ranges)[chosen]]
        groups = selection.groups[chosen]
        files = np.unique(groups[:, 0])
        if groups[:, 2].sum() > MOST_ROWS or len(files) > MOST_FILES:
            return None
        reads = [self._plan(selection.files[n], groups[groups[:, 0] == n, 1:], within, columns) for n in files]
        few = [read for read in reads if read.at_once]
        parts = [self._in_two_steps(read) for read in reads if not read.at_once]
        for _, alike in groupby(sorted(few, key=_Read.kind), key=_Read.kind):
            several = list(alike)
            rows = (_readers().map if len(several) > 1 else map)(lambda read: self._columns(read, read.first), several)
            parts.append(_at_once(list(zip(several, rows, strict=True)), schema))
        return _together([part for part in parts if part.rows], schema)

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
                    self._files[path].bounds[column] = bounds(self._open(path).metadata, column, kind)
            parts = [self._files[path].bounds[column] for path in selection.files]
            empty = np.empty(0, np.int64 if kind is int else object)
            selection.bounds[column] = (
                np.concatenate([empty, *(low for low, _ in parts)]),
                np.concatenate([empty, *(high for _, high in parts)]),
            )
        return selection.bounds[column]

    def _listed(self, selection: _Selection, column: str) -> Listed:
        """Which row groups have which values of a column, of files that say so."""
        if column not in selection.listed:
            for path in selection.files:
                if column not in self._files[path].listings:
                    try:
                        self._files[path].listings[column] = listing(self._open(path).metadata.metadata, column)
                    except ValueError as error:
                        raise self._unreadable(path, error) from None
            files = [self._files[path] for path in selection.files]
            selection.listed[column] = Listed.of([(len(file.sizes), file.listings[column]) for file in files])
        return selection.listed[column]

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

    def _plan(self, path: str, groups: np.ndarray, demands: Sequence[Demand], names: Sequence[str]) -> _Read:
        """How to get the rows that meet the tests out of row groups (number, rows) of a file."""
        known = self._files[path]
        file = self._open(path)
        one = known.fixed | dict(set.intersection(*(known.same(file.metadata, g) for g in groups[:, 0].tolist())))
        tests = {n: test for n, test in enumerate(demands) if test[0] not in one or not lies(one[test[0]], test[1])}
        first = list(dict.fromkeys(column for column, _ in tests.values()))
        others = [name for name in names if name not in first and name not in one]
        if groups[:, 1].sum() <= (FEW_ROWS if SINGULAR.get(self._table) else ONE_THREAD):
            first, others = first + others, []
        return _Read(path, file, groups, one, tests, first, others)

    def _columns(self, read: _Read, columns: Sequence[str], hit: np.ndarray | slice = slice(None)) -> pa.Table:
        """Columns of the row groups that are hit."""
        groups = read.groups[hit]
        try:
            threads = groups[:, 1].sum() > ONE_THREAD
            return read.file.read_row_groups(groups[:, 0].tolist(), columns=columns, use_threads=threads)
        except (OSError, pa.ArrowInvalid) as error:
            self._opened.pop(read.path, None)  # what is restored has its name
            raise self._unreadable(read.path, error) from None

    def _in_two_steps(self, read: _Read) -> _Part:
        """Columns that are tested, then the others of row groups with rows that meet the tests."""
        of_group, found = np.repeat(np.arange(len(read.groups)), read.groups[:, 1]), dict[str, pa.ChunkedArray]()
        met = np.ones(len(of_group), bool)
        if read.first:
            rows = self._columns(read, read.first)
            met = meet(rows, read.tests.values())
            found |= zip(rows.column_names, rows.filter(pa.array(met)).columns, strict=True)
        hit = np.bincount(of_group[met], minlength=len(read.groups)) > 0
        if hit.any() and read.others:
            rows = self._columns(read, read.others, hit)
            found |= zip(rows.column_names, rows.filter(pa.array(met[hit[of_group]])).columns, strict=True)
        return _Part(int(np.count_nonzero(met)), found, read.same)


@cache
def _readers() -> ThreadPoolExecutor:
    """Threads that read files of a few rows, one each."""
    return ThreadPoolExecutor(min(4, os.cpu_count() or 1), "row_groups")


@dataclass
class _Read:
    """Row groups (number, rows) of a file, columns with one value there, tests by number, columns to read first, and then."""

    path: str
    file: pq.ParquetFile
    groups: np.ndarray
    same: dict[str, Any]
    tests: dict[int, Demand]
    first: list[str]
    others: list[str]

    @property
    def at_once(self) -> bool:
        """Whether there is nothing to read after the tests."""
        return bool(self.first) and not self.others

    def kind(self) -> tuple[list[str], list[int]]:
        """Files of one kind are tested alike."""
        return self.first, list(self.tests)


@dataclass
class _Part:
    """Rows that were found together: columns that were read, and values of those that have one."""

    rows: int
    read: dict[str, pa.ChunkedArray]
    same: dict[str, Any]

    def column(self, name: str, kind: pa.DataType) -> Sequence[pa.Array]:
        """The values of a column, in chunks."""
        if name not in self.read:
            return [pa.repeat(pa.scalar(self.same[name], kind), self.rows)]
        values = self.read[name]
        found: list[pa.Array] = (values if values.type == kind else values.cast(kind)).chunks
        return found


def _at_once(read: Sequence[tuple[_Read, pa.Table]], schema: pa.Schema) -> _Part:
    """The rows that meet the tests, of files of one kind of which all columns were read."""
    rows, same = pa.concat_tables([rows for _, rows in read]), [each.same for each, _ in read]
    met = meet(rows, read[0][0].tests.values())
    found = dict(zip(rows.column_names, rows.filter(pa.array(met)).columns, strict=True))
    of_file = pa.array(np.repeat(np.arange(len(read)), [rows.num_rows for _, rows in read])[met])
    for name in schema.names:
        if name not in found and any(values[name] != same[0][name] for values in same[1:]):
            values = pa.array([values[name] for values in same], schema.field(name).type)
            found[name] = pa.chunked_array([values.take(of_file)])
    return _Part(len(of_file), found, same[0])


def _together(parts: Sequence[_Part], schema: pa.Schema) -> pa.Table:
    """Rows of several files; a column of which all have one value is made once."""
    if not parts:
        return schema.empty_table()
    count, columns = sum(part.rows for part in parts), []
    for each in schema:
        values = {part.same[each.name] for part in parts if each.name not in part.read}
        if len(values) == 1 and not any(each.name in part.read for part in parts):
            columns.append(pa.chunked_array([pa.repeat(pa.scalar(values.pop(), each.type), count)]))
        else:
            chunks = [chunk for part in parts for chunk in part.column(each.name, each.type)]
            columns.append(pa.chunked_array(chunks, each.type))
    return pa.table(columns, schema=schema)


@dataclass
class _File:
    """What is known of a file: values of its partition; by row group how many rows, bounds of columns, columns of one value; what
    it lists."""

    fixed: dict[str, Any]
    sizes: list[int] = field(default_factory=list)
    bounds: dict[str, Bounds] = field(default_factory=dict)
    listings: dict[str, Listing | None] = field(default_factory=dict)
    constants: dict[int, set[tuple[str, Any]]] = field(default_factory=dict)

    def same(self, footer: pq.FileMetaData, group: int) -> set[tuple[str, Any]]:
        """Columns that have one value in a row group, or only null, with it: they need not be read."""
        if group not in self.constants:
            self.constants[group] = set(same(footer.row_group(group)))
        return self.constants[group]


@dataclass
class _Selection:
    """Row groups of some files (which file, which group there, how many rows) and, of columns that were asked for, their bounds
    and what is listed."""

    files: list[str]
    groups: np.ndarray
    bounds: dict[str, Bounds] = field(default_factory=dict)
    listed: dict[str, Listed] = field(default_factory=dict)
