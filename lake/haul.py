"""One destination's share of a run of rules: what its rules still want, the copying, and the verdict on each rule."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lake import quota, registry, transfer_log
from lake.companions import copy_companions
from lake.fault import point
from lake.ingester import ingest
from lake.link import Links, reachable
from lake.query import connect
from lake.replicas import File, Wanted, elsewhere, misplaced, order
from lake.rule import ANY, OK, REPLICATING, STUCK, SUSPENDED, Rule, note, only_types
from lake.site import Lake, LakeError, Site
from lake.sql import statement
from lake.transfer import WORKERS, Delivery, deliver
from lake.transfer_log import Event

#: Files per entry of "copying" events; many, because each entry is a commit.
BLOCK = 5000
#: A rule that has been STUCK for so long is SUSPENDED until an operator looks at it (Rucio's figure).
PATIENCE = timedelta(days=14)


@dataclass(frozen=True)
class Policy:
    """How hard to try: rounds over what failed, seconds before the second round (then doubling), copies at a time."""

    rounds: int = 3
    backoff: float = 0.2
    workers: int = WORKERS


class Haul:
    """The work of one destination; its caller holds the site's lock "movement".

    ``damaged`` maps (site, path) of replicas that could not serve to the reason, ``brought`` files that came to bytes.
    """

    def __init__(self, lake: Lake, site: Site, rules: Sequence[Rule], policy: Policy) -> None:
        self.lake, self.site, self.policy, self.links = lake, site, policy, Links(lake)
        self.rules = {rule.rule_id: rule for rule in rules}
        self.damaged: dict[tuple[str, str], str] = {}
        self.brought: dict[str, int] = {}
        self._folders: dict[str, str | None] = {}
        ingest(site)
        types = [kind for rule in rules for kind in rule.dataset_types]
        self._con = connect(lake, [site.name], prune=only_types(types) if types else None)
        self.outstanding = self._outstanding()
        waiting = self.outstanding.filter(pc.is_valid(self.outstanding["parked"]))
        if waiting.num_rows:  # perhaps the source knows by now what was missing here
            self._send_ahead(waiting)
            ingest(site)
            self.outstanding = self._outstanding()
        wanted = self._wanted()
        needs: dict[str, dict[str, int]] = {}
        for entry in wanted:
            for rule in entry.rules:
                needs.setdefault(rule.rule_id, {})[entry.file.path] = entry.file.bytes
        self.stalled = quota.stalled(site, sorted(self.rules.values(), key=_urgency), needs)
        wanted = [entry for entry in wanted if any(rule.rule_id not in self.stalled for rule in entry.rules)]
        self.wanted = {entry.file.path: entry for entry in sorted(wanted, key=lambda e: _urgency(min(e.rules, key=_urgency)))}

    def close(self) -> None:
        self._con.close()

    def _outstanding(self) -> pa.Table:
        return self._con.table(statement("manifest_outstanding"), {"rules": list(self.rules)})

    def _wanted(self) -> list[Wanted]:
        """Files to be brought: not those that only wait for a dimension record, or that something keeps out."""
        wanted: dict[str, Wanted] = {}
        for row in self.outstanding.drop_columns(["record"]).to_pylist():
            if self._obstacle(row) is not None:
                continue
            rule = self.rules[row["rule_id"]]
            entry = wanted.get(row["path"])
            if entry is None:
                file = File(row["path"], row["file_bytes"], row["file_checksum"], row["dataset_id"])
                entry = wanted[file.path] = Wanted(file, [], 0)
            if entry.rules[-1:] != [rule]:  # rows come by path, then rule: many datasets share a file
                entry.rules.append(rule)
                if row["state"] is None:
                    entry.queued.append(rule)
            entry.attempt = max(entry.attempt, row["attempt"])
            entry.known = row["reason"] if row["state"] == "failed" else entry.known
        return list(wanted.values())

    def move(self) -> Iterator[int]:
        """Bring the files; yields how many are done with (brought, or given up), as it goes."""
        if not self.wanted:
            return
        waiting = {rule.rule_id: rule for entry in self.wanted.values() for rule in entry.rules}
        note(self.site, [replace(rule, state=REPLICATING, reason=None) for rule in waiting.values() if rule.state != REPLICATING])
        left = self._with_companions()
        yield len(self.wanted) - len(left)
        for attempt in range(self.policy.rounds):
            if attempt and left:
                time.sleep(self.policy.backoff * 2 ** (attempt - 1))
            given, left = left, self._look_around(left, first=not attempt)
            yield len(given) - len(left)
            if not left:
                break
            failed: list[Wanted] = []
            queue = iter(left)
            while block := list(islice(queue, BLOCK)):
                for deliveries in self._deliver(block):
                    good = self._note(deliveries)
                    failed += [self.wanted[d.order.path] for d in deliveries if d.error is not None]
                    if good:
                        ingest(self.site)
                        yield good
            left = failed
        yield len(left)

    def conclude(self) -> list[Rule]:
        """Judge the rules by the destination's registry, and write down what changed."""
        if self.outstanding.num_rows:
            self.outstanding = self._outstanding()
        reasons: dict[str, list[str]] = {}
        events: list[Event] = []
        done: set[tuple[str, str]] = set()
        for row in self.outstanding.drop_columns(["record"]).to_pylist():
            if row["rule_id"] in self.stalled:
                continue
            obstacle, key = self._obstacle(row), (row["rule_id"], row["path"])
            why = obstacle or row["reason"] or f"not ingested ({row['state'] or 'queued'})"
            reasons.setdefault(row["rule_id"], []).append(f"{row['path']}: {why}")
            noted = row["parked"] is not None or (row["state"], row["reason"]) == ("failed", why[:512])
            if obstacle and not noted and key not in done:
                done.add(key)
                rule, attempt = self.rules[row["rule_id"]], row["attempt"] + 1
                events.append(Event(*key, rule.source, self.site.name, "failed", attempt, row["file_bytes"], reason=why))
        transfer_log.write(self.site, events)
        moved = {rule.rule_id for entry in self.wanted.values() for rule in entry.rules}
        after = [self._verdict(rule, sorted(set(reasons.get(rule.rule_id, [])))) for rule in self.rules.values()]
        after = note(self.site, after, moved)
        point("movement:concluded")
        return after

    def _verdict(self, rule: Rule, reasons: list[str]) -> Rule:
        """The rule as it stands after the run."""
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        reason = f"{reasons[0][:480]}{more}" if reasons else self.stalled.get(rule.rule_id)
        if reason is None and rule.source != ANY and not (rule.once and rule.manifest_at) and not self._reachable(rule.source):
            reason = f"{rule.source} cannot be reached: what it has for this rule is not known"
        if reason is None:
            return replace(rule, state=OK, reason=None, stuck_since=None)
        now = datetime.now(UTC)
        since = min(rule.stuck_since or now, now)  # a clock that jumped back must not stop the count
        if now - since > PATIENCE:
            return replace(rule, state=SUSPENDED, reason=f"STUCK for {PATIENCE.days} days: {reason}"[:512], stuck_since=None)
        return replace(rule, state=STUCK, reason=reason, stuck_since=since)

    def _reachable(self, name: str) -> bool:
        return reachable(self.lake.site(name))

    def _with_companions(self) -> list[Wanted]:
        """Send ahead what the datasets refer to; returns the files of the rules for which that went well."""
        refused = self._send_ahead(self.outstanding)
        point("movement:companions")
        left, events = [], []
        for entry in self.wanted.values():
            reason = next((refused[rule.source] for rule in entry.rules if rule.source in refused), None)
            if reason is None:
                left.append(entry)
            else:
                events += self._given_up(entry, entry.rules[0].source, reason)
        transfer_log.write(self.site, events)
        return left

    def _given_up(self, entry: Wanted, source: str, reason: str) -> list[Event]:
        """A file that need not be tried; said once."""
        if entry.known == reason[:512]:
            return []
        return self._events(entry, "failed", source, entry.attempt + 1, reason=reason)

    def _send_ahead(self, rows: pa.Table) -> dict[str, str]:
        """Copy what the datasets of manifest rows refer to; returns the reason by source for which that is refused."""
        refused: dict[str, str] = {}
        sources = {rule_id: self.rules[rule_id].source for rule_id in rows["rule_id"].unique().to_pylist()}
        for source in sorted(set(sources.values())):
            ids = pa.array([rule_id for rule_id, name in sources.items() if name == source])
            datasets = registry.from_records(rows.filter(pc.is_in(rows["rule_id"], ids))["record"])
            others = [name for name in self.lake.sites if name != self.site.name and self._reachable(name)]
            try:
                for giver in [source] if source in others else others:
                    copy_companions(self.lake.site(giver), self.site, datasets)
            except LakeError as error:
                refused[source] = str(error)
        return refused

    def _look_around(self, left: Sequence[Wanted], first: bool) -> list[Wanted]:
        """Give files the replicas to try next: the rules' own first, then those of other sites, then the own once more.

        Returns the files that have one at a site which can be reached; of the others it is noted that they have none.
        """
        there = {name for name in self.lake.sites if self._reachable(name)}
        own = {
            entry.file.path: [(rule.source, entry.file.path) for rule in entry.rules if rule.source in there] for entry in left
        }  # fmt: skip
        for entry in left if first else ():
            entry.replicas = list(dict.fromkeys(own[entry.file.path]))
        empty = [entry for entry in left if not entry.replicas]
        found = elsewhere(self.lake, self.site, [entry.file for entry in empty])
        for entry in empty:
            others = [replica for replica in found.get(entry.file.path, []) if replica not in self.damaged]
            entry.replicas = others or own[entry.file.path]
        events: list[Event] = []
        for entry in left:
            if not entry.replicas:
                source = entry.rules[0].source
                gone = "" if source == ANY else f"{source} cannot be reached, and "
                events += self._given_up(entry, source, f"{gone}no other site has a replica that could serve")
        transfer_log.write(self.site, events)
        return [entry for entry in left if entry.replicas]

    def _deliver(self, block: Sequence[Wanted]) -> Iterator[list[Delivery]]:
        events, orders = [], []
        for entry in block:
            source, replica = entry.replicas.pop(0)
            entry.attempt += 1
            orders.append(order(self.lake, self.site, entry.file, source, replica, self.links))
            if entry.queued:
                queued = replace(entry, rules=entry.queued)
                events += self._events(queued, "queued", source, entry.attempt)
                entry.queued = []
            events += self._events(entry, "copying", source, entry.attempt)
        transfer_log.write(self.site, events)
        point("movement:copying")
        return deliver(orders, self.policy.workers)

    def _note(self, deliveries: Sequence[Delivery]) -> int:
        """Log what became of orders, and remember what they say of replicas; returns how many succeeded."""
        events, good = [], 0
        for each in deliveries:
            entry, source = self.wanted[each.order.path], each.order.source
            if each.done is None:
                error = each.error
                if not self._reachable(source):
                    error = f"{source} cannot be reached"
                elif each.replica_bad:
                    self.damaged[source, self.lake.site(source).relative(each.order.replica)] = each.error or ""
                events += self._events(entry, "failed", source, entry.attempt, each.seconds, error, None, each.at)
                continue
            good += 1
            self.brought[entry.file.path] = entry.file.bytes
            adler32 = each.done.adler32
            events += self._events(entry, "arrived", source, entry.attempt, each.seconds, None, adler32, each.at)
            later = each.at + timedelta(microseconds=1)
            events += self._events(entry, "verified", source, entry.attempt, each.seconds, None, adler32, later)
        transfer_log.write(self.site, events)
        point("movement:verified")
        return good

    def _events(
        self, entry: Wanted, state: str, source: str, attempt: int, seconds: float | None = None,
        reason: str | None = None, adler32: str | None = None, at: datetime | None = None,
    ) -> list[Event]:  # fmt: skip
        """The same transition of a file under every rule that wants it."""
        file = entry.file
        return [
            Event(rule.rule_id, file.path, source, self.site.name, state, attempt, file.bytes, seconds, reason, adler32, at)
            for rule in entry.rules
        ]

    def _obstacle(self, row: dict[str, Any]) -> str | None:
        """Why bringing the file would not bring the dataset; None when it would."""
        if row["present"] is not None:
            return f"{row['dataset_type']} {row['dataset_id']} is registered at {self.site.name} with other content"
        if row["occupied"] is not None:
            return f"another file is registered at {self.site.name} under this path (sha256 {row['occupied']})"
        if row["parked"] is not None:
            return f"parked: {row['parked']}"
        folder, _, name = row["path"].rpartition("/")
        if folder not in self._folders:
            self._folders[folder] = misplaced(self.site, folder or ".")
        if name in ("", ".", "..") or "\0" in name:
            return f"site {self.site.name}: path {row['path']!r} names no file"
        return self._folders[folder]


def _urgency(rule: Rule) -> tuple[int, str]:
    """Rules sort by this: higher priority first, then by name."""
    return (-rule.priority, rule.name)
