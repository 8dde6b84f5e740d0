"""A Butler's export taken into a site: records, collections, dataset types, datasets with verdicts, tags and validity.

What contradicts the site is found before anything is written. Datasets are published in batches, so that an import that
was cut off is finished by the same command; running it again changes nothing.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

import schemas
from lake import collection, delta, fault, publish, registry
from lake.butler import records
from lake.butler.arrival import Arrivals, Row, Transfer
from lake.butler.definitions import ButlerError, Definitions, read_definitions
from lake.butler.document import Dataset, Document, read
from lake.butler.types import counterparts
from lake.outcome import Outcomes
from lake.registry import DatasetType, utc_now
from lake.site import LakeError, Site
from lake.sql import statement

#: Datasets that are published together.
BATCH = 1_000


def import_butler(
    site: Site,
    path: str | Path,
    *,
    transfer: Transfer = "copy",
    anywhere: bool = False,
    definitions: Definitions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Outcomes:
    """Take the export at ``path`` (export.yaml, or its directory) into a site.

    Files are copied, hard-linked, or (``in-place``) registered where they lie below the site's ``files``; tables always
    become slices of the catalogue of their name. Our ids are computed from data IDs; a Butler's other ids are kept in
    ``butler_id``. ButlerError for a file that is no export, or one that contradicts what is known here: nothing is
    changed then.
    """
    document = read(path)
    definitions = definitions or read_definitions()
    found = Outcomes()
    types = _types(site, document)
    named = _collections(site, document, found)
    with delta.connect() as con:
        converted = records.convert(con, site, document, definitions.records)
        for table, verdict, count, reason in converted.counts:
            found.note("dimension", table, verdict, count, reason)
        data_ids = {name: _data_ids(document, kind) for name, kind in types.items() if isinstance(kind, DatasetType)}
        _register(site, types, named, converted, found)
        fault.point("butler:records")
        for table in ("visit", "exposure", "physical_filter"):
            con.execute(f"CREATE TEMP VIEW known_{table} AS {delta.select(site, table)}")
        ours = _datasets(con, document, types, data_ids, Arrivals(site, document.path.parent, transfer, anywhere), found, progress)
        fault.point("butler:datasets")
        _note_ids(site, ours)
        fault.point("butler:ids")
        _tag(site, document, ours, found)
        fault.point("butler:tags")
        _certify(con, site, document, ours, found)
    return found


# -- definitions -------------------------------------------------------------------------------------------------------


def _types(site: Site, document: Document) -> dict[str, DatasetType | str]:
    return counterparts(document, registry.dataset_types(site))


def _collections(site: Site, document: Document, found: Outcomes) -> list[tuple[str, str, str | None]]:
    """What is to be registered; a chain that is known here with other children stays as it is."""
    known = collection.collections_now(site)
    new: list[tuple[str, str, str | None]] = []
    for name, (kind, below) in document.collections.items():
        children = ",".join(below) if kind == "CHAINED" else None
        if name in known and known[name][0] != kind:
            raise ButlerError(
                f"{document.path}: collection {name} is {kind}, at site {site.name} it is {known[name][0]}; nothing was imported"
            )
        if name not in known:
            new.append((name, kind, children))
            found.note("collection", name, "new")
        elif known[name][1] == children:
            found.note("collection", name, "present")
        else:
            found.note("collection", name, "differs", 1, f"holds {known[name][1]} here, {children} there; it was left as it is")
    return new


def _register(
    site: Site,
    types: Mapping[str, DatasetType | str],
    named: Sequence[tuple[str, str, str | None]],
    converted: records.Records,
    found: Outcomes,
) -> None:
    """Write definitions and records, in the order in which they refer to each other."""
    known = registry.dataset_types(site)
    ours = {name: kind for name, kind in types.items() if isinstance(kind, DatasetType)}
    registry.register_dataset_types(site, {name: (kind.dimensions, kind.storage) for name, kind in ours.items()})
    for name, kind in types.items():
        if isinstance(kind, str):
            found.note("dataset type", name, "no counterpart", 1, kind)
        else:
            found.note("dataset type", name, "present" if name in known else "new")
    collection.register_collections(site, named)
    records.insert(site, converted)
    registry.admit_parked(site)


# -- datasets ----------------------------------------------------------------------------------------------------------


def _datasets(
    con: duckdb.DuckDBPyConnection,
    document: Document,
    types: Mapping[str, DatasetType | str],
    data_ids: Mapping[str, pa.Table],
    arrivals: Arrivals,
    found: Outcomes,
    progress: Callable[[int, int], None],
) -> dict[str, Row]:
    """Bring in the datasets; returns, by the id that the export uses, those that are registered here now."""
    publisher = publish.Publisher(arrivals.site)
    ours: dict[str, Row] = {}
    done = 0
    for name, kind in types.items():
        mine = [d for d in document.datasets if d.dataset_type == name]
        if isinstance(kind, str):
            found.note("dataset", name, "no counterpart", len(mine), kind)
            done += len(mine)
            continue
        verdicts: Counter[tuple[str, str | None]] = Counter()
        for start in range(0, len(mine), BATCH):
            batch = mine[start : start + BATCH]
            placed = arrivals.place(kind, _rows(con, arrivals.site, kind, batch, data_ids[name].slice(start, BATCH)))
            for butler_id, row, verdict, reason in _published(publisher, placed):
                verdicts[verdict, reason] += 1
                if verdict in ("accepted", "present"):
                    ours[butler_id] = row
            done += len(batch)
            progress(done, len(document.datasets))
        for (verdict, reason), count in sorted(verdicts.items(), key=str):
            found.note("dataset", name, verdict, count, reason)
    return ours


def _data_ids(document: Document, kind: DatasetType) -> pa.Table:
    """The data IDs of the datasets of a type, in order, with a column for every dimension."""
    schema = pa.schema([schemas.table("dataset").arrow.field(c).with_nullable(True) for c in schemas.DATA_ID])
    given = [{c: d.data_id.get(c) for c in kind.dimensions} for d in document.datasets if d.dataset_type == kind.name]
    try:
        return pa.Table.from_pylist(given, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise ButlerError(f"{document.path}: a data ID of {kind.name}: {' '.join(str(error).split())}") from None


def _rows(con: duckdb.DuckDBPyConnection, site: Site, kind: DatasetType, batch: Sequence[Dataset], given: pa.Table) -> list[Row]:
    """Rows of ``dataset`` with ids and whole data IDs, still without files."""
    con.register("given", given.append_column("ordinal", pa.array(range(len(batch)), pa.int64())))
    whole = con.sql(statement("butler_data_ids")).to_arrow_table()
    whole = whole.append_column("dataset_type", pa.array([kind.name] * len(batch), pa.string()))
    whole = whole.append_column("run", pa.array([d.run for d in batch], pa.string()))
    rows: list[Row] = registry.with_ids(None, whole, {kind.name: kind.dimensions}).to_pylist()
    for row, dataset in zip(rows, batch, strict=True):
        extra = {key: value for key, value in dataset.extra.items() if isinstance(value, str)}
        row |= {"origin": extra.get("origin", site.name), "quantum_id": extra.get("quantum_id"), "rows": None}
        row |= {"source": dataset.path, "expected": extra.get("checksum"), "butler_id": dataset.id}
    return rows


def _published(
    publisher: publish.Publisher, placed: Sequence[tuple[Row, str | None]]
) -> Iterator[tuple[str, Row, str, str | None]]:
    """Register what has its file, and note what has not; (id in the export, row, verdict, reason) of each."""
    sound = [row for row, problem in placed if problem is None]
    if sound:
        attempts = schemas.table("attempt").arrow.empty_table()
        verdicts = publisher.publish(publish.Batch(_table(sound), attempts)).to_pylist()
        rejected = [row["path"] for row, v in zip(sound, verdicts, strict=True) if v["verdict"] == "rejected"]
        registry.drop_unclaimed(publisher.site, rejected)
        for row, verdict in zip(sound, verdicts, strict=True):
            yield row["butler_id"], row, verdict["verdict"], verdict["reason"]
    refused = [(row, problem) for row, problem in placed if problem is not None]
    if refused:
        without = {"bytes": 0, "checksum": "", "file_bytes": 0, "file_checksum": ""}
        rows = _table([row | without | {"path": row["source"]} for row, _ in refused])
        problems = {row["source"]: str(problem) for row, problem in refused}
        with publisher.site.lock():
            registry.record(publisher.site, registry.judge(publisher.site, rows, verify=False, problems=problems))
        for row, problem in refused:
            yield row["butler_id"], row, "rejected", problem


def _table(rows: Sequence[Row]) -> pa.Table:
    schema = pa.schema([f for f in schemas.table("dataset").arrow if f.name != "registered_at"])
    return pa.Table.from_pylist([{c: row.get(c) for c in schema.names} for row in rows], schema=schema)


def _note_ids(site: Site, ours: Mapping[str, Row]) -> None:
    """Keep the ids that a Butler gave, where they are not ours."""
    given = [(row["dataset_id"], butler_id) for butler_id, row in ours.items() if row["dataset_id"] != butler_id]
    if not given:
        return
    with delta.cursor() as con:
        con.register("given", pa.table({"dataset_id": [d for d, _ in given], "butler_id": [b for _, b in given]}))
        new = con.sql(f"FROM given ANTI JOIN ({delta.select(site, 'butler_id')}) USING (dataset_id, butler_id)").to_arrow_table()
    if new.num_rows:
        stamp = pa.array([utc_now()] * new.num_rows, pa.timestamp("us", "UTC"))
        delta.append(site, "butler_id", schemas.conform("butler_id", new.append_column("noted_at", stamp)))


# -- tags and validity -------------------------------------------------------------------------------------------------


def _tag(site: Site, document: Document, ours: Mapping[str, Row], found: Outcomes) -> None:
    known = collection.collections_now(site)
    for name, members in document.tags.items():
        ids = {ours[m]["dataset_id"] for m in members if m in ours}
        if known.get(name, ("",))[0] != "TAGGED":
            found.note("member", name, "refused", len(members), f"{name} is not a TAGGED collection here")
            continue
        try:
            new = collection.associate(site, name, ids)
        except LakeError as error:
            found.note("member", name, "refused", len(members), str(error))
            continue
        found.note("member", name, "new", new)
        found.note("member", name, "present", len(ids) - new)
        found.note("member", name, "left out", len(members) - len(ids), "these datasets are not registered here")


def _certify(con: duckdb.DuckDBPyConnection, site: Site, document: Document, ours: Mapping[str, Row], found: Outcomes) -> None:
    """Ranges without beginning or end begin at minus infinity, end at plus infinity."""
    by_name: dict[str, list[Row]] = {}
    left: Counter[tuple[str, str]] = Counter()
    for name, begin, end, butler_id in document.validity:
        row = ours.get(butler_id)
        if row is None or row["instrument"] is None:
            why = "these datasets are not registered here" if row is None else "a calibration needs an instrument"
            left[name, why] += 1
            continue
        columns = ("dataset_id", "dataset_type", "instrument", "detector", "physical_filter")
        by_name.setdefault(name, []).append({c: row[c] for c in columns} | {"collection": name, "begin": begin, "end": end})
    for (name, why), count in left.items():
        found.note("validity", name, "left out", count, why)
    for name, rows in by_name.items():
        text = {"begin": pa.string(), "end": pa.string()}
        fields = [f for f in schemas.table("certification").arrow if f.name in rows[0]]
        con.register("validity", pa.Table.from_pylist(rows, schema=pa.schema([*fields, *text.items()])))
        certified = con.sql(
            'SELECT * EXCLUDE ("begin", "end"), ns_mjd(epoch_ns("begin"::TIMESTAMP_NS)) AS valid_begin, '
            'ns_mjd(epoch_ns("end"::TIMESTAMP_NS)) AS valid_end FROM validity'
        ).to_arrow_table()
        for column, infinite in (("valid_begin", -math.inf), ("valid_end", math.inf)):
            place = certified.column_names.index(column)
            certified = certified.set_column(place, column, pc.fill_null(certified[column], infinite))
        try:
            new = collection.add_certifications(site, schemas.conform("certification", certified))
        except LakeError as error:
            found.note("validity", name, "refused", len(rows), str(error))
            continue
        found.note("validity", name, "new", new)
        found.note("validity", name, "present", len(rows) - new)
