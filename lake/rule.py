"""Rules and their manifests: which datasets must be at which site, and the frozen list of what that is.

Rules and manifests are kept at the destination. A rule's id comes from what it says, so that adding it again finds it
again: its predicate is evaluated anew, and the manifest grows by what is new. How a rule is handled (priority, embargo,
lifetime) is no part of its id and may be changed by adding it again.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa

import schemas
from lake import delta
from lake.fault import point
from lake.link import reachable
from lake.query import Connection, QueryError, connect, identifier, literal
from lake.reading import condition
from lake.registry import NAMESPACE
from lake.site import Lake, LakeError, Site
from lake.sql import statement

REPLICATING, OK, STUCK, SUSPENDED, EXPIRED = "REPLICATING", "OK", "STUCK", "SUSPENDED", "EXPIRED"
#: As a source: whichever site has the best replica.
ANY = "*"
#: The rule under which a site's lost and damaged files are fetched again; nobody adds it, and it has no manifest.
REFETCH = "refetch"


class RuleError(LakeError):
    """A rule that cannot be; the message names it and what is wrong."""


@dataclass(frozen=True)
class RuleSpec:
    """What a rule says: datasets of these types that meet a SQL condition over the source's ``dataset`` table (and any
    other of the source's tables) must be at the destination.

    ``source`` may be ANY. Files of a rule of higher ``priority`` come first. Nothing leaves ``not_before``. After
    ``expires_at`` the replicas may go (lake/lifetime.py). With ``once`` the manifest is made once, else it goes on
    matching new datasets whenever the rule is added or evaluated again. Times are in UTC.
    """

    campaign: str | None
    name: str
    dataset_types: tuple[str, ...]
    predicate: str
    source: str
    destination: str
    priority: int = 0
    not_before: datetime | None = None
    expires_at: datetime | None = None
    once: bool = False

    @property
    def rule_id(self) -> str:
        """UUIDv5 of what the rule wants, from where and to where."""
        types = ",".join(sorted(self.dataset_types))
        text = "|".join(["rule", self.campaign or "", self.name, self.source, self.destination, types, self.predicate])
        return _uuid(text)


@lru_cache(4096)
def _uuid(text: str) -> str:
    return str(uuid.uuid5(NAMESPACE, text))


@dataclass(frozen=True)
class Rule(RuleSpec):
    """A rule as it stands: ``files`` and ``bytes`` are those of its manifest, which was last extended at ``manifest_at``.

    ``revision`` numbers the rows that the rule has had; the highest one counts, whatever the clocks said.
    """

    state: str = REPLICATING
    reason: str | None = None
    files: int = 0
    bytes: int = 0
    stuck_since: datetime | None = None
    manifest_at: datetime | None = None
    revision: int = 0

    def row(self) -> dict[str, Any]:
        """The rule as a row of the table ``rule``, without noted_at."""
        types, reason = ",".join(self.dataset_types), self.reason and self.reason[:512]
        return {"rule_id": self.rule_id} | vars(self) | {"dataset_types": types, "reason": reason}

    def at(self, now: datetime) -> Rule:
        """The rule as it stands at a time: embargoed until it may begin, EXPIRED after its lifetime; else as it is."""
        if self.state == SUSPENDED:
            return self
        if self.expires_at is not None and now >= self.expires_at:
            said = self.reason if self.state == EXPIRED else None
            return replace(self, state=EXPIRED, reason=said or f"its lifetime ended at {self.expires_at:%Y-%m-%d %H:%M} UTC")
        if self.not_before is not None and now < self.not_before:
            return replace(self, state=REPLICATING, reason=f"embargo: nothing leaves before {self.not_before:%Y-%m-%d %H:%M} UTC")
        return replace(self, state=REPLICATING, reason=None) if self.state == EXPIRED else self

    def moves(self, now: datetime) -> bool:
        """Whether its files may be moved at this time."""
        embargoed = self.not_before is not None and now < self.not_before
        return self.at(now).state not in (SUSPENDED, EXPIRED) and not embargoed and self.name != REFETCH


def unreachable(rule: Rule) -> Rule:
    """The rule as it stands while its destination cannot be reached; not written down, as that is where it would be."""
    return replace(rule, state=STUCK, reason=f"{rule.destination} cannot be reached")


def add_rule(
    lake: Lake, campaign: str | None, name: str, dataset_types: Sequence[str], predicate: str, source: str, destination: str
) -> Rule:
    """Add one rule, or evaluate it again; see add_rules()."""
    return add_rules(lake, [RuleSpec(campaign, name, tuple(dataset_types), predicate, source, destination)])[0]


def add_rules(lake: Lake, specs: Iterable[RuleSpec]) -> list[Rule]:
    """Add rules, or evaluate again those that are there, and extend their manifests by what is new; in the given order.

    Many rules in one call cost little more than one. A rule under embargo, expired or suspended is not evaluated, nor
    is one whose source cannot be reached. RuleError for an unusable rule or predicate, LakeError for an unknown site;
    then nothing is added at that rule's destination.
    """
    specs = list(specs)
    for spec in specs:
        _check(lake, spec)
    added: dict[str, Rule] = {}
    for destination in dict.fromkeys(spec.destination for spec in specs):
        added |= _add(lake, lake.site(destination), [spec for spec in specs if spec.destination == destination])
    return [added[spec.rule_id] for spec in specs]


def check(lake: Lake, specs: Iterable[RuleSpec]) -> None:
    """Refuse rules that could not be added (RuleError, LakeError), without adding any."""
    for spec in specs:
        _check(lake, spec)
        with open_source(lake, spec.source, [spec.source, spec.destination], [spec]) as con:
            _candidates(con, spec)


def _check(lake: Lake, spec: RuleSpec) -> None:
    lake.site(spec.destination)
    if spec.source != ANY:
        lake.site(spec.source)
    if not spec.name.strip() or len(spec.name) > 128 or not spec.name.isprintable():
        raise RuleError(f"rule {spec.name[:40]!r}: a rule's name is 1 to 128 printable characters")
    if spec.source == spec.destination:
        raise RuleError(f"rule {spec.name}: source and destination are both {spec.source}")
    if not spec.dataset_types:
        raise RuleError(f"rule {spec.name}: no dataset type is given")
    try:
        condition(spec.predicate)
    except QueryError as error:
        raise RuleError(f"rule {spec.name}: its predicate {error}") from None
    if spec.name == REFETCH:
        raise RuleError(f"rule {spec.name}: this name is taken by the rule that fetches lost files again; choose another")
    if spec.expires_at is not None and spec.not_before is not None and spec.expires_at <= spec.not_before:
        raise RuleError(f"rule {spec.name}: it would expire before it may begin; change 'expires' or 'not_before'")


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


def change(site: Site, given: Iterable[Rule], how: Callable[[Rule, Rule], Rule | None]) -> list[Rule]:
    """Append new states of a site's rules, all in one commit: ``how(given, as it stands now)``, None for no change.

    The rules are read again under the site's lock, so that nobody's word is lost; returns them as they stand then.
    """
    with site.lock("rules"):
        with connect(site.lake, [site.name]) as con:
            held = {rule.rule_id: rule for rule in _rules(con, "rule_now")}
        after, changed = [], []
        for rule in given:
            now = held.get(rule.rule_id, rule)
            wanted = how(rule, now)
            if wanted is not None:
                now = replace(wanted, revision=now.revision + 1)
                changed.append(now)
            after.append(now)
        _write(site, changed)
    return after


def note(site: Site, given: Iterable[Rule], always: Iterable[str] = ()) -> list[Rule]:
    """Append the given states where they differ from what is written (``always``: in any case).

    Of a rule that is there, only the state, its reason and its beginning change: what others did to it in the meantime
    stays, and so does the rule that an operator suspended.
    """
    ids = set(always)

    def how(rule: Rule, now: Rule) -> Rule | None:
        if rule.revision:
            rule = replace(now, state=rule.state, reason=rule.reason, stuck_since=rule.stuck_since, revision=rule.revision)
        overruled = now.revision > rule.revision and now.state == SUSPENDED
        same = replace(rule, revision=now.revision) == now and now.revision > 0
        return None if overruled or (same and rule.rule_id not in ids) else rule

    return change(site, given, how)


def _write(site: Site, changed: Sequence[Rule]) -> None:
    if changed:
        now = datetime.now(UTC)
        rows = [rule.row() | {"noted_at": now} for rule in changed]
        delta.append(site, "rule", pa.Table.from_pylist(rows, schema=schemas.table("rule").arrow))


def _add(lake: Lake, site: Site, specs: list[RuleSpec]) -> dict[str, Rule]:
    """Evaluate the rules of one destination: one commit for all manifests, one for all states."""
    if not reachable(site):  # nothing can be read or written there, not even that it is so
        return {spec.rule_id: unreachable(Rule(**vars(spec))) for spec in specs}
    now = datetime.now(UTC)
    with site.lock("rules"), ExitStack() as stack:
        here = stack.enter_context(connect(lake, [site.name]))
        known = {rule.rule_id: rule for rule in _rules(here, "rule_now")}
        said = {spec.rule_id: replace(known.get(spec.rule_id, Rule(**vars(spec))), **vars(spec)).at(now) for spec in specs}
        evaluated = [
            spec for spec in specs
            if said[spec.rule_id].moves(now) and not (spec.once and said[spec.rule_id].manifest_at)
            and (spec.source == ANY or reachable(lake.site(spec.source)))
        ]  # fmt: skip
        cons = {
            name: stack.enter_context(open_source(lake, name, [name, site.name], [s for s in evaluated if s.source == name]))
            for name in {spec.source for spec in evaluated}
        }
        found = [_candidates(cons[spec.source], spec) for spec in evaluated]
        if any(rows.num_rows for rows in found):
            delta.append(site, "manifest", schemas.conform("manifest", pa.concat_tables(found)))
        point("movement:manifest")
        sizes = _sizes(here, site, [spec.rule_id for spec in evaluated])
        for spec in evaluated:  # a run that died before it wrote the state left a manifest larger than the state says
            rule, (files, size) = said[spec.rule_id], sizes[spec.rule_id]
            if rule.manifest_at is None or (rule.files, rule.bytes) != (files, size):
                state = REPLICATING if files else OK
                said[spec.rule_id] = replace(rule, state=state, reason=None, files=files, bytes=size, manifest_at=now)
        changed = {key: replace(rule, revision=rule.revision + 1) for key, rule in said.items() if known.get(key) != rule}
        _write(site, list(changed.values()))
        point("movement:rule")
    return said | changed


def open_source(lake: Lake, source: str, sites: Sequence[str], specs: Iterable[RuleSpec]) -> Connection:
    """Where the rules of one source are evaluated: on its own tables (those of ``sites`` can be named too); for ANY on the
    union over all sites."""
    prune = _prune(specs)
    return connect(lake, None, None, prune) if source == ANY else connect(lake, sites, source, prune)


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
    columns = ", ".join(schemas.table("dataset").arrow.names)
    sql = statement("rule_candidates").replace("{destination}", identifier(spec.destination)).replace("{columns}", columns)
    parameters: Mapping[str, Any] = {"types": list(spec.dataset_types), "rule": spec.rule_id}
    try:
        return con.table(sql.replace("{predicate}", spec.predicate), parameters)
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
