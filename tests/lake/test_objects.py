"""Sites in an object store: the same behaviour as of a directory, on a real S3 server."""

from __future__ import annotations

import copy
import hashlib
import os
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import serving

import schemas
from lake import access, datastore, delta, division, janitor, query, upkeep
from lake.bucket import StoreError
from lake.merging import File
from lake.objects import ObjectPath
from lake.site import Lake, LakeError, Site


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with serving() as given, pytest.MonkeyPatch.context() as patch:
        for name, value in given.items():
            patch.setenv(name, value)
        yield given["DRP_S3_ENDPOINT"]


@pytest.fixture
def url() -> str:
    return f"s3://drp-test/{uuid.uuid4().hex}"


@pytest.fixture(params=["directory", "bucket"])
def root(request: pytest.FixtureRequest, tmp_path: Path, server: str, url: str) -> Path:
    return tmp_path if request.param == "directory" else ObjectPath.root(url, server)


@pytest.fixture
def lake(tmp_path: Path, server: str, url: str) -> Lake:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}, "B": {"root": url, "endpoint": server}})


def rows(values: list[int]) -> pa.Table:
    size = pa.array([8] * len(values), pa.int32())
    table = pa.table({"instrument": ["I"] * len(values), "detector": pa.array(values, pa.int32()), "width": size, "height": size})
    return schemas.conform("detector", table)


# -- paths -------------------------------------------------------------------------------------------------------------


def test_paths_do_the_same_in_both(root: Path) -> None:
    one = root.joinpath("files", "run", "a.json")
    one.parent.mkdir(parents=True, exist_ok=True)
    assert not one.exists() and not one.is_file()
    with pytest.raises(FileNotFoundError):
        one.read_bytes()
    with pytest.raises(FileNotFoundError):
        one.unlink()
    one.unlink(missing_ok=True)
    one.write_bytes(b"0123456789")
    assert one.exists() and one.stat().st_size == 10 and one.read_text() == "0123456789"
    with one.open("rb") as file:
        assert (file.seek(4), file.read(3), file.tell(), file.read()) == (4, b"456", 7, b"789")
        file.seek(0)
        assert hashlib.file_digest(file, "sha256").hexdigest() == hashlib.sha256(b"0123456789").hexdigest()
    two = one.with_name("b.json")
    one.replace(two)
    assert not one.exists() and two.read_bytes() == b"0123456789"
    with (root / "files" / "c.txt").open("wb") as file:
        file.write(b"x" * 20_000_000)
    assert (root / "files" / "c.txt").stat().st_size == 20_000_000
    assert sorted(p.name for p in (root / "files").glob("*.txt")) == ["c.txt"]
    assert sorted(p.relative_to(root).as_posix() for p in root.rglob("*.json")) == ["files/run/b.json"]
    assert (two.name, two.stem, two.suffix, two.parent.name) == ("b.json", "b", ".json", "run")
    assert copy.deepcopy(two).read_bytes() == b"0123456789"


def test_local_copies_are_fetched_once_and_again_when_they_are_wrong(server: str, url: str) -> None:
    path = ObjectPath.root(url, server) / "files/x.bin"
    path.write_bytes(b"good")
    found = access.local(path)
    assert found.read_bytes() == b"good" and access.local(path) == found
    found.unlink()
    path.write_bytes(b"better")
    assert access.local(path).read_bytes() == b"better"
    access.trim(most=0)
    assert not found.exists()
    with pytest.raises(FileNotFoundError):
        access.local(path.with_name("nothing"))


# -- sites -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
def test_one_object_is_read_by_many_threads_at_once(server: str, url: str, tmp_path: Path, threads: int) -> None:
    root, values = ObjectPath.root(url, server), np.arange(200_000)
    noise = np.random.default_rng(1).normal(size=len(values))
    pq.write_table(pa.table({"k": values, "x": noise}), tmp_path / "many.parquet", row_group_size=4_000)
    (root / "many.parquet").upload(tmp_path / "many.parquet")
    with delta.connect(threads) as con:
        for _ in range(5):
            read = con.sql(f"SELECT k, x FROM read_parquet('{root / 'many.parquet'}') ORDER BY k").fetchnumpy()
            assert np.array_equal(read["k"], values) and np.array_equal(read["x"], noise)


def test_what_is_not_a_root(tmp_path: Path, server: str, url: str) -> None:
    for options, said in (
        ({"root": "ftp://x"}, "must be s3://"),
        ({"root": url, "endpoint": "127.0.0.1:1"}, "must be http://"),
        ({"root": 3}, "is not a URL"),
    ):
        with pytest.raises(LakeError, match=said):
            Lake.create(tmp_path / "no", {"A": {"central": True}, "B": options})
    with pytest.raises(LakeError, match="share the root"):
        Lake.create(tmp_path / "no", {"A": {"central": True, "root": url, "endpoint": server}, "B": {"root": f"{url}/b"}})
    ObjectPath.root(url, server).joinpath("something").write_bytes(b"")
    with pytest.raises(LakeError, match="there are objects already"):
        Lake.create(tmp_path / "no", {"A": {"central": True}, "B": {"root": url, "endpoint": server}})
    assert not (tmp_path / "no" / "lake.yaml").exists()


def test_wrong_credentials_are_one_line_without_the_secret(
    tmp_path: Path, server: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DRP_B_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(LakeError) as caught:
        Lake.create(tmp_path / "no", {"A": {"central": True}, "B": {"root": url, "endpoint": server}})
    said = str(caught.value)
    assert "credentials" in said and "\n" not in said
    assert "not-the-secret" not in said and os.environ["AWS_SECRET_ACCESS_KEY"] not in said


def test_a_store_without_conditional_put_is_refused(server: str, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import obstore

    put = obstore.put
    monkeypatch.setattr(obstore, "put", lambda store, name, data, mode=None: put(store, name, data))
    with pytest.raises(StoreError, match="no conditional put"):
        ObjectPath.root(url, server).claim()


def test_tables_are_written_and_read(lake: Lake) -> None:
    site = lake.site("B")
    assert delta.append(site, "detector", rows([1, 2]), ("app", 1))
    assert not delta.append(site, "detector", rows([1, 2]), ("app", 1)), "the same transaction again"
    assert delta.append(site, "detector", rows([3]))
    with delta.connect() as con:
        delta.view(con, site, "detector")
        assert con.execute("SELECT list(detector ORDER BY detector) FROM detector").fetchall() == [([1, 2, 3],)]
    assert query.query(lake, 'SELECT count(*) AS n FROM "B".detector')["n"].to_pylist() == [3]
    with pytest.raises(query.QueryError, match="only the lake's own files"):
        query.query(lake, "SELECT * FROM read_text('s3://drp-test/elsewhere.txt')")
    version, added = delta.added_since(site, "detector", 1)
    assert version == 2 and len(added) == 1 and access.at(added[0]).is_file()


def test_writers_that_race_lose_nothing(lake: Lake) -> None:
    site = lake.site("B")
    delta.append(site, "detector", rows([0]))

    def write(first: int) -> None:
        for number in range(first, first + 5):
            delta.append(site, "detector", rows([number]))

    threads = [threading.Thread(target=write, args=(1 + 5 * n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with delta.connect() as con:
        delta.view(con, site, "detector")
        found = [row[0] for row in con.execute("SELECT detector FROM detector ORDER BY 1").fetchall()]
    assert found == list(range(16))


def test_upkeep(lake: Lake) -> None:
    site = lake.site("B")
    for n in range(45):
        delta.append(site, "detector", rows([n]), ("writer", n + 1))
    (site.root / "files" / "x.tmp").write_bytes(b"unfinished, and young")
    assert upkeep.compact(site, "detector") == 45
    assert upkeep.sweep(site, "detector") == (0, 0) and upkeep.sweep(site, "detector", hours=0)[0] == 45
    assert upkeep.cut_log(site, "detector", hours=0) == 20
    upkeep.tend(site)
    assert janitor.clean(site) == [] and len(janitor.clean(site, older_than=-5)) == 1
    assert len(delta.files(site, "detector")) == 1 and delta.transaction_version(site, "detector", "writer") == 45
    with delta.cursor() as con:
        found = con.execute(f"SELECT detector FROM ({delta.select(site, 'detector')}) ORDER BY 1").fetchall()
    assert [row[0] for row in found] == list(range(45))


def test_large_files_divide_the_sky(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site, table = lake.site("B"), "visit_detector_patch"
    monkeypatch.setattr(division, "SMALL", 1)
    monkeypatch.setattr(division, "FULL", 30)
    monkeypatch.setattr(File, "weight", property(lambda file: file.rows))
    monkeypatch.setattr("lake.parquet.ROW_GROUPS", {table: 5})
    row = {"instrument": "Cam", "detector": 0, "skymap": "sky", "patch": 0}
    for n in range(8):
        night = [row | {"visit": 20 * n + i, "tract": 7 * i} for i in range(20)]
        delta.append(site, table, pa.Table.from_pylist(night, schema=schemas.table(table).arrow))
    assert division.divide(site, table) > 8
    for path in delta.files(site, table):
        part = division.part_of(path)
        with delta.cursor() as con:
            least, most = con.execute(f"SELECT min(tract), max(tract) FROM ({delta.scan(table, [path])})").fetchall()[0]
        assert part is not None and part.range.start <= least and most < part.range.stop
    with delta.cursor() as con:
        found = con.execute(f"SELECT visit, tract FROM ({delta.select(site, table)}) ORDER BY ALL").fetchall()
    assert found == [(20 * n + i, 7 * i) for n in range(8) for i in range(20)] and upkeep.sweep(site, table, hours=0)[0] > 8


def test_files_are_never_overwritten(lake: Lake, tmp_path: Path) -> None:
    site: Site = lake.site("B")
    first = datastore.write_file(site, "files/r/t/x.json", b"{}")
    assert datastore.write_file(site, "files/r/t/x.json", b"{}") == first
    other = datastore.write_file(site, "files/r/t/x.json", lambda path: path.write_text("[]") and None)
    assert "~" in other.path and site.path(first.path).read_bytes() == b"{}"
    assert datastore.check(site, first.path, first.bytes, first.checksum) is None
    (tmp_path / "given").write_bytes(b"given")
    for mode in ("copy", "link", "move"):
        datastore.put_file(site, tmp_path / "given", f"files/r/t/{mode}.bin", mode)
        assert site.path(f"files/r/t/{mode}.bin").read_bytes() == b"given"
    assert not (tmp_path / "given").exists()
    site.path(first.path).write_bytes(b"{]")
    assert str(datastore.check(site, first.path, first.bytes, first.checksum)).startswith("damaged")
    site.path(first.path).unlink()
    assert str(datastore.check(site, first.path, first.bytes)).startswith("lost")
