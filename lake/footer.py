"""What the footer of a parquet file says of its row groups: bounds of columns, and columns of one value."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from lake.demand import GREATEST, LEAST

Bounds = tuple[np.ndarray, np.ndarray]


def bounds(footer: pq.FileMetaData, column: str, kind: type) -> Bounds:
    """The least and the greatest value of a column in each row group: crossed where all are null, wide where not known."""
    dtype, count = np.int64 if kind is int else object, footer.num_row_groups
    low, high = np.full(count, LEAST[kind], dtype), np.full(count, GREATEST[kind], dtype)
    place = footer.schema.names.index(column)
    for g in range(count):
        known = footer.row_group(g).column(place).statistics
        if known is not None and known.has_min_max:
            low[g], high[g] = known.min, known.max
        elif known is not None and known.has_null_count and known.null_count == footer.row_group(g).num_rows:
            low[g], high[g] = high[g], low[g]
    return low, high


def same(group: pq.RowGroupMetaData) -> Iterator[tuple[str, Any]]:
    """Columns of which all rows of a row group have one value (a NaN would not be counted: no floats), or null."""
    for column in map(group.column, range(group.num_columns)):
        known = column.statistics
        if known is None or not known.has_null_count:
            continue
        if known.null_count == group.num_rows:
            yield column.path_in_schema, None
        elif not known.null_count and known.has_min_max and known.min == known.max and not isinstance(known.min, float):
            yield column.path_in_schema, known.min
