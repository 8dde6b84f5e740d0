"""Files of an export become files of the site: copied, linked, or taken where they are; tables as slices of catalogues."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from lake import datastore, slices
from lake.butler.definitions import ButlerError
from lake.butler.types import SUFFIXES, suffix
from lake.datastore import FileRecord
from lake.objects import is_object
from lake.registry import DatasetType
from lake.site import LakeError, Site, one_line

Transfer = Literal["copy", "link", "in-place"]
Row = dict[str, Any]
#: Files that are brought in at a time: most of the time goes into making each durable.
THREADS = 16


@dataclass(frozen=True)
class Arrivals:
    """Where files come from and how. ``anywhere``: also those that lie outside the export's directory."""

    site: Site
    directory: Path
    transfer: Transfer = "copy"
    anywhere: bool = False

    def place(self, kind: DatasetType, rows: Sequence[Row]) -> list[tuple[Row, str | None]]:
        """Bring in the files of datasets of one type; per row, the row with its file, and what is wrong (None: nothing).

        A row has the columns of ``dataset`` but those of its file, ``source``, the path in the export, and ``expected``,
        a checksum or None.
        """
        if kind.storage == "table":
            return self._slices(kind, rows)
        first = {row["source"]: row for row in rows}
        with ThreadPoolExecutor(THREADS) as pool:
            done = dict(zip(first, pool.map(lambda row: self._settled(kind, row), first.values()), strict=True))
        placed = [(row, done[row["source"]]) for row in rows]
        return [(row, found) if isinstance(found, str) else (row | _columns(found), None) for row, found in placed]

    def _settled(self, kind: DatasetType, row: Row) -> FileRecord | str:
        """The file of a row, or what is wrong with it."""
        try:
            return self._file(kind, row)
        except (LakeError, OSError) as error:
            return _why(row, error)

    def _file(self, kind: DatasetType, row: Row) -> FileRecord:
        source, end = self._source(row["source"], kind)
        if self.transfer == "in-place":
            files = self.site.path("files")
            if is_object(files) or not source.is_relative_to(files.resolve()):
                raise ButlerError(f"is not below {files}: it cannot be taken in place")
            rel = f"files/{source.relative_to(files.resolve()).as_posix()}"
            record = FileRecord(rel, source.stat().st_size, datastore.checksum(source))
            _expect(record, row)
            return record
        rel = datastore.template(row["run"], kind.name, row, kind.storage)
        rel = rel.removesuffix(datastore.SUFFIX[kind.storage]) + end
        was_there = self.site.path(rel).exists()
        record = datastore.write_file(self.site, rel, lambda to: _bring(source, to, self.transfer))
        try:
            _expect(record, row)
        except ButlerError:
            if not was_there or record.path != rel:
                self.site.path(record.path).unlink(missing_ok=True)
            raise
        return record

    def _source(self, path: str, kind: DatasetType) -> tuple[Path, str]:
        """The file meant by a path of the export, and the end of its name."""
        end = suffix(path)
        if end is None or SUFFIXES[end] != kind.storage:
            raise ButlerError(f"{kind.name} is stored as {kind.storage} here, this file is not")
        text = unquote(path.removeprefix("file://")) if path.startswith("file://") else path
        if "://" in text or "\0" in text:
            raise ButlerError("is not a local file; export with a transfer mode that copies")
        found = (self.directory / text).resolve()
        if not self.anywhere and not found.is_relative_to(self.directory.resolve()):
            raise ButlerError(f"lies outside {self.directory}; --anywhere takes such files too")
        if not found.is_file():
            raise ButlerError("no such file")
        return found, end

    # -- tables --------------------------------------------------------------------------------------------------------

    def _slices(self, kind: DatasetType, rows: Sequence[Row]) -> list[tuple[Row, str | None]]:
        """All in few files; if one of them cannot be a slice, one by one, so that only that one is refused."""
        problems: dict[int, str] = {}
        parts: dict[int, tuple[str, Mapping[str, Any], pa.Table]] = {}
        for number, row in enumerate(rows):
            try:
                parts[number] = self._part(kind, row)
            except (LakeError, OSError, pa.ArrowException, schemas.SchemaError) as error:
                problems[number] = _why(row, error)
        records: dict[int, slices.SliceRecord] = {}
        try:
            records = dict(zip(parts, slices.write_slices(self.site, kind.name, parts.values()), strict=True))
        except (LakeError, schemas.SchemaError):
            for number, part in parts.items():
                try:
                    records[number] = slices.write_slices(self.site, kind.name, [part])[0]
                except (LakeError, schemas.SchemaError) as error:
                    problems[number] = _why(rows[number], error)
        for number, record in records.items():
            try:
                _expect(record, rows[number])
            except ButlerError as error:
                problems[number] = _why(rows[number], error)
        return [
            (row, problems[number]) if number in problems else (row | _columns(records[number]), None)
            for number, row in enumerate(rows)
        ]

    def _part(self, kind: DatasetType, row: Row) -> tuple[str, Mapping[str, Any], pa.Table]:
        source, _ = self._source(row["source"], kind)
        with pq.ParquetFile(source) as file:
            data = file.read().replace_schema_metadata(None)
        schema = schemas.table(kind.name)
        strange = [name for name in data.column_names if name not in schema.arrow.names]
        if strange:
            raise ButlerError(f"column {strange[0]!r} is not declared in the table {kind.name}")
        sites = data["site"].unique().to_pylist() if "site" in data.column_names else []
        keys = {c: row[c] for c in (*kind.dimensions, *schema.partition_by) if c != "site" and row.get(c) is not None}
        return row["dataset_id"], {"site": sites[0] if sites else row["origin"], **keys}, data


def _columns(record: FileRecord | slices.SliceRecord) -> Row:
    if isinstance(record, FileRecord):
        same = {"bytes": record.bytes, "checksum": record.checksum}
        return {"path": record.path, **same, "file_bytes": record.bytes, "file_checksum": record.checksum}
    return {c: getattr(record, c) for c in ("path", "bytes", "rows", "checksum", "file_bytes", "file_checksum")}


def _expect(record: FileRecord | slices.SliceRecord, row: Row) -> None:
    if row["expected"] is not None and row["expected"] != record.checksum:
        raise ButlerError(f"has the checksum {record.checksum}, the export says {row['expected']}")


def _bring(source: Path, to: Path, transfer: Transfer) -> None:
    if transfer == "link":
        try:
            os.link(source, to)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK):
                raise
    shutil.copyfile(source, to)


def _why(row: Row, error: BaseException) -> str:
    return f"{row['source']}: {one_line(error)}"
