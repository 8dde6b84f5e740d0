"""Expectation suites: metric tables made by DuckDB (measures.py), judged with Great Expectations, as suites.yaml says.

A check that could not be carried out is an error, never a verdict on the data. Verdicts go to the table ``validation``, kept
numbers to ``metric``, both at the central site.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import yaml

import schemas
from checks import measures
from checks.ledger import definition_of
from checks.subject import LIMIT, Row, Subject
from lake import delta
from lake.query import QueryError, connect
from lake.site import Lake, LakeError

Frame = Any  #: a pandas.DataFrame; pandas is imported with Great Expectations only

#: Failing rows of a metric table behind which rows are looked up.
LOOKED_UP = 3


@dataclass(frozen=True)
class Check:
    """One expectation and what became of it. ``error`` says why it could not be judged; ``offenders`` are the rows at fault."""

    suite: str
    metric: str
    expectation: str
    success: bool
    observed: str
    offenders: list[Row] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True)
class Verdict:
    """All checks of a judgement, and the metric tables they were judged on (by suite and metric)."""

    rows: list[Check]
    tables: dict[tuple[str, str], pa.Table]

    @property
    def success(self) -> bool:
        return all(check.success for check in self.rows)

    @property
    def summary(self) -> str:
        """One line: how many expectations are met, and which are not."""
        met, broken = sum(c.success for c in self.rows), [c for c in self.rows if c.error]
        failed = [c for c in self.rows if not c.success and not c.error]
        words = [f"{c.suite}: not so: {c.expectation} ({c.observed})" for c in failed]
        words += [f"{c.suite}: could not be judged: {c.expectation} ({c.error})" for c in broken]
        more = f" (and {len(words) - 3} more)" if len(words) > 3 else ""
        return f"{met} of {len(self.rows)} expectations met" + (f"; {'; '.join(words[:3])}{more}" if words else "")


@cache
def suites() -> dict[str, list[dict[str, Any]]]:
    """The suites of suites.yaml by name."""
    found: dict[str, list[dict[str, Any]]] = yaml.safe_load((Path(__file__).parent / "suites.yaml").read_text())["suites"]
    return found


def judge(lake: Lake, campaign: str, suite: str | None = None, keep: bool = True, spare: float = 0.0) -> Verdict:
    """Judge a campaign by all suites, or one; ``keep`` writes verdicts and numbers down at the central site.

    ``spare`` as in audit(). LakeError when there is no such campaign or suite.
    """
    with connect(lake) as con:
        return judge_subject(Subject(lake, campaign, con, definition_of(lake, campaign), spare), suite, keep)


def judge_subject(subject: Subject, suite: str | None = None, keep: bool = False) -> Verdict:
    """As judge(), of a subject that serves others too: its ledger and its storage are looked at once for all."""
    if suite is not None and suite not in suites():
        raise LakeError(f"no suite {suite!r}; known: {', '.join(suites())}")
    checks: list[Check] = []
    tables: dict[tuple[str, str], pa.Table] = {}
    kept: list[Row] = []
    judged = Judge()
    for name in [suite] if suite else suites():
        for part in suites()[name]:
            try:
                table = measures.measure(subject, part["metric"])
            except (QueryError, LakeError, duckdb.Error, OSError) as error:
                reason = " ".join(str(error).split())
                checks += [Check(name, part["metric"], e["says"], False, "", error=reason) for e in part["expect"]]
                continue
            tables[(name, part["metric"])] = table
            checks += [judged.check(subject, name, part, expectation, table) for expectation in part["expect"]]
            kept += _numbers(part, table)
    if keep:
        _keep(subject.lake, subject.campaign, checks, kept)
    return Verdict(checks, tables)


class Judge:
    """Great Expectations over data frames in memory: imported here, as it is slow to load, without telemetry or files."""

    def __init__(self) -> None:
        os.environ.setdefault("GX_ANALYTICS_ENABLED", "False")
        import great_expectations
        from great_expectations.data_context.types.base import (
            DataContextConfig,
            InMemoryStoreBackendDefaults,
            ProgressBarsConfig,
        )

        self.gx = great_expectations
        memory = InMemoryStoreBackendDefaults(init_temp_docs_sites=False)
        quiet = DataContextConfig(store_backend_defaults=memory, progress_bars=ProgressBarsConfig(globally=False))
        context = great_expectations.get_context(mode="ephemeral", project_config=quiet)
        self._source = context.data_sources.add_pandas("metrics")
        self._count = 0

    def check(self, subject: Subject, suite: str, part: Row, expectation: Row, table: pa.Table) -> Check:
        """Judge one expectation on a metric table and look up the rows behind a failure."""
        metric, says = part["metric"], expectation["says"]
        arguments = {key: value for key, value in expectation.items() if key not in ("says", "check")}
        try:
            frame = table.to_pandas()
            frame = frame.query(part["where"]) if "where" in part and len(frame) else frame
            if not len(frame):
                return Check(suite, metric, says, True, "nothing to judge yet")
            result = self._validate(frame.reset_index(drop=True), expectation["check"], arguments, part["index"])
        except Exception as error:  # whatever a library raises: a broken check must not pass for bad data
            return Check(suite, metric, says, False, "", error=f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
        observed = _observed(frame, arguments.get("column"))
        if result.success:
            return Check(suite, metric, says, True, observed)
        failing = [frame.iloc[i] for i in _failing(frame, result, part["index"])]
        at_fault = [{key: _plain(value) for key, value in row.items()} for row in failing]
        return Check(suite, metric, says, False, observed, _behind(subject, metric, at_fault, arguments.get("column", "")))

    def _validate(self, frame: Frame, check: str, arguments: Row, index: list[str]) -> Any:
        self._count += 1
        asset = self._source.add_dataframe_asset(f"table{self._count}")
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch(batch_parameters={"dataframe": frame})
        result = batch.validate(
            getattr(self.gx.expectations, check)(**arguments),
            result_format={"result_format": "COMPLETE", "unexpected_index_column_names": index},
        )
        raised = _raised(result.exception_info)
        if raised:
            raise RuntimeError(raised)
        return result


def _raised(info: Any) -> str | None:
    """The message of an exception inside a check: it comes as a failure with this information, flat or by metric."""
    if not isinstance(info, dict):
        return None
    if info.get("raised_exception") is True:
        return str(info.get("exception_message") or "it raised an exception")
    return next((found for value in info.values() if (found := _raised(value))), None)


def _failing(frame: Frame, result: Any, index: list[str]) -> list[int]:
    """Positions of the rows that an expectation names."""
    named = {tuple(row[c] for c in index) for row in result.result.get("unexpected_index_list") or []}
    return [i for i, row in enumerate(frame[index].itertuples(index=False, name=None)) if row in named]


def _behind(subject: Subject, metric: str, failing: list[Row], column: str) -> list[Row]:
    """The failing rows of the metric table, those behind the first of them looked up."""
    look_up = measures.BEHIND.get(metric)
    if look_up is None:
        return failing[:LIMIT]
    found: list[Row] = []
    for row in failing[:LOOKED_UP]:
        try:
            found += [{key: _plain(value) for key, value in behind.items()} for behind in look_up(subject, row, column)]
        except (QueryError, LakeError, duckdb.Error) as error:
            found.append({**row, "error": str(error)})
    return (found or failing)[:LIMIT]


def _plain(value: Any) -> Any:
    """A value as JSON can hold it."""
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _observed(frame: Frame, column: str | None) -> str:
    if column is None or column not in frame:
        return f"{len(frame)} rows"
    values = frame[column].dropna()
    if not len(values):
        return f"no value in {len(frame)} rows"
    low, high = float(values.min()), float(values.max())
    span = f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
    return f"{column}: {span} in {len(frame)} rows"


def _numbers(part: Row, table: pa.Table) -> Iterable[Row]:
    """Named numbers of a metric table, as rows of ``metric`` without campaign and time."""
    for column, (metric, unit) in part.get("keep", {}).items():
        for row in table.to_pylist():
            if row[column] is not None:
                name = f"{metric}/{row['sample']}" if "sample" in row else metric
                keys = {c: row.get(c) for c in ("site", "tract", "visit", "band")}
                yield {**keys, "metric": name, "value": float(row[column]), "unit": unit}


def _keep(lake: Lake, campaign: str, checks: list[Check], numbers: list[Row]) -> None:
    common = {"campaign": campaign, "noted_at": datetime.now(UTC)}
    verdicts = [
        {
            **common, "suite": c.suite, "expectation": c.expectation[:256], "success": c.success,
            "observed": (f"not judged: {c.error}" if c.error else c.observed)[:512], "offenders": _json(c.offenders),
        }
        for c in checks
    ]  # fmt: skip
    for table, rows in (("validation", verdicts), ("metric", [{**common, **row} for row in numbers])):
        if rows:
            delta.append(lake.central, table, pa.Table.from_pylist(rows, schema=schemas.table(table).arrow))


def _json(rows: list[Row], limit: int = 4096) -> str | None:
    """As many rows as fit into the column."""
    while rows:
        text = json.dumps(rows, separators=(",", ":"), default=str)
        if len(text) <= limit:
            return text
        rows = rows[: len(rows) // 2]
    return None
