"""Storage that loses, cuts and alters files: the audit names each, the ledger says no, and the next run makes it good."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from campaign_state import Finished, content, drp, violations

from lake import delta
from lake.site import Lake, Site


@pytest.fixture
def lake(finished: Finished, tmp_path: Path) -> Lake:
    return Lake.open(shutil.copytree(finished.root, tmp_path / "lake"))


def a_file(site: Site, dataset_type: str, shared: bool = True) -> Path:
    """A registered file of a type that the other site has too, or does not have (it has another path there, same content)."""
    (other,) = [s for s in site.lake.sites.values() if s.name != site.name]
    with delta.connect() as con:
        con.execute(f"CREATE TEMP VIEW theirs AS {delta.select(other, 'dataset')}")
        con.execute(f"CREATE TEMP VIEW mine AS {delta.select(site, 'dataset')}")
        theirs = f"file_checksum {'' if shared else 'NOT '}IN (SELECT file_checksum FROM theirs)"
        ((path,),) = con.execute(f"SELECT min(path) FROM mine WHERE dataset_type = '{dataset_type}' AND {theirs}").fetchall()
    return site.path(path)


def flip(path: Path) -> None:
    """Change one bit in the middle of a file; its size and time stay."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def audit(lake: Lake, *options: str) -> tuple[int, dict[tuple[str, str], str]]:
    """Exit code, and the state by (site, path)."""
    done = drp("audit", lake.root, "--format", "json", *options)
    return done.returncode, {(row["site"], row["path"]): row["state"] for row in json.loads(done.stdout)}


def test_found_named_and_healed(lake: Lake, finished: Finished) -> None:
    usdf, frdf = lake.site("USDF"), lake.site("FRDF")
    lost_image = a_file(frdf, "post_isr_image", shared=False)  # nobody else has it: its quantum is run again
    lost_raw = a_file(frdf, "raw")
    lost_slice = a_file(frdf, "preliminary_detector_summary", shared=False)  # of a job of two quanta
    cut = a_file(frdf, "object")  # came home
    altered_image = a_file(usdf, "visit_image")  # made at both sites, alike
    altered_slice = a_file(frdf, "photo_calib")
    stray = frdf.path("files/tiny/step1/post_isr_image/20260910/stray.fits")
    for path in (lost_image, lost_raw, lost_slice):
        path.unlink()
    os.truncate(cut, cut.stat().st_size // 2)
    flip(altered_image)
    flip(altered_slice)
    stray.write_bytes(b"stray")

    wanted = {
        ("FRDF", frdf.relative(lost_image)): "lost",
        ("FRDF", frdf.relative(lost_raw)): "lost",
        ("FRDF", frdf.relative(lost_slice)): "lost",
        ("FRDF", frdf.relative(cut)): "damaged",
        ("FRDF", frdf.relative(stray)): "orphan",
    }
    assert audit(lake) == (1, wanted), "a listing sees what is missing or has another size"
    wanted |= {("USDF", usdf.relative(altered_image)): "damaged", ("FRDF", frdf.relative(altered_slice)): "damaged"}
    assert audit(lake, "--deep") == (1, wanted)
    ledger = drp("ledger", lake.root)
    assert ledger.returncode == 1 and "NOT reconciled" in ledger.stderr

    healing = drp("run", lake.root)
    assert healing.returncode == 0, healing.stderr
    assert set(healing.stdout.splitlines()) == {
        "USDF: fetched 1 files again from other sites",
        "FRDF: fetched 3 files again from other sites",
        "FRDF: ran 3 quanta again to remake what was lost",
        "tiny: nothing else to do, everything is in place",
    }, healing.stdout
    assert audit(lake, "--deep") == (1, {("FRDF", frdf.relative(stray)): "orphan"})
    ledger = drp("ledger", lake.root)
    assert ledger.returncode == 0, ledger.stderr
    assert drp("audit", lake.root, "--remove-orphans").returncode == 0 and not stray.exists()
    assert audit(lake, "--deep") == (0, {})
    assert violations(lake.root) == []
    assert content(lake.root) == finished.content


def test_what_cannot_be_brought_back_is_said(lake: Lake) -> None:
    """A raw that both sites lost: the run names it and fails, and so does the ledger, until somebody finds a copy."""
    usdf, frdf = lake.site("USDF"), lake.site("FRDF")
    raw = a_file(frdf, "raw")
    kept = raw.read_bytes()
    raw.unlink()
    usdf.path(frdf.relative(raw)).unlink()
    done = drp("run", lake.root)
    assert done.returncode == 1
    lines = [line for line in done.stderr.splitlines() if "is lost for good" in line]
    assert [line.split()[1] for line in lines] == ["USDF:", "FRDF:"] and all(frdf.relative(raw) in line for line in lines)
    assert drp("ledger", lake.root).returncode == 1
    usdf.path(frdf.relative(raw)).write_bytes(kept)
    done = drp("run", lake.root)
    assert done.returncode == 0 and "FRDF: fetched 1 files again from other sites" in done.stdout, done.stderr
    assert drp("ledger", lake.root).returncode == 0
