"""The registry of a site as a few small files: its rows, and the records and collections that they refer to.

What can be computed is not stored: ids follow from data IDs, and a file's checksum is that of its dataset unless it holds
several. Checksums and UUIDs are stored as bytes. ``manifest.json`` comes last and has the sha256 of every other file: a
directory without it is no export.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

import schemas
from lake import collection, datastore, delta, dimensions, registry
from lake.collection import install_memberships
from lake.durable import fsync_file, write_durable
from lake.outcome import Outcomes
from lake.selection import EVERYTHING, Selection
from lake.site import LakeError, Site, one_line
from lake.sql import statement

MANIFEST = "manifest.json"
FORMAT = "multisite-drp registry 1"
#: Datasets that are judged together on import: bounds the memory.
BATCH = 250_000
#: What is written of datasets; the rest is computed.
COLUMNS = (
    "dataset_type", "run", *schemas.DATA_ID, "path", "bytes", "rows", "checksum", "file_bytes", "file_checksum", "origin",
    "quantum_id",
)  # fmt: skip
_TABLES = ("dataset_type", "collection", "association", "certification")


class ExchangeError(LakeError):
    """An export is not whole or not what it should be; the message names the file."""


def export_registry(site: Site, directory: str | Path, selection: Selection = EVERYTHING) -> dict[str, int]:
    """Write the chosen datasets' rows and all that they refer to; returns rows by table. Files are not copied.

    ExchangeError when ``directory`` holds an export already, or cannot be written.
    """
    target = Path(directory).absolute()
    if (target / MANIFEST).exists():
        raise ExchangeError(f"{target / MANIFEST} is there already; choose another directory")
    files: dict[str, dict[str, Any]] = {}
    try:
        target.mkdir(parents=True, exist_ok=True)
        with delta.cursor() as con:
            named = selection.named(site)
            chosen = selection.datasets(con, site)
            con.register("datasets", chosen)
            for table, rows in _referred(con, site, named, chosen).items():
                files[f"{table}.parquet"] = _write(target / f"{table}.parquet", rows)
            files["dataset.parquet"] = _write(target / "dataset.parquet", _packed(con))
        with ThreadPoolExecutor(len(files)) as pool:
            list(pool.map(fsync_file, (target / name for name in files)))
        manifest = {"format": FORMAT, "site": site.name, "files": files}
        write_durable(target / MANIFEST, json.dumps(manifest, indent=1).encode())
    except OSError as error:
        raise ExchangeError(f"{target}: cannot be written: {one_line(error)}") from None
    return {name.removesuffix(".parquet"): file["rows"] for name, file in files.items()}


def import_registry(site: Site, directory: str | Path, verify: bool = True) -> Outcomes:
    """Register what an export holds; every dataset gets a verdict. Files must lie under their paths already.

    With ``verify`` False nobody looks whether they do. ExchangeError for an export that is not whole, before anything is
    changed. Again: everything is present.
    """
    source = Path(directory)
    files = _checked(source)
    found = Outcomes()
    tables = {
        name: pq.read_table(source / f"{name}.parquet") for name in (*_TABLES, *dimensions.TABLES) if f"{name}.parquet" in files
    }
    types = {r["dataset_type"]: (r["dimensions"].split(","), r["storage"]) for r in tables["dataset_type"].to_pylist()}
    new = registry.register_dataset_types(site, types)
    _note(found, "dataset type", len(types), new)
    known = collection.collections_now(site)
    named = [(r["collection"], r["kind"], r["children"]) for r in tables["collection"].to_pylist()]
    wanted = [n for n in named if n[0] not in known or (known[n[0]][0] != n[1])]
    collection.register_collections(site, wanted)
    _note(found, "collection", len(named), len(wanted))
    for table in (t for t in dimensions.TABLES if t in tables):
        count = tables[table].num_rows
        _note(found, "dimension", count, dimensions.insert(site, table, schemas.conform(table, tables[table])), table)
    registry.admit_parked(site)
    named_here = bool(tables["association"].num_rows or tables["certification"].num_rows)
    here = _datasets(site, source, verify, found, named_here)
    if named_here:
        _members(site, tables, here, found)
    return found


# -- writing -----------------------------------------------------------------------------------------------------------


def _referred(
    con: duckdb.DuckDBPyConnection, site: Site, named: dict[str, tuple[str, list[str]]], chosen: pa.Table
) -> dict[str, pa.Table]:
    """The rows of other tables that the datasets need, by table."""
    types = registry.dataset_types(site)
    used = sorted(chosen["dataset_type"].unique().to_pylist())
    found = {
        "dataset_type": pa.table(
            {
                "dataset_type": pa.array(used, pa.string()),
                "dimensions": pa.array([",".join(types[t].dimensions) for t in used], pa.string()),
                "storage": pa.array([types[t].storage for t in used], pa.string()),
            }
        )
    }
    runs: dict[str, tuple[str, list[str]]] = {run: ("RUN", []) for run in chosen["run"].unique().to_pylist() if run not in named}
    listed = sorted({**named, **runs}.items())
    found["collection"] = pa.table(
        {
            "collection": pa.array([name for name, _ in listed], pa.string()),
            "kind": pa.array([kind for _, (kind, _) in listed], pa.string()),
            "children": pa.array([",".join(c) if kind == "CHAINED" else None for _, (kind, c) in listed], pa.string()),
        }
    )
    con.register("named", found["collection"])
    install_memberships(con, site)
    for table, columns in (("association", f"collection, {_bytes('dataset_id')} AS dataset_id"), ("certification", "*")):
        found[table] = con.sql(
            f"SELECT {columns} FROM (FROM {table}_now SEMI JOIN named USING (collection) SEMI JOIN datasets USING (dataset_id)) "
            "ORDER BY ALL"
        ).to_arrow_table()
    for table in dimensions.TABLES:
        delta.view(con, site, table)
    con.execute(statement("needed_dimensions"))
    for table in dimensions.TABLES:
        keys = ", ".join(schemas.table(table).primary_key)
        found[table] = con.sql(f"FROM needed_{table} ORDER BY {keys}").to_arrow_table()
    return {table: rows for table, rows in found.items() if rows.num_rows or table in _TABLES}


def _packed(con: duckdb.DuckDBPyConnection) -> pa.RecordBatchReader:
    """Datasets in the form that is written: null where a value is that of another column, hexadecimal text as bytes."""
    values = {"checksum": "checksum", "file_checksum": "nullif(file_checksum, checksum)", "quantum_id": "quantum_id"}
    forms = {"quantum_id": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"}
    regular = con.sql(
        "SELECT "
        + ", ".join(f"ifnull(bool_and(regexp_full_match({v}, '{forms.get(c, '[0-9a-f]{64}')}')), true)" for c, v in values.items())
        + " FROM datasets"
    ).fetchall()[0]
    packed = {c: f"unhex(replace({values[c]}, '-', ''))" for c, whole in zip(values, regular, strict=True) if whole}
    packed = {"file_checksum": values["file_checksum"], "file_bytes": "nullif(file_bytes, bytes)", **packed}
    listed = ", ".join(f"{packed[c]} AS {c}" if c in packed else c for c in COLUMNS)
    return con.sql(f"SELECT {listed} FROM datasets").to_arrow_reader(BATCH)


def _write(path: Path, rows: pa.Table | pa.RecordBatchReader) -> dict[str, Any]:
    """Write a table so that sorted columns take next to nothing; returns its entry in the manifest."""
    text = [f.name for f in rows.schema if pa.types.is_string(f.type) and f.name != "path"]
    encoding = {f.name: "DELTA_BINARY_PACKED" for f in rows.schema if pa.types.is_integer(f.type)}
    encoding |= {"path": "DELTA_BYTE_ARRAY"} if "path" in rows.schema.names else {}
    count = 0
    with pq.ParquetWriter(
        path, rows.schema, compression="zstd", use_dictionary=text, column_encoding=encoding, write_statistics=False,
        store_schema=False,
    ) as writer:  # fmt: skip
        for batch in rows if isinstance(rows, pa.RecordBatchReader) else rows.to_batches():
            writer.write_batch(batch, row_group_size=BATCH)
            count += batch.num_rows
    return {"rows": count, "bytes": path.stat().st_size, "sha256": datastore.checksum(path)}


# -- reading -----------------------------------------------------------------------------------------------------------


def _checked(source: Path) -> dict[str, dict[str, Any]]:
    """The manifest's files, every one of them there and as it was written."""
    path = source / MANIFEST
    try:
        manifest = json.loads(path.read_text())
        if manifest["format"] != FORMAT:
            raise ExchangeError(f"{path}: has the format {manifest['format']!r}; {FORMAT!r} is read")
        files: dict[str, dict[str, Any]] = manifest["files"]
        for name, file in files.items():
            if "/" in name or not name.endswith(".parquet"):
                raise ExchangeError(f"{path}: {name!r} is not the name of a table")
            if datastore.checksum(source / name) != file["sha256"]:
                raise ExchangeError(f"{source / name}: is damaged (its sha256 is not that of {MANIFEST}); copy it again")
        missing = {f"{name}.parquet" for name in (*_TABLES, "dataset")} - set(files)
        if missing:
            raise ExchangeError(f"{path}: {min(missing)} is missing")
        return files
    except OSError as error:
        raise ExchangeError(f"{error.filename}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, ExchangeError):
            raise
        raise ExchangeError(f"{path}: is not a manifest of an export ({error})") from None


def _datasets(site: Site, source: Path, verify: bool, found: Outcomes, listed: bool) -> pa.ChunkedArray:
    """Judge and register batch by batch; returns (``listed``) the ids of those that are here now."""
    verdicts: Counter[tuple[str, str, str | None]] = Counter()
    here: list[pa.ChunkedArray] = []
    with pq.ParquetFile(source / "dataset.parquet") as file:
        for batch in file.iter_batches(BATCH):
            rows = _unpacked(pa.Table.from_batches([batch]))
            judged = registry.ingest(site, rows, verify=verify).append_column("dataset_type", rows["dataset_type"])
            for row in judged.group_by(["dataset_type", "verdict", "reason"]).aggregate([([], "count_all")]).to_pylist():
                verdicts[row["dataset_type"], row["verdict"], row["reason"]] += row["count_all"]
            if listed:
                here.append(judged.filter(pc.is_in(judged["verdict"], pa.array(["accepted", "present"])))["dataset_id"])
    for (kind, verdict, reason), count in sorted(verdicts.items(), key=str):
        found.note("dataset", kind, verdict, count, reason)
    return pa.chunked_array([chunk for column in here for chunk in column.chunks], pa.string())


def _unpacked(rows: pa.Table) -> pa.Table:
    """Rows of ``dataset`` without dataset_id and registered_at."""
    with delta.cursor() as con:
        con.register("packed", rows)
        restored = []
        for field in rows.schema:
            value = f'"{field.name}"'
            if pa.types.is_binary(field.type) or pa.types.is_fixed_size_binary(field.type):
                value = _uuid(value) if field.name == "quantum_id" else f"lower(hex({value}))"
            restored.append(f'{value} AS "{field.name}"')
        con.execute(f"CREATE TEMP VIEW unpacked AS SELECT {', '.join(restored)} FROM packed")
        whole: pa.Table = con.sql(
            "SELECT * REPLACE (ifnull(file_bytes, bytes) AS file_bytes, ifnull(file_checksum, checksum) AS file_checksum) "
            "FROM unpacked"
        ).to_arrow_table()
        con.execute("DROP VIEW unpacked")
    return whole


def _bytes(text: str) -> str:
    return f"unhex(replace({text}, '-', ''))"


def _uuid(blob: str) -> str:
    return f"hex({blob})::UUID::VARCHAR"


def _members(site: Site, tables: dict[str, pa.Table], here: pa.ChunkedArray, found: Outcomes) -> None:
    """Tags and validity of those datasets that are here now."""
    left = "these datasets are not registered here"
    with delta.cursor() as con:
        con.register("members", tables["association"])
        con.register("here", pa.table({"dataset_id": here}))
        members = con.sql(
            f"SELECT * FROM (SELECT collection, {_uuid('dataset_id')} AS dataset_id FROM members) SEMI JOIN here USING (dataset_id)"
        ).to_arrow_table()
    for name in sorted(members["collection"].unique().to_pylist()):
        mine = members.filter(pc.equal(members["collection"], name))["dataset_id"].to_pylist()
        _note(found, "member", len(mine), collection.associate(site, name, mine), name=name)
    found.note("member", "association", "left out", tables["association"].num_rows - members.num_rows, left)
    rows = tables["certification"]
    valid = rows.filter(pc.is_in(rows["dataset_id"], here.combine_chunks()))
    count = collection.add_certifications(site, schemas.conform("certification", valid)) if valid.num_rows else 0
    _note(found, "validity", valid.num_rows, count)
    found.note("validity", "certification", "left out", rows.num_rows - valid.num_rows, left)


def _note(found: Outcomes, what: str, total: int, new: int, name: str | None = None) -> None:
    found.note(what, name or what, "new", new)
    found.note(what, name or what, "present", total - new)
