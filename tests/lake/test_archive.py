"""The archive: what a bundle is, that it holds what it says, that it counts once, and that members come back."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
import small_lake

import schemas
from lake import archive, datastore, delta, registry
from lake.archive import container, shelf
from lake.query import connect
from lake.site import Lake, LakeError, Site

SLICES = "tables/catalogues/visit_table/"


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    """Six raws of 2000 bytes, and two slices in one file, all at USDF."""
    lake = small_lake.make(tmp_path / "lake", raws=True)
    small_lake.add_visit_tables(lake.central, range(1, 3))
    return lake


def keep(lake: Lake, site: str = "USDF", to: str | None = None, **given: object) -> archive.Kept:
    return archive.archive(lake, lake.site(site), archive.Shelf(lake.site(to or site)), **given)


def registered(site: Site) -> dict[str, str]:
    """sha256 by path of the registered files."""
    with delta.cursor() as con:
        return dict(con.sql(f"SELECT path, file_checksum FROM ({delta.select(site, 'dataset')})").fetchall())


def bundle_file(lake: Lake, bundle: archive.Bundle) -> Path:
    return archive.Shelf(lake.site(bundle.site), bundle.location).file(bundle.path)


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


# -- the bundle --------------------------------------------------------------------------------------------------------


def test_a_bundle_is_a_zip_that_tells_what_it_holds(lake: Lake, tmp_path: Path) -> None:
    kept = keep(lake)
    [bundle] = kept.bundles
    assert (kept.files, bundle.members, bundle.datasets, kept.failed) == (7, 7, 8, {})
    file = bundle_file(lake, bundle)
    assert (file.stat().st_size, datastore.checksum(file)) == (bundle.bytes, bundle.checksum)
    known = registered(lake.central)
    with zipfile.ZipFile(file) as opened:
        assert opened.testzip() is None
        assert opened.namelist() == [*sorted(known), container.SUMS, container.DATASETS]
        assert {entry.compress_type for entry in opened.infolist()} == {zipfile.ZIP_STORED}
        opened.extractall(tmp_path / "out")
    sums = subprocess.run(["sha256sum", "-c", container.SUMS], cwd=tmp_path / "out", capture_output=True, text=True)
    assert sums.returncode == 0 and sums.stdout.count(": OK") == 7
    records = container.records(file)
    with delta.cursor() as con:
        rows = con.sql(
            f"SELECT * EXCLUDE (registered_at) FROM ({delta.select(lake.central, 'dataset')}) ORDER BY path, dataset_id"
        ).to_arrow_table()
    assert records.to_pylist() == rows.to_pylist(), "the registry can be rebuilt from the bundle alone"
    members = shelf.members(archive.bundles(lake)[0], lake)
    content = file.read_bytes()
    assert {m.path: hashlib.sha256(content[m.offset : m.offset + m.bytes]).hexdigest() for m in members} == known


def test_the_same_members_make_the_same_bytes(lake: Lake, tmp_path: Path) -> None:
    """At another time, at another site, into another directory, registered in another order."""
    [first] = keep(lake, types=["raw"]).bundles
    with delta.cursor() as con:
        rows = con.sql(f"SELECT * FROM ({delta.select(lake.central, 'dataset')}) WHERE dataset_type = 'raw'").to_arrow_table()
    frdf = lake.site("FRDF")
    registry.register_dataset_types(frdf, small_lake.TYPES)
    small_lake.add_dimensions(frdf, range(1, 3))
    for path in rows["path"].to_pylist():
        datastore.put_file(frdf, lake.central.path(path), path)
    for row in reversed(range(rows.num_rows)):
        registry.ingest(frdf, rows.slice(row, 1))
    (tmp_path / "tape").mkdir()
    [other] = archive.archive(lake, frdf, archive.Shelf.at(frdf, tmp_path / "tape")).bundles
    assert (other.bundle_id, other.checksum) == (first.bundle_id, first.checksum)
    assert bundle_file(lake, other).read_bytes() == bundle_file(lake, first).read_bytes()


@pytest.mark.parametrize("name", ["files/a b/ü.fits", "files/back\\slash", "files/two\nlines"])
def test_odd_names_are_as_sha256sum_reads_them(name: str, tmp_path: Path) -> None:
    (tmp_path / "files/a b").mkdir(parents=True)
    (tmp_path / name).write_bytes(b"x")
    member = container.Member(name, 1, hashlib.sha256(b"x").hexdigest())
    none = pa.schema([schemas.table("dataset").arrow.field(n) for n in container.COLUMNS]).empty_table()
    (tmp_path / "SUMS").write_bytes(container.Contents((member,), none).sums)
    done = subprocess.run(["sha256sum", "-c", "SUMS"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    written = container.write(tmp_path / "b.zip", container.Contents((member,), none), tmp_path.joinpath, lambda n: None)
    assert written[0].offset == (tmp_path / "b.zip").read_bytes().index(b"x", 30 + len(name.encode()))


def test_large_members_have_offsets_beyond_the_zip64_header(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A member above the limit of plain ZIP gets a longer header: the offset must know."""
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 100)
    (tmp_path / "m").write_bytes(b"y" * 500)
    member = container.Member("m", 500, hashlib.sha256(b"y" * 500).hexdigest())
    none = pa.schema([schemas.table("dataset").arrow.field(n) for n in container.COLUMNS]).empty_table()
    written = container.write(tmp_path / "b.zip", container.Contents((member,), none), tmp_path.joinpath, lambda n: None)
    _, wrong = container.check(tmp_path / "b.zip", written, lambda n: None)
    assert wrong == {} and zipfile.ZipFile(tmp_path / "b.zip").read("m") == b"y" * 500


# -- keeping -----------------------------------------------------------------------------------------------------------


def test_bundles_are_filled_to_the_target_and_nothing_is_archived_twice(lake: Lake) -> None:
    kept = keep(lake, types=["raw"], target=5000)
    assert [bundle.members for bundle in kept.bundles] == [3, 3]
    assert keep(lake, types=["raw"], target=5000) == archive.Kept()
    kept = keep(lake, target=10**6, full_only=True)
    assert (kept.bundles, kept.left) == ([], 1)
    assert [b.datasets for b in keep(lake, target=10**6).bundles] == [2]
    assert len(archive.bundles(lake, "USDF")) == 3 and archive.bundles(lake, "LANCS") == []


def test_a_condition_chooses_files_whole(lake: Lake) -> None:
    """One slice of a file is wanted: the file holds two, and the bundle says so."""
    [bundle] = keep(lake, types=["visit_table"], where="visit = 1").bundles
    assert (bundle.members, bundle.datasets) == (1, 2)
    assert keep(lake, where="exposure = 2 AND detector IN (SELECT detector FROM detector WHERE detector > 1)").files == 1


@pytest.mark.parametrize("where", ["vist = 1", "visit =", "1; DROP TABLE x", "(SELECT count(*) FROM read_csv('/etc/passwd')) > 0"])
def test_a_condition_that_cannot_be_used(lake: Lake, where: str) -> None:
    with pytest.raises(LakeError, match="cannot be used"):
        keep(lake, where=where)
    keep(lake)
    with pytest.raises(LakeError, match="cannot be used"):
        archive.recall(lake, lake.central, where=where)


def test_files_that_are_not_as_registered_are_left_out(lake: Lake) -> None:
    lost, cut, flipped, *_ = sorted(p for p in registered(lake.central) if p.startswith("files/"))
    lake.central.path(lost).unlink()
    lake.central.path(cut).write_bytes(b"short")
    flip(lake.central.path(flipped), 7)
    kept = keep(lake)
    assert set(kept.failed) == {lost, cut, flipped} and kept.files == 4
    assert kept.failed[lost] == "is not in storage" and "has 5 bytes, 2000" in kept.failed[cut]
    assert "checksum" in kept.failed[flipped]
    [bundle] = kept.bundles
    assert set(zipfile.ZipFile(bundle_file(lake, bundle)).namelist()).isdisjoint(kept.failed)
    assert not list(lake.root.rglob(".tmp-*"))


def test_to_another_site_and_to_a_directory(lake: Lake, tmp_path: Path) -> None:
    [there] = keep(lake, to="FRDF").bundles
    assert there.site == "FRDF" and bundle_file(lake, there).is_relative_to(lake.site("FRDF").root)
    (tmp_path / "tape").mkdir()
    [tape] = archive.archive(lake, lake.central, archive.Shelf.at(lake.central, tmp_path / "tape")).bundles
    assert (tape.location, tape.bundle_id) == (str(tmp_path / "tape"), there.bundle_id)
    with pytest.raises(archive.ArchiveError, match="is no site and no directory"):
        archive.Shelf.at(lake.central, tmp_path / "nowhere")
    with pytest.raises(archive.ArchiveError, match="lies inside the lake"):
        archive.Shelf.at(lake.central, lake.central.root / "files")


# -- reading and verifying ---------------------------------------------------------------------------------------------


def test_one_member_is_read_without_the_rest(lake: Lake) -> None:
    [bundle] = keep(lake).bundles
    with delta.cursor() as con:
        rows = con.sql(f"SELECT dataset_id, path FROM ({delta.select(lake.central, 'dataset')})").fetchall()
    with archive.Reader(lake) as reader:
        for dataset_id, path in rows:
            assert reader.read(dataset_id) == reader.read(path) == lake.central.path(path).read_bytes()
        with pytest.raises(archive.ArchiveError, match="files/nowhere is not in the archive"):
            reader.read("files/nowhere")
    file = bundle_file(lake, bundle)
    first, *_, last = shelf.members(bundle, lake)
    content = file.read_bytes()
    file.write_bytes(b"\0" * last.offset + content[last.offset :])  # all but the last member is gone
    with archive.Reader(lake) as reader:
        assert reader.read(last.path) == lake.central.path(last.path).read_bytes()
        with pytest.raises(archive.ArchiveError, match=r"no archived copy is intact: .* damaged at byte"):
            reader.read(first.path)


def test_a_damaged_copy_is_passed_over(lake: Lake) -> None:
    [here], [there] = keep(lake).bundles, keep(lake, to="FRDF").bundles
    member = shelf.members(here, lake)[0]
    flip(bundle_file(lake, there), member.offset)
    with archive.Reader(lake) as reader:
        assert reader.read(member.path) == lake.central.path(member.path).read_bytes()


def test_verify_finds_what_became_of_bundles(lake: Lake) -> None:
    first, second, third = keep(lake, target=5000).bundles
    assert archive.verify(lake).ok
    member = shelf.members(first, lake)[1]
    flip(bundle_file(lake, first), member.offset + 3)
    bundle_file(lake, second).unlink()
    found = archive.verify(lake)
    states = {bundle.bundle_id: bundle.state for bundle in found.bundles}
    assert states == {first.bundle_id: "damaged", second.bundle_id: "lost", third.bundle_id: "stored"} and not found.ok
    assert list(found.wrong) == [(first.bundle_id, member.path)]
    assert {b.bundle_id: b.state for b in archive.bundles(lake)} == states
    kept = keep(lake, target=10**6)
    assert kept.files == 6, "what lies in no sound bundle is archived again"
    assert not bundle_file(lake, first).exists(), "and nothing needs the damaged one any more"
    assert {b.bundle_id: b.state for b in archive.bundles(lake)}[first.bundle_id] == "replaced"
    assert keep(lake) == archive.Kept()


def test_damage_outside_of_members_is_damage(lake: Lake) -> None:
    [bundle] = keep(lake).bundles
    flip(bundle_file(lake, bundle), -10)
    found = archive.verify(lake)
    assert found.bundles[0].state == "damaged" and found.wrong == {}


def test_a_damaged_bundle_stays_while_it_holds_the_only_copy(lake: Lake) -> None:
    [bundle] = keep(lake).bundles
    flip(bundle_file(lake, bundle), shelf.members(bundle, lake)[0].offset)
    kept = shelf.members(bundle, lake)[3]
    lake.central.path(kept.path).unlink()
    archive.verify(lake)
    assert keep(lake).failed == {kept.path: "is not in storage"}
    assert bundle_file(lake, bundle).exists()
    assert archive.recall(lake, lake.central).restored == {kept.path: bundle.path}


def test_a_directory_that_is_not_mounted_is_not_a_loss(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "tape").mkdir()
    archive.archive(lake, lake.central, archive.Shelf.at(lake.central, tmp_path / "tape"))
    (tmp_path / "tape").rename(tmp_path / "away")
    found = archive.verify(lake)
    assert found.unreachable == [str(tmp_path / "tape")] and not found.ok
    assert [bundle.state for bundle in archive.bundles(lake)] == ["stored"]


def test_an_event_is_the_latest_though_the_clock_was_set_back(lake: Lake) -> None:
    [bundle] = keep(lake).bundles
    ahead = vars(bundle) | {"noted_at": datetime.now(UTC) + timedelta(days=1)}
    row = {name: ahead[name] for name in schemas.table("archive_bundle").arrow.names}
    delta.append(lake.central, "archive_bundle", pa.Table.from_pylist([row], schema=schemas.table("archive_bundle").arrow))
    bundle_file(lake, bundle).unlink()
    assert not archive.verify(lake).ok
    assert [b.state for b in archive.bundles(lake)] == ["lost"]


# -- recalling ---------------------------------------------------------------------------------------------------------


def test_what_a_site_lost_comes_back(lake: Lake) -> None:
    keep(lake, to="FRDF")
    known = registered(lake.central)
    lost, damaged, *_ = sorted(path for path in known if path.startswith("files/"))
    lake.central.path(lost).unlink()
    flip(lake.central.path(damaged), 1)
    back = archive.recall(lake, lake.central)
    assert set(back.restored) == {lost, damaged} and (back.present, back.failed) == (5, {})
    assert dict(back.verdicts) == {"present": 8}
    assert {path: datastore.checksum(lake.central.path(path)) for path in known} == known


def test_a_site_that_never_had_them_ingests_them(lake: Lake) -> None:
    """Dimension records come first; slices join their table; a repetition changes nothing."""
    keep(lake)
    lancs = lake.site("LANCS")
    back = archive.recall(lake, lancs, types=["raw", "visit_table"], where="visit = 1")
    assert len(back.restored) == 4 and dict(back.verdicts) == {"accepted": 5}, "the file of slices holds visit 2 as well"
    assert registered(lancs).items() <= registered(lake.central).items()
    with connect(lake) as con:
        assert con.execute('SELECT count(*) FROM "LANCS".visit_table').fetchall() == [(2,)]
    versions = [delta.version(lancs, table) for table in ("dataset", "visit_table", "visit")]
    again = archive.recall(lake, lancs, where="visit = 1")
    assert (again.restored, again.present) == ({}, 4)
    assert [delta.version(lancs, table) for table in ("dataset", "visit_table", "visit")] == versions


def test_what_stands_in_the_way_is_not_touched(lake: Lake) -> None:
    keep(lake, types=["raw"])
    frdf = lake.site("FRDF")
    first, second, *_ = sorted(path for path in registered(lake.central) if path.startswith("files/"))
    for path in (first, second):
        frdf.path(path).parent.mkdir(parents=True, exist_ok=True)
        frdf.path(path).write_bytes(b"something else")
    registry.register_dataset_types(frdf, small_lake.TYPES)
    small_lake.add_dimensions(frdf, range(1, 10))
    checksum = datastore.checksum(frdf.path(first))
    row = small_lake.visit_row("raw", "other/raw", 9, detector=0, origin="FRDF", path=first, bytes=14, file_bytes=14)
    small_lake.register(frdf, [row | {"checksum": checksum, "file_checksum": checksum}])
    back = archive.recall(lake, frdf)
    assert set(back.failed) == {first, second} and len(back.restored) == 4
    assert "another file is registered at FRDF" in back.failed[first] and "unregistered file" in back.failed[second]
    assert frdf.path(first).read_bytes() == frdf.path(second).read_bytes() == b"something else"


def test_other_content_of_the_same_dataset_is_refused(lake: Lake) -> None:
    keep(lake, types=["raw"])
    frdf = lake.site("FRDF")
    registry.register_dataset_types(frdf, small_lake.TYPES)
    small_lake.add_dimensions(frdf, range(1, 3))
    file = datastore.write_file(frdf, "files/own.fits", b"my own raw of visit 1")
    row = small_lake.visit_row("raw", "c/raw", 1, detector=0, origin="FRDF", path=file.path, bytes=file.bytes)
    small_lake.register(frdf, [row | {"file_bytes": file.bytes, "checksum": file.checksum, "file_checksum": file.checksum}])
    back = archive.recall(lake, frdf)
    [(path, reason)] = back.failed.items()
    assert "registered with checksum" in reason and dict(back.verdicts) == {"accepted": 5, "rejected": 1}
    assert not frdf.path(path).exists() and path not in back.restored


@pytest.mark.parametrize("path", ["../../escaped", "/tmp/escaped", "files/../../escaped", "publish/x.arrow", "files/link/x"])
def test_a_member_cannot_leave_the_site(lake: Lake, tmp_path: Path, path: str) -> None:
    """A table and a bundle that were tampered with: nothing is written outside of files/ and the catalogues."""
    [bundle] = keep(lake, types=["raw"]).bundles
    (tmp_path / "outside").mkdir()
    lake.central.path("files/link").symlink_to(tmp_path / "outside")
    member = shelf.members(bundle, lake)[0]
    row = {"bundle_id": bundle.bundle_id, "dataset_id": "x", "dataset_type": "raw", "path": path}
    row |= {"byte_offset": member.offset, "bytes": member.bytes, "checksum": member.checksum}
    delta.append(lake.central, "archive_member", pa.Table.from_pylist([row], schema=schemas.table("archive_member").arrow))
    rows = container.records(bundle_file(lake, bundle)).slice(0, 1).to_pylist()
    forged = pa.Table.from_pylist([rows[0] | {"path": path}], schema=container.records(bundle_file(lake, bundle)).schema)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(container, "records", lambda file: forged)
        back = archive.recall(lake, lake.central, paths=[path])
    assert list(back.failed) == [path] and back.restored == {}
    after = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    assert {p.name for p in after.keys() - before.keys()} <= {"movement"}, "nothing but the lock"
    assert not Path("/tmp/escaped").exists()


def test_mend_makes_a_bundle_again_byte_by_byte(lake: Lake) -> None:
    [bundle] = keep(lake).bundles
    file = bundle_file(lake, bundle)
    content = file.read_bytes()
    file.unlink()
    assert archive.mend(lake, lake.central, [bundle.path]) == {}
    assert file.read_bytes() == content and archive.verify(lake).ok
    file.unlink()
    lake.central.path(shelf.members(bundle, lake)[0].path).unlink()
    hopeless = archive.mend(lake, lake.central, [bundle.path])
    assert "is not in storage" in hopeless[bundle.path]
    assert {b.bundle_id: b.state for b in archive.bundles(lake)}[bundle.bundle_id] == "lost"


def test_nothing_of_the_archive_is_imported_for_help() -> None:
    code = (
        "import sys; from pipelines.cli import archive; assert not {'duckdb', 'pyarrow', 'deltalake', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(archive.__file__).parents[2])
