"""The words that every connection knows: last_event(), by which a file's latest event is known, and data_id()."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pyarrow as pa
import pytest
import small_lake

import schemas
from lake import delta, query, registry

#: A file's states in the order in which one attempt may go through them.
STATES = ("queued", "copying", "arrived", "verified", "parked", "failed", "ingested", "deleted")
EVENTS = pa.table(
    {
        "rule_id": ["r"] * 16,
        "path": ["a"] * 16,
        "attempt": [attempt for attempt in (1, 2) for _ in STATES],
        "state": [*STATES, *STATES],
        "noted_at": list(range(16, 0, -1)),  # the clock ran backwards
    }
)


def latest(events: pa.Table) -> list[tuple[int, str, int]]:
    with delta.cursor() as con:
        con.register("transfer", events)
        return con.execute("SELECT attempt, state, noted_at FROM transfer QUALIFY last_event(transfer)").fetchall()


def test_of_two_events_the_attempt_decides_then_the_state_and_the_clock_last() -> None:
    for one, other in itertools.combinations(range(EVENTS.num_rows), 2):
        expected = EVENTS.slice(other, 1).select(["attempt", "state", "noted_at"]).to_pylist()[0]
        for order in ([one, other], [other, one]):
            assert latest(EVENTS.take(order)) == [tuple(expected.values())]
    twice = pa.concat_tables([EVENTS.slice(3, 1), EVENTS.slice(3, 1).set_column(4, "noted_at", pa.array([99]))])
    assert latest(twice) == [(1, "verified", 99)]


def test_a_file_of_two_rules_has_two_latest_events() -> None:
    other = EVENTS.set_column(0, "rule_id", pa.array(["s"] * 16)).slice(0, 4)
    assert sorted(latest(pa.concat_tables([EVENTS, other]))) == [(1, "verified", 13), (2, "deleted", 1)]


def test_every_state_that_the_schema_names_has_its_place() -> None:
    state = schemas.table("transfer").arrow.field("state").metadata[b"description"].decode()
    assert sorted(state.split(", ")) == sorted(STATES)


def test_the_data_id_in_a_record_has_the_declared_columns_and_types() -> None:
    row = {"dataset_id": "1", "dataset_type": "raw", "run": "a/raw", "exposure": 2**40, "detector": 3, "band": 'r"', "path": "p"}
    needed = {
        "bytes": 1,
        "checksum": "0",
        "file_bytes": 1,
        "file_checksum": "0",
        "origin": "USDF",
        "registered_at": registry.utc_now(),
    }
    given = schemas.conform("dataset", pa.Table.from_pylist([row | needed]))
    with delta.cursor() as con:
        con.register("given", pa.table({"record": registry.to_records(given)}))
        found = con.sql("SELECT unnest(data_id(record)) FROM given").to_arrow_table()
    assert found.to_pylist() == given.select(schemas.DATA_ID).to_pylist()
    assert found.schema.equals(pa.schema([given.schema.field(c).remove_metadata() for c in schemas.DATA_ID]))


@pytest.mark.parametrize("room", ["lake", "checks", "pipelines"])
def test_the_order_of_states_is_written_once(room: str) -> None:
    files = [path for kind in ("*.sql", "*.py") for path in (Path(__file__).parents[2] / room).rglob(kind)]
    said = [path.name for path in files if re.search(r"'queued',\s*'copying',\s*'arrived'", path.read_text())]
    assert said == (["macros.sql"] if room == "lake" else [])


def test_users_may_say_them_too(tmp_path: Path) -> None:
    lake = small_lake.make(tmp_path / "lake")
    with query.connect(lake, home="USDF") as con:
        assert con.table('FROM "USDF".transfer t QUALIFY last_event(t)').num_rows == 0
        assert con.execute("""SELECT (data_id('{"visit": 7}')).visit""").fetchall() == [(7,)]
        with pytest.raises(query.QueryError, match="only reads"):
            con.execute("CREATE OR REPLACE MACRO last_event(t) AS true")
