"""Movement is a closed loop: rules say which datasets must be where; files travel until the registry there has them.

A rule's manifest, its state and every transition of its files are append-only events at the destination. Nothing else
is remembered: what is left to do is the manifest minus the destination's registry. A run may be killed at any moment
and repeated. This is the room's door; behind it are rule (what must be where), haul (one destination's share of a run),
transfer (the copy engine), link (its limits), quota (what a site may hold), ingester (verified files become datasets),
replicas (the same file elsewhere) and lifetime (what may be deleted again).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime

from lake.haul import Haul, Policy
from lake.lifetime import Cleaned, clean
from lake.link import reachable
from lake.quota import spread
from lake.replicas import Refetched, refetch
from lake.rule import (
    ANY,
    OK,
    REFETCH,
    REPLICATING,
    STUCK,
    SUSPENDED,
    Rule,
    RuleError,
    RuleSpec,
    add_rule,
    add_rules,
    change,
    check,
    note,
    rules,
    unreachable,
)
from lake.site import Lake

__all__ = [
    "ANY", "OK", "REFETCH", "REPLICATING", "STUCK", "SUSPENDED", "Cleaned", "Policy", "Refetched", "Report", "Rule", "RuleError",
    "RuleSpec", "add_rule", "add_rules", "check", "clean", "evaluate", "refetch", "resume", "rules", "run_rules", "spread",
    "suspend",
]  # fmt: skip


@dataclass
class Report:
    """What a run of rules did. ``rules`` are as they stand now, in the given order.

    ``files`` and ``bytes`` were brought. ``damaged`` maps (site, path) of replicas that could not serve to the reason;
    those in ``healed`` were replaced by a good replica, from the site named there.
    """

    rules: list[Rule] = field(default_factory=list)
    files: int = 0
    bytes: int = 0
    damaged: dict[tuple[str, str], str] = field(default_factory=dict)
    healed: dict[tuple[str, str], str] = field(default_factory=dict)

    @property
    def stuck(self) -> list[Rule]:
        """Rules that could not be satisfied, with their reasons."""
        return [rule for rule in self.rules if rule.state == STUCK]

    @property
    def ok(self) -> bool:
        return not self.stuck


def evaluate(lake: Lake, rules: Iterable[Rule]) -> list[Rule]:
    """Let rules match new datasets (those that do so once keep their manifest); returns them as they stand then."""
    names = [each.name for each in fields(RuleSpec)]
    return add_rules(lake, [RuleSpec(**{name: getattr(rule, name) for name in names}) for rule in rules if rule.name != REFETCH])


def suspend(lake: Lake, rule: Rule, who: str, why: str | None = None) -> Rule:
    """Let a rule rest until resume(); RuleError when it does so already."""

    def how(given: Rule, now: Rule) -> Rule:
        if now.state == SUSPENDED:
            raise RuleError(f"rule {now.name}: it is suspended already ({now.reason})")
        return replace(now, state=SUSPENDED, reason=f"by {who}" + (f": {why}" if why else ""), stuck_since=None)

    return change(lake.site(rule.destination), [rule], how)[0]


def resume(lake: Lake, rule: Rule, who: str, why: str | None = None) -> Rule:
    """Take up a suspended rule again; RuleError when it is not suspended."""

    def how(given: Rule, now: Rule) -> Rule:
        if now.state != SUSPENDED:
            raise RuleError(f"rule {now.name}: it is {now.state}, not {SUSPENDED}")
        return replace(now, state=REPLICATING, reason=f"resumed by {who}" + (f": {why}" if why else ""), stuck_since=None)

    return change(lake.site(rule.destination), [rule], how)[0]


def run_rules(
    lake: Lake,
    rules: Iterable[Rule],
    progress: Callable[[int, int], None] | None = None,
    policy: Policy | None = None,
) -> Report:
    """Move and ingest until each rule is OK or STUCK; ``progress(files done with, files)`` is called as files arrive.

    One process at a time moves files to a site: another one waits. Destinations take turns, the one with the rule of
    highest priority first. Rules that are suspended, expired or under embargo are left alone, and those of a site that
    cannot be reached are STUCK. LakeError when a site cannot be written to.
    """
    now = datetime.now(UTC)
    given = list(rules)
    report = Report()
    state = {rule.rule_id: rule for rule in given}
    urgent = {name: max(rule.priority for rule in given if rule.destination == name) for name in {r.destination for r in given}}
    with ExitStack() as stack:
        hauls = []
        for name in sorted(urgent):  # always locked in the same order, so that two runs cannot wait for each other
            if not reachable(lake.site(name)):
                state |= {rule.rule_id: unreachable(rule) for rule in given if rule.destination == name}
                continue
            mine = note(lake.site(name), [rule.at(now) for rule in given if rule.destination == name])
            state |= {rule.rule_id: rule for rule in mine}
            mine = [rule for rule in mine if rule.moves(now)]
            if not mine:
                continue
            stack.enter_context(lake.site(name).lock("movement"))
            hauls.append(stack.enter_context(closing(Haul(lake, lake.site(name), mine, policy or Policy()))))
        total = sum(len(haul.wanted) for haul in hauls)
        done = 0
        for haul in sorted(hauls, key=lambda haul: (-urgent[haul.site.name], haul.site.name)):
            for count in haul.move():
                done += count
                if progress is not None:
                    progress(done, total)
            state |= {rule.rule_id: rule for rule in haul.conclude()}
            report.damaged |= haul.damaged
            report.files += len(haul.brought)
            report.bytes += sum(haul.brought.values())
    report.rules = [state[rule.rule_id] for rule in given]
    for name in sorted({site for site, _ in report.damaged}):
        result = refetch(lake, name, [path for site, path in report.damaged if site == name])
        report.healed |= {(name, path): source for path, source in result.healed.items()}
    return report
