"""The ``simulate`` section of a campaign: every knob of the simulated survey, with defaults, checked key by key."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np


class SimulateError(ValueError):
    """The ``simulate`` section is wrong; the message names the key, what is wrong and what is wanted."""


@dataclass(frozen=True)
class Settings:
    """Angles in the unit named; magnitudes are AB; surface densities per square degree; times in seconds."""

    seed: int = 1
    site: str = ""  # where the raws are put; empty: the central site
    tracts: tuple[int, ...] = ()  # empty: the tracts of the campaign

    # the survey
    nights: tuple[int, ...] = (20260910, 20260912, 20260915, 20260919, 20260924)
    hours: float = 5.0  # of observing each night, about the transit of the field
    bands: tuple[str, ...] = ("g", "r", "i")
    epochs: int = 5  # visits per tract and band, spread over the nights
    exposure_time: float = 300.0
    dither: float = 0.10  # deg, half width of the square of random offsets
    rotations: tuple[float, ...] = (0.0, 90.0, 180.0, 270.0, 2.0)  # deg, one after the other
    pointing_error: float = 15.0  # arcsec rms per axis, cut at two thirds of the instrument's tolerance
    seeing: float = 2.5  # median FWHM in pixels at airmass 1
    seeing_scatter: float = 0.05  # rms of its logarithm

    # the atmosphere
    sky: Mapping[str, float] = field(default_factory=lambda: {"g": 21.8, "r": 20.9, "i": 20.0})  # mag / arcsec^2
    cloudy_nights: tuple[int, ...] = ()
    cloudy_visits: int = 0  # on the other nights
    cloud: tuple[float, float] = (0.05, 0.5)  # mag, range of the mean extinction
    cloud_gradient: float = 0.04  # mag per deg, rms per axis
    night_scatter: float = 0.02  # mag, rms of the zero point over the nights
    extinction_scatter: float = 0.015  # mag per airmass, rms over the nights
    colour_extinction: Mapping[str, float] = field(default_factory=lambda: {"g": -0.008, "r": -0.002, "i": 0.0})
    grey_scatter: float = 0.0015  # mag, rms from visit to visit in clear sky

    # the camera
    flat_epochs: tuple[int, ...] = ()  # nights on which a new flat begins to hold; empty: the first night
    illumination_error: float = 0.007  # mag, rms over (epoch, detector) of what the flats get wrong
    bias_level: float = 1000.0  # ADU
    dark_current: float = 0.05  # electron / s
    cosmic_rays: float = 12.0  # per detector and exposure
    bad_columns: int = 2  # per detector
    dead_pixels: int = 40
    hot_pixels: int = 60

    # the sky
    star_density: float = 260.0  # brighter than star_break
    star_break: float = 14.7  # r mag
    star_slopes: tuple[float, float] = (0.28, 0.16)  # d log10 N / dm, brighter and fainter than the break
    star_range: tuple[float, float] = (9.0, 19.6)  # r mag
    galaxy_density: float = 380.0  # in galaxy_range
    galaxy_slope: float = 0.45
    galaxy_range: tuple[float, float] = (13.5, 19.6)  # r mag
    variables: int = 40  # per tract
    variable_range: tuple[float, float] = (13.0, 16.3)  # r mag
    transients: int = 14  # per tract
    transient_range: tuple[float, float] = (15.2, 17.2)  # mag
    transient_nights: tuple[int, int] = (1, 2)  # consecutive nights on which one shines
    real_bright_stars: str = ""  # parquet file (ra, dec, vt) of a public catalogue that replaces the bright stars

    # the reference catalogue
    reference_limit: float = 16.6  # r mag
    reference_epoch: float = 57388.5  # MJD TAI of its positions (2016.0)


def parse(section: Mapping[str, Any] | None) -> Settings:
    """Check the section; SimulateError names the key."""
    if section is not None and not isinstance(section, Mapping):
        raise SimulateError(f"simulate: must be a mapping of keys, is {section!r}")
    known = {f.name: f for f in fields(Settings)}
    default = Settings()
    values: dict[str, Any] = {}
    for key, value in (section or {}).items():
        if key not in known:
            raise SimulateError(f"simulate.{key}: unknown key; known keys: {', '.join(sorted(known))}")
        values[key] = _converted(f"simulate.{key}", value, getattr(default, key))
    settings = Settings(**values)
    _check(settings)
    return settings


def _converted(where: str, value: Any, default: Any) -> Any:
    if isinstance(default, str):
        if not isinstance(value, str):
            raise SimulateError(f"{where}: {value!r} is not text")
        return value
    if isinstance(default, tuple):
        if not isinstance(value, list | tuple):
            raise SimulateError(f"{where}: {value!r} is not a list")
        kind = default[0] if default else 0
        return tuple(_converted(f"{where}[{i}]", v, kind) for i, v in enumerate(value))
    if isinstance(default, Mapping):
        if not isinstance(value, Mapping):
            raise SimulateError(f"{where}: {value!r} is not a mapping of bands")
        return {**default, **{str(k): _converted(f"{where}.{k}", v, 0.0) for k, v in value.items()}}
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SimulateError(f"{where}: {value!r} is not a number")
    if isinstance(default, int):
        if value != int(value):
            raise SimulateError(f"{where}: {value!r} is not a whole number")
        return int(value)
    return float(value)


def _check(s: Settings) -> None:
    for key in ("nights", "bands", "rotations"):
        if not getattr(s, key):
            raise SimulateError(f"simulate.{key}: must not be empty")
    for key in (
        "cloud",
        "star_range",
        "galaxy_range",
        "star_slopes",
        "transient_range",
        "transient_nights",
        "variable_range",
    ):
        if len(getattr(s, key)) != 2:
            raise SimulateError(f"simulate.{key}: wants two values, lowest and highest")
    for key in ("epochs", "exposure_time", "seeing", "star_density", "hours"):
        if getattr(s, key) <= 0:
            raise SimulateError(f"simulate.{key}: must be above zero")
    for key in ("nights", "cloudy_nights", "flat_epochs"):
        for night in getattr(s, key):
            if not 19000101 <= night <= 20991231 or not 1 <= night // 100 % 100 <= 12 or not 1 <= night % 100 <= 31:
                raise SimulateError(f"simulate.{key}: {night} is not a night as YYYYMMDD")
    for night in s.cloudy_nights:
        if night not in s.nights:
            raise SimulateError(f"simulate.cloudy_nights: {night} is not one of simulate.nights")
    if tuple(sorted(set(s.nights))) != s.nights:
        raise SimulateError("simulate.nights: must be in order, each night once")
    if s.flat_epochs and s.flat_epochs[0] > s.nights[0]:
        raise SimulateError(f"simulate.flat_epochs: no flat holds on the first night, {s.nights[0]}")
    for band in s.bands:
        if band not in s.sky:
            raise SimulateError(f"simulate.sky: no sky brightness for band {band!r}")


def generator(*key: object) -> np.random.Generator:
    """Random numbers that depend on the words of ``key`` alone."""
    digest = hashlib.sha256("|".join(map(str, key)).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
