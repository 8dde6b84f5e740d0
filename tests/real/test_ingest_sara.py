"""Ten real frames with their bias, dark and flat, as the observatory left them."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from lake import delta
from lake.site import Lake
from pipelines.image import Image
from pipelines.ingest_raws import ingest_raws
from pipelines.instrument import load
from pipelines.raw import read_raw

FRAMES = Path(os.environ.get("DRP_REAL_DATA", "../shared/data")) / "sara_wasp19_raw"
pytestmark = pytest.mark.skipif(not FRAMES.is_dir(), reason=f"{FRAMES} is absent: set DRP_REAL_DATA")


def test_real_frames_are_ingested(tmp_path: Path) -> None:
    lake = Lake.create(tmp_path / "lake", {"A": {"central": True}})
    files = [FRAMES / f"{name}.fits" for name in ("bias", "dark", "flat")] + sorted((FRAMES / "raw").glob("*.fits"))
    target = SimpleNamespace(name="wasp19", instrument="SaraArc", skymap="sara_rings")
    verdicts = ingest_raws(lake, lake.central, files, target)
    assert [v.verdict for v in verdicts] == ["used"] * 3 + ["accepted"] * 10
    with delta.connect() as con:
        delta.relation(con, lake.central, "dataset").create_view("dataset")
        delta.relation(con, lake.central, "visit").create_view("visit")
        assert con.sql("SELECT count(*), count(DISTINCT visit), min(day_obs), max(band) FROM visit").fetchall() == [
            (10, 10, 20140105, "r")
        ]
        masters = dict(con.sql("SELECT dataset_type, path FROM dataset WHERE dataset_type <> 'raw'").fetchall())
    bias, dark, flat = (Image.read(lake.central.path(masters[k])) for k in ("bias", "dark", "flat"))
    camera = load("SaraArc")
    d = camera.detector(0)
    assert bias.shape == (d.height, d.width)
    assert abs(np.median(bias.image)) < 5 and abs(np.median(dark.image)) < 0.02
    assert np.median(flat.image) == pytest.approx(1.0, abs=0.02) and (flat.image > 0.5).mean() > 0.999
    # The overscan follows the drift of the bias level: without it the sky of the first frame would be off by most of its value.
    skies = []
    for path in files[3:]:
        pixels, _ = read_raw(path, camera)
        x0, x1 = d.overscan or (0, 0)
        skies.append(np.median(pixels[1:, :998] - np.median(pixels[1:, x0:x1])) - np.median(bias.image))
    assert 4 < skies[0] < 9 and np.ptp(skies[1:]) < 4
