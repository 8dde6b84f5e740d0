"""Raw files: pixels and header facts, and what is said about bad ones."""

from pathlib import Path

import fitsio
import numpy as np
import pytest

from pipelines.image import ImageError
from pipelines.instrument import load
from pipelines.raw import (
    MAX_EXPOSURE,
    day_obs,
    exposure_from_time,
    header_facts,
    mjd_tai,
    night_begin,
    read_facts,
    read_raw,
    sexagesimal,
    write_raw,
)  # fmt: skip

HEADER = {
    "EXPID": 26091000003, "DAYOBS": 20260910, "SEQNUM": 3, "DETECTOR": 1, "IMGTYPE": "science", "OBJECT": "tract 9469",
    "FILTER": "r_tiny", "EXPTIME": 100.0, "MJD-MID": 61294.25, "RA": 0.1, "DEC": 0.7, "ROTPA": 90.0, "AIRMASS": 1.25,
}  # fmt: skip


def pixels() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 65536, (200, 216)).astype(np.uint16)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    write_raw(tmp_path / "a.fits", pixels(), HEADER)
    array, facts = read_raw(tmp_path / "a.fits", load("TinyCam"))
    assert array.dtype == np.uint16 and np.array_equal(array, pixels())
    assert facts["exposure"] == 26091000003 and facts["detector"] == 1 and facts["band"] == "r"
    assert facts["mjd_mid"] == 61294.25 and facts["rotation"] == 90.0 and facts["day_obs"] == 20260910
    assert read_facts(tmp_path / "a.fits", load("TinyCam")) == facts


def test_same_input_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_raw(tmp_path / f"{name}.fits", pixels(), HEADER)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


@pytest.mark.parametrize("key", ["AIRMASS", "FILTER", "RA", "EXPTIME", "DETECTOR", "IMGTYPE"])
def test_a_missing_key_is_named_with_the_file(tmp_path: Path, key: str) -> None:
    write_raw(tmp_path / "a.fits", pixels(), {k: v for k, v in HEADER.items() if k != key})
    with pytest.raises(ImageError, match=f"a.fits: header key {key} .* is missing"):
        read_raw(tmp_path / "a.fits", load("TinyCam"))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("FILTER", "u_tiny", "filter 'u_tiny' is not one of instrument TinyCam"),
        ("DETECTOR", 7, "TinyCam has no detector 7"),
        ("RA", "about ten", "header key RA .* is 'about ten'"),
        ("EXPID", MAX_EXPOSURE, "is outside"),
    ],
)
def test_a_wrong_value_is_named(tmp_path: Path, key: str, value: object, message: str) -> None:
    write_raw(tmp_path / "a.fits", pixels(), {**HEADER, key: value})
    with pytest.raises(ValueError, match=message):
        read_raw(tmp_path / "a.fits", load("TinyCam"))


def test_bad_files_are_refused_in_one_line(tmp_path: Path) -> None:
    write_raw(tmp_path / "good.fits", pixels(), HEADER)
    (tmp_path / "cut.fits").write_bytes((tmp_path / "good.fits").read_bytes()[:20000])
    (tmp_path / "text.fits").write_text("not FITS")
    fitsio.write(str(tmp_path / "small.fits"), pixels()[:50], header=[{"name": k, "value": v} for k, v in HEADER.items()])
    fitsio.write(str(tmp_path / "table.fits"), np.zeros(3, [("x", "f4")]))
    for name, reason in {
        "cut": "not a readable FITS image", "text": "not a readable FITS image", "none": "not a readable FITS image",
        "table": "holds no image", "small": r"array is \(50, 216\)",
    }.items():  # fmt: skip
        with pytest.raises(ImageError, match=f"{name}.fits: .*{reason}") as error:
            read_raw(tmp_path / f"{name}.fits", load("TinyCam"))
        assert "\n" not in str(error.value)


def test_facts_of_a_frame_with_time_and_strings_only() -> None:
    header = {
        "DATE-OBS": "2014-01-06T05:36:40.232899", "EXPTIME": 25.0, "IMAGETYP": "Light", "FILTER": "Bessell R",
        "RA": "09 53 40.0", "DEC": "-45 39 33", "AIRMASS": 1.13,
    }  # fmt: skip
    facts = header_facts(header, load("SaraArc"))
    assert facts["ra"] == pytest.approx(148.416667) and facts["dec"] == pytest.approx(-45.659167)
    assert facts["band"] == "r" and facts["observation_type"] == "science" and facts["day_obs"] == 20140105
    assert facts["exposure"] == 14010563400 < MAX_EXPOSURE
    bias = header_facts({**header, "IMAGETYP": "Bias", "FILTER": "None", "RA": ""}, load("SaraArc"))
    assert bias["physical_filter"] is None and bias["ra"] is None
    with pytest.raises(ImageError, match=r"header key IMAGETYP .* is 'Focus'"):
        header_facts({**header, "IMAGETYP": "Focus"}, load("SaraArc"))


def test_time() -> None:
    tai = mjd_tai("2014-01-06T00:00:00")
    assert (tai - 56663.0) * 86400.0 == pytest.approx(35.0, abs=1e-4)  # leap seconds of that day
    assert day_obs(tai) == 20140105 and day_obs(mjd_tai("2014-01-06T12:00:00.1")) == 20140106
    assert day_obs(mjd_tai("2014-01-06T11:59:59.9")) == 20140105
    assert night_begin(20140105) == 56662.5
    ids = [exposure_from_time(mjd_tai(f"2014-01-06T05:36:{s:02d}")) for s in range(60)]
    assert len(set(ids)) == 60 and ids == sorted(ids)


def test_sexagesimal() -> None:
    assert sexagesimal("-00:30:00") == -0.5 and sexagesimal("12.5") == 12.5
    for wrong in ("", "1 2 3 4", "north"):
        with pytest.raises(ValueError):
            sexagesimal(wrong)
