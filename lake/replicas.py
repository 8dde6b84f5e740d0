"""Replicas: which other site has the same file, and bringing it back to a site that lost it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pyarrow as pa

import schemas
from lake import delta
from lake.query import connect
from lake.registry import NAMESPACE
from lake.site import Lake, Site
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
class Refetched:
    """``healed`` maps a path to the site that a good replica came from, ``failed`` one to the reason why not."""

    healed: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def elsewhere(lake: Lake, site: Site, files: Sequence[File]) -> dict[str, list[tuple[str, str]]]:
    """By each file's path, the (site, path) of replicas registered at other sites: same dataset, same content."""
    found: dict[str, list[tuple[str, str]]] = {}
    if not files or len(lake.sites) < 2:
        return found
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
    for row in rows.to_pylist():
        found.setdefault(row["path"], []).append((row["site"], row["replica"]))
    return found


def order(lake: Lake, site: Site, file: File, source: str, replica: str) -> Order:
    """The order to bring a file to ``site`` from the path ``replica`` of another site."""
    return Order(file.path, source, lake.site(source).path(replica), site.path(file.path), file.bytes, file.checksum)


def refetch(lake: Lake, site: Site | str, paths: Iterable[str]) -> Refetched:
    """Replace files that ``site`` has registered but lost or damaged by good replicas from other sites.

    A file that turns out to be good is left as it is. Every attempt is in the site's transfer log, under the rule
    "refetch". Raises LakeError for an unknown site.
    """
    site = lake.site(site) if isinstance(site, str) else site
    wanted = sorted(set(paths))
    with site.lock("movement"):
        registered = _registered(site, wanted)
        result = Refetched(failed={path: f"not registered at {site.name}" for path in wanted if path not in registered})
        replicas = elsewhere(lake, site, list(registered.values()))
        result.failed |= {path: "no other site has a replica" for path in registered if path not in replicas}
        attempt = 0
        while replicas:  # each round tries one more replica of what could not be healed so far
            attempt += 1
            chosen = [order(lake, site, registered[path], *found.pop(0)) for path, found in sorted(replicas.items())]
            for deliveries in deliver(chosen):
                events = []
                for each in deliveries:
                    event = Event(
                        rule_of(site), each.order.path, each.order.source, site.name, "failed", attempt,
                        each.order.bytes, each.seconds, each.error, each.at,
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
        _record(site, registered, result)
    return result


def rule_of(site: Site) -> str:
    """The id of the rule under which a site's lost and damaged files are fetched again."""
    return str(uuid.uuid5(NAMESPACE, f"refetch|{site.name}"))


def _registered(site: Site, paths: Sequence[str]) -> dict[str, File]:
    with connect(site.lake, [site.name]) as con:
        rows = con.table(
            "SELECT path, file_bytes, min(file_checksum) AS file_checksum, min(dataset_id) AS dataset_id FROM dataset "
            "WHERE path IN (SELECT unnest($paths::VARCHAR[])) GROUP BY path, file_bytes",
            {"paths": list(paths)},
        )
    return {row["path"]: File(row["path"], row["file_bytes"], row["file_checksum"], row["dataset_id"]) for row in rows.to_pylist()}


def _record(site: Site, registered: dict[str, File], result: Refetched) -> None:
    """The state of the rule "refetch": STUCK while a file of the last call could not be healed."""
    if not registered:
        return
    reason = "; ".join(f"{path}: {why}" for path, why in sorted(result.failed.items()))
    row = {
        "rule_id": rule_of(site), "campaign": None, "name": "refetch", "dataset_types": "*",
        "predicate": "lost or damaged here", "source": "*", "destination": site.name,
        "state": "STUCK" if result.failed else "OK", "reason": reason[:512] or None, "files": len(registered),
        "bytes": sum(file.bytes for file in registered.values()), "noted_at": datetime.now(UTC),
    }  # fmt: skip
    delta.append(site, "rule", pa.Table.from_pylist([row], schema=schemas.table("rule").arrow))
