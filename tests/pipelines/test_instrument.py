"""Instrument files: what they give, and what is said about wrong ones."""

from pathlib import Path

import numpy as np
import pytest

from pipelines import instrument as instruments
from pipelines.instrument import InstrumentError, distort, load


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A directory of the user's own instruments; returns a writer of TinyCam with a replacement in its text."""
    monkeypatch.setenv("DRP_INSTRUMENTS", str(tmp_path))
    shipped = Path(instruments.__file__).parent / "instruments" / "TinyCam.yaml"

    def write(name: str, old: str = "", new: str = "") -> None:
        text = shipped.read_text().replace("name: TinyCam", f"name: {name}")
        assert old in text
        (tmp_path / f"{name}.yaml").write_text(text.replace(old, new, 1) if old else text)

    yield write
    instruments.load.cache_clear()


def test_shipped_instruments_load() -> None:
    camera = load("DemoCam")
    assert [d.detector for d in camera.detectors] == list(range(9))
    assert {f.band for f in camera.filters.values()} == {"g", "r", "i"}
    assert camera.detector(4).raw_shape == (400, 424)
    assert load("SaraArc").reference_wcs is False and load("SaraArc").detector(0).raw_shape == (1024, 1024)
    for name in ("DemoCam", "SaraArc", "TinyCam"):
        for d in load(name).detectors:
            assert (d.data[1] - d.data[0], d.data[3] - d.data[2]) == (d.width, d.height)


@pytest.mark.parametrize("rotation", [0.0, 30.0, 180.0])
@pytest.mark.parametrize("detector", [0, 4, 8])
def test_nominal_wcs_follows_the_design(rotation: float, detector: int) -> None:
    camera = load("DemoCam")
    d = camera.detector(detector)
    wcs = camera.nominal_wcs(0.2, 0.74, rotation, detector)
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, d.width, 50), rng.uniform(0, d.height, 50)
    ra, dec = camera.to_sky(*distort(*d.to_focal_plane(x, y, camera.pixel_scale), camera.distortion), 0.2, 0.74, rotation)
    px, py = wcs.sky_to_pixel(ra, dec)
    assert np.max(np.hypot(px - x, py - y)) < 0.01
    assert wcs.pixel_scale == pytest.approx(camera.pixel_scale, rel=0.01)


def test_orientation_is_that_of_the_sky() -> None:
    wcs = load("DemoCam").nominal_wcs(10.0, 0.0, 0.0, 4)
    ra, dec = wcs.pixel_to_sky(np.array([199.5, 299.5, 199.5]), np.array([199.5, 199.5, 299.5]))
    assert ra[0] == pytest.approx(10.0) and dec[0] == pytest.approx(0.0)
    assert ra[1] < ra[0] and dec[2] > dec[0]
    turned = load("DemoCam").nominal_wcs(10.0, 0.0, 90.0, 4)
    ra, _ = turned.pixel_to_sky(np.array([199.5, 199.5]), np.array([199.5, 299.5]))
    assert ra[1] > ra[0]  # y now points east


def test_a_mirrored_camera_is_mirrored(own) -> None:
    own("MirrorCam", "reference_colour", "parity: -1\nreference_colour")
    x, y = np.array([50.0]), np.array([150.0])
    ra, dec = load("MirrorCam").nominal_wcs(10.0, 0.0, 0.0, 0).pixel_to_sky(x, y)
    plain_ra, plain_dec = load("TinyCam").nominal_wcs(10.0, 0.0, 0.0, 0).pixel_to_sky(x, y)
    assert ra - 10.0 == pytest.approx(10.0 - plain_ra) and dec == pytest.approx(plain_dec)


def test_nominal_zero_point_follows_time_and_airmass() -> None:
    r = load("DemoCam").filter_of_band("r")
    assert r.nominal_zero_point(100.0, 0.0) - r.nominal_zero_point(1.0, 0.0) == pytest.approx(5.0)
    assert r.nominal_zero_point(1.0, 1.0) - r.nominal_zero_point(1.0, 2.0) == pytest.approx(r.extinction)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("latitude:", "latitud:", r"BadCam.yaml: unknown key 'latitud'"),
        ("latitude: -30.24\n", "", r"BadCam.yaml: key 'latitude' is missing"),
        ("gain: 1.6, ", "", r"BadCam.yaml: detectors\[0\]: key 'gain' is missing"),
        ("band: g,", "bande: g,", r"BadCam.yaml: filters.g_tiny: unknown key 'bande'"),
        ("{key: EXPID}", "{keyy: EXPID}", r"BadCam.yaml: header.exposure: unknown key 'keyy'"),
        ("name: TinyCam", "name: [", r"BadCam.yaml: "),
    ],
)
def test_errors_name_the_key(own, old: str, new: str, message: str) -> None:
    own("BadCam", "name: BadCam" if old.startswith("name") else old, new)
    with pytest.raises(InstrumentError, match=message):
        load("BadCam")


def test_unknown_things_are_named() -> None:
    with pytest.raises(InstrumentError, match=r"no instrument 'NoCam'; known: .*DemoCam"):
        load("NoCam")
    with pytest.raises(InstrumentError, match="DemoCam has no detector 9"):
        load("DemoCam").detector(9)
    with pytest.raises(InstrumentError, match=r"no filter of band 'u' \(bands: g, i, r\)"):
        load("DemoCam").filter_of_band("u")
