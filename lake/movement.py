"""Movement is a closed loop: rules say which datasets must be where; files travel until the registry there has them.

A rule's manifest, its state and every transition of its files are append-only events at the destination. Nothing else
is remembered: what is left to do is the manifest minus the destination's registry. A run may be killed at any moment
and repeated. This is the room's door; behind it are rule (what must be where), haul (one destination's share of a run),
transfer (the copy engine), ingester (verified files become datasets) and replicas (the same file elsewhere).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

from lake.haul import Haul, Policy
from lake.replicas import Refetched, refetch
from lake.rule import STUCK, SUSPENDED, Rule, RuleError, RuleSpec, add_rule, add_rules, rules
from lake.site import Lake

__all__ = [
    "Policy", "Refetched", "Report", "Rule", "RuleError", "RuleSpec", "add_rule", "add_rules", "refetch", "rules",
    "run_rules",
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


def run_rules(
    lake: Lake,
    rules: Iterable[Rule],
    progress: Callable[[int, int], None] | None = None,
    policy: Policy | None = None,
) -> Report:
    """Move and ingest until each rule is OK or STUCK; ``progress(files done with, files)`` is called as files arrive.

    One process at a time moves files to a site: another one waits. Suspended rules are left alone. LakeError when a
    site cannot be written to.
    """
    given = list(rules)
    report = Report()
    state = {rule.rule_id: rule for rule in given}
    with ExitStack() as stack:
        hauls = []
        for name in sorted({rule.destination for rule in given}):
            mine = [r for r in state.values() if r.destination == name and r.state != SUSPENDED]
            stack.enter_context(lake.site(name).lock("movement"))
            hauls.append(stack.enter_context(closing(Haul(lake, lake.site(name), mine, policy or Policy()))))
        total = sum(len(haul.wanted) for haul in hauls)
        done = 0
        for haul in hauls:
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
