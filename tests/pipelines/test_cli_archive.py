"""drp archive, drp publish: what they print, and their exit codes."""

from __future__ import annotations

import json
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "lake"))

import small_lake

from lake.site import Lake
from pipelines import cli
from pipelines.cli import archive

Drp = Callable[..., tuple[int, str, str]]


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return small_lake.make(tmp_path / "lake", raws=True)


@pytest.fixture
def drp(capfdbinary: pytest.CaptureFixture[bytes]) -> Drp:
    """Runs the command line here; returns (exit code, stdout, stderr)."""

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            cli.main([str(argument) for argument in arguments])
        captured = capfdbinary.readouterr()
        return end.value.code or 0, captured.out.decode("latin-1"), captured.err.decode()

    return run


def test_archive_list_read_verify_recall(lake: Lake, drp: Drp, tmp_path: Path) -> None:
    code, out, err = drp("archive", lake.root, "--types", "raw", "--target-size", "5kB", "--format", "json")
    made = json.loads(out)
    assert (code, [b["members"] for b in made]) == (0, [3, 3]) and "6 files in 2 new bundles" in err
    assert drp("archive", lake.root, "--format", "json")[:2] == (0, "[]\n")
    code, out, _ = drp("archive", lake.root, "--list", "--format", "json")
    assert [(b["path"], b["state"]) for b in json.loads(out)] == [(b["path"], "stored") for b in made]
    path = min(lake.central.root.glob("files/c/**/*.fits"))
    name, content = lake.central.relative(path), path.read_bytes()
    assert drp("archive", lake.root, "--read", name, "-o", tmp_path / "one.fits")[0] == 0
    assert (tmp_path / "one.fits").read_bytes() == content
    assert drp("archive", lake.root, "--read", name, "-o", "-")[1] == content.decode("latin-1")
    path.unlink()
    code, out, err = drp("archive", lake.root, "--recall", "--where", "visit = 1", "--format", "json")
    assert code == 0 and [row["path"] for row in json.loads(out)] == [name] and path.read_bytes() == content
    assert "1 files recalled, 2 were there whole, 0 failed; datasets: 3 present" in err
    assert drp("archive", lake.root, "--verify")[0] == 0
    lake.central.path(made[0]["path"]).unlink()
    code, out, _ = drp("archive", lake.root, "--verify", "--format", "json")
    assert code == 1 and sorted(b["state"] for b in json.loads(out)) == ["lost", "stored"]


def test_to_a_directory(lake: Lake, drp: Drp, tmp_path: Path) -> None:
    (tmp_path / "tape").mkdir()
    assert drp("archive", lake.root, "USDF", "--to", tmp_path / "tape")[0] == 0
    [bundle] = (tmp_path / "tape").rglob("*.zip")
    assert len(zipfile.ZipFile(bundle).namelist()) == 8
    assert drp("archive", lake.root, "--to", "FRDF")[0] == 0, "a second copy, at a site"
    assert list(lake.site("FRDF").root.glob("files/archive/*/*.zip"))


def test_what_is_not_as_registered_is_said(lake: Lake, drp: Drp) -> None:
    lost = min(lake.central.root.glob("files/**/*.fits"))
    lost.unlink()
    code, _, err = drp("archive", lake.root)
    assert code == 1 and f"{lake.central.relative(lost)}: is not in storage; not archived" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--types", "rau"), "'rau' is not known; known: flat, raw"),
        (("--types", ","), "is not known"),
        (("--where", "vist = 1"), "vist"),
        (("--target-size", "big"), "not a size"),
        (("--target-size", "0"), "not a size"),
        (("--to", "MARS"), "MARS is no site and no directory"),
        (("--list", "--verify"), "choose one"),
        (("--read", "x"), "--read needs -o"),
        (("-o", "x"), "-o needs --read"),
        (("--read", "files/x", "-o", "y"), "files/x is not in the archive"),
        (("MARS",), "no site 'MARS'"),
    ],
)
def test_misuse_is_one_line(lake: Lake, drp: Drp, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = drp("archive", lake.root, *arguments)
    assert code in (1, 2) and out == "" and said in err and len(err.strip().splitlines()) == 1
    assert not list(lake.central.root.glob("files/archive/*"))


def test_sizes() -> None:
    assert [archive.size(text) for text in ("1GB", "1.5 MB", "2GiB", "700")] == [10**9, 1_500_000, 2 * 2**30, 700]


def test_publish_list_manifest_withdraw(lake: Lake, drp: Drp) -> None:
    code, out, _ = drp("publish", lake.root, "DP1", "--to", "FRDF", "--types", "raw", "--where", "visit = 1", "--format", "json")
    [row] = json.loads(out)
    assert (code, row["state"], row["datasets"], row["bytes"]) == (0, "published", 3, 6000) and "@" in row["who"]
    code, out, _ = drp("publish", lake.root, "DP1", "--to", "FRDF", "--manifest", "--format", "csv")
    assert code == 0 and out.splitlines()[0] == "dataset_type,dataset_id,path,bytes,sha256" and len(out.splitlines()) == 4
    assert json.loads(drp("publish", lake.root, "--format", "json")[1])[0]["release"] == "DP1"
    code, out, _ = drp("publish", lake.root, "DP1", "--to", "FRDF", "--withdraw", "--why", "wrong", "--format", "json")
    assert code == 0 and [(r["state"], r["why"]) for r in json.loads(out)] == [("withdrawn", "wrong")]
    assert drp("prune", lake.root, "FRDF", "--empty", "--older-than", "0", "--yes")[0] == 0
    assert not list(lake.site("FRDF").root.glob("files/**/*.fits"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("DP1",), "--to: name the distribution site"),
        (("DP1", "--to", "IDAC"), "To add one, write 'IDAC: {}' under 'sites:'"),
        (("DP1", "--to", "USDF"), "source and destination are both USDF"),
        (("DP1", "--to", "FRDF", "--types", "rau"), "'rau' is not known at USDF"),
        (("DP1", "--to", "FRDF", "--tracts", "x"), "must be tract numbers"),
        (("DP1", "--to", "FRDF", "--collection", "dp9"), "no collection 'dp9'"),
        (("DP1", "--to", "FRDF", "--where", "false"), "has no dataset of this choice"),
        (("DP1", "--to", "FRDF", "--manifest"), "no release 'DP1' at FRDF"),
        (("DP1", "--to", "FRDF", "--withdraw"), "no release 'DP1' at FRDF; there are: none"),
        (("--withdraw",), "name the RELEASE"),
    ],
)
def test_publish_misuse_is_one_line(lake: Lake, drp: Drp, arguments: tuple[str, ...], said: str) -> None:
    code, out, err = drp("publish", lake.root, *arguments)
    assert (code, out) == (2, "") and said in err and len(err.strip().splitlines()) == 1
