"""Raw frames as they come from a camera: pixels and the facts in their headers.

The instrument's ``header`` mapping says where each fact is. Facts: instrument, exposure, detector, physical_filter,
band, day_obs, seq_num, mjd_mid (MJD TAI), exposure_time (s), ra, dec, rotation (deg), airmass, observation_type,
target_name. Without an exposure number in the header, the exposure id is (day_obs - 20000000) * 100000 + seconds since
noon UTC; ids must stay below 2^39, as source ids are built from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import erfa  # type: ignore[import-untyped]
import fitsio
import numpy as np
from numpy.typing import NDArray

from pipelines.image import ImageError
from pipelines.instrument import HeaderKey, Instrument

Facts = dict[str, Any]

#: Facts that a frame cannot do without, by its type (a calibration frame needs no pointing).
REQUIRED = ("exposure_time", "observation_type", "detector")
REQUIRED_SCIENCE = ("physical_filter", "ra", "dec", "airmass")
CALIBRATION_TYPES = ("bias", "dark", "flat")
MAX_EXPOSURE = 1 << 39
MJD_ZERO = 2400000.5


def read_raw(path: str | Path, instrument: Instrument) -> tuple[NDArray[np.uint16], Facts]:
    """Pixels (ny, nx) uint16, overscan included, and the facts of the header.

    ImageError names the file and the header key that is missing or wrong.
    """
    try:
        with fitsio.FITS(str(path)) as fits:
            hdu = _image_hdu(fits)
            header, pixels = hdu.read_header(), hdu.read()
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"{path}: not a readable FITS image ({_one_line(error)})") from None
    facts = header_facts(header, instrument, str(path))
    detector = instrument.detector(facts["detector"])
    if pixels is None or pixels.shape != detector.raw_shape:
        shape = None if pixels is None else pixels.shape
        raise ImageError(f"{path}: array is {shape}, {instrument.name} {detector.name} has {detector.raw_shape}")
    return pixels.astype(np.uint16, copy=False), facts


def read_facts(path: str | Path, instrument: Instrument) -> Facts:
    """The facts of a raw file, without its pixels (but the image must be there); raises as read_raw()."""
    try:
        with fitsio.FITS(str(path)) as fits:
            header = _image_hdu(fits).read_header()
    except (OSError, ValueError, KeyError) as error:
        raise ImageError(f"{path}: not a readable FITS image ({_one_line(error)})") from None
    facts = header_facts(header, instrument, str(path))
    instrument.detector(facts["detector"])
    return facts


def write_raw(path: str | Path, pixels: NDArray[np.uint16], header: Mapping[str, Any]) -> None:
    """Write a raw array as a RICE-compressed FITS file with these keys; the same input gives the same bytes."""
    with fitsio.FITS("mem://", "rw") as fits:
        keys = [{"name": name, "value": value} for name, value in header.items()]
        fits.write(np.ascontiguousarray(pixels, np.uint16), header=keys, compress="RICE", extname="RAW")
        content = fits.read_raw()
    Path(path).write_bytes(content)


def _image_hdu(fits: fitsio.FITS) -> Any:
    """The first HDU that holds an image."""
    for hdu in fits:
        if hdu.has_data() and hdu.get_exttype() == "IMAGE_HDU":
            return hdu
    raise ValueError("it holds no image")


def header_facts(header: Mapping[str, Any], instrument: Instrument, path: str = "header") -> Facts:
    """Facts of a raw header; ImageError names ``path`` and the key."""

    def fact(name: str, required: bool = False) -> Any:
        where = instrument.header.get(name, HeaderKey())
        value = where.value if where.key is None else header.get(where.key)
        if isinstance(value, str):
            value = value.strip()
        if value is None or value == "":
            if required:
                raise ImageError(f"{path}: header key {where.key or name.upper()} ({name}) is missing")
            return None
        try:
            return _convert(value, where)
        except (ValueError, KeyError) as error:
            raise ImageError(f"{path}: header key {where.key} ({name}) is {value!r}: {_one_line(error)}") from None

    facts: Facts = {"instrument": instrument.name}
    facts |= {name: fact(name, True) for name in REQUIRED}
    science = facts["observation_type"] not in CALIBRATION_TYPES
    facts |= {name: fact(name, science) for name in REQUIRED_SCIENCE}
    facts |= {name: fact(name) for name in ("rotation", "target_name", "seq_num")}
    facts["rotation"] = facts["rotation"] or 0.0
    mid = fact("mjd_mid")
    if mid is None:
        mid = fact("mjd_begin", True) + 0.5 * facts["exposure_time"] / 86400.0
    facts["mjd_mid"] = mid
    begin = mid - 0.5 * facts["exposure_time"] / 86400.0
    night = fact("day_obs")
    facts["day_obs"] = int(night) if night is not None else day_obs(begin)
    exposure = fact("exposure")
    facts["exposure"] = int(exposure) if exposure is not None else exposure_from_time(begin)
    if not 0 <= facts["exposure"] < MAX_EXPOSURE:
        raise ImageError(f"{path}: exposure id {facts['exposure']} is outside 0 .. 2^39")
    if facts["seq_num"] is None:
        facts["seq_num"] = facts["exposure"] % 100000
    if facts["observation_type"] in ("bias", "dark"):
        facts["physical_filter"] = None  # a closed shutter has none, whatever the header says
    name = facts["physical_filter"]
    if name is not None and name not in instrument.filters:
        known = ", ".join(instrument.filters)
        raise ImageError(f"{path}: filter {name!r} is not one of instrument {instrument.name} ({known})")
    facts["band"] = instrument.filters[name].band if name is not None else None
    return facts


def _convert(value: Any, where: HeaderKey) -> Any:
    if where.map is not None:
        return where.map[str(value)]
    if where.unit in ("deg", "hourangle"):
        degrees = sexagesimal(value) if isinstance(value, str) else float(value)
        return degrees * (15.0 if where.unit == "hourangle" else 1.0)
    if where.unit == "iso_utc":
        return mjd_tai(str(value))
    if where.unit == "mjd_tai":
        return float(value)
    return value


def sexagesimal(text: str) -> float:
    """'09 53 40.0', '-45:39:33' or a plain number, as a number of the first unit; ValueError when it is neither."""
    parts = text.replace(":", " ").split()
    if not 1 <= len(parts) <= 3:
        raise ValueError("not an angle")
    value = sum(abs(float(p)) / 60.0**i for i, p in enumerate(parts))
    return -value if parts[0].startswith("-") else value


def mjd_tai(iso: str) -> float:
    """UTC date and time 'YYYY-MM-DDThh:mm:ss.s' to MJD TAI."""
    date, _, time = iso.partition("T")
    year, month, day = (int(p) for p in date.split("-"))
    hour, minute, second = time.split(":") if time else ("0", "0", "0")
    utc = erfa.dtf2d("UTC", year, month, day, int(hour), int(minute), float(second))
    tai = erfa.utctai(*utc)
    return float((tai[0] - MJD_ZERO) + tai[1])


def _utc(mjd: float) -> float:
    """MJD TAI to MJD UTC."""
    utc = erfa.taiutc(MJD_ZERO, mjd)
    return float((utc[0] - MJD_ZERO) + utc[1])


def day_obs(mjd: float) -> int:
    """The night of an MJD TAI as YYYYMMDD: the date twelve hours before, in UTC."""
    year, month, day, _ = erfa.jd2cal(MJD_ZERO, np.floor(_utc(mjd) - 0.5))
    return int(year) * 10000 + int(month) * 100 + int(day)


def night_begin(night: int) -> float:
    """MJD of noon (UTC) at which a night's day_obs begins."""
    return float(erfa.cal2jd(night // 10000, night // 100 % 100, night % 100)[1]) + 0.5


def exposure_from_time(mjd: float) -> int:
    """Exposure id from the start of the exposure (MJD TAI): unique where exposures start at least a second apart."""
    seconds = (_utc(mjd) - 0.5) % 1.0 * 86400.0
    return (day_obs(mjd) - 20000000) * 100000 + int(seconds + 1e-4)


def _one_line(error: BaseException) -> str:
    """The first line of a message: the rest is the library's own history."""
    lines = str(error).strip("'\" \n").splitlines()
    return " ".join(lines[0].split()) if lines else type(error).__name__
