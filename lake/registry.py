"""What exists at a site: a dataset exists if and only if its row is here.

Every incoming row gets a verdict (lake.judgement), and no bad row stops the others: every parked or rejected row stays in
the table ``parked`` until it is resolved, and is admitted when the dimension record that it waits for arrives. What came by
a rule and waits has no row there: the transfer log says that its file is parked, and why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from datetime import UTC, datetime
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import delta, dimensions, fault, slices
from lake.collection import certify, register_collections
from lake.dataset_type import DatasetType, dataset_types, register_dataset_types
from lake.identity import NAMESPACE, RegistryError, ordinals, uuid5, with_ids
from lake.judgement import CLUSTER, VERDICTS, Judgement, Parking, candidates, judge, relied_on, view_parked
from lake.site import Site
from lake.sql import statement

__all__ = [
    "CLUSTER", "NAMESPACE", "VERDICTS", "DatasetType", "Judgement", "RegistryError", "admit_parked", "candidates",
    "catalogue_files", "certify", "dataset_types", "datasets", "drop_unclaimed", "from_records", "ingest", "judge", "parked",
    "record", "register_collections", "register_dataset_types", "to_records", "utc_now", "uuid5", "view_parked", "with_ids",
]  # fmt: skip


def utc_now() -> datetime:
    """The time that rows and events carry."""
    return datetime.now(UTC)


def ingest(
    site: Site,
    datasets: pa.Table,
    txn: tuple[str, int] | None = None,
    verify: bool = True,
    parking: Parking = "table",
    ready: Callable[[], object] | None = None,
) -> pa.Table:
    """Register datasets whose files are in place; returns (dataset_id, verdict, reason) in the order of the rows.

    ``datasets`` has the columns of ``dataset``; registered_at is set here (and may be absent), and so is a dataset_id
    that is absent or ''. Rows whose file is
    missing or has another size are rejected (``verify`` False: not looked at). Files of slices join their catalogue
    table before their rows are registered. With ``txn``, a repetition after a crash at any moment does exactly what is
    missing; once ``txn`` is the transaction version of the table ``dataset``, everything of this batch, parked rows
    too, is durable. ``parking`` as in judge(). ``ready`` is called (by another thread) before files are looked at, and may
    wait until they are in their places: what does not need them is done meanwhile, and nobody waits for the site's lock.
    Then what a visit or exposure implies is filled in, also from records that come meanwhile. Nothing is registered if it raises.
    """
    with ExitStack() as locked:
        if ready is None:
            locked.enter_context(site.lock())
            judgement = judge(site, datasets, verify, stage=True, parking=parking)
        else:
            judgement = _judged_ahead(site, datasets, verify, parking, ready, locked)
        with judgement.staged or nullcontext():
            for table, files in catalogue_files(site, judgement.accepted).items():
                delta.add_files(site, table, files)
            record(site, judgement, txn)
    return judgement.verdicts


def _judged_ahead(
    site: Site, datasets: pa.Table, verify: bool, parking: Parking, ready: Callable[[], object], locked: ExitStack
) -> Judgement:
    """Judge what is not ready yet, and hold the site's lock from then on; judge again if what that relied on has changed.

    Files are looked at under the lock: who removes one that nothing names holds it too.
    """

    def lock() -> None:
        ready()
        locked.enter_context(site.lock())

    def judged(ready: Callable[[], object] = lambda: None) -> Judgement:
        rows = dimensions.implied(site, datasets) if datasets["day_obs"].null_count else datasets
        return judge(site, rows, verify, stage=True, parking=parking, ready=ready)

    before = relied_on(site, datasets)
    judgement = judged(lock)
    if relied_on(site, datasets) == before and (judgement.staged is None or judgement.staged.whole):
        return judgement
    with judgement.staged or nullcontext():
        return judged()


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
    return ingest(site, dimensions.implied(site, from_records(waiting["record"])), parking="both")


def drop_unclaimed(site: Site, paths: Sequence[str]) -> None:
    """Remove files that came for nothing, but none that a row, registered or waiting, was found to have as its own."""
    if not paths:
        return
    with site.lock(), delta.cursor() as con:
        delta.view(con, site, "dataset")
        view_parked(con, site)
        claimed = con.sql(statement("claimed_paths"), params={"paths": list(paths)}).to_arrow_table()["path"].to_pylist()
        for path in sorted(set(paths).difference(claimed)):
            site.path(path).unlink(missing_ok=True)


def catalogue_files(site: Site, datasets: pa.Table) -> dict[str, list[delta.AddFile]]:
    """The files of slices among the datasets' files, by catalogue table, in order of their paths."""
    found: dict[str, list[delta.AddFile]] = {}
    paths = pc.unique(datasets["path"].filter(pc.starts_with(datasets["path"], slices.PREFIX)))
    for path in sorted(paths.to_pylist()):
        found.setdefault(slices.table_of(path), []).append(slices.add_file(site, path))
    return dict(sorted(found.items()))


def parked(site: Site, state: str = "parked") -> pa.Table:
    """What waits here (or, with ``state``, what was rejected): the latest event of each that is in that state."""
    with delta.cursor() as con:
        view_parked(con, site)
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
