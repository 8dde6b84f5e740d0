"""Files: written whole or not at all, never overwritten, their content known by its sha256."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import time
from collections import deque
from itertools import product, zip_longest
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import schemas
from lake import datastore, sizes
from lake.datastore import DatastoreError, alternative, check, checksum, put_file, template, write_file
from lake.site import Lake, LakeError, Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}}).central


def names(site: Site) -> list[str]:
    return sorted(p.relative_to(site.root).as_posix() for p in site.path("files").rglob("*") if p.is_file())


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def test_bytes_and_writers_give_the_same_record(site: Site) -> None:
    one = write_file(site, "files/r/t/x.json", b"content")
    two = write_file(site, "files/r/t/y.fits", lambda path: path.write_bytes(b"content") and None)
    assert (one.path, one.bytes, one.checksum) == ("files/r/t/x.json", 7, sha(b"content"))
    assert (two.bytes, two.checksum) == (7, one.checksum)
    assert names(site) == ["files/r/t/x.json", "files/r/t/y.fits"]


def test_a_writer_sees_the_suffix_of_its_file(site: Site) -> None:
    seen: list[str] = []

    def writer(path: Path) -> None:
        seen.append(path.name)
        path.write_bytes(b"x")

    write_file(site, "files/a.fits", writer)
    assert seen[0].startswith(datastore.TEMPORARY) and seen[0].endswith(".fits")


def test_a_file_is_never_overwritten(site: Site) -> None:
    first = write_file(site, "files/x.fits", b"good")
    before = site.path(first.path).stat()
    assert write_file(site, "files/x.fits", b"good") == first
    assert site.path(first.path).stat().st_ino == before.st_ino
    other = write_file(site, "files/x.fits", b"evil")
    assert other.path == alternative("files/x.fits", sha(b"evil")) == f"files/x~{sha(b'evil')[:12]}.fits"
    assert site.path("files/x.fits").read_bytes() == b"good" and site.path(other.path).read_bytes() == b"evil"


def test_a_writer_that_fails_leaves_nothing(site: Site) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise ValueError("bad pixels")

    def full(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ValueError, match="bad pixels"):
        write_file(site, "files/x.fits", fail)
    with pytest.raises(DatastoreError, match=r"^site A: files/x.fits: No space left on device; free space$"):
        write_file(site, "files/x.fits", full)
    with pytest.raises(LakeError, match="not below"):
        write_file(site, "../B/x.fits", b"")
    assert names(site) == []


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_a_file_is_brought_in(site: Site, tmp_path: Path, mode: Any) -> None:
    data = os.urandom(3 * 2**20)
    source = tmp_path / "raw.fits"
    source.write_bytes(data)
    seen: list[int] = []
    record = put_file(site, source, "files/raw/x.fits", mode, expected=sha(data), progress=seen.append)
    assert record == datastore.FileRecord("files/raw/x.fits", len(data), sha(data))
    assert site.path(record.path).read_bytes() == data and sum(seen) == len(data)
    assert source.exists() == (mode != "move")
    assert (mode == "link") == (source.exists() and source.stat().st_ino == site.path(record.path).stat().st_ino)
    assert names(site) == ["files/raw/x.fits"]


def test_what_is_not_expected_is_refused(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"altered")
    with pytest.raises(DatastoreError, match="the source is damaged"):
        put_file(site, source, "files/x", expected=sha(b"content"))
    assert names(site) == [] and source.exists()
    with pytest.raises(DatastoreError, match="No such file"):
        put_file(site, tmp_path / "nothing", "files/x")
    put_file(site, source, "files/x")
    source.write_bytes(b"another")
    with pytest.raises(DatastoreError, match="never overwritten"):
        put_file(site, source, "files/x")
    assert site.path("files/x").read_bytes() == b"altered"


def test_a_damaged_file_is_replaced_where_the_content_is_known(site: Site, tmp_path: Path) -> None:
    source = tmp_path / "x"
    source.write_bytes(b"content")
    put_file(site, source, "files/x")
    site.path("files/x").write_bytes(b"contenT")
    put_file(site, source, "files/x", expected=sha(b"content"))
    assert site.path("files/x").read_bytes() == b"content" and names(site) == ["files/x"]


def test_check_tells_lost_from_damaged(site: Site) -> None:
    record = write_file(site, "files/x", b"content")
    assert check(site, "files/x", 7, record.checksum) is None
    site.path("files/x").write_bytes(b"contenT")
    assert check(site, "files/x", 7) is None, "its size is right: only reading it tells"
    assert "damaged: files/x has the checksum" in str(check(site, "files/x", 7, record.checksum))
    site.path("files/x").write_bytes(b"cont")
    assert check(site, "files/x", 7) == "damaged: files/x has 4 bytes, 7 are registered"
    site.path("files/x").unlink()
    assert check(site, "files/x", 7) == "lost: files/x is not in storage"
    assert checksum(__file__) == sha(Path(__file__).read_bytes())


@pytest.mark.parametrize("helper", ["none", "another process", "one that dies", "one that cannot be started"])
def test_of_many_files_those_are_found_that_are_not_as_claimed(
    site: Site, tmp_path: Path, helper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    here, started = sizes.Folders.differing, subprocess.Popen

    def slowly(self: sizes.Folders, paths: list[str], expected: list[int]) -> list[str]:
        asked.append(paths)
        time.sleep(0.05)
        return here(self, paths, expected)

    def killed(command: list[str], **pipes: Any) -> subprocess.Popen[bytes]:
        process = started(command, **pipes)
        process.kill()
        return process

    monkeypatch.setattr(sizes.Folders, "differing", slowly)
    if helper != "none":
        monkeypatch.setattr(sizes, "AT_ONCE", 1)
        monkeypatch.setattr(sizes, "SHARED", 2)
    if helper == "one that dies":
        monkeypatch.setattr(sizes.subprocess, "Popen", killed)
    if helper == "one that cannot be started":
        monkeypatch.setattr(sizes.sys, "executable", str(tmp_path / "nothing"))
    sound = [f"files/{folder}/{n}" for folder in ("a", "a/b", "b", "a") for n in range(3)]
    for path in sound:
        write_file(site, path, b"content")
    (tmp_path / "outside").write_bytes(b"content")
    site.path("files/link").symlink_to(tmp_path / "outside")
    site.path("files/door").symlink_to(site.path("files/a"))
    up = "/".join([".."] * len(site.root.parts))
    wrong = ["files/a/3", "files/link", "files/door/0", "files/nowhere/0", "files/a", "files/a/..", "files/b/../a/0", "files/a/0\0",
             str(tmp_path / "outside"), f"{up}{tmp_path}/outside", "", ".", ".."]  # fmt: skip
    mixed = [path for pair in zip_longest(sound, wrong) for path in pair if path is not None]
    found = datastore.suspects(site, pa.chunked_array([mixed]), pa.chunked_array([[7] * len(mixed)]))
    assert sorted(found) == sorted(path for path in mixed if path in wrong)
    seen = [path for paths in asked for path in paths]
    assert set(seen) < set(mixed) if helper == "another process" else sorted(seen) == sorted(mixed)
    assert sorted(datastore.suspects(site, pa.chunked_array([sound]), pa.chunked_array([[8] * len(sound)]))) == sorted(sound)


def test_another_process_is_not_asked_what_it_cannot_be_told(site: Site) -> None:
    """An empty path among those that differ is no answer at all: it is looked at here."""
    for paths in ([""], ["files/x", ""], ["files/a\0b"]):
        firsts = deque([0])
        assert sizes._elsewhere(site.root, firsts, pa.chunked_array([paths]), pa.chunked_array([[7] * len(paths)])) == []
        assert list(firsts) == [0]


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_where_no_core_is_left_another_process_begins_alone(site: Site, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sizes, "AT_ONCE", 1)
    monkeypatch.setattr(sizes, "SHARED", 2)
    monkeypatch.setattr(sizes.os, "sched_getaffinity", lambda _: set(range(cores)))
    here, happened = sizes.Folders.differing, []

    def looking(self: sizes.Folders, paths: list[str], expected: list[int]) -> list[str]:
        happened.append("looked")
        return here(self, paths, expected)

    monkeypatch.setattr(sizes.Folders, "differing", looking)
    write_file(site, "files/x", b"content")
    paths, expected = pa.chunked_array([["files/x", "files/y"] * 200]), pa.chunked_array([[7] * 400])
    assert datastore.suspects(site, paths, expected, lambda: happened.append("free")) == ["files/y"] * 200
    assert happened[:1] == ["free"] if cores < 3 else "free" not in happened
    happened.clear()
    assert datastore.suspects(site, paths[:1], expected[:1], lambda: happened.append("free")) == []
    assert happened == ["looked"], "few files are not shared"


def test_paths_come_from_data_ids() -> None:
    visit = {"instrument": "DemoCam", "exposure": 7, "visit": 7, "physical_filter": "r_demo", "band": "r", "day_obs": 20260101}
    assert template("c/step1", "post_isr_image", visit | {"detector": 4}) == (
        "files/c/step1/post_isr_image/20260101/post_isr_image_DemoCam_7_d4.fits"
    )
    assert template("c/step3", "deep_coadd", {"band": "r", "skymap": "sky", "tract": 9469, "patch": 3}) == (
        "files/c/step3/deep_coadd/9469/deep_coadd_r_sky_t9469_p3.fits"
    )
    assert template("c/calib", "flat", {"instrument": "Cam", "detector": 0, "physical_filter": "g/x", "band": "g"}) == (
        "files/c/calib/flat/flat_Cam_d0_g-x.fits"
    )
    assert template("c/software", "software", {"instrument": "Cam", "tract": None}, "json").endswith("software_Cam.json")
    warp = visit | {"skymap": "sky", "tract": 9469, "patch": 3}
    assert template("c/step3", "direct_warp", warp).endswith("20260101/direct_warp_DemoCam_7_sky_t9469_p3.fits")


def test_paths_of_many_are_those_of_each() -> None:
    values = {"instrument": "D/é Cam", "exposure": 7, "visit": 8, "detector": 0, "physical_filter": "r x", "band": "r",
              "day_obs": 20260101, "skymap": "s", "tract": 9469, "patch": 3}  # fmt: skip
    given = [
        {c: v for (c, v), there in zip(values.items(), mask, strict=True) if there} for mask in product((True, False), repeat=10)
    ]
    rows = [
        row | {"run": f"c//{n % 3}/.", "dataset_type": ("flat", "soft+ware")[n % 2]} for n, row in enumerate([*given, *given[:9]])
    ]
    table = pa.Table.from_pylist(rows, schema=schemas.table("dataset").arrow)
    storage = {"soft+ware": "json", "flat": "fits"}
    one_by_one = [template(row["run"], row["dataset_type"], row, storage[row["dataset_type"]]) for row in rows]
    assert datastore.templates(table, storage).to_pylist() == one_by_one
