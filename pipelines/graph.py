"""The graph: which quanta a site should run, what they should leave, and what each one reads. All by SQL joins.

Quanta are predicted from dimension records alone, for the whole pipeline, before anything runs: the ledger can then say at
any time what is still to come. Inputs are resolved against the registry just before a task runs.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

import schemas
from lake import collection, delta, registry
from lake.identity import install_uuid5
from lake.site import Site
from pipelines.campaign import Campaign
from pipelines.definition import Input, Pipeline, Task, columns

SQL = Path(__file__).parent
#: The dimension tables that quanta are predicted from.
FOOTPRINT = ("visit_detector_patch", "visit_detector_region", "visit")
#: Columns by which the footprint (visit_detector_patch) joins what is on the sky with what a visit saw.
SPATIAL = ("instrument", "visit", "detector", "tract", "patch")
#: The tables that tell what should be made of a quantum's inputs, and how their producers ended.
PRODUCERS = ("expected_dataset", "attempt", "visit_detector_patch")
ENDED_WELL = "made AS (SELECT quantum_id, bool_or(state IN ('succeeded', 'no_work')) AS done FROM attempt GROUP BY 1)"


def connect(site: Site, tables: Iterable[str], prune: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with a view per named table of the site; ``prune`` leaves out files, as delta.files() does."""
    con = delta.cursor()
    for name in tables:
        if name == "certification_now":
            con.execute(f"CREATE OR REPLACE TEMP VIEW certification_now AS {collection.certified(site)}")
        else:
            delta.view(con, site, name, prune)
    return con


def _footprint(con: duckdb.DuckDBPyConnection, campaign: Campaign, tracts: Iterable[int]) -> None:
    con.register("tracts", pa.table({"tract": pa.array(sorted(tracts), pa.int32())}))
    where = {"instrument": campaign.instrument, "skymap": campaign.skymap}
    for name, params in (("footprint", where), ("visits", {"instrument": campaign.instrument})):
        table = con.sql((SQL / f"{name}.sql").read_text(), params=params).to_arrow_table()
        con.register(name, table)


def _source(dimensions: Iterable[str]) -> str:
    """The relation that data IDs over ``dimensions`` come from: the footprint where the sky matters, else whole visits."""
    return "footprint" if {"tract", "patch", "skymap"} & set(dimensions) else "visits"


def _selected(dimensions: Iterable[str], alias: str = "") -> str:
    """SELECT list of all data ID columns; those not implied by ``dimensions`` are NULL."""
    have = columns(dimensions)
    types = schemas.table("dataset").arrow
    casts = {pa.string(): "VARCHAR", pa.int64(): "BIGINT", pa.int32(): "INTEGER"}
    return ", ".join(f"{alias}{c}" if c in have else f"NULL::{casts[types.field(c).type]} AS {c}" for c in schemas.DATA_ID)


def predict(site: Site, pipeline: Pipeline, campaign: Campaign) -> tuple[pa.Table, pa.Table]:
    """All quanta of the campaign at a site and the datasets they should leave.

    Returns tables in the declared schemas ``quantum`` (without ``noted_at``) and ``expected_dataset``, ordered by task and data ID.
    """
    share = campaign.sites[site.name]
    quanta, expected = [], []
    with connect(site, FOOTPRINT) as con:
        install_uuid5(con)
        for central in (False, True) if site.central else (False,):
            _footprint(con, campaign, campaign.tracts if central else share.processed)
            for task in pipeline.tasks:
                if campaign.runs_centrally(task) == central:
                    table = _quanta(con, campaign, task)
                    quanta.append(table)
                    con.register("q", table)
                    expected += [_expected(con, pipeline, campaign, task, output) for output in task.outputs]
    outputs = registry.with_ids(None, pa.concat_tables(expected), pipeline.dimensions())
    outputs = outputs.select(schemas.table("expected_dataset").arrow.names)
    return pa.concat_tables(quanta), schemas.conform("expected_dataset", outputs)


def _quanta(con: duckdb.DuckDBPyConnection, campaign: Campaign, task: Task) -> pa.Table:
    """Quanta of one task: one per data ID over its dimensions that the footprint has."""
    selected = f"SELECT DISTINCT {_selected(task.dimensions)} FROM {_source(task.dimensions)}"
    key = " || '|' || ".join(f"'{c}=' || {c}" for c in task.dimensions)
    group = " || '|' || ".join(f"'{c}=' || {c}" for c in task.cluster) if task.cluster else "'all'"
    return con.sql(
        f"SELECT uuid5($campaign || '|' || $task || '|' || {key}) AS quantum_id, $campaign AS campaign, $step AS step, "
        f"$task AS task, $task || '/' || {group} AS job, * FROM ({selected}) ORDER BY {', '.join(task.dimensions)}",
        params={"campaign": campaign.name, "step": task.step, "task": task.label},
    ).to_arrow_table()


def _expected(con: duckdb.DuckDBPyConnection, pipeline: Pipeline, campaign: Campaign, task: Task, output: str) -> pa.Table:
    """Datasets of one output type: one per quantum, or, where the output is finer, one per data ID under the quantum."""
    dimensions = pipeline.dataset_types[output].dimensions
    finer = [c for c in dimensions if c not in columns(task.dimensions)]
    if finer:
        shared = [c for c in dimensions if c not in finer]
        on = " AND ".join(f"s.{c} = q.{c}" for c in shared) or "true"
        source = f"SELECT DISTINCT {_selected(dimensions)} FROM {_source(dimensions)}"
        body = f"SELECT q.quantum_id, {_selected(dimensions, 's.')} FROM q JOIN ({source}) s ON {on}"
    else:
        body = f"SELECT q.quantum_id, {_selected(dimensions, 'q.')} FROM q"
    order = ", ".join(dimensions)
    return con.sql(
        f"SELECT $type AS dataset_type, $run AS run, quantum_id, $step AS step, $task AS task, "
        f"{', '.join(schemas.DATA_ID)} FROM ({body}) ORDER BY quantum_id, {order}",
        params={"type": output, "run": pipeline.run(campaign.name, output), "step": task.step, "task": task.label},
    ).to_arrow_table()


def resolve(site: Site, pipeline: Pipeline, campaign: Campaign, task: Task, quanta: pa.Table) -> pa.Table:
    """What each quantum of one task reads: registered datasets joined on data IDs.

    Returns one row per (quantum_id, dataset_type, dataset), ordered; columns quantum_id and those of ``dataset``.
    """
    with connect(site, ["dataset", "visit_detector_patch", "visit", "certification_now"]) as con:
        con.register("q", quanta)
        parts = [_edges(con, pipeline, campaign, task, given) for given in task.inputs]
    if not parts:
        return schemas.table("dataset").arrow.empty_table().add_column(0, "quantum_id", pa.array([], pa.string()))
    return pa.concat_tables(parts)


def _edges(con: duckdb.DuckDBPyConnection, pipeline: Pipeline, campaign: Campaign, task: Task, given: Input) -> pa.Table:
    chosen = ", ".join(f"d.{c}" for c in schemas.table("dataset").arrow.names if c != "quantum_id")
    joined, params = _join(pipeline, campaign, task, given, "dataset")
    order = ", ".join(f"d.{c}" for c in pipeline.dataset_types[given.dataset_type].dimensions)
    rows = con.sql(f"SELECT DISTINCT q.quantum_id, {chosen} {joined} ORDER BY q.quantum_id, {order}", params=params)
    return rows.to_arrow_table()


def _join(pipeline: Pipeline, campaign: Campaign, task: Task, given: Input, table: str) -> tuple[str, dict[str, str]]:
    """FROM clause that joins quanta ``q`` with the rows ``d`` of a table of datasets that one input means, and its parameters."""
    kind = pipeline.dataset_types[given.dataset_type]
    have, want = columns(task.dimensions), columns(kind.dimensions)
    params = {"type": given.dataset_type, "run": pipeline.run(campaign.name, given.dataset_type)}
    if given.calibration:
        on = " AND ".join(f"c.{c} IS NOT DISTINCT FROM q.{c}" for c in kind.dimensions if c in have)
        return (
            f"FROM q JOIN visit v ON v.instrument = q.instrument AND v.visit = q.visit "
            f"JOIN certification_now c ON c.dataset_type = $type AND c.collection = $run AND {on} "
            f"AND v.mjd_mid >= c.valid_begin AND v.mjd_mid < c.valid_end "
            f"JOIN {table} d ON d.dataset_id = c.dataset_id AND d.dataset_type = $type"
        ), params
    equal = ["d.dataset_type = $type", "d.run = $run", *(f"d.{c} = q.{c}" for c in have if c in want)]
    footprint = ""
    on_sky, on_visit = {"tract", "patch"}, {"visit", "detector"}
    h, w = set(have), set(want)
    if (w & on_sky and h & on_visit and not (w & on_sky) <= h) or (w & on_visit and h & on_sky and not (w & on_visit) <= h):
        used = [c for c in SPATIAL if c in h | w]
        sides = " AND ".join(f"o.{c} = q.{c}" for c in used if c in h)
        footprint = f"JOIN (SELECT DISTINCT {', '.join(used)} FROM visit_detector_patch WHERE skymap = $skymap) o ON {sides}"
        equal += [f"d.{c} = o.{c}" for c in used if c in w]
        params["skymap"] = campaign.skymap
    return f"FROM q {footprint} JOIN {table} d ON {' AND '.join(equal)}", params


def idle_producers(site: Site, pipeline: Pipeline, campaign: Campaign, task: Task, quanta: pa.Table) -> set[tuple[str, str]]:
    """(quantum_id, dataset type) where an input is missing because every quantum that could have made it found nothing to do."""
    idle: set[tuple[str, str]] = set()
    with connect(site, PRODUCERS) as con:
        con.register("q", quanta)
        for given in task.inputs:
            if not (given.optional or given.calibration):
                joined, params = _join(pipeline, campaign, task, given, "expected_dataset")
                rows = con.execute(
                    f"WITH {ENDED_WELL} SELECT e.quantum_id "
                    f"FROM (SELECT DISTINCT q.quantum_id, d.quantum_id AS producer {joined}) e "
                    "LEFT JOIN made m ON m.quantum_id = e.producer GROUP BY 1 HAVING bool_and(coalesce(m.done, false))",
                    params,
                ).fetchall()
                idle |= {(row[0], given.dataset_type) for row in rows}
    return idle


def missing_inputs(
    site: Site, pipeline: Pipeline, campaign: Campaign, task: Task, quanta: pa.Table, edges: pa.Table
) -> dict[str, list[str]]:
    """Quanta that cannot run, with the inputs they lack: {quantum_id: ['post_isr_image', 'part of direct_warp']}.

    An input is lacking when no dataset of it is registered. Unless it may be partial, a part of it is lacking when a dataset
    that is predicted here is not registered, though its producer did not end well without it.
    """
    needed = [given for given in task.inputs if not given.optional]
    if not needed:
        return {}
    names = [given.dataset_type for given in needed]
    whole = [given for given in needed if not (given.partial or given.calibration) and _several(pipeline, task, given)]
    with connect(site, ["dataset", *PRODUCERS] if whole else []) as con:
        con.register("q", quanta)
        con.register("e", edges)
        con.register("n", pa.table({"dataset_type": names, "position": list(range(len(names)))}))
        lacking = con.sql(
            "SELECT q.quantum_id, n.dataset_type AS what, n.position FROM q CROSS JOIN n "
            "ANTI JOIN e ON e.quantum_id = q.quantum_id AND e.dataset_type = n.dataset_type"
        ).to_arrow_table()
        found = [lacking, *(_unmade(con, pipeline, campaign, task, given, names.index(given.dataset_type)) for given in whole)]
        con.register("lacking", pa.concat_tables(found, promote_options="permissive"))
        rows = con.sql("SELECT quantum_id, list(what ORDER BY position) FROM lacking GROUP BY 1").fetchall()
    return dict(rows)


def _several(pipeline: Pipeline, task: Task, given: Input) -> bool:
    """Whether one quantum may read more than one dataset of an input."""
    return not set(pipeline.dataset_types[given.dataset_type].dimensions) <= set(columns(task.dimensions))


def _unmade(
    con: duckdb.DuckDBPyConnection, pipeline: Pipeline, campaign: Campaign, task: Task, given: Input, position: int
) -> pa.Table:
    """Quanta for which a predicted dataset of an input is not registered, though its producer did not end well without it."""
    joined, params = _join(pipeline, campaign, task, given, "expected_dataset")
    return con.sql(
        f"WITH {ENDED_WELL} SELECT DISTINCT x.quantum_id, 'part of ' || $type AS what, {position}::BIGINT AS position "
        f"FROM (SELECT DISTINCT q.quantum_id, d.dataset_id, d.quantum_id AS producer {joined}) x "
        "ANTI JOIN dataset p ON p.dataset_id = x.dataset_id LEFT JOIN made m ON m.quantum_id = x.producer "
        "SEMI JOIN e ON e.quantum_id = x.quantum_id AND e.dataset_type = $type "
        "WHERE NOT coalesce(m.done, false)",
        params=params,
    ).to_arrow_table()
