"""The sky of a campaign: tracts by site, visits, depth."""

from __future__ import annotations

import warnings
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from checks.report import style
from checks.subject import Row, Subject
from lake import access
from lake.datastore import DatastoreError

Array = NDArray[np.float64]
#: Tracts farther apart than this (deg) are drawn in panels of their own.
GAP = 5.0


def unwrapped(ra: Any) -> Array:
    """Right ascensions made continuous: the circle is cut in the middle of its widest empty stretch."""
    ra = np.mod(np.asarray(ra, dtype=np.float64), 360.0)
    order: Array = np.sort(ra)
    if not len(order):
        return order
    gaps = np.diff(np.append(order, order[0] + 360.0))
    cut = order[np.argmax(gaps)] + gaps.max() / 2
    turned = np.mod(ra - cut, 360.0) + cut
    return np.asarray(turned - 360.0 if np.median(turned) > 330.0 else turned)


def panels(tracts: list[Row]) -> list[list[Row]]:
    """Tracts in groups that lie together, from west (high RA) to east; ``ra`` is made continuous within each."""
    if not tracts:
        return []
    for tract, ra in zip(tracts, unwrapped([t["ra"] for t in tracts]), strict=True):
        tract["shift"] = ra - tract["ra"]
        tract["x"] = ra
    ordered = sorted(tracts, key=lambda t: -t["x"])
    groups = [[ordered[0]]]
    for before, tract in pairwise(ordered):
        if before["x"] - tract["x"] > GAP:
            groups.append([])
        groups[-1].append(tract)
    return groups


def tracts_of(subject: Subject) -> list[Row]:
    """The campaign's tracts with the site that answers for each, and those that repeat it."""
    owner: dict[int, str] = {}
    also: dict[int, list[str]] = {}
    for site, share in subject.definition["sites"].items():
        owner |= {tract: site for tract in (share or {}).get("tracts", [])}
        for tract in (share or {}).get("also", []):
            also.setdefault(tract, []).append(site)
    rows = subject.con.table(
        "SELECT DISTINCT ON (tract) * EXCLUDE (site) FROM tract WHERE skymap = $s AND list_contains($t::INTEGER[], tract) "
        "ORDER BY tract",
        {"s": subject.definition["skymap"], "t": sorted(owner)},
    ).to_pylist()
    return [{**row, "owner": owner[row["tract"]], "also": also.get(row["tract"], [])} for row in rows]


def colours(subject: Subject) -> dict[str, str]:
    """A colour for each site."""
    return {site: style.SITES[i % len(style.SITES)] for i, site in enumerate(subject.lake.sites)}


def footprint(subject: Subject) -> str:
    """Tracts coloured by site, hatched where a second site processes them too, and the centres of visits."""
    groups = panels(tracts_of(subject))
    if not groups:
        return '<p class="note">no tract is known yet</p>'
    visits = subject.con.table("SELECT DISTINCT visit, band, ra, dec FROM visit ORDER BY visit").to_pylist()
    colour = colours(subject)
    made, axes = panel_figure(groups)
    for axis, group in zip(axes[0], groups, strict=True):
        for tract in group:
            inner = _inner(tract)
            axis.add_patch(Polygon(inner, facecolor=colour[tract["owner"]] + "30", edgecolor=colour[tract["owner"]], lw=1.2))
            for other in tract["also"]:
                axis.add_patch(Polygon(inner, fill=False, hatch="//", edgecolor=colour[other], lw=0, alpha=0.55))
            axis.text(tract["x"], tract["dec_max"] - 0.06, str(tract["tract"]), ha="center", va="top", fontsize=8.5)
        x, y = inside(axis, np.array([v["ra"] for v in visits]), np.array([v["dec"] for v in visits]))
        axis.plot(x, y, ".", ms=3, color=style.INK, alpha=0.55)
    legend = "".join(
        f'<span><i class="swatch" style="background:{colour[name]}"></i>{name}: tracts '
        f"{', '.join(str(t) for t in (share or {}).get('tracts', []))}"
        + (f", also {', '.join(str(t) for t in share['also'])}" if (share or {}).get("also") else "")
        + "</span>"
        for name, share in subject.definition["sites"].items()
    )
    words = "Inner regions of the tracts by site; hatched: processed at a second site too. Dots: centres of visits."
    return f'<div class="legend">{legend}</div>' + style.embed(made, words)


def depth(subject: Subject) -> str:
    """Depth maps of step 7, one row per band; the limits of the visits where step 7 has not run."""
    groups = panels(tracts_of(subject))
    maps = _survey_maps(subject)
    if not groups or not maps:
        return '<p class="note">no survey map yet (step 7 makes it)</p>'
    made, axes = panel_figure(groups, len(maps))
    for row, (band, (ra, dec, values)) in zip(axes, maps.items(), strict=True):
        low, high = np.percentile(values, [3, 99.5])
        for axis, group in zip(row, groups, strict=True):
            x, y, chosen = inside(axis, ra, dec, values)
            shown = axis.scatter(x, y, c=chosen, s=1.6, marker="s", lw=0, cmap="cividis", vmin=low, vmax=high, rasterized=True)
            outline(axis, group)
        row[0].set_title(f"{band}: 5 sigma point-source depth of the coadds (AB mag)")
        made.colorbar(shown, ax=row[-1], shrink=0.9, pad=0.02).outline.set_visible(False)
    return style.embed(made, "HEALPix cells with data in the deep coadds; thin lines: inner regions of the tracts.")


def _survey_maps(subject: Subject) -> dict[str, tuple[Array, Array, Array]]:
    """Position and depth of the cells of each band's survey map."""
    import healsparse

    site = subject.lake.central
    rows = subject.con.table(
        f"SELECT band, path FROM \"{site.name}\".dataset WHERE dataset_type = 'survey_map' AND run LIKE $r ORDER BY band",
        {"r": f"{subject.campaign}/%"},
    ).to_pylist()
    found = {}
    for row in rows:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sky = healsparse.HealSparseMap.read(str(access.local(site.path(row["path"]))))
        except (OSError, ValueError, RuntimeError, DatastoreError):
            continue  # a map that cannot be read is the audit's business
        cells = sky.valid_pixels
        values = np.asarray(sky[cells]["depth"], float)
        good = values > -1e30
        if good.any():
            ra, dec = sky.valid_pixels_pos(lonlat=True)
            found[row["band"]] = (np.asarray(ra)[good], np.asarray(dec)[good], values[good])
    return dict(sorted(found.items(), key=lambda item: style.band_order(item[0])))


def panel_figure(groups: list[list[Row]], rows: int = 1, columns: int = 1) -> tuple[Any, Any]:
    """One panel per group of tracts, all at one scale, RA to the left; axes are (row, panel), the panels ``columns`` times."""
    boxes = []
    for group in groups:
        x = [p[0] for t in group for p in _inner(t)]
        y = [p[1] for t in group for p in _inner(t)]
        boxes.append((min(x) - 0.3, max(x) + 0.3, min(y) - 0.3, max(y) + 0.3))
    boxes *= columns
    widths = [(box[1] - box[0]) * np.cos(np.radians(np.mean(box[2:]))) for box in boxes]
    scale = min(9.4 / sum(widths), 1.3)  # inches per degree
    height = scale * max(box[3] - box[2] for box in boxes) + 0.5
    width = min(10.6, scale * sum(widths) + 0.6 * len(boxes) + 0.8)
    made, axes = style.figure(width, rows * height, nrows=rows, ncols=len(boxes), squeeze=False, width_ratios=widths)
    for row in axes:
        for axis, box in zip(row, boxes, strict=True):
            axis.set(xlim=(box[1], box[0]), ylim=box[2:], aspect=1 / np.cos(np.radians(np.mean(box[2:]))))
            axis.xaxis.set_major_formatter(lambda ra, _: f"{ra % 360:g}°")
            axis.yaxis.set_major_formatter(lambda dec, _: f"{dec:+g}°")
            axis.locator_params(nbins=5)
    return made, axes


def outline(axis: Any, group: list[Row]) -> None:
    """Draw the inner regions of tracts as thin lines."""
    for tract in group:
        axis.add_patch(Polygon(_inner(tract), fill=False, edgecolor=style.INK, lw=0.7, alpha=0.7))


def cell(groups: list[list[Row]], count: float) -> float:
    """Side (deg) of cells of which about ``count`` cover the tracts, at least 0.05."""
    tracts = [tract for group in groups for tract in group]
    area = sum(
        (t["ra_max"] - t["ra_min"]) * np.cos(np.radians((t["dec_min"] + t["dec_max"]) / 2)) * (t["dec_max"] - t["dec_min"])
        for t in tracts
    )
    return max(0.05, float(np.sqrt(area / max(count, 1.0))))


def _inner(tract: Row) -> list[tuple[float, float]]:
    west, east = tract["ra_min"] + tract["shift"], tract["ra_max"] + tract["shift"]
    middle = (west + east) / 2
    turn = round((tract["x"] - middle) / 360.0) * 360.0
    west, east = west + turn, east + turn
    return [(west, tract["dec_min"]), (east, tract["dec_min"]), (east, tract["dec_max"]), (west, tract["dec_max"])]


def inside(axis: Any, ra: Array, dec: Array, *more: Array) -> tuple[Array, ...]:
    """Points within an axis' limits, RA turned to where the axis is."""
    high, low = axis.get_xlim()
    x = np.mod(ra - low, 360.0) + low
    inside = (x <= high) & (dec >= axis.get_ylim()[0]) & (dec <= axis.get_ylim()[1])
    return (x[inside], dec[inside], *(m[inside] for m in more))
