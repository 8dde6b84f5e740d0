"""Plots of time: when steps ran, light curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from checks.ledger import order
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
    steps = [step for step in order(subject.definition) if any(row["step"] == step for row in rows)]
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
