"""Verdicts on a batch of datasets: what of it is new, known, has to wait or is refused. Nothing is changed here.

``accepted``, ``present`` (same id, same checksum), ``parked`` (a dimension record is not known here yet) or ``rejected``,
by one SQL join over the whole batch: one bad row never stops the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from threading import Event
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import datastore, delta, slices
from lake.dataset_type import dataset_types
from lake.identity import RegistryError, named, ordinals, padded, shared
from lake.parquet import ordered
from lake.site import LakeError, Site
from lake.sql import statement

CHECKED = ("instrument", "exposure", "visit", "detector", "physical_filter", "skymap", "tract", "patch")
#: Rows are stored in this order: look-ups by visit or tract then read little.
CLUSTER = ("dataset_type", "visit", "tract", "detector", "patch", "dataset_id")
#: Where it is noted what waits.
Parking = Literal["table", "log", "both"]
VERDICTS = pa.schema([("dataset_id", pa.string()), ("verdict", pa.string()), ("reason", pa.string())])
#: As verdicts.sql makes it.
NOTHING_JUDGED = (
    "CREATE OR REPLACE TEMP TABLE judged "
    "(ordinal BIGINT, dataset_id VARCHAR, checksum VARCHAR, nth BIGINT, known_path VARCHAR, verdict VARCHAR, reason VARCHAR)"
)
PROBLEMS = pa.schema([("path", pa.string()), ("file_bytes", pa.int64()), ("problem", pa.string())])


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


def judge(
    site: Site,
    datasets: pa.Table,
    verify: bool = True,
    problems: Mapping[str, str] | None = None,
    stage: bool = False,
    parking: Parking = "table",
    ready: Callable[[], object] = lambda: None,
) -> Judgement:
    """Verdicts on a batch against the site's files, dimension records and registered datasets; changes nothing.

    ``problems`` are files (by path) that the caller knows to be unusable. With ``stage``, accepted rows are written to a
    file of the table ``dataset`` while the files of the batch are looked at; the caller commits or discards it.
    ``parking`` is where it is noted what waits: the table ``parked``, the transfer log (``waiting`` then has only what was
    refused), or either for what waited before (changes go to the table). ``ready`` is called before files are looked at.
    """
    datasets = _stamped(site, datasets)
    free = Event()
    with delta.cursor() as con, ThreadPoolExecutor(1, thread_name_prefix="storage") as pool, ExitStack() as unless:
        unless.callback(free.set)
        storage = pool.submit(_storage, site, datasets, verify, problems or {}, ready, free.wait)
        datasets, faulty = _identified(con, site, datasets)
        remarkable = _remarkable(con, site, datasets) or faulty
        staged = None
        if stage:
            found, accepted = _verdicts(con, site, datasets, PROBLEMS.empty_table(), remarkable)
            free.set()  # to write takes one core and no interpreter
            staged = delta.stage(site, "dataset", accepted) if accepted.num_rows else None
            if staged is not None:
                unless.callback(staged.discard)
        free.set()
        wrong = storage.result()
        if not stage or wrong.num_rows:
            staged = None
            found, accepted = _verdicts(con, site, datasets, wrong, remarkable)
        unless.pop_all() if staged is not None else unless.close()
        waiting, admitted = _events(con, site, found["verdict"], parking)
        judged = reduce(lambda rows, c: rows.append_column(c, found[c]), ("verdict", "reason", "known_path"), datasets)
        return Judgement(judged, accepted, waiting, admitted, staged)


def _identified(con: duckdb.DuckDBPyConnection, site: Site, datasets: pa.Table) -> tuple[pa.Table, bool]:
    """The rows with their ids, and whether a data ID, a given id or a type is wrong; makes ``given`` on ``con``."""
    names = named(con, datasets, {name: kind.dimensions for name, kind in dataset_types(site).items()})
    count, ids = datasets.num_rows, names["computed_id"]
    fault, unknown_type = pa.nulls(count, pa.string()), pa.repeat(False, count)
    plain = not ids.null_count and _all(names["missing"], "") and _all(datasets["dataset_id"], "")
    if not plain:
        given = {"ordinal": ordinals(count), "dataset_type": datasets["dataset_type"], "dataset_id": datasets["dataset_id"]}
        con.register("named", pa.table(given | {c: names[c] for c in names.column_names}))
        _, ids, fault, unknown_type = ordered(con.sql(statement("identified")).to_arrow_table(), ["ordinal"]).columns
    if ids.null_count:
        nameless = datasets.filter(pc.is_null(ids))["dataset_type"][0]
        raise RegistryError(f"site {site.name}: dataset type {nameless} is not known, so that ids cannot be made; register it")
    datasets = datasets.set_column(0, schemas.table("dataset").arrow.field(0), ids)
    con.register("given", padded(datasets).append_column("fault", fault).append_column("unknown_type", unknown_type))
    return datasets, not plain and (fault.null_count < count or bool(pc.any(unknown_type).as_py()))


def _remarkable(con: duckdb.DuckDBPyConnection, site: Site, datasets: pa.Table) -> bool:
    """Whether an id is registered already, is in the batch twice, or refers to a record that is not here.

    Makes known, repeated and unknown on ``con``. Batches have a million rows: all of them are looked at by narrow joins, and
    only what these find is looked at again.
    """
    known = _count(con, f"CREATE TEMP TABLE candidates AS SELECT dataset_id, checksum, path FROM ({candidates(site, datasets)})")
    if known:
        known = _count(con, statement("known"))
    else:
        con.execute("CREATE TEMP TABLE known (dataset_id VARCHAR, known_checksum VARCHAR, known_path VARCHAR)")
    hashes = np.sort(con.sql("SELECT hash(dataset_id) AS hash FROM given").fetchnumpy()["hash"])
    twice = bool(np.any(hashes[1:] == hashes[:-1]))
    if twice:
        con.execute(statement("repeated"))
    else:
        con.execute("CREATE TEMP TABLE repeated (ordinal BIGINT, nth BIGINT, first_checksum VARCHAR)")
    return bool(known + twice + _count(con, _unknown(site, datasets)))


def _unknown(site: Site, datasets: pa.Table) -> str:
    """SQL that makes ``unknown``: of each row whose data ID refers to something without a record here, the first that has none.

    One join for each dimension that the batch uses, without the columns of text that have one value in it.
    """
    same = {c: "'" + value.replace("'", "''") + "'" for c, value in shared(datasets, CHECKED).items()}
    joins = ["SELECT NULL::BIGINT AS ordinal, NULL::VARCHAR AS what, NULL::INTEGER AS rank WHERE false"]
    for rank, table in enumerate(CHECKED):
        if datasets[table].null_count < datasets.num_rows:
            key = schemas.table(table).primary_key
            fixed = " AND ".join(["true", *(f"{c} = {same[c]}" for c in key if c in same)])
            records = f"FROM ({delta.select(site, table)}) WHERE {fixed}"
            keys = ", ".join(c for c in key if c not in same)
            rest = f"ANTI JOIN (SELECT {keys} {records}) USING ({keys}) WHERE {table} IS NOT NULL"
            rest = rest if keys else f"WHERE NOT EXISTS ({records})"
            where = "|| coalesce(' of tract ' || tract, '')" if table == "patch" else ""
            joins.append(f"SELECT ordinal, '{table} ' || {table} {where}, {rank} FROM given {rest}")
    found = " UNION ALL ".join(joins)
    return f"CREATE TEMP TABLE unknown AS SELECT ordinal, arg_min(what, rank) AS what FROM ({found}) GROUP BY ordinal"


def _verdicts(
    con: duckdb.DuckDBPyConnection, site: Site, datasets: pa.Table, storage: pa.Table, remarkable: bool
) -> tuple[pa.Table, pa.Table]:
    """What is said of every row (verdict, reason, known_path), and the accepted rows in the order in which they are stored."""
    if not remarkable and not storage.num_rows:
        none = pa.nulls(datasets.num_rows, pa.string())
        accepted = pa.repeat("accepted", datasets.num_rows)
        con.execute(NOTHING_JUDGED)
        return pa.table({"verdict": accepted, "reason": none, "known_path": none}), ordered(datasets, CLUSTER)
    con.register("storage", storage)
    con.execute(statement("verdicts").replace("$site", f"'{site.name}'"))
    judged = con.sql("SELECT ordinal, verdict, reason, known_path FROM judged").to_arrow_table()
    found = _spread(judged, datasets.num_rows)
    return found, ordered(_where(datasets, pc.equal(found["verdict"], "accepted")), CLUSTER)


def _events(con: duckdb.DuckDBPyConnection, site: Site, verdicts: pa.ChunkedArray, parking: Parking) -> tuple[pa.Table, pa.Table]:
    """The events for ``parked``: of what has to wait (where that is noted there) or was refused, and of what is admitted."""
    noted = ["rejected"] if parking == "log" else ["parked", "rejected"]
    if parking != "both" and not delta.files(site, "parked") and not pc.any(pc.is_in(verdicts, pa.array(noted))).as_py():
        none = schemas.table("parked").arrow.empty_table()
        return none, none
    view_parked(con, site, arrivals=parking == "both")
    con.execute(statement("parked_events"))
    waiting = con.sql("FROM parked_events WHERE list_contains($noted, state)", params={"noted": noted})
    admitted = con.sql("FROM parked_events WHERE state = 'admitted'")
    return schemas.conform("parked", waiting.to_arrow_table()), schemas.conform("parked", admitted.to_arrow_table())


def view_parked(con: duckdb.DuckDBPyConnection, site: Site, arrivals: bool = True) -> None:
    """Make the view parked_now on ``con``: with ``arrivals``, also of what the transfer log says."""
    source = delta.select(site, "parked")
    if arrivals:
        delta.view(con, site, "transfer")
        delta.view(con, site, "manifest")
        source = f"({source}) UNION ALL BY NAME ({statement('parked_arrivals')})"
    con.execute(f"CREATE OR REPLACE TEMP VIEW parked AS {source}")
    con.execute(statement("parked_now"))


def _count(con: duckdb.DuckDBPyConnection, creating: str) -> int:
    """How many rows a table has that a statement creates."""
    return int(con.execute(creating).fetchall()[0][0])


def _all(values: pa.ChunkedArray, text: str) -> bool:
    return bool(pc.all(pc.equal(values, text)).as_py())


def _stamped(site: Site, datasets: pa.Table) -> pa.Table:
    """Rows in the schema ``dataset``, with the time; where they have no dataset_id, it is '' until it is known."""
    if "registered_at" in datasets.column_names:
        datasets = datasets.drop_columns(["registered_at"])
    if "dataset_id" not in datasets.column_names:
        datasets = datasets.append_column("dataset_id", pa.repeat("", datasets.num_rows))
    stamp = pa.repeat(pa.scalar(datetime.now(UTC), pa.timestamp("us", "UTC")), datasets.num_rows)
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


def _storage(
    site: Site,
    datasets: pa.Table,
    verify: bool,
    problems: Mapping[str, str],
    ready: Callable[[], object],
    free: Callable[[], object],
) -> pa.Table:
    """What is wrong with the files of a batch: path, file_bytes (as claimed), problem; only those that have one."""
    ready()
    files = datasets.select(["path", "file_bytes"])
    sliced = pc.starts_with(files["path"], slices.PREFIX)
    alone = _where(files, pc.invert(sliced))
    wrong = datastore.suspects(site, alone["path"], alone["file_bytes"], free) if verify else datastore.outside(files["path"])
    if not (wrong or problems or (verify and pc.any(sliced).as_py())):
        return PROBLEMS.empty_table()
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


def relied_on(site: Site, datasets: pa.Table) -> list[int]:
    """Versions of the tables that judge() asks before files are looked at: registered datasets, types, dimension records."""
    used = [c for c in CHECKED if c in datasets.column_names and datasets[c].null_count < datasets.num_rows]
    return [delta.version(site, table) for table in ("dataset", "dataset_type", *used)]


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
