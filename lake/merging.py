"""Files of appended rows that are to be merged: which there are, and their rows, verified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from lake import delta
from lake.access import source
from lake.parquet import DeltaError, partition_of
from lake.site import Site, one_line

#: Bytes that a row takes at least of the memory that merging needs, however well it is packed.
ROW = 64


@dataclass(frozen=True)
class File:
    """A live file: ``path`` relative to the table's directory; ``rows`` is -1 where the log does not say (another wrote it)."""

    path: str
    bytes: int
    rows: int

    @property
    def weight(self) -> int:
        """Bytes, of well packed rows what their number stands for."""
        return max(self.bytes, ROW * self.rows)


def by_partition(site: Site, table: str) -> list[list[File]]:
    """The live files of each partition, by path."""
    handle = delta.open_table(site, table)
    if handle is None:
        return []
    actions = pa.table(handle.get_add_actions(flatten=True))
    columns = actions["path"], actions["size_bytes"], pc.fill_null(actions["num_records"], -1)
    files = [File(unquote(path), size, rows) for path, size, rows in zip(*(c.to_pylist() for c in columns), strict=True)]
    groups: dict[str, list[File]] = {}
    for file in sorted(files, key=lambda file: file.path):
        groups.setdefault(file.path.rpartition("/")[0], []).append(file)
    return list(groups.values())


class Reader:
    """A file that stays open, its pages verified as they are read. DeltaError names one that cannot be read, or has not as many
    rows as the log says."""

    def __init__(self, site: Site, table: str, file: File) -> None:
        self.file, self._site, self._table = file, site, table
        self._where = site.table_path(table) / file.path
        try:
            self._opened = pq.ParquetFile(source(self._where), page_checksum_verification=True)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(error) from None
        footer = self._opened.metadata
        if footer.num_rows != file.rows:
            self._opened.close()
            raise DeltaError(f"{self._named} has {footer.num_rows} rows, the log says {file.rows}; restore it")
        self.sizes = [footer.row_group(g).num_rows for g in range(footer.num_row_groups)]

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Columns, of those that the file has, of all rows."""
        return self._read(range(len(self.sizes)), names)

    def rows(self, groups: Sequence[int] | None = None) -> pa.Table:
        """The rows of some row groups, or of all, with the declared columns."""
        schema, rows = schemas.table(self._table), self._read(range(len(self.sizes)) if groups is None else groups, None)
        for column, value in partition_of(self.file.path).items():
            kind = schema.arrow.field(column).type
            rows = rows.append_column(column, pa.array([value]).cast(kind).take(pa.array([0] * rows.num_rows, pa.int32())))
        return schemas.conform(self._table, rows)

    def _read(self, groups: Sequence[int], names: Sequence[str] | None) -> pa.Table:
        try:
            return self._opened.read_row_groups(list(groups), columns=names)
        except (OSError, pa.ArrowInvalid) as error:
            raise self._unreadable(error) from None

    def _unreadable(self, error: Exception) -> DeltaError:
        return DeltaError(f"{self._named} cannot be read: {one_line(error)}; restore it")

    @property
    def _named(self) -> str:
        return f"site {self._site.name}: table {self._table}: {self._where}"
