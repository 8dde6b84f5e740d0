"""Two that bring files in at one site: neither waits for the other's disk, and neither loses what the other has."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_lake import add_dimensions, make
from test_intake import ROOT, given, verdicts

from checks import audit
from lake import arriving, datastore, delta, intake
from lake.disk import Disk
from lake.parquet import DeltaError
from lake.search import search
from lake.site import Lake, Site


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make(tmp_path / "lake", 2, 3)


@contextmanager
def waiting_for_the_disk(site: Site, files: pa.Table) -> Iterator[Callable[[], pa.Table]]:
    """Somebody brings files in, has judged them and waits for the disk; what is given lets it go on, and says its verdicts."""
    began, staged, done = threading.Event(), threading.Event(), threading.Event()
    sync, stage = arriving.sync, delta.stage

    def slow(disk: Disk) -> None:
        first, _ = not began.is_set(), began.set()
        assert not first or done.wait(30), "the other one had to wait for this one's disk"
        sync(disk)

    def staging(site: Site, table: str, rows: pa.Table) -> delta.Staged:
        made = stage(site, table, rows)
        staged.set()
        return made

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(1) as pool:
        patch.setattr(arriving, "sync", slow)
        patch.setattr(delta, "stage", staging)
        result = pool.submit(intake.take_in, site, files)
        assert began.wait(30) and staged.wait(30)

        def go_on() -> pa.Table:
            done.set()
            return result.result()

        try:
            yield go_on
        finally:
            done.set()


def sound(lake: Lake, rows: int) -> None:
    """So many datasets, each with its file; nothing else lies about."""
    left = audit.remove_orphans(lake.central)  # rows that were written and never committed, nothing else
    assert all(path.startswith("tables/registry/dataset/dataset_type=raw/part-") for path in left), left
    found = search(lake, ["raw"]).to_pylist()
    assert len(found) == rows == len({row["dataset_id"] for row in found})
    for row in found:
        assert datastore.check(lake.central, row["path"], row["file_bytes"], row["file_checksum"]) is None
    assert [f for f in audit.audit(lake.central).findings if ".tmp-" not in f.path] == []


def test_nobody_waits_for_the_disk_of_another(tmp_path: Path, lake: Lake) -> None:
    """What the other one has registered meanwhile is known: also what both bring."""
    files = given(tmp_path / "given")
    with waiting_for_the_disk(lake.central, files.slice(0, 4)) as go_on:
        assert verdicts(intake.take_in(lake.central, files.slice(2))) == ["accepted"] * 4
        assert verdicts(go_on()) == ["accepted", "accepted", "present", "present"]
    sound(lake, 6)


def test_the_same_dataset_with_other_content(tmp_path: Path, lake: Lake) -> None:
    files, others = given(tmp_path / "given"), given(tmp_path / "others")
    for source in others["source"].to_pylist()[2:4]:
        Path(source).write_bytes(b"other content")
    with waiting_for_the_disk(lake.central, files.slice(0, 4)) as go_on:
        assert verdicts(intake.take_in(lake.central, others.slice(2))) == ["accepted"] * 4
        found = go_on()
    assert verdicts(found) == ["accepted", "accepted", "rejected", "rejected"]
    assert "registered with checksum" in found["reason"][2].as_py()
    sound(lake, 6)


def test_a_record_that_comes_meanwhile(tmp_path: Path, lake: Lake) -> None:
    files = given(tmp_path / "given", exposure=[1, 1, 1, 2, 2, 3])
    with waiting_for_the_disk(lake.central, files) as go_on:
        add_dimensions(lake.central, range(3, 4), 3)
        assert verdicts(go_on()) == ["accepted"] * 6
    sound(lake, 6)
    assert search(lake, ["raw"], where="exposure = 3").to_pylist()[0]["visit"] == 3, "filled in"


def test_orphans_that_are_removed_meanwhile(tmp_path: Path, lake: Lake) -> None:
    """Rows that are written and not committed yet look like what somebody left behind."""
    with waiting_for_the_disk(lake.central, given(tmp_path / "given")) as go_on:
        assert [path for path in audit.remove_orphans(lake.central) if path.startswith("tables/registry/dataset/")]
        assert verdicts(go_on()) == ["accepted"] * 6
    sound(lake, 6)


def test_files_that_go_meanwhile(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named and not registered yet, a file is an orphan for those who remove at once: then its dataset is not there either."""
    place = arriving.place

    def placing(site: Site, files: list[arriving.Arriving], disks: list[Disk]) -> None:
        place(site, files, disks)
        assert len([path for path in audit.remove_orphans(site) if path.startswith("files/")]) == 6

    with monkeypatch.context() as patch:
        patch.setattr(arriving, "place", placing)
        found = intake.take_in(lake.central, given(tmp_path / "given"), "move")
    assert verdicts(found) == ["rejected"] * 6 and "lost" in found["reason"][0].as_py()
    sound(lake, 0)
    assert verdicts(intake.take_in(lake.central, given(tmp_path / "given"), "move")) == ["accepted"] * 6
    sound(lake, 6)


@pytest.mark.parametrize("waits", [False, True])
def test_what_is_refused_takes_no_file_from_another_row(tmp_path: Path, lake: Lake, waits: bool) -> None:
    """A file that one row brought, and another found in place: it stays while one of them has it, or waits."""
    files = given(tmp_path / "given", 3)
    for n in (1, 2):
        Path(files["source"][n].as_py()).write_bytes(b"the same")
    ids = {"detector": [0, 0, 1], "exposure": [1, 1, 77 if waits else 1], "path": ["files/x/a", "files/x/b", "files/x/b"]}
    found = intake.take_in(lake.central, given(tmp_path / "given", 3, **ids), "move")
    assert verdicts(found) == ["accepted", "rejected", "parked" if waits else "accepted"]
    assert lake.central.path("files/x/b").read_bytes() == b"the same"
    sound(lake, 1 if waits else 2)


def test_the_name_of_a_file_that_is_there_is_made_durable(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who named it may not have come to that yet, and never come to it."""
    files = given(tmp_path / "given", 2, path=["files/x/a.fits", "files/y/b.fits"])
    standing = lake.central.path("files/x/a.fits")
    for path in (standing, lake.central.path("files/y/b.fits")):
        path.parent.mkdir(parents=True)
    standing.write_bytes(Path(files["source"][0].as_py()).read_bytes())
    synced: list[Path] = []
    monkeypatch.setattr(arriving, "fsync_dir", synced.append)
    assert verdicts(intake.take_in(lake.central, files)) == ["accepted"] * 2
    assert synced == [lake.central.path("files/x"), lake.central.path("files/y")]


@pytest.mark.parametrize("content", ["the same", "other"])
def test_a_directory_that_another_makes_meanwhile(
    tmp_path: Path, lake: Lake, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was new to both: the second names its files one by one, and makes durable also the name of the directory."""
    paths = [f"files/x/{n}" for n in range(6)]
    files, others = (given(tmp_path / name, path=paths) for name in ("given", "others"))
    for source in others["source"].to_pylist() if content == "other" else ():
        Path(source).write_bytes(b"other content of " + source.encode())
    synced: list[Path] = []
    with waiting_for_the_disk(lake.central, files) as go_on:
        assert not lake.central.path("files/x").exists()
        assert verdicts(intake.take_in(lake.central, others.slice(0, 4))) == ["accepted"] * 4
        monkeypatch.setattr(arriving, "fsync_dir", synced.append)
        found = go_on()
    assert verdicts(found) == [{"the same": "present", "other": "rejected"}[content]] * 4 + ["accepted"] * 2
    assert synced == [lake.central.path("files"), lake.central.path("files/x")]
    assert not list(lake.central.root.rglob(".tmp-*"))
    sound(lake, 6)


def test_no_room_for_the_rows(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    files = given(tmp_path / "given")

    def full(site: Site, table: str, rows: pa.Table) -> delta.Staged:
        raise DeltaError(f"site {site.name}: table {table} cannot be written: {os.strerror(errno.ENOSPC)}")

    with monkeypatch.context() as patch:
        patch.setattr(delta, "stage", full)
        with pytest.raises(DeltaError, match="No space left"):
            intake.take_in(lake.central, files)
    assert not list(lake.central.root.rglob("*.tmp-*"))
    with lake.central.lock(timeout=0):
        assert len(search(lake, ["raw"])) == 0
    assert verdicts(intake.take_in(lake.central, files)) == ["accepted"] * 6
    sound(lake, 6)


def test_no_room_for_some_files(tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two are not written to their end, one gets no name: these say so, the others are in."""
    files, write, name = given(tmp_path / "given"), os.write, arriving.rename_new

    def writing(descriptor: int, piece: bytes) -> int:
        if piece.startswith((b"content 1", b"content 2")):
            write(descriptor, piece[:7])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, piece)

    def naming(old: str, new: str) -> None:
        if Path(old).read_bytes().startswith(b"content 5"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), new)
        name(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", writing)
        patch.setattr(arriving, "rename_new", naming)
        found = intake.take_in(lake.central, files)
    assert verdicts(found) == ["accepted", "rejected", "rejected", "accepted", "accepted", "rejected"]
    assert all("No space left" in found["reason"][n].as_py() for n in (1, 2, 5))
    assert not list(lake.central.root.rglob("*.tmp-*"))
    assert verdicts(intake.take_in(lake.central, files)) == ["present", "accepted", "accepted", "present", "present", "accepted"]
    sound(lake, 6)


WORK = """
import sys, pyarrow.parquet as pq
from lake import intake
from lake.site import Lake
intake.BATCH = 2
site, files = Lake.open(sys.argv[1]).central, pq.read_table(sys.argv[2])
print("begins", flush=True)
sys.stdin.readline()
print(sorted(set(intake.take_in(site, files)["verdict"].to_pylist())))
"""


@pytest.mark.parametrize(
    "point", ["intake:copied:2", "intake:named", "intake:placed", "registry:parked:2", "registry:dataset", "intake:registered"]
)
def test_one_of_two_is_killed(tmp_path: Path, lake: Lake, point: str) -> None:
    """They bring the same files, one from the other end; the other one is done, and what is there is whole."""
    files = given(tmp_path / "given")
    pq.write_table(files, tmp_path / "0.parquet")
    pq.write_table(files.take([4, 5, 2, 3, 0, 1]), tmp_path / "1.parquet")
    both = [
        subprocess.Popen(
            [sys.executable, "-c", WORK, lake.root, tmp_path / f"{n}.parquet"], text=True, env={**os.environ, **fault},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for n, fault in enumerate([{"PYTHONPATH": str(ROOT), "DRP_FAULT": point}, {"PYTHONPATH": str(ROOT)}])
    ]  # fmt: skip
    assert [process.stdout.readline() for process in both if process.stdout] == ["begins\n"] * 2
    (_, died), (said, error) = [process.communicate("\n") for process in both]
    assert both[0].returncode == -signal.SIGKILL, died
    assert said in ("['accepted']\n", "['accepted', 'present']\n", "['present']\n"), error
    sound(lake, 6)
    assert verdicts(intake.take_in(lake.central, files)) == ["present"] * 6
