"""The one driver of a campaign: holds the lease, walks the plan, and continues where an earlier run stopped.

Nothing here remembers: what is done is read from the sites' registries and event logs, so a driver may be killed at any
instruction and the same command continues.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

from lake import movement
from lake.site import Lake
from pipelines import definition, execute, heal, inception, placement, software
from pipelines.campaign import Campaign, CampaignError
from pipelines.journal import Journal, latest, who
from pipelines.lease import Lease
from pipelines.runner import SiteRunner, Stopped, Tally


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
        self.lake, self.campaign = lake, campaign
        self.progress: Progress = progress or Silent()
        self.pipeline = definition.load()
        self.journal = Journal(lake, campaign.name)
        self.outcome = Outcome()
        self._checked = 0.0
        self._why: str | None = None
        self._lock = threading.Lock()
        for name in campaign.sites:
            lake.site(name)

    def run(
        self, through: str | None = None, only_step: str | None = None, only_site: str | None = None
    ) -> Outcome:
        """Drive the campaign to its end, or ``through`` a step, or one step, or at one site.

        Raises LeaseError when another driver is at work, CampaignError when the campaign is not this one.
        """
        for step in (through, only_step):
            if step is not None and step not in definition.STEPS:
                raise CampaignError(f"unknown step {step!r}; known steps: {', '.join(definition.STEPS)}")
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
            try:
                self._drive(through, only_step, only_site)
            except Stopped as stop:
                self.outcome.stopped = str(stop)
            finally:
                for runner in self.runners.values():
                    runner.close()
                if not self.lease.lost.is_set():
                    state = "done" if self.outcome.ok and not (through or only_step or only_site) else "paused"
                    if self.outcome.problems:
                        state = "failed"
                    if self._state() != "cancelled" and (state != self._state()):
                        self._transition(state, self.outcome.stopped or "; ".join(self.outcome.problems[:3]) or None)
                    self.journal.flush()
        return self.outcome

    # -- the campaign's own record -------------------------------------------------------------------------------------

    def _state(self) -> str | None:
        rows = latest(self.lake, "campaign", "campaign", self.campaign.name)
        return rows[0]["state"] if rows else None

    def _transition(self, state: str, why: str | None = None) -> None:
        self.journal.write("campaign", state=state, definition=self.campaign.text, who=who(), why=why)
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
        if not rows:
            self._transition("created")
        if not rows or rows[0]["state"] != "done":
            self._transition("running")

    def _stopping(self) -> str | None:
        """Why the run should stop, looked up at most every two seconds."""
        with self._lock:
            if self._why is None and time.monotonic() - self._checked > 2.0:
                self._checked = time.monotonic()
                if self.lease.lost.is_set():
                    self._why = "the lease was lost to another driver"
                elif self._state() in ("paused", "cancelled"):
                    self._why = f"the campaign was {self._state()} by an operator"
            return self._why

    # -- the plan ------------------------------------------------------------------------------------------------------

    def _drive(self, through: str | None, only_step: str | None, only_site: str | None) -> None:
        with self._timed("recover"):
            self.outcome.healed += heal.heal(self.lake, self.runners, self.campaign, self.progress)
        with self._timed("inception"):
            inception.fill(self.lake, self.campaign, self.pipeline, self.progress)
        plan = list(placement.PLAN)
        position = 0
        while position < len(plan):
            kind, name = plan[position]
            if kind == "move":
                position += 1
                if only_step is None:
                    with self._timed(name):
                        self._move(name)
            else:
                steps = [name]
                while kind == "steps" and plan[position + len(steps) : position + len(steps) + 1] and (
                    plan[position + len(steps)][0] == "steps"
                ):  # fmt: skip
                    steps.append(plan[position + len(steps)][1])
                position += len(steps)
                if through in steps:
                    steps = steps[: steps.index(through) + 1]
                if only_step is not None:
                    steps = [step for step in steps if step == only_step]
                sites = [self.lake.central.name] if kind == "central" else list(self.campaign.sites)
                if only_site is not None:
                    sites = [site for site in sites if site == only_site]
                if steps and sites:
                    self._steps(steps, sites)
                if through in steps:
                    return
            if self.outcome.problems:
                return

    def _move(self, phase: str) -> None:
        self.progress.phase(phase)
        specs = placement.rules(phase, self.pipeline, self.campaign, self.lake.central.name)
        self._event(phase, self.lake.central.name, "running")
        rules = movement.add_rules(self.lake, specs)
        report = movement.run_rules(
            self.lake, rules, lambda done, total: self.progress.update("movement", phase, done, total)
        )
        self.outcome.files_moved += report.files
        for rule in report.stuck:
            self.outcome.problems.append(f"rule {rule.name} is STUCK: {rule.reason}; look with drp transfers")
        self._event(phase, self.lake.central.name, "failed" if report.stuck else "accepted")

    def _steps(self, steps: Iterable[str], sites: list[str]) -> None:
        self.progress.phase(" ".join(steps))
        with ThreadPoolExecutor(len(sites)) as threads:
            results = [threads.submit(self._site, list(steps), site) for site in sites]
            for result in results:
                result.result()

    def _site(self, steps: list[str], site: str) -> None:
        """All given steps at one site, in order; stops at the first that is not accepted."""
        runner = self.runners[site]
        runner.predict()
        for step in steps:
            before = runner.tally(step)
            if before.done == before.quanta and before.quanta:
                continue
            with self._timed(step, site):
                self._event(step, site, "running", before)
                after = runner.run_step(step)
            self.outcome.quanta_run += after.done - before.done
            if after.failed > self.campaign.tolerate.get(step, 0.0) * after.quanta and not self._accepted(step, site, after):
                self._event(step, site, "reviewable", after)
                self.outcome.problems.append(
                    f"{step} at {site}: {after.failed} of {after.quanta} quanta failed; "
                    f"look with drp status --step {step}, then drp retry or drp accept"
                )
                return
            self._event(step, site, "accepted", after)

    def _accepted(self, step: str, site: str, tally: Tally) -> bool:
        """True when an operator accepted at least these failures by name."""
        for event in latest(self.lake, "step", "step, site", self.campaign.name):
            if event["step"] == step and event["site"] == site:
                return event["state"] == "accepted" and (event["failed"] or 0) >= tally.failed
        return False

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
    driver: Callable[..., Driver] = Driver,
) -> Outcome:
    """Run or continue a campaign; see Driver.run."""
    return driver(lake, campaign, progress).run(through, step, site)
