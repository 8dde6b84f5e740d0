"""Replicas: which other site has the same file, which is the best, and bringing it back to a site that lost it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from lake.link import Links, reachable
from lake.objects import is_object
from lake.query import connect
from lake.rule import ANY, OK, REFETCH, STUCK, Rule, RuleSpec, note
from lake.site import Lake, LakeError, Site
from lake.sql import statement
from lake.transfer import Order, deliver
from lake.transfer_log import Event, write


@dataclass(frozen=True)
class File:
    """A file by its registered content; ``dataset_id`` is one of the datasets in it."""

    path: str
    bytes: int
    checksum: str
    dataset_id: str


@dataclass
class Wanted:
    """A file to be brought, for all rules that want it. ``replicas`` are (site, path) still to be tried, best first.

    ``known`` is the failure that the log tells of already.
    """

    file: File
    rules: list[Rule]
    attempt: int
    known: str | None = None
    queued: list[Rule] = field(default_factory=list)
    replicas: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Refetched:
    """``healed`` maps a path to the site that a good replica came from, ``failed`` one to the reason why not."""

    healed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def elsewhere(lake: Lake, site: Site, files: Sequence[File]) -> dict[str, list[tuple[str, str]]]:
    """By each file's path, the (site, path) of replicas registered at other sites: same dataset, same content; best first.

    Best is a site that failed least lately, then the fastest, then the first in the order of the lake's sites. Sites that
    cannot be reached are left out. (A file that stands at ``site`` already is not fetched from anywhere.)
    """
    found: dict[str, list[tuple[str, str]]] = {}
    if not files or len(lake.sites) < 2:
        return found
    rank = ranking(lake, site)
    with connect(lake) as con:
        rows = con.table(
            statement("replicas_elsewhere"),
            {
                "paths": [file.path for file in files],
                "datasets": [file.dataset_id for file in files],
                "checksums": [file.checksum for file in files],
                "site": site.name,
            },
        )
    there = {name for name, other in lake.sites.items() if reachable(other)}
    for row in rows.to_pylist():
        if row["site"] in there:
            found.setdefault(row["path"], []).append((row["site"], row["replica"]))
    for replicas in found.values():
        replicas.sort(key=lambda replica: rank(replica[0]))
    return found


def ranking(lake: Lake, site: Site) -> Callable[[str], tuple[float, float, int]]:
    """A key by which sources sort for ``site``: fewest failures in the last day of its log, fastest, as the lake lists them."""
    with connect(lake, [site.name], site.name) as con:
        rows = con.table(statement("link_quality")).to_pylist()
    quality = {row["source"]: (float(row["failures"]), -(row["rate"] or 0.0)) for row in rows}
    position = {name: number for number, name in enumerate(lake.sites)}
    return lambda source: (*quality.get(source, (0.0, 0.0)), position.get(source, len(position)))


def order(lake: Lake, site: Site, file: File, source: str, replica: str, links: Links) -> Order:
    """The order to bring a file to ``site`` from the path ``replica`` of another site; LakeError for a path that leaves a site."""
    there, here = lake.site(source).path(replica), site.path(file.path)
    return Order(file.path, source, there, here, file.bytes, file.checksum, links.link(source, site.name))


def misplaced(site: Site, folder: str) -> str | None:
    """Why nothing may be written to a folder that another site's registry gave; None when it is well below the site's root."""
    try:
        target = site.path(folder)
    except LakeError as error:
        return str(error)
    if not f"{folder}/".startswith(("files/", "tables/catalogues/")):
        return f"site {site.name}: {folder!r} is neither below files/ nor that of a catalogue"
    if not is_object(target) and not target.resolve().is_relative_to(site.root.resolve()):
        return f"site {site.name}: a symbolic link takes {folder!r} out of the site"
    return None


def refetch(lake: Lake, site: Site | str, paths: Iterable[str]) -> Refetched:
    """Replace files that ``site`` has registered but lost or damaged by good replicas from other sites.

    A file that turns out to be good is left as it is. Every attempt is in the site's transfer log, under the rule
    "refetch". Raises LakeError for an unknown site.
    """
    site = lake.site(site) if isinstance(site, str) else site
    wanted = sorted(set(paths))
    rule, links = _rule(site), Links(lake)
    with site.lock("movement"):
        registered = _registered(site, wanted)
        result = Refetched(failed={path: f"not registered at {site.name}" for path in wanted if path not in registered})
        replicas = elsewhere(lake, site, list(registered.values()))
        result.failed |= {path: "no other site has a replica" for path in registered if path not in replicas}
        attempt = _attempts(site, rule, list(replicas)) if replicas else 0
        while replicas:  # each round tries one more replica of what could not be healed so far
            attempt += 1
            chosen = [order(lake, site, registered[path], *found.pop(0), links) for path, found in sorted(replicas.items())]
            for deliveries in deliver(chosen):
                events = []
                for each in deliveries:
                    event = Event(
                        rule.rule_id, each.order.path, each.order.source, site.name, "failed", attempt,
                        each.order.bytes, each.seconds, each.error, each.done.adler32 if each.done else None, each.at,
                    )  # fmt: skip
                    if each.error is not None:
                        result.failed[event.path] = each.error
                        events.append(event)
                    else:
                        result.healed[event.path] = event.source
                        result.failed.pop(event.path, None)
                        after = each.at + timedelta(microseconds=1)
                        events += [replace(event, state="verified"), replace(event, state="ingested", noted_at=after)]
                write(site, events)
            replicas = {path: found for path, found in replicas.items() if found and path not in result.healed}
        if registered:
            reason = "; ".join(f"{path}: {why}" for path, why in sorted(result.failed.items()))
            size = sum(file.bytes for file in registered.values())
            state = STUCK if result.failed else OK
            note(site, [replace(rule, state=state, reason=reason or None, files=len(registered), bytes=size)], [rule.rule_id])
    return result


def _rule(site: Site) -> Rule:
    """The rule under which a site's lost and damaged files are fetched again: STUCK while one of the last could not be."""
    return Rule(**vars(RuleSpec(None, REFETCH, ("*",), "lost or damaged here", ANY, site.name)))


def _attempts(site: Site, rule: Rule, paths: Sequence[str]) -> int:
    """How often files have been fetched again, at most."""
    with connect(site.lake, [site.name]) as con:
        sql = "SELECT max(attempt) FROM transfer WHERE rule_id = $rule AND path IN (SELECT unnest($paths::VARCHAR[]))"
        return con.execute(sql, {"rule": rule.rule_id, "paths": list(paths)}).fetchall()[0][0] or 0


def _registered(site: Site, paths: Sequence[str]) -> dict[str, File]:
    with connect(site.lake, [site.name]) as con:
        rows = con.table(
            "SELECT path, file_bytes, min(file_checksum) AS file_checksum, min(dataset_id) AS dataset_id FROM dataset "
            "WHERE path IN (SELECT unnest($paths::VARCHAR[])) GROUP BY path, file_bytes",
            {"paths": list(paths)},
        )
    return {row["path"]: File(row["path"], row["file_bytes"], row["file_checksum"], row["dataset_id"]) for row in rows.to_pylist()}
