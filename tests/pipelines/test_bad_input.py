"""Bad input to the real command: one clear line on stderr, the right exit code, no traceback, and nothing changed."""

from __future__ import annotations

import hashlib
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from test_ingest_raws import science

from lake.site import Lake
from pipelines.lease import Lease

ROOT = Path(__file__).parents[2]
DRP = [sys.executable, "-c", "from pipelines.cli import main; main()"]
SITES = {"USDF": {"central": True}, "FRDF": {}}


def drp(*words: object, **given: object) -> tuple[int, str, str]:
    """The command in a process of its own: exit code, stdout, stderr without the lines of progress."""
    done = subprocess.run(
        [*DRP, *map(str, words)], capture_output=True, text=True, timeout=240, cwd=ROOT, **given,  # type: ignore[call-overload]
    )  # fmt: skip
    return done.returncode, done.stdout, "".join(line for line in done.stderr.splitlines(True) if not line.startswith("["))


def digest(root: Path) -> dict[str, str]:
    """sha256 of every file below a directory, but those of locks."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".lock" not in path.parts
    }


def one_line(error: str, *words: str) -> None:
    assert error.count("\n") == 1 and error.startswith("drp: "), error
    assert [word for word in words if word not in error] == [], error


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake in which the tiny campaign has its inputs, and two images of step 1; for reading only."""
    root = tmp_path_factory.mktemp("ready") / "lake"
    Lake.create(root, SITES)
    code, _, error = drp("run", root, "tiny", "--step", "step1", "--site", "USDF")
    assert code == 0, error
    return root


@pytest.fixture
def lake(tmp_path: Path) -> Path:
    return Lake.create(tmp_path / "lake", SITES).root


CAMPAIGN = (ROOT / "pipelines" / "campaigns" / "tiny.yaml").read_text()


@pytest.mark.parametrize(
    ("old", "new", "code", "words"),
    [
        ("instrument:", "instrumnet:", 2, ["changed.yaml:5: unknown key 'instrumnet'"]),
        ("TinyCam", "NoCam", 2, ["no instrument 'NoCam'", "TinyCam"]),
        ("tiny_rings", "flat_earth", 2, ["flat_earth", "known"]),
        ("9470]", "94700000]", 2, ["sites.FRDF.tracts: unknown tract 94700000"]),
        ("FRDF:", "MARS:", 2, ["no site 'MARS'", "USDF, FRDF"]),
        ("USDF:", "LANCS:", 2, ["no site 'LANCS'", "USDF, FRDF"]),
        ("  seed:", "  sead:", 2, ["sead"]),
        ("  bands: [r]", "  bands: [z]", 2, ["simulate.sky", "band 'z'"]),
        ("simulate:", "raws: {MARS: [a.fits]}\nsimulate:", 2, ["no site 'MARS'"]),
        ("workers: 1", "config: {isr: {saturation_growth: 3}}", 2, ["config.isr", "unknown setting 'saturation_growth'"]),
        ("workers: 1", "config: {fit_astrometry: {ordre: 3}}", 2, ["config.fit_astrometry", "unknown setting 'ordre'"]),
        ("workers: 1", "config: {isr: {minimum_flat: much}}", 2, ["config.isr.minimum_flat: 'much' is not a number"]),
        ("workers: 1", "config: {make_visit_tables: {a: 1}}", 2, ["config.make_visit_tables", "known settings: none"]),
        ("sites:", "sites: [", 2, ["not YAML", "line"]),
    ],
)
def test_campaigns_that_cannot_be(lake: Path, tmp_path: Path, old: str, new: str, code: int, words: list[str]) -> None:
    file = tmp_path / "changed.yaml"
    assert old in CAMPAIGN
    file.write_text(CAMPAIGN.replace(old, new, 1))
    before = digest(lake)
    found, out, error = drp("run", lake, file)
    assert (found, out) == (code, "")
    one_line(error, *words)
    assert digest(lake) == before


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["status", "{lake}", "--site", "MARS"], 2, ["no site 'MARS'", "USDF, FRDF"]),
        (["run", "{lake}", "--site", "MARS"], 2, ["no site 'MARS'"]),
        (["run", "{lake}", "--step", "step99"], 2, ["unknown step 'step99'", "step2c"]),
        (["run", "{lake}", "--campaign", "other"], 2, ["no campaign 'other'", "tiny"]),
        (["run", "{lake}/nowhere", "tiny"], 2, ["is not a lake", "drp init"]),
        (["run", "{lake}", "nosuch.yaml"], 2, ["nosuch.yaml: cannot read the campaign file"]),
        (["accept", "{lake}", "step7"], 2, ["step7 has not started"]),
        (["audit", "{lake}", "MARS"], 2, ["no site 'MARS'"]),
        (["sql", "{lake}", "DELETE FROM dataset"], 2, []),
        (["sql", "{lake}", "COPY (SELECT 1) TO '{lake}/x.csv'"], 2, []),
        (["sql", "{lake}", "SELECT * FROM read_csv('/etc/passwd')"], 2, []),
        (["sql", "{lake}", "CREATE TABLE t AS SELECT 1"], 2, []),
        (["sql", "{lake}", "SELECT nosuch FROM dataset"], 2, ["nosuch"]),
        (["frobnicate"], 2, ["no such command 'frobnicate'"]),
        (["init", "{lake}", "--sites", "{lake}/lake.yaml"], 2, ["is already a lake"]),
    ],
)
def test_misuse(ready: Path, words: list[str], code: int, said: list[str]) -> None:
    before = digest(ready)
    found, out, error = drp(*(word.format(lake=ready) for word in words))
    assert (found, out) == (code, ""), error
    one_line(error, *said)
    assert digest(ready) == before


def test_frames_that_cannot_be_read(lake: Path, tmp_path: Path) -> None:
    """Each file that is refused gets its line; the good one goes in."""
    (good,) = science(tmp_path, detectors=(0,))
    (keyless,) = science(tmp_path, detectors=(1,), AIRMASS=None)
    text, cut = tmp_path / "text.fits", tmp_path / "cut.fits"
    text.write_text("this is not FITS")
    cut.write_bytes(good.read_bytes()[:20000])
    before = digest(lake)
    bad = [keyless, text, cut, tmp_path / "absent.fits"]
    given = ("--campaign", "x", "--instrument", "TinyCam", "--skymap", "tiny_rings")
    code, _, error = drp("ingest-raws", lake, "FRDF", *bad, *given)
    assert code == 1 and "Traceback" not in error
    lines = error.splitlines()
    assert len(lines) == 5 and lines[-1] == "FRDF: 4 files: 4 rejected"
    for line, path, word in zip(lines, bad, ("AIRMASS", "FITS", "", "could not open"), strict=False):
        assert line.startswith(f"{path}: rejected: ") and word in line, line
    assert {p for p in digest(lake) if p not in before and "/files/" in f"/{p}"} == set()
    code, _, error = drp("ingest-raws", lake, "FRDF", good, *bad, *given)
    assert code == 1 and error.splitlines()[-1] == "FRDF: 5 files: 1 accepted, 4 rejected"


def test_a_second_driver(ready: Path) -> None:
    with Lease(Lake.open(ready), "tiny"):
        before = digest(ready)
        code, out, error = drp("run", ready)
        assert (code, out) == (1, "") and digest(ready) == before
        one_line(error, "campaign tiny is driven by", f"pid {os.getpid()}", "lease until")


# -- storage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a small file system (and mounts it anew with other options); skipped where that is not allowed."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options: str) -> Path:
        kind = ["-t", "tmpfs"] if "remount" not in options else []
        done = subprocess.run(["mount", *kind, "-o", options, "tmpfs", str(place)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
        return place

    yield mount
    subprocess.run(["umount", str(place)], capture_output=True)


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("size", ["64k", "400k"])
def test_a_disk_with_no_room_to_begin(disk: Callable[[str], Path], size: str) -> None:
    root = Lake.create(disk(f"size={size}") / "lake", SITES).root
    code, out, error = drp("run", root, "tiny", "--through", "step1")
    assert (code, out) == (1, ""), error
    one_line(error, "USDF", "No space left on device")


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="only root may mount a small disk")
@pytest.mark.parametrize("size", ["5m"])
def test_a_disk_that_fills_up_on_the_way(disk: Callable[[str], Path], size: str) -> None:
    """Which site's thread meets the full disk, and in which step, is chance; that nothing is lost is not."""
    root = Lake.create(disk(f"size={size}") / "lake", SITES).root
    code, _, error = drp("run", root, "tiny", "--through", "step1")
    lines = error.splitlines()  # one per site that met it
    assert code == 1 and 1 <= len(lines) <= len(SITES), error
    assert all(re.search(r"^(drp|tiny): site (USDF|FRDF): .*No space left on device", line) for line in lines), error
    disk("remount,size=100m")
    assert drp("run", root, "tiny", "--through", "step1")[0] == 0
    audited = drp("audit", root, "--deep")[2]
    assert audited.count(" 0 lost, 0 damaged") == len(SITES), audited
    assert (
        drp(
            "sql", root, "SELECT count(*) AS n FROM quantum_state WHERE step = 'step1' AND state <> 'succeeded'", "--format", "csv"
        )[1]
        == "n\n0\n"
    )


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_site_whose_disk_is_full_stops_alone_and_goes_on_when_there_is_room(disk: Callable[[str], Path], lake: Path) -> None:
    place = disk("size=3m")
    shutil.move(lake / "FRDF", place / "FRDF")
    (lake / "FRDF").symlink_to(place / "FRDF")
    code, out, error = drp("run", lake, "tiny", "--through", "step2b")
    assert code == 1 and "quanta run" in out, error
    assert error.count("\n") == 1 and error.startswith("tiny: site FRDF: ") and "No space left on device" in error
    code, out, _ = drp("status", lake, "--format", "csv")
    assert "step2b,USDF,accepted" in out and "step1,FRDF,accepted" not in out
    disk("remount,size=100m")
    code, out, error = drp("run", lake, "--through", "step2b")
    assert code == 0, error
    assert "step2b,FRDF,accepted" in drp("status", lake, "--format", "csv")[1]
    assert drp("audit", lake, "--deep")[0] == 0


@pytest.mark.skipif(shutil.which("mount") is None or os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_read_only_lake(disk: Callable[[str], Path], ready: Path) -> None:
    root = Path(shutil.copytree(ready, disk("size=100m") / "lake"))
    before = digest(root)
    disk("remount,ro")
    for words in (("run", root), ("pause", root), ("accept", root, "step1"), ("audit", root), ("simulate", root, "tiny")):
        code, out, error = drp(*words)
        assert (code, out) == (1, ""), words
        one_line(error, "Read-only file system")
    assert drp("status", root)[0] == 0
    assert drp("sql", root, "SELECT count(*) AS n FROM dataset", "--format", "csv")[1].startswith("n\n")
    assert digest(root) == before


def test_files_that_may_not_grow(lake: Path) -> None:
    """As on a full disk, where no disk can be made: no file may exceed 8 kB."""
    code, out, error = drp(
        "run", lake, "tiny", "--through", "step1", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))
    )
    assert (code, out) == (1, ""), error
    one_line(error, "USDF", "File too large")


# -- interruption ------------------------------------------------------------------------------------------------------


def group(leader: int) -> list[int]:
    """Living processes of a process group."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, members = entry.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(members) == leader and state != "Z":
            found.append(int(entry.parent.name))
    return found


def test_an_interruption(lake: Path) -> None:
    """Ctrl-C while workers run: the running jobs end and are published, nothing stays behind, and one line says how to go on."""
    with subprocess.Popen(
        [*DRP, "run", str(lake), "tiny", "--through", "step2a"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "step1" in line:
                break
        time.sleep(2.0)
        os.killpg(process.pid, signal.SIGINT)
        _, error = process.communicate(timeout=60)
        deadline = time.monotonic() + 10
        while group(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert group(process.pid) == []
    assert process.returncode == 130 and error.strip() == "stopped; run the same command again to continue"
    code, _, error = drp("run", lake, "--through", "step2a")
    assert code == 0, error
    assert drp("audit", lake, "--deep")[0] == 0
