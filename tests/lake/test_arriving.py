"""Files on their way: no name is ever taken from another file, whatever the file system can do; nothing unfinished stays."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from small_lake import make
from test_intake import ROOT, given, verdicts

from checks import audit
from lake import arriving, datastore, delta, intake, registry
from lake.search import search
from lake.site import Lake, LakeError, Site


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make(tmp_path / "lake", 2, 3)


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
