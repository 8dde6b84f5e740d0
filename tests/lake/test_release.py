"""Releases: what is chosen is sent and recorded, again changes nothing, and withdrawn takes away no last copy."""

from __future__ import annotations

from pathlib import Path

import pytest
import small_lake

from lake import collection, datastore, delta, movement, prune, release
from lake.collection import CollectionError
from lake.query import connect
from lake.release import ReleaseError
from lake.site import Lake, LakeError, Site

TABLES = ("dataset", "rule", "manifest", "transfer", "publication", "collection", "association")


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six raws and two slices at USDF; FRDF processes nothing. The tag ``dp1`` holds the raws of visit 1, the chain
    ``release`` searches it before everything else."""
    lake = small_lake.make(tmp_path / "lake", raws=True)
    small_lake.add_visit_tables(lake.central, range(1, 3))
    site = lake.central
    collection.register_collections(site, [("dp1", "TAGGED", None), ("c/raw", "RUN", None), ("c/step2e", "RUN", None)])
    collection.register_collections(site, [("release", "CHAINED", "dp1,c/step2e,c/raw")])
    with delta.cursor() as con:
        rows = con.sql(
            f"SELECT dataset_id FROM ({delta.select(site, 'dataset')}) WHERE dataset_type = 'raw' AND visit = 1"
        ).fetchall()
    collection.associate(site, "dp1", [row[0] for row in rows])
    return lake


def publish(lake: Lake, name: str = "DP1", **given: object) -> release.Release:
    return release.publish(lake, name, lake.central, lake.site("FRDF"), who="me@here", **given)


def there(site: Site) -> list[tuple[str, int]]:
    with delta.cursor() as con:
        return con.sql(f"SELECT dataset_type, visit FROM ({delta.select(site, 'dataset')}) ORDER BY ALL").fetchall()


def test_a_tagged_collection(lake: Lake) -> None:
    done = publish(lake, collections=["dp1"])
    assert (done.state, done.datasets, done.files, done.bytes, done.who) == ("published", 3, 3, 6000, "me@here")
    frdf = lake.site("FRDF")
    assert there(frdf) == [("raw", 1)] * 3
    rows = release.manifest(lake, done).to_pylist()
    assert [datastore.checksum(frdf.path(row["path"])) for row in rows] == [row["sha256"] for row in rows]
    with delta.cursor() as con:
        found = collection.find(con, frdf, ["dp1"]).select("dataset_id").fetchall()
    assert len(found) == 3, "the collection is known there, with its members"
    [listed] = release.releases(lake)
    assert (listed.release, listed.state, listed.collections) == ("DP1", "published", "dp1") and listed.noted_at is not None
    before = [delta.version(frdf, table) for table in TABLES]
    again = publish(lake, collections=["dp1"])
    assert again == done and [delta.version(frdf, table) for table in TABLES] == before


def test_a_chain_with_types_and_a_condition(lake: Lake) -> None:
    done = publish(lake, collections=["release"], types=["raw", "visit_table"], where="visit = 2")
    frdf = lake.site("FRDF")
    assert done.state == "published" and there(frdf) == [("raw", 2)] * 3 + [("visit_table", 2)]
    assert collection.resolve(frdf, ["release"]) == [("dp1", "TAGGED"), ("c/step2e", "RUN"), ("c/raw", "RUN")]


def test_a_release_is_frozen(lake: Lake) -> None:
    publish(lake, types=["raw"])
    small_lake.add_dimensions(lake.central, range(3, 4))
    small_lake.add_raws(lake.central, range(3, 4))
    assert publish(lake, types=["raw"]).datasets == 6
    assert len(there(lake.site("FRDF"))) == 6
    with pytest.raises(ReleaseError, match="release DP1 is published at FRDF with another choice"):
        publish(lake, types=["raw"], where="visit = 1")
    assert publish(lake, "DP2", types=["raw"]).datasets == 3, "what is there already need not be sent"


def test_incomplete_and_continued(lake: Lake) -> None:
    lost = min(lake.central.root.glob("files/**/*.fits"))
    content = lost.read_bytes()
    lost.unlink()
    done = publish(lake, types=["raw"])
    assert done.state == "incomplete" and "lost at USDF" in str(done.why)
    lost.write_bytes(content)
    assert publish(lake, types=["raw"]).state == "published"
    assert [each.state for each in release.releases(lake)] == ["published"]


def test_withdrawn_and_published_again(lake: Lake) -> None:
    publish(lake, collections=["dp1"])
    publish(lake, "tables", types=["visit_table"])
    frdf = lake.site("FRDF")
    done = release.withdraw(lake, "DP1", frdf, "you@there", "superseded")
    assert (done.state, done.who, done.why) == ("withdrawn", "you@there", "superseded")
    assert there(frdf) == [("visit_table", 1), ("visit_table", 2)] and len(prune.empty(frdf, 0.0)) == 3
    assert not list(frdf.root.glob("files/**/*.fits"))
    with connect(lake, ["FRDF"]) as con:
        assert con.execute("SELECT count(*) FROM association_now").fetchall() == [(0,)]
    assert len(there(lake.central)) == 8
    assert {each.release: each.state for each in release.releases(lake)} == {"DP1": "withdrawn", "tables": "published"}
    assert publish(lake, collections=["dp1"]).state == "published" and len(there(frdf)) == 5


def test_the_last_copy_stays(lake: Lake) -> None:
    publish(lake, types=["raw"])
    lost = min(lake.central.root.glob("files/**/*.fits"))
    lost.unlink()
    done = release.withdraw(lake, "DP1", lake.site("FRDF"))
    assert done.state == "withdrawing" and "1 files stay: no other site has an intact copy" in str(done.why)
    assert len(there(lake.site("FRDF"))) == 1
    movement.refetch(lake, lake.central, [lake.central.relative(lost)])
    assert release.withdraw(lake, "DP1", lake.site("FRDF")).state == "withdrawn"
    assert there(lake.site("FRDF")) == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"collections": ["dp9"]}, "no collection 'dp9'"),
        ({"where": "vist = 1"}, "condition cannot be used"),
        ({"where": "visit = 77"}, "has no dataset of this choice"),
    ],
)
def test_a_choice_that_cannot_be(lake: Lake, given: dict, said: str) -> None:
    with pytest.raises((ReleaseError, CollectionError), match=said):
        publish(lake, **given)
    assert [delta.version(lake.site("FRDF"), table) for table in TABLES] == [-1] * len(TABLES)


def test_nothing_of_this_name(lake: Lake) -> None:
    with pytest.raises(LakeError, match="no release 'DP7' at FRDF; there are: none"):
        release.withdraw(lake, "DP7", lake.site("FRDF"))


def test_a_site_that_is_added_by_name_alone(lake: Lake) -> None:
    """As the command says: write it into lake.yaml, and make its directory."""
    config = lake.root / "lake.yaml"
    config.write_text(config.read_text().rstrip() + "\n  IDAC: {}\n")
    (lake.root / "IDAC" / "tables").mkdir(parents=True)
    opened = Lake.open(lake.root)
    done = release.publish(opened, "DP1", opened.central, opened.site("IDAC"), ["dp1"], who="me@here")
    assert done.state == "published" and len(there(opened.site("IDAC"))) == 3
