"""Collections: kinds, chains searched in order, tags, and calibrations valid for a time."""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from batches import RUN, datasets, images, make

from lake import collection, delta, registry
from lake.collection import (
    CollectionError,
    associate,
    certify,
    decertify,
    disassociate,
    find,
    register_collections,
    resolve,
    shadowed,
)  # fmt: skip
from lake.companions import copy_companions
from lake.site import Site

OLD = "c/old"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = make(tmp_path / "lake")
    rows = images(site, [1, 2])
    registry.ingest(site, datasets([row | {"run": OLD} for row in rows] + rows[:2]))
    register_collections(site, [(RUN, "RUN", None), (OLD, "RUN", None), ("picked", "TAGGED", None), ("calib", "CALIBRATION", None),
                                ("all", "CHAINED", f"{RUN},{OLD}")])  # fmt: skip
    return site


def runs(site: Site, *names: str, where: str = "true") -> list[tuple[int, int, str]]:
    with delta.connect() as con:
        return sorted(find(con, site, names, ["post_isr_image"], where).select("visit, detector, collection").fetchall())


def test_a_chain_is_searched_in_order(site: Site) -> None:
    assert runs(site, "all") == [(1, 0, RUN), (1, 1, RUN), (2, 0, OLD), (2, 1, OLD)]
    assert runs(site, OLD, RUN) == [(v, d, OLD) for v in (1, 2) for d in (0, 1)]
    assert runs(site, RUN, where="detector = 1") == [(1, 1, RUN)]
    assert register_collections(site, [("all", "CHAINED", f"{OLD},{RUN}")]) == 1
    assert {c for *_, c in runs(site, "all")} == {OLD}


def test_chains_are_opened_and_circles_named(site: Site) -> None:
    register_collections(site, [("top", "CHAINED", "picked,all")])
    assert resolve(site, ["top"]) == [("picked", "TAGGED"), (RUN, "RUN"), (OLD, "RUN")]
    register_collections(site, [("all", "CHAINED", "top")])
    with pytest.raises(CollectionError, match="top -> all -> top goes round"):
        resolve(site, ["top"])
    with pytest.raises(CollectionError, match="no collection 'nothing'"):
        resolve(site, ["nothing"])


def test_collections_are_registered_once(site: Site) -> None:
    version = delta.version(site, "collection")
    assert register_collections(site, [(RUN, "RUN", None), ("all", "CHAINED", f"{RUN},{OLD}")]) == 0
    assert delta.version(site, "collection") == version
    for bad in ((RUN, "TAGGED", None), ("x", "SET", None), ("x", "RUN", "y"), ("x", "CHAINED", None)):
        with pytest.raises(CollectionError, match=f"collection {bad[0]}"):
            register_collections(site, [bad])


def test_tags_go_in_and_out(site: Site) -> None:
    with delta.connect() as con:
        ids = [row[0] for row in registry.datasets(con, site, f"run = '{OLD}'").select("dataset_id").fetchall()]
        twin = registry.datasets(con, site, f"run = '{RUN}' AND visit = 1").select("dataset_id").fetchall()[0][0]
    assert associate(site, "picked", ids) == 4 and associate(site, "picked", ids) == 0
    assert len(runs(site, "picked")) == 4
    with pytest.raises(CollectionError, match=rf"picked cannot hold both post_isr_image {twin} of {RUN} and \S+ of {OLD}"):
        associate(site, "picked", [twin])
    with pytest.raises(CollectionError, match="dataset nothing is not registered"):
        associate(site, "picked", ["nothing", *ids])
    assert disassociate(site, "picked", [*ids[:1], "nothing"]) == 1
    assert len(runs(site, "picked")) == 3 and associate(site, "picked", ids[:1]) == 1
    with pytest.raises(CollectionError, match="not a TAGGED"):
        associate(site, RUN, ids)


def test_what_a_chain_hides_is_reported(site: Site) -> None:
    with delta.connect() as con:
        hidden = shadowed(con, site, ["all"]).select("visit, detector, run, shadowed_by").fetchall()
    found = runs(site, "all")
    assert hidden and all(row[2:] != row[3:] for row in hidden)
    assert {(v, d) for v, d, *_ in hidden} < {(v, d) for v, d, _ in found}


def flats(names: str, detector: int | None = 0) -> pa.Table:
    rows = [
        {"dataset_id": n, "dataset_type": "flat", "instrument": "Cam", "detector": detector, "physical_filter": "r"} for n in names
    ]
    return pa.Table.from_pylist(rows)


def test_calibrations_are_valid_for_a_time(site: Site) -> None:
    with delta.connect() as con:
        rows = registry.datasets(con, site, f"run = '{OLD}' AND visit = 1").order("detector").to_arrow_table()
    assert certify(site, "calib", rows, 60000.0, 60010.0) == 2
    assert certify(site, "calib", rows, 60000.0, 60010.0) == 0
    assert certify(site, "calib", rows, 60010.0, math.inf) == 2
    with delta.connect() as con:
        for mjd, count in ((59999.9, 0), (60000.0, 2), (60009.9, 2), (60010.0, 2), (1e9, 2)):
            assert collection.calibrations(con, site, "calib", mjd).to_arrow_table().num_rows == count


def test_two_calibrations_never_claim_one_time(site: Site) -> None:
    certify(site, "calib", flats("a"), 10.0, 20.0)
    with pytest.raises(
        CollectionError, match=r"flat instrument Cam detector 0 physical_filter r: b for MJD 19.0 to 30.0 overlaps a"
    ):
        certify(site, "calib", flats("b"), 19.0, 30.0)
    with pytest.raises(CollectionError, match="overlaps"):
        certify(site, "calib", flats("cd"), 30.0, 40.0)
    assert certify(site, "calib", flats("b"), 20.0, 30.0) == 1
    assert certify(site, "calib", flats("b", detector=None), 10.0, 20.0) == 1
    with pytest.raises(CollectionError, match="is empty"):
        certify(site, "calib", flats("e"), 30.0, 30.0)
    with pytest.raises(CollectionError, match="not a CALIBRATION"):
        certify(site, RUN, flats("e"), 30.0, 31.0)


def valid(site: Site) -> list[tuple[str, float, float]]:
    with delta.connect() as con:
        rows = con.sql(f"SELECT dataset_id, valid_begin, valid_end FROM ({collection.certified(site)}) ORDER BY ALL").fetchall()
    return [(str(i), b, e) for i, b, e in rows]


def test_validity_ends_in_part_and_can_be_given_again(site: Site) -> None:
    certify(site, "calib", flats("a"), 10.0, 20.0)
    certify(site, "calib", flats("b"), 20.0, math.inf)
    assert decertify(site, "calib", "bias") == 0
    assert decertify(site, "calib", "flat", 15.0, 25.0) == 2
    assert valid(site) == [("a", 10.0, 15.0), ("b", 25.0, math.inf)]
    assert certify(site, "calib", flats("c"), 15.0, 25.0) == 1
    assert decertify(site, "calib", "flat", 16.0, 17.0, ["c"]) == 1
    assert valid(site) == [("a", 10.0, 15.0), ("b", 25.0, math.inf), ("c", 15.0, 16.0), ("c", 17.0, 25.0)]
    assert decertify(site, "calib", "flat") == 4 and valid(site) == []
    assert certify(site, "calib", flats("a"), 10.0, 20.0) == 1
    assert valid(site) == [("a", 10.0, 20.0)]
    with delta.connect() as con:
        assert delta.relation(con, site, "certification").filter("NOT removed").count("*").fetchall() == [(8,)], "all is kept"
    for bad in ((RUN, 0.0, 1.0, "not a CALIBRATION"), ("calib", 1.0, 1.0, "is empty")):
        with pytest.raises(CollectionError, match=str(bad[3])):
            decertify(site, str(bad[0]), "flat", float(bad[1]), float(bad[2]))


def test_a_clock_that_went_back_changes_no_order(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    class Past(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime:
            return datetime(2001, 1, 1, tzinfo=tz)

    certify(site, "calib", flats("a"), 10.0, 20.0)
    monkeypatch.setattr("lake.clock.datetime", Past)
    assert decertify(site, "calib", "flat") == 1 and valid(site) == []


def test_definitions_travel_with_datasets(site: Site) -> None:
    other = site.lake.site("B")
    with delta.connect() as con:
        rows = registry.datasets(con, site, f"run = '{OLD}' AND visit = 1").to_arrow_table()
    certify(site, "calib", rows, 1.0, 2.0)
    for _ in range(2):
        copy_companions(site, other, rows)
        assert collection.collections_now(other) == {
            OLD: ("RUN", None), "all": ("CHAINED", f"{RUN},{OLD}"), "calib": ("CALIBRATION", None),
        }  # fmt: skip
        assert len(valid(other)) == 2
    decertify(site, "calib", "post_isr_image", 1.5, 2.0)
    copy_companions(site, other, rows)
    assert [end for _, _, end in valid(other)] == [1.5, 1.5]
