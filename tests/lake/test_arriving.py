"""Files on their way: no name is ever taken from another file, whatever the file system can do; nothing unfinished stays."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_lake import make
from test_intake import ROOT, given, verdicts

from checks import audit, storage
from lake import arriving, datastore, delta, disk, intake, registry
from lake.search import search
from lake.site import Lake, LakeError, Site


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make(tmp_path / "lake", 2, 3)


class _OldKernel:
    """A C library whose file system does not know the call."""

    def __init__(self, code: int) -> None:
        self.code = code

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self.code)
        return -1


@pytest.mark.parametrize("library", [None, _OldKernel(errno.EINVAL), _OldKernel(errno.ENOSYS), object()])
def test_a_name_is_never_taken_from_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: object) -> None:
    if library is not None:
        monkeypatch.setattr(disk, "_LIBC", library)
    old, new, other = (str(tmp_path / name) for name in ("old", "new", "other"))
    Path(old).write_text("mine")
    Path(other).write_text("theirs")
    with pytest.raises(FileExistsError):
        arriving.rename_new(old, other)
    arriving.rename_new(old, new)
    assert Path(new).read_text() == "mine" and Path(other).read_text() == "theirs" and not Path(old).exists()
    with pytest.raises(FileNotFoundError):
        arriving.rename_new(old, str(tmp_path / "x"))


@pytest.mark.parametrize("mode", ["copy", "link"])
def test_large_files_replace_nothing(tmp_path: Path, lake: Lake, mode: arriving.Mode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datastore, "CHUNK", 100)  # read in many pieces
    files = given(tmp_path / "given", 1, path=["files/x/one.fits"])
    standing = lake.central.path("files/x/one.fits")
    standing.parent.mkdir(parents=True)
    standing.write_bytes(b"what stood here before")
    found = intake.take_in(lake.central, files, mode)
    assert verdicts(found) == ["accepted"] and "one~" in found["path"][0].as_py()
    assert standing.read_bytes() == b"what stood here before"
    assert lake.central.path(found["path"][0].as_py()).read_bytes() == Path(files["source"][0].as_py()).read_bytes()


def test_what_is_not_a_file(tmp_path: Path, lake: Lake) -> None:
    files = given(tmp_path / "given", 3)
    for n, make_it in ((0, Path.mkdir), (1, os.mkfifo)):
        path = tmp_path / "given" / f"{n}.fits"
        path.unlink()
        make_it(path)
    found = intake.take_in(lake.central, files)
    assert verdicts(found) == ["rejected", "rejected", "accepted"]
    assert all(reason.endswith("is not a file") for reason in found["reason"].to_pylist()[:2])


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_of_a_symbolic_link_the_content_is_taken(tmp_path: Path, lake: Lake, mode: intake.Mode) -> None:
    files = given(tmp_path / "given", 2)
    link, real = Path(files["source"][0].as_py()), tmp_path / "real"
    content = link.read_bytes()
    link.rename(real)
    link.symlink_to(real)
    found = intake.take_in(lake.central, files, mode)
    assert verdicts(found) == ["accepted"] * 2 and real.read_bytes() == content and link.is_symlink() == (mode != "move")
    standing = lake.central.path(found["path"][0].as_py())
    assert not standing.is_symlink() and standing.read_bytes() == content
    assert audit.audit(lake.central).findings == []


def test_more_directories_than_are_synced_one_by_one(tmp_path: Path, lake: Lake) -> None:
    paths = [f"files/d{n}/x.fits" for n in range(6)]
    for path in paths:
        lake.central.path(path).parent.mkdir(parents=True)
    files = given(tmp_path / "given", path=paths)
    synced: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arriving, "FOLDERS", 2)
        patch.setattr(arriving, "sync", lambda site: synced.append(site.name))
        assert verdicts(intake.take_in(lake.central, files)) == ["accepted"] * 6
    assert synced == ["USDF", "USDF"], "the content, then the names"


def test_new_directories_are_named_whole(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """One call names a directory and all in it, and the directory above is synced; a name that two files have is given to one."""
    paths = ["files/d/x.fits", "files/d/y.fits", "files/e/f/x.fits", "files/e/g/x.fits", "files/d/x.fits", "files/e/g/y.fits"]
    files = given(tmp_path / "given", path=paths)
    named: list[str] = []
    synced: list[Path] = []
    real = arriving.rename_new

    def rename(old: str, new: str) -> None:
        named.append(new.removeprefix(f"{lake.central.root}/"))
        real(old, new)

    monkeypatch.setattr(arriving, "rename_new", rename)
    monkeypatch.setattr(arriving, "fsync_dir", synced.append)
    found = intake.take_in(lake.central, files)
    assert verdicts(found) == ["accepted"] * 6
    other = found["path"][4].as_py()
    assert other.startswith("files/d/x~")
    assert named == ["files/d", "files/e/f", "files/e/g", "files/d/x.fits", other]
    assert synced == [lake.central.path(path) for path in ("files", "files/d", "files/e")]
    assert audit.audit(lake.central).findings == [] and not list(lake.central.root.rglob(".tmp-*"))


def test_a_new_directory_whose_files_are_all_refused_is_not_made(tmp_path: Path, lake: Lake) -> None:
    files = given(tmp_path / "given", 3, path=["files/d/x.fits", "files/d/y.fits", "files/e/x.fits"], checksum=["0", "0", None])
    assert verdicts(intake.take_in(lake.central, files)) == ["rejected", "rejected", "accepted"]
    assert sorted(path.name for path in lake.central.path("files").iterdir()) == ["e"]


@pytest.mark.parametrize("library", [_OldKernel(errno.EINVAL), _OldKernel(errno.ENOSYS), object()])
def test_new_directories_where_they_cannot_be_named_whole(
    tmp_path: Path, lake: Lake, library: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "_LIBC", library)
    monkeypatch.setattr(arriving, "sync", lambda _: os.sync())
    assert verdicts(intake.take_in(lake.central, given(tmp_path / "given"))) == ["accepted"] * 6
    assert audit.audit(lake.central).findings == [] and not list(lake.central.root.rglob(".tmp-*"))


def test_what_cannot_be_removed_gets_no_name(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was not written to its end stays under its temporary name, whatever else is in its directory."""
    files = given(tmp_path / "given", 3, checksum=["0", None, None])
    unlink = os.unlink

    def failing(path: str | Path) -> None:
        if "/.tmp-" in str(path) and Path(path).read_bytes().startswith(b"content 0"):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        unlink(path)

    with monkeypatch.context() as patch:
        patch.setattr(os, "unlink", failing)
        found = intake.take_in(lake.central, files)
    assert verdicts(found) == ["rejected", "accepted", "accepted"]
    (left,) = [path for path in lake.central.path("files").rglob("*") if "/.tmp-" in str(path) and path.is_file()]
    assert left.read_bytes().startswith(b"content 0") and not lake.central.path(found["path"][0].as_py()).exists()
    assert audit.audit(lake.central).findings == [], "it is young"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "time", SimpleNamespace(time=lambda: time.time() + 3600))
        assert audit.remove_orphans(lake.central) == [lake.central.relative(left)]
    assert verdicts(intake.take_in(lake.central, given(tmp_path / "given", 3))) == ["accepted", "present", "present"]


def test_a_bad_path_spoils_no_other_in_its_directory(tmp_path: Path, lake: Lake) -> None:
    lake.central.path("files/door").symlink_to(tmp_path)
    paths = ["files/x/..", "files/x/a.fits", "files/door/b.fits", "files/x/c.fits", "files/x", "files/door/../e.fits"]
    found = intake.take_in(lake.central, given(tmp_path / "given", path=paths))
    assert verdicts(found) == ["rejected", "accepted", "rejected", "accepted", "accepted", "rejected"]
    assert found["path"][4].as_py().startswith("files/x~"), "a directory has the name"
    assert "symbolic link" in found["reason"][2].as_py() and not (tmp_path / "b.fits").exists()
    assert not [path for path in lake.central.root.rglob("*.tmp-*")]


def test_a_file_has_one_path(tmp_path: Path, lake: Lake) -> None:
    """Registered under another, it would look as if nothing named it, and be removed."""
    paths = ["files/x/", "files/x/a.fits", "files//x/b.fits", "files/./x/c.fits", "files/x/.", "./files/x/e.fits"]
    found = intake.take_in(lake.central, given(tmp_path / "given", path=paths))
    assert verdicts(found) == ["rejected", "accepted", "rejected", "rejected", "rejected", "rejected"]
    assert found["reason"][2].as_py().endswith("has an empty name or '.' in it; as a file's path write 'files/x/b.fits'")
    rows = search(lake, ["raw"]).drop_columns(["site"])
    again = rows.set_column(rows.column_names.index("run"), "run", pa.array(["other"])).drop_columns(["dataset_id"])
    again = again.set_column(again.column_names.index("path"), "path", pa.array(["files//x/a.fits"]))
    assert verdicts(registry.ingest(lake.central, again)) == ["rejected"]
    assert audit.remove_orphans(lake.central) == [] and audit.audit(lake.central).findings == []


@pytest.mark.parametrize("mode", ["copy", "direct"])
def test_what_a_site_keeps_for_itself_is_not_written_over(tmp_path: Path, lake: Lake, mode: intake.Mode) -> None:
    """A file of the name of the next commit would be taken for it, and of a batch too."""
    site, version = lake.central, delta.version(lake.central, "dataset_type")
    paths = ["publish/000000000001.arrow", f"{site.relative(site.table_path('dataset_type'))}/_delta_log/{version + 1:020}.json",
             ".lock/janitor", "files/x.fits"]  # fmt: skip
    if mode == "copy":
        files = given(tmp_path / "given", 4, path=paths)
    else:
        files = given(site.path("files"), 4)
        sources = [str(site.root / path) for path in paths]
        for path in (path for path in sources if "_delta_log" not in path):
            Path(path).parent.mkdir(exist_ok=True)
            Path(path).write_bytes(b"content")
        files = files.set_column(files.column_names.index("source"), "source", pa.array(sources))
    found = intake.take_in(site, files, mode)
    assert verdicts(found) == ["rejected"] * 3 + ["accepted"]
    assert found["reason"][0].as_py() == f"{paths[0]}: below publish/ a site keeps what is its own; give it a path below files/"
    assert delta.version(site, "dataset_type") == version and len(search(lake, ["raw"])) == 1


def test_a_link_that_comes_while_files_are_copied_is_not_followed(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = arriving.rename_new
    (tmp_path / "outside").mkdir()

    def rename(old: str, new: str) -> None:
        if new == str(lake.central.path("files/x")):
            Path(new).symlink_to(tmp_path / "outside")
        real(old, new)

    monkeypatch.setattr(arriving, "rename_new", rename)
    found = intake.take_in(lake.central, given(tmp_path / "given", 3, path=["files/x/a", "files/x/b", "files/y/c"]))
    assert verdicts(found) == ["rejected", "rejected", "accepted"] and "symbolic link" in found["reason"][0].as_py()
    assert not list((tmp_path / "outside").iterdir()) and not list(lake.central.root.rglob(".tmp-*"))


def test_a_directory_that_is_removed_before_anything_is_in_it(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those who clean up do where a clock is wrong: only its files are refused, and come the next time."""
    real = disk.opened

    def opened(site: Site, folders: Iterable[Path]) -> list[disk.Disk]:
        folders = sorted(folders)
        folders[0].rmdir()
        return real(site, folders)

    files = given(tmp_path / "given", 4, path=["files/d/x", "files/d/y", "files/e/x", "files/e/y"])
    with monkeypatch.context() as patch:
        patch.setattr(disk, "opened", opened)
        assert verdicts(intake.take_in(lake.central, files)) == ["rejected"] * 2 + ["accepted"] * 2
    assert not list(lake.central.root.rglob(".tmp-*"))
    assert verdicts(intake.take_in(lake.central, files)) == ["accepted"] * 2 + ["present"] * 2


def test_batches_that_overlap(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BATCH", 1)
    files = given(tmp_path / "given")
    twice = pa.concat_tables([files, files])
    seen: list[tuple[int, int]] = []
    found = intake.take_in(lake.central, twice, "copy", lambda n, of: seen.append((n, of)))
    assert verdicts(found) == ["accepted"] * 6 + ["present"] * 6 and seen == [(n, 12) for n in range(1, 13)]
    assert found["path"].to_pylist()[:6] == found["path"].to_pylist()[6:]
    assert audit.audit(lake.central).findings == []


def test_rows_are_judged_while_files_get_their_names(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also then a row has the name that its file got, and what failed at the end has no row."""
    files = given(tmp_path / "given", path=[f"files/x/{n}.fits" for n in range(6)])
    standing = lake.central.path("files/x/2.fits")
    standing.parent.mkdir(parents=True)
    staged, named, real = threading.Event(), threading.Event(), arriving.rename_new

    def rename(old: str, new: str) -> None:
        assert staged.wait(60), "the batch was not judged before its files had names"
        if new.endswith("4.fits"):
            raise OSError(errno.EIO, "", new)
        if new.endswith("2.fits"):
            standing.write_bytes(b"another was first")
        real(old, new)
        named.set()

    stage = delta.stage

    def staging(site: Site, table: str, rows: pa.Table) -> delta.Staged:
        assert staged.is_set() or not named.is_set()
        staged.set()
        return stage(site, table, rows)

    monkeypatch.setattr(arriving, "rename_new", rename)
    monkeypatch.setattr(delta, "stage", staging)
    found = intake.take_in(lake.central, files)
    assert verdicts(found) == ["accepted"] * 4 + ["rejected", "accepted"]
    assert "Input/output error" in found["reason"][4].as_py() and "2~" in found["path"][2].as_py()
    assert sorted(search(lake, ["raw"])["path"].to_pylist()) == sorted(
        found["path"].to_pylist()[:4] + found["path"].to_pylist()[5:]
    )
    assert [f for f in audit.audit(lake.central).findings if f.path != "files/x/2.fits"] == []


def test_moved_twice_in_one_call(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "BATCH", 6)
    files = given(tmp_path / "given")
    assert verdicts(intake.take_in(lake.central, pa.concat_tables([files, files]), "move")) == ["accepted"] * 6 + ["present"] * 6
    assert not list((tmp_path / "given").iterdir())


class _Syncing:
    """A C library that says which file systems it was asked to sync, by the directories that were given."""

    def __init__(self) -> None:
        self.synced: list[str] = []

    def syncfs(self, descriptor: int) -> int:
        self.synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        return int(ctypes.CDLL(None).syncfs(descriptor))

    def __getattr__(self, name: str) -> object:
        return getattr(ctypes.CDLL(None, use_errno=True), name)


@pytest.mark.parametrize("most", [8, 0])
def test_a_file_system_that_is_mounted_below_the_root_is_synced_too(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    library, real = _Syncing(), disk._device
    monkeypatch.setattr(disk, "_LIBC", library)
    monkeypatch.setattr(arriving, "FOLDERS", most)
    monkeypatch.setattr(disk, "_device", lambda path: -1 if "/away/" in f"{path}/" else real(path))
    for name in ("x", "away/x", "away/y"):
        lake.central.path(f"files/{name}").mkdir(parents=True)
    files = given(tmp_path / "given", 3, path=["files/x/one.fits", "files/away/x/two.fits", "files/away/y/three.fits"])
    assert verdicts(intake.take_in(lake.central, files, "copy")) == ["accepted"] * 3
    root = str(lake.central.root)
    once = [root, f"{root}/files/away/y"]
    assert library.synced == (once if most else once * 2), "each once; for the names as well where directories are not synced"


@pytest.mark.parametrize("mode", intake.MODES)
def test_file_systems_are_opened_before_anything_is_written(
    tmp_path: Path, lake: Lake, mode: intake.Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed to be written since then, they tell, whoever else was told."""

    class Failing(_Syncing):
        """Another process was told of an error: only descriptors that were open when it happened tell it again."""

        def syncfs(self, descriptor: int) -> int:
            if descriptor in opened:
                ctypes.set_errno(errno.EIO)
                return -1
            return super().syncfs(descriptor)

    opened: set[int] = set()
    monkeypatch.setattr(disk, "_LIBC", Failing())
    monkeypatch.setattr(arriving, "FOLDERS", 0)
    files = given(lake.central.path("files/here") if mode == "direct" else tmp_path / "given")
    stream = arriving._stream

    def streaming(file: arriving.Arriving, write: bool) -> None:
        opened.update(int(path.name) for path in Path("/proc/self/fd").iterdir())
        stream(file, write)

    with monkeypatch.context() as patch:
        patch.setattr(arriving, "_stream", streaming)
        with pytest.raises(LakeError, match=f"the file system of {lake.central.root} cannot be synced: Input/output error"):
            intake.take_in(lake.central, files, mode)
    opened.clear()
    assert len(search(lake, ["raw"])) == 0 and not list(lake.central.root.rglob(".tmp-*"))
    assert verdicts(intake.take_in(lake.central, files, mode)) == ["accepted"] * 6
    assert not [path for path in Path("/proc/self/fd").iterdir() if path.resolve() == lake.central.root], "it is closed"


@pytest.mark.parametrize("broken", ["sync", "ingest"])
def test_an_error_leaves_nothing_unfinished(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    def fail(*_: object, **__: object) -> None:
        raise LakeError("the disk is gone")

    files = given(tmp_path / "given")
    with monkeypatch.context() as patch:
        patch.setattr(intake, "BATCH", 2)
        patch.setattr(arriving if broken == "sync" else registry, broken, fail)
        with pytest.raises(LakeError, match="the disk is gone"):
            intake.take_in(lake.central, files)
    assert not list(lake.central.root.rglob("*.tmp-*"))
    assert len(search(lake, ["raw"])) == 0
    assert verdicts(intake.take_in(lake.central, files)) == ["accepted"] * 6
    assert audit.audit(lake.central).findings == []


WORK = """
import sys, pyarrow.parquet as pq
from lake import intake
from lake.site import Lake
intake.BATCH = 2
print(sorted(set(intake.take_in(Lake.open(sys.argv[1]).central, pq.read_table(sys.argv[2]))["verdict"].to_pylist())))
"""


@pytest.mark.parametrize(
    "point", ["intake:copied:2", "intake:named", "intake:placed:2", "registry:dataset:2", "intake:registered:2"]
)
def test_killed_while_batches_overlap(tmp_path: Path, lake: Lake, point: str) -> None:
    pq.write_table(given(tmp_path / "given"), tmp_path / "files.parquet")
    command = [sys.executable, "-c", WORK, lake.root, tmp_path / "files.parquet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(command, env={**environment, "DRP_FAULT": point}, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    for row in search(lake, ["raw"]).to_pylist():
        assert datastore.check(lake.central, row["path"], row["file_bytes"], row["file_checksum"]) is None
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.stdout in ("['accepted']\n", "['accepted', 'present']\n"), again.stderr
    assert len(search(lake, ["raw"])) == 6 and len(list((tmp_path / "given").iterdir())) == 6
    left = audit.remove_orphans(lake.central)  # rows that were written and never committed, nothing else
    assert all(path.startswith("tables/registry/dataset/dataset_type=raw/part-") for path in left), left
    assert [f for f in audit.audit(lake.central).findings if ".tmp-" not in f.path] == []
