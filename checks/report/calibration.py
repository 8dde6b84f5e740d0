"""Plots of the calibration, in the order in which doubts arise: what is not known, zero points, nights, detectors, sky, stars."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import groupby
from typing import Any

import numpy as np
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from checks.report import sky, style
from checks.report.curves import EMPTY, ask
from checks.subject import Row, Subject
from lake.query import identifier

Array = NDArray[np.float64]
GREY = "#b9c0c6"
#: More points than this are drawn as pixels.
MANY = 3000
#: Cells along the side of a detector: those of the residual maps, and those in which a flat that varies is drawn.
CELLS = 8
#: Errors of the terms of a night before they are fitted, where the campaign does not say otherwise (mag).
PRIORS = {"extinction": 0.05, "colour": 0.02, "water": 0.01}
#: What a kind of doubt means for the reader.
MEANING = {
    "no reference stars": "sets of visits that nothing ties to the sky; their constant is that of what they rest on",
    "no star shared": "sets of visits of a band that share no star with each other; only what each rests on holds them together",
    "extrapolated": "visits of which no star was seen; their zero points are by their nights and the flats alone",
    "extinction not determined": "nights whose visits do not tell; it is much what was assumed (± {extinction:g})",
    "colour term not determined": "nights whose stars do not tell; it is much what was assumed (± {colour:g})",
    "water term not determined": "nights whose stars do not tell; it is much what was assumed (± {water:g})",
}
#: Where a legend is in the way of nothing: in the line of the title, to the right.
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "handletextpad": 0.1, "borderaxespad": 0.1}
#: Stars that a cell of the sky should hold.
STARS = 20
#: Names listed of one kind of doubt and band.
LISTED = 6


# -- what is not known -------------------------------------------------------------------------------------------------


def doubts(subject: Subject) -> str:
    """What the solution could not know, by name: sets of visits without anchor, extrapolated visits, terms without data."""
    if not ask(subject, "nights"):
        return EMPTY
    settings = (subject.definition.get("config") or {}).get("global_calibration") or {}
    priors = {name: float(settings.get(name, value)) for name, value in PRIORS.items()}
    rows = ask(subject, "doubts", **priors)
    if not rows:
        return '<p class="good-text">Every visit is tied to the reference catalogue, and every term was determined by the data.</p>'
    kinds = list(dict.fromkeys(row["kind"] for row in rows))
    rows.sort(key=lambda row: (kinds.index(row["kind"]), style.band_order(row["band"])))
    listed = []
    for (kind, band), group in groupby(rows, lambda row: (row["kind"], row["band"])):
        mine = list(group)
        names = [f"{row['name']} ({row['words']})" for row in mine[:LISTED]]
        more = [f"and {len(mine) - LISTED:,} more"] if len(mine) > LISTED else []
        listed.append({"warning": kind, "band": band, "number": len(mine), "which": "; ".join(names + more)})
    words = "".join(f"<li><b>{escape(kind)}</b>: {escape(MEANING[kind].format(**priors))}</li>" for kind in kinds)
    return f'<div class="doubts"><ul>{words}</ul>{style.table(listed)}</div>'


# -- time --------------------------------------------------------------------------------------------------------------


def zero_points(subject: Subject) -> str:
    """Final zero points in time, one panel per band."""
    rows = ask(subject, "zero_points")
    if not rows:
        return EMPTY
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    made, axes = style.figure(10.6, 1.45 * len(bands) + 0.5, nrows=len(bands), squeeze=False, sharex=True)
    visits = sorted({(row["mjd_mid"], row["visit"]) for row in rows})
    place = {visit: i for i, (_, visit) in enumerate(visits)}
    nights = {row["visit"]: row["day_obs"] for row in rows}
    edges = [i for i in range(1, len(visits)) if nights[visits[i][1]] != nights[visits[i - 1][1]]]
    for axis, band in zip(axes[:, 0], bands, strict=True):
        for word, colour, mark in (
            ("photometric", style.band_colour(band), "."),
            ("cloudy", GREY, "."),
            ("extrapolated", style.BAD, "x"),
        ):
            mine = [row for row in rows if row["band"] == band and _kind(row) == word]
            if mine:
                x, y = [place[r["visit"]] for r in mine], [r["zero_point"] for r in mine]
                axis.plot(x, y, mark, ms=4, color=colour, label=word, rasterized=len(mine) > MANY)
        for edge in edges:
            axis.axvline(edge - 0.5, color=style.RULE, lw=0.8)
        axis.set_title(f"{band}  zero point of every detector (mag)")
        axis.legend(**ABOVE, ncols=3)
    starts = _thinned([0, *edges], len(visits))
    axes[-1, 0].set(
        xticks=starts, xticklabels=[str(nights[visits[i][1]]) for i in starts], xlabel="visits in order of time, by night"
    )
    return style.embed(made, "mag_AB = zero point - 2.5 log10(electrons); vertical lines part the nights.")


def _kind(row: Row) -> str:
    return "extrapolated" if row["extrapolated"] else "photometric" if row["photometric"] else "cloudy"


def _thinned(places: Sequence[int], length: int, room: int = 12) -> list[int]:
    """Places of labels that do not run into each other: at most ``room`` over the whole length."""
    kept: list[int] = []
    for place in places:
        if not kept or place - kept[-1] >= length / room:
            kept.append(place)
    return kept


def nights(subject: Subject) -> str:
    """Extinction and colour terms of each night with their errors; hollow where the data did not determine them."""
    rows = ask(subject, "nights")
    if not rows:
        return EMPTY
    shown = [
        (name, error, title)
        for name, error, title in (
            ("extinction", "extinction_error", "extinction (mag per airmass)"),
            ("colour_term", "colour_error", "colour term (mag per airmass and mag of g - r)"),
            ("water_term", "water_error", "water vapour (mag per mag of colour)"),
        )
        if any(row[name] is not None for row in rows)
    ]
    days = sorted({row["day_obs"] for row in rows})
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    made, axes = style.figure(10.6, 1.9 * len(shown) + 0.5, nrows=len(shown), squeeze=False, sharex=True)
    for axis, (name, error, title) in zip(axes[:, 0], shown, strict=True):
        for number, band in enumerate(bands):
            mine = [row for row in rows if row["band"] == band and row[name] is not None]
            shift = 0.5 * (number - (len(bands) - 1) / 2) / len(bands)
            for determined in (True, False):
                part = [row for row in mine if _determined(row, name, error) is determined]
                if part:
                    axis.errorbar(
                        [days.index(row["day_obs"]) + shift for row in part], [row[name] for row in part],
                        [row[error] or 0.0 for row in part], fmt="o", ms=4, lw=0.9, color=style.band_colour(band),
                        mfc=style.band_colour(band) if determined else "white", alpha=1.0 if determined else 0.6,
                    )  # fmt: skip
            axis.plot([], [], "o", ms=4, color=style.band_colour(band), label=band)
        for edge in range(1, len(days)):
            axis.axvline(edge - 0.5, color=style.RULE, lw=0.8)
        axis.set_title(title)
        axis.set_xlim(-0.6, len(days) - 0.4)
    axes[0, 0].legend(**ABOVE, ncols=len(bands))
    ticks = _thinned(range(len(days)), len(days))
    axes[-1, 0].set(xticks=ticks, xticklabels=[str(days[i]) for i in ticks], xlabel="night")
    return style.embed(made, "Bars: errors. Hollow: the data of the night did not determine the term, it is much what was assumed.")


def _determined(row: Row, name: str, error: str) -> bool:
    if name == "extinction":
        return bool(row["fitted"])
    return row[error] is not None and row[error] <= 0.5 * PRIORS[name.partition("_")[0]]


# -- focal plane -------------------------------------------------------------------------------------------------------


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
    lines, columns = _grid(len(groups), 6 if wide < 1.5 * tall else 4 if wide < 3 * tall else 2)
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


# -- sky ---------------------------------------------------------------------------------------------------------------


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
    count, columns = _grid(len(bands), max(1, 4 // len(groups)))
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


def _grid(count: int, most: int) -> tuple[int, int]:
    """Lines and columns for so many panels, at most ``most`` in a line, the lines as even as can be."""
    lines = -(-count // most)
    return lines, -(-count // lines)


# -- stars -------------------------------------------------------------------------------------------------------------


def repeatability(subject: Subject) -> str:
    """Scatter of reserved stars against magnitude, its running median, and what the errors say."""
    rows = ask(subject, "repeatability")
    if not rows:
        return EMPTY
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    lines, columns = _grid(len(bands), 3)
    made, axes = style.figure(10.6, 2.6 * lines + 0.2, nrows=lines, ncols=columns, squeeze=False, sharex=True, sharey=True)
    for axis in list(axes.flat)[len(bands) :]:
        axis.set_axis_off()
    top = 1.3 * max(float(np.percentile([row["scatter"] for row in rows], 99)), 5.0)
    low = max(0.3, 0.5 * float(np.percentile([row["scatter"] for row in rows], 2)))
    for axis, band in zip(axes.flat, bands, strict=False):
        mag, scatter, expected, typical = (
            np.array([row[name] for row in rows if row["band"] == band], float)
            for name in ("mag", "scatter", "expected", "typical")
        )
        axis.plot(mag, scatter, ".", ms=2, color=GREY, rasterized=len(mag) > MANY)
        at, middle = running_median(mag, typical)
        _, photons = running_median(mag, expected)
        axis.plot(at, middle, "-", lw=1.6, color=style.band_colour(band), label="median")
        axis.plot(at, photons, "--", lw=1.1, color=style.INK, label="by the errors")
        bright = middle[: max(1, len(middle) // 3)]
        axis.set(yscale="log", ylim=(low, top))
        axis.set_title(f"{band}  {float(np.median(bright)):.1f} mmag for the brightest third")
        axis.set_yticks([tick for tick in (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500) if low <= tick <= top])
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.minorticks_off()
        axis.grid(axis="y")
    axes.flat[0].legend(loc="upper left")
    for axis in list(axes.flat)[: len(bands)][-columns:]:  # the last of each column
        axis.set_xlabel("magnitude")
        axis.tick_params(labelbottom=True)
    for axis in axes[:, 0]:
        axis.set_ylabel("scatter (mmag)")
    return style.embed(
        made,
        "Scatter of the calibrated magnitudes of reserved stars (never fitted); the median allows for how few observations each has.",
    )


def running_median(x: Array, y: Array, bins: int = 12) -> tuple[Array, Array]:
    """Medians of x and of y in at most ``bins`` groups of equal number, in order of x; groups have five points or more."""
    order = np.argsort(x, kind="stable")
    parts = np.array_split(order, max(1, min(bins, len(x) // 5)))
    return np.array([np.median(x[part]) for part in parts]), np.array([np.median(y[part]) for part in parts])


def residuals(subject: Subject) -> str:
    """Repeatability of stars against magnitude, and its distribution for bright ones; zero-point errors where truth exists."""
    rows = ask(subject, "residuals")
    if not rows:
        return EMPTY
    errors = [row for row in ask(subject, "zero_points") if row["error"] is not None and row["photometric"]]
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    made, axes = style.figure(10.6, 2.9, ncols=3 if errors else 2, width_ratios=[1.7, 1, 1] if errors else [1.7, 1])
    for band in bands:
        mine = [row for row in rows if row["band"] == band]
        axes[0].plot(
            [r["mag"] for r in mine], [r["residual"] for r in mine], ".", ms=1.4, alpha=0.35, color=style.band_colour(band),
            rasterized=True,
        )  # fmt: skip
    axes[0].set(ylim=(-60, 60), xlabel="mean magnitude")
    axes[0].set_title("residuals of single observations (mmag)")
    bins = np.linspace(-40, 40, 61)
    for band in bands:
        bright = [r["residual"] for r in rows if r["band"] == band and r["err"] < 10]
        if bright:
            robust = 1.4826 * float(np.median(np.abs(bright)))
            axes[1].hist(bright, bins, histtype="step", color=style.band_colour(band), lw=1.3, label=f"{band} {robust:.1f} mmag")
    axes[1].set_title("bright stars (photon noise < 10 mmag)")
    axes[1].set(xlabel="residual (mmag)", yticks=[])
    axes[1].set_ylim(0, 1.45 * axes[1].get_ylim()[1])
    axes[1].legend(loc="upper center", ncols=2, columnspacing=0.8, handlelength=1.0)
    if errors:
        for band in bands:
            off = np.array([r["error"] for r in errors if r["band"] == band])
            if len(off):
                axes[2].hist(
                    off, np.linspace(-12, 12, 49), histtype="step", color=style.band_colour(band), lw=1.3,
                    label=f"{band} {np.std(off):.1f} rms, {np.mean(off):+.1f} mean",
                )  # fmt: skip
        axes[2].set_title("zero points against the truth")
        axes[2].set(xlabel="solved - true (mmag)", yticks=[])
        axes[2].set_ylim(0, 1.45 * axes[2].get_ylim()[1])
        axes[2].legend(loc="upper center")
    return style.embed(made, "Isolated stars on photometric visits about their means, after the global calibration.")
