"""Lakes and sites: what lake.yaml may hold, paths that stay inside, locks that die with their process."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path

import pytest

from lake.durable import write_durable
from lake.site import Lake, LakeError, Site, read_sites

SITES = {"USDF": {"central": True, "cores": 2, "memory_gb": 8, "storage_tb": 0.5}, "LANCS": {"cores": 1}, "RAL": None}


def test_a_lake_is_what_its_file_says(tmp_path: Path) -> None:
    Lake.create(tmp_path / "lake", SITES)
    lake = Lake.open(tmp_path / "lake")
    assert list(lake.sites) == ["USDF", "LANCS", "RAL"]
    assert lake.central.name == "USDF" and lake.central.memory_gb == 8
    assert lake.site("RAL").root == tmp_path / "lake" / "RAL" and lake.site("RAL").cores == 1
    assert lake.site("RAL").lake == lake
    assert pickle.loads(pickle.dumps(lake.central)) == lake.central  # noqa: S301


@pytest.mark.parametrize(
    ("sites", "named"),
    [
        ({"A": {"central": True, "corse": 3}}, "'corse'"),
        ({"A": {"central": True, "cores": "many"}}, "cores: 'many'"),
        ({"A": {"central": True, "cores": 0}}, "cores: 0"),
        ({"A": {"central": 1}}, "central: 1"),
        ({"A": {"central": True, "cores": True}}, "cores: True"),
        ({"A": {}, "B": {}}, "none is"),
        ({"A": {"central": True}, "B": {"central": True}}, "A, B are"),
        ({"A": {"central": True}, "a": {}}, "differs from it in case only"),
        ({"A/../B": {"central": True}}, "'A/../B'"),
        ({"main": {"central": True}}, "'main'"),
        ({"A": [1]}, "must be a mapping"),
        ({}, "exactly one site"),
    ],
)
def test_a_wrong_description_is_refused_and_leaves_nothing(tmp_path: Path, sites: dict, named: str) -> None:
    with pytest.raises(LakeError, match=named.replace("(", r"\(")) as refused:
        Lake.create(tmp_path / "lake", sites)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "lake").exists()


def test_an_existing_lake_and_a_bad_directory_are_refused(tmp_path: Path) -> None:
    Lake.create(tmp_path / "lake", SITES)
    with pytest.raises(LakeError, match="already a lake"):
        Lake.create(tmp_path / "lake", SITES)
    (tmp_path / "file").write_text("")
    with pytest.raises(LakeError, match=r"cannot create a lake in .*file"):
        Lake.create(tmp_path / "file", SITES)
    with pytest.raises(LakeError, match="may not hold"):
        Lake.create(tmp_path / "tract=5", SITES)


def test_what_is_no_lake_is_named(tmp_path: Path) -> None:
    with pytest.raises(LakeError, match=r"is not a lake .*'drp init'"):
        Lake.open(tmp_path)
    lake = Lake.create(tmp_path, SITES)
    with pytest.raises(LakeError, match=r"no site 'FRDF' in .*USDF, LANCS, RAL"):
        lake.site("FRDF")


@pytest.mark.parametrize(
    ("text", "named"),
    [("sites: {A: {central: true}\n  B", "line 2"), ("[1, 2]", "key 'sites'"), ("sites: {A: }\nmore: 1", "key 'sites'")],
)
def test_a_file_of_sites_is_read_or_refused_by_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "sites.yaml"
    path.write_text(text)
    with pytest.raises(LakeError, match=f"sites.yaml.*{named}"):
        read_sites(path)
    path.write_text("sites:\n  A: {central: true, cores: 4}\n  B:\n")
    assert read_sites(path) == {"A": {"central": True, "cores": 4}, "B": None}


def test_paths_stay_below_the_site(tmp_path: Path) -> None:
    site = Site("A", tmp_path / "A")
    assert site.path("files/x/y.fits") == tmp_path / "A/files/x/y.fits"
    assert site.relative(tmp_path / "A/files/x") == "files/x"
    for bad in ("/etc/passwd", "../B/x", "files/../../B", "", "a\0b"):
        with pytest.raises(LakeError, match="not below"):
            site.path(bad)
    for bad in ("files//x", "files/./x", "./x", "files/x/", "files/x/."):
        with pytest.raises(LakeError, match=r"has an empty name or '\.' in it; as a file's path write '(files/)?x'$"):
            site.path(bad)
    with pytest.raises(LakeError, match="not below"):
        site.relative(tmp_path / "B/x")
    assert site.table_path("dataset") == tmp_path / "A/tables/registry/dataset"
    with pytest.raises(KeyError, match="no table 'nothing'"):
        site.table_path("nothing")


def _hold(site: Site, ready: multiprocessing.synchronize.Event) -> None:
    with site.lock():
        ready.set()
        time.sleep(60)


def test_a_lock_excludes_and_dies_with_its_process(tmp_path: Path) -> None:
    site = Site("A", tmp_path)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_hold, args=(site, ready))
    holder.start()
    try:
        assert ready.wait(30)
        with pytest.raises(LakeError, match="another process has held"), site.lock(timeout=0.05):
            pass
        with site.lock("another"):
            pass
    finally:
        os.kill(holder.pid or 0, signal.SIGKILL)
        holder.join()
    with site.lock(timeout=5):
        pass


def test_a_durable_write_is_whole_or_not_at_all(tmp_path: Path) -> None:
    write_durable(tmp_path / "x", b"one")
    write_durable(tmp_path / "x", b"two")
    assert (tmp_path / "x").read_bytes() == b"two"
    with pytest.raises(TypeError):
        write_durable(tmp_path / "x", None)  # type: ignore[arg-type]
    assert (tmp_path / "x").read_bytes() == b"two" and len(list(tmp_path.iterdir())) == 1
