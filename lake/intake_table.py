"""Lists of files to take in, as people have them: CSV, Parquet, or JSON with one object per line."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, json, parquet

import schemas
from lake.intake import IntakeError

#: What the end of a file's name says of its form.
FORMS = {".csv": "csv", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".json": "json"}


def read(path: Path, prefix: Path = Path()) -> pa.Table:
    """The table of intake.take_in() from a file; a relative ``source`` is below ``prefix``. IntakeError names what is wrong."""
    form = FORMS.get(path.suffix.lower())
    if form is None:
        raise IntakeError(f"{path}: the form of a table is told by its name: {', '.join(FORMS)}")
    declared = schemas.table("dataset").arrow
    columns = ("dataset_type", "run", "checksum", "path", *schemas.DATA_ID)
    types = {"source": pa.string()} | {name: declared.field(name).type for name in columns}
    try:
        if form == "csv":
            options = csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])
            table = csv.read_csv(path, convert_options=options)
        elif form == "json":
            schema = pa.schema(list(types.items()))
            table = json.read_json(path, parse_options=json.ParseOptions(explicit_schema=schema))
        else:
            table = parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise IntakeError(f"{path} cannot be read as {form}: {' '.join(str(error).split())}") from None
    twice = {name for name in table.column_names if table.column_names.count(name) > 1}
    if twice:
        raise IntakeError(f"{path}: the column {min(twice)} is there more than once")
    if "source" not in table.column_names:
        raise IntakeError(f"{path}: there is no column source; it has {', '.join(table.column_names) or 'none'}")
    if not pa.types.is_string(table["source"].type) and not pa.types.is_large_string(table["source"].type):
        raise IntakeError(f"{path}: the column source holds {table['source'].type}, not paths")
    if prefix == Path():
        return table
    below = pc.binary_join_element_wise(str(prefix), table["source"], "/")
    source = pc.if_else(pc.starts_with(table["source"], "/"), table["source"], below)
    return table.set_column(table.column_names.index("source"), "source", source)
