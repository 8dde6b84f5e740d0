"""A site's part of the ledger: every dataset of a campaign counted, dataset type by dataset type.

Most datasets are as they should be: expected, registered, nothing else known. They are only counted (plain.sql). The
others, the odd ones, are looked at one by one (standing.sql). What was counted of a large, settled type is kept in
``ledger_sum`` with a digest of everything that it was counted from, and not counted again until that changes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import duckdb
import pyarrow as pa

from checks import ledger_sum
from checks.audit import Finding
from checks.ledger_sum import sql
from lake import delta
from lake.handle import current, live_files
from lake.parquet import partition_of
from lake.site import Site

#: Tables that are small, or of which only the rows of odd datasets are looked at.
WHOLE = ("rule", "collection", "quantum")
BY_DATASET = ("manifest", "parked", "certification", "tombstone")
PARTLY = ("attempt", "transfer", *BY_DATASET)
#: Where datasets are named that may be neither expected nor registered.
ELSEWHERE = ("manifest_all", "parked_all", "tombstone_all")
#: Odd datasets that are looked at in one go: bounds the memory.
AT_ONCE = 250_000
#: Rows, expected and registered, that one join compares: many small row groups keep all threads busy, and memory is bounded.
IN_ONE_JOIN = 5_000_000
#: Types of fewer datasets are counted quicker than their sums are looked up and kept.
KEEP_FROM = 20_000
#: States in which a raw's way does not end.
FINE = "('visible', 'shadowed', 'predicted_only', 'archived')"

TABLES = {
    "tally": "site VARCHAR, step VARCHAR, dataset_type VARCHAR, state VARCHAR, datasets BIGINT, bytes BIGINT, in_archive BIGINT, "
    "reason VARCHAR",
    "stopped": "site VARCHAR, dataset_type VARCHAR, exposure BIGINT, detector INTEGER",
    "raw_key": "exposure BIGINT, detector INTEGER, visit BIGINT",
    "odd": "dataset_id VARCHAR",
}


class SiteCount:
    """One site's datasets of a campaign; ``con`` keeps the tables of TABLES over all sites."""

    def __init__(self, con: duckdb.DuckDBPyConnection, site: Site, campaign: str, found: Iterable[Finding]) -> None:
        self.con, self.site, self.campaign = con, site, campaign
        for name, columns in TABLES.items():
            con.execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} ({columns})")
        for table in (*WHOLE, *PARTLY):
            name = table if table in WHOLE else f"{table}_all"
            con.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS {delta.select(site, table)}")
        self._parts: dict[str, dict[str, list[str]]] = {}
        self._sizes: Counter[str] = Counter()
        for table in ("expected_dataset", "dataset"):
            self._parts[table], rows = _partitions(site, table)
            self._sizes.update(rows)
        for name, table in (("expected_odd", "expected_dataset"), ("dataset_odd", "dataset")):
            con.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS {delta.scan(table, [])}")
        kind = pa.schema([("path", pa.string()), ("state", pa.string()), ("reason", pa.string())])
        findings = [{"path": f.path, "state": f.state, "reason": f.reason} for f in found]
        con.register("storage_finding", pa.Table.from_pylist(findings, schema=kind))
        self._damaged = any(finding["state"] != "orphan" for finding in findings)

    @property
    def kinds(self) -> list[str]:
        """Dataset types that are expected, registered, on their way, waiting, or were taken out here."""
        sides = " UNION ".join(f"SELECT DISTINCT dataset_type FROM {table}" for table in ELSEWHERE)
        return sorted(self._names(sides).union(*self._parts.values()))

    def _large(self, kind: str) -> bool:
        return self._sizes[kind] >= KEEP_FROM

    # -- counting ------------------------------------------------------------------------------------------------------

    def count(self) -> None:
        """Add this site's datasets to ``tally``, its raws to ``raw_key``, and where products are not there to ``stopped``."""
        con = self.con
        con.execute(
            "CREATE OR REPLACE TEMP TABLE trouble AS SELECT DISTINCT quantum_id FROM attempt_all "
            "WHERE campaign = $campaign AND state IN ('failed', 'blocked')",
            {"campaign": self.campaign},
        )
        con.execute("CREATE OR REPLACE TEMP TABLE attempt_count AS SELECT task, count(*) AS events FROM attempt_all GROUP BY task")
        large = [kind for kind in self.kinds if self._large(kind)]
        for kinds in self._batches([kind for kind in self.kinds if not self._large(kind)], AT_ONCE):
            self._gather(kinds)
        self._open(large)
        con.execute(
            "CREATE OR REPLACE TEMP TABLE expected_sum AS SELECT dataset_type, step, task, count(*) AS datasets FROM e GROUP BY ALL"
        )
        con.execute(
            "CREATE OR REPLACE TEMP TABLE present_sum AS "
            "SELECT dataset_type, run, count(*) AS datasets, sum(bytes) AS bytes FROM d GROUP BY ALL"
        )
        if "raw" in large:
            con.execute("INSERT INTO raw_key SELECT DISTINCT exposure, detector, visit FROM d WHERE dataset_type = 'raw'")
        damaged = self._names("SELECT dataset_type FROM d SEMI JOIN storage_finding USING (path)") if self._damaged else set()
        parts = {kind: [path for files in self._parts.values() for path in [*files.get(kind, []), ""]] for kind in large}
        digests = ledger_sum.made_from(con, self.campaign, parts)
        kept = ledger_sum.latest(con, self.site, self.campaign)
        same = {kind for kind in large if kind not in damaged and kept.get(kind, ("",))[0] == digests[kind]}
        for kind in sorted(same):
            ledger_sum.restore(con, self.site, kept[kind][1])
        untouched = self._names(sql("untouched")).difference(same)
        self._wait(sorted(untouched))
        copied = self._names("SELECT DISTINCT dataset_type FROM archive_copy_all")
        changed = [kind for kind in large if kind not in same | untouched]
        for kinds in self._batches(changed, IN_ONE_JOIN):
            self._count(kinds, damaged, copied)
            if self._rows("odd") > AT_ONCE:
                self._resolve()
        self._resolve()
        ledger_sum.keep(con, self.site, self.campaign, {kind: digests[kind] for kind in changed if kind not in damaged})

    def _batches(self, kinds: list[str], rows: int) -> list[list[str]]:
        """Dataset types, in batches of so many rows, or of one type."""
        found: list[list[str]] = []
        size = 0
        for kind in kinds:
            size += self._sizes[kind]
            if not found or size > rows:
                found.append([])
                size = self._sizes[kind]
            found[-1].append(kind)
        return found

    def _open(self, kinds: list[str]) -> None:
        """Views of what is expected (e) and registered (d) of these types in this campaign."""
        for name, table in (("e", "expected_dataset"), ("d", "dataset")):
            rows = delta.scan(table, [path for kind in kinds for path in self._parts[table].get(kind, [])])
            mine = f"starts_with(run, {_text(self.campaign + '/')})"
            self.con.execute(f"CREATE OR REPLACE TEMP VIEW {name} AS FROM ({rows}) WHERE {mine}")

    def _gather(self, kinds: list[str]) -> None:
        """Look at every dataset of small types: all of them at once are quicker than type by type."""
        con = self.con
        self._open(kinds)
        con.execute("INSERT INTO expected_odd FROM e")
        con.execute("INSERT INTO dataset_odd FROM d")
        con.execute("INSERT INTO odd SELECT dataset_id FROM e UNION SELECT dataset_id FROM d")
        for table in ELSEWHERE:
            con.execute(f"INSERT INTO odd SELECT dataset_id FROM {table} WHERE {_among(kinds)}")
        self._resolve()

    def _wait(self, kinds: list[str]) -> None:
        """Add types of which all is still to be made."""
        con, given = self.con, {"site": self.site.name}
        con.execute(
            "INSERT INTO tally SELECT $site, step, dataset_type, 'waiting', sum(datasets), 0, 0, NULL FROM expected_sum "
            f"WHERE {_among(kinds)} GROUP BY step, dataset_type",
            given,
        )
        for kind in kinds:
            con.execute(
                "INSERT INTO stopped SELECT $site, $kind, exposure, detector "
                "FROM (SELECT DISTINCT exposure, detector FROM e WHERE dataset_type = $kind) x "
                "WHERE exposure IS NOT NULL AND NOT EXISTS (FROM stopped s WHERE s.exposure = x.exposure "
                "AND s.detector IS NOT DISTINCT FROM x.detector)",
                given | {"kind": kind},
            )

    def _count(self, kinds: list[str], damaged: set[str], copied: set[str]) -> None:
        """Add the plain datasets of some types to ``tally``, and gather the rows of the odd ones."""
        con = self.con
        self._open(kinds)
        con.execute(f"CREATE OR REPLACE TEMP TABLE manifest_type AS {sql('manifest_type')}", {"kinds": kinds})
        looked_at = [f"SELECT dataset_id FROM {table} WHERE {_among(kinds)}" for table in ("parked_all", "tombstone_all")]
        in_steps = self._names("SELECT dataset_type FROM expected_sum GROUP BY ALL HAVING count(DISTINCT step) > 1")
        if several := in_steps.intersection(kinds):
            looked_at.append(f"SELECT dataset_id FROM e WHERE {_among(several)}")
        if self._rows("manifest_type"):
            looked_at.append("SELECT dataset_id FROM manifest_type ANTI JOIN d USING (dataset_id)")
        if broken := damaged.intersection(kinds):
            looked_at.append(f"SELECT dataset_id FROM (FROM d WHERE {_among(broken)}) SEMI JOIN storage_finding USING (path)")
        in_runs = self._names(sql("in_several_runs"), campaign=self.campaign)
        if several := in_runs.intersection(kinds):
            looked_at.append(f"WITH d AS (FROM d WHERE {_among(several)}) {sql('twins')}")
        union = " UNION ".join(f"({statement})" for statement in looked_at)
        con.execute(f"CREATE OR REPLACE TEMP TABLE odd_type AS {union}")
        con.execute(f"CREATE OR REPLACE TEMP TABLE expected_type AS {sql('expected_type')}")
        con.execute("INSERT INTO expected_odd SELECT * EXCLUDE (missing) FROM expected_type")
        more = _among(self._names(sql("with_extra")).intersection(kinds))
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE extra AS SELECT dataset_id, dataset_type, run, bytes, origin, quantum_id "
            f"FROM (FROM d WHERE {more}) ANTI JOIN (FROM e WHERE {more}) USING (dataset_id)"
        )
        con.execute("INSERT INTO odd_type SELECT dataset_id FROM expected_type")
        con.execute(
            "INSERT INTO odd_type SELECT dataset_id FROM extra ANTI JOIN manifest_type USING (dataset_id) "
            "WHERE origin <> $site OR quantum_id IS NOT NULL",
            {"site": self.site.name},
        )
        con.execute("CREATE OR REPLACE TEMP TABLE odd_type AS SELECT DISTINCT dataset_id FROM odd_type")
        con.execute(
            "CREATE OR REPLACE TEMP TABLE here AS FROM odd_type ANTI JOIN (FROM expected_type WHERE missing) USING (dataset_id)"
        )
        if self._rows("here"):
            con.execute("INSERT INTO dataset_odd FROM d SEMI JOIN here USING (dataset_id)")
        con.execute("INSERT INTO odd FROM odd_type")
        both = _among(copied.intersection(kinds))
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE copied AS SELECT dataset_id, dataset_type FROM (FROM d WHERE {both}) d "
            f"SEMI JOIN (FROM archive_copy_all WHERE {both}) a ON a.dataset_id = d.dataset_id AND a.checksum = d.file_checksum"
        )
        con.execute(f"INSERT INTO tally {sql('plain')}", {"site": self.site.name, "kinds": kinds})

    def _resolve(self) -> None:
        """Look at the odd datasets that were gathered, and add them to ``tally``, ``stopped`` and ``raw_key``."""
        con, parts = self.con, 1 + self._rows("odd") // AT_ONCE
        self._near("UNION FROM trouble")
        for number in range(parts if self._rows("odd") else 0):
            self._stand(parts, number)
            con.execute(
                "INSERT INTO tally SELECT site, step, dataset_type, state, count(*), coalesce(sum(bytes), 0), "
                "count(*) FILTER (in_archive), min(reason) "
                "FROM standing GROUP BY site, step, dataset_type, state"
            )
            con.execute(
                "INSERT INTO stopped SELECT DISTINCT site, dataset_type, exposure, detector FROM standing "
                f"WHERE why = 'predicted' AND exposure IS NOT NULL AND state NOT IN {FINE}"
            )
            con.execute("INSERT INTO raw_key SELECT DISTINCT exposure, detector, visit FROM standing WHERE dataset_type = 'raw'")
        for table in ("odd", "expected_odd", "dataset_odd"):
            con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS FROM {table} LIMIT 0")

    def _near(self, more: str = "") -> None:
        """Make ``attempt_near``: events of quanta of the odd datasets, and of others that a statement adds."""
        quanta = f"SELECT quantum_id FROM expected_odd UNION SELECT quantum_id FROM dataset_odd {more}"
        self.con.execute(f"CREATE OR REPLACE TEMP TABLE attempt_near AS FROM attempt_all SEMI JOIN ({quanta}) USING (quantum_id)")

    def _stand(self, parts: int = 1, number: int = 0) -> None:
        """Make ``standing`` of one of ``parts`` parts of the datasets in ``odd``, with only the events that concern them.

        Datasets that share a data ID are in one part: which of them is found first is a question to all of them.
        """
        con = self.con
        con.execute(f"CREATE OR REPLACE TEMP TABLE part AS {sql('part')}", {"parts": parts, "number": number})
        sources = {"expected_dataset": "expected_odd", "dataset": "dataset_odd"}
        sources |= {table: f"{table}_all" for table in (*BY_DATASET, "archive_copy")}
        for table, source in sources.items():
            con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS FROM {source} SEMI JOIN part USING (dataset_id)")
        con.execute("CREATE OR REPLACE TEMP TABLE transfer AS FROM transfer_all SEMI JOIN manifest USING (rule_id, path)")
        quanta = "SELECT quantum_id FROM expected_dataset UNION SELECT quantum_id FROM dataset"
        con.execute(f"CREATE OR REPLACE TEMP TABLE attempt AS FROM attempt_near SEMI JOIN ({quanta}) USING (quantum_id)")
        given = {"campaign": self.campaign, "site": self.site.name}
        con.execute(f"CREATE OR REPLACE TEMP TABLE standing AS {sql('standing')}", given)

    # -- raws ----------------------------------------------------------------------------------------------------------

    def see(self) -> None:
        """Take raws of which this site should make a product of their detector out of ``unseen``."""
        for kinds in self._batches(self.kinds, IN_ONE_JOIN):
            if not self._rows("unseen"):
                return
            self._open(kinds)
            self.con.execute(
                "CREATE OR REPLACE TEMP TABLE unseen AS FROM unseen ANTI JOIN "
                "(SELECT exposure, detector FROM e WHERE detector IS NOT NULL) USING (exposure, detector)"
            )

    def follow(self) -> None:
        """Make ``standing`` of the raws in ``unfinished`` (exposure, detector) and of all their products."""
        con = self.con
        con.execute("CREATE OR REPLACE TEMP TABLE odd AS SELECT NULL::VARCHAR AS dataset_id WHERE false")
        same = "(SELECT exposure, detector FROM unfinished UNION SELECT exposure, NULL FROM unfinished)"
        within = f"SEMI JOIN {same} u ON u.exposure = x.exposure AND u.detector IS NOT DISTINCT FROM x.detector"
        for kinds in self._batches(self.kinds, IN_ONE_JOIN):
            self._open(kinds)
            con.execute(f"INSERT INTO expected_odd FROM e x {within}")
            con.execute(f"INSERT INTO dataset_odd FROM d x {within}")
        con.execute("INSERT INTO odd SELECT dataset_id FROM expected_odd UNION SELECT dataset_id FROM dataset_odd")
        waiting = "SELECT dataset_id, unnest(data_id(record))"
        for table in ELSEWHERE:
            con.execute(f"INSERT INTO odd SELECT x.dataset_id FROM ({waiting} FROM {table} WHERE dataset_type = 'raw') x {within}")
        self._near()
        self._stand()

    def _rows(self, table: str) -> int:
        return int(self.con.execute(f"SELECT count(*) FROM {table}").fetchall()[0][0])

    def _names(self, query: str, **params: object) -> set[str]:
        return {name for (name,) in self.con.execute(query, params).fetchall()}


def _partitions(site: Site, table: str) -> tuple[dict[str, list[str]], dict[str, int]]:
    """The live files of a table by dataset type, and their rows."""
    handle, root = current(site, table), site.table_path(table)
    if handle is None:
        return {}, {}
    files: dict[str, list[str]] = {}
    for path in live_files(handle, site, table):
        files.setdefault(partition_of(path)["dataset_type"], []).append(str(root / path))
    actions = pa.table(handle.get_add_actions(flatten=True))
    sums = actions.group_by("partition.dataset_type").aggregate([("num_records", "sum")])
    return files, dict(zip(sums["partition.dataset_type"].to_pylist(), sums["num_records_sum"].to_pylist(), strict=True))


def _among(kinds: Iterable[str]) -> str:
    """The condition that a row is of one of these dataset types, from which DuckDB sees which files it need not open."""
    return f"dataset_type IN ({', '.join(map(_text, sorted(kinds)))})" if kinds else "false"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
