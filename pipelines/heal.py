"""Make good what storage lost: fetch a replica from another site, recall it from the archive, or run again the quantum that
made it. A bundle of the archive is made again from its files.

A dataset is a function of its data ID (law 4), so a remade file has the registered checksum; anything else is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from checks import audit
from lake import archive, delta, movement
from lake.site import Lake
from pipelines.runner import SiteRunner

if TYPE_CHECKING:
    from pipelines.driver import Progress


@dataclass(frozen=True)
class Healed:
    """``done``: a line per site and kind of remedy; ``hopeless``: a line per file that nothing could bring back."""

    done: list[str] = field(default_factory=list)
    hopeless: list[str] = field(default_factory=list)


def heal(lake: Lake, runners: Mapping[str, SiteRunner], progress: Progress) -> Healed:
    """Heal every site: what a listing shows to be lost or of another size, or an earlier audit found damaged."""
    open_paths = {name: audit.broken(site) for name, site in lake.sites.items()}
    if not any(open_paths.values()):
        return Healed()
    progress.phase("heal")
    lines, hopeless = _fetch(lake, open_paths) + _recall(lake, open_paths), []
    for name, runner in runners.items():
        left = audit.still_broken(runner.site, open_paths[name])
        remade = _remake(runner, left)
        if remade:
            lines.append(f"{name}: ran {remade} quanta again to remake what was lost")
    lines += _fetch(lake, {name: audit.still_broken(lake.site(name), paths) for name, paths in open_paths.items()})
    for name, paths in open_paths.items():
        left = audit.still_broken(lake.site(name), paths)
        audit.record(lake.site(name), sorted(set(paths) - set(left)), "healed")
        hopeless += [f"{name}: {path} is lost for good: no site has a good copy, and it cannot be made again" for path in left]
    return Healed(lines, hopeless)


def _fetch(lake: Lake, paths: Mapping[str, list[str]]) -> list[str]:
    lines = []
    for name, wanted in paths.items():
        if wanted:
            healed = movement.refetch(lake, lake.site(name), wanted).healed
            if healed:
                lines.append(f"{name}: fetched {len(healed)} files again from other sites")
    return lines


def _recall(lake: Lake, paths: Mapping[str, list[str]]) -> list[str]:
    """Bring back what no other site could give, from the archive; and make bundles again that were lost themselves."""
    lines = []
    for name, wanted in paths.items():
        left = audit.still_broken(lake.site(name), wanted) if wanted else []
        bundles = [path for path in left if path.startswith(archive.FOLDER + "/")]
        if restored := archive.recall(lake, lake.site(name), set(left).difference(bundles)).restored if left else {}:
            lines.append(f"{name}: recalled {len(restored)} files from the archive")
        if made := len(bundles) - len(archive.mend(lake, lake.site(name), bundles)) if bundles else 0:
            lines.append(f"{name}: made {made} bundles of the archive again")
    return lines


def _remake(runner: SiteRunner, paths: list[str]) -> int:
    """Run again the quanta that made the datasets in these files; returns how many."""
    if not paths:
        return 0
    with delta.cursor() as con:
        delta.view(con, runner.site, "dataset")
        delta.view(con, runner.site, "quantum")
        con.register("broken", pa.table({"path": pa.array(paths, pa.string())}))
        found = con.execute(
            "SELECT DISTINCT q.task, q.quantum_id FROM dataset d SEMI JOIN broken USING (path) JOIN quantum q USING (quantum_id)"
        ).fetchall()
    for task in runner.pipeline.tasks:
        only = [quantum for label, quantum in found if label == task.label]
        if only:
            runner.run_task(task, only)
    return len(found)
