"""Read-only SQL: what it answers, what it opens, what it refuses."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest

import schemas
from lake import delta, query, reading
from lake.query import QueryError
from lake.site import Lake, LakeError

BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


def transfer(site, *events: tuple[str, str, int]) -> None:
    rows = [
        {
            "rule_id": "r", "path": path, "source": "USDF", "destination": site.name, "state": state, "attempt": 1,
            "bytes": 10, "noted_at": BEGIN + timedelta(seconds=second),
        }
        for path, state, second in events
    ]  # fmt: skip
    delta.append(site, "transfer", schemas.conform("transfer", pa.Table.from_pylist(rows)))


def survey_metric(site, producer: str) -> None:
    """A row of a catalogue, as if ``producer`` had made it and ``site`` held it."""
    values = {f.name: "x" if f.type == pa.string() else 1 for f in schemas.table("survey_metric").arrow}
    data = schemas.conform("survey_metric", pa.Table.from_pylist([values | {"site": producer}]))
    delta.append(site, "survey_metric", data)


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    lake = Lake.create(tmp_path / "lake", {"USDF": {"central": True}, "UKDF-LANCS": {}})
    transfer(lake.site("UKDF-LANCS"), ("a", "queued", 0), ("a", "verified", 2), ("b", "queued", 0))
    transfer(lake.site("USDF"), ("c", "queued", 1))
    for site in lake.sites.values():
        survey_metric(site, site.name)
    survey_metric(lake.central, "UKDF-LANCS")  # a replica at the centre
    return lake


def test_union_says_which_site(lake: Lake) -> None:
    rows = query.query(lake.root, "SELECT site, path, state FROM transfer ORDER BY ALL").to_pylist()
    assert [tuple(row.values()) for row in rows] == [
        ("UKDF-LANCS", "a", "queued"),
        ("UKDF-LANCS", "a", "verified"),
        ("UKDF-LANCS", "b", "queued"),
        ("USDF", "c", "queued"),
    ]


def test_catalogue_replicas_are_not_counted_twice(lake: Lake) -> None:
    with query.connect(lake) as con:
        assert con.execute("SELECT site, count(*) FROM survey_metric GROUP BY site ORDER BY site").fetchall() == [
            ("UKDF-LANCS", 1),
            ("USDF", 1),
        ]
        assert con.execute('SELECT count(*) FROM "USDF".survey_metric').fetchall() == [
            (1,)
        ]  # no dataset is registered for the replica


def test_site_schema_has_the_declared_columns(lake: Lake) -> None:
    with query.connect(lake) as con:
        assert con.table('FROM "ukdf-lancs".transfer').column_names == schemas.table("transfer").arrow.names
        assert con.table('FROM "UKDF-LANCS".transfer_now').column_names == schemas.table("transfer").arrow.names


def test_now_is_the_latest_event(lake: Lake) -> None:
    now = "SELECT path, state FROM transfer_now ORDER BY path"
    with query.connect(lake) as con:
        assert con.execute(now).fetchall() == [("a", "verified"), ("b", "queued"), ("c", "queued")]


def test_every_view_and_empty_table_can_be_read(lake: Lake) -> None:
    with query.connect(lake) as con:
        for name in con.names():
            con.table(f'SELECT * FROM "{name}" LIMIT 1')
            con.table(f'SELECT * FROM "USDF"."{name}" LIMIT 1')


def test_home_means_one_sites_tables(lake: Lake) -> None:
    with query.connect(lake, home="UKDF-LANCS") as con:
        assert con.execute("SELECT count(*) FROM transfer").fetchall() == [(3,)]


def test_only_named_tables_are_opened(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    files = delta.files
    monkeypatch.setattr(delta, "files", lambda site, table, *a, **k: opened.append(table) or files(site, table, *a, **k))
    with query.connect(lake) as con:
        con.table("SELECT 1")
        assert opened == []
        con.table("WITH q AS (SELECT * FROM transfer_now) SELECT * FROM q JOIN survey_metric USING (site)")
        assert set(opened) == {"transfer", "survey_metric"}
        opened.clear()
        con.table("SELECT * FROM transfer")
        assert opened == []


def test_new_commits_are_seen(lake: Lake) -> None:
    with query.connect(lake) as con:
        assert con.execute("SELECT count(*) FROM transfer").fetchall() == [(4,)]
        transfer(lake.central, ("d", "queued", 3))
        assert con.execute("SELECT count(*) FROM transfer").fetchall() == [(5,)]


def test_first_answer_is_quick(lake: Lake) -> None:
    begin = time.perf_counter()
    query.query(lake.root, "SELECT count(*) FROM transfer_now")
    assert time.perf_counter() - begin < 1.0


@pytest.mark.parametrize(
    "sql",
    [
        "SHOW TABLES",
        "DESCRIBE object",
        "SUMMARIZE transfer",
        "EXPLAIN SELECT * FROM transfer_now",
        "EXPLAIN ANALYZE SELECT * FROM transfer_now",
        "FROM transfer",
        "PIVOT transfer ON state USING count(*) GROUP BY path",
        "SELECT * FROM query_table('transfer')",
        'SELECT * FROM "group"',
        "SELECT count(*) FROM truth_star",
        "SELECT table_name FROM information_schema.tables",
    ],
)
def test_reading_statements(lake: Lake, sql: str) -> None:
    with query.connect(lake) as con:
        assert con.table(sql).num_columns > 0


def test_show_tables_lists_everything(lake: Lake) -> None:
    with query.connect(lake) as con:
        assert {"object", "rule", "rule_now", "quantum_state"} <= set(con.table("SHOW TABLES")["name"].to_pylist())


@pytest.mark.parametrize(
    "sql",
    [
        "CREATE TABLE x (a INT)",
        "CREATE OR REPLACE VIEW transfer AS SELECT 1",
        "INSERT INTO transfer VALUES (1)",
        "DROP VIEW transfer",
        "COPY (SELECT 1) TO '{lake}/USDF/out.csv'",
        "COPY (PIVOT (SELECT 1 AS a, 2 AS b) ON a USING sum(b)) TO '{lake}/USDF/out.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/USDF/out.csv'",
        "EXPLAIN ( ANALYZE ) COPY (SELECT 1) TO '{lake}/USDF/out.csv'",
        "/* x */ EXPLAIN ANALYZE COPY (SELECT 1) TO '{lake}/USDF/out.csv'",
        "EXPORT DATABASE '{lake}/USDF/export'",
        "ATTACH '{lake}/USDF/out.db' AS other",
        "ATTACH ':memory:' AS other",
        "SET threads = 1",
        "RESET lock_configuration",
        "PRAGMA database_list",
        "CALL pragma_version()",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SELECT 1; SELECT 2",
        "",
        "-- nothing",
        "SELEC 1",
        "SELECT * FROM nowhere",
        "SELECT nothing FROM transfer",
        "SELECT $missing",
        "SELECT error('in the data')",
    ],
)
def test_refused_in_one_line(lake: Lake, sql: str) -> None:
    before = sorted(lake.root.rglob("*"))
    with query.connect(lake) as con, pytest.raises(QueryError) as error:
        con.table(sql.replace("{lake}", str(lake.root)))
    assert "\n" not in str(error.value)
    assert sorted(lake.root.rglob("*")) == before


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM read_csv('{lake}/USDF/../../outside.csv')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM glob('{outside}*')",
        "SELECT * FROM query('SELECT * FROM read_text(''{outside}'')')",
        "SELECT * FROM secret",
    ],
)
def test_no_file_outside_the_lake(lake: Lake, sql: str) -> None:
    outside = lake.root.parent / "outside.csv"
    outside.write_text("a\n1\n")
    secret = pa.table({"a": [1]})  # a Python variable is no table either
    assert secret.num_rows
    with query.connect(lake) as con, pytest.raises(QueryError):
        con.table(sql.replace("{lake}", str(lake.root)).replace("{outside}", str(outside)))


def test_a_misspelt_table_is_guessed(lake: Lake) -> None:
    with query.connect(lake) as con, pytest.raises(QueryError, match=r"did you mean .*object"):
        con.table("SELECT * FROM objct")


def test_parameters_are_bound(lake: Lake) -> None:
    with query.connect(lake) as con:
        assert con.execute("SELECT count(*) FROM transfer WHERE path = $path", {"path": "a"}).fetchall() == [(2,)]


def test_no_such_lake_or_site(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(LakeError, match="is not a lake"):
        query.connect(tmp_path / "nowhere")
    with pytest.raises(LakeError, match="MARS"):
        query.connect(lake, ["MARS"])


@pytest.mark.parametrize("text", ["a = ')' AND (b)", "((a) OR (b))", "x IN (1, 2) -- )\n", 'n = "a)" /* ( */', "a = $$)$$"])
def test_a_condition_stays_between_its_parentheses(text: str) -> None:
    assert reading.condition(text) == text


@pytest.mark.parametrize("text", ["a) OR (b", "a)", "(a", "a; b", "", "  ", "true) UNION ALL SELECT 1 WHERE (true", "((a)))(("])
def test_what_would_end_a_condition_is_refused(text: str) -> None:
    with pytest.raises(reading.QueryError, match="is not one condition"):
        reading.condition(text)
