"""What is judged and reported on: a campaign on a lake, with what was found out about it once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from checks import audit
from checks.ledger import Ledger
from checks.ledger import ledger as make_ledger
from lake.query import Connection, identifier
from lake.site import Lake, Site

METRICS = Path(__file__).parent / "metrics"
#: Rows behind a failure that are looked up, at most.
LIMIT = 20

Row = dict[str, Any]


@dataclass
class Subject:
    """What is judged: a campaign on a lake. The ledger is made once, when a measure needs it first."""

    lake: Lake
    campaign: str
    con: Connection
    definition: Mapping[str, Any]
    spare: float = 0.0
    _ledger: Ledger | None = field(default=None, repr=False)
    _findings: dict[str, list[audit.Finding]] = field(default_factory=dict, repr=False)

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            self._ledger = make_ledger(self.lake, self.campaign, self.findings)
        return self._ledger

    def findings(self, site: Site) -> list[audit.Finding]:
        """What a listing of a site's storage finds wrong; listed once."""
        if site.name not in self._findings:
            self._findings[site.name] = audit.quick(site, self.spare)
        return self._findings[site.name]

    def know(self, made: Ledger) -> None:
        """Take a ledger that was made already."""
        self._ledger = made

    def sql(self, name: str) -> pa.Table:
        """The answer to ``checks/metrics/<name>.sql``."""
        text = (METRICS / f"{name}.sql").read_text().replace("{central}", identifier(self.lake.central.name))
        return self.con.table(text, {"campaign": self.campaign} if "$campaign" in text else None)

    def rows(self, sql: str, parameters: Row | None = None) -> list[Row]:
        """The answer to a statement as rows."""
        found: list[Row] = self.con.table(sql, parameters).to_pylist()
        return found
