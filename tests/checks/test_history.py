"""The registry between two points in time, and a listing made in between."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner, Result
from paper_lake import files

import schemas
from checks import audit, history, storage
from lake import delta, upkeep
from lake.site import Lake, LakeError, Site
from pipelines.cli import cli


def drp(*words: object) -> Result:
    return CliRunner().invoke(cli, [str(word) for word in words])


def rows(site: Site, kind: str) -> pa.Table:
    with delta.connect() as con:
        found = con.sql(f"FROM ({delta.select(site, 'dataset')}) WHERE dataset_type = '{kind}'").to_arrow_table()
    return schemas.conform("dataset", found)


def forget(site: Site, kind: str) -> int:
    """Take a dataset type's rows out of the registry behind everybody's back; returns how many they were."""
    count = rows(site, kind).num_rows
    root = site.table_path("dataset")
    parts = [Path(p).relative_to(root).as_posix() for p in delta.files(site, "dataset", f"dataset_type = '{kind}'")]
    assert delta.remove_files(site, "dataset", parts) > 0
    return count


def test_what_appeared_and_what_is_gone(lake: Lake) -> None:
    site = lake.central
    before = delta.version(site, "dataset")
    count = forget(site, "visit_image")
    found = history.between(site, str(before), "now")
    assert found.counts == {"appeared": 0, "removed": 0, "gone": count, "changed": 0, "lost": 0, "dark": 0} and not found.ok
    assert set(found.changes["dataset_type"].to_pylist()) == {"visit_image"}
    start = history.between(site, "0", str(before))
    assert start.ok and start.counts["appeared"] == count + sum(storage.registered(site)["datasets"].to_pylist())
    assert history.between(site, "now", "now").counts["appeared"] == 0


def test_maintenance_changes_nothing(lake: Lake) -> None:
    site = lake.central
    before = delta.version(site, "dataset")
    with site.lock():
        assert upkeep.compact(site, "dataset", at_least=2) > 1
    assert sum(history.between(site, str(before), "now").counts.values()) == 0
    assert upkeep.sweep(site, "dataset", hours=0)[0] > 0
    with pytest.raises(LakeError, match=f"registry's version {before} were removed"):
        history.between(site, str(before), "now")


def test_other_content_is_a_change(lake: Lake) -> None:
    site = lake.central
    held = rows(site, "survey_metric")
    before = delta.version(site, "dataset")
    forget(site, "survey_metric")
    other = held.set_column(held.column_names.index("checksum"), "checksum", pa.array(["0" * 64] * held.num_rows))
    delta.append(site, "dataset", schemas.conform("dataset", other))
    found = history.between(site, str(before), "now")
    assert found.counts["changed"] == held.num_rows and found.counts["gone"] == found.counts["appeared"] == 0
    assert "had the checksum" in found.changes["reason"][0].as_py()


def test_a_listing_between_two_moments(lake: Lake, tmp_path: Path) -> None:
    site = lake.central
    listed = storage.listing(site).select(["path", "bytes"])
    now = str(delta.version(site, "dataset"))
    assert history.between(site, now, now, listed).ok
    gone, late = files(site, "raw")[0], rows(site, "survey_metric")
    forget(site, "survey_metric")  # as if it were not there yet
    early = str(delta.version(site, "dataset"))
    delta.append(site, "dataset", late)
    keep = [p for p in listed["path"].to_pylist() if p not in (gone, late["path"][0].as_py())]
    with (tmp_path / "dump.csv").open("w") as file:
        writer = csv.writer(file)
        writer.writerows([("path", "bytes"), *((p, 1) for p in keep), ("files/paper/stray.fits", 3)])
    done = drp("audit", lake.root, site.name, "--between", early, "now", "--listing", tmp_path / "dump.csv", "--format", "json")
    assert done.exit_code == 1, done.output
    found = {(row["state"], row["path"]) for row in json.loads(done.stdout) if row["state"] != "appeared"}
    assert found == {("lost", gone), ("dark", "files/paper/stray.fits")}  # what was registered meanwhile is neither
    assert "1 lost, 1 dark" in done.stderr


def test_what_comes_and_goes_while_we_look_is_neither_lost_nor_orphan(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    site = lake.central
    late, path = rows(site, "survey_metric"), files(site, "visit_image")[0]
    forget(site, "survey_metric")
    listing = storage.listing

    def meanwhile(member: Site) -> pa.Table:
        found = listing(member)
        delta.append(site, "dataset", late)  # registered after its file was listed
        forget(site, "visit_image")  # and others taken out, whose files were listed and go
        for row in rows_before:
            site.path(row).unlink(missing_ok=True)
        return found

    rows_before = set(rows(site, "visit_image")["path"].to_pylist())
    assert path in rows_before
    monkeypatch.setattr(storage, "listing", meanwhile)
    wrong = audit.quick(site)
    assert [f for f in wrong if f.path in rows_before or f.path in late["path"].to_pylist()] == []


def test_moments_that_cannot_be_had_are_refused_in_one_line(lake: Lake) -> None:
    site = lake.central
    for words, said in (
        (("99999", "now"), "no version 99999"),
        (("now", "0"), "give the earlier one first"),
        (("yesterday", "now"), "neither a version"),
    ):
        with pytest.raises(LakeError, match=said):
            history.between(site, *words)
    assert history.between(site, "2000-01-01", "now").first.version == 0
    assert drp("audit", lake.root, "--between", "0", "now", "--deep").exit_code == 2
    assert drp("audit", lake.root, "--budget", "10m").exit_code == 2
    assert "write 90s, 10m or 2h" in drp("audit", lake.root, "--deep", "--budget", "soon").stderr
    assert drp("audit", lake.root, "--between", "0", "now", "--listing", site.root.parent / "lake.yaml").exit_code == 2
