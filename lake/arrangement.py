"""The order of rows in merged files: what is looked up together lies together, wherever and whenever it was made.

The visits of a tract are scattered over the nights of a survey. Datasets of visits lie by where their visit points to, so that
a tract is in few row groups; which visits a row group has, the file says (lake.listing).
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

import schemas
from lake import delta
from lake.parquet import TOGETHER, DeltaError, indexed_columns
from lake.site import Site, one_line

#: HEALPix cells of 1.8 degrees, about a tract; numbers of the nested scheme, in which neighbours mostly follow each other.
NSIDE = 32
#: Columns that tell the visit of a dataset.
VISIT = ["instrument", "visit"]
#: Tables of which rows are looked up by their place on the sky, and the columns that tell it.
PLACED = {"dataset": [*VISIT, "tract"], "visit_detector_patch": ["tract"]}
#: Where rows are that have no place that is known.
NOWHERE = 2**16 - 1


def arranged(site: Site, table: str, rows: pa.Table) -> pa.Table:
    """Rows in the order in which they are looked up: by place on the sky, by data ID, then by the other keys.

    DeltaError where visits cannot be read.
    """
    columns = list(TOGETHER.get(table, ()))
    columns += [c for c in indexed_columns(table) if c in schemas.DATA_ID and c not in columns]
    columns += [c for c in indexed_columns(table) if c not in columns]
    keys = rows.select(columns)
    if table == "dataset":
        keys, columns = keys.append_column("_place", pa.array(places(site, table, rows))), ["_place", *columns]
    return rows.take(pc.sort_indices(keys.select(columns), [(c, "ascending") for c in columns]))


def places(site: Site, table: str, rows: pa.Table) -> NDArray[np.uint16]:
    """Where rows of a PLACED table are, at most NOWHERE: the HEALPix cell to which their visit points, or the tract. Of one kind
    of rows all have the same of both.

    DeltaError where visits cannot be read.
    """
    found = rows["tract"].cast(pa.int64())
    if "visit" in PLACED[table]:
        found = pc.coalesce(_cells(site, rows), found)
    known: NDArray[np.int64] = found.fill_null(NOWHERE).to_numpy()
    return known.clip(0, NOWHERE).astype(np.uint16)


def _cells(site: Site, rows: pa.Table) -> pa.ChunkedArray:
    """Where on the sky the visits of datasets point to; null where that is not known."""
    import hpgeom

    with delta.cursor() as con:
        con.register("given", rows.select(VISIT))
        try:
            visits = con.sql(
                f"SELECT instrument, visit, min(ra) AS ra, min(dec) AS dec FROM ({delta.select(site, 'visit')}) "
                "SEMI JOIN given USING (instrument, visit) GROUP BY instrument, visit"
            ).to_arrow_table()
        except duckdb.Error as error:
            raise DeltaError(f"site {site.name}: table visit cannot be read: {one_line(error)}; restore it") from None
    ra, dec = (np.nan_to_num(visits[c].to_numpy(), posinf=0.0, neginf=0.0) for c in ("ra", "dec"))
    cell = hpgeom.angle_to_pixel(NSIDE, ra % 360.0, np.clip(dec, -90.0, 90.0))
    visits = visits.select(VISIT).append_column("_cell", pa.array(cell, pa.int64()))
    numbered = rows.select(VISIT).append_column("_row", pa.array(np.arange(rows.num_rows)))
    return numbered.join(visits, VISIT).sort_by("_row")["_cell"]
