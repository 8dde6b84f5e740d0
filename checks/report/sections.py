"""The sections of the report, in the order in which a reader asks: is it good, where, what, how well, what went wrong."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import groupby

from checks.ledger import STATES, Ledger, order
from checks.report import calibration as photometry
from checks.report import curves, doubts, focal_plane, sky, sky_residuals, style
from checks.report.curves import ask
from checks.subject import Row, Subject
from checks.suites import Verdict

#: How a state of a step looks.
LOOK = {
    "accepted": "good", "running": "busy", "reviewable": "warn", "paused": "warn", "blocked": "warn", "rejected": "bad",
    "failed": "bad", "waiting": "",
}  # fmt: skip


@dataclass(frozen=True)
class Section:
    """``title`` is empty for the head of the page."""

    name: str
    title: str
    html: str


def every(subject: Subject, verdict: Verdict) -> list[Section]:
    """All sections of a campaign's report."""
    steps = ask(subject, "steps")
    return [
        Section("head", "", head(subject, verdict, steps)),
        Section("sky", "The sky", sky.footprint(subject)),
        Section("steps", "Steps and sites", matrix(subject, steps) + curves.timeline(subject, sky.colours(subject))),
        Section("ledger", "Ledger", ledger(subject.ledger)),
        Section("transfers", "Transfers", transfers(subject)),
        Section("calibration", "Calibration", calibration(subject)),
        Section("depth", "Depth", sky.depth(subject) + survey_metrics(subject)),
        Section("light-curves", "Light curves", light_curves(subject)),
        Section("checks", "Checks", checks(verdict)),
        Section("software", "Software and cost", software(subject)),
    ]


# -- head --------------------------------------------------------------------------------------------------------------


def head(subject: Subject, verdict: Verdict, steps: list[Row]) -> str:
    """Name, what kind of raws, verdicts, and the numbers that say how large it is."""
    definition, found = subject.definition, subject.ledger
    synthetic = definition.get("simulate") is not None
    label = '<span class="label">synthetic raws</span>' if synthetic else ""
    about = escape(str(definition.get("description") or subject.campaign).strip().rstrip("."))
    about = about[:1].upper() + about[1:] + ". "
    about += "Every raw exposure is simulated: nothing here was observed." if synthetic else "The raw exposures are real frames."
    storage = [row for row in verdict.rows if row.suite == "storage"]
    sound = all(row.success for row in storage)
    counts = verdict.tables[("storage", "storage")].to_pylist() if ("storage", "storage") in verdict.tables else []
    broken = [f"{sum(row[state] for row in counts):,} files {state}" for state in ("lost", "damaged")]
    ledger_words = found.summary.partition(": ")[2] if found.reconciled else _first(found.problems)
    parts = [
        _verdict("Ledger", "reconciled", found.reconciled, ledger_words),
        _verdict("Checks", "met", verdict.success, verdict.summary),
        _verdict("Storage", "sound", sound, "every registered file is in storage" if sound else ", ".join(broken)),
    ]
    counted = subject.con.table(
        "SELECT count(*) AS datasets, (SELECT sum(b) FROM (SELECT any_value(file_bytes) AS b FROM dataset GROUP BY site, path)) "
        "AS bytes FROM dataset WHERE starts_with(run, $c || '/')",
        {"c": subject.campaign},
    ).to_pylist()[0]
    visits = subject.con.table("SELECT count(DISTINCT visit) AS n FROM visit")["n"][0].as_py()
    moved = ask(subject, "links")
    spans = ask(subject, "spans")
    tracts = sum(len((share or {}).get("tracts", [])) for share in definition["sites"].values())
    numbers = {
        "sites": str(len(definition["sites"])), "tracts": str(tracts), "visits": f"{visits:,}", "raws": f"{found.raw_count:,}",
        "quanta": f"{sum(row['quanta'] or 0 for row in steps):,}", "datasets": f"{counted['datasets']:,}",
        "at all sites": style.size(float(counted["bytes"] or 0)),
        "moved": style.size(float(sum(row["bytes"] or 0 for row in moved))),
        "first to last step": style.span(max((row["end"] for row in spans), default=None)),
    }  # fmt: skip
    return (
        f"<h1>{escape(subject.campaign)}{label}</h1><p class=lead>{about}</p>"
        f'<div class="verdicts">{"".join(parts)}</div>'
        f'<div class="numbers">{"".join(f"<div><b>{v}</b><span>{k}</span></div>" for k, v in numbers.items() if v)}</div>'
    )


def _first(problems: list[str], count: int = 4) -> str:
    """The first problems without their details."""
    more = f"; and {len(problems) - count} more" if len(problems) > count else ""
    return "; ".join(problem.partition(" (")[0] for problem in problems[:count]) + more


def _verdict(what: str, is_so: str, good: bool, words: str) -> str:
    title = f"{what} {is_so if good else 'NOT ' + is_so}"
    return f'<div class="verdict {"good" if good else "bad"}"><b>{title}</b><span>{escape(words)}</span></div>'


# -- steps -------------------------------------------------------------------------------------------------------------


def matrix(subject: Subject, steps: list[Row]) -> str:
    """Steps down, sites across: state, counts, seconds; movement phases in one line each."""
    sites = [name for name in subject.lake.sites if name in subject.definition["sites"]]
    known = {(row["step"], row["site"]): row for row in steps}
    moved: dict[str, tuple[int, int]] = {}
    for link in ask(subject, "links"):
        files, size = moved.get(link["phase"], (0, 0))
        moved[link["phase"]] = (files + link["files"], size + link["bytes"])
    lines = ""
    for step in order(subject.definition):
        rows = [known[(step, site)] for site in subject.lake.sites if (step, site) in known]
        if not rows:
            continue
        if not step.startswith("step"):
            files, size = moved.get(step, (0, 0))
            words = f"<b>{rows[0]['state']}</b>" + (f" in {style.span(rows[0]['wall'])}" if rows[0]["wall"] else "")
            lines += (
                f'<tr><th>{step}</th><td colspan="{len(sites)}"><span class="cell {LOOK.get(rows[0]["state"], "")}">{words}'
                f"<small>{files:,} files, {style.size(size)} between sites</small></span></td></tr>"
            )
            continue
        cells = "".join(f"<td>{_cell(known.get((step, site)))}</td>" for site in sites)
        lines += f"<tr><th>{step}</th>{cells}</tr>"
    heads = "".join(f"<th>{escape(site)}{' (central)' if subject.lake.sites[site].central else ''}</th>" for site in sites)
    return f'<div class="scroll"><table class="matrix"><thead><tr><th></th>{heads}</tr></thead><tbody>{lines}</tbody></table></div>'


def _cell(row: Row | None) -> str:
    if row is None or not row["quanta"]:
        return '<span class="cell none">-</span>'
    done = (row["succeeded"] or 0) + (row["no_work"] or 0)
    look = "warn" if row["failed"] and row["state"] == "accepted" else LOOK.get(row["state"], "")
    counts = [f"{done:,} of {row['quanta']:,} quanta"]
    counts += [f"{row[name]:,} {word}" for name, word in (("no_work", "without work"), ("failed", "failed")) if row[name]]
    times = [style.span(row["wall"])] if row["wall"] else []
    times += [f"cpu {style.span(row['cpu'])}"] if row["cpu"] else []
    return (
        f'<span class="cell {look}"><b>{row["state"]}</b>{" in " + times[0] if row["wall"] else ""}'
        f"<small>{', '.join([*counts, *times[bool(row['wall']) :]])}</small></span>"
    )


# -- ledger, transfers -------------------------------------------------------------------------------------------------


def ledger(found: Ledger) -> str:
    """The sum per step and site; rows that do not reconcile first; every row on request."""
    states = [state for state in STATES if state == "visible" or found.totals[state]]
    keys = ("expected", *states, *(["in_archive"] if found.totals["in_archive"] else []), "bytes")
    sums = []
    for (step, site), rows in groupby(found.rows, lambda row: (row["step"], row["site"])):
        mine = list(rows)
        total = {key: sum(row[key] for row in mine) for key in keys}
        sums.append({"step": step, "site": site, **total, "reconciled": all(row["reconciled"] for row in mine)})
    columns = ["step", "site", *keys, "reconciled"]
    if found.reconciled:
        parts = [f'<p class="good-text">{escape(found.summary)}</p>']
    else:
        listed = "".join(f"<li>{escape(problem)}</li>" for problem in found.problems[:20])
        more = f"<li>and {len(found.problems) - 20} more</li>" if len(found.problems) > 20 else ""
        parts = [f'<p class="bad-text">The ledger does not reconcile:</p><ul class="problems">{listed}{more}</ul>']
    wrong = [row for row in found.rows if not row["reconciled"]]
    if wrong:
        open_rows = style.table(wrong[:200], ["step", "site", "dataset_type", *keys, "reason"])
        parts.append(f"<h3>What does not reconcile</h3>{open_rows}")
    if found.raws:
        parts.append(
            f"<h3>Raws that did not reach every product ({len(found.raws):,})</h3>"
            + style.table(found.raws[:50], ["exposure", "detector", "state", "reached", "stopped_site", "stopped_type", "reason"])
        )
    parts.append(f"<details><summary>By step and site</summary>{style.table(sums, columns)}</details>")
    every_row = style.table(found.rows, ["step", "site", "dataset_type", *keys, "reconciled"])
    parts.append(f"<details><summary>Every dataset type ({len(found.rows)} rows)</summary>{every_row}</details>")
    return "\n".join(parts)


def transfers(subject: Subject) -> str:
    """Files and bytes per link and phase, and the speed."""
    rows = ask(subject, "links")
    if not rows:
        return curves.EMPTY
    for row in rows:
        row["link"] = f"{row['source']} to {row['destination']}"
        row["rules OK"] = f"{row['ok']} of {row['rules']}"
    columns = ["link", "phase", "rules OK", "files", "datasets", "bytes", "rate"]
    columns += [name for name in ("failed", "parked", "reason") if any(row[name] for row in rows)]
    return '<p class="note">Every file was copied by a rule, checked by sha256 on arrival, and ingested.</p>' + style.table(
        rows, columns
    )


# -- results -----------------------------------------------------------------------------------------------------------


def calibration(subject: Subject) -> str:
    """What is not known, then zero points, nights, detectors, sky and stars."""
    parts = {
        "Warnings": doubts.doubts, "Zero points": photometry.zero_points, "Nights": photometry.nights,
        "Flats over the focal plane": focal_plane.flats, "Residuals over the focal plane": focal_plane.residual_maps,
        "Residuals over the sky": sky_residuals.on_the_sky, "Repeatability of reserved stars": photometry.repeatability,
        "Residuals of single observations": photometry.residuals,
    }  # fmt: skip
    return "\n".join(f"<h3>{title}</h3>\n{make(subject)}" for title, make in parts.items())


def survey_metrics(subject: Subject) -> str:
    """The numbers of step 7 by band, and by tract."""
    rows = subject.con.table("SELECT metric, band, tract, value, unit FROM survey_metric ORDER BY metric, unit").to_pylist()
    parts = []
    for key, word in (("band", "Survey by band"), ("tract", "Survey by tract")):
        names = sorted({row[key] for row in rows if row[key] is not None}, key=lambda name: (style.band_order(str(name)), name))
        table = []
        for metric, group in groupby(rows, lambda row: (row["metric"], row["unit"])):
            found = {row[key]: row["value"] for row in group if row[key] is not None}
            if found:
                table.append({"number": metric[0].replace("_", " "), **{str(n): found.get(n) for n in names}, "unit": metric[1]})
        parts += [f"<h3>{word}</h3>{style.table(table)}"] if table else []
    return "".join(parts)


def light_curves(subject: Subject) -> str:
    """The most variable objects, and known ones where the sky is simulated."""
    known = subject.con.table("SELECT DISTINCT band FROM physical_filter")["band"].to_pylist()
    colours = [(band, style.band_colour(band)) for band in sorted(known, key=style.band_order)]
    legend = "".join(f'<span><i class="swatch" style="background:{colour}"></i>{band}</span>' for band, colour in colours)
    truth = curves.known(subject)
    return f'<div class="legend">{legend}</div>{curves.changing(subject)}' + (
        f"<h3>Known variables and transients</h3>{truth}" if truth else ""
    )


def checks(verdict: Verdict) -> str:
    """Every expectation with its verdict, and the rows behind those that are not met."""
    rows = ""
    for check in verdict.rows:
        word, look = ("error", "bad-text") if check.error else ("met", "good-text") if check.success else ("NOT met", "bad-text")
        rows += (
            f"<tr><td>{escape(check.suite)}</td><td>{escape(check.expectation)}</td><td class={look}>{word}</td>"
            f'<td class="wide soft">{escape(check.error or check.observed)}</td></tr>'
        )
    parts = [
        '<div class="scroll"><table><thead><tr><th>suite</th><th>what is expected</th><th>verdict</th><th>observed</th></tr>'
        f"</thead><tbody>{rows}</tbody></table></div>"
    ]
    for check in verdict.rows:
        if check.offenders:
            rows = _offenders(check.offenders)
            parts.append(f"<h3>{escape(check.suite)}: {escape(check.expectation)}</h3><div class=offenders>{rows}</div>")
    return "\n".join(parts)


def _offenders(rows: Iterable[Row]) -> str:
    """Rows at fault, a table per kind of row."""
    return "".join(style.table(group, names) for names, group in ((n, list(g)) for n, g in groupby(rows, tuple)))


def software(subject: Subject) -> str:
    """The fingerprint that every site ran, and what tasks cost."""
    site = subject.lake.central
    rows = subject.con.table(
        f"SELECT path FROM \"{site.name}\".dataset WHERE dataset_type = 'software' AND starts_with(run, $c || '/')",
        {"c": subject.campaign},
    ).to_pylist()
    parts = []
    seen = subject.con.table(
        "SELECT software AS fingerprint, list_sort(list(DISTINCT site)) AS sites, count(*) AS attempts FROM attempt "
        "WHERE campaign = $c AND software IS NOT NULL GROUP BY software ORDER BY software",
        {"c": subject.campaign},
    ).to_pylist()
    if seen:
        parts.append(style.table([{**row, "sites": ", ".join(row["sites"])} for row in seen]))
    for row in rows[:1]:
        try:
            text = json.dumps(json.loads(site.path(row["path"]).read_text()), indent=1)
        except (OSError, ValueError):
            text = f"{row['path']} cannot be read"
        parts.append(f"<details><summary>Packages and source</summary><pre>{escape(text)}</pre></details>")
    parts.append("<h3>What tasks cost</h3>" + style.table(ask(subject, "tasks")))
    return "\n".join(parts)
