"""Run one job in a worker process: tasks on their quanta, payloads to files, records back to the committer.

A job is a cluster of quanta of one task. It writes immutable payload files and returns small records; it never touches a
Delta table. A quantum that fails does not stop the others of its job.
"""

from __future__ import annotations

import os
import resource
import socket
import threading
import time
import traceback
from collections import OrderedDict
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any

import pyarrow as pa

import schemas
from lake import datastore, slices
from lake.site import Site
from pipelines.definition import Pipeline, Task
from pipelines.image import Image
from pipelines.quantum import DatasetRef, Inputs, NoWork, Payload, Quantum


@dataclass(frozen=True)
class JobSpec:
    """A job as sent to a worker. ``outputs`` maps (quantum_id, dataset type) to the expected dataset rows of that output."""

    job: str
    attempt: int
    site: Site
    task: Task
    quanta: tuple[Quantum, ...]
    refs: Mapping[str, Mapping[str, list[DatasetRef]]]
    expected: Mapping[tuple[str, str], list[dict[str, Any]]]
    dimensions: Mapping[str, tuple[str, ...]]
    storage: Mapping[str, str]


@dataclass
class JobResult:
    """What a job left: ``datasets`` rows (schema ``dataset`` without ``registered_at``) and one attempt row per quantum."""

    job: str
    task: str
    datasets: list[dict[str, Any]] = field(default_factory=list)
    attempts: list[dict[str, Any]] = field(default_factory=list)


class Mismatch(ValueError):
    """A task returned something else than it declares."""


def run_job(spec: JobSpec) -> JobResult:
    """Run all quanta of a job; never raises for a quantum's own failure."""
    function = spec.task.load()
    result = JobResult(spec.job, spec.task.label)
    verified: set[str] = set()
    tables: dict[str, list[tuple[dict[str, Any], pa.Table]]] = {name: [] for name in spec.task.outputs}
    for quantum in spec.quanta:
        start = time.perf_counter()
        state, reason = "succeeded", None
        try:
            inputs = CachedInputs(spec.site.root, spec.refs.get(quantum.quantum_id, {}), verified)
            payloads = function(quantum, inputs)
            _check(spec.task, payloads)
            files, rows = [], []
            for name in spec.task.outputs:
                for row, payload in _split(name, spec.expected[(quantum.quantum_id, name)], payloads[name]):
                    if isinstance(payload, pa.Table):
                        rows.append((name, row, payload))
                    else:
                        files.append(_write(spec, name, row, payload))
            result.datasets += files
            for name, row, payload in rows:
                tables[name].append((row, payload))
        except NoWork as nothing:
            state, reason = "no_work", str(nothing)
        except MemoryError:
            state, reason = "failed", "out of memory"
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            state, reason = "failed", f"{type(error).__name__}: {error} ({Path(where.filename).name}:{where.lineno})"
        result.attempts.append(
            {
                "quantum_id": quantum.quantum_id, "task": spec.task.label, "step": spec.task.step, "job": spec.job,
                "attempt": spec.attempt, "state": state, "reason": reason[:2048] if reason else None,
                "seconds": time.perf_counter() - start,
                "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "host": socket.gethostname(),
            }
        )  # fmt: skip
    for name, parts in tables.items():
        if parts:
            result.datasets += _write_slices(spec, name, parts)
    return result


def _check(task: Task, payloads: Mapping[str, Payload]) -> None:
    if set(payloads) != set(task.outputs):
        raise Mismatch(f"{task.label} returned {sorted(payloads)}, declared are {sorted(task.outputs)}")


def _split(name: str, expected: list[dict[str, Any]], payload: Payload) -> list[tuple[dict[str, Any], Payload]]:
    """The payload per expected dataset: itself, or, for a table over finer dimensions, the rows of each data ID."""
    if len(expected) == 1 or not isinstance(payload, pa.Table):
        return [(expected[0], payload)]
    finer = [c for c in schemas.DATA_ID if len({row[c] for row in expected}) > 1 and c in payload.column_names]
    key = finer[0] if finer else None
    if key is None:
        raise Mismatch(f"{name}: the table has no column that tells its {len(expected)} datasets apart")
    values = payload[key].to_numpy()
    parts = [(row, payload.filter(pa.array(values == row[key]))) for row in expected]
    if sum(part.num_rows for _, part in parts) != payload.num_rows:
        raise Mismatch(f"{name}: rows with a {key} that was not expected")
    return [(row, part) for row, part in parts]


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


def _write_slices(spec: JobSpec, name: str, parts: list[tuple[dict[str, Any], pa.Table]]) -> list[dict[str, Any]]:
    """All slices of one table that the job made, as few files as partitions allow."""
    conformed = []
    for expected, table in parts:
        site = pa.array([spec.site.name] * table.num_rows, pa.string())
        columns = [c for c in table.column_names if c != "site"]
        whole = schemas.conform(name, table.select(columns).append_column("site", site))
        conformed.append((expected["dataset_id"], {"site": spec.site.name, **_partition(name, expected, whole)}, whole))
    written = {record.dataset_id: record for record in slices.write_slices(spec.site, name, conformed)}
    return [
        _row(spec, name, expected) | {
            "path": r.path, "bytes": r.bytes, "rows": r.rows, "checksum": r.checksum,
            "file_bytes": r.file_bytes, "file_checksum": r.file_checksum,
        }
        for expected, _ in parts
        for r in (written[expected["dataset_id"]],)
    ]  # fmt: skip


def _partition(name: str, expected: Mapping[str, Any], table: pa.Table) -> dict[str, Any]:
    """Partition values of a slice, from its data ID (a slice lies in one partition)."""
    values = {}
    for column in schemas.table(name).partition_by:
        if column != "site":
            values[column] = expected[column] if expected.get(column) is not None else table[column][0].as_py()
    return values


class CachedInputs(Inputs):
    """Inputs that keep recently read images of this process: the quanta of a job often read the same ones."""

    LIMIT = 96 * 2**20
    _images: OrderedDict[tuple[str, str | None], Image] = OrderedDict()
    _held = 0

    def _read(self, ref: DatasetRef) -> Image:
        key = (str(self.root / ref.path), ref.file_checksum)
        cache = CachedInputs._images
        if key not in cache:
            image = Image.read(self.path(ref))
            cache[key] = image
            CachedInputs._held += image.nbytes
            while CachedInputs._held > self.LIMIT and len(cache) > 1:
                CachedInputs._held -= cache.popitem(last=False)[1].nbytes
        cache.move_to_end(key)
        return cache[key].copy()

    def image(self, dataset_type: str) -> Image:
        refs = self.refs(dataset_type)
        if len(refs) != 1:
            raise KeyError(f"{len(refs)} inputs of type {dataset_type}, one is needed")
        return self._read(refs[0])

    def images(self, dataset_type: str) -> list[tuple[DatasetRef, Image]]:
        return [(ref, self._read(ref)) for ref in self.refs(dataset_type)]


def pool(workers: int) -> ProcessPoolExecutor:
    """A pool of worker processes, started by spawn (delta-rs does not survive fork), that die with their parent."""
    return ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_start_worker)


def _start_worker() -> None:
    """One thread of arithmetic per worker, and no life after the driver's."""
    import numexpr

    numexpr.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


#: Worker processes inherit these from the driver: parallelism is over jobs, not inside them.
WORKER_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"}


def pipeline_storage(pipeline: Pipeline) -> dict[str, str]:
    """Storage class by dataset type."""
    return {name: kind.storage for name, kind in pipeline.dataset_types.items()}
