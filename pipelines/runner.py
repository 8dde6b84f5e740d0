"""Run the tasks of a step at one site: subtract what exists, resolve inputs, run jobs on the site's pool, publish.

Every finished job is published with the site's one committer, in batches. A quantum that fails is tried again, up to the
campaign's number of attempts. When a worker dies, the jobs that were running are tried again one at a time, then quantum
by quantum, so that the one that kills its worker is found and the others do not pay for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta, publish, upkeep
from lake.site import LakeError, Site
from pipelines import execute, graph, software
from pipelines.campaign import Campaign
from pipelines.definition import Pipeline, Task
from pipelines.execute import JobResult, JobSpec
from pipelines.jobs import Jobs
from pipelines.journal import Journal, now, who
from pipelines.software import FingerprintError

PUBLISH_SECONDS = 5.0


class Stopped(Exception):
    """The campaign was paused or cancelled, or the lease was lost."""


class WorkerError(RuntimeError):
    """A site's worker processes cannot be started."""


@dataclass(frozen=True)
class Tally:
    """Quanta of a step at a site: all, done (succeeded or no work), failed for good (or blocked)."""

    quanta: int
    done: int
    failed: int


class SiteRunner:
    """Runs steps at one site. ``progress(task label, done, total)`` is called as quanta finish."""

    def __init__(
        self,
        site: Site,
        pipeline: Pipeline,
        campaign: Campaign,
        journal: Journal,
        fingerprint: str,
        stopping: Callable[[], str | None] = lambda: None,
        progress: Callable[[str, int, int], None] = lambda task, done, total: None,
    ) -> None:
        self.site, self.pipeline, self.campaign, self.journal = site, pipeline, campaign, journal
        self.fingerprint, self.stopping, self.progress = fingerprint, stopping, progress
        self.publisher = publish.Publisher(site)
        self._pool: ProcessPoolExecutor | None = None
        self._software: bytes | None = None
        self._predicted: list[int] = []
        self._jobs = Jobs(site, pipeline, campaign)

    def close(self) -> None:
        """Stop the workers once their jobs are done; what these made is not published (the next run makes it again)."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def _submit(self, spec: JobSpec, running: dict[Future[JobResult], JobSpec]) -> None:
        """Hand a job to the pool; a pool that broke in the meantime is replaced."""
        for _ in range(2):
            try:
                if self._pool is None:
                    self._pool = self._admitted()
                spec = replace(spec, software=self._software)
                running[self._pool.submit(execute.run_job, spec)] = spec
                return
            except BrokenProcessPool:
                self._pool = None
        raise WorkerError(f"site {self.site.name}: worker processes cannot be started")

    def _admitted(self) -> ProcessPoolExecutor:
        """Workers for this site, which run the software that the campaign pinned and that was placed here."""
        run = self.pipeline.run(self.campaign.name, "software")
        self._software = software.pinned(self.site, run)
        if self._software is None:
            raise FingerprintError(f"site {self.site.name}: the campaign's software fingerprint is not here; drp run places it")
        pool = execute.pool(self.campaign.workers)
        try:
            software.require(self._software, pool.submit(software.describe).result(), f"site {self.site.name}")
        except FingerprintError:
            pool.shutdown()
            raise
        return pool

    # -- what is to do -------------------------------------------------------------------------------------------------

    def predict(self) -> int:
        """Write the site's quanta and expected datasets that are not yet known; returns how many quanta are new."""
        versions = [delta.version(self.site, table) for table in graph.FOOTPRINT]
        if versions == self._predicted:
            return 0
        quanta, expected = graph.predict(self.site, self.pipeline, self.campaign)
        stamp = pa.array([now()] * quanta.num_rows, schemas.table("quantum").arrow.field("noted_at").type)
        given = {"quantum": quanta.append_column("noted_at", stamp), "expected_dataset": expected}
        new = {}
        for table in ("expected_dataset", "quantum"):  # quanta last: a quantum that is known has its outputs known
            with graph.connect(self.site, [table]) as con:
                con.register("given", schemas.conform(table, given[table]))
                keys = ", ".join(schemas.table(table).primary_key)
                rows = con.sql(f'SELECT * FROM given ANTI JOIN "{table}" USING ({keys})').to_arrow_table()
            if rows.num_rows:
                delta.append(self.site, table, schemas.conform(table, rows))
            new[table] = int(rows.num_rows)
        self._predicted = versions
        return new["quantum"]

    def pending(self, task: Task) -> pa.Table:
        """Quanta of a task that have neither succeeded nor found nothing to do nor failed for good, with ``tried``."""
        return self._query("pending", task=task.label, attempts=self.campaign.attempts)

    def tallies(self) -> dict[str, Tally]:
        """Counts of the quanta of every step."""
        rows = self._query("tally", attempts=self.campaign.attempts).to_pylist()
        return {row["step"]: Tally(row["quanta"], row["done"], row["failed"]) for row in rows}

    def _query(self, name: str, **params: Any) -> pa.Table:
        sql = Path(__file__).with_name("runner.sql").read_text() + Path(__file__).with_name(f"{name}.sql").read_text()
        with graph.connect(self.site, ["quantum", "attempt"]) as con:
            return con.sql(sql, params={"campaign": self.campaign.name, **params}).to_arrow_table()

    # -- doing it ------------------------------------------------------------------------------------------------------

    def run_step(self, step: str) -> None:
        """Run every task of a step at this site to its end."""
        self._jobs = Jobs(self.site, self.pipeline, self.campaign)  # dimension records may have come since the last step
        for task in self.pipeline.step(step):
            if self.site.central or not self.campaign.runs_centrally(task):
                self.run_task(task)
        upkeep.tend(self.site)

    def run_task(self, task: Task, only: Iterable[str] | None = None) -> None:
        """Run the pending quanta of a task, or exactly those of ``only`` (to remake what was lost)."""
        quanta = self.pending(task) if only is None else self._quanta(task, only)
        if not quanta.num_rows:
            return
        edges = graph.resolve(self.site, self.pipeline, self.campaign, task, quanta)
        quanta = self._ready(task, quanta, edges)
        queue = deque(self._jobs.of(task, quanta, edges))
        suspects: deque[JobSpec] = deque()  # they ran when a worker died
        running: dict[Future[JobResult], JobSpec] = {}
        results: list[JobResult] = []
        total, done, failed, published = quanta.num_rows, 0, 0, time.monotonic()
        self.progress(task.label, done, total)
        self._group(task, "running")
        while queue or suspects or running:
            if why := self.stopping():
                self._settle(task, results, running)
                raise Stopped(why)
            while queue and not suspects and len(running) < 2 * self.campaign.workers:
                self._submit(queue.popleft(), running)
            if suspects and not running:
                self._submit(suspects.popleft(), running)
            for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                if future not in running:
                    continue
                spec = running.pop(future)
                died = False
                try:
                    result = future.result()
                except BrokenProcessPool:
                    self._pool = None
                    if running or len(spec.quanta) > 1:
                        suspects += [spec, *running.values()] if running else _singly(spec)
                        running.clear()
                        continue
                    result, died = self._lost(spec, task, "the worker process died"), True
                except (LakeError, OSError):
                    raise  # the site's storage takes no more files
                except Exception as error:  # what came back could not be read
                    result = self._lost(spec, task, f"{type(error).__name__}: {' '.join(str(error).split())[:1900]}")
                again = self._again(spec, result)
                if again is not None:
                    (suspects if died else queue).append(again)
                else:
                    failed += sum(a["state"] == "failed" for a in result.attempts)
                done += len(spec.quanta) - (len(again.quanta) if again else 0)
                results.append(result)
                self.progress(task.label, done, total)
            if results and (time.monotonic() - published > PUBLISH_SECONDS or not (queue or suspects or running)):
                self._settle(task, results)
                results, published = [], time.monotonic()
        self._group(task, "failed" if failed else "accepted")

    def _group(self, task: Task, state: str) -> None:
        """Note a transition of a task at this site, the group of the step's jobs."""
        self.journal.write("group", step=task.step, site=self.site.name, group=task.label, state=state, who=who(), why=None)

    def _ready(self, task: Task, quanta: pa.Table, edges: pa.Table) -> pa.Table:
        """The quanta that have their inputs; what became of the others is noted, unless it is known already."""
        missing = graph.missing_inputs(self.site, self.pipeline, self.campaign, task, quanta, edges)
        if not missing:
            return quanta
        lacking = pc.is_in(quanta["quantum_id"], pa.array(list(missing), pa.string()))
        without = quanta.filter(lacking)
        idle = graph.idle_producers(self.site, self.pipeline, self.campaign, task, without)
        noted = []
        for row in without.to_pylist():
            attempt = self._without_inputs(task, row, missing[row["quantum_id"]], idle)
            if (attempt["state"], attempt["reason"]) != (row["latest"], row["reason"]):
                noted.append(attempt)
        if noted:
            self._publish([], noted)
        return quanta.filter(pc.invert(lacking))

    def _settle(self, task: Task, results: list[JobResult], running: Mapping[Future[JobResult], JobSpec] | None = None) -> None:
        """Publish finished jobs; with ``running``, take back those that have not begun, and wait for the others first."""
        for future in [future for future in running or () if not future.cancel()]:
            if future.exception() is None:
                results.append(future.result())
        if results:
            self._publish([d for r in results for d in r.datasets], [a for r in results for a in r.attempts])
        for result in results:
            failed = [a for a in result.attempts if a["state"] == "failed"]
            self.journal.write(
                "job", step=task.step, site=self.site.name, job=result.job, attempt=result.attempts[0]["attempt"],
                state="failed" if failed else "succeeded", quanta=len(result.attempts),
                seconds=sum(a["seconds"] or 0 for a in result.attempts), why=failed[0]["reason"] if failed else None,
            )  # fmt: skip

    def _publish(self, datasets: list[dict[str, Any]], attempts: list[dict[str, Any]]) -> None:
        at = now()
        stamped = [{**row, "registered_at": at} for row in datasets]
        self.publisher.publish(
            publish.Batch(
                datasets=pa.Table.from_pylist(stamped, schema=schemas.table("dataset").arrow),
                attempts=pa.Table.from_pylist(
                    [{"campaign": self.campaign.name, "software": self.fingerprint, "noted_at": at, **row} for row in attempts],
                    schema=schemas.table("attempt").arrow,
                ),
            )
        )

    def _again(self, spec: JobSpec, result: JobResult) -> JobSpec | None:
        """The failed quanta of a job as another attempt, or None when there are none or attempts are used up."""
        failed = {a["quantum_id"] for a in result.attempts if a["state"] == "failed"}
        if not failed or spec.attempt >= self.campaign.attempts:
            return None
        return replace(spec, attempt=spec.attempt + 1, quanta=tuple(q for q in spec.quanta if q.quantum_id in failed))

    def _lost(self, spec: JobSpec, task: Task, reason: str) -> JobResult:
        """The result of a job that came to nothing."""
        attempts = [
            {**self._attempt(task, q.quantum_id, spec.job, spec.attempt), "state": "failed", "reason": reason} for q in spec.quanta
        ]
        return JobResult(spec.job, task.label, [], attempts)

    def _attempt(self, task: Task, quantum_id: str, job: str, attempt: int) -> dict[str, Any]:
        return {
            "quantum_id": quantum_id, "step": task.step, "task": task.label, "job": job, "attempt": attempt,
            "seconds": None, "peak_memory_mb": None, "host": None, "state": "", "reason": None,
        }  # fmt: skip

    def _without_inputs(self, task: Task, row: dict[str, Any], missing: list[str], idle: set[tuple[str, str]]) -> dict[str, Any]:
        """The attempt of a quantum that lacks inputs: nothing to do where their producers found nothing, else blocked."""
        nothing = all((row["quantum_id"], name) in idle for name in missing)
        return {
            **self._attempt(task, row["quantum_id"], row["job"], int(row["tried"]) + 1),
            "state": "no_work" if nothing else "blocked",
            "reason": f"lacks {', '.join(missing)}" + (": nothing was found to make them from" if nothing else ""),
        }  # fmt: skip

    def _quanta(self, task: Task, only: Iterable[str]) -> pa.Table:
        wanted = pa.table({"quantum_id": pa.array(sorted(only), pa.string())})
        with graph.connect(self.site, ["quantum"]) as con:
            con.register("wanted", wanted)
            return con.sql(
                "SELECT *, 0 AS tried, NULL::VARCHAR AS latest, NULL::VARCHAR AS reason "
                "FROM quantum SEMI JOIN wanted USING (quantum_id) WHERE task = $task ORDER BY job, quantum_id",
                params={"task": task.label},
            ).to_arrow_table()


def _singly(spec: JobSpec) -> list[JobSpec]:
    """A job as one job per quantum."""
    return [replace(spec, quanta=(quantum,)) for quantum in spec.quanta]
