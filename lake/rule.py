"""Rules and their manifests: which datasets must be at which site, and the frozen list of what that is.

Rules and manifests are kept at the destination. A rule's id comes from what it says, so that adding it again finds it
again: its predicate is evaluated anew, and the manifest grows by what is new.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime

import pyarrow as pa

import schemas
from lake import delta
from lake.fault import point
from lake.query import Connection, QueryError, connect, identifier, literal
from lake.registry import NAMESPACE
from lake.site import Lake, LakeError, Site
from lake.sql import statement

REPLICATING, OK, STUCK, SUSPENDED = "REPLICATING", "OK", "STUCK", "SUSPENDED"


class RuleError(LakeError):
    """A rule that cannot be; the message names it and what is wrong."""


@dataclass(frozen=True)
class RuleSpec:
    """What a rule says: datasets of these types that meet a SQL condition over the source's ``dataset`` table (and any
    other of the source's tables) must be at the destination."""

    campaign: str | None
    name: str
    dataset_types: tuple[str, ...]
    predicate: str
    source: str
    destination: str

    @property
    def rule_id(self) -> str:
        """UUIDv5 of everything that the rule says."""
        types = ",".join(sorted(self.dataset_types))
        text = "|".join(["rule", self.campaign or "", self.name, self.source, self.destination, types, self.predicate])
        return str(uuid.uuid5(NAMESPACE, text))


@dataclass(frozen=True)
class Rule:
    """A rule as it stands: ``files`` and ``bytes`` are those of its manifest."""

    rule_id: str
    campaign: str | None
    name: str
    dataset_types: tuple[str, ...]
    predicate: str
    source: str
    destination: str
    state: str
    reason: str | None
    files: int
    bytes: int


def add_rule(
    lake: Lake,
    campaign: str | None,
    name: str,
    dataset_types: Sequence[str],
    predicate: str,
    source: str,
    destination: str,
) -> Rule:
    """Add one rule, or evaluate it again; see add_rules()."""
    return add_rules(lake, [RuleSpec(campaign, name, tuple(dataset_types), predicate, source, destination)])[0]


def add_rules(lake: Lake, specs: Iterable[RuleSpec]) -> list[Rule]:
    """Add rules, or evaluate again those that are there, and extend their manifests by what is new; in the given order.

    Many rules in one call cost little more than one. RuleError for an unusable rule or predicate, LakeError for an
    unknown site; then nothing is added at that rule's destination.
    """
    specs = list(specs)
    for spec in specs:
        lake.site(spec.source), lake.site(spec.destination)
        if spec.source == spec.destination:
            raise RuleError(f"rule {spec.name}: source and destination are both {spec.source}")
        if not spec.dataset_types:
            raise RuleError(f"rule {spec.name}: no dataset type is given")
    added: dict[str, Rule] = {}
    for destination in dict.fromkeys(spec.destination for spec in specs):
        added |= _add(lake, lake.site(destination), [spec for spec in specs if spec.destination == destination])
    return [added[spec.rule_id] for spec in specs]


def rules(lake: Lake, campaign: str | None = None, destination: str | None = None) -> list[Rule]:
    """The rules of a lake as they stand, ordered by destination and name."""
    with connect(lake, [lake.site(destination).name] if destination else None) as con:
        return _rules(con, "rule_now", campaign)


def _rules(con: Connection, view: str, campaign: str | None = None) -> list[Rule]:
    columns = ", ".join(field.name for field in fields(Rule))
    rows = con.table(
        f"SELECT {columns} FROM {view} WHERE $campaign IS NULL OR campaign = $campaign ORDER BY destination, name, rule_id",
        {"campaign": campaign},
    )
    return [Rule(**{**row, "dataset_types": tuple(row["dataset_types"].split(","))}) for row in rows.to_pylist()]


def write_rules(site: Site, changed: Sequence[Rule]) -> None:
    """Append the rules' present states at their destination."""
    if changed:
        schema = schemas.table("rule").arrow
        now = datetime.now(UTC)
        rows = []
        for rule in changed:
            types, reason = ",".join(rule.dataset_types), rule.reason and rule.reason[:512]
            rows.append(vars(rule) | {"dataset_types": types, "reason": reason, "noted_at": now})
        delta.append(site, "rule", pa.Table.from_pylist(rows, schema=schema))


def _add(lake: Lake, site: Site, specs: list[RuleSpec]) -> dict[str, Rule]:
    """Evaluate the rules of one destination: one commit for all manifests, one for all states."""
    with site.lock("rules"), ExitStack() as stack:
        sources = dict.fromkeys(spec.source for spec in specs)
        cons = {
            name: stack.enter_context(connect(lake, [name, site.name], name, _prune([s for s in specs if s.source == name])))
            for name in sources
        }
        here = next(iter(cons.values()))
        known = {rule.rule_id: rule for rule in _rules(here, f"{identifier(site.name)}.rule_now")}
        manifest = pa.concat_tables([_candidates(cons[spec.source], spec) for spec in specs])
        if manifest.num_rows:
            delta.append(site, "manifest", schemas.conform("manifest", manifest))
        point("movement:manifest")
        sizes = _sizes(here, site, [spec.rule_id for spec in specs])
        changed = {}
        for spec in specs:  # a run that died before it wrote the state left a manifest larger than the state says
            (files, size), before = sizes[spec.rule_id], known.get(spec.rule_id)
            if before is None or (before.files, before.bytes) != (files, size):
                rule = Rule(**vars(spec), rule_id=spec.rule_id, state=OK, reason=None, files=files, bytes=size)
                changed[spec.rule_id] = replace(rule, state=REPLICATING) if files else rule
        write_rules(site, list(changed.values()))
        point("movement:rule")
    return known | changed


def _prune(specs: Iterable[RuleSpec]) -> dict[str, str]:
    """Open the registry's files of the wanted types only, unless a predicate looks into the registry itself."""
    specs = list(specs)
    if any(re.search(r"\bdataset\b", spec.predicate, re.IGNORECASE) for spec in specs):
        return {}
    return only_types(kind for spec in specs for kind in spec.dataset_types)


def only_types(types: Iterable[str]) -> dict[str, str]:
    """For connect(): open the registry's files of these dataset types only."""
    return {"dataset": "dataset_type IN (" + ", ".join(literal(kind) for kind in sorted(set(types))) + ")"}


def _candidates(con: Connection, spec: RuleSpec) -> pa.Table:
    """What a rule wants and does not have in its manifest yet, as manifest rows."""
    sql = statement("rule_candidates").replace("{destination}", identifier(spec.destination))
    try:
        return con.table(sql.replace("{predicate}", spec.predicate), {"types": list(spec.dataset_types), "rule": spec.rule_id})
    except QueryError as error:
        said = " ".join(spec.predicate.split())
        raise RuleError(f"rule {spec.name}: its predicate {said!r} cannot be used: {error}") from None


def _sizes(con: Connection, site: Site, rule_ids: list[str]) -> dict[str, tuple[int, int]]:
    """(files, bytes) of manifests by rule; (0, 0) for one without rows."""
    rows = con.table(
        "SELECT rule_id, count(*) AS files, sum(file_bytes)::BIGINT AS bytes FROM ("
        f"  SELECT rule_id, path, max(file_bytes) AS file_bytes FROM {identifier(site.name)}.manifest"
        "  WHERE rule_id IN (SELECT unnest($rules::VARCHAR[])) GROUP BY rule_id, path) GROUP BY rule_id",
        {"rules": rule_ids},
    )
    return dict.fromkeys(rule_ids, (0, 0)) | {row["rule_id"]: (row["files"], row["bytes"]) for row in rows.to_pylist()}
