"""The spatial join: which patches (or tracts) the footprint of a detector overlaps.

All of it is SQL over sets (overlap_polygon.sql, overlap.sql): exact for convex polygons, no seam at RA 0 or poles.
Footprints that only touch do not overlap. Cost is proportional to pairs of neighbours, not to all pairs.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import schemas

CORNERS = tuple(f"{axis}{n}" for n in range(4) for axis in ("ra", "dec"))
HERE = Path(__file__).parent
POLYGON_SQL = (HERE / "overlap_polygon.sql").read_text()
OVERLAP_SQL = (HERE / "overlap.sql").read_text()


class OverlapError(ValueError):
    """A footprint is not a convex polygon on the sky."""


def _name(row: pa.Table) -> str:
    """The key of a dimension record, for messages: ``visit=7 detector=3``."""
    record = row.to_pylist()[0]
    keys = ("instrument", "visit", "detector", "skymap", "tract", "patch")
    return " ".join(f"{key}={record[key]}" for key in keys if key in record) or str(record)


def overlapping(regions: pa.Table, targets: pa.Table, threads: int | None = None) -> tuple[NDArray, NDArray]:
    """Row numbers (region, target) of all overlapping pairs, sorted by both.

    Both tables have the corner columns ra0, dec0 ... ra3, dec3 (degrees, in order around a convex polygon smaller than
    a hemisphere, either way round). ``threads`` limits the engine; the result does not depend on it. OverlapError names
    a polygon that is not convex, has no area, or has a corner that is not a finite number.
    """
    sides = {"region": regions, "target": targets}
    settings: dict[str, str | int] = {"autoinstall_known_extensions": "false", "autoload_known_extensions": "false"}
    with duckdb.connect(config=settings if threads is None else {**settings, "threads": threads}) as connection:
        for side, table in sides.items():
            row = pa.array(np.arange(table.num_rows))
            connection.register(f"{side}_corners", table.select(CORNERS).append_column("row", row))
        connection.execute(
            "CREATE TEMP VIEW corners AS SELECT 'region' AS side, * FROM region_corners"
            " UNION ALL SELECT 'target' AS side, * FROM target_corners"
        )
        connection.execute(POLYGON_SQL)
        bad = connection.execute("SELECT side, row FROM polygon WHERE NOT convex ORDER BY side, row LIMIT 1").fetchone()
        if bad:
            side, row = bad
            name = _name(sides[side].slice(row, 1))
            raise OverlapError(f"the footprint of {name} is not a convex polygon on the sky: correct its corners")
        pairs = connection.execute(OVERLAP_SQL).fetchnumpy()
    return np.asarray(pairs["region"]), np.asarray(pairs["target"])


def overlaps(regions: pa.Table, patches: pa.Table, threads: int | None = None) -> pa.Table:
    """Rows of ``visit_detector_patch`` sorted by key, from rows of ``visit_detector_region`` and of ``patch``.

    A million regions (and their 9 million rows) take 4 GB: pass more than that in parts, visit by visit.
    """
    region_key, patch_key = ("instrument", "visit", "detector"), ("skymap", "tract", "patch")
    # Inputs in key order give pairs, sorted by row numbers, in key order: sorting the far larger result is not needed.
    regions = regions.sort_by([(key, "ascending") for key in region_key])
    patches = patches.sort_by([(key, "ascending") for key in patch_key])
    region, patch = overlapping(regions, patches, threads)
    columns = {key: regions[key].take(pa.array(region)) for key in region_key}
    columns |= {key: patches[key].take(pa.array(patch)) for key in patch_key}
    return schemas.conform("visit_detector_patch", pa.table(columns))
