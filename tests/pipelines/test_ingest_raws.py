"""Ingesting raw frames: every file gets its verdict, bad ones stop no other, and doing it twice changes nothing."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from lake import delta, dimensions
from lake.site import Lake
from pipelines import campaign as campaigns
from pipelines import master_frames
from pipelines.cli.ingest_raws import command
from pipelines.image import Image
from pipelines.ingest_raws import Verdict, ingest_raws
from pipelines.instrument import load
from pipelines.raw import write_raw
from pipelines.simulate import electronics, exposure, survey

TARGET = SimpleNamespace(name="real", instrument="TinyCam", skymap="tiny_rings")
PLAN = survey.plan(survey.mapping(campaigns.read("tiny")))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.create(tmp_path / "lake", {"A": {"central": True}, "B": {}})


def science(folder: Path, visit: int = 0, detectors: tuple[int, ...] = (0, 1), **changes: object) -> list[Path]:
    """Raw files of a visit of the tiny campaign; ``changes`` replace header keys (None takes one out)."""
    paths = []
    for detector in detectors:
        pixels, header = exposure.render(PLAN, PLAN.visits[visit], detector)
        header = {k: v for k, v in (header | changes).items() if v is not None}
        path = folder / f"v{visit}d{detector}{'x' * len(changes)}.fits"
        write_raw(path, pixels, header)
        paths.append(path)
    return paths


def calibration(folder: Path, kind: str, number: int, detector: int = 0) -> Path:
    """A bias, dark (100 s) or flat (level 20000 ADU) of TinyCam, at 1000 ADU."""
    camera = load("TinyCam")
    rng = np.random.default_rng([number, detector])
    level = {"bias": 0.0, "dark": 50.0, "flat": 20000.0 * (1.0 + 0.2 * detector)}[kind]
    response = np.ones((200, 200)) if kind != "flat" else electronics.response(PLAN, 20260910, "r_tiny", detector)
    frame = np.full(camera.detector(detector).raw_shape, 1000.0 + number) + rng.normal(0, 4, (200, 216))
    frame[:, :200] += level * response + 30.0 + rng.normal(0, 1, (200, 200))
    frame[50, 60] += 4000.0 if kind != "bias" else 0.0
    begin = PLAN.visits[0].mjd_mid
    header = {
        "EXPID": 26091090000 + 100 * {"bias": 0, "dark": 1, "flat": 2}[kind] + number, "DAYOBS": 20260910,
        "SEQNUM": number,
        "DETECTOR": detector, "IMGTYPE": kind, "EXPTIME": {"bias": 0.0, "dark": 100.0, "flat": 2.0}[kind],
        "MJD-MID": begin, "FILTER": "r_tiny",
    }  # fmt: skip
    path = folder / f"{kind}{number}d{detector}.fits"
    write_raw(path, np.rint(frame).astype(np.uint16), header)
    return path


def states(verdicts: list[Verdict]) -> list[str]:
    return [v.verdict for v in verdicts]


def rows(lake: Lake, table: str, select: str) -> list[tuple]:
    with delta.connect() as con:
        delta.relation(con, lake.site("B"), table).create_view("t")
        return con.sql(f"SELECT {select} FROM t ORDER BY ALL").fetchall()


def test_frames_go_in_once(lake: Lake, tmp_path: Path) -> None:
    files = science(tmp_path) + science(tmp_path, visit=1)
    site = lake.site("B")
    assert states(ingest_raws(lake, site, files, TARGET)) == ["accepted"] * 4
    assert states(ingest_raws(lake, site, files, TARGET)) == ["present"] * 4
    visits = [v.visit for v in PLAN.visits[:2]]
    assert rows(lake, "dataset", "visit, detector, run, day_obs, band") == [
        (v, d, "real/raw", 20260910, "r") for v in sorted(visits) for d in (0, 1)
    ]
    found = {(v, d): p for v, d, p in rows(lake, "dataset", "visit, detector, path")}
    assert site.path(found[(visits[0], 1)]).read_bytes() == files[1].read_bytes()
    assert rows(lake, "visit", "visit") == [(v,) for v in sorted(visits)]
    patches = rows(lake, "visit_detector_patch", "DISTINCT tract")
    assert (PLAN.visits[0].tract,) in patches and patches == rows(lake, "tract", "tract")


def test_same_records_as_the_simulator(lake: Lake, tmp_path: Path) -> None:
    """Frames that come as files and frames that are simulated in place leave the same dimension records."""
    from pipelines import registration
    from pipelines.raw import header_facts

    ingest_raws(lake, lake.site("B"), science(tmp_path), TARGET)
    camera = load("TinyCam")
    frames = [header_facts(exposure.header(PLAN, PLAN.visits[0], d), camera) for d in (0, 1)]
    expected = registration.dimension_records(camera, PLAN.skymap, frames)
    for table in dimensions.TABLES:
        assert dimensions.read(lake.site("B"), table).num_rows == expected[table].num_rows > 0, table
    assert dimensions.read(lake.site("B"), "visit_detector_region").equals(expected["visit_detector_region"])


def test_bad_files_stop_no_other(lake: Lake, tmp_path: Path) -> None:
    good = science(tmp_path)
    (tmp_path / "text.fits").write_text("not FITS")
    (tmp_path / "cut.fits").write_bytes(good[0].read_bytes()[:30000])
    (tmp_path / "other").mkdir()
    keyless = science(tmp_path / "other", visit=1, detectors=(0,), AIRMASS=None)
    unknown = science(tmp_path / "other", visit=2, detectors=(0,), FILTER="u_tiny")
    moved = science(tmp_path / "other", detectors=(1,), RA=3.0)
    files = [
        tmp_path / "text.fits",
        good[0],
        *keyless,
        tmp_path / "cut.fits",
        *unknown,
        good[1],
        tmp_path / "none.fits",
    ]
    found = ingest_raws(lake, lake.site("B"), files, TARGET)
    assert states(found) == ["rejected", "accepted", "rejected", "rejected", "rejected", "accepted", "rejected"]
    assert "header key AIRMASS" in str(found[2].reason) and "u_tiny" in str(found[4].reason)
    contradiction = ingest_raws(lake, lake.site("B"), moved, TARGET)[0]
    assert contradiction.verdict == "rejected" and "is known with ra" in str(contradiction.reason)
    assert len(rows(lake, "dataset", "dataset_id")) == 2


def test_other_content_under_a_known_name_is_refused(lake: Lake, tmp_path: Path) -> None:
    first = science(tmp_path, detectors=(0,))
    (tmp_path / "again").mkdir()
    other = science(tmp_path / "again", detectors=(0,), COMMENTS="remade")
    both = ingest_raws(lake, lake.site("B"), [*first, *other], TARGET)
    assert states(both) == ["accepted", "rejected"]
    assert "is registered with checksum" in str(both[1].reason)
    assert states(ingest_raws(lake, lake.site("B"), other, TARGET)) == ["rejected"]
    path = lake.site("B").path(rows(lake, "dataset", "path")[0][0])
    assert path.read_bytes() == first[0].read_bytes()


def test_calibration_frames_become_masters(lake: Lake, tmp_path: Path) -> None:
    kinds = [("bias", 3), ("dark", 2), ("flat", 3)]
    files = [calibration(tmp_path, kind, i, d) for kind, n in kinds for i in range(n) for d in (0, 1)]
    site = lake.site("B")
    assert states(ingest_raws(lake, site, files, TARGET)) == ["used"] * 16
    assert states(ingest_raws(lake, site, files, TARGET)) == ["used"] * 16
    found = {(t, d): Image.read(site.path(p)) for t, d, p in rows(lake, "dataset", "dataset_type, detector, path")}
    assert sorted({k for k, _ in found}) == ["bias", "dark", "defects", "flat"] and len(found) == 8
    assert np.median(found[("bias", 0)].image) == pytest.approx(30.0, abs=0.5)
    assert np.median(found[("dark", 0)].image) == pytest.approx(0.5, abs=0.02)
    flats = [found[("flat", d)] for d in (0, 1)]
    good = [f.image[f.mask == 0] for f in flats]
    assert np.concatenate(good).mean(dtype=float) == pytest.approx(1.0, abs=1e-3)
    true = [np.median(electronics.response(PLAN, 20260910, "r_tiny", d)) * (1.0 + 0.2 * d) for d in (0, 1)]
    assert np.median(good[1]) / np.median(good[0]) == pytest.approx(true[1] / true[0], rel=0.01)
    assert found[("defects", 0)].mask[50, 60] and found[("defects", 0)].bad().mean() < 0.05
    valid = rows(lake, "certification", "dataset_type, detector, valid_begin < 61294 AND valid_end > 61294")
    assert len(valid) == 8 and all(v for _, _, v in valid)
    # A dark of the same night given later finds the certified bias; without any bias it is refused.
    alone = ingest_raws(lake, lake.site("A"), files[6:7], TARGET)
    assert states(alone) == ["rejected"] and "there is no bias for it" in str(alone[0].reason)


def test_master_bias_averages_noise_down() -> None:
    camera = load("TinyCam")
    d = camera.detector(0)
    rng = np.random.default_rng(5)
    frames = [rng.normal(1000, d.read_noise / d.gain, d.raw_shape).round().astype(np.uint16) for _ in range(4)]
    bias = master_frames.master_bias(frames, camera, d)
    assert bias.shape == (200, 200) and bias.meta["n_input"] == 4
    assert np.std(bias.image) < 0.7 * d.read_noise / d.gain


def test_command_line(lake: Lake, tmp_path: Path) -> None:
    (tmp_path / "text.fits").write_text("not FITS")
    good = [str(p) for p in science(tmp_path)]
    options = ["--campaign", "real", "--instrument", "TinyCam", "--skymap", "tiny_rings"]
    result = CliRunner().invoke(command, [str(lake.root), "B", *good, *options])
    assert result.exit_code == 0 and "2 files: 2 accepted" in result.stderr and result.stdout == ""
    result = CliRunner().invoke(command, [str(lake.root), "B", *good, str(tmp_path / "text.fits"), *options])
    assert result.exit_code == 1
    assert next(line for line in result.stderr.splitlines() if "text.fits" in line).count("rejected") == 1
    result = CliRunner().invoke(command, [str(lake.root), "B", *good, "--campaign", "nothing"])
    assert result.exit_code == 2 and "--instrument and --skymap" in result.stderr
    result = CliRunner().invoke(command, [str(lake.root), "B", *good, "--campaign", "tiny", "--instrument", "DemoCam"])
    assert result.exit_code == 2 and "campaign tiny has instrument TinyCam" in result.stderr
    result = CliRunner().invoke(command, [str(lake.root), "B", *good, *options, "--all", "--format", "json"])
    assert result.exit_code == 0 and '"verdict": "present"' in result.stdout
