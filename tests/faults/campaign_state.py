"""What a finished campaign consists of, as values that two runs can be compared by, and invariants that always hold."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import schemas
from checks import audit
from lake import delta, query
from lake.site import Lake

ROOT = Path(__file__).parents[2]


def drp(*words: object) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    run = [sys.executable, "-c", "from pipelines.cli import main; main()", *map(str, words)]
    return subprocess.run(run, capture_output=True, text=True, timeout=600, cwd=ROOT)


@dataclass(frozen=True)
class Finished:
    """A finished campaign: its lake, what it consists of, and how long it took."""

    root: Path
    content: dict[str, str]
    seconds: float


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
    """Everything that would break a law: a dataset twice, a row twice, rows without a dataset, a dataset without its rows, and
    what a deep audit finds once orphans are removed."""
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
        with query.connect(root, home=site.name) as con:
            for name, rows in registered.items():
                keys = ", ".join(f'"{c}"' for c in schemas.table(name).primary_key)
                total, unique = con.execute(f"SELECT count(*), count(DISTINCT ({keys})) FROM {name}").fetchall()[0]
                if total != rows:
                    wrong.append(f"{site.name}: {name} has {total} rows, the registry says {rows}")
                if total != unique:
                    wrong.append(f"{site.name}: {name} has {total - unique} rows twice")
        audit.remove_orphans(site)
        wrong += [f"{site.name}: {f.path} is {f.state}: {f.reason}" for f in audit.audit(site, deep=True).findings]
    return wrong
