"""What travels ahead of datasets: the records that their data IDs, types, runs and validity refer to."""

from __future__ import annotations

import pyarrow as pa

import schemas
from lake import delta, dimensions, registry
from lake.site import Site
from lake.sql import statement


def copy_companions(source: Site, destination: Site, datasets: pa.Table) -> None:
    """Make known at ``destination`` everything that ``datasets`` (schema ``dataset``) refer to, as ``source`` knows it.

    Dimension records, dataset types, runs and the chains over them, and certifications. What is known already is left
    alone; a contradiction raises LakeError that names it.
    """
    types = registry.dataset_types(source)
    used = datasets["dataset_type"].unique().to_pylist()
    registry.register_dataset_types(
        destination, {name: (types[name].dimensions, types[name].storage) for name in used if name in types}
    )
    dimensions.copy(source, destination, datasets)
    with destination.lock("dimensions"):
        for table in ("collection", "certification"):
            _copy(source, destination, table, datasets)


def _copy(source: Site, destination: Site, table: str, datasets: pa.Table) -> None:
    """Append the rows of ``table`` that datasets need and the destination lacks."""
    with delta.connect() as con:
        con.register("datasets", datasets.select(["dataset_id", "run"]))
        delta.view(con, source, "certification")
        con.execute(f"CREATE TEMP VIEW theirs AS {delta.select(source, table)}")
        con.execute(f"CREATE TEMP VIEW ours AS {delta.select(destination, table)}")
        rows = con.sql(statement(f"missing_{table}")).to_arrow_table()
    if rows.num_rows:
        delta.append(destination, table, schemas.conform(table, rows))
