"""One job in this process: what is written, what is handed back, and what a task may not return."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy

import schemas
from lake import datastore, slices
from lake.site import Lake, Site
from pipelines import execute, graph
from pipelines.definition import Task
from pipelines.execute import CachedInputs, JobSpec
from pipelines.image import Image
from pipelines.jobs import Jobs
from pipelines.journal import Journal
from pipelines.quantum import DamagedInput, DatasetRef, Payload
from pipelines.runner import SiteRunner


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return toy.lake(tmp_path / "lake", 2, raws=True)


def jobs(lake: Lake, label: str) -> list[JobSpec]:
    """The jobs of a task, as the runner would hand them to the pool."""
    runner = SiteRunner(lake.central, toy.pipeline(), toy.campaign(), Journal(lake, "toy"), "software")
    runner.predict()
    task = next(t for t in runner.pipeline.tasks if t.label == label)
    quanta = runner.pending(task)
    edges = graph.resolve(lake.central, runner.pipeline, runner.campaign, task, quanta)
    return Jobs(lake.central, runner.pipeline, runner.campaign).of(task, quanta, edges)


def returning(spec: JobSpec, monkeypatch: pytest.MonkeyPatch, payloads: Any) -> execute.JobResult:
    """Run a job whose task returns the given payloads."""
    monkeypatch.setattr(Task, "load", lambda self: lambda quantum, inputs: payloads)
    return execute.run_job(spec)


def rows(visits: list[int], **more: Any) -> pa.Table:
    """Rows of ``visit_table`` without site."""
    columns = schemas.table("visit_table").arrow.remove(0)
    fixed = {"expMidptMJD": 6e4, "expTime": 30.0, "ra": 0.0, "dec": 0.0, "photometric": True, "nDetector": 2} | more
    return pa.Table.from_pylist([{c: (toy.night(v) | {"visit": v} | fixed).get(c) for c in columns.names} for v in visits], columns)


def test_a_job_of_files(lake: Lake) -> None:
    spec = jobs(lake, "isr")[0]
    assert (spec.job, spec.attempt, len(spec.quanta)) == ("isr/exposure=1", 1, 2)
    result = execute.run_job(spec)
    assert [a["state"] for a in result.attempts] == ["succeeded", "succeeded"]
    assert all(a["seconds"] >= 0 and a["peak_memory_mb"] > 1 and a["host"] for a in result.attempts)
    for row in result.datasets:
        file = lake.central.path(row["path"])
        assert (file.stat().st_size, datastore.checksum(file)) == (row["bytes"], row["checksum"])
        assert row["path"] == f"files/toy/step1/post_isr_image/20260101/post_isr_image_Toy_1_d{row['detector']}.json"
        assert (row["rows"], row["origin"]) == (None, "A")
        assert row["dataset_id"] == spec.expected[row["quantum_id"], "post_isr_image"][0]["dataset_id"]
    assert execute.run_job(spec).datasets == result.datasets, "the same bytes at the same place"
    assert not list(lake.central.root.rglob(f"{datastore.TEMPORARY}*"))


def test_a_job_of_slices_is_one_file(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = jobs(lake, "summarize")
    assert len(spec.quanta) == 2
    monkeypatch.setattr(Task, "load", lambda self: lambda quantum, inputs: {"visit_table": rows([quantum.data_id["visit"]])})
    result = execute.run_job(spec)
    assert len({row["path"] for row in result.datasets}) == 1
    assert [row["rows"] for row in result.datasets] == [1, 1]
    file = lake.central.path(result.datasets[0]["path"])
    assert pq.ParquetFile(file).metadata.num_row_groups == 2
    for row in result.datasets:
        assert slices.read_slice(lake.central, row["path"], row["dataset_id"])["visit"].to_pylist() == [row["visit"]]
    assert "site=A/day_obs=20260101" in result.datasets[0]["path"]


@pytest.mark.parametrize(
    ("payloads", "words"),
    [
        ({}, "summarize returned [], declared are ['visit_table']"),
        (None, "summarize returned NoneType"),
        ({"visit_table": rows([1]), "raw": b""}, "['raw', 'visit_table']"),
        ({"visit_table": b"rows"}, "visit_table is stored as table, summarize returned a bytes"),
        ({"visit_table": {"visit": [1]}}, "returned a dict"),
        ({"visit_table": rows([1]).drop_columns(["nDetector"])}, "nDetector"),
        ({"visit_table": rows([1], photometric=None)}, "photometric"),
    ],
)
def test_what_a_task_may_not_return(lake: Lake, monkeypatch: pytest.MonkeyPatch, payloads: Any, words: str) -> None:
    (spec,) = jobs(lake, "summarize")
    result = returning(spec, monkeypatch, payloads)
    assert [a["state"] for a in result.attempts] == ["failed", "failed"]
    assert words in result.attempts[0]["reason"] and "\n" not in result.attempts[0]["reason"]
    assert result.datasets == []


def test_one_bad_table_does_not_spoil_the_job(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = jobs(lake, "summarize")

    def task(quantum: Any, inputs: Any) -> dict[str, Payload]:
        visit = quantum.data_id["visit"]
        return {"visit_table": rows([visit], photometric=None if visit == 1 else True)}

    monkeypatch.setattr(Task, "load", lambda self: task)
    result = execute.run_job(spec)
    assert [a["state"] for a in result.attempts] == ["failed", "succeeded"]
    assert [row["visit"] for row in result.datasets] == [2]


def finer(lake: Lake) -> JobSpec:
    """A job of one quantum that should leave a table dataset per visit."""
    (spec,) = jobs(lake, "summarize")
    expected = [rows for found in spec.expected.values() for rows in found]
    first = spec.quanta[0]
    return replace(spec, quanta=(first,), expected={(first.quantum_id, "visit_table"): expected})


def test_a_finer_table_is_split(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    result = returning(finer(lake), monkeypatch, {"visit_table": rows([2, 1])})
    assert sorted((row["visit"], row["rows"]) for row in result.datasets) == [(1, 1), (2, 1)]
    result = returning(finer(lake), monkeypatch, {"visit_table": rows([1])})
    assert sorted((row["visit"], row["rows"]) for row in result.datasets) == [(1, 1), (2, 0)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (rows([1, 2, 3]), "visit_table: rows with a visit that was not expected"),
        (rows([1, 2]).select(["day_obs", "nDetector"]), "visit_table: the table has no column that tells its 2 datasets apart"),
    ],
)
def test_a_finer_table_that_does_not_split(lake: Lake, monkeypatch: pytest.MonkeyPatch, table: pa.Table, words: str) -> None:
    (attempt,) = returning(finer(lake), monkeypatch, {"visit_table": table}).attempts
    assert attempt["state"] == "failed" and attempt["reason"].startswith(f"Mismatch: {words}")


def test_slices_that_cannot_be_written_fail_their_quanta(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    (spec,) = jobs(lake, "summarize")

    def refuse(*_: Any) -> None:
        raise ValueError("no such thing")

    monkeypatch.setattr(slices, "write_slices", refuse)
    monkeypatch.setattr(Task, "load", lambda self: lambda quantum, inputs: {"visit_table": rows([quantum.data_id["visit"]])})
    result = execute.run_job(spec)
    assert [a["state"] for a in result.attempts] == ["failed", "failed"] and result.datasets == []
    assert result.attempts[0]["reason"].startswith("ValueError: no such thing")


@pytest.mark.parametrize("number", execute.STORAGE_FAILURES)
def test_a_full_disk_is_not_a_quantums_fault(lake: Lake, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def writing(site: Site, rel: str, content: bytes) -> None:
        try:
            raise OSError(number, "no")
        except OSError as error:
            raise datastore._failure(site, rel, error) from None

    spec = jobs(lake, "isr")[0]
    monkeypatch.setattr(datastore, "write_file", writing)
    with pytest.raises(datastore.DatastoreError, match="site A"):
        execute.run_job(spec)


def test_a_bad_sector_is(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    def reading(quantum: Any, inputs: Any) -> dict[str, Payload]:
        raise OSError(errno.EIO, "bad sector")

    spec = jobs(lake, "isr")[0]
    monkeypatch.setattr(Task, "load", lambda self: reading)
    assert [a["state"] for a in execute.run_job(spec).attempts] == ["failed", "failed"]


def test_images_are_read_once_and_handed_out_as_copies(lake: Lake) -> None:
    site = lake.central
    image = Image(np.ones((4, 4), np.float32), np.ones((4, 4), np.float32), np.zeros((4, 4), np.int32))
    record = datastore.write_file(site, "files/x.fits", image.write)
    ref = DatasetRef("1", "flat", {}, record.path, None, record.bytes, record.checksum)
    inputs = CachedInputs(site.root, {"flat": [ref]})
    first = inputs.image("flat")
    first.image[:] = 7.0
    site.path(record.path).unlink()
    assert inputs.image("flat").image.max() < 2.0
    with pytest.raises(DamagedInput, match=r"files/x.fits is lost"):
        CachedInputs(site.root, {"flat": [DatasetRef("1", "flat", {}, record.path, None, 1, "0")]}).image("flat")
    with pytest.raises(KeyError, match="0 inputs of type bias"):
        inputs.image("bias")


def test_workers_have_one_thread_and_no_interrupts() -> None:
    with execute.pool(1) as pool:
        assert pool.submit(worker_state).result(60) == (1, True)


def worker_state() -> tuple[int, bool]:
    import signal

    import numexpr

    return numexpr.get_num_threads(), signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, [])
