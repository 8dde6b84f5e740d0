"""File systems that files are written to: all is durable before it has a name, and no name is taken from another file."""

from __future__ import annotations

import ctypes
import errno
from pathlib import Path

import pytest
from small_lake import make
from test_intake import given, verdicts

from lake import arriving, disk, intake
from lake.search import search
from lake.site import Lake, LakeError


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make(tmp_path / "lake", 2, 3)


class OldKernel:
    """A C library whose file system does not know the call."""

    def __init__(self, code: int) -> None:
        self.code = code

    def renameat2(self, *_: object) -> int:
        ctypes.set_errno(self.code)
        return -1


@pytest.mark.parametrize("library", [None, OldKernel(errno.EINVAL), OldKernel(errno.ENOSYS), object()])
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
