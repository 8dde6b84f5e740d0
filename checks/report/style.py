"""How plots and tables look: one palette, quiet axes, everything embedded in the page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from html import escape
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.figure import Figure

INK, SOFT, RULE, GREY, BAD = "#1d2830", "#66727d", "#d5dbe0", "#b9c0c6", "#b23a2e"
#: Colours of sites, in the order of the lake.
SITES = ("#2f5d8a", "#c2693f", "#4d8b6f", "#84639b", "#a0852f", "#5f7a87")
BANDS = {"u": "#6a4fa0", "g": "#3c8f6d", "r": "#c0504d", "i": "#94702c", "z": "#56606b", "y": "#2b2b2b"}

STYLE = {
    "font.family": "DejaVu Sans", "font.size": 9, "axes.edgecolor": RULE, "axes.linewidth": 0.8, "axes.labelcolor": SOFT,
    "axes.titlesize": 9.5, "axes.titlecolor": INK, "axes.titlelocation": "left", "axes.spines.top": False,
    "axes.spines.right": False, "xtick.color": SOFT, "ytick.color": SOFT, "xtick.major.size": 3, "ytick.major.size": 3,
    "text.color": INK, "figure.facecolor": "white", "legend.frameon": False, "legend.fontsize": 8.5, "svg.fonttype": "path",
    "svg.hashsalt": "multisite-drp", "grid.color": "#eceff1", "grid.linewidth": 0.7, "savefig.dpi": 150,
}  # fmt: skip


def band_colour(band: str) -> str:
    return BANDS.get(band, SOFT)


def band_order(band: str) -> int:
    """Where a band stands from blue to red."""
    return "ugrizy".find(band)


def figure(width: float = 10.6, height: float = 3.0, **grid: Any) -> tuple[Figure, Any]:
    """A figure and its axes, in the page's style; ``grid`` as for pyplot.subplots."""
    matplotlib.rcParams.update(STYLE)
    made, axes = plt.subplots(figsize=(width, height), layout="constrained", **grid)
    return made, axes


def grid(count: int, most: int) -> tuple[int, int]:
    """Lines and columns for so many panels, at most ``most`` in a line, the lines as even as can be."""
    lines = -(-count // most)
    return lines, -(-count // lines)


def embed(made: Figure, words: str) -> str:
    """A figure as an image inside the page, with what it shows in ``words``; the figure is closed."""
    buffer = io.BytesIO()
    made.savefig(buffer, format="svg", metadata={"Date": None})
    plt.close(made)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<figure><img alt="{escape(words)}" src="data:image/svg+xml;base64,{data}">'
        f"<figcaption>{escape(words)}</figcaption></figure>"
    )


def table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    """Rows as an HTML table; numbers stand right, long texts wrap."""
    rows = list(rows)
    if not rows:
        return '<p class="note">nothing</p>'
    columns = list(columns or rows[0])
    numeric = {c: all(isinstance(row.get(c), int | float | None) and row.get(c) is not True for row in rows) for c in columns}
    head = "".join(f"<th{' class=n' if numeric[c] else ''}>{escape(c.replace('_', ' '))}</th>" for c in columns)
    wide = {c: any(len(str(row.get(c) or "")) > 28 for row in rows) for c in columns}
    look = {c: "n" if numeric[c] else "wide" if wide[c] else "short" for c in columns}
    body = "".join(
        "<tr>" + "".join(f'<td class="{look[c]}">{value(row.get(c), c)}</td>' for c in columns) + "</tr>" for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def value(given: Any, column: str = "") -> str:
    """A value as text of a table cell."""
    if given is None or given != given:
        return ""
    if isinstance(given, bool):
        return "yes" if given else "no"
    if column in ("bytes", "rate"):
        return size(float(given)) + ("/s" if column == "rate" else "")
    if isinstance(given, float):
        return f"{given:,.0f}" if abs(given) >= 1e5 else f"{given:.4g}"
    if isinstance(given, int):
        named = any(word in column.lower() for word in ("visit", "tract", "exposure", "id", "day_obs"))
        return str(given) if named else f"{given:,}"
    if isinstance(given, datetime):
        return f"{given:%Y-%m-%d %H:%M:%S}"
    return escape(str(given))


def size(given: float) -> str:
    """Bytes in a unit that reads well."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if abs(given) < 1000 or unit == "TB":
            return f"{given:.3g} {unit}"
        given /= 1000
    raise AssertionError("unreachable")


def span(seconds: float | None) -> str:
    """A duration that reads well."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"
