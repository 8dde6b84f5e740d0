"""Look-ups of datasets by their data ID, type and run, and by the tract or patch that their footprint touches: without SQL."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake.demand import Demand
from lake.query import Connection
from lake.where import SKY

#: What a search is ordered by.
ORDER = ("dataset_type", "run", *schemas.DATA_ID, "dataset_id")
#: Columns by which an image finds its footprint.
IMAGE = ("instrument", "visit", "detector")


def look_up(
    con: Connection, site: str, types: Sequence[str] | None, demands: Sequence[Demand], columns: Sequence[str]
) -> pa.Table | None:
    """``columns`` of the datasets at a site that meet all demands, as search() orders them; None where that is a task for SQL."""
    if types is not None:
        demands = [*demands, ("dataset_type", [(name, name) for name in types])]
    read = [name for name in schemas.table("dataset").arrow.names if name in columns or name in ORDER]
    rows = con.row_groups(site, "dataset").rows(demands, read)
    if rows is None:
        return None
    places = np.arange(rows.num_rows)
    if any(column in SKY for column, _ in demands):
        images = _images(con, site, demands, read)
        if images is None:
            return None
        own = pc.or_(pc.is_valid(rows["tract"]), pc.is_null(rows["visit"]))
        places = np.concatenate([places[own.to_numpy()], images[1] + rows.num_rows])
        rows = pa.concat_tables([rows, images[0]])
    points = {column for column, ranges in demands if len(ranges) == 1 and None is not ranges[0][0] == ranges[0][1]}
    by = [name for name in ORDER if name not in points or name in SKY]
    order = pc.sort_indices(rows.select(by).take(places), [(name, "ascending") for name in by])
    return rows.select(list(columns)).take(places[order.to_numpy()])


def _images(con: Connection, site: str, demands: Sequence[Demand], columns: Sequence[str]) -> tuple[pa.Table, np.ndarray] | None:
    """Datasets, and the places of those without a tract of their own of which a footprint meets the demands; of a whole visit
    that of any of its detectors counts. None where too much would be read."""
    footprints = con.row_groups(site, "visit_detector_patch").rows([d for d in demands if d[0] in (*SKY, *IMAGE)], IMAGE)
    if footprints is None:
        return None
    visits = [(visit, visit) for visit in pc.unique(footprints["visit"]).to_pylist()]
    rows = con.row_groups(site, "dataset").rows([*(d for d in demands if d[0] not in SKY), ("visit", visits)], columns)
    if rows is None:
        return None
    imaged = pc.is_null(rows["tract"]).to_numpy()
    touching = _among(rows, footprints, IMAGE)
    if rows["detector"].null_count:
        touching |= pc.is_null(rows["detector"]).to_numpy() & _among(rows, footprints, IMAGE[:2])
    return rows, np.flatnonzero(imaged & touching)


def _among(rows: pa.Table, others: pa.Table, columns: Sequence[str]) -> np.ndarray:
    """Which rows have the same values of columns as one of the others; null is no value."""
    code, known, valid = np.zeros(rows.num_rows, np.int64), np.zeros(others.num_rows, np.int64), np.ones(rows.num_rows, bool)
    for column in columns:
        values = pc.unique(others[column])
        place = pc.index_in(rows[column], values).fill_null(-1).to_numpy()
        code, known = code * len(values) + place, known * len(values) + pc.index_in(others[column], values).to_numpy()
        valid &= place >= 0
    return np.isin(code, known) & valid
