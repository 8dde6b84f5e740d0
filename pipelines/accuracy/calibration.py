"""Zero points and astrometry against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lake.query import Connection
from pipelines.accuracy.figure import Figure
from pipelines.wcs import SkyWcs

SQL = Path(__file__).parent
GRID = 7


def zero_points(con: Connection) -> list[Figure]:
    """Errors of (visit, detector) zero points on photometric visits: rms without the constant, and the constant, in mmag."""
    figures = []
    for row in con.table((SQL / "zero_points.sql").read_text()).to_pylist():
        band = row["band"] or "all bands"
        rms, constant = (np.nan if row[name] is None else float(row[name]) for name in ("rms", "constant"))
        figures.append(Figure(f"zero point error, {band}", "mmag", rms, row["n"], 3.0))
        figures.append(Figure(f"zero point constant, {band}", "mmag", constant, row["n"], 10.0))
    return figures


def frames(con: Connection) -> list[dict[str, Any]]:
    """Every calibrated (visit, detector) with its final and true WCS (frames.sql)."""
    rows: list[dict[str, Any]] = con.table((SQL / "frames.sql").read_text()).to_pylist()
    return rows


def astrometry(con: Connection) -> list[Figure]:
    """Distance on the detector between where the final and the true WCS put the same sky, in pixels.

    The rms is over a grid of 7 x 7 points on each frame, of the distance (both coordinates together).
    """
    found = frames(con)
    squares = np.array([_square_offset(row) for row in found])
    fitted = np.array([row["wcs_source"] == "fit" for row in found], bool)
    worst = float(np.sqrt(squares[fitted].max())) if fitted.any() else float("nan")
    return [
        Figure("WCS error, fitted frames", "pixel", _rms(squares[fitted]), int(fitted.sum()), 0.1),
        Figure("WCS error, worst fitted frame", "pixel", worst, int(fitted.sum())),
        Figure("frames without an astrometric fit", "frame", float((~fitted).sum()), len(found)),
    ]


def _square_offset(row: dict[str, Any]) -> float:
    """Mean square distance in pixels over the grid of one frame."""
    x, y = np.meshgrid(np.linspace(0, row["width"] - 1, GRID), np.linspace(0, row["height"] - 1, GRID))
    sky = SkyWcs.from_json(row["wcs"]).pixel_to_sky(x, y)
    true_x, true_y = SkyWcs.from_json(row["true_wcs"]).sky_to_pixel(*sky)
    return float(np.mean((true_x - x) ** 2 + (true_y - y) ** 2))


def _rms(squares: NDArray[np.float64]) -> float:
    return float(np.sqrt(squares.mean())) if len(squares) else float("nan")
