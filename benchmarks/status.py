"""``drp status`` of a large campaign: a log of 1,000, 10,000 or 100,000 jobs of ten quanta at four sites (scale 1, 10, 100).

The log is appended through lake.delta as a campaign would do it (25 jobs a batch, a job in thirty fails first), looked after
as a campaign would be. Then the command runs as a process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from benchmarks import Quantity

ABOUT = "Seconds of drp status on a campaign of 1e3, 1e4, 1e5 jobs (10 quanta each) at four sites."
OPTIONS: list[object] = []
SITES = ("USDF", "FRDF", "LANCS", "RAL")
QUANTA, JOBS_IN_BATCH, RUNS = 10, 25, 5
TEXT = "name: big\ninstrument: TinyCam\nskymap: tiny_rings\nsites:\n" + "".join(
    f"  {name}: {{tracts: [{9469 + n}]}}\n" for n, name in enumerate(SITES)
)

#: The quanta of a site; $jobs of them, the steps in turn.
QUANTUM = """
SELECT md5($site || q)[:8] || '-' || md5('x' || $site || q)[:27] AS quantum_id, 'big' AS campaign,
       'step' || ['1', '2a', '3', '4'][1 + (j * 4 // $jobs)::INTEGER] AS step,
       ['isr', 'consolidate', 'warp', 'difference'][1 + (j * 4 // $jobs)::INTEGER] AS task, task || '/visit=' || j AS job,
       'TinyCam' AS instrument, j AS exposure, j AS visit, (q % 10)::INTEGER AS detector, 'r_tiny' AS physical_filter, 'r' AS band,
       20260910 AS day_obs, now() AS noted_at
FROM (SELECT range AS q, range // 10 AS j FROM range(10 * $jobs)) ORDER BY q
"""
ATTEMPT = """
SELECT quantum_id, campaign, step, task, job, tried AS attempt, CASE WHEN tried < tries THEN 'failed' ELSE 'succeeded' END AS state,
       CASE WHEN tried < tries THEN 'ValueError: the pixels are broken' END AS reason, 1.5 AS seconds, 300.0 AS peak_memory_mb,
       'node17' AS host, 'f00d' AS software, '2026-09-10'::TIMESTAMPTZ + INTERVAL (visit + tried) SECOND AS noted_at, visit
FROM (SELECT *, CASE WHEN visit % 30 = 7 THEN 2 ELSE 1 END AS tries FROM quantum), (SELECT unnest([1, 2])::INTEGER AS tried)
WHERE tried <= tries ORDER BY visit, tried, detector
"""
JOB = """
SELECT campaign, step, $site AS site, job, attempt, any_value(state) AS state, count(*)::INTEGER AS quanta, sum(seconds) AS seconds,
       any_value(reason) AS why, max(noted_at) AS noted_at
FROM attempt GROUP BY ALL ORDER BY noted_at
"""


def build(root: Path, jobs: int) -> int:
    """A lake at ``root`` with the log of a campaign of so many jobs; returns the number of commits."""
    import pyarrow as pa

    import schemas
    from lake import delta, upkeep
    from lake.site import Lake
    from pipelines.definition import STEPS
    from pipelines.journal import Journal

    lake = Lake.create(root, {name: {"central": name == SITES[0]} for name in SITES})
    journal = Journal(lake, "big")
    journal.write("campaign", state="running", definition=TEXT, who="op@host", why=None)
    commits = 0

    def append(site: object, table: str, rows: pa.Table, number: int, who: str) -> None:
        delta.append(site, table, schemas.conform(table, rows), (who, number))  # type: ignore[arg-type]
        if number % 50 == 0:
            upkeep.tend(site)  # type: ignore[arg-type]

    for name in SITES:
        site = lake.site(name)
        with delta.cursor() as con:
            given = {"site": name, "jobs": jobs // len(SITES)}
            quantum = con.sql(QUANTUM, params=given).to_arrow_table()
            delta.append(site, "quantum", schemas.conform("quantum", quantum))
            con.register("quantum", quantum)
            attempt = con.sql(ATTEMPT).to_arrow_table()
            con.register("attempt", attempt)
            job = con.sql(JOB, params={"site": name}).to_arrow_table()
        size = QUANTA * JOBS_IN_BATCH
        for number, start in enumerate(range(0, attempt.num_rows, size), 1):
            append(site, "attempt", attempt.slice(start, size).drop_columns(["visit"]), number, "publish")
            append(lake.central, "job", job.slice(start // QUANTA, JOBS_IN_BATCH), number, f"journal/{name}")
            commits += 2
        for step in STEPS:
            journal.write("step", step=step, site=name, state="accepted", quanta=0, succeeded=0, failed=0, who="op@host", why=None)
    journal.flush()
    return commits


def run(scale: int) -> Iterator[Quantity]:
    """The commands' wall time (median of five processes), how --watch behaves, and what the log is like."""
    from lake import delta
    from lake.site import Lake

    jobs = 1000 * scale
    with tempfile.TemporaryDirectory(prefix="drp-status-") as folder:
        root = Path(folder) / "lake"
        begun = time.monotonic()
        commits = build(root, jobs)
        built = time.monotonic() - begun
        lake = Lake.open(root)
        files = sum(len(delta.files(site, table)) for site in lake.sites.values() for table in ("attempt", "job"))
        one = next(iter(_quanta(lake)))
        yield Quantity("commits that made the log", "1", commits, count=jobs)
        yield Quantity("seconds a commit, upkeep included", "s", built / commits, count=commits)
        yield Quantity("live files of attempt and job", "1", files, count=commits)
        for words in (["status"], ["status", "--step", "step3"], ["status", "--quantum", one], ["status", "--format", "json"]):
            seconds, processor = _seconds(words[0], str(root), *words[1:])
            name = " ".join(["drp", *words[:2]])
            yield Quantity(name, "s", seconds, "<= 2 s", seconds <= 2, count=jobs)
            yield Quantity(f"{name}, processor time", "s", processor, count=jobs)
        first, grown = _watched(lake)
        yield Quantity("one look of --watch", "s", first, "<= 2 s", first <= 2, count=jobs)
        yield Quantity("memory that 20 more looks take", "MB", grown, "<= 10 MB", grown <= 10, count=jobs)
        yield Quantity("python start and imports (drp --help)", "s", _seconds("--help")[0])


def _quanta(lake: object) -> Iterator[str]:
    from pipelines import graph

    with graph.connect(lake.central, ["quantum"]) as con:  # type: ignore[attr-defined]
        yield from (row[0] for row in con.execute("SELECT quantum_id FROM quantum LIMIT 1").fetchall())


def _seconds(*words: str) -> tuple[float, float]:
    """Wall and processor seconds of a command as a process: medians, each of its own."""
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", *words]
    wall, processor = [], []
    for _ in range(RUNS):
        before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        wall.append(time.monotonic() - begun)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        processor.append(after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)
    return median(wall), median(processor)


def _watched(lake: object) -> tuple[float, float]:
    """Seconds of one look in a process that has looked before, and the megabytes by which 20 more let it grow."""
    from pipelines import status

    def memory() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    for _ in range(20):  # until the allocators have what they want
        begun = time.monotonic()
        status.steps(lake, "big")  # type: ignore[arg-type]
        seconds = time.monotonic() - begun
    before = memory()
    for _ in range(20):
        status.steps(lake, "big")  # type: ignore[arg-type]
    return seconds, memory() - before
