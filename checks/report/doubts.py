"""What the calibration could not know, by name: a warning is not a silent zero."""

from __future__ import annotations

from html import escape
from itertools import groupby

from checks.report import style
from checks.report.curves import EMPTY, ask
from checks.subject import Row, Subject

#: What a kind of doubt means for the reader.
MEANING = {
    "no reference stars": "sets of visits that nothing ties to the sky; their constant is that of what they rest on",
    "no star shared": "sets of visits of a band that share no star with each other; only what each rests on holds them together",
    "extrapolated": "visits of which no star was seen; their zero points are by their nights and the flats alone",
    "extinction not determined": "nights whose visits do not tell; it is much what was assumed",
    "colour term not determined": "nights whose stars do not tell; it is much what was assumed",
    "water term not determined": "nights whose stars do not tell; it is much what was assumed",
}
#: Names listed of one kind of doubt and band.
LISTED = 6


def doubts(subject: Subject) -> str:
    """What the solution could not know, by name: sets of visits without anchor, extrapolated visits, terms without data."""
    if not ask(subject, "nights"):
        return EMPTY
    rows = ask(subject, "doubts")
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
    words = "".join(f"<li><b>{escape(kind)}</b>: {escape(MEANING[kind] + _assumed(rows, kind))}</li>" for kind in kinds)
    return f'<div class="doubts"><ul>{words}</ul>{style.table(listed)}</div>'


def _assumed(rows: list[Row], kind: str) -> str:
    """The errors that the solution assumed of terms before it fitted them."""
    errors = sorted({row["prior"] for row in rows if row["kind"] == kind and row["prior"] is not None})
    return f" (± {', '.join(f'{error:g}' for error in errors)})" if errors else ""
