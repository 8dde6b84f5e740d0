"""Files of a directory that is new: they get their names with it, or one by one where that cannot be."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
from small_lake import make
from test_disk import OldKernel
from test_intake import given, verdicts

from checks import audit, storage
from lake import arriving, disk, intake
from lake.site import Lake, Site


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make(tmp_path / "lake", 2, 3)


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


@pytest.mark.parametrize("library", [OldKernel(errno.EINVAL), OldKernel(errno.ENOSYS), object()])
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
