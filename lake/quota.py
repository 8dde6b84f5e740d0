"""Quotas: what a site may hold (``storage_tb`` of its options), and which rules would take it over that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from lake.query import connect
from lake.rule import Rule, RuleError, RuleSpec, rules
from lake.site import Lake, Site

TB = 1e12


def held(site: Site) -> int:
    """Bytes of the files that are registered at a site."""
    with connect(site.lake, [site.name]) as con:
        files = "SELECT path, max(file_bytes) AS file_bytes FROM dataset GROUP BY path"
        return con.execute(f"SELECT coalesce(sum(file_bytes), 0)::BIGINT FROM ({files})").fetchall()[0][0]  # type: ignore[no-any-return]


def free(site: Site) -> float:
    """Bytes that a site may still take; infinite where it has no quota."""
    return float("inf") if site.storage_tb is None else site.storage_tb * TB - held(site)


def stalled(site: Site, rules: Sequence[Rule], needs: Mapping[str, Mapping[str, int]]) -> dict[str, str]:
    """The rules that would take the site over its quota, with the reason: they wait, and the others go on.

    ``rules`` in the order in which they are served; ``needs`` are the files (path -> bytes) that each still wants. A file
    that an earlier rule brings costs a later one nothing.
    """
    if site.storage_tb is None or not any(needs.values()):
        return {}
    room, found = free(site), {}
    brought: set[str] = set()
    for rule in rules:
        files = {path: size for path, size in needs.get(rule.rule_id, {}).items() if path not in brought}
        if (need := sum(files.values())) > max(room, 0):
            said = f"{need / 1e9:.6g} GB more are wanted, of its {site.storage_tb:.6g} TB {max(room, 0) / 1e9:.6g} GB are free"
            found[rule.rule_id] = f"quota of {site.name}: {said}"
        else:
            room -= need
            brought.update(files)
    return found


def spread(lake: Lake, spec: RuleSpec, destinations: Sequence[str], copies: int) -> list[RuleSpec]:
    """The rule for ``copies`` of several sites: those that have it already, then those with most room, then as they are given.

    RuleError when there are fewer sites than copies; the source itself holds a copy that does not count.
    """
    names = [name for name in dict.fromkeys(destinations) if lake.site(name).name != spec.source]
    if not 1 <= copies <= len(names):
        raise RuleError(f"rule {spec.name}: {copies} copies of {len(names)} sites ({', '.join(names) or 'none'}) cannot be made")
    offered = [replace(spec, destination=name) for name in names]
    if copies == len(names):
        return offered
    held_by = {rule.rule_id for rule in rules(lake)}
    room = {each.destination: free(lake.site(each.destination)) for each in offered}
    offered.sort(key=lambda each: (each.rule_id not in held_by, -room[each.destination]))
    return offered[:copies]
