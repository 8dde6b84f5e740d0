"""The ledger of a large site: expected against present.

Scale 1, 10 and 100 are 1e6, 1e7 and 1e8 expected datasets, spread evenly over the dataset types of the pipeline, one
file of rows per type, as many present less what failed (1 quantum in 10,000) or found nothing to do (1 in 1,000), and a
raw for each detector image. A process of its own makes the ledger, so that its memory is its own. Checksums and origins
of the made-up rows are constant: the ledger of files that are in place never reads them.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import duckdb

from benchmarks import Quantity
from lake.site import Site

ABOUT = "The ledger: seconds and memory to reconcile 1e6, 1e7 or 1e8 expected datasets with those present."
OPTIONS: list[click.Parameter] = [
    click.Option(["--scratch"], type=click.Path(path_type=Path, exists=True, file_okay=False), help="Where the lake is made."),
]
SITE, CAMPAIGN, DETECTORS = "USDF", "big", 189
#: Scale -> seconds, MB wanted of the first count.
WANTED = {1: (3.0, 2000.0), 10: (3.0, 2000.0), 100: (30.0, None)}
COUNT = """
import json, resource, sys, time
from checks import ledger
from lake.site import Lake
start, cpu = time.perf_counter(), time.process_time()
found = ledger.ledger(Lake.open(sys.argv[1]), sys.argv[2], None)
seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
raws = [found.raw_count, found.unfinished]
print(json.dumps({"seconds": seconds, "cpu": cpu, "memory": memory, "totals": found.totals, "raws": raws}))
"""


def run(scale: int, scratch: Path | None) -> Iterator[Quantity]:
    """Seconds and peak memory of the first count, of a second one, and of one after a dataset type changed."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir=scratch))
    try:
        expected, present = _make(folder, scale * 10**6)
        seconds, memory = WANTED[scale]
        first = _count(folder)
        totals = first["totals"]
        if totals["expected"] != expected or totals["visible"] != present:
            raise click.ClickException(f"the ledger says {totals}, made were {expected} expected and {present} present")
        yield Quantity("ledger", "s", first["seconds"], f"<= {seconds:g}", first["seconds"] <= seconds, count=expected)
        yield Quantity("ledger, processor time", "s", first["cpu"], count=expected)
        wanted = f"<= {memory:g}" if memory else ""
        yield Quantity("ledger, peak memory", "MB", first["memory"], wanted, first["memory"] <= memory if memory else None)
        again = _count(folder)
        if again["totals"] != totals or again["raws"] != first["raws"]:
            raise click.ClickException(f"the second ledger says {again['totals']}, the first {totals}")
        yield Quantity("ledger, nothing changed since", "s", again["seconds"], count=expected)
        _lose(folder)
        changed = _count(folder)
        if changed["totals"]["visible"] != present - 1:
            raise click.ClickException(f"one dataset less is present, the ledger says {changed['totals']}")
        yield Quantity("ledger, one type changed since", "s", changed["seconds"], count=expected)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _count(folder: Path) -> dict[str, Any]:
    root = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", COUNT, str(folder / "lake"), CAMPAIGN], capture_output=True, text=True, cwd=root)
    if done.returncode:
        raise click.ClickException((done.stderr.strip().splitlines() or ["the ledger was killed"])[-1])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _make(folder: Path, size: int) -> tuple[int, int]:
    """A lake with one campaign; returns how many datasets are expected (raws included) and present."""
    import pyarrow as pa

    import schemas
    from lake import delta
    from lake.site import Lake
    from pipelines import definition

    site = Lake.create(folder / "lake", {SITE: {"central": True}}).central
    tasks = definition.load().tasks
    each = size // sum(len(task.outputs) for task in tasks)
    now = datetime.now(UTC)
    event = {"campaign": CAMPAIGN, "state": "running", "who": "bench", "noted_at": now}
    event["definition"] = f"name: {CAMPAIGN}\nsites: {{{SITE}: {{tracts: [9469]}}}}\n"
    delta.append(site, "campaign", pa.Table.from_pylist([event], schema=schemas.table("campaign").arrow))
    expected = present = 0
    with delta.connect() as con:
        for task in tasks:
            quantum = f"md5('{task.label}' || i)::UUID::VARCHAR"
            place = f"26091000000 + i // {DETECTORS} AS visit, (i % {DETECTORS})::INTEGER AS detector"
            fate = "i % 10000 = 77 AS failed, i % 1000 = 7 AS idle"
            quanta = f"SELECT i, {quantum} AS quantum_id, {place}, {fate} FROM range({each}) t(i)"
            con.execute(f"CREATE OR REPLACE TEMP TABLE quanta AS {quanta}")
            task_of = f"'{task.step}' AS step, '{task.label}' AS task"
            same = f"'{CAMPAIGN}' AS campaign, {task_of}, 'job' AS job, TIMESTAMPTZ '{now}' AS noted_at"
            state = "if(failed, 'failed', if(idle, 'no_work', 'succeeded')) AS state, if(failed, 'no stars', NULL) AS reason"
            _add(con, site, "quantum", f"SELECT quantum_id, visit, visit AS exposure, detector, {same} FROM quanta")
            _add(con, site, "attempt", f"SELECT quantum_id, {same}, 1 AS attempt, {state} FROM quanta")
            for kind in task.outputs:
                rows = _rows(kind, f"{CAMPAIGN}/{task.step}")
                con.execute(f"CREATE OR REPLACE TEMP TABLE made AS SELECT {rows}, i, failed OR idle AS gone FROM quanta")
                _add(con, site, "expected_dataset", f"SELECT *, {task_of} FROM made", kind)
                _add(con, site, "dataset", f"SELECT *, {_content(kind, now)} FROM made WHERE NOT gone", kind)
                gone = con.execute("SELECT count(*) FROM made WHERE gone").fetchall()[0][0]
                expected, present = expected + each, present + each - gone
        raws = _rows("raw", f"{CAMPAIGN}/raw").replace("quantum_id", "NULL AS quantum_id")
        _add(con, site, "dataset", f"SELECT {raws}, {_content('raw', now)} FROM quanta", "raw")
    return expected + each, present + each


def _rows(kind: str, run: str) -> str:
    """Columns that expected and registered datasets share."""
    return (
        f"md5('{kind}' || i)::UUID::VARCHAR AS dataset_id, '{run}' AS run, quantum_id, 'BigCam' AS instrument, visit, "
        "visit AS exposure, detector, 'r' AS band, 20260910 AS day_obs"
    )


def _content(kind: str, now: datetime) -> str:
    path = f"'files/{CAMPAIGN}/{kind}/20260910/{kind}_BigCam_' || visit || '_d' || detector || '.fits' AS path"
    sizes = "1000000 + i % 1000 AS bytes, 1000000 + i % 1000 AS file_bytes"
    sums = "repeat('0', 64) AS checksum, repeat('0', 64) AS file_checksum"
    return f"{path}, {sizes}, {sums}, '{SITE}' AS origin, TIMESTAMPTZ '{now}' AS registered_at"


def _add(con: duckdb.DuckDBPyConnection, site: Site, table: str, query: str, kind: str | None = None) -> None:
    """Write rows straight into a parquet file of the table, as the project lays them out, and commit it."""
    import pyarrow.parquet as pq

    import schemas
    from lake import delta
    from lake.parquet import ROW_GROUP, statistics

    name = f"part-{uuid.uuid4()}.parquet"
    path = site.table_path(table) / (f"dataset_type={kind}/{name}" if kind else name)
    path.parent.mkdir(parents=True, exist_ok=True)
    given = con.sql(query).columns
    columns = ", ".join(
        f"{_quoted(f.name) if f.name in given else 'NULL'}::{delta.SQL_TYPES[f.type]} AS {_quoted(f.name)}"
        for f in schemas.table(table).payload
    )
    con.execute(
        f"COPY (SELECT {columns} FROM ({query})) TO '{path}' (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
    )
    footer = pq.read_metadata(path)
    partition = {"dataset_type": kind} if kind else {}
    relative = path.relative_to(site.table_path(table)).as_posix()
    file = delta.AddFile(relative, partition, path.stat().st_size, footer.num_rows, statistics(table, footer))
    delta.add_files(site, table, [file])


def _quoted(name: str) -> str:
    return f'"{name}"'


def _lose(folder: Path) -> None:
    """Take one registered dataset out, as if its row had been lost."""
    import pyarrow as pa

    import schemas
    from lake import delta
    from lake.site import Lake

    site = Lake.open(folder / "lake").central
    kind = "visit_image"
    (part,) = delta.files(site, "dataset", f"dataset_type = '{kind}'")
    with delta.connect() as con:
        rows = con.sql(f"FROM ({delta.scan('dataset', [part])}) OFFSET 1").to_arrow_table()
    delta.remove_files(site, "dataset", [Path(part).relative_to(site.table_path("dataset")).as_posix()])
    delta.append(site, "dataset", schemas.conform("dataset", pa.table(rows)))
