"""What every table looks like: Felis YAML in, Arrow schemas, keys and partitioning out.

One Felis file per subject lies beside this module (``catalogues/`` is one subject in several files).
Partition columns are declared as the table's ``partition_<table>`` index. Nothing else in the project
defines a column.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pyarrow as pa
import yaml

ARROW_TYPES = {
    "boolean": pa.bool_(),
    "short": pa.int16(),
    "int": pa.int32(),
    "long": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "string": pa.string(),
    "timestamp": pa.timestamp("us", "UTC"),
}

#: Data ID columns in canonical order, with their Arrow types (the registry's ``dataset`` table has them all).
DATA_ID = (
    "instrument",
    "exposure",
    "visit",
    "detector",
    "physical_filter",
    "band",
    "day_obs",
    "skymap",
    "tract",
    "patch",
)


@dataclass(frozen=True)
class TableSchema:
    """One table: ``arrow`` holds every column in order (units and UCDs in the field metadata)."""

    name: str
    subject: str
    description: str
    arrow: pa.Schema
    primary_key: tuple[str, ...]
    partition_by: tuple[str, ...]

    @property
    def payload(self) -> pa.Schema:
        """Columns stored inside the parquet files: all but the partition columns."""
        return pa.schema([f for f in self.arrow if f.name not in self.partition_by])


class SchemaError(ValueError):
    """A table does not have the declared columns and types."""


def _columns(keys: list[str] | str | None) -> tuple[str, ...]:
    keys = [keys] if isinstance(keys, str) else keys or []
    return tuple(key.rpartition(".")[2] for key in keys)


def _load(path: Path, subject: str) -> list[TableSchema]:
    tables = []
    for table in yaml.load(path.read_text(), Loader=yaml.CSafeLoader)["tables"]:
        fields = [
            pa.field(
                column["name"],
                ARROW_TYPES[column["datatype"]],
                nullable=column.get("nullable", True),
                metadata={
                    key: str(column[source])
                    for key, source in (("unit", "ivoa:unit"), ("ucd", "ivoa:ucd"), ("description", "description"))
                    if column.get(source)
                },
            )
            for column in table["columns"]
        ]
        partition = [index for index in table.get("indexes", []) if index["name"] == f"partition_{table['name']}"]
        tables.append(
            TableSchema(
                name=table["name"],
                subject=subject,
                description=table["description"],
                arrow=pa.schema(fields),
                primary_key=_columns(table.get("primaryKey")),
                partition_by=_columns(partition[0]["columns"]) if partition else (),
            )
        )
    return tables


@cache
def tables() -> dict[str, TableSchema]:
    """Every declared table by name; names are unique over all subjects."""
    root = Path(__file__).parent
    found: dict[str, TableSchema] = {}
    for path in [*sorted(root.glob("*.yaml")), *sorted(root.glob("catalogues/*.yaml"))]:
        subject = "catalogues" if path.parent.name == "catalogues" else path.stem
        for table in _load(path, subject):
            if table.name in found:
                raise SchemaError(f"{path.name}: table {table.name!r} is declared twice")
            found[table.name] = table
    return found


def table(name: str) -> TableSchema:
    """The declared schema of one table; KeyError names the table and what exists."""
    try:
        return tables()[name]
    except KeyError:
        raise KeyError(f"no table {name!r} is declared in schemas/; known: {', '.join(sorted(tables()))}") from None


def check(name: str, given: pa.Schema, *, payload: bool = False) -> None:
    """Refuse data whose columns, order or types differ from the declaration (delta-rs would narrow silently)."""
    declared = table(name).payload if payload else table(name).arrow
    problems = [f"column {f.name!r} is missing" for f in declared if f.name not in given.names]
    problems += [f"column {f.name!r} is not declared" for f in given if f.name not in declared.names]
    problems += [f"column {name!r} is given twice" for name in declared.names if given.names.count(name) > 1]
    problems += [
        f"column {f.name!r} is {given.field(f.name).type}, declared {f.type}"
        for f in declared
        if given.names.count(f.name) == 1 and given.field(f.name).type != f.type
    ]
    if not problems and given.names != declared.names:
        problems = ["columns are in another order than declared"]
    if problems:
        raise SchemaError(f"table {name!r}: {'; '.join(problems)}")


def conform(name: str, data: pa.Table, *, payload: bool = False) -> pa.Table:
    """``data`` with the declared column order and types, by safe casts only.

    Columns that are declared nullable and absent become null; a cast that would lose a value raises SchemaError.
    """
    declared = table(name).payload if payload else table(name).arrow
    columns = []
    for field in declared:
        if field.name in data.column_names:
            try:
                columns.append(data[field.name].cast(field.type, safe=True))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
                raise SchemaError(f"table {name!r}: column {field.name!r}: {error}") from None
        elif field.nullable:
            columns.append(pa.nulls(data.num_rows, field.type))
        else:
            raise SchemaError(f"table {name!r}: column {field.name!r} is missing")
    extra = [c for c in data.column_names if c not in declared.names]
    if extra:
        raise SchemaError(f"table {name!r}: column {extra[0]!r} is not declared")
    result = pa.Table.from_arrays(columns, schema=declared)
    for field in declared:
        if not field.nullable and result[field.name].null_count:
            raise SchemaError(f"table {name!r}: column {field.name!r} must not be null")
    return result
