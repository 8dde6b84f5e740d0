"""Plots of the calibration in time and by star: zero points, nights, repeatability, residuals."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from checks.report import style
from checks.report.curves import EMPTY, ask
from checks.subject import Row, Subject

Array = NDArray[np.float64]
#: More points than this are drawn as pixels.
MANY = 3000
#: At most so many pieces of time are drawn.
PIECES = 1500
#: Where a legend is in the way of nothing: in the line of the title, to the right.
ABOVE: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1.0, 1.0), "handletextpad": 0.1, "borderaxespad": 0.1}


def zero_points(subject: Subject) -> str:
    """Final zero points in time, one panel per band."""
    rows = ask(subject, "zero_points", bins=PIECES)
    if not rows:
        return EMPTY
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    made, axes = style.figure(10.6, 1.45 * len(bands) + 0.5, nrows=len(bands), squeeze=False, sharex=True)
    nights = {row["place"]: row["day_obs"] for row in sorted(rows, key=lambda row: row["place"])}
    places = list(nights)
    edges = [b for a, b in pairwise(places) if nights[a] != nights[b]]
    for axis, band in zip(axes[:, 0], bands, strict=True):
        for word, colour, mark in (
            ("photometric", style.band_colour(band), "."),
            ("cloudy", style.GREY, "."),
            ("extrapolated", style.BAD, "x"),
        ):
            mine = [row for row in rows if row["band"] == band and row["kind"] == word]
            if mine:
                x, y = np.repeat([r["place"] for r in mine], 2), [r[end] for r in mine for end in ("low", "high")]
                axis.plot(x, y, mark, ms=4, color=colour, label=word, rasterized=len(mine) > MANY)
        for edge in edges:
            axis.axvline(edge - 0.5, color=style.RULE, lw=0.8)
        axis.set_title(f"{band}  lowest and highest zero point of the detectors (mag)")
        axis.legend(**ABOVE, ncols=3)
    starts = _thinned([0, *edges], places[-1] + 1)
    axes[-1, 0].set(xticks=starts, xticklabels=[str(nights[i]) for i in starts], xlabel="visits in order of time, by night")
    return style.embed(made, "mag_AB = zero point - 2.5 log10(electrons); vertical lines part the nights.")


def _thinned(places: Sequence[int], length: int, room: int = 12) -> list[int]:
    """Places of labels that do not run into each other: at most ``room`` over the whole length."""
    kept: list[int] = []
    for place in places:
        if not kept or place - kept[-1] >= length / room:
            kept.append(place)
    return kept


def nights(subject: Subject) -> str:
    """Extinction, drift and colour terms of each night with their errors; hollow where the data did not determine them."""
    rows = ask(subject, "nights")
    if not rows:
        return EMPTY
    shown = [
        (name, error, title)
        for name, error, title in (
            ("extinction", "extinction_error", "extinction (mag per airmass)"),
            ("drift", "drift_error", "drift in the night (mag)"),
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
    prior = row[error.replace("error", "prior")]
    known = row[error] is not None and (prior is None or row[error] <= 0.5 * prior)
    return bool(known and (row["fitted"] or name != "extinction"))


def repeatability(subject: Subject) -> str:
    """Scatter of reserved stars against magnitude, its running median, and what the errors say."""
    rows = ask(subject, "repeatability")
    if not rows:
        return EMPTY
    bands = sorted({row["band"] for row in rows}, key=style.band_order)
    lines, columns = style.grid(len(bands), 3)
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
        axis.plot(mag, scatter, ".", ms=2, color=style.GREY, rasterized=len(mag) > MANY)
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
    words = "Scatter of the calibrated magnitudes of reserved stars (never fitted); the median allows for how few each has."
    return style.embed(made, words)


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
    errors = ask(subject, "zero_point_errors")
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
            off = [r for r in errors if r["band"] == band]
            if off:
                axes[2].hist(
                    [r["low"] + 0.25 for r in off], np.linspace(-12, 12, 49), weights=[r["number"] for r in off], histtype="step",
                    color=style.band_colour(band), lw=1.3, label=f"{band} {off[0]['rms']:.1f} rms, {off[0]['mean']:+.1f} mean",
                )  # fmt: skip
        axes[2].set_title("zero points against the truth")
        axes[2].set(xlabel="solved - true (mmag)", yticks=[])
        axes[2].set_ylim(0, 1.45 * axes[2].get_ylim()[1])
        axes[2].legend(loc="upper center")
    return style.embed(made, "Isolated stars on photometric visits about their means, after the global calibration.")
