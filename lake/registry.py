"""What exists at a site: a dataset exists if and only if its row is here.

Every incoming row gets a verdict, by one SQL join over the whole batch: ``accepted``, ``present`` (same id, same
checksum), ``parked`` (a dimension record is not known here yet: it waits and is admitted when the record arrives) or
``rejected``. One bad row never stops the others, and every parked or rejected row stays in the table ``parked`` until
it is resolved.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import datastore, delta, fault, slices
from lake.collection import certify, register_collections
from lake.identity import NAMESPACE, RegistryError, install_names, ordinals, padded, uuid5, with_ids
from lake.parquet import ordered
from lake.site import LakeError, Site
from lake.sql import statement

__all__ = [
    "NAMESPACE", "DatasetType", "Judgement", "RegistryError", "admit_parked", "catalogue_files", "certify",
    "dataset_types", "datasets", "from_records", "ingest", "judge", "parked", "record", "register_collections",
    "register_dataset_types", "to_records", "utc_now", "uuid5", "with_ids",
]  # fmt: skip

STORAGE = ("fits", "json", "table")
CHECKED = ("instrument", "exposure", "visit", "detector", "physical_filter", "skymap", "tract", "patch")
#: Rows are stored in this order: look-ups by visit or tract then read little.
CLUSTER = ("dataset_type", "visit", "tract", "detector", "patch", "dataset_id")
VERDICTS = pa.schema([("dataset_id", pa.string()), ("verdict", pa.string()), ("reason", pa.string())])
PROBLEMS = pa.schema([("path", pa.string()), ("file_bytes", pa.int64()), ("problem", pa.string())])


def utc_now() -> datetime:
    """The time that rows and events carry."""
    return datetime.now(UTC)


# -- dataset types -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DatasetType:
    """``dimensions`` are the required ones; ``storage`` is fits, json or table (a slice of that catalogue)."""

    name: str
    dimensions: tuple[str, ...]
    storage: str


def register_dataset_types(site: Site, types: Mapping[str, tuple[Sequence[str], str]]) -> int:
    """Make dataset types known: name -> (required dimensions, storage); returns how many were new.

    RegistryError when a type is known with another definition, or a dimension or storage does not exist; nothing is
    added then.
    """
    new = []
    with site.lock("dimensions"):
        known = dataset_types(site)
        for name, (dimensions, storage) in types.items():
            wrong = [d for d in dimensions if d not in schemas.DATA_ID]
            if wrong or storage not in STORAGE:
                raise RegistryError(f"dataset type {name}: {wrong[0] if wrong else storage!r} is not a dimension or storage")
            given = DatasetType(name, tuple(c for c in schemas.DATA_ID if c in dimensions), storage)
            if name not in known:
                new.append({"dataset_type": name, "dimensions": ",".join(given.dimensions), "storage": storage})
            elif known[name] != given:
                raise RegistryError(
                    f"site {site.name}: dataset type {name} is known as ({', '.join(known[name].dimensions)}; "
                    f"{known[name].storage}), given is ({', '.join(given.dimensions)}; {storage}); use another name"
                )
        if new:
            delta.append(site, "dataset_type", pa.Table.from_pylist(new, schema=schemas.table("dataset_type").arrow))
    return len(new)


def dataset_types(site: Site) -> dict[str, DatasetType]:
    """The dataset types known at a site, by name."""
    with delta.cursor() as con:
        rows = delta.relation(con, site, "dataset_type").order("dataset_type").fetchall()
    return {name: DatasetType(name, tuple(d for d in dimensions.split(",") if d), storage) for name, dimensions, storage in rows}


# -- ingest ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Judgement:
    """A judged batch: the rows to be registered, the files to be added to catalogue tables, the events for ``parked``.

    ``judged`` holds the given rows in their order with ``verdict``, ``reason`` and ``known_path`` (of the registered
    one). ``staged`` holds the accepted ones as a finished file, if that was asked for and no file was in the way.
    """

    judged: pa.Table
    accepted: pa.Table
    waiting: pa.Table
    admitted: pa.Table
    staged: delta.Staged | None = None

    @property
    def has_work(self) -> bool:
        """Whether there is anything to append."""
        return bool(self.accepted.num_rows or self.waiting.num_rows or self.admitted.num_rows)

    @property
    def verdicts(self) -> pa.Table:
        return self.judged.select(VERDICTS.names).cast(VERDICTS)


def ingest(site: Site, datasets: pa.Table, txn: tuple[str, int] | None = None, verify: bool = True) -> pa.Table:
    """Register datasets whose files are in place; returns (dataset_id, verdict, reason) in the order of the rows.

    ``datasets`` has the columns of ``dataset``; registered_at is set here (and may be absent), and so is a dataset_id
    that is absent or ''. Rows whose file is
    missing or has another size are rejected (``verify`` False: not looked at). Files of slices join their catalogue
    table before their rows are registered. With ``txn``, a repetition after a crash at any moment does exactly what is
    missing; once ``txn`` is the transaction version of the table ``dataset``, everything of this batch, parked rows
    too, is durable.
    """
    with site.lock():
        judgement = judge(site, datasets, verify, stage=True)
        with judgement.staged or nullcontext():
            for table, files in catalogue_files(site, judgement.accepted).items():
                delta.add_files(site, table, files)
            record(site, judgement, txn)
    return judgement.verdicts


def record(site: Site, judgement: Judgement, txn: tuple[str, int] | None = None) -> None:
    """Append judged rows, for a caller who holds the site's lock.

    What waits is noted first, so that the transaction of ``dataset`` covers it; what was admitted last, so that nothing
    counts as admitted that is not registered (left out by a death in between, it is noted by the next admit_parked()).
    """
    if judgement.waiting.num_rows:
        delta.append(site, "parked", judgement.waiting, txn)
    fault.point("registry:parked")
    if judgement.staged is not None:
        judgement.staged.commit(txn)
    elif judgement.accepted.num_rows or txn is not None:
        delta.append(site, "dataset", judgement.accepted, txn)
    fault.point("registry:dataset")
    if judgement.admitted.num_rows:
        delta.append(site, "parked", judgement.admitted, None if txn is None else (f"{txn[0]}/admitted", txn[1]))
    fault.point("registry:admitted")


def admit_parked(site: Site) -> pa.Table:
    """Register what waited and whose dimension records are known by now; returns the verdicts of all that waited."""
    waiting = parked(site)
    if not waiting.num_rows:
        return VERDICTS.empty_table()
    return ingest(site, from_records(waiting["record"]))


def catalogue_files(site: Site, datasets: pa.Table) -> dict[str, list[delta.AddFile]]:
    """The files of slices among the datasets' files, by catalogue table, in order of their paths."""
    found: dict[str, list[delta.AddFile]] = {}
    paths = pc.unique(datasets["path"].filter(pc.starts_with(datasets["path"], slices.PREFIX)))
    for path in sorted(paths.to_pylist()):
        found.setdefault(slices.table_of(path), []).append(slices.add_file(site, path))
    return dict(sorted(found.items()))


def judge(
    site: Site, datasets: pa.Table, verify: bool = True, problems: Mapping[str, str] | None = None, stage: bool = False
) -> Judgement:
    """Verdicts on a batch against the site's files, dimension records and registered datasets; changes nothing.

    ``problems`` are files (by path) that the caller knows to be unusable. With ``stage``, accepted rows are written to a
    file of the table ``dataset`` while the files of the batch are looked at; the caller commits or discards it.
    """
    now = utc_now()
    datasets = _stamped(site, datasets, now)
    with delta.cursor() as con, ThreadPoolExecutor(1, thread_name_prefix="storage") as pool:
        storage = pool.submit(_storage, site, datasets, verify, problems or {})
        datasets = _identified(con, site, datasets, now)
        staged = None
        if stage:
            found, accepted = _verdicts(con, datasets, PROBLEMS.empty_table())
            staged = delta.stage(site, "dataset", accepted) if accepted.num_rows else None
        if not stage or storage.result().num_rows:
            if staged is not None:
                staged.discard()
            staged = None
            found, accepted = _verdicts(con, datasets, storage.result())
        for name in ("parked_now", "parked_events"):
            con.execute(statement(name))
        return Judgement(
            judged=reduce(lambda rows, c: rows.append_column(c, found[c]), ("verdict", "reason", "known_path"), datasets),
            accepted=accepted,
            waiting=_rows(con, "parked", "FROM parked_events WHERE state <> 'admitted'"),
            admitted=_rows(con, "parked", "FROM parked_events WHERE state = 'admitted'"),
            staged=staged,
        )


def _identified(con: duckdb.DuckDBPyConnection, site: Site, datasets: pa.Table, now: datetime) -> pa.Table:
    """The rows with their ids; makes on ``con`` all that the verdicts need to know but the state of their files."""
    con.execute("SET VARIABLE site = $site", {"site": site.name})
    con.execute("SET VARIABLE now = $now::TIMESTAMPTZ", {"now": now})
    install_names(con, padded(datasets), {name: kind.dimensions for name, kind in dataset_types(site).items()})
    for table in CHECKED:
        used = datasets[table].null_count < datasets.num_rows
        con.execute(f"CREATE TEMP VIEW {table} AS {delta.select(site, table) if used else delta.scan(table, [])}")
    con.execute(f"CREATE TEMP VIEW registered AS {candidates(site, datasets)}")
    con.execute(f"CREATE TEMP VIEW parked AS {delta.select(site, 'parked')}")
    identified = ordered(con.sql(statement("identified")).to_arrow_table(), ["ordinal"])
    ids = identified["dataset_id"]
    if ids.null_count:
        nameless = datasets.filter(pc.is_null(ids))["dataset_type"][0]
        raise RegistryError(f"site {site.name}: dataset type {nameless} is not known, so that ids cannot be made; register it")
    datasets = datasets.set_column(0, schemas.table("dataset").arrow.field(0), ids)
    con.register("identified", identified)
    con.register("given", padded(datasets))
    con.execute(statement("remarkable"))
    return datasets


def _verdicts(con: duckdb.DuckDBPyConnection, datasets: pa.Table, storage: pa.Table) -> tuple[pa.Table, pa.Table]:
    """What is said of every row (verdict, reason, known_path), and the accepted rows in the order in which they are stored."""
    con.register("storage", storage)
    con.execute(statement("verdicts"))
    found = _spread(con.sql("SELECT ordinal, verdict, reason, known_path FROM judged").to_arrow_table(), datasets.num_rows)
    return found, ordered(_where(datasets, pc.equal(found["verdict"], "accepted")), CLUSTER)


def _stamped(site: Site, datasets: pa.Table, now: datetime) -> pa.Table:
    """Rows in the schema ``dataset``, with the time; where they have no dataset_id, it is '' until it is known."""
    if "registered_at" in datasets.column_names:
        datasets = datasets.drop_columns(["registered_at"])
    if "dataset_id" not in datasets.column_names:
        datasets = datasets.append_column("dataset_id", pa.repeat("", datasets.num_rows))
    stamp = pa.repeat(pa.scalar(now, pa.timestamp("us", "UTC")), datasets.num_rows)
    return schemas.conform("dataset", datasets.append_column("registered_at", stamp))


def _spread(judged: pa.Table, count: int) -> pa.Table:
    """What was said of some rows, by their ordinal, as a table of all rows; the others are accepted."""
    place = np.full(count, -1)
    place[judged["ordinal"].to_numpy()] = np.arange(judged.num_rows)
    spread = judged.take(pa.array(place, mask=place < 0))
    return spread.set_column(1, "verdict", pc.fill_null(spread["verdict"], "accepted"))


def _where(rows: pa.Table, mask: pa.ChunkedArray) -> pa.Table:
    """The rows for which ``mask`` holds, without a copy where that is all of them."""
    return rows if pc.all(mask).as_py() else rows.filter(mask)


def _rows(con: duckdb.DuckDBPyConnection, table: str, query: str) -> pa.Table:
    return schemas.conform(table, con.sql(query).to_arrow_table())


def _storage(site: Site, datasets: pa.Table, verify: bool, problems: Mapping[str, str]) -> pa.Table:
    """What is wrong with the files of a batch: path, file_bytes (as claimed), problem; only those that have one."""
    files = datasets.select(["path", "file_bytes"])
    sliced = pc.starts_with(files["path"], slices.PREFIX)
    alone = _where(files, pc.invert(sliced))
    wrong = datastore.suspects(site, *alone.columns) if verify else datastore.outside(files["path"])
    doubtful = pc.is_in(files["path"], pa.array(sorted({*wrong, *problems}), pa.string()))
    chosen = files.filter(pc.or_(doubtful, sliced) if verify else doubtful).group_by(["path", "file_bytes"]).aggregate([])
    found: list[dict[str, Any]] = []
    for path, size in zip(chosen["path"].to_pylist(), chosen["file_bytes"].to_pylist(), strict=True):
        problem = problems.get(path)
        try:
            problem = problem or datastore.check(site, path, size)
            if problem is None and slices.is_slice(path):
                slices.contents(site, path)
        except LakeError as error:
            problem = str(error)
        if problem is not None:
            found.append({"path": path, "file_bytes": size, "problem": problem})
    return pa.Table.from_pylist(found, PROBLEMS)


def candidates(site: Site, datasets: pa.Table) -> str:
    """SQL for the registered rows that could have the ids of these datasets: few files and row groups are read for it."""
    prune = _prune(datasets) if datasets.num_rows else "false"
    return f"FROM ({delta.select(site, 'dataset', prune)}) WHERE {prune}"


def _prune(datasets: pa.Table) -> str:
    """A condition that holds for every registered row that could have one of these ids: same type, run and data ID."""
    conditions = []
    for column in ("dataset_type", "run"):
        listed = [value.replace("'", "''") for value in sorted(datasets[column].unique().drop_null().to_pylist())]
        conditions.append(f"{column} IN (" + (", ".join(f"'{value}'" for value in listed) or "NULL") + ")")
    for column in ("visit", "exposure", "tract"):
        if datasets.num_rows and not datasets[column].null_count:
            bounds = pc.min_max(datasets[column]).as_py()
            conditions.append(f"{column} >= {bounds['min']} AND {column} <= {bounds['max']}")
    return " AND ".join(conditions)


def parked(site: Site, state: str = "parked") -> pa.Table:
    """What waits here (or, with ``state``, what was rejected): the latest event of each that is in that state."""
    with delta.cursor() as con:
        delta.view(con, site, "parked")
        con.execute(statement("parked_now"))
        return con.sql(
            "SELECT * EXCLUDE (checksum) FROM parked_now WHERE state = $state ORDER BY dataset_type, dataset_id",
            params={"state": state},
        ).to_arrow_table()


def from_records(records: pa.Array | pa.ChunkedArray) -> pa.Table:
    """Dataset rows from their JSON form (the ``record`` of parked and manifest rows), in the same order."""
    schema = schemas.table("dataset").arrow
    wanted = ", ".join(f'"{f.name}": "{delta.SQL_TYPES[f.type]}"' for f in schema)
    with delta.cursor() as con:
        con.register("given", pa.table({"record": records, "ordinal": ordinals(len(records))}))
        rows = con.sql(
            f"SELECT r.* FROM (SELECT json_transform(record, '{{{wanted}}}') AS r, ordinal FROM given) ORDER BY ordinal"
        ).to_arrow_table()
    return schemas.conform("dataset", rows)


def to_records(datasets: pa.Table) -> pa.ChunkedArray:
    """The JSON form of dataset rows, which from_records() reads."""
    columns = ", ".join(f"'{name}': \"{name}\"" for name in schemas.table("dataset").arrow.names)
    with delta.cursor() as con:
        con.register("given", datasets.append_column("ordinal", ordinals(datasets.num_rows)))
        return con.sql(f"SELECT to_json({{{columns}}})::VARCHAR AS record FROM given ORDER BY ordinal").to_arrow_table()["record"]


# -- queries -----------------------------------------------------------------------------------------------------------


def datasets(
    con: duckdb.DuckDBPyConnection,
    site: Site,
    where: str = "true",
    params: Mapping[str, Any] | None = None,
    types: Iterable[str] | None = None,
) -> duckdb.DuckDBPyRelation:
    """Registered datasets that meet a SQL condition over the columns of ``dataset``; ``types`` prunes by their type."""
    listed = None if types is None else ", ".join("'" + name.replace("'", "''") + "'" for name in sorted(types))
    chosen = "true" if types is None else f"dataset_type IN ({listed})" if listed else "false"
    source = delta.select(site, "dataset", None if types is None or not listed else chosen)
    return con.sql(f"SELECT * FROM ({source}) WHERE {chosen} AND ({where})", params=dict(params) if params else None)
