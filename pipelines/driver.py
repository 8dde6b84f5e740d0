"""The one driver of a campaign: holds the lease, walks the plan, and continues where an earlier run stopped.

Nothing here remembers: what is done is read from the sites' registries and event logs, so a driver may be killed at any
instruction and the same command continues. A site whose storage fails stops alone; any other error stops all sites after
their running jobs.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from lake import movement, upkeep
from lake.rule import EXPIRED, OK, STUCK, SUSPENDED
from lake.site import Lake, LakeError
from pipelines import definition, execute, heal, inception, placement, software
from pipelines.campaign import Campaign, CampaignError
from pipelines.journal import Journal, latest, who
from pipelines.lease import Lease
from pipelines.runner import SiteRunner, Stopped, Tally

#: Seconds between looks at what operators have decided.
LOOK = 2.0
#: The latest event of each (step or phase, site).
Decisions = Mapping[tuple[str, str], Mapping[str, Any]]


class Progress(Protocol):
    """Where a run reports to: a progress bar on a terminal, lines in a log, or nothing."""

    def phase(self, name: str) -> None: ...
    def update(self, site: str, what: str, done: int, total: int) -> None: ...
    def say(self, text: str) -> None: ...


class Silent:
    """A Progress that says nothing."""

    def phase(self, name: str) -> None: ...
    def update(self, site: str, what: str, done: int, total: int) -> None: ...
    def say(self, text: str) -> None: ...


@dataclass
class Outcome:
    """What a run did. ``problems`` are one line each; ``stopped`` says why the run did not go to its end."""

    quanta_run: int = 0
    files_moved: int = 0
    healed: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    stopped: str | None = None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.problems and self.stopped is None


class Driver:
    """Runs a campaign on a lake; see run()."""

    def __init__(self, lake: Lake, campaign: Campaign, progress: Progress | None = None) -> None:
        """LakeError, CampaignError, InstrumentError, SimulateError name what of the campaign the lake or project lacks."""
        self.lake, self.campaign = lake, campaign
        self.progress: Progress = progress or Silent()
        self.pipeline = definition.load()
        inception.check(lake, campaign, self.pipeline)
        self.journal = Journal(lake, campaign.name)
        self.outcome = Outcome()
        self._checked = 0.0
        self._why: str | None = None
        self._lock = threading.Lock()

    def run(self, through: str | None = None, only_step: str | None = None, only_site: str | None = None) -> Outcome:
        """Drive the campaign to its end, or ``through`` a step, or one step, or at one site.

        Raises LeaseError when another driver is at work, CampaignError when the campaign is not this one.
        """
        try:
            last, only = definition.steps(through)[-1] if through else None, definition.steps(only_step) if only_step else None
        except ValueError as error:
            raise CampaignError(str(error)) from None
        if only_site is not None:
            self.lake.site(only_site)
        os.environ.update(execute.WORKER_ENVIRONMENT)
        with Lease(self.lake, self.campaign.name) as self.lease:
            self._register()
            self.runners = {
                name: SiteRunner(
                    self.lake.site(name), self.pipeline, self.campaign, self.journal, software.fingerprint(), self._stopping,
                    functools.partial(self.progress.update, name),
                )
                for name in self.campaign.sites
            }  # fmt: skip
            partial = through or only_step or only_site
            try:
                self._drive(last, only, only_site)
            except Stopped as stop:
                self.outcome.stopped = str(stop)
            except BaseException as error:
                with suppress(LakeError, OSError):  # the error itself is what counts
                    if isinstance(error, Exception):
                        self._end("failed", f"{type(error).__name__}: {error}")
                    else:
                        self._end("stopped", "interrupted")
                raise
            state = "failed" if self.outcome.problems else "stopped" if self.outcome.stopped or partial else "done"
            self._end(state, self.outcome.stopped or "; ".join(self.outcome.problems[:3]) or None)
        return self.outcome

    def _end(self, state: str, why: str | None) -> None:
        """Close the pools, and note how the run ended, unless an operator or another driver has the say by now."""
        for runner in self.runners.values():
            runner.close()
        if not self.lease.lost.is_set():
            before = self._state()
            if before not in ("paused", "cancelled", state) and (before, state) != ("done", "stopped"):
                self._transition(state, why)
            self.journal.flush()

    # -- the campaign's own record -------------------------------------------------------------------------------------

    def _state(self) -> str | None:
        rows = latest(self.lake, "campaign", "campaign", self.campaign.name)
        return rows[0]["state"] if rows else None

    def _transition(self, state: str, why: str | None = None) -> None:
        self.journal.write("campaign", state=state, definition=self.campaign.text, who=who(), why=why and why[:512])
        self.journal.flush()

    def _register(self) -> None:
        rows = latest(self.lake, "campaign", "campaign", self.campaign.name)
        if rows and rows[0]["definition"] != self.campaign.text:
            raise CampaignError(
                f"campaign {self.campaign.name} exists with another definition; run it as it was (drp run LAKE), "
                f"or give the changed one another name"
            )
        if rows and rows[0]["state"] == "cancelled":
            raise CampaignError(f"campaign {self.campaign.name} was cancelled ({rows[0]['why'] or 'no reason given'})")
        if rows and rows[0]["state"] == "paused":
            why = f" ({rows[0]['why']})" if rows[0]["why"] else ""
            raise CampaignError(f"campaign {self.campaign.name} was paused by {rows[0]['who']}{why}; drp resume lets it run")
        if not rows:
            self._transition("created")
        if not rows or rows[0]["state"] != "done":
            self._transition("running")

    def _stopping(self) -> str | None:
        """Why the run should stop, looked up every LOOK seconds."""
        with self._lock:
            if self._why is None and time.monotonic() - self._checked > LOOK:
                self._checked = time.monotonic()
                if self.lease.lost.is_set():
                    self._why = "the lease was lost to another driver"
                elif (state := self._state()) in ("paused", "cancelled"):
                    self._why = f"the campaign was {state} by an operator"
            return self._why

    # -- the plan ------------------------------------------------------------------------------------------------------

    def _drive(self, through: str | None, only: Sequence[str] | None, only_site: str | None) -> None:
        with self._timed("recover"):
            healed = heal.heal(self.lake, self.runners, self.progress)
        self.outcome.healed += healed.done
        with self._timed("inception"):
            inception.fill(self.lake, self.campaign, self.pipeline, self.progress)
        for kind, names in placement.PLANS[self.campaign.calibration]:
            if self.outcome.problems:
                break
            if kind == "move":
                if only is None:
                    with self._timed(*names):
                        self._move(*names)
                continue
            steps = names[: names.index(through) + 1] if through in names else names
            sites = [self.lake.central.name] if kind == "central" else list(self.campaign.sites)
            self._steps(
                [step for step in steps if only is None or step in only], [site for site in sites if only_site in (None, site)]
            )
            if through in names:
                break
        self.outcome.problems += healed.hopeless

    def _move(self, phase: str) -> None:
        central = self.lake.central.name
        if phase == placement.OWN:
            specs = placement.own_rules(self.lake, self.pipeline, self.campaign)
        else:
            specs = placement.rules(phase, self.pipeline, self.campaign, central)
        if not specs:
            return
        self.progress.phase(phase)
        rules = movement.add_rules(self.lake, specs)
        idle = all(rule.state == OK for rule in rules)
        if not idle:
            self._event(phase, central, "running")
        report = movement.run_rules(self.lake, rules, functools.partial(self.progress.update, "movement", phase))
        self.outcome.files_moved += report.files
        upkeep.tend(*self.lake.sites.values())
        held = [rule for rule in report.rules if rule.state in (STUCK, SUSPENDED)]
        for rule in held:
            self.outcome.problems.append(f"rule {rule.name} is {rule.state}: {rule.reason}; look with drp transfers")
        if any(rule.state == EXPIRED for rule in report.rules):
            movement.clean(self.lake)
        if not idle or held:
            self._event(phase, central, "failed" if held else "accepted")

    def _steps(self, steps: Sequence[str], sites: Sequence[str]) -> None:
        """The steps at all of these sites at once; waits for all of them, and raises the first error that is not a site's own."""
        if not steps or not sites:
            return
        self.progress.phase(" ".join(steps))
        decisions = self._decisions()
        failure: BaseException | None = None
        with ThreadPoolExecutor(len(sites)) as threads:
            waiting = {threads.submit(self._site, steps, site, decisions) for site in sites}
            try:
                while waiting:
                    done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                    for error in [future.exception() for future in done]:
                        if isinstance(error, (LakeError, OSError)):
                            self.outcome.problems.append(" ".join(str(error).split()))
                        elif error is not None:
                            failure = error if failure is None or isinstance(failure, Stopped) else failure
                            self._why = self._why or "another site failed"
            except KeyboardInterrupt:
                self._why = "interrupted"
                raise
        if failure is not None:
            raise failure

    def _site(self, steps: Sequence[str], site: str, decisions: Decisions) -> None:
        """All given steps at one site, in order; stops at the first that is not accepted."""
        runner = self.runners[site]
        runner.predict()
        tallies = runner.tallies()
        for step in steps:
            before, decision = tallies.get(step, Tally(0, 0, 0)), decisions.get((step, site), {})
            if decision.get("state") == "rejected":
                why = f" ({decision['why']})" if decision["why"] else ""
                self.outcome.problems.append(f"{step} at {site} was rejected by {decision['who']}{why}; drp retry or drp accept it")
                return
            if before.done == before.quanta:
                continue
            if before.done + before.failed < before.quanta:
                self._event(step, site, "running", before)
            with self._timed(step, site):
                runner.run_step(step)
            after = runner.tallies()[step]
            with self._lock:
                self.outcome.quanta_run += after.done - before.done
            accepted = (decision.get("failed") or 0) if decision.get("state") == "accepted" else 0
            tolerable = self.campaign.tolerate.get(step, 0.0) * after.quanta
            state = "accepted" if after.failed <= max(accepted, tolerable) else "reviewable"
            if after != before or decision.get("state") != state:
                self._event(step, site, state, after)
            if state == "reviewable":
                self.outcome.problems.append(
                    f"{step} at {site}: {after.failed} of {after.quanta} quanta failed; "
                    f"look with drp status --step {step}, then drp retry or drp accept"
                )
                return

    def _decisions(self) -> Decisions:
        """The latest event of every step and phase at every site."""
        self.journal.flush()
        return {(e["step"], e["site"]): e for e in latest(self.lake, "step", "step, site", self.campaign.name)}

    def _event(self, step: str, site: str, state: str, tally: Tally | None = None) -> None:
        self.journal.write(
            "step", step=step, site=site, state=state, quanta=tally.quanta if tally else None,
            succeeded=tally.done if tally else None, failed=tally.failed if tally else None, who=who(), why=None,
        )  # fmt: skip

    def _timed(self, what: str, site: str | None = None) -> _Timer:
        return _Timer(self.outcome.seconds, f"{what} {site}" if site else what)


class _Timer:
    """Adds the time spent inside to ``seconds[key]``."""

    def __init__(self, seconds: dict[str, float], key: str) -> None:
        self.seconds, self.key = seconds, key

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        self.seconds[self.key] = self.seconds.get(self.key, 0.0) + time.monotonic() - self.start


def run(
    lake: Lake,
    campaign: Campaign,
    *,
    through: str | None = None,
    step: str | None = None,
    site: str | None = None,
    progress: Progress | None = None,
) -> Outcome:
    """Run or continue a campaign; see Driver.run."""
    return Driver(lake, campaign, progress).run(through, step, site)
