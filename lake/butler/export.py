"""Datasets of a site as a Butler's export: ``export.yaml`` of format 1.0.2 and the files it names.

Files come first and export.yaml last, under its name only when it is whole: a directory without it is no export.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import schemas
from lake import datastore, delta, dimensions, registry, slices
from lake.access import local
from lake.butler import text
from lake.butler.definitions import ButlerError, Definitions, read_definitions
from lake.butler.region import encode, hulls
from lake.collection import install_memberships
from lake.durable import fsync_dir, fsync_file
from lake.selection import EVERYTHING, Selection
from lake.site import LakeError, Site, one_line
from lake.sql import statement

NAME = "export.yaml"
HEAD = """description: Butler Data Repository Export
version: 1.0.2
universe_version: 8
universe_namespace: daf_butler
data:
"""
#: Elements of the dimension universe in the order in which they refer to each other.
ELEMENTS = (
    "instrument", "skymap", "day_obs", "detector", "group", "physical_filter", "tract", "visit_system", "exposure", "patch",
    "visit", "visit_definition", "visit_detector_region", "visit_system_membership",
)  # fmt: skip
Transfer = Literal["copy", "link", "none"]
Row = dict[str, Any]
#: Files that are brought out at a time: most of the time goes into making each durable.
THREADS = 16


@dataclass
class Exported:
    """What an export holds. ``datasets`` counts by dataset type, ``records`` by dimension element."""

    path: Path
    datasets: dict[str, int] = field(default_factory=dict)
    records: dict[str, int] = field(default_factory=dict)
    collections: int = 0
    files: int = 0
    bytes: int = 0


def export_butler(
    site: Site,
    directory: str | Path,
    selection: Selection = EVERYTHING,
    *,
    transfer: Transfer = "copy",
    definitions: Definitions | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Exported:
    """Export the chosen datasets, and the chosen collections with their members among these datasets.

    Files are copied or hard-linked below ``directory`` under their path here; with ``none`` the export names the site's
    own files by absolute path (for ``transfer="direct"``). Table slices are always written, one parquet file each. Every
    copied file and every slice is compared with its registered checksum. ButlerError or LakeError: nothing that could be
    taken for an export is left.
    """
    definitions = definitions or read_definitions()
    target = Path(directory).absolute()
    if (target / NAME).exists():
        raise ButlerError(f"{target / NAME} is there already; choose another directory")
    with delta.connect() as con:
        named = selection.named(site)
        chosen = selection.datasets(con, site)
        con.register("datasets", chosen)
        found = Exported(target / NAME)
        try:
            target.mkdir(parents=True, exist_ok=True)
            con.register("placed", _place(site, chosen, target, transfer, found, progress))
            with _written_last(found.path) as file:
                for part in _document(con, site, named, definitions, found):
                    file.write(part)
        except (OSError, duckdb.Error) as error:
            raise ButlerError(f"{target}: cannot be written: {one_line(error)}") from None
    return found


# -- files -------------------------------------------------------------------------------------------------------------


def _place(
    site: Site, chosen: pa.Table, target: Path, transfer: Transfer, found: Exported, progress: Callable[[int, int], None]
) -> pa.Table:
    """Bring the files to the export; returns dataset_id and the path that the export names."""
    there = Site("export", target)
    rows = chosen.select(["dataset_id", "dataset_type", "run", *schemas.DATA_ID, "path", "checksum", "file_checksum"]).to_pylist()
    first = {row["dataset_id"] if slices.is_slice(row["path"]) else row["path"]: row for row in rows}

    def settle(row: Row) -> str:
        if slices.is_slice(row["path"]):
            return _slice(site, there, row)
        if transfer == "none":
            return str(site.path(row["path"]))
        return datastore.put_file(there, local(site.path(row["path"])), row["path"], transfer, expected=row["file_checksum"]).path

    placed: dict[str, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for key, path in zip(first, pool.map(settle, first.values()), strict=True):
            placed[key] = path
            progress(len(placed), len(first))
    paths = [placed[row["dataset_id"] if slices.is_slice(row["path"]) else row["path"]] for row in rows]
    files = {target / path for path in paths}
    found.files, found.bytes = len(files), sum(path.stat().st_size for path in files)
    return pa.table({"dataset_id": chosen["dataset_id"], "place": pa.array(paths, pa.string())})


def _slice(site: Site, there: Site, row: Row) -> str:
    """Write one slice of a catalogue as a parquet file of its own, with every declared column."""
    rows = slices.read_slice(site, row["path"], row["dataset_id"])
    if slices.checksum(rows) != row["checksum"]:
        raise LakeError(f"site {site.name}: {row['path']}: the rows of dataset {row['dataset_id']} are damaged; see 'drp audit'")
    schema = schemas.table(row["dataset_type"]).arrow
    partition = slices.add_file(site, row["path"]).partition
    columns = [
        rows[f.name] if f.name not in partition else pa.array([partition[f.name]] * rows.num_rows, pa.string()).cast(f.type)
        for f in schema
    ]
    whole = pa.Table.from_arrays(columns, schema=schema.remove_metadata())
    rel = datastore.template(row["run"], row["dataset_type"], {c: row[c] for c in schemas.DATA_ID}, "table")
    rel = str(PurePosixPath(rel).with_suffix(".parq"))
    datastore.write_file(there, rel, lambda path: pq.write_table(whole, path, compression="zstd"))
    return rel


class _written_last:
    """A text file that gets its name when it is whole and durable."""

    def __init__(self, path: Path) -> None:
        self.path, self.temporary = path, path.with_name(f"{datastore.TEMPORARY}{path.name}")

    def __enter__(self) -> _written_last:
        self.file = self.temporary.open("w", encoding="utf-8")
        self.write = self.file.write
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self.file.close()
        if kind is not None:
            self.temporary.unlink(missing_ok=True)
            return
        fsync_file(self.temporary)
        self.temporary.replace(self.path)
        fsync_dir(self.path.parent)


# -- export.yaml -------------------------------------------------------------------------------------------------------


def _document(
    con: duckdb.DuckDBPyConnection,
    site: Site,
    named: Mapping[str, tuple[str, list[str]]],
    definitions: Definitions,
    found: Exported,
) -> Iterator[str]:
    yield HEAD
    yield from _records(con, site, found)
    install_memberships(con, site)
    delta.view(con, site, "butler_id")
    runs = [run for (run,) in con.sql("SELECT DISTINCT run FROM datasets ORDER BY run").fetchall()]
    named = {**named, **{run: ("RUN", []) for run in runs if run not in named}}
    found.collections = len(named)
    yield from _collection_entries(named)
    yield from _dataset_entries(con, site, definitions, found)
    yield from _association_entries(con, named)


def _records(con: duckdb.DuckDBPyConnection, site: Site, found: Exported) -> Iterator[str]:
    for table in dimensions.TABLES:
        delta.view(con, site, table)
    con.execute(statement("needed_dimensions"))
    for table in ("visit_detector_region", "tract", "patch"):
        keys = list(schemas.table(table).primary_key)
        rows = con.sql(f"FROM needed_{table} ORDER BY {', '.join(keys)}").to_arrow_table()
        ra, dec = (np.stack([rows[f"{c}{i}"].to_numpy() for i in range(4)], axis=-1) for c in ("ra", "dec"))
        con.register(f"region_{table}", rows.select(keys).append_column("region", encode(ra, dec)))
        if table == "visit_detector_region":
            con.register("region_visit", _visit_regions(rows, ra, dec))
    con.execute(statement("butler_records_out"))
    for element in ELEMENTS:
        records = con.sql(f'FROM "butler_{element}"')
        found.records[element] = int(records.count("*").fetchall()[0][0])
        if found.records[element]:
            yield f"- type: dimension\n  element: {element}\n  records:\n"
            yield from text.rows(records)


def _visit_regions(rows: pa.Table, ra: np.ndarray, dec: np.ndarray) -> pa.Table:
    """A region per visit around those of its detectors; ``rows`` are in order of instrument and visit."""
    visits = rows.select(["instrument", "visit"]).group_by(["instrument", "visit"], use_threads=False)
    counted = visits.aggregate([([], "count_all")])
    groups = np.repeat(np.arange(counted.num_rows), counted["count_all"].to_numpy() * ra.shape[1])
    return counted.drop_columns(["count_all"]).append_column("region", hulls(ra.ravel(), dec.ravel(), groups))


def _collection_entries(named: Mapping[str, tuple[str, list[str]]]) -> Iterator[str]:
    """Chains come after all that they hold."""

    def depth(name: str) -> int:
        return 1 + max((depth(child) for child in named[name][1]), default=0) if named[name][0] == "CHAINED" else 0

    for name, (kind, children) in sorted(named.items(), key=lambda item: (depth(item[0]), item[0])):
        quoted = [json.dumps(child) for child in (name, *children)]
        extra = {
            "RUN": ", host: null, timespan_begin: null, timespan_end: null",
            "CHAINED": f", children: [{', '.join(quoted[1:])}]",
        }
        yield f"- {{type: collection, collection_type: {kind}, name: {quoted[0]}{extra.get(kind, '')}}}\n"


def _dataset_entries(con: duckdb.DuckDBPyConnection, site: Site, definitions: Definitions, found: Exported) -> Iterator[str]:
    types = registry.dataset_types(site)
    certified = {t for (t,) in con.sql("SELECT DISTINCT dataset_type FROM certification_now").fetchall()}
    con.execute(
        "CREATE TEMP VIEW named AS SELECT d.*, p.place, ifnull(b.butler_id, d.dataset_id) AS butler_id FROM datasets d "
        "JOIN placed p USING (dataset_id) LEFT JOIN (SELECT dataset_id, arg_max(butler_id, noted_at) AS butler_id "
        "FROM butler_id GROUP BY dataset_id) b USING (dataset_id)"
    )
    counted = con.sql("SELECT dataset_type, run, count(*) FROM datasets GROUP BY ALL ORDER BY ALL").fetchall()
    for name, run, count in counted:
        kind = types[name]
        stored = definitions.stored(name, kind.storage)
        if name not in found.datasets:
            calibration = str(name in definitions.calibrations or name in certified).lower()
            yield (
                f"- {{type: dataset_type, name: {json.dumps(name)}, dimensions: [{', '.join(kind.dimensions)}], "
                f"storage_class: {json.dumps(stored.storage_class)}, is_calibration: {calibration}}}\n"
            )
        found.datasets[name] = found.datasets.get(name, 0) + count
        yield f"- type: dataset\n  dataset_type: {json.dumps(name)}\n  run: {json.dumps(run)}\n  records:\n"
        integer = {
            c: "VARCHAR" if schemas.table("dataset").arrow.field(c).type == pa.string() else "BIGINT" for c in kind.dimensions
        }
        data_id = text.mapping({c: text.scalar(c, integer[c]) for c in kind.dimensions})
        ours = text.mapping({c: text.quoted(c) for c in ("checksum", "origin", "quantum_id")})
        line = text.mapping(
            {
                "dataset_id": "'[!uuid ''' || butler_id || ''']'",
                "data_id": f"'[' || {data_id} || ']'",
                "path": text.quoted("place"),
                "formatter": text.quoted("$formatter"),
                "drp": ours,
            }
        )
        yield from text.lines(
            con.sql(
                f"SELECT '  - ' || {line} AS line FROM named WHERE dataset_type = $name AND run = $run ORDER BY place, dataset_id",
                params={"name": name, "run": run, "formatter": stored.formatter},
            )
        )


def _association_entries(con: duckdb.DuckDBPyConnection, named: Mapping[str, tuple[str, list[str]]]) -> Iterator[str]:
    for name, (kind, _) in sorted(named.items()):
        head = f"- type: associations\n  collection: {json.dumps(name)}\n  collection_type: {kind}\n"
        if kind == "TAGGED":
            members = con.sql(
                "SELECT '  - !uuid ''' || n.butler_id || '''' AS line FROM named n "
                "JOIN association_now a USING (dataset_id) WHERE a.collection = $name ORDER BY line",
                params={"name": name},
            )
            listed = "".join(text.lines(members))
            if listed:
                yield f"{head}  dataset_ids:\n{listed}"
        elif kind == "CALIBRATION":
            ranges = con.sql(statement("butler_validity"), params={"name": name})
            listed = "".join(text.lines(ranges))
            if listed:
                yield f"{head}  validity_ranges:\n{listed}"
