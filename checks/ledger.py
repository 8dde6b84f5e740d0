"""The ledger: per site, step and dataset type of a campaign, what should exist, what does, and what explains the rest.

One SQL per site puts every dataset into one state (standing.sql); the rest is counting. States: visible, shadowed
(another run of the chain is found first), predicted_only (no work found), unsuccessful (its producer failed or was
blocked), cursed (there, though its producer failed), lost, damaged, in_transit, parked, rejected, waiting (its quantum
has not run yet); and, on top of what was expected, unexpected datasets and orphan files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import yaml

from checks.audit import Finding, quick
from lake import delta
from lake.site import Lake, LakeError, Site

Row = dict[str, Any]
SQL = Path(__file__).parent
#: Phases and steps in the order in which a campaign goes through them.
STEPS = (
    "place", "step1", "step2a", "step2b", "fan-in", "step2c", "fan-out", "step2d", "step2e", "step3", "step4", "step5",
    "step6", "return", "step7", "rule", "storage",
)  # fmt: skip
STATES = (
    "visible", "shadowed", "predicted_only", "unsuccessful", "cursed", "lost", "damaged", "in_transit", "parked",
    "rejected", "waiting", "unexpected", "orphan",
)  # fmt: skip
#: States that need no decision by anyone.
FINE = ("visible", "shadowed", "predicted_only", "orphan")
TABLES = (
    "expected_dataset", "quantum", "attempt", "dataset", "collection", "certification", "parked", "rule", "manifest", "transfer",
    "visit_detector_patch", "tombstone",
)  # fmt: skip


@dataclass(frozen=True)
class Ledger:
    """``rows`` per (site, step, dataset type); ``raws`` that did not reach the last product that should hold them."""

    campaign: str
    rows: list[Row] = field(default_factory=list)
    raws: list[Row] = field(default_factory=list)
    raw_count: int = 0
    problems: list[str] = field(default_factory=list)

    @property
    def reconciled(self) -> bool:
        """True when every expected dataset is present or explained, and every raw accounted for."""
        return not self.problems

    @property
    def totals(self) -> dict[str, int]:
        """Sums over all rows: expected and every state."""
        return {name: sum(row[name] for row in self.rows) for name in ("expected", *STATES)}

    @property
    def summary(self) -> str:
        """One line: the sum, and what is wrong with it."""
        total = self.totals
        present = total["visible"] + total["shadowed"] + total["cursed"]
        words = [
            f"{total[s]:,} {s}" for s in STATES if s not in ("visible", "shadowed", "cursed", "unexpected", "orphan") and total[s]
        ]
        left = f" + {' + '.join(words)}" if words else ""
        done = self.raw_count - len(self.raws)
        raws = f"{done:,} of {self.raw_count:,} raws reached every product" + (", the others are explained" if self.raws else "")
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
    tracts = sorted({t for share in definition["sites"].values() for t in (share or {}).get("tracts", [])})
    with delta.connect() as con:
        _step_order(con)
        decisions, touched = [], []
        for site in _sites(lake, definition):
            _site(con, site, campaign, findings(site) if findings else [])
            decisions += _decisions(con, lake, site, campaign, definition.get("tolerate") or {})
            touched.append(_touched(con, tracts))
        con.register("decision", pa.Table.from_pylist(decisions, schema=DECISION))
        con.register("touched", pa.concat_tables(touched))
        rows = _all(con, "ledger")
        raws = _all(con, "raw_trace")
    unfinished = [raw for raw in raws if raw["state"] != "complete"]
    silent = [site for site in definition["sites"] if not any(r["site"] == site and r["step"].startswith("step") for r in rows)]
    problems = [f"{site}: no work is predicted for it yet (drp run starts the campaign)" for site in silent]
    problems += [_problem(row) for row in rows if not row["reconciled"]]
    lost = [raw for raw in unfinished if not raw["explained"]]
    if lost:
        problems.append(f"{len(lost)} raws were placed, but nothing asks for a product of them (--raws lists them)")
    return Ledger(campaign, rows, unfinished, len(raws), problems)


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


def _step_order(con: duckdb.DuckDBPyConnection) -> None:
    con.register("step_order", pa.table({"step": list(STEPS), "position": list(range(len(STEPS)))}))


def _site(con: duckdb.DuckDBPyConnection, site: Site, campaign: str, found: list[Finding]) -> None:
    """Add a site's datasets to ``standing`` and its orphan files to ``stray``."""
    for table in TABLES:
        con.execute(f'CREATE OR REPLACE TEMP VIEW "{table}" AS {delta.select(site, table)}')
    findings = [{"path": f.path, "state": f.state, "reason": f.reason} for f in found]
    kind = pa.schema([("path", pa.string()), ("state", pa.string()), ("reason", pa.string())])
    con.register("storage_finding", pa.Table.from_pylist(findings, schema=kind))
    insert = "CREATE TEMP TABLE standing AS " if not _exists(con, "standing") else "INSERT INTO standing "
    con.execute(insert + (SQL / "standing.sql").read_text(), {"campaign": campaign, "site": site.name})
    insert = "CREATE TEMP TABLE stray AS " if not _exists(con, "stray") else "INSERT INTO stray "
    con.execute(insert + (SQL / "stray.sql").read_text(), {"campaign": campaign, "site": site.name})


def _exists(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    return bool(con.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = $t", {"t": table}).fetchall())


def _decisions(con: duckdb.DuckDBPyConnection, lake: Lake, site: Site, campaign: str, tolerate: dict[str, float]) -> list[Row]:
    """Which steps' failures at a site were accepted: by an operator (as many as there are), or by the tolerance."""
    con.execute(f"CREATE OR REPLACE TEMP VIEW step AS {delta.select(lake.central, 'step')}")
    rows = con.execute((SQL / "decisions.sql").read_text(), {"campaign": campaign, "site": site.name}).fetchall()
    return [
        {
            "site": site.name,
            "step": step,
            "accepted": failed > 0 and (accepted or failed <= tolerate.get(step, 0.0) * quanta),
        }
        for step, quanta, failed, accepted in rows
    ]


def _touched(con: duckdb.DuckDBPyConnection, tracts: list[int]) -> pa.Table:
    """Visits whose footprint touches a tract of the campaign, as one site knows them."""
    return con.sql(
        "SELECT DISTINCT visit FROM visit_detector_patch WHERE list_contains($tracts::INTEGER[], tract)",
        params={"tracts": tracts},
    ).to_arrow_table()


def _all(con: duckdb.DuckDBPyConnection, name: str) -> list[Row]:
    rows: list[Row] = con.sql((SQL / f"{name}.sql").read_text()).to_arrow_table().to_pylist()
    return rows


def _problem(row: Row) -> str:
    """What keeps a row from being reconciled, in words."""
    states = [s for s in STATES if s not in FINE and row[s] and not (row["accepted"] and s in ("unsuccessful", "cursed"))]
    counts = ", ".join(f"{row[s]:,} {s}" for s in states)
    reason = f" ({row['reason']})" if row["reason"] and states != ["waiting"] else ""
    return f"{row['site']} {row['step']} {row['dataset_type']}: {counts}{reason[:160]}"
