"""Taking datasets out and putting them back: what speaks against it, what stays, and that nothing is half out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_lake import add_dimensions, add_raws, add_visit_tables, make

from checks import audit
from lake import collection, delta, prune, query, registry
from lake.movement import add_rule, run_rules
from lake.prune import Leave, PruneError
from lake.search import search
from lake.site import Lake, Site


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Raws of 2 visits x 3 detectors at USDF, those of visit 1 at LANCS too (a rule wants them there)."""
    lake = make(tmp_path / "lake", 2, 3, raws=True)
    rule = add_rule(lake, None, "first", ("raw",), "visit = 1", "USDF", "LANCS")
    run_rules(lake, [rule])
    return lake


def ids(lake: Lake, site: str, where: str = "", *types: str) -> list[str]:
    found: list[str] = search(lake, types or ("raw",), where, sites=[site])["dataset_id"].to_pylist()
    return found


def events(site: Site) -> list[tuple[str, str]]:
    with delta.connect() as con:
        rows = delta.relation(con, site, "tombstone").order("noted_at, dataset_id").select("dataset_id, state").fetchall()
    return [(str(i), str(s)) for i, s in rows]


def test_out_and_back(lake: Lake) -> None:
    site = lake.central
    before = search(lake, ["raw"], sites=["USDF"])
    out = ids(lake, "USDF", "visit = 1 AND detector < 2")
    operation, plan = prune.prune(lake, site, out, "room")
    assert plan.datasets["state"].to_pylist() == ["unstored"] * 2 and not plan.refused.num_rows
    assert set(ids(lake, "USDF")) == set(before["dataset_id"].to_pylist()) - set(out)
    assert ids(lake, "LANCS") and all(site.path(p).exists() for p in before["path"].to_pylist())
    assert audit.audit(site).findings == [], "files of what is out are no orphans"
    with query.connect(lake, ["USDF"], "USDF") as con:
        (row,) = con.table("SELECT DISTINCT reason, who, version FROM tombstone_now").to_pylist()
    assert row["reason"] == "room" and "@" in row["who"]
    with delta.connect() as con:  # time travel: the version that a tombstone names still has them
        handle = delta.open_table(site, "dataset")
        assert handle is not None
        handle.load_as_version(row["version"])
        old = con.sql(f"SELECT count(*) FROM ({delta.scan('dataset', [u.removeprefix('file://') for u in handle.file_uris()])})")
        assert old.fetchall() == [(before.num_rows,)]
    assert prune.undo(site, operation[:8])["verdict"].to_pylist() == ["accepted"] * 2
    assert prune.undo(site, operation)["verdict"].to_pylist() == []
    again = search(lake, ["raw"], sites=["USDF"])
    assert again.drop_columns(["registered_at"]) == before.drop_columns(["registered_at"])
    assert [s for _, s in events(site)] == ["unstored"] * 2 + ["restored"] * 2
    with pytest.raises(PruneError, match="nothing is left to undo of"):
        prune.undo(site, "zzz")


def test_what_speaks_against_it(lake: Lake) -> None:
    site, lancs = lake.central, lake.site("LANCS")
    collection.register_collections(site, [("best", "TAGGED", None), ("calib", "CALIBRATION", None)])
    one, two, three = sorted(ids(lake, "USDF", "visit = 1"))
    collection.associate(site, "best", [one])
    collection.certify(site, "calib", search(lake, ["raw"], "visit = 1", sites=["USDF"]).filter(
        [i == two for i in search(lake, ["raw"], "visit = 1", sites=["USDF"])["dataset_id"].to_pylist()]), 1.0, 2.0)  # fmt: skip
    last = ids(lake, "USDF", "visit = 2")[0]
    version = delta.version(site, "dataset")
    for given, leave, said in (
        ([one, three], Leave(), f"raw {one}: is a member of the TAGGED collection best"),
        ([two], Leave(), "is certified in calib"),
        ([last], Leave(), "is the last copy in the lake"),
    ):
        with pytest.raises(PruneError, match=f"{said}.*nothing was taken out"):
            prune.prune(lake, site, given, "x", leave)
    with pytest.raises(PruneError, match="the rule first wants it here"):
        prune.prune(lake, lancs, [three], "x", Leave(last_copy=True))
    assert delta.version(site, "dataset") == version and events(site) == []
    collection.disassociate(site, "best", [one])
    collection.decertify(site, "calib", "raw")
    assert prune.plan(lake, site, [one, two, three]).refused.num_rows == 0
    _, plan = prune.prune(lake, site, [last, one], "x", Leave(last_copy=True))
    assert sorted(plan.datasets["state"].to_pylist()) == ["purged", "unstored"]
    assert prune.plan(lake, lancs, [one], Leave(wanted=True)).refused["reason"].to_pylist() == ["is the last copy in the lake"]
    prune.prune(lake, lancs, [three], "x", Leave(wanted=True))
    assert prune.prune(lake, site, ["nothing"], "x")[1].datasets.num_rows == 0


def test_files_of_slices_leave_their_table_whole(lake: Lake) -> None:
    site = lake.central
    path = add_visit_tables(site, range(1, 3))
    first, second = ids(lake, "USDF", "", "visit_table")
    with pytest.raises(PruneError, match=rf"its file {path} also holds {second}, which would stay"):
        prune.prune(lake, site, [first], "x", Leave(last_copy=True))
    operation, _ = prune.prune(lake, site, [first, second], "x", Leave(last_copy=True))
    with query.connect(lake) as con:
        assert con.table("FROM visit_table").num_rows == 0
    assert audit.audit(site).findings == []
    assert prune.undo(site, operation)["verdict"].to_pylist() == ["accepted"] * 2
    with query.connect(lake) as con:
        assert con.table("FROM visit_table").num_rows == 2


def test_emptied_is_gone_for_good(lake: Lake) -> None:
    site = lake.central
    out = ids(lake, "USDF", "visit = 1")
    paths = sorted(search(lake, ["raw"], "visit = 1", sites=["USDF"])["path"].to_pylist())
    operation, _ = prune.prune(lake, site, out, "x")
    assert prune.empty(site) == [] and prune.empty(site, 0.0, dry_run=True) == paths
    assert all(site.path(path).exists() for path in paths)
    assert prune.empty(site, 0.0) == paths and prune.empty(site, 0.0) == []
    assert not any(site.path(path).exists() for path in paths) and audit.audit(site).findings == []
    with pytest.raises(PruneError, match="nothing is left to undo of"):
        prune.undo(site, operation)
    run_rules(lake, [add_rule(lake, None, "back", ("raw",), "visit = 1", "LANCS", "USDF")])
    assert set(out) <= set(ids(lake, "USDF")), "a rule brings them from the other site"


def test_what_was_damaged_meanwhile_does_not_come_back(lake: Lake) -> None:
    site = lake.central
    operation, plan = prune.prune(lake, site, ids(lake, "USDF", "visit = 1"), "x")
    bad = site.path(plan.datasets["path"][0].as_py())
    bad.write_bytes(bytes(len(bad.read_bytes())))
    found = {row["verdict"]: row["reason"] for row in prune.undo(site, operation).to_pylist()}
    assert set(found) == {"accepted", "rejected"} and "damaged" in found["rejected"] and len(ids(lake, "USDF")) == 5


def test_registered_again_by_other_means(lake: Lake) -> None:
    """A dataset that was taken out may be made again: the registry decides, and undo finds it present."""
    site = lake.central
    rows = search(lake, ["raw"], "visit = 1", sites=["USDF"]).drop_columns(["site"])
    operation, _ = prune.prune(lake, site, rows["dataset_id"].to_pylist(), "x")
    assert registry.ingest(site, rows)["verdict"].to_pylist() == ["accepted"] * 3
    assert prune.empty(site, 0.0) == [], "its files are registered"
    assert prune.undo(site, operation)["verdict"].to_pylist() == ["present"] * 3


def test_the_command(lake: Lake, capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.cli import main

    def drp(*words: Any) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(["prune", str(lake.root), *map(str, words)])
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    code, out, err = drp("USDF", "raw", "--where", "visit = 1", "--format", "csv")
    assert code == 0 and out.count("unstored") == 3 and "do it with --yes" in err and len(ids(lake, "USDF")) == 6
    code, out, err = drp("USDF", "raw", "--yes", "--format", "csv")
    assert code == 1 and out.count("refused") == 3 and "nothing was done" in err and len(ids(lake, "USDF")) == 6
    code, _, err = drp("USDF", "raw", "--where", "visit = 1", "--yes")
    operation = err.split("--undo ")[1].split()[0]
    assert code == 0 and len(ids(lake, "USDF")) == 3
    assert operation in drp("USDF", "--list", "--format", "json")[1]
    assert drp("USDF", "--undo", operation, "--yes")[0] == 0 and len(ids(lake, "USDF")) == 6
    assert drp("USDF", "--undo", operation, "--empty")[0] == 2 and drp("USDF")[0] == 2
    assert drp("USDF", "raw", "--where", "visit =")[0] == 2


def test_rows_of_others_stay(tmp_path: Path) -> None:
    """Only files of the registry that hold what goes are written again."""
    lake = make(tmp_path / "lake", 1, 3, raws=True)
    site = lake.central
    add_dimensions(site, range(2, 4))
    add_raws(site, range(2, 4))
    files = set(delta.files(site, "dataset"))
    prune.prune(lake, site, ids(lake, "USDF", "visit = 1 AND detector = 0"), "x", Leave(last_copy=True))
    assert len(files - set(delta.files(site, "dataset"))) == 1 and len(ids(lake, "USDF")) == 8
