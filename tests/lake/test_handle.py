"""Handles that are kept: they say what a fresh one says, whoever committed since, and what is damaged is still refused."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

import schemas
from lake import delta, handle
from lake.commit import commit
from lake.handle import CHECKPOINT_EVERY, current, entry, live_files, open_table
from lake.parquet import DeltaError
from lake.site import Lake, Site

TABLE = "dataset_type"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}}).central


def row(name: str) -> pa.Table:
    return pa.Table.from_pylist([{"dataset_type": name, "dimensions": "", "storage": "fits"}], schema=schemas.table(TABLE).arrow)


def state(table: object, site: Site) -> tuple[object, ...]:
    assert table is not None
    return table.version(), live_files(table, site, TABLE), table.transaction_version("app")  # type: ignore[attr-defined]


def elsewhere(site: Site, name: str, txn: tuple[str, int] | None = None) -> bool:
    """Another writer, with handles of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(delta.append, site, TABLE, row(name), txn).result()


def test_it_says_what_a_fresh_one_says(site: Site) -> None:
    assert current(site, TABLE) is None
    for n in range(2 * CHECKPOINT_EVERY + 3):
        (delta.append if n % 3 else lambda s, t, r, txn: elsewhere(s, r["dataset_type"][0].as_py(), txn))(
            site, TABLE, row(f"t{n}"), ("app", n)
        )
        assert state(current(site, TABLE), site) == state(open_table(site, TABLE), site)
    removed = delta.files(site, TABLE)[3:9]
    with ThreadPoolExecutor(1) as pool:
        names = [site.relative(path).partition(f"{TABLE}/")[2] for path in removed]
        assert pool.submit(delta.remove_files, site, TABLE, names).result() == 6
    assert state(current(site, TABLE), site) == state(open_table(site, TABLE), site)
    assert current(site, TABLE) is current(site, TABLE)


def test_a_transaction_of_another_writer_is_seen(site: Site) -> None:
    assert delta.append(site, TABLE, row("a"), ("app", 1))
    assert elsewhere(site, "b", ("app", 2))
    assert not delta.append(site, TABLE, row("b"), ("app", 2))
    kept = current(site, TABLE)
    assert elsewhere(site, "c", ("app", 3))
    file = delta.stage(site, TABLE, row("c"))
    assert not commit(site, TABLE, file.files, (), ("app", 3), None, handle=kept), (
        "the kept handle had not seen it: refused, tried anew"
    )
    assert len(delta.files(site, TABLE)) == 3


def test_a_table_that_was_made_anew_is_opened_anew(site: Site) -> None:
    delta.append(site, TABLE, row("a"))
    before = delta.files(site, TABLE)
    shutil.rmtree(site.table_path(TABLE))
    assert delta.files(site, TABLE) == []
    delta.append(site, TABLE, row("b"))
    assert delta.files(site, TABLE) != before and len(delta.files(site, TABLE)) == 1


def test_what_is_damaged_is_refused_though_a_handle_is_kept(site: Site) -> None:
    delta.append(site, TABLE, row("a"))
    assert len(delta.files(site, TABLE)) == 1
    entry(site.table_path(TABLE), 2).touch()
    with pytest.raises(DeltaError, match="is empty"):
        delta.files(site, TABLE)
    entry(site.table_path(TABLE), 2).unlink()
    assert len(delta.files(site, TABLE)) == 1
    entry(site.table_path(TABLE), 1).write_bytes(b"")
    with pytest.raises(DeltaError, match="is empty"):
        delta.files(site, TABLE)


def test_few_are_kept(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handle, "KEPT", 1)
    delta.append(site, TABLE, row("a"))
    kept = current(site, TABLE)
    rows = {"instrument": "Cam", "detector_count": 1}
    filled = dict.fromkeys(schemas.table("instrument").arrow.names) | rows
    delta.append(site, "instrument", pa.Table.from_pylist([filled], schema=schemas.table("instrument").arrow))
    assert current(site, TABLE) is not kept
