"""Make good what storage lost: fetch a replica from another site, or run again the quantum that made it.

A dataset is a function of its data ID (law 4), so a remade file has the registered checksum; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import pyarrow as pa

from checks import audit
from lake import delta, movement
from lake.site import Lake, Site
from pipelines.campaign import Campaign
from pipelines.runner import SiteRunner

if TYPE_CHECKING:
    from pipelines.driver import Progress


def heal(lake: Lake, runners: Mapping[str, SiteRunner], campaign: Campaign, progress: Progress) -> list[str]:
    """Heal every site: what a quick audit (existence and size) or an earlier deep one found lost or damaged.

    Returns a line per site and kind of remedy, and a line per file that nothing could bring back.
    """
    open_paths = {name: _broken(site) for name, site in lake.sites.items()}
    if not any(open_paths.values()):
        return []
    progress.phase("heal")
    lines = _fetch(lake, open_paths)
    for name, runner in runners.items():
        left = audit.still_broken(runner.site, open_paths[name])
        remade = _remake(runner, left)
        if remade:
            lines.append(f"{name}: ran {remade} quanta again to remake what was lost")
    lines += _fetch(lake, {name: audit.still_broken(lake.site(name), paths) for name, paths in open_paths.items()})
    for name, paths in open_paths.items():
        left = audit.still_broken(lake.site(name), paths)
        audit.record(lake.site(name), sorted(set(paths) - set(left)), "healed")
        lines += [f"{name}: {path} cannot be brought back: no good replica, and no quantum made it" for path in left]
    return lines


def _broken(site: Site) -> list[str]:
    """Registered files that are missing or of the wrong size now, or that a deep audit found altered and nobody healed."""
    return audit.broken(site)


def _fetch(lake: Lake, paths: Mapping[str, list[str]]) -> list[str]:
    lines = []
    for name, wanted in paths.items():
        if wanted:
            healed = movement.refetch(lake, lake.site(name), wanted).healed
            if healed:
                lines.append(f"{name}: fetched {len(healed)} files again from other sites")
    return lines


def _remake(runner: SiteRunner, paths: list[str]) -> int:
    """Run again the quanta that made the datasets in these files; returns how many."""
    if not paths:
        return 0
    with delta.connect() as con:
        delta.relation(con, runner.site, "dataset").create_view("dataset")
        delta.relation(con, runner.site, "quantum").create_view("quantum")
        con.register("broken", pa.table({"path": pa.array(paths, pa.string())}))
        found = con.execute(
            "SELECT DISTINCT q.task, q.quantum_id FROM dataset d SEMI JOIN broken USING (path) JOIN quantum q USING (quantum_id)"
        ).fetchall()
    for task in runner.pipeline.tasks:
        only = [quantum for label, quantum in found if label == task.label]
        if only:
            runner.run_task(task, only)
    return len(found)
