"""A Butler's export comes in: everything is counted, what cannot be is named, and nothing in a file can do harm."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import butler_lake
import pytest

from lake import collection, datastore, delta, dimensions, registry
from lake.butler import ButlerError, document, import_butler, read_definitions
from lake.outcome import Outcomes
from lake.site import Lake, Site

RECORDED = Path(__file__).parent / "data" / "butler_export"
SIZES = "records: {detector: {width: 4000, height: 4096}}\n"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """A copy of the recorded export: what a Butler writes, in its own layout."""
    return Path(shutil.copytree(RECORDED, tmp_path / "export"))


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}}).central


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcomes]:
    """A lake that the recorded export was imported into, and what was said; to be read, or copied."""
    folder = tmp_path_factory.mktemp("first")
    site = Lake.create(folder / "lake", {"A": {"central": True}, "B": {}}).central
    return site.home, import_butler(site, RECORDED, definitions=definitions(folder))


@pytest.fixture
def filled(first: tuple[Path, Outcomes], tmp_path: Path) -> Site:
    """Site A of a copy of that lake."""
    return Lake.open(shutil.copytree(first[0], tmp_path / "filled")).central


def definitions(folder: Path) -> Any:
    (folder / "sizes.yaml").write_text(SIZES)
    return read_definitions(folder / "sizes.yaml")


def rows(site: Site, table: str, columns: str = "*") -> list[Any]:
    with delta.cursor() as con:
        found = con.sql(f"SELECT {columns} FROM ({delta.select(site, table)}) ORDER BY ALL").to_arrow_table()
    return [tuple(row.values()) for row in found.to_pylist()]


def counts(outcomes: Outcomes, what: str) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for o in outcomes.found:
        if o.what == what:
            found[o.name, o.verdict] = found.get((o.name, o.verdict), 0) + o.count
    return found


def edit(export: Path, old: str, new: str) -> None:
    text = (export / "export.yaml").read_text()
    assert old in text
    (export / "export.yaml").write_text(text.replace(old, new, 1))


def test_everything_in_an_export_is_counted(first: tuple[Path, Outcomes]) -> None:
    outcomes = first[1]
    assert not outcomes.ok
    assert counts(outcomes, "dataset") == {
        ("flat", "accepted"): 2,
        ("raw", "accepted"): 2,
        ("software", "accepted"): 1,
        ("hips", "no counterpart"): 1,
        ("isr_metadata", "no counterpart"): 1,
        ("objectTable_tract", "no counterpart"): 1,
    }
    reasons = {o.name: o.reason for o in outcomes.found if o.verdict == "no counterpart" and o.what == "dataset type"}
    assert reasons["hips"] == "there is no dimension healpix9 here"
    assert "metadata.yaml are not stored here" in str(reasons["isr_metadata"])
    assert reasons["objectTable_tract"] == "no catalogue table objectTable_tract is declared"
    assert counts(outcomes, "dimension")["subfilter", "no counterpart"] == 1
    assert counts(outcomes, "member") == {("c/good", "new"): 1, ("c/good", "left out"): 1}
    assert counts(outcomes, "validity") == {("c/calib", "new"): 2}


def test_datasets_have_their_content_and_whole_data_ids(first: tuple[Path, Outcomes]) -> None:
    site = Lake.open(first[0]).central
    raws = rows(
        site,
        "dataset",
        "instrument, exposure, visit, detector, physical_filter, band, day_obs, path, checksum, dataset_type, origin",
    )
    raw = [r for r in raws if r[9] == "raw"]
    assert [r[:7] for r in raw] == [("Cam", 1, 1, d, "r_cam", "r", 20230225) for d in (0, 1)]
    for _, _, _, detector, _, _, _, path, checksum, _, origin in raw:
        assert site.path(path).read_bytes() == (RECORDED / f"c/raw/raw_1_{detector}.fits").read_bytes()
        assert datastore.checksum(site.path(path)) == checksum and origin == "A"
    assert rows(site, "certification", "detector, valid_begin, valid_end") == [(0, 60000.0, 60010.0), (0, 60020.0, float("inf"))]
    with delta.cursor() as con:
        late = collection.calibrations(con, site, "c/calib", 70000.0).to_arrow_table()
    assert late.num_rows == 1
    assert collection.collections_now(site)["c/all"] == ("CHAINED", "c/raw,c/calib")


def test_records_say_what_the_butler_says(first: tuple[Path, Outcomes]) -> None:
    site = Lake.open(first[0]).central
    (visit,) = dimensions.read(site, "visit").to_pylist()
    assert visit["exposure"] == 1 and visit["ra"] == 10.05 and visit["airmass"] == pytest.approx(2.0)
    assert visit["mjd_mid"] == pytest.approx(60001 + 15 / 86400, abs=1e-11)
    (region,) = dimensions.read(site, "visit_detector_region").to_pylist()
    corners = [(region[f"ra{i}"], region[f"dec{i}"]) for i in range(4)]
    assert corners == [pytest.approx(c, abs=1e-12) for c in ((10, 0), (10.1, 0), (10.1, 0.1), (10, 0.1))]
    assert dimensions.read(site, "detector")["width"].to_pylist() == [4000, 4000]


def test_ids_of_the_butler_are_kept_beside_ours(first: tuple[Path, Outcomes]) -> None:
    site = Lake.open(first[0]).central
    kept = dict(rows(site, "butler_id", "butler_id, dataset_id"))
    assert len(kept) == 5
    ours = {i for (i,) in rows(site, "dataset", "dataset_id")}
    assert set(kept.values()) == ours and "01a1fa4d-8817-7774-a4bc-b28c2a0f9c8e" in kept


def test_importing_again_changes_nothing(filled: Site, export: Path, tmp_path: Path) -> None:
    site = filled
    tables = (
        "dataset",
        "collection",
        "association",
        "certification",
        "butler_id",
        "exposure",
        "detector",
        "dataset_type",
        "parked",
    )
    before = {table: rows(site, table) for table in tables}
    files = sorted(p for p in site.path("files").rglob("*") if p.is_file())
    outcomes = import_butler(site, export, definitions=definitions(tmp_path))
    assert {v for o in outcomes.found for v in [o.verdict]} <= {"present", "implied", "no counterpart", "left out"}
    assert {table: rows(site, table) for table in tables} == before
    assert sorted(p for p in site.path("files").rglob("*") if p.is_file()) == files


def test_datasets_wait_for_records_that_say_too_little(site: Site, export: Path, tmp_path: Path) -> None:
    outcomes = import_butler(site, export)
    assert ("detector", "incomplete") in counts(outcomes, "dimension")
    assert counts(outcomes, "dataset")["raw", "parked"] == 2
    assert registry.parked(site).num_rows == 4
    again = import_butler(site, export, definitions=definitions(tmp_path))
    assert counts(again, "dataset")["raw", "present"] == 2, "the records came, so what waited was admitted"
    assert registry.parked(site).num_rows == 0
    assert counts(again, "member")["c/good", "new"] == 1


def test_one_bad_file_stops_no_other(site: Site, export: Path, tmp_path: Path) -> None:
    (export / "c/raw/raw_1_0.fits").unlink()
    outcomes = import_butler(site, export, definitions=definitions(tmp_path))
    assert counts(outcomes, "dataset")["raw", "accepted"] == 1 and counts(outcomes, "dataset")["raw", "rejected"] == 1
    (refused,) = registry.parked(site, "rejected").to_pylist()
    assert refused["reason"] == "raw: c/raw/raw_1_0.fits: no such file"


def test_other_content_under_the_same_identity_is_refused(filled: Site, export: Path, tmp_path: Path) -> None:
    site = filled
    before = rows(site, "dataset")
    (export / "c/raw/raw_1_0.fits").write_text("other content")
    outcomes = import_butler(site, export, definitions=definitions(tmp_path))
    (refused,) = [o for o in outcomes.found if o.verdict == "rejected"]
    assert "registered with checksum" in str(refused.reason) and datastore.checksum(export / "c/raw/raw_1_0.fits") in str(
        refused.reason
    )
    assert rows(site, "dataset") == before
    assert not [p for p in site.path("files").rglob("*~*")], "the refused file is not left behind"


def test_files_are_linked_or_stay_in_place(site: Site, export: Path, tmp_path: Path) -> None:
    import_butler(site, export, transfer="link", definitions=definitions(tmp_path))
    (path,) = [p for (p,) in rows(site, "dataset", "path") if "raw_Cam_1_d0" in p]
    assert site.path(path).samefile(export / "c/raw/raw_1_0.fits")
    other = Lake.create(tmp_path / "other", {"A": {"central": True}}).central
    here = Path(shutil.copytree(RECORDED, other.path("files/from-butler")))
    edit(here, "path: c/raw/raw_1_1.fits", f"path: {export}/c/raw/raw_1_1.fits")
    outcomes = import_butler(other, here, transfer="in-place", anywhere=True, definitions=definitions(tmp_path))
    assert counts(outcomes, "dataset")["raw", "accepted"] == 1
    assert [o.reason for o in outcomes.found if o.verdict == "rejected" and "cannot be taken in place" in str(o.reason)]
    assert ("files/from-butler/c/raw/raw_1_0.fits",) in rows(other, "dataset", "path")


def test_files_outside_the_export_are_not_taken(site: Site, export: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.fits").write_text("secret")
    (export / "link.fits").symlink_to(tmp_path / "secret.fits")
    for name, path in (
        ("raw_1_0", "../secret.fits"),
        ("raw_1_1", str(tmp_path / "secret.fits")),
        ("flat_0", "link.fits"),
        ("flat_1", "s3://bucket/a.fits"),
    ):
        edit(export, f"path: c/raw/{name}.fits", f"path: {path}")
    outcomes = import_butler(site, export, definitions=definitions(tmp_path))
    assert counts(outcomes, "dataset")["raw", "rejected"] == 2 and counts(outcomes, "dataset")["flat", "rejected"] == 2
    said = " ".join(str(o.reason) for o in outcomes.found if o.verdict == "rejected")
    assert said.count("lies outside") == 3 and "is not a local file" in said
    assert not any(p.read_bytes() == b"secret" for p in site.path("files").rglob("*") if p.is_file())


def test_a_run_cannot_lead_out_of_the_site(site: Site, export: Path, tmp_path: Path) -> None:
    text = (
        (export / "export.yaml").read_text().replace("run: c/raw", "run: ../../../out").replace("name: c/raw", "name: ../../../out")
    )
    (export / "export.yaml").write_text(text)
    outcomes = import_butler(site, export, definitions=definitions(tmp_path))
    assert {v for _, v in counts(outcomes, "dataset")} == {"rejected", "no counterpart"}
    assert not (tmp_path / "out").exists() and not list(tmp_path.rglob("raw_Cam*"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1.0.2", "version: 2.0.0", "has the format version 2.0.0; versions 1.0.x are read"),
        ("universe_namespace: daf_butler", "universe_namespace: mine", "is of the dimension universe 'mine'"),
        ("data:\n", "data: 5\nmore:\n", "is not a Butler export"),
        ("  - instrument: Cam\n", "  - [instrument: Cam\n", "export.yaml line 1"),
        ("name: Cam\n", "name: !!python/object/apply:os.system ['touch /tmp/never']\n", "is not YAML that an export may hold"),
        ("!uuid '01a1fa4d-87f0-7648-a6be-6aaafeaee133'", "!uuid 'nonsense'", "'nonsense' is not a UUID"),
        ("!uuid '01a1fa4d-87f0-7648-a6be-6aaafeaee133'", "17", "dataset id 17 is not a !uuid"),
        ("'2023-02-26 00:00:00.000000000'", "'yesterday'", "'yesterday' is not a time"),
        ("'2023-02-26 00:00:00.000000000'", "'2023-02-31 00:00:00.000000000'", "dimension exposure"),
        ("encoded: 70171c", "encoded: zz171c", "a region that is not encoded as hex"),
        ("type: dataset_type\n  name: flat", "type: dataset_type\n  nam: flat", "'name' is missing or not known"),
        ("type: associations", "type: gossip", "'gossip' is missing or not known"),
        ("collection_type: TAGGED", "collection_type: HEAP", "'HEAP' is not one of"),
        ("  name: c/good", "  name: c,good", "cannot be the name of a collection here"),
        ("    detector_max: 2", "    detector_max: two", "dimension instrument"),
        ("      exposure: 1\n    path", "      exposure: one\n    path", "a data ID of raw"),
    ],
)
def test_bad_exports_are_one_clear_line_and_change_nothing(
    site: Site, export: Path, tmp_path: Path, old: str, new: str, said: str
) -> None:
    edit(export, old, new)
    with pytest.raises(ButlerError) as error:
        import_butler(site, export, definitions=definitions(tmp_path))
    assert said in str(error.value) and str(export / "export.yaml") in str(error.value) and "\n" not in str(error.value)
    assert not list(site.path("files").rglob("*")) and not site.table_path("dataset").exists()
    assert not site.table_path("collection").exists() and not site.table_path("exposure").exists()


def test_a_record_that_contradicts_one_known_here_is_named_first(site: Site, export: Path, tmp_path: Path) -> None:
    butler_lake.put(site, "physical_filter", [{"instrument": "Cam", "physical_filter": "r_cam", "band": "i"}])
    with pytest.raises(
        ButlerError, match="physical_filter instrument Cam physical_filter r_cam: band is 'r', and 'i' in this lake"
    ):
        import_butler(site, export, definitions=definitions(tmp_path))
    assert not site.table_path("collection").exists()


def test_a_collection_of_another_kind_is_refused_and_another_chain_is_left(site: Site, export: Path, tmp_path: Path) -> None:
    collection.register_collections(site, [("c/all", "CHAINED", "c/mine")])
    outcomes = import_butler(site, export, definitions=definitions(tmp_path))
    assert counts(outcomes, "collection")["c/all", "differs"] == 1
    assert collection.collections_now(site)["c/all"] == ("CHAINED", "c/mine")
    edit(export, "collection_type: TAGGED\n  name: c/good", "collection_type: RUN\n  name: c/good")
    with pytest.raises(ButlerError, match="collection c/good is RUN, at site A it is TAGGED"):
        import_butler(site, export, definitions=definitions(tmp_path))


def test_records_that_another_site_knows_are_taken_from_there(filled: Site, export: Path) -> None:
    other = filled.lake.site("B")
    outcomes = import_butler(other, export)
    assert counts(outcomes, "dataset")["raw", "accepted"] == 2
    for table in ("detector", "exposure", "visit", "visit_detector_region"):
        assert dimensions.read(other, table) == dimensions.read(filled, table)


def test_definitions_are_checked(tmp_path: Path) -> None:
    for text, said in (
        ("storage: {fits: {storage_class: ExposureF}}", "storage.fits must have the keys"),
        ("storages: {}", "unknown key 'storages'"),
        ("records: {detector: {size: 5}}", "records.detector must map columns"),
        ("calibrations: bias", "must be a list"),
        ("[", "is not YAML"),
    ):
        (tmp_path / "d.yaml").write_text(text)
        with pytest.raises(ButlerError, match=said):
            read_definitions(tmp_path / "d.yaml")
    (tmp_path / "d.yaml").write_text("storage: {fits: {storage_class: ExposureF, formatter: a.B}}\ncalibrations: [fringe]")
    changed = read_definitions(tmp_path / "d.yaml")
    assert changed.stored("raw", "fits").storage_class == "ExposureF" and {"flat", "fringe"} <= changed.calibrations


def test_an_alias_is_not_a_trap(export: Path) -> None:
    bomb = "a: &a [1,1,1,1]\nb: &b [*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b]\nversion: 1.0.2\ndata: [*c, *c]\n"
    (export / "export.yaml").write_text(bomb)
    with pytest.raises(ButlerError, match=r"entry 1 .*list indices must be"):
        document.read(export)
