"""Slices of catalogue tables as datasets: one parquet file per partition value, one row group per dataset.

A file's name comes from the ids of its datasets and its bytes from their rows, so that a job that runs again writes the
same file. The footer says which datasets a file holds; files become part of the table only when they are published.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from lake import datastore
from lake.access import source
from lake.parquet import AddFile, partition_of, partition_value, statistics
from lake.site import LakeError, Site, table_dir

PREFIX = "tables/catalogues/"


class SliceError(LakeError):
    """Rows that cannot be a dataset, or a file that is not a file of slices; the message names it."""

    exit_code = 1


@dataclass(frozen=True)
class SliceRecord:
    """A written slice. ``bytes`` is its compressed row group, ``checksum`` that of its rows (see checksum())."""

    dataset_id: str
    path: str
    bytes: int
    rows: int
    checksum: str
    file_bytes: int
    file_checksum: str


def write_slices(site: Site, table: str, slices: Iterable[tuple[str, Mapping[str, Any], pa.Table]]) -> list[SliceRecord]:
    """Write slices as few files, durable, not yet part of the table; records come in the order of ``slices``.

    Each slice is (dataset_id, keys, rows): ``keys`` hold the partition values (``site`` may be left out) and may hold
    more of the data ID; rows have the declared columns (those in ``keys`` may be left out). SliceError when a row
    contradicts the keys, or two rows have the same primary key. Rows are stored in order of the primary key. A slice
    without rows is a dataset too.
    """
    files: dict[tuple[str, ...], list[tuple[tuple[Any, ...], str, pa.Table]]] = {}
    order = []
    for dataset_id, keys, rows in slices:
        keys = {"site": site.name, **keys}
        order.append(dataset_id)
        payload = _payload(table, dataset_id, keys, rows)
        try:
            partition = tuple(partition_value(table, c, keys[c]) for c in schemas.table(table).partition_by)
        except KeyError as error:
            raise SliceError(f"table {table}, dataset {dataset_id}: no value for the partition column {error}") from None
        files.setdefault(partition, []).append((_position(table, payload), dataset_id, payload))
    written: dict[str, SliceRecord] = {}
    for partition, parts in sorted(files.items()):
        parts.sort(key=lambda part: part[:2])
        for record in _write(site, table, partition, [(i, payload) for _, i, payload in parts]):
            written[record.dataset_id] = record
    if len(set(order)) != len(order):
        raise SliceError(f"table {table}: a dataset is given twice in one call")
    return [written[dataset_id] for dataset_id in order]


def _payload(table: str, dataset_id: str, keys: Mapping[str, Any], rows: pa.Table) -> pa.Table:
    """Rows as stored: declared columns but the partition's, sorted by key, checked."""
    schema = schemas.table(table)
    for column, value in keys.items():
        if column not in schema.arrow.names or value is None:
            continue
        kind = schema.arrow.field(column).type
        if column not in rows.column_names:
            rows = rows.append_column(column, pa.array([value] * rows.num_rows, kind))
        elif rows.num_rows and not pc.all(pc.equal(rows[column], pa.scalar(value, kind)), skip_nulls=False).as_py():
            raise SliceError(f"table {table}, dataset {dataset_id}: there are rows whose {column} is not {value}")
    whole = schemas.conform(table, rows) if "site" in rows.column_names else rows
    payload = schemas.conform(table, whole.select([c for c in schema.payload.names if c in whole.column_names]), payload=True)
    order = [c for c in schema.primary_key if c in payload.column_names] or payload.column_names[:1]
    payload = payload.replace_schema_metadata(None).sort_by([(c, "ascending") for c in order])
    if payload.num_rows > 1 and payload.group_by(order).aggregate([]).num_rows != payload.num_rows:
        raise SliceError(f"table {table}, dataset {dataset_id}: two rows have the same key ({', '.join(order)})")
    return payload.cast(schema.payload.remove_metadata()).combine_chunks()


def _position(table: str, payload: pa.Table) -> tuple[Any, ...]:
    """Where a slice stands in its file: by the data ID of its first row; empty ones first."""
    columns = [c for c in schemas.DATA_ID if c in payload.column_names]
    first = payload.slice(0, 1).select(columns).to_pylist()
    return tuple((first[0][c] is not None, first[0][c]) for c in columns) if first else ()


def _write(site: Site, table: str, partition: Sequence[str], parts: Sequence[tuple[str, pa.Table]]) -> list[SliceRecord]:
    schema = schemas.table(table)
    name = hashlib.sha256(",".join(sorted(i for i, _ in parts)).encode()).hexdigest()[:20]
    folder = "/".join(f"{c}={v}" for c, v in zip(schema.partition_by, partition, strict=True))
    rel = f"{table_dir(table)}/{folder}/{table}-{name}.parquet"

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, schema.payload.remove_metadata(), compression="zstd", write_page_checksum=True) as writer:
            for _, rows in parts:
                if rows.num_rows:
                    writer.write_table(rows, row_group_size=rows.num_rows)
            writer.add_key_value_metadata({"datasets": json.dumps([[i, rows.num_rows] for i, rows in parts])})

    file = datastore.write_file(site, rel, write)
    metadata = pq.read_metadata(source(site.path(file.path)))
    sizes = [_compressed(metadata.row_group(g)) for g in range(metadata.num_row_groups)]
    records, group = [], 0
    for dataset_id, rows in parts:
        size = sizes[group] if rows.num_rows else 0
        group += rows.num_rows > 0
        records.append(SliceRecord(dataset_id, file.path, size, rows.num_rows, checksum(rows), file.bytes, file.checksum))
    return records


def _compressed(group: pq.RowGroupMetaData) -> int:
    return sum(group.column(i).total_compressed_size for i in range(group.num_columns))


def checksum(rows: pa.Table) -> str:
    """sha256 of rows in canonical form: per column its name, type, which values are null, and values (null as zero).

    It depends on the values alone: not on chunks, on what lies under a null, or on the version of a file format.
    """
    digest = hashlib.sha256(str(rows.num_rows).encode())
    for field in rows.schema:
        column = rows[field.name]
        column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        if isinstance(column, pa.ChunkedArray):
            column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], field.type)
        digest.update(f"|{field.name}|{field.type}|".encode())
        digest.update(np.packbits(column.is_valid().to_numpy(zero_copy_only=False)).tobytes())
        if pa.types.is_string(field.type):
            text = pc.fill_null(column, "")
            digest.update(pc.binary_length(text).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
            digest.update("".join(text.to_pylist()).encode())
            continue
        if pa.types.is_timestamp(field.type):
            column = column.cast(pa.int64())
        zero = pa.scalar(False if pa.types.is_boolean(column.type) else 0, column.type)
        digest.update(np.ascontiguousarray(pc.fill_null(column, zero).to_numpy(zero_copy_only=False)).tobytes())
    return digest.hexdigest()


# -- files of slices ---------------------------------------------------------------------------------------------------


def is_slice(path: str) -> bool:
    """Whether a registry path is that of a file of slices."""
    return path.startswith(PREFIX)


def table_of(path: str) -> str:
    """The catalogue table that a file of slices belongs to, from its path."""
    return PurePosixPath(path).parts[2]


def add_file(site: Site, path: str) -> AddFile:
    """What the Delta table must know of a file of slices (``path`` relative to the site), from its footer."""
    absolute, table = site.path(path), table_of(path)
    metadata = _footer(absolute)
    relative = PurePosixPath(path).relative_to(table_dir(table))
    return AddFile(
        str(relative),
        partition_of(str(relative)),
        absolute.stat().st_size,
        metadata.num_rows,
        statistics(table, metadata),
    )


def contents(site: Site, path: str) -> list[tuple[str, int]]:
    """The datasets in a file of slices, as (dataset_id, rows), in the order of its row groups."""
    return _contents(_footer(site.path(path)), path)


def read_slice(site: Site, path: str, dataset_id: str) -> pa.Table:
    """The rows of one dataset, page checksums verified; SliceError when the file is damaged or does not hold it."""
    group = 0
    for held, rows in contents(site, path):
        if held == dataset_id:
            try:
                with pq.ParquetFile(source(site.path(path)), page_checksum_verification=True) as file:
                    return file.read_row_group(group) if rows else file.schema_arrow.empty_table()
            except (OSError, pa.ArrowInvalid) as error:
                raise SliceError(f"{path}: damaged ({' '.join(str(error).split())})") from None
        group += rows > 0
    raise SliceError(f"{path}: does not hold the dataset {dataset_id}")


def extract(site: Site, path: str, keep: Iterable[str]) -> list[SliceRecord]:
    """Write another file with some of the datasets of a file of slices only, as write_slices() would have."""
    keep = set(keep)
    partition = add_file(site, path).partition
    parts = [(i, read_slice(site, path, i)) for i, _ in contents(site, path) if i in keep]
    missing = keep.difference(i for i, _ in parts)
    if missing:
        raise SliceError(f"{path}: does not hold the dataset {min(missing)}")
    return _write(site, table_of(path), list(partition.values()), parts)


def _footer(path: Path) -> pq.FileMetaData:
    try:
        return pq.read_metadata(source(path))
    except (OSError, pa.ArrowInvalid) as error:
        raise SliceError(f"{path}: not a readable file of slices ({' '.join(str(error).split())})") from None


def _contents(metadata: pq.FileMetaData, path: str) -> list[tuple[str, int]]:
    held = (metadata.metadata or {}).get(b"datasets")
    if held is None:
        raise SliceError(f"{path}: does not say which datasets it holds; it was not written by this project")
    return [(dataset_id, rows) for dataset_id, rows in json.loads(held)]
