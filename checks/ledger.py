"""The ledger: per site, step and dataset type of a campaign, what should exist, what does, and what explains the rest.

Every dataset is in one state (standing.sql); counting.py counts them, site by site and type by type. States: visible, shadowed
(another run of the chain is found first), predicted_only (no work found), unsuccessful (its producer failed or was
blocked), cursed (there, though its producer failed), archived (taken out, and in the archive), lost, damaged,
in_transit, parked, rejected, waiting (its quantum has not run yet); and, on top of what was expected, unexpected datasets
and orphan files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from checks.audit import Finding, quick
from checks.counting import SiteCount
from checks.ledger_sum import sql
from lake import delta
from lake.query import literal
from lake.site import Lake, LakeError, Site
from lake.sql import statement

Row = dict[str, Any]
#: Phases and steps in the order in which a campaign goes through them.
STEPS = (
    "place", "step1", "step2a", "step2b", "fan-in", "step2c.equations", "step2c.solution", "solution", "step2c.standards",
    "residuals", "step2c.zero_points", "fan-out", "step2d", "step2e", "step3", "step4", "step5", "step6", "return", "step7",
    "rules", "rule", "storage",
)  # fmt: skip
STATES = (
    "visible", "shadowed", "predicted_only", "unsuccessful", "cursed", "archived", "lost", "damaged", "in_transit", "parked",
    "rejected", "waiting", "unexpected", "orphan",
)  # fmt: skip
#: States that need no decision by anyone.
FINE = ("visible", "shadowed", "predicted_only", "archived", "orphan")


def order(definition: Mapping[str, Any]) -> tuple[str, ...]:
    """STEPS in the order of a campaign: where sites make the equations of their own tracts, these come before the fan-in."""
    if (definition.get("calibration") or {}).get("mode") != "partial":
        return STEPS
    steps = [step for step in STEPS if step != "fan-in"]
    steps.insert(steps.index("step2c.equations") + 1, "fan-in")
    return tuple(steps)


@dataclass(frozen=True)
class Ledger:
    """``rows`` per (site, step, dataset type); how many raws there are, and how many did not reach all their products."""

    campaign: str
    rows: list[Row] = field(default_factory=list)
    raw_count: int = 0
    unfinished: int = 0
    problems: list[str] = field(default_factory=list)
    trace: Callable[[], list[Row]] = field(default=list, repr=False, compare=False)

    @cached_property
    def raws(self) -> list[Row]:
        """Raws that did not reach the last product that should hold them, and where each stopped: looked up when asked for."""
        return self.trace() if self.unfinished else []

    @property
    def reconciled(self) -> bool:
        """True when every expected dataset is present or explained, and every raw accounted for."""
        return not self.problems

    @property
    def totals(self) -> dict[str, int]:
        """Sums over all rows: expected, every state, and what is registered and in the archive too."""
        return {name: sum(row[name] for row in self.rows) for name in ("expected", *STATES, "in_archive")}

    @property
    def summary(self) -> str:
        """One line: the sum, and what is wrong with it."""
        total = self.totals
        present = total["visible"] + total["shadowed"] + total["cursed"]
        words = [
            f"{total[s]:,} {s}" for s in STATES if s not in ("visible", "shadowed", "cursed", "unexpected", "orphan") and total[s]
        ]
        left = f" + {' + '.join(words)}" if words else ""
        done = self.raw_count - self.unfinished
        raws = f"{done:,} of {self.raw_count:,} raws reached every product" + (
            ", the others are explained" if self.unfinished else ""
        )
        line = f"{total['expected']:,} expected = {present:,} present{left}; {raws}"
        if self.reconciled:
            strays = f" (orphan files: {total['orphan']:,}, named by drp audit)" if total["orphan"] else ""
            return f"reconciled: {line}{strays}"
        more = f" (and {len(self.problems) - 3} more)" if len(self.problems) > 3 else ""
        return f"NOT reconciled: {'; '.join(self.problems[:3])}{more}"


def ledger(lake: Lake, campaign: str, findings: Callable[[Site], list[Finding]] | None = quick) -> Ledger:
    """The ledger of a campaign over all its sites; LakeError when the lake has no such campaign.

    ``findings`` says what is wrong in a site's storage: by default a listing (no file is read); None takes the
    registries' word.
    """
    definition = definition_of(lake, campaign)
    found = {site.name: findings(site) if findings else [] for site in _sites(lake, definition)}
    with delta.connect() as con:
        con.register("step_order", pa.table({"step": list(STEPS), "position": list(range(len(STEPS)))}))
        con.execute(f"CREATE TEMP VIEW archive_copy_all AS {_archive(lake)}")
        con.execute("CREATE TEMP TABLE stray (site VARCHAR, step VARCHAR, dataset_type VARCHAR, path VARCHAR, reason VARCHAR)")
        decisions, counts = [], []
        for site in _sites(lake, definition):
            count = SiteCount(con, site, campaign, found[site.name])
            count.count()
            counts.append(count)
            decisions += _decisions(con, lake, site, campaign, definition.get("tolerate") or {})
            if any(finding.state == "orphan" for finding in found[site.name]):
                con.execute(f"CREATE OR REPLACE TEMP VIEW expected_all AS {delta.select(site, 'expected_dataset')}")
                con.execute(f"INSERT INTO stray {sql('stray')}", {"campaign": campaign, "site": site.name})
        con.register("decision", pa.Table.from_pylist(decisions, schema=DECISION))
        rows = con.sql(sql("ledger")).to_arrow_table().to_pylist()
        raw_count, unfinished, lost = _raws(con, counts, definition)
        wanted = con.sql("FROM unfinished").to_arrow_table()
    silent = [site for site in definition["sites"] if not any(r["site"] == site and r["step"].startswith("step") for r in rows)]
    problems = [f"{site}: no work is predicted for it yet (drp run starts the campaign)" for site in silent]
    problems += [_problem(row) for row in rows if not row["reconciled"]]
    if lost:
        problems.append(f"{lost} raws were placed, but nothing asks for a product of them (--raws lists them)")
    return Ledger(campaign, rows, raw_count, unfinished, problems, lambda: _trace(lake, campaign, definition, found, wanted))


def _raws(con: duckdb.DuckDBPyConnection, counts: list[SiteCount], definition: dict[str, Any]) -> tuple[int, int, int]:
    """How many raws there are, have not reached every product, and have no product that anything asks for.

    Leaves the tables ``unfinished`` (exposure, detector) of the second and ``unseen`` of those of them without a product.
    """
    con.execute(
        "CREATE TEMP TABLE raw AS SELECT exposure, detector, any_value(visit) AS visit FROM raw_key GROUP BY exposure, detector"
    )
    con.execute("CREATE TEMP TABLE unseen AS FROM raw")
    for count in counts:
        count.see()
    con.execute(
        "CREATE TEMP TABLE unfinished AS SELECT exposure, detector FROM unseen UNION "
        "SELECT exposure, detector FROM raw SEMI JOIN stopped USING (exposure, detector) UNION "
        "SELECT exposure, detector FROM raw SEMI JOIN (FROM stopped WHERE detector IS NULL) USING (exposure)"
    )
    lost = 0
    if con.execute("SELECT count(visit) FROM unseen").fetchall()[0][0]:
        con.register("touched", _touched(con, counts, definition))
        lost = int(con.execute("SELECT count(*) FROM unseen SEMI JOIN touched USING (visit)").fetchall()[0][0])
    (totals,) = con.execute("SELECT (SELECT count(*) FROM raw), (SELECT count(*) FROM unfinished)").fetchall()
    return int(totals[0]), int(totals[1]), lost


def _trace(lake: Lake, campaign: str, definition: dict[str, Any], found: dict[str, list[Finding]], wanted: pa.Table) -> list[Row]:
    """The raws in ``wanted`` (exposure, detector), followed through every product: raw_trace.sql."""
    with delta.connect() as con:
        con.register("step_order", pa.table({"step": list(STEPS), "position": list(range(len(STEPS)))}))
        con.register("unfinished", wanted)
        con.execute(f"CREATE TEMP VIEW archive_copy_all AS {_archive(lake)}")
        parts, counts = [], []
        for site in _sites(lake, definition):
            counts.append(SiteCount(con, site, campaign, found[site.name]))
            counts[-1].follow()
            parts.append(con.sql("FROM standing").to_arrow_table())
        con.execute("DROP TABLE standing")
        con.register("standing", pa.concat_tables(parts))
        con.register("touched", _touched(con, counts, definition))
        rows: list[Row] = con.sql(sql("raw_trace")).to_arrow_table().to_pylist()
    return [row for row in rows if row["state"] != "complete"]


def _touched(con: duckdb.DuckDBPyConnection, counts: list[SiteCount], definition: dict[str, Any]) -> pa.Table:
    """Visits whose footprint touches a tract of the campaign, as its sites know them."""
    tracts = sorted({t for share in definition["sites"].values() for t in (share or {}).get("tracts", [])})
    known = " UNION ALL ".join(f"({delta.select(count.site, 'visit_detector_patch')})" for count in counts)
    query = f"SELECT DISTINCT visit FROM ({known}) WHERE list_contains($tracts::INTEGER[], tract)"
    return con.sql(query, params={"tracts": tracts}).to_arrow_table()


def _archive(lake: Lake) -> str:
    """SQL: what is in sound bundles of the archive, whichever site keeps them; columns of archive_copy.sql."""
    tables = {
        table: " UNION ALL ".join(
            f"SELECT {literal(site.name)} AS site, * FROM ({delta.select(site, table)})" for site in lake.sites.values()
        )
        for table in ("archive_bundle", "archive_member")
    }
    given = ", ".join(f"{table} AS ({rows})" for table, rows in tables.items())
    return f"WITH {given} FROM ({statement('views/archive_copy')}) WHERE state = 'stored'"


DECISION = pa.schema([("site", pa.string()), ("step", pa.string()), ("accepted", pa.bool_())])


def definition_of(lake: Lake, campaign: str) -> dict[str, Any]:
    """The campaign's YAML as it runs."""
    with delta.connect() as con:
        delta.relation(con, lake.central, "campaign").create_view("campaign")
        found = con.execute(
            "SELECT definition FROM campaign WHERE campaign = $c ORDER BY noted_at DESC LIMIT 1", {"c": campaign}
        ).fetchall()
    if not found:
        raise LakeError(f"no campaign {campaign!r} in {lake.root}; drp status names those that are there")
    definition: dict[str, Any] = yaml.safe_load(found[0][0])
    return definition


def _sites(lake: Lake, definition: dict[str, Any]) -> list[Site]:
    """The campaign's sites and the central one, in the order of the lake."""
    return [site for site in lake.sites.values() if site.central or site.name in definition["sites"]]


def _decisions(con: duckdb.DuckDBPyConnection, lake: Lake, site: Site, campaign: str, tolerate: dict[str, float]) -> list[Row]:
    """Which steps' failures at a site were accepted: by an operator (as many as there are), or by the tolerance."""
    con.execute(f"CREATE OR REPLACE TEMP VIEW step AS {delta.select(lake.central, 'step')}")
    rows = con.execute(sql("decisions"), {"campaign": campaign, "site": site.name}).fetchall()
    return [
        {
            "site": site.name,
            "step": step,
            "accepted": failed > 0 and (accepted or failed <= tolerate.get(step, 0.0) * quanta),
        }
        for step, quanta, failed, accepted in rows
    ]


def _problem(row: Row) -> str:
    """What keeps a row from being reconciled, in words."""
    states = [s for s in STATES if s not in FINE and row[s] and not (row["accepted"] and s in ("unsuccessful", "cursed"))]
    counts = ", ".join(f"{row[s]:,} {s}" for s in states)
    reason = f" ({row['reason']})" if row["reason"] and states != ["waiting"] else ""
    return f"{row['site']} {row['step']} {row['dataset_type']}: {counts}{reason[:160]}"
