"""What a finished campaign consists of, as values that two runs can be compared by, and invariants that always hold."""

from __future__ import annotations

import hashlib
from pathlib import Path

import schemas
from lake import delta
from lake.site import Lake


def content(root: Path) -> dict[str, str]:
    """Per site: a checksum over every dataset's id and content checksum."""
    found = {}
    for site in Lake.open(root).sites.values():
        with delta.connect() as con:
            delta.relation(con, site, "dataset").create_view("dataset")
            rows = con.execute("SELECT dataset_id, checksum FROM dataset ORDER BY ALL").fetchall()
        found[site.name] = hashlib.sha256(repr(rows).encode()).hexdigest()
    return found


def violations(root: Path) -> list[str]:
    """Everything that would break a law: a dataset twice, a row twice, rows without a dataset, a dataset without its rows."""
    wrong = []
    for site in Lake.open(root).sites.values():
        with delta.connect() as con:
            delta.relation(con, site, "dataset").create_view("dataset")
            (twice,) = con.execute("SELECT count(*) - count(DISTINCT dataset_id) FROM dataset").fetchall()[0]
            if twice:
                wrong.append(f"{site.name}: {twice} datasets registered twice")
            registered = dict(
                con.execute("SELECT dataset_type, sum(rows) FROM dataset WHERE rows IS NOT NULL GROUP BY 1").fetchall()
            )
            for name, rows in registered.items():
                keys = ", ".join(f'"{c}"' for c in schemas.table(name).primary_key)
                delta.relation(con, site, name).create_view("rows")
                total, unique = con.execute(f"SELECT count(*), count(DISTINCT ({keys})) FROM rows").fetchall()[0]
                con.execute("DROP VIEW rows")
                if total != rows:
                    wrong.append(f"{site.name}: {name} has {total} rows, the registry says {rows}")
                if total != unique:
                    wrong.append(f"{site.name}: {name} has {total - unique} rows twice")
            for path, size in con.execute("SELECT DISTINCT path, file_bytes FROM dataset").fetchall():
                file = site.path(path)
                if not file.is_file() or file.stat().st_size != size:
                    wrong.append(f"{site.name}: {path} is lost or has another size")
    return wrong
