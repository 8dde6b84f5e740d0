"""Reference stars near a detector, at the epoch of its exposure."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from pipelines.quantum import Inputs

Array = NDArray[np.float64]
_kept = threading.local()
QUERY = (Path(__file__).parent / "reference_box.sql").read_text()


@dataclass(frozen=True)
class References:
    """Arrays (N,), brightest first: ``ra``, ``dec`` (deg), ``position_err`` (deg), ``mag`` and ``mag_err`` in the band
    asked for (NaN where there is none)."""

    ra: Array
    dec: Array
    position_err: Array
    mag: Array
    mag_err: Array


def _connection() -> duckdb.DuckDBPyConnection:
    """One for the life of the thread: opening one takes longer than the query."""
    if not hasattr(_kept, "connection"):
        _kept.connection = duckdb.connect(config={"threads": 1})
    connection: duckdb.DuckDBPyConnection = _kept.connection
    return connection


def load(inputs: Inputs, ra: float, dec: float, radius: float, mjd: float, band: str) -> References:
    """Reference stars within a box of ``radius`` degrees around a point, proper motion applied to ``mjd``."""
    if not any(ref.rows for ref in inputs.refs("reference_star")):
        return References(*(np.zeros(0) for _ in range(5)))
    inputs.relation(_connection(), "reference_star")
    values = {"ra": ra, "dec": dec, "radius": radius, "mjd": mjd, "band": band}
    rows = _connection().sql(QUERY, params=values).to_arrow_table()
    return References(
        *(rows[c].to_numpy().astype(float) for c in ("ra", "dec", "position_err", "mag", "mag_err"))
    )  # fmt: skip
