"""What a task sees: its quantum, its inputs, and what it may return.

A task is a plain function ``run(quantum, inputs) -> {dataset type: payload}``. Its result may depend on nothing else:
inputs come in canonical order, random seeds from ``quantum.seed``, settings from ``quantum.config``.

Payloads: ``pipelines.image.Image`` or ``bytes`` (fits/json files; bytes are stored as they are), ``pyarrow.Table``
(table slices: the declared columns without ``site``; the data ID columns included). For an output whose dimensions are
finer than the task's, the table holds all of its data IDs and is split by the framework (one dataset per value).
A task that finds nothing to do raises NoWork; every other exception is a failure of this quantum alone.
"""

from __future__ import annotations

import atexit
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pyarrow as pa

import schemas
from lake import access
from lake.datastore import checksum
from pipelines import settings
from pipelines.image import Image

Payload = Image | bytes | pa.Table
S = TypeVar("S")


class NoWork(Exception):
    """There is nothing to do for this data ID (for instance: the footprint has no usable pixel)."""


class DamagedInput(Exception):
    """An input file is missing, or its size or checksum is not the registered one."""


@dataclass(frozen=True)
class DatasetRef:
    """A registered dataset as an input: ``data_id`` holds every data ID column that is set (see schemas.DATA_ID)."""

    dataset_id: str
    dataset_type: str
    data_id: Mapping[str, Any]
    path: str
    rows: int | None = None
    file_bytes: int | None = None
    file_checksum: str | None = None


@dataclass(frozen=True)
class Quantum:
    """One task on one data ID. ``config`` is the task's section of the campaign configuration (plain values).

    ``context`` holds dimension records the task may need, by dimension table name, as lists of dicts:
    ``visit``, ``detector``, ``tract``, ``patch``, ``skymap``, ``instrument`` rows that match the data ID.
    """

    quantum_id: str
    task: str
    data_id: Mapping[str, Any]
    config: Mapping[str, Any] = field(default_factory=dict)
    context: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """A seed for numpy.random.default_rng that depends on the task and the data ID only."""
        text = self.task + "".join(f"|{key}={self.data_id[key]}" for key in sorted(self.data_id))
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def settings(self, kind: type[S]) -> S:
        """``config`` as the task's dataclass of settings; SettingsError names a wrong key."""
        return settings.read(kind, self.config, self.task)


def returned(name: str, rows: pa.Table) -> pa.Table:
    """Rows as a task returns them: the declared columns of table ``name`` but ``site``, which the publication fills in."""
    site = pa.array(["-"] * rows.num_rows, pa.string())
    return schemas.conform(name, rows.append_column("site", site)).drop_columns(["site"])


class Inputs:
    """The inputs of one quantum, read from the site on demand; files are verified against the registry on first use.

    ``refs`` maps dataset type to its DatasetRefs, sorted by data ID.
    """

    def __init__(self, root: str | Path, refs: Mapping[str, list[DatasetRef]], verified: set[str] | None = None) -> None:
        self.root = Path(root) if isinstance(root, str) else root
        self._refs = refs
        self._verified = verified if verified is not None else set()

    def refs(self, dataset_type: str) -> list[DatasetRef]:
        """All inputs of a type (an empty list where there are none)."""
        if dataset_type.startswith("truth_"):
            raise PermissionError(f"{dataset_type}: steps may not read the simulator's truth")
        return list(self._refs.get(dataset_type, []))

    def path(self, ref: DatasetRef) -> Path:
        """The local file of a dataset, verified; raises DamagedInput."""
        try:
            path = access.local(self.root / ref.path)
        except FileNotFoundError:
            path = Path(ref.path)
        if ref.path not in self._verified:
            if not path.is_file():
                raise DamagedInput(f"{ref.dataset_type} {dict(ref.data_id)}: {ref.path} is lost")
            if ref.file_checksum is not None and checksum(path) != ref.file_checksum:
                if path != self.root / ref.path:
                    path.unlink()  # a copy from an object store: it may be healed there
                raise DamagedInput(f"{ref.dataset_type} {dict(ref.data_id)}: {ref.path} is damaged")
            self._verified.add(ref.path)
        return path

    def image(self, dataset_type: str) -> Image:
        """The one image of this type; KeyError when there is not exactly one."""
        refs = self.refs(dataset_type)
        if len(refs) != 1:
            raise KeyError(f"{len(refs)} inputs of type {dataset_type}, one is needed")
        return self._read(refs[0])

    def images(self, dataset_type: str) -> list[tuple[DatasetRef, Image]]:
        """All images of this type in canonical order."""
        return [(ref, self._read(ref)) for ref in self.refs(dataset_type)]

    def _read(self, ref: DatasetRef) -> Image:
        return Image.read(self.path(ref))

    def table(self, dataset_type: str) -> pa.Table:
        """The rows of all inputs of this type, declared columns, ordered by primary key; empty when there are none."""
        with _database().cursor() as con:
            return self.relation(con, dataset_type).to_arrow_table()

    def relation(self, con: duckdb.DuckDBPyConnection, dataset_type: str) -> duckdb.DuckDBPyRelation:
        """As table(), as a DuckDB relation on ``con``; also registered there as a view named after the type."""
        schema = schemas.table(dataset_type)
        refs = [ref for ref in self.refs(dataset_type) if ref.rows]
        if not refs:
            con.register(dataset_type, schema.arrow.empty_table())
            return con.table(dataset_type)
        paths = sorted({str(self.path(ref)) for ref in refs})
        dimensions = [c for c in schemas.DATA_ID if c in schema.arrow.names and all(c in ref.data_id for ref in refs)]
        keys = pa.table(
            {c: pa.array([ref.data_id[c] for ref in refs], schema.arrow.field(c).type) for c in dimensions}
            | {"filename": [str(self.path(ref)) for ref in refs]}  # a file may hold datasets that are registered in another
        )
        con.register(f"_{dataset_type}_keys", keys.group_by([*dimensions, "filename"]).aggregate([]))
        hive = ", ".join(f"'{c}': {_sql_type(schema.arrow.field(c).type)}" for c in schema.partition_by)
        columns = ", ".join(f'f."{c}"' for c in schema.arrow.names)
        order = ", ".join(f'f."{c}"' for c in schema.primary_key)
        using = " AND ".join(f'f."{c}" = k."{c}"' for c in [*dimensions, "filename"])
        files = ", ".join("'" + p.replace("'", "''") + "'" for p in paths)
        con.execute(
            f'CREATE OR REPLACE TEMP VIEW "{dataset_type}" AS SELECT {columns} FROM read_parquet([{files}], '
            f"hive_partitioning = true, hive_types = {{{hive}}}, union_by_name = true, filename = true) f "
            f'SEMI JOIN "_{dataset_type}_keys" k ON {using} ORDER BY {order}'
        )
        return con.table(dataset_type)


@cache
def _database() -> duckdb.DuckDBPyConnection:
    """One in-memory database per process: opening one costs more than reading a slice."""
    atexit.register(_database.cache_clear)  # left to the interpreter's end, it would be reported as leaked
    return duckdb.connect(config={"threads": 1})


def _sql_type(arrow: pa.DataType) -> str:
    return {pa.string(): "VARCHAR", pa.int32(): "INTEGER", pa.int64(): "BIGINT"}[arrow]
