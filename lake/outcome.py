"""What became of the things that an import was given, counted by verdict."""

from __future__ import annotations

from dataclasses import dataclass, field

#: Verdicts after which the site has what was given.
KEPT = ("new", "present", "implied", "accepted")


@dataclass(frozen=True)
class Outcome:
    """What became of ``count`` things; a ``verdict`` that is not in KEPT has a reason."""

    what: str
    name: str
    verdict: str
    count: int
    reason: str | None = None


@dataclass
class Outcomes:
    """All that was given: every thing is counted once."""

    found: list[Outcome] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that was given is here now."""
        return all(outcome.verdict in KEPT for outcome in self.found)

    def note(self, what: str, name: str, verdict: str, count: int = 1, reason: str | None = None) -> None:
        """Count things; nothing is noted of none."""
        if count:
            self.found.append(Outcome(what, name, verdict, count, reason))

    def counted(self, what: str, verdict: str) -> int:
        """How many things of a kind got a verdict."""
        return sum(o.count for o in self.found if (o.what, o.verdict) == (what, verdict))
