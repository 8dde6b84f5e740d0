"""Reference stars near a detector, at the epoch of its exposure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from pipelines.quantum import Inputs

Array = NDArray[np.float64]

YEAR = 365.25  # days
DEGREES = 1.0 / 3.6e6  # of a milliarcsecond
#: Where a star has no magnitude in the band asked for, the first of these that it has tells how bright it is.
ANY_BAND = ("r", "i", "g", "z")


@dataclass(frozen=True)
class References:
    """Arrays (N,), brightest first: ``ra``, ``dec`` (deg), ``position_err`` (deg), ``mag`` and ``mag_err`` in the band
    asked for (NaN where there is none)."""

    ra: Array
    dec: Array
    position_err: Array
    mag: Array
    mag_err: Array


def load(inputs: Inputs, ra: float, dec: float, radius: float, mjd: float, band: str) -> References:
    """Reference stars within a box of ``radius`` degrees around a point, proper motion applied to ``mjd``.

    A star that two tracts list comes once.
    """
    table = inputs.table("reference_star")
    star_ra, star_dec = (table[name].to_numpy() for name in ("coord_ra", "coord_dec"))
    away = np.abs((star_ra - ra + 540.0) % 360.0 - 180.0) * np.cos(np.radians(dec))
    near = table.filter(pa.array((np.abs(star_dec - dec) < radius) & (away < radius)))
    near = near.take(np.unique(near["reference_id"].to_numpy(), return_index=True)[1])

    def column(name: str) -> Array:
        return near[name].to_numpy().astype(float) if name in near.column_names else np.full(near.num_rows, np.nan)

    years = (mjd - column("epoch")) / YEAR
    star_dec = column("coord_dec")
    move_ra, move_dec = (np.nan_to_num(column(name)) * DEGREES * years for name in ("pm_ra", "pm_dec"))
    mag = brightness = column(f"{band}_mag")
    for other in ANY_BAND:
        brightness = np.where(np.isnan(brightness), column(f"{other}_mag"), brightness)
    order = np.lexsort((near["reference_id"].to_numpy(), brightness))
    error = np.maximum(np.nan_to_num(column("coord_raErr")), np.nan_to_num(column("coord_decErr")))
    columns = (
        column("coord_ra") + move_ra / np.maximum(np.cos(np.radians(star_dec)), 1e-6), star_dec + move_dec,
        error, mag, column(f"{band}_magErr"),
    )  # fmt: skip
    return References(*(values[order] for values in columns))
