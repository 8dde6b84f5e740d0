"""Bringing files in: four modes, a verdict per row, the same call again, and a death at any point."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from small_lake import NIGHT, add_dimensions, make

from checks import audit
from lake import datastore, intake, janitor, registry
from lake.search import search
from lake.site import Lake, LakeError, Site

ROOT = Path(__file__).parents[2]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return make(tmp_path / "lake", 2, 3)


def given(folder: Path, count: int = 6, **columns: Any) -> pa.Table:
    """Files of their own content for visits 1 and 2 (3 detectors each), in ``folder``."""
    folder.mkdir(exist_ok=True)
    rows = []
    for n in range(count):
        source = folder / f"{n}.fits"
        if not source.exists():
            source.write_bytes(f"content {n}".encode() * 100)
        row = {
            "source": str(source),
            "dataset_type": "raw",
            "run": "c/raw",
            "instrument": "Cam",
            "exposure": 1 + n // 3,
            "detector": n % 3,
        }
        rows.append(row | {name: values[n] for name, values in columns.items()})
    return pa.Table.from_pylist(rows)


def verdicts(found: pa.Table) -> list[str]:
    return list(found["verdict"].to_pylist())


@pytest.mark.parametrize("mode", intake.MODES)
def test_every_mode(tmp_path: Path, lake: Lake, mode: intake.Mode) -> None:
    site = lake.central
    files = given(site.path("files/here") if mode == "direct" else tmp_path / "given")
    found = intake.take_in(site, files, mode)
    assert verdicts(found) == ["accepted"] * 6
    rows = search(lake, ["raw"]).to_pylist()
    assert [(r["visit"], r["band"], r["day_obs"]) for r in rows] == [(v, "r", 20260101) for v in (1, 1, 1, 2, 2, 2)], "filled in"
    assert sorted(r["path"] for r in rows) == sorted(found["path"].to_pylist())
    for n, row in enumerate(sorted(rows, key=lambda r: (r["visit"], r["detector"]))):
        assert datastore.check(site, row["path"], row["file_bytes"], row["file_checksum"]) is None
        source = Path(files["source"][n].as_py())
        assert source.exists() == (mode != "move")
        assert mode != "link" or source.samefile(site.path(row["path"]))
    assert verdicts(intake.take_in(site, files, mode)) == ["present"] * 6
    assert audit.audit(site).findings == [] and len(search(lake, ["raw"])) == 6


def test_one_bad_row_stops_no_other(tmp_path: Path, lake: Lake) -> None:
    site = lake.central
    sums = [None, "0" * 64, None, None, None, None]
    files = given(tmp_path / "given", checksum=sums, exposure=[1, 1, 1, 2, 2, 77])
    (tmp_path / "given" / "0.fits").unlink()
    found = intake.take_in(site, files)
    assert verdicts(found) == ["rejected", "rejected", "accepted", "accepted", "accepted", "parked"]
    reasons = found["reason"].to_pylist()
    assert reasons[0].endswith("0.fits: No such file or directory") and "was expected; the source is damaged" in reasons[1]
    assert reasons[5] == "exposure 77 is not known at USDF"
    old = found["path"][2].as_py()
    (tmp_path / "given" / "2.fits").write_bytes(b"other")
    again = intake.take_in(site, given(tmp_path / "given").slice(2, 1))
    assert verdicts(again) == ["rejected"] and old in again["reason"][0].as_py() and "2.fits has" in again["reason"][0].as_py()
    assert audit.audit(site).findings == [], "nothing is left of what was refused"


def test_what_waited_is_filled_in(tmp_path: Path, lake: Lake) -> None:
    """A raw of an exposure that is not known: what its records imply is known when they come."""
    files = given(tmp_path / "given", exposure=[1, 1, 1, 2, 2, 3])
    assert verdicts(intake.take_in(lake.central, files))[5] == "parked"
    add_dimensions(lake.central, range(3, 4), 3)
    assert registry.admit_parked(lake.central)["verdict"].to_pylist() == ["accepted"]
    rows = {(r["exposure"], r["visit"], r["physical_filter"], r["band"], r["day_obs"]) for r in search(lake, ["raw"]).to_pylist()}
    assert rows == {(v, v, "r_cam", "r", NIGHT) for v in (1, 2, 3)}


def test_other_content_at_the_name(tmp_path: Path, lake: Lake) -> None:
    site = lake.central
    found = intake.take_in(site, given(tmp_path / "given", 1).append_column("path", pa.array(["files/x/one.fits"])))
    row = given(tmp_path / "given", 2).slice(1, 1).append_column("path", pa.array(["files/x/one.fits"]))
    second = intake.take_in(site, row)
    assert verdicts(found) == verdicts(second) == ["accepted"]
    assert second["path"][0].as_py().startswith("files/x/one~") and site.path("files/x/one.fits").read_bytes().startswith(
        b"content 0"
    )


def at(folder: Path, path: str) -> pa.Table:
    """One file, with the path that it is to have."""
    return given(folder, 1).append_column("path", pa.array([path]))


@pytest.mark.parametrize("mode", ["copy", "move"])
def test_what_another_brought_meanwhile_is_where_that_one_put_it(
    tmp_path: Path, lake: Lake, monkeypatch: pytest.MonkeyPatch, mode: intake.Mode
) -> None:
    site, real = lake.central, intake._place
    first: list[pa.Table] = []

    def overtaken(*arguments: Any) -> None:
        """Another caller brings the dataset after this one looked for it."""
        monkeypatch.setattr(intake, "_place", real)
        first.append(intake.take_in(site, at(tmp_path / "first", "files/x/first.fits")))
        real(*arguments)

    monkeypatch.setattr(intake, "_place", overtaken)
    found = intake.take_in(site, at(tmp_path / "second", "files/x/second.fits"), mode)
    assert (verdicts(first[0]), verdicts(found)) == (["accepted"], ["present"])
    assert found["path"].to_pylist() == first[0]["path"].to_pylist() == ["files/x/first.fits"]
    assert not site.path("files/x/second.fits").exists() and audit.audit(site).findings == []


def test_twice_in_one_call_it_is_where_the_first_is(tmp_path: Path, lake: Lake) -> None:
    both = pa.concat_tables([at(tmp_path / "given", "files/x/first.fits"), at(tmp_path / "given", "files/x/second.fits")])
    found = intake.take_in(lake.central, both)
    assert verdicts(found) == ["accepted", "present"]
    assert found["path"].to_pylist() == ["files/x/first.fits"] * 2 and audit.audit(lake.central).findings == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"dataset_type": ["x"] * 6}, "dataset type x is not known"),
        ({"dataset_type": ["visit_table"] * 6}, "is a slice of a catalogue table"),
        ({"colour": ["x"] * 6}, "the column colour has no meaning here"),
        ({"run": [None] * 6}, "every file needs a value in the column run"),
        ({"detector": ["x"] * 6}, "Failed to parse string"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, lake: Lake, change: dict[str, Any], said: str) -> None:
    with pytest.raises(LakeError, match=said):
        intake.take_in(lake.central, given(tmp_path / "given", **change))
    assert not lake.central.path("files/c").exists()


@pytest.mark.parametrize("path", ["../x", "/etc/x", "files/../../x"])
def test_nothing_leaves_the_site(tmp_path: Path, lake: Lake, path: str) -> None:
    files = given(tmp_path / "given", 1, path=[path])
    assert verdicts(intake.take_in(lake.central, files)) == ["rejected"]
    outside = intake.take_in(lake.central, given(tmp_path / "given", 1), "direct")
    assert verdicts(outside) == ["rejected"] and "is not below" in outside["reason"][0].as_py()


WORK = """
import sys, pyarrow.parquet as pq
from lake import intake
from lake.site import Lake
print(sorted(set(intake.take_in(Lake.open(sys.argv[1]).central, pq.read_table(sys.argv[2]), "move")["verdict"].to_pylist())))
"""


@pytest.mark.parametrize(
    "point", ["intake:copied", "intake:named", "intake:placed", "registry:dataset", "intake:registered", "intake:moved:3"]
)
def test_killed_while_moving(tmp_path: Path, lake: Lake, point: str) -> None:
    import pyarrow.parquet as pq

    site: Site = lake.central
    files = given(tmp_path / "given")
    pq.write_table(files, tmp_path / "files.parquet")
    command = [sys.executable, "-c", WORK, lake.root, tmp_path / "files.parquet"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    died = subprocess.run(command, env={**environment, "DRP_FAULT": point}, capture_output=True, text=True)
    assert died.returncode == -signal.SIGKILL, died.stderr
    rows = {(r["visit"], r["detector"]): r for r in search(lake, ["raw"]).to_pylist()}
    for n, source in enumerate(files["source"].to_pylist()):
        row = rows.get((1 + n // 3, n % 3))
        assert Path(source).exists() or (
            row and datastore.check(site, row["path"], row["file_bytes"], row["file_checksum"]) is None
        )
    again = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert again.stdout in ("['accepted']\n", "['present']\n"), again.stderr
    assert len(search(lake, ["raw"])) == 6 and not any((tmp_path / "given").iterdir())
    left = audit.remove_orphans(site)  # rows that were written and never committed, nothing else
    assert all(path.startswith("tables/registry/dataset/dataset_type=raw/part-") for path in left), left
    assert [f for f in audit.audit(site).findings if ".tmp-" not in f.path] == []
    janitor.clean(site, older_than=-1)
    assert audit.audit(site).findings == [] and not list(site.root.rglob(".tmp-*"))
