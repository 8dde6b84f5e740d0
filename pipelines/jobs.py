"""Jobs, as they are sent to workers: clusters of quanta with the inputs they read and the datasets they should leave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake.site import Site
from pipelines import graph
from pipelines.campaign import Campaign
from pipelines.definition import Pipeline, Task
from pipelines.execute import JobSpec
from pipelines.quantum import DatasetRef, Quantum


class GraphError(RuntimeError):
    """The predicted quanta and their expected outputs do not fit together."""


class Jobs:
    """Makes jobs at one site; keeps the dimension records that it has read."""

    def __init__(self, site: Site, pipeline: Pipeline, campaign: Campaign) -> None:
        self.site, self.pipeline, self.campaign = site, pipeline, campaign
        self._records: dict[str, list[dict[str, Any]]] = {}
        self._index: dict[tuple[str, ...], dict[tuple[Any, ...], list[dict[str, Any]]]] = {}

    def of(self, task: Task, quanta: pa.Table, edges: pa.Table) -> list[JobSpec]:
        """The jobs of pending quanta, in order, each with the quanta's inputs (``edges``) and expected outputs; GraphError."""
        refs: dict[str, dict[str, list[DatasetRef]]] = {}
        for row in edges.to_pylist():
            ref = DatasetRef(
                row["dataset_id"], row["dataset_type"], {c: row[c] for c in schemas.DATA_ID if row[c] is not None},
                row["path"], row["rows"], row["file_bytes"], row["file_checksum"],
            )  # fmt: skip
            refs.setdefault(row["quantum_id"], {}).setdefault(row["dataset_type"], []).append(ref)
        expected: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for row in self._expected(task, quanta).to_pylist():
            expected.setdefault((row["quantum_id"], row["dataset_type"]), []).append(row)
        unknown = [q for q in quanta["quantum_id"].to_pylist() if any((q, name) not in expected for name in task.outputs)]
        if unknown:
            raise GraphError(
                f"{task.label} at {self.site.name}: the table expected_dataset has no outputs for {len(unknown)} of "
                f"{quanta.num_rows} quanta ({', '.join(unknown[:3])}); audit the site, then run again"
            )
        storage = {name: kind.storage for name, kind in self.pipeline.dataset_types.items()}
        clusters: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in quanta.to_pylist():  # quanta that were tried more often make a job of their own: attempts stay bounded
            clusters.setdefault((row["job"], int(row["tried"])), []).append(row)
        return [
            JobSpec(
                job=job, attempt=tried + 1, site=self.site, task=task,
                quanta=tuple(self._quantum(task, row) for row in members),
                refs={row["quantum_id"]: refs[row["quantum_id"]] for row in members if row["quantum_id"] in refs},
                expected={(row["quantum_id"], name): expected[row["quantum_id"], name] for row in members for name in task.outputs},
                storage=storage,
            )
            for (job, tried), members in clusters.items()
        ]  # fmt: skip

    def _expected(self, task: Task, quanta: pa.Table) -> pa.Table:
        """Rows of ``expected_dataset`` for these quanta, ordered by dataset type and id."""
        kinds = ", ".join(f"'{name}'" for name in task.outputs)
        with graph.connect(self.site, ["expected_dataset"], f"dataset_type IN ({kinds})") as con:
            rows = con.sql(
                "SELECT * FROM expected_dataset WHERE task = $task ORDER BY dataset_type, dataset_id", params={"task": task.label}
            ).to_arrow_table()
        return rows.filter(pc.is_in(rows["quantum_id"], quanta["quantum_id"].combine_chunks()))

    def _quantum(self, task: Task, row: dict[str, Any]) -> Quantum:
        data_id = {c: row[c] for c in schemas.DATA_ID if row[c] is not None}
        config = self.campaign.config.get(task.section, {})
        return Quantum(row["quantum_id"], task.label, data_id, config, self.context(data_id))

    def context(self, data_id: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """The dimension records of a data ID; with them all detectors of its instrument and all patches of its tract."""
        context = {}
        for name in ("instrument", "detector", "visit", "skymap", "tract", "patch"):
            keys = tuple(c for c in schemas.table(name).primary_key if c in data_id)
            if not keys or (name in ("visit", "patch", "tract") and name not in data_id and len(keys) < 2):
                continue
            context[name] = self._indexed(name, keys).get(tuple(data_id[c] for c in keys), [])
        return context

    def _indexed(self, table: str, keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[dict[str, Any]]]:
        """Records of a dimension table by the values of some of its columns."""
        if table not in self._records:
            with graph.connect(self.site, [table]) as con:
                order = ", ".join(schemas.table(table).primary_key)
                self._records[table] = con.sql(f"SELECT * FROM {table} ORDER BY {order}").to_arrow_table().to_pylist()
        if (table, *keys) not in self._index:
            index: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
            for record in self._records[table]:
                index.setdefault(tuple(record[c] for c in keys), []).append(record)
            self._index[table, *keys] = index
        return self._index[table, *keys]
