"""Releases: chosen datasets at a distribution site, sent there by a rule, recorded with when and by whom, and withdrawn again.

The rule's manifest is what was published, frozen; the table ``publication`` of the destination says what became of it. A
release is withdrawn by the end of its rule: what nothing else wants there is deleted, never the last copy of anything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

import schemas
from lake import collection, delta, movement
from lake.clock import next_event
from lake.query import QueryError, connect, identifier, literal
from lake.reading import condition
from lake.registry import dataset_types
from lake.site import Lake, LakeError, Site
from lake.sql import statement

PUBLISHED, INCOMPLETE, WITHDRAWING, WITHDRAWN = "published", "incomplete", "withdrawing", "withdrawn"


class ReleaseError(LakeError):
    """A release that cannot be; the message names it and the remedy."""


@dataclass(frozen=True)
class Release:
    """A release at a destination as it stands; ``datasets``, ``files`` and ``bytes`` are those of its manifest."""

    release: str
    destination: str
    source: str
    rule_id: str
    collections: str | None
    state: str
    datasets: int
    files: int
    bytes: int
    who: str
    why: str | None
    noted_at: datetime | None = None


def publish(
    lake: Lake,
    release: str,
    source: Site,
    destination: Site,
    collections: Sequence[str] = (),
    types: Sequence[str] | None = None,
    where: str = "true",
    who: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Release:
    """Send datasets of ``source`` to ``destination``: those that a search of the collections finds (none given: all), of these
    types (None: all), that meet a SQL condition over ``dataset``. The same call continues what was interrupted.

    ReleaseError when nothing is chosen, when the release is there with another choice, or for a condition that cannot be used;
    CollectionError for an unknown collection.
    """
    try:
        condition(where)
    except QueryError as error:
        raise ReleaseError(f"release {release}: {error}") from None
    predicate = " AND ".join([*_in_collections(source, collections), f"({where})"])
    spec = _spec(lake, release, source, destination, types, predicate)
    before = next((each for each in releases(lake) if (each.release, each.destination) == (release, destination.name)), None)
    if before is not None and before.rule_id != spec.rule_id and before.state != WITHDRAWN:
        raise ReleaseError(
            f"release {release} is {before.state} at {destination.name} with another choice of datasets; withdraw it first "
            "(drp publish --withdraw), or give this one another name"
        )
    report = movement.run_rules(lake, movement.add_rules(lake, [spec]), progress)
    [rule] = report.rules
    _define(source, destination, collections, _members(lake, destination, rule.rule_id))
    state, why = (PUBLISHED, None) if rule.state == movement.OK else (INCOMPLETE, rule.reason)
    now = Release(
        release, destination.name, source.name, rule.rule_id, ",".join(collections) or None, state,
        len(_members(lake, destination, rule.rule_id)), rule.files, rule.bytes, who, why,
    )  # fmt: skip
    if before is None or replace(before, who=who, noted_at=None) != now:
        _note(destination, now)
    return now


def withdraw(lake: Lake, release: str, destination: Site, who: str = "", why: str | None = None) -> Release:
    """End the rule of a release, and delete what it brought and nothing else wants there.

    The release is ``withdrawing`` while something of it has to stay, with the reason. ReleaseError when there is no such
    release.
    """
    known = [each for each in releases(lake) if each.destination == destination.name]
    found = next((each for each in known if each.release == release), None)
    if found is None:
        listed = ", ".join(each.release for each in known) or "none"
        raise ReleaseError(f"no release {release!r} at {destination.name}; there are: {listed}")
    names = [each.name for each in fields(movement.RuleSpec)]
    [rule] = [each for each in movement.rules(lake, destination=destination.name) if each.rule_id == found.rule_id]
    spec = movement.RuleSpec(**{name: getattr(rule, name) for name in names})
    if spec.expires_at is None:
        movement.add_rules(lake, [replace(spec, expires_at=datetime.now(UTC))])
    cleaned = [each for each in movement.clean(lake) if each.site == destination.name]
    ids = set(_members(lake, destination, rule.rule_id))
    paths = {path for path, _ in _present(destination, ids)}
    kept = {path: reason for each in cleaned for path, reason in each.kept.items() if path in paths}
    gone = sorted(ids.difference(*[held for _, held in _present(destination, ids)])) if paths else sorted(ids)
    for name, kind in collection.resolve(destination, _known(destination, found.collections)):
        if kind == "TAGGED" and gone:
            collection.disassociate(destination, name, gone)
    said = f"{len(paths)} files stay: {min(kept.values(), default='something holds them')}" if paths else None
    now = replace(found, state=WITHDRAWING if paths else WITHDRAWN, who=who, why=why or said, noted_at=None)
    _note(destination, now)
    return now


def releases(lake: Lake) -> list[Release]:
    """Every release at every site, as it stands."""
    columns = ", ".join(each.name for each in fields(Release))
    with connect(lake) as con:
        rows = con.table(f"SELECT {columns} FROM publication_now ORDER BY destination, release")
    return [Release(**row) for row in rows.to_pylist()]


def manifest(lake: Lake, release: Release) -> pa.Table:
    """What a release consists of: dataset_type, dataset_id, path, bytes and sha256 of the file, ordered by path."""
    with connect(lake, [release.destination]) as con:
        return con.table(
            "SELECT DISTINCT dataset_type, dataset_id, path, file_bytes AS bytes, file_checksum AS sha256 FROM manifest "
            "WHERE rule_id = $rule ORDER BY path, dataset_id",
            {"rule": release.rule_id},
        )


def _spec(
    lake: Lake, release: str, source: Site, destination: Site, types: Sequence[str] | None, predicate: str
) -> movement.RuleSpec:
    """The rule of a release; its types are those that are chosen from."""
    wanted = sorted(types or dataset_types(source))
    sql = (
        f"SELECT DISTINCT dataset_type FROM dataset WHERE dataset_type IN (SELECT unnest($types::VARCHAR[])) AND (\n{predicate}\n)"
    )
    with connect(lake, [source.name], source.name) as con:
        try:
            found = [row["dataset_type"] for row in con.table(sql, {"types": wanted}).to_pylist()]
        except QueryError as error:
            raise ReleaseError(f"release {release}: the condition cannot be used: {error}") from None
    if not found:
        raise ReleaseError(f"release {release}: {source.name} has no dataset of this choice; look with drp sql")
    kinds = tuple(wanted if types else sorted(found))
    return movement.RuleSpec(None, f"publish/{release}", kinds, predicate, source.name, destination.name, once=True)


def _in_collections(source: Site, names: Sequence[str]) -> list[str]:
    """The condition that a search of the collections finds a dataset: of each data ID, the first that has it."""
    if not names:
        return []
    searched = [(place, *each) for place, each in enumerate(collection.resolve(source, names)) if each[1] in ("RUN", "TAGGED")]
    if not searched:
        raise ReleaseError(f"{', '.join(names)}: holds no RUN or TAGGED collection; only these have datasets to publish")
    values = ", ".join(f"({place}, {literal(name)}, {literal(kind)})" for place, name, kind in searched)
    found = " ".join(line.strip() for line in statement("release_members").splitlines() if not line.startswith("--"))
    search = f"WITH searched(position, collection, kind) AS (VALUES {values}) {found}"
    return [f"dataset_id IN ({search})"]


def _members(lake: Lake, destination: Site, rule_id: str) -> list[str]:
    with connect(lake, [destination.name]) as con:
        rows = con.table("SELECT DISTINCT dataset_id FROM manifest WHERE rule_id = $rule ORDER BY ALL", {"rule": rule_id})
    return rows["dataset_id"].to_pylist()  # type: ignore[no-any-return]


def _present(site: Site, dataset_ids: set[str]) -> list[tuple[str, list[str]]]:
    """Files at a site that hold some of the datasets, with these."""
    with connect(site.lake, [site.name]) as con:
        found = con.execute(
            "SELECT path, list(dataset_id) FROM dataset WHERE dataset_id IN (SELECT unnest($ids::VARCHAR[])) GROUP BY path",
            {"ids": sorted(dataset_ids)},
        ).fetchall()
    return [(path, list(ids)) for path, ids in found]


def _known(site: Site, names: str | None) -> list[str]:
    here = collection.collections_now(site)
    return [name for name in (names or "").split(",") if name in here]


def _define(source: Site, destination: Site, names: Sequence[str], members: Sequence[str]) -> None:
    """Make the collections known at the destination, with those of their members that were sent and have arrived."""
    known = collection.collections_now(source)
    wanted = [name for name, kind in collection.resolve(source, names) if kind in ("RUN", "TAGGED")]
    chains = [name for name in names if known[name][0] == "CHAINED"]
    collection.register_collections(destination, [(name, *known[name]) for name in wanted])
    collection.register_collections(destination, [(name, "CHAINED", ",".join(_below(source, name, wanted))) for name in chains])
    there = f"{identifier(destination.name)}.dataset"
    for name in (name for name in wanted if known[name][0] == "TAGGED"):
        with connect(source.lake, [source.name, destination.name], source.name) as con:
            ids = con.table(
                "SELECT dataset_id FROM association_now "
                "WHERE collection = $name AND dataset_id IN (SELECT unnest($ids::VARCHAR[])) "
                f"INTERSECT SELECT dataset_id FROM {there} ORDER BY ALL",
                {"name": name, "ids": list(members)},
            )["dataset_id"].to_pylist()
        if ids:
            collection.associate(destination, name, ids)


def _below(site: Site, chain: str, wanted: Sequence[str]) -> list[str]:
    """What a chain searches, in order, as far as it is published."""
    return [name for name, _ in collection.resolve(site, [chain]) if name in wanted]


def _note(site: Site, release: Release) -> None:
    row: dict[str, Any] = vars(release) | {"why": release.why and release.why[:512], "noted_at": next_event(site, "publication")}
    delta.append(site, "publication", pa.Table.from_pylist([row], schema=schemas.table("publication").arrow))
