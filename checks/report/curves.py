"""Plots of time and of the calibration: when steps ran, zero points, flats, residuals, light curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from checks.ledger import STEPS
from checks.report import style
from checks.subject import Row, Subject
from lake.query import identifier

HERE = Path(__file__).parent
EMPTY = '<p class="note">not reached yet</p>'


def ask(subject: Subject, name: str, **parameters: Any) -> list[Row]:
    """The rows of ``checks/report/<name>.sql``."""
    text = (HERE / f"{name}.sql").read_text().replace("{central}", identifier(subject.lake.central.name))
    if "$campaign" in text:
        parameters["campaign"] = subject.campaign
    rows: list[Row] = subject.con.table(text, parameters or None).to_pylist()
    return rows


# -- time --------------------------------------------------------------------------------------------------------------


def timeline(subject: Subject, colour: dict[str, str]) -> str:
    """When each step ran at each site."""
    rows = ask(subject, "spans")
    if not rows:
        return EMPTY
    steps = [step for step in STEPS if any(row["step"] == step for row in rows)]
    unit, word = (60.0, "minutes") if max(row["end"] for row in rows) < 5400 else (3600.0, "hours")
    sites = list(subject.lake.sites)
    made, axis = style.figure(10.6, 0.28 * len(steps) + 0.9)
    for row in rows:
        y, height = steps.index(row["step"]), 0.8 / len(sites)
        offset = (sites.index(row["site"]) - (len(sites) - 1) / 2) * height if row["step"].startswith("step") else 0
        width = max((row["end"] - row["begin"]) / unit, 0.002)
        axis.barh(
            y + offset, width, left=row["begin"] / unit, height=height if row["step"].startswith("step") else 0.34,
            color=colour[row["site"]] if row["step"].startswith("step") else "#b8c1c8", lw=0,
        )  # fmt: skip
    axis.set(yticks=range(len(steps)), yticklabels=steps, xlabel=f"{word} since the campaign's first event")
    axis.invert_yaxis()
    axis.grid(axis="x")
    axis.set_axisbelow(True)
    return style.embed(made, "When each step ran, by site (colours as on the sky); grey: movement between sites.")


# -- calibration -------------------------------------------------------------------------------------------------------


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
        for clear, colour, word in ((True, style.band_colour(band), "photometric"), (False, "#b9c0c6", "cloudy")):
            mine = [row for row in rows if row["band"] == band and row["photometric"] is clear]
            if not mine:
                continue
            axis.plot([place[r["visit"]] for r in mine], [r["zero_point"] for r in mine], ".", ms=4, color=colour, label=word)
        for edge in edges:
            axis.axvline(edge - 0.5, color=style.RULE, lw=0.8)
        axis.set_title(f"{band}  zero point of every detector (mag)")
        axis.legend(loc="lower right", ncols=2, handletextpad=0.1)
    starts = [0, *edges]
    axes[-1, 0].set(
        xticks=starts, xticklabels=[str(nights[visits[i][1]]) for i in starts], xlabel="visits in order of time, by night"
    )
    return style.embed(made, "mag_AB = zero point - 2.5 log10(electrons); vertical lines part the nights.")


def flats(subject: Subject) -> str:
    """Offsets of the detectors on the focal plane."""
    rows = ask(subject, "flats")
    if not rows:
        return EMPTY
    groups = sorted({(row["band"], row["epoch"]) for row in rows}, key=lambda g: (style.band_order(g[0]), g[1]))[:8]
    limit = max(2.0, float(np.percentile([abs(row["offset"]) for row in rows], 98)))
    columns = min(len(groups), 6)
    height = -(-len(groups) // columns)
    made, axes = style.figure(min(10.6, 1.9 * columns + 0.8), 1.9 * height + 0.2, nrows=height, ncols=columns, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    shown = None
    for axis, (band, epoch) in zip(axes.flat, groups, strict=False):
        mine = [row for row in rows if (row["band"], row["epoch"]) == (band, epoch)]
        x, y = np.array([r["x"] or 0.0 for r in mine]), np.array([r["y"] or 0.0 for r in mine])
        side = _spacing(x, y)
        shown = axis.scatter(
            x, y, c=[r["offset"] for r in mine], cmap="RdBu_r", vmin=-limit, vmax=limit, marker="s",
            s=(1.15 * 72 * side / max(np.ptp(x) + side, np.ptp(y) + side)) ** 2, lw=0,
        )  # fmt: skip
        axis.set(xlim=(x.min() - side, x.max() + side), ylim=(y.min() - side, y.max() + side), aspect="equal")
        axis.set_title(f"{band}  {epoch}", fontsize=8.5)
    if shown is not None:
        made.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, label="mmag").outline.set_visible(False)
    return style.embed(made, "What the global calibration adds to each detector's zero point, on the focal plane, by flat epoch.")


def _spacing(x: Any, y: Any) -> float:
    """Distance between neighbouring detectors."""
    steps = [d for values in (x, y) for d in np.diff(np.unique(np.round(values, 6)))]
    return float(min(steps)) if steps else 1.0


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
    axes[1].set_ylim(0, 1.3 * axes[1].get_ylim()[1])
    axes[1].legend(loc="upper center", ncols=3, columnspacing=0.8, handlelength=1.0)
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


# -- light curves ------------------------------------------------------------------------------------------------------


def changing(subject: Subject, limit: int = 6) -> str:
    """Light curves of the objects that vary most."""
    rows = ask(subject, "changing", limit=limit)
    if not rows:
        return EMPTY
    for row in rows:
        row["title"] = (
            f"{row['diaObjectId']}\ntract {row['tract']}, {row['sources']} detections, chi2/dof {row['significance']:,.0f}"
        )
    return _curves(subject, rows, "Difference flux (forced, at the object's position) of the most variable objects.")


def known(subject: Subject, limit: int = 3) -> str:
    """Light curves of the brightest variables and transients of the simulation, with the truth as lines."""
    rows = ask(subject, "known", limit=limit)
    if not rows:
        return ""
    for row in rows:
        row["title"] = f"{row['kind']} {row['mag']:.1f} mag, tract {row['tract']}\n{row['sources']} detections"
    words = "The brightest of the simulation that step 5 found. Lines: the truth, less a constant for the template."
    return _curves(subject, rows, words)


def _curves(subject: Subject, rows: list[Row], words: str) -> str:
    points = ask(subject, "curve", ids=[r["diaObjectId"] for r in rows], sites=[r["site"] for r in rows])
    if not points:
        return EMPTY
    start = np.floor(min(p["mjd"] for p in points))
    height = -(-len(rows) // 3)
    made, axes = style.figure(10.6, 2.25 * height + 0.2, nrows=height, ncols=3, squeeze=False)
    for axis in list(axes.flat)[len(rows) :]:
        axis.set_axis_off()
    for axis, row in zip(axes.flat, rows, strict=False):
        mine = [p for p in points if p["diaObjectId"] == row["diaObjectId"]]
        unit, word = (1e6, "mJy") if max((abs(p["flux"]) for p in mine), default=0) > 2e6 else (1e3, "uJy")
        axis.set_ylabel(word.replace("u", "\N{MICRO SIGN}"))
        for band in sorted({p["band"] for p in mine}, key=style.band_order):
            x, y, e = (np.array([p[c] for p in mine if p["band"] == band], float) for c in ("mjd", "flux", "err"))
            colour = style.band_colour(band)
            axis.errorbar(x - start, y / unit, e / unit, fmt="o", ms=3.2, lw=0.8, color=colour)
            if "amplitude" in row:
                _truth(axis, row, band, x, y, start, colour, unit)
        axis.axhline(0, color=style.RULE, lw=0.8, zorder=0)
        axis.set_title(row["title"], fontsize=8.5)
    for axis in axes[-1]:
        axis.set_xlabel(f"days since MJD {start:.0f}")
    return style.embed(made, words)


def _truth(axis: Any, row: Row, band: str, x: Any, y: Any, start: float, colour: str, unit: float) -> None:
    """The true difference flux: what shines, less what the template holds (fitted as one constant)."""
    mag = row.get(f"{band}_mag")
    if mag is None:
        return

    def model(mjd: Any) -> Any:
        if row["kind"] == "transient":
            return np.where((mjd >= row["mjd_start"]) & (mjd <= row["mjd_end"]), 10 ** ((31.4 - mag) / 2.5), 0.0)
        phase = 2 * np.pi * ((mjd - 60000.0) / row["period"] + row["phase"])
        return 10 ** ((31.4 - mag - row["amplitude"] * np.sin(phase)) / 2.5)

    template = float(np.median(model(x) - y))
    at = np.linspace(x.min() - 0.3, x.max() + 0.3, 600)
    axis.plot(at - start, (model(at) - template) / unit, lw=0.6, color=colour, alpha=0.45, zorder=0)
