"""Results against the simulator's truth: the one place besides the simulator itself that reads ``truth_*`` tables.

No step imports this. Figures are for a whole campaign, from the tables of all sites.
"""

from __future__ import annotations

from lake.query import connect
from lake.site import Lake, LakeError
from pipelines.accuracy import calibration, sources
from pipelines.accuracy.figure import Figure

__all__ = ["Figure", "measure"]


def measure(lake: Lake, tracts: tuple[int, ...]) -> list[Figure]:
    """Every figure of a campaign over these tracts; LakeError where the lake holds no truth to compare with."""
    with connect(lake) as con:
        if not con.table("SELECT 1 FROM truth_photo_calib LIMIT 1").num_rows:
            raise LakeError(f"{lake.root} holds no truth: accuracy is known for simulated raws only")
        return [
            *calibration.zero_points(con),
            *calibration.astrometry(con),
            *sources.coadd_fluxes(con, tracts),
            *sources.transients(con, tracts),
            *sources.variables(con, tracts),
        ]
