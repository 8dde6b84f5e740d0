"""Run one job in a worker process: tasks on their quanta, payloads to files, records back to the committer.

A job is a cluster of quanta of one task. It writes immutable payload files and returns small records; it never touches a
Delta table. A quantum that fails does not stop the others of its job.
"""

from __future__ import annotations

import atexit
import errno
import os
import resource
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import access, datastore, slices
from lake.site import Site
from pipelines import software
from pipelines.definition import Task
from pipelines.image import Image
from pipelines.kept import Kept
from pipelines.quantum import DatasetRef, Inputs, NoWork, Payload, Quantum


@dataclass(frozen=True)
class JobSpec:
    """A job as sent to a worker. ``expected`` maps (quantum_id, dataset type) to the expected dataset rows of that output;
    ``software`` is the fingerprint that the worker must have.
    """

    job: str
    attempt: int
    site: Site
    task: Task
    quanta: tuple[Quantum, ...]
    refs: Mapping[str, Mapping[str, list[DatasetRef]]]
    expected: Mapping[tuple[str, str], list[dict[str, Any]]]
    storage: Mapping[str, str]
    software: bytes | None = None


@dataclass
class JobResult:
    """What a job left: ``datasets`` rows (schema ``dataset`` without ``registered_at``) and one attempt row per quantum."""

    job: str
    task: str
    datasets: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)


class Mismatch(ValueError):
    """A task returned something else than it declares."""


#: A payload on its way to a catalogue table: the expected dataset, and its rows as the table declares them.
Part = tuple[Mapping[str, Any], pa.Table]

#: What no other attempt at the same quantum would mend: the site's storage takes no more files.
STORAGE_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def run_job(spec: JobSpec) -> JobResult:
    """Run all quanta of a job; raises only where the site's storage takes no more files (OSError, LakeError), or where this
    worker runs other software than the job asks for (FingerprintError).
    """
    if spec.software is not None:
        software.require(spec.software, software.describe(), f"site {spec.site.name}: a worker on {socket.gethostname()}")
    access.trim()
    result = JobResult(spec.job, spec.task.label)
    verified: set[str] = set()
    tables: dict[str, list[Part]] = {name: [] for name in spec.task.outputs}
    for quantum in spec.quanta:
        start = time.perf_counter()
        state, reason = "succeeded", None
        try:
            files, parts = _run_quantum(spec, quantum, verified)
            result.datasets += files
            for name, part in parts:
                tables[name].append(part)
        except NoWork as nothing:
            state, reason = "no_work", str(nothing)
        except Exception as error:
            _raise_if_storage_failed(error)
            state, reason = "failed", _reason(error)
        result.attempts.append(
            {
                "quantum_id": quantum.quantum_id, "task": spec.task.label, "step": spec.task.step, "job": spec.job,
                "attempt": spec.attempt, "state": state, "reason": reason,
                "seconds": time.perf_counter() - start,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "host": socket.gethostname(),
            }
        )  # fmt: skip
    for name, made in tables.items():
        if made:
            try:
                result.datasets += _write_slices(spec, name, made)
            except Exception as error:
                _raise_if_storage_failed(error)
                _fail(result, {expected["quantum_id"] for expected, _ in made}, _reason(error))
    return result


def _run_quantum(spec: JobSpec, quantum: Quantum, verified: set[str]) -> tuple[list[dict[str, Any]], list[tuple[str, Part]]]:
    """Call the task; returns the rows of the files it left, and the parts of tables, which are written by job."""
    inputs = CachedInputs(spec.site.root, spec.refs.get(quantum.quantum_id, {}), verified)
    payloads = spec.task.load()(quantum, inputs)
    if not isinstance(payloads, Mapping) or set(payloads) != set(spec.task.outputs):
        returned = sorted(payloads) if isinstance(payloads, Mapping) else type(payloads).__name__
        raise Mismatch(f"{spec.task.label} returned {returned}, declared are {sorted(spec.task.outputs)}")
    whole = [
        (name, expected, payload)
        for name in spec.task.outputs
        for expected, payload in _split(name, spec.expected[quantum.quantum_id, name], payloads[name])
    ]
    for name, _, payload in whole:
        if isinstance(payload, pa.Table) != (spec.storage[name] == "table") or not isinstance(payload, pa.Table | Image | bytes):
            raise Mismatch(f"{name} is stored as {spec.storage[name]}, {spec.task.label} returned a {type(payload).__name__}")
    parts: list[tuple[str, Part]] = [
        (name, (row, _declared(spec, name, rows))) for name, row, rows in whole if isinstance(rows, pa.Table)
    ]
    files = [_write(spec, name, row, payload) for name, row, payload in whole if not isinstance(payload, pa.Table)]
    return files, parts


def _declared(spec: JobSpec, name: str, rows: pa.Table) -> pa.Table:
    """Rows with the declared columns of a table, ``site`` filled in."""
    site = pa.array([spec.site.name] * rows.num_rows, pa.string())
    own = [c for c in rows.column_names if c != "site"]
    return schemas.conform(name, rows.select(own).append_column("site", site))


def _fail(result: JobResult, quanta: set[str], reason: str) -> None:
    """Turn the successes of some quanta into failures; what they left is not registered."""
    result.datasets = [row for row in result.datasets if row["quantum_id"] not in quanta]
    for attempt in result.attempts:
        if attempt["quantum_id"] in quanta and attempt["state"] == "succeeded":
            attempt |= {"state": "failed", "reason": reason}


def _reason(error: Exception) -> str:
    """An error in one line, with the last line of the project's own code that it passed through."""
    if isinstance(error, MemoryError):
        return "out of memory"
    frames = traceback.extract_tb(error.__traceback__)
    where = ([frame for frame in frames if "site-packages" not in frame.filename] or list(frames))[-1]
    text = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"{text[:1900]} ({Path(where.filename).name}:{where.lineno})"


def _raise_if_storage_failed(error: BaseException) -> None:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in STORAGE_FAILURES:
            raise error
        cause = cause.__context__


def _split(name: str, expected: list[dict[str, Any]], payload: Payload) -> list[tuple[dict[str, Any], Payload]]:
    """The payload per expected dataset: itself, or, for a table over finer dimensions, the rows of each data ID."""
    if len(expected) == 1:
        return [(expected[0], payload)]
    if not isinstance(payload, pa.Table):
        raise Mismatch(f"{name}: one file cannot be {len(expected)} datasets")
    finer = [c for c in schemas.DATA_ID if len({row[c] for row in expected}) > 1 and c in payload.column_names]
    if not finer:
        raise Mismatch(f"{name}: the table has no column that tells its {len(expected)} datasets apart")
    key = finer[0]
    parts: list[tuple[dict[str, Any], Payload]] = [(row, payload.filter(pc.equal(payload[key], row[key]))) for row in expected]
    if sum(part.num_rows for _, part in parts) != payload.num_rows:
        raise Mismatch(f"{name}: rows with a {key} that was not expected")
    return parts


def _row(spec: JobSpec, name: str, expected: Mapping[str, Any]) -> dict[str, Any]:
    return {c: expected[c] for c in ("dataset_id", "run", "quantum_id", *schemas.DATA_ID)} | {
        "dataset_type": name, "origin": spec.site.name,
    }  # fmt: skip


def _write(spec: JobSpec, name: str, expected: Mapping[str, Any], payload: Image | bytes) -> dict[str, Any]:
    path = datastore.template(expected["run"], name, expected, spec.storage[name])
    record = datastore.write_file(spec.site, path, payload if isinstance(payload, bytes) else payload.write)
    return _row(spec, name, expected) | {
        "path": record.path, "bytes": record.bytes, "rows": None, "checksum": record.checksum,
        "file_bytes": record.bytes, "file_checksum": record.checksum,
    }  # fmt: skip


def _write_slices(spec: JobSpec, name: str, parts: list[Part]) -> list[dict[str, Any]]:
    """All slices of one table that the job made, as few files as partitions allow."""
    by = [c for c in schemas.table(name).partition_by if c != "site"]
    conformed = [
        (expected["dataset_id"], {"site": spec.site.name} | {c: expected[c] for c in by}, rows) for expected, rows in parts
    ]
    written = {record.dataset_id: record for record in slices.write_slices(spec.site, name, conformed)}
    return [
        _row(spec, name, expected) | {
            "path": r.path, "bytes": r.bytes, "rows": r.rows, "checksum": r.checksum,
            "file_bytes": r.file_bytes, "file_checksum": r.file_checksum,
        }
        for expected, _ in parts
        for r in (written[expected["dataset_id"]],)
    ]  # fmt: skip


class CachedInputs(Inputs):
    """Inputs that keep recently read images and tables of this process: the quanta of a job often read the same ones."""

    _images: ClassVar[Kept[Image]] = Kept(96 * 2**20)
    _tables: ClassVar[Kept[pa.Table]] = Kept(48 * 2**20)

    def _read(self, ref: DatasetRef) -> Image:
        key = (str(self.root / ref.path), ref.file_checksum)
        return CachedInputs._images.get(key, lambda: super(CachedInputs, self)._read(ref)).copy()

    def table(self, dataset_type: str) -> pa.Table:
        key = (str(self.root), dataset_type, *((ref.path, ref.dataset_id, ref.file_checksum) for ref in self.refs(dataset_type)))
        return CachedInputs._tables.get(key, lambda: super(CachedInputs, self).table(dataset_type))


class WorkerPool(ProcessPoolExecutor):
    """Worker processes to which Ctrl-C means nothing: it is for the driver to say what becomes of the running jobs."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # a worker that is started inherits the mask
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.shutdown(wait=True, cancel_futures=error is not None)


def pool(workers: int) -> WorkerPool:
    """A pool of worker processes, started by spawn (delta-rs does not survive fork), that die with their parent."""
    return WorkerPool(workers, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """One thread of arithmetic per worker, no life after the driver's, and no tearing down of libraries at the end."""
    import numexpr

    atexit.register(os._exit, 0)  # DuckDB's binding would report its open connections as leaks

    numexpr.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


#: Worker processes inherit these from the driver: parallelism is over jobs, not inside them; and memory that is freed is
#: kept for what comes next, as images come and go (glibc would return it, and clear it page by page when it is asked again).
WORKER_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(64 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(128 * 2**20),
}  # fmt: skip
