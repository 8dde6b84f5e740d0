"""Cameras as configuration: detectors, filters, geometry and the header keys of their raw files.

One YAML file per camera in ``pipelines/instruments`` (or in the directory that ``DRP_INSTRUMENTS`` names).
The focal plane is measured in degrees on the tangent plane: at rotation 0 and parity 1, y points north and x west (the
sky as it is seen); ``rotation`` turns y to the east of north. Pixels are imaging pixels, 0-based, after trimming.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import yaml
from numpy.typing import ArrayLike, NDArray

from lake import plain_yaml
from pipelines.wcs import SkyWcs, deproject, fit_tan_sip

Array = NDArray[np.float64]
T = TypeVar("T")


class InstrumentError(ValueError):
    """An instrument is unknown, or its file is wrong; the message names the key."""


@dataclass(frozen=True)
class Filter:
    """``zero_point``: magnitude of 1 e-/s above the atmosphere; ``extinction``: mag per airmass (nominal);
    ``colour_term``: natural magnitude = AB magnitude + colour_term * ((g - r) - Instrument.reference_colour)."""

    physical_filter: str
    band: str
    zero_point: float
    extinction: float
    colour_term: float = 0.0

    def nominal_zero_point(self, exposure_time: float, airmass: float) -> float:
        """Expected zero point of an exposure in a clear night: mag = zero point - 2.5 log10(electrons)."""
        return self.zero_point + 2.5 * float(np.log10(exposure_time)) - self.extinction * airmass


@dataclass(frozen=True)
class Detector:
    """``data``: box (x0, x1, y0, y1) of imaging pixels in the raw array; ``overscan``: its columns (x0, x1); half-open.

    ``x_centre``, ``y_centre`` (deg) and ``rotation`` (deg, counter-clockwise) place it in the focal plane.
    ``gain`` e-/ADU, ``read_noise`` e-, ``saturation`` ADU of the raw. Where there is an overscan, raws are
    overscan-subtracted before the master bias, which then holds only the structure that remains.
    """

    detector: int
    name: str
    width: int
    height: int
    x_centre: float
    y_centre: float
    gain: float
    read_noise: float
    saturation: float
    rotation: float = 0.0
    overscan: tuple[int, int] | None = None
    data: tuple[int, int, int, int] = (0, 0, 0, 0)
    shape: tuple[int, int] | None = None
    purpose: str = "SCIENCE"

    @property
    def raw_shape(self) -> tuple[int, int]:
        """(ny, nx) of the raw array: ``shape`` where given, else just large enough for data and overscan."""
        return self.shape or (self.data[3], max(self.data[1], self.overscan[1] if self.overscan else 0))

    def to_focal_plane(self, x: ArrayLike, y: ArrayLike, pixel_scale: float) -> tuple[Array, Array]:
        """Pixels to focal plane (deg), without distortion; ``pixel_scale`` in arcsec."""
        u = (np.asarray(x, float) - 0.5 * (self.width - 1)) * pixel_scale / 3600.0
        v = (np.asarray(y, float) - 0.5 * (self.height - 1)) * pixel_scale / 3600.0
        c, s = np.cos(np.radians(self.rotation)), np.sin(np.radians(self.rotation))
        return self.x_centre + c * u - s * v, self.y_centre + s * u + c * v


@dataclass(frozen=True)
class HeaderKey:
    """Where a fact is in a raw header: a ``key`` (with ``unit`` and ``map``), else a fixed ``value``."""

    key: str | None = None
    value: str | float | int | None = None
    unit: str | None = None
    map: Mapping[str, str | int] | None = None


@dataclass(frozen=True)
class Instrument:
    """A camera on its telescope. ``distortion`` (c3, c5): radius on the sky = r (1 + c3 r^2 + c5 r^4), r in degrees.

    ``reference_wcs`` False: the pointing in the headers is not good enough to look up reference stars.
    """

    name: str
    pixel_scale: float
    latitude: float
    longitude: float
    elevation: float
    detectors: tuple[Detector, ...]
    filters: Mapping[str, Filter]
    pointing_tolerance: float
    header: Mapping[str, HeaderKey]
    reference_wcs: bool = True
    parity: int = 1
    distortion: tuple[float, float] = (0.0, 0.0)
    reference_colour: float = 0.0
    description: str = ""

    def detector(self, number: int) -> Detector:
        """InstrumentError when there is none of this number."""
        for detector in self.detectors:
            if detector.detector == number:
                return detector
        raise InstrumentError(f"instrument {self.name} has no detector {number}")

    def filter_of_band(self, band: str) -> Filter:
        """The first filter of a band; InstrumentError names the bands there are."""
        for item in self.filters.values():
            if item.band == band:
                return item
        known = ", ".join(sorted({f.band for f in self.filters.values()}))
        raise InstrumentError(f"instrument {self.name} has no filter of band {band!r} (bands: {known})")

    def to_sky(self, fx: ArrayLike, fy: ArrayLike, ra: float, dec: float, rotation: float) -> tuple[Array, Array]:
        """Focal plane (deg, undistorted) to sky (deg) for a boresight and rotation."""
        fx, fy = np.asarray(fx, float), np.asarray(fy, float)
        c, s = np.cos(np.radians(rotation)), np.sin(np.radians(rotation))
        return deproject(-self.parity * c * fx + s * fy, self.parity * s * fx + c * fy, ra, dec)

    def nominal_wcs(self, ra: float, dec: float, rotation: float, detector: int) -> SkyWcs:
        """The WCS expected from the pointing (deg) and the design of the camera."""
        d = self.detector(detector)
        step = 8 if any(self.distortion) else 4
        grid = np.meshgrid(np.linspace(0, d.width - 1, step), np.linspace(0, d.height - 1, step))
        x, y = grid[0].ravel(), grid[1].ravel()
        fx, fy = distort(*d.to_focal_plane(x, y, self.pixel_scale), self.distortion)
        sky = self.to_sky(fx, fy, ra, dec, rotation)
        centre = self.to_sky(*distort(d.x_centre, d.y_centre, self.distortion), ra, dec, rotation)
        order = 3 if any(self.distortion) or d.x_centre or d.y_centre else 1
        return fit_tan_sip(
            x, y, *sky, (float(centre[0]), float(centre[1])), (0.5 * (d.width - 1), 0.5 * (d.height - 1)), order
        )  # fmt: skip


def distort(fx: ArrayLike, fy: ArrayLike, coefficients: tuple[float, float]) -> tuple[Array, Array]:
    """Radial distortion of focal-plane positions (deg) about the optical axis."""
    fx, fy = np.asarray(fx, float), np.asarray(fy, float)
    r2 = fx**2 + fy**2
    factor = 1.0 + coefficients[0] * r2 + coefficients[1] * r2**2
    return fx * factor, fy * factor


def directories() -> list[Path]:
    """Where instrument files are looked for, in order."""
    own = os.environ.get("DRP_INSTRUMENTS")
    return [*([Path(own)] if own else []), Path(__file__).parent / "instruments"]


@cache
def load(name: str) -> Instrument:
    """Read instrument ``name``; InstrumentError names what is unknown or wrong, and the file."""
    for directory in directories():
        path = directory / f"{name}.yaml"
        if path.is_file():
            return _parse(path)
    known = sorted({p.stem for d in directories() for p in d.glob("*.yaml")})
    raise InstrumentError(f"no instrument {name!r}; known: {', '.join(known)}")


def _parse(path: Path) -> Instrument:
    try:
        text = plain_yaml.parse(path.read_text())
    except yaml.YAMLError as error:
        raise InstrumentError(f"{path.name}: {' '.join(str(error).split())}") from None
    if not isinstance(text, dict):
        raise InstrumentError(f"{path.name}: must be a mapping of keys")
    common = text.pop("detector", {})
    text["detectors"] = tuple(
        _build(Detector, {**common, **each}, f"{path.name}: detectors[{i}]") for i, each in enumerate(text.get("detectors", []))
    )
    text["filters"] = {
        key: _build(Filter, {"physical_filter": key, **each}, f"{path.name}: filters.{key}")
        for key, each in text.get("filters", {}).items()
    }
    text["header"] = {key: _build(HeaderKey, each, f"{path.name}: header.{key}") for key, each in text.get("header", {}).items()}
    if not text["detectors"] or not text["filters"]:
        raise InstrumentError(f"{path.name}: detectors and filters must not be empty")
    return _build(Instrument, text, path.name)


def _build(kind: type[T], given: Mapping[str, Any], where: str) -> T:
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for key in given:
        if key not in known:
            raise InstrumentError(f"{where}: unknown key {key!r} (known: {', '.join(known)})")
    for key, f in known.items():
        if key not in given and f.default is MISSING and f.default_factory is MISSING:
            raise InstrumentError(f"{where}: key {key!r} is missing")
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    if kind is Detector and "data" not in values:
        values["data"] = (0, values["width"], 0, values["height"])
    return kind(**values)
