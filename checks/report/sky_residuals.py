"""The calibration over the sky: what is left of detectors, and standard stars against the reference catalogue."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import PolyCollection

from checks.report import sky, style
from checks.report.curves import EMPTY, ask
from checks.subject import Row, Subject
from lake.query import identifier

#: Stars that a cell of the sky should hold.
STARS = 20


def on_the_sky(subject: Subject) -> str:
    """What is left of the detectors, and standard stars against the reference catalogue, by place on the sky."""
    groups = sky.panels(sky.tracts_of(subject))
    if not groups:
        return EMPTY
    stars = subject.rows(
        f"SELECT count(*) / greatest(count(DISTINCT band), 1) AS n FROM {identifier(subject.lake.central.name)}.standard_star"
    )
    fine = max(sky.cell(groups, 4000), 0.5 * (ask(subject, "detector_size")[0]["size"] or 0.0))
    coarse = max(sky.cell(groups, 4000), sky.cell(groups, stars[0]["n"] / STARS))
    parts = [
        _sky_map(
            groups, fine, ask(subject, "sky_residuals", cell=fine), "rms residual", "cividis",
            "Rms of the mean residual of each detector of photometric visits from the solution, in cells of the sky.",
        ),
        _sky_map(
            groups, coarse, ask(subject, "sky_reference", cell=coarse), "less the reference", "RdBu_r",
            "Mean of standard star less reference star in cells of the sky, about the median of the band (no colour terms).",
        ),
    ]  # fmt: skip
    return "".join(parts) or EMPTY


def _sky_map(groups: list[list[Row]], cell: float, rows: list[Row], title: str, colours: str, words: str) -> str:
    """A row of panels per band, coloured by ``value`` (mmag); about zero where the colours diverge."""
    if not rows:
        return ""
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    count, columns = style.grid(len(bands), max(1, 4 // len(groups)))
    made, axes = sky.panel_figure(groups, count, columns)
    lines = [part for row in axes for part in np.split(row, columns)]
    for axis in [axis for line in lines[len(bands) :] for axis in line]:
        axis.set_axis_off()
    values = np.array([row["value"] for row in rows])
    limit = max(2.0, float(np.percentile(np.abs(values), 97)))
    low = -limit if colours == "RdBu_r" else 0.0
    for line, band in zip(lines, bands, strict=False):
        mine = [row for row in rows if row["band"] == band]
        ra, dec, value = (np.array([row[name] for row in mine], float) for name in ("ra", "dec", "value"))
        for axis, group in zip(line, groups, strict=True):
            x, y, chosen = sky.inside(axis, ra, dec, value)
            half, flat = 0.5 * cell, 0.5 * cell / np.cos(np.radians(y))
            corners = [np.stack([x + i * flat, y + j * half], axis=1) for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
            shown = PolyCollection(
                list(np.stack(corners, axis=1)), array=chosen, cmap=colours, clim=(low, limit), lw=0.2, edgecolors="face",
                rasterized=len(x) > 500,
            )  # fmt: skip
            axis.add_collection(shown)
            sky.outline(axis, group)
        line[0].set_title(f"{band}  {title}")
    made.colorbar(shown, ax=axes, shrink=0.85, pad=0.02, aspect=20 * len(axes), label="mmag").outline.set_visible(False)
    return style.embed(made, words)
