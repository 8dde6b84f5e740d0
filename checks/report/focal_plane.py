"""The calibration over the focal plane: what is added to the detectors, and what is left on them."""

from __future__ import annotations

from itertools import groupby

import numpy as np
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from checks.report import style
from checks.report.curves import EMPTY, ask
from checks.subject import Row, Subject

Array = NDArray[np.float64]
#: Cells along the side of a detector: those of the residual maps, and those in which a flat that varies is drawn.
CELLS = 8


def flats(subject: Subject) -> str:
    """What is added to the detectors, on the focal plane, by band and epoch."""
    groups = []
    for (band, epoch), mine in groupby(ask(subject, "flats"), lambda row: (row["band"], row["epoch"])):
        groups.append((band, epoch, [cell for row in mine for cell in _flat(row)]))
    words = "What the global calibration adds to each detector's zero point, by flat epoch; detectors in their own pixel axes."
    return _mosaics(groups, words)


def _flat(row: Row) -> list[Row]:
    """A detector's offset, as one cell; in 8 x 8 cells where polynomials over it were fitted."""
    terms = [row[name] for name in ("t10", "t01", "t20", "t11", "t02")]
    if all(term is None for term in terms):
        return [{**row, "ix": 0, "iy": 0, "cells": 1, "value": row["offset"]}]
    at = (np.arange(CELLS) + 0.5) * 2 / CELLS - 1
    x, y = np.meshgrid(at, at)
    shapes = (x, y, 2 * x**2 - 1, x * y, 2 * y**2 - 1)
    values = row["offset"] + sum((term or 0.0) * shape for term, shape in zip(terms, shapes, strict=True))
    return [{**row, "ix": ix, "iy": iy, "cells": CELLS, "value": values[iy, ix]} for iy in range(CELLS) for ix in range(CELLS)]


def residual_maps(subject: Subject) -> str:
    """What is left over the detectors, on the focal plane, by band."""
    groups = []
    for band, mine in groupby(ask(subject, "residual_maps"), lambda row: row["band"]):
        groups.append((band, "", [{**row, "cells": CELLS, "value": row["residual"]} for row in mine]))
    words = (
        "Mean residual of fitted stars in 8 x 8 cells of each detector, all tracts and visits; detectors in their own pixel axes."
    )
    return _mosaics(groups, words)


def _mosaics(groups: list[tuple[str, str, list[Row]]], words: str) -> str:
    """One focal plane per band and epoch, at most 12, with one scale of colours."""
    if not groups:
        return EMPTY
    groups = sorted(groups, key=lambda group: (style.band_order(group[0]), group[1]))
    left_out = len(groups) - 12
    groups = groups[:12]
    values = np.array([cell["value"] for *_, cells in groups for cell in cells])
    limit = max(2.0, float(np.percentile(np.abs(values), 98)))
    places = [_cells(cells) for *_, cells in groups]
    low, high = (np.array([f(p.reshape(-1, 2), axis=0) for p in places]) for f in (np.min, np.max))
    low, high = low.min(axis=0), high.max(axis=0)
    wide, tall = high - low
    lines, columns = style.grid(len(groups), 6 if wide < 1.5 * tall else 4 if wide < 3 * tall else 2)
    width = min(9.6 / columns, 3.2)
    made, axes = style.figure(
        min(10.6, width * columns + 1.0), lines * (width * min(tall / wide, 1.6) + 0.35), nrows=lines, ncols=columns, squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (band, epoch, cells), corners in zip(axes.flat, groups, places, strict=False):
        shown = PolyCollection(
            list(corners), array=np.array([cell["value"] for cell in cells]), cmap="RdBu_r", clim=(-limit, limit), lw=0.2,
            edgecolors="face", rasterized=len(cells) > 500,
        )  # fmt: skip
        axis.add_collection(shown)
        axis.set(xlim=(low[0], high[0]), ylim=(low[1], high[1]), aspect="equal")
        axis.set_title(f"{band}  {epoch}", fontsize=8.5)
    made.colorbar(shown, ax=axes, shrink=0.85, pad=0.02, aspect=20 * lines, label="mmag").outline.set_visible(False)
    return style.embed(made, words + (f" {left_out} more epochs are not shown." if left_out > 0 else ""))


def _cells(cells: list[Row]) -> Array:
    """Corners of cells on the focal plane, (n, 4, 2): detectors as large as the distance between neighbours lets them be."""
    x, y, width, height, ix, iy, count = (
        np.array([cell[name] for cell in cells], float) for name in ("x", "y", "width", "height", "ix", "iy", "cells")
    )
    centres = np.unique(np.stack([x, y], axis=1), axis=0)[:500]
    distance = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    near = float(np.median(distance.min(axis=1))) if len(centres) > 1 else 1.0
    scale = 0.97 * near / float(min(width.min(), height.min()))
    left, low = x + scale * width * (ix / count - 0.5), y + scale * height * (iy / count - 0.5)
    right, top = left + scale * width / count, low + scale * height / count
    return np.stack([np.stack(pair, axis=1) for pair in ((left, low), (right, low), (right, top), (left, top))], axis=1)
