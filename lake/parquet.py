"""Parquet files of Delta tables: how rows are laid out, written durably, and described to the table."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from lake.access import storing
from lake.durable import fsync_dir, fsync_file
from lake.listing import listings
from lake.site import LakeError, Site, one_line

ROW_GROUP = 131_072
#: Tables of which single rows are looked up have smaller ones: a look-up then unpacks less.
ROW_GROUPS = {"dataset": 4_096, "visit_detector_patch": 16_384}
#: Columns of which each row has its own value: a dictionary of them would be as long as they are, tried in vain, and read whole for
#: one row. Lengths, and what paths share, are cheap.
SINGULAR = {
    "dataset": {
        "dataset_id": "DELTA_LENGTH_BYTE_ARRAY", "path": "DELTA_BYTE_ARRAY", "quantum_id": "DELTA_LENGTH_BYTE_ARRAY",
        "checksum": "DELTA_LENGTH_BYTE_ARRAY", "file_checksum": "DELTA_LENGTH_BYTE_ARRAY",
    }
}  # fmt: skip
#: Columns that are not compressed: they have few values in a row group, which a dictionary says shortly, or are numbers that
#: look-ups read; to set up a compressor, or to unpack, takes longer than it saves.
UNPACKED = {
    "dataset": ("run", "instrument", "detector", "physical_filter", "band", "day_obs", "skymap", "tract", "patch", "origin",
                "registered_at", "exposure", "visit"),
    "visit_detector_patch": ("visit", "detector", "tract"),
}  # fmt: skip
#: Columns by which rows lie together in a file, where those of the key are not it: footprints are looked for by what they touch.
TOGETHER = {"visit_detector_patch": ("skymap", "tract")}
#: Columns by which rows are sought beside those of the key and the data ID: a batch is compared with what its runs have.
SOUGHT = {"dataset": ("run",)}
#: Data files written here for appended rows; files of slices have the name of their table instead.
APPENDED = "part-"
_SAFE = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-.+")


class DeltaError(LakeError):
    """A Delta table cannot be used or written; the message names site and table and what to do."""

    exit_code = 1


@dataclass(frozen=True)
class AddFile:
    """A finished parquet file: ``path`` relative to the table's directory, ``stats`` as Delta's JSON."""

    path: str
    partition: Mapping[str, str]
    bytes: int
    rows: int
    stats: str | None = None


def write_files(site: Site, table: str, data: pa.Table, mark: str = "") -> list[AddFile]:
    """Write rows as durable parquet files, one per partition value, not yet part of the table; their names begin with ``mark``."""
    stored = schemas.table(table).payload.remove_metadata()
    singular, unpacked = SINGULAR.get(table, {}), UNPACKED.get(table, ())
    compression = {name: "none" if name in unpacked else "zstd" for name in stored.names}
    root = site.table_path(table)
    written = []
    for values, rows in partitions(table, data):
        folder = root.joinpath(*(f"{c}={v}" for c, v in values.items()))
        path = folder / f"{APPENDED}{mark}{uuid.uuid4()}.parquet"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with storing(path) as local:
                with pq.ParquetWriter(
                    local, stored, write_page_checksum=True, column_encoding=singular, compression=compression,
                    use_dictionary=[name for name in stored.names if name not in singular],
                ) as file:  # fmt: skip
                    size = ROW_GROUPS.get(table, ROW_GROUP)
                    file.write_table(rows.select(stored.names).cast(stored), row_group_size=size)
                    file.add_key_value_metadata(listings(table, rows, size))
                fsync_file(local)
                metadata, size = pq.read_metadata(local), local.stat().st_size
            fsync_dir(folder)
        except OSError as error:
            with suppress(OSError):
                path.unlink()
            raise DeltaError(f"site {site.name}: table {table} cannot be written: {one_line(error)}") from None
        relative = path.relative_to(root).as_posix()
        written.append(AddFile(relative, values, size, rows.num_rows, statistics(table, metadata)))
    return written


def partitions(table: str, data: pa.Table) -> list[tuple[dict[str, str], pa.Table]]:
    """Rows by partition value, in order of the values; within one, rows keep their order."""
    by = list(schemas.table(table).partition_by)
    if not by or not data.num_rows:
        return [({}, data)] if data.num_rows else []
    if all(pc.count_distinct(data[c], "all").as_py() == 1 for c in by):
        return [({c: partition_value(table, c, data[c][0].as_py()) for c in by}, data)]
    data = ordered(data, by)
    groups = data.select(by).group_by(by, use_threads=False).aggregate([([], "count_all")])
    parts, start = [], 0
    for row in groups.sort_by([(c, "ascending") for c in by]).to_pylist():  # groups come in no order
        values = {c: partition_value(table, c, row[c]) for c in by}
        parts.append((values, data.slice(start, row["count_all"])))
        start += row["count_all"]
    return parts


def ordered(data: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Rows in order of columns, nulls last, equal ones in the order they had; not copied where they are so already."""
    if _in_order(data, columns):
        return data
    keys = data.select(list(columns)).append_column("_place", pa.array(np.arange(data.num_rows)))
    return data.take(pc.sort_indices(keys, [(name, "ascending") for name in keys.column_names]))


def _in_order(data: pa.Table, columns: Sequence[str]) -> bool:
    """Whether ordered() would change nothing, from each row and the next: in most batches the first columns tell."""
    tied = np.ones(max(data.num_rows - 1, 0), bool)
    for column in (data[name] for name in columns):
        if column.null_count < len(column):
            here, there = column.slice(0, len(tied)), column.slice(1)
            less, equal = pc.less(here, there), pc.equal(here, there)
            if column.null_count:
                less = pc.fill_null(less, pc.and_(here.is_valid(), there.is_null()))
                equal = pc.fill_null(equal, pc.and_(here.is_null(), there.is_null()))
            same = equal.to_numpy()
            if np.any(tied & ~same & ~less.to_numpy()):
                return False
            tied &= same
        if not tied.any():
            return True
    return True


def key_order(table: str) -> list[str]:
    """The columns by which records of a table are ordered in a file."""
    together = TOGETHER.get(table, ())
    return [*together, *(c for c in schemas.table(table).primary_key if c not in together)]


def partition_value(table: str, column: str, value: Any) -> str:
    """A partition value as it stands in paths; DeltaError for one that could not stand there as it is."""
    text = "" if value is None else str(value)
    if not text or not set(text) <= _SAFE:
        raise DeltaError(f"table {table}: {column} {value!r} cannot be a partition value (letters, digits, _ - . + only)")
    return text


def partition_of(path: str) -> dict[str, str]:
    """Partition values from a file's path relative to its table's directory."""
    return dict(part.split("=", 1) for part in path.split("/")[:-1])  # type: ignore[misc]


def statistics(table: str, metadata: pq.FileMetaData) -> str:
    """Delta statistics of a parquet file, from its footer: rows, and min, max and nulls of indexed_columns()."""
    wanted = indexed_columns(table)
    low: dict[str, Any] = {}
    high: dict[str, Any] = {}
    nulls: dict[str, int] = {}
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    for i, name in enumerate(metadata.schema.names if groups else ()):
        parts = [group.column(i).statistics for group in groups] if name in wanted else []
        if not parts or any(p is None or not p.has_null_count for p in parts):
            continue
        nulls[name] = sum(p.null_count for p in parts)
        known = [p for p in parts if p.has_min_max]
        if known and len(known) == sum(p.num_values > 0 for p in parts):
            least, most = min(p.min for p in known), max(p.max for p in known)
            if not isinstance(least, float) or (math.isfinite(least) and math.isfinite(most)):
                low[name], high[name] = _json(least), _json(most)
    return json.dumps({"numRecords": metadata.num_rows, "minValues": low, "maxValues": high, "nullCount": nulls})


def _json(value: Any) -> Any:
    return value.strftime("%Y-%m-%dT%H:%M:%S.%fZ") if isinstance(value, datetime) else value


def indexed_columns(table: str) -> list[str]:
    """Columns with statistics: keys, data ID columns, positions, times and what is SOUGHT, in declared order."""
    schema, sought = schemas.table(table), SOUGHT.get(table, ())
    found = []
    for field in schema.arrow:
        ucd = (field.metadata or {}).get(b"ucd", b"").decode()
        keyed = field.name in schema.primary_key or field.name in schemas.DATA_ID or pa.types.is_timestamp(field.type)
        if field.name not in schema.partition_by and (keyed or field.name in sought or ucd.startswith(("pos.eq", "time.epoch"))):
            found.append(field.name)
    return found
