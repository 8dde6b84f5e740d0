"""The simulated survey: which visits, where the telescope points, and what the atmosphere does to each."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import erfa  # type: ignore[import-untyped]
import numpy as np

from pipelines import instrument as instruments
from pipelines import skymap as skymaps
from pipelines.campaign import Campaign
from pipelines.instrument import Filter, Instrument, InstrumentError
from pipelines.raw import MJD_ZERO, night_begin
from pipelines.simulate.settings import Settings, SimulateError, generator, parse
from pipelines.skymap import RingsSkyMap


@dataclass(frozen=True)
class Visit:
    """One exposure. ``ra``, ``dec``, ``rotation`` are commanded, ``true_*`` where the telescope really points (deg).

    ``zero_point`` (mag = zero_point - 2.5 log10(electrons), above clouds, for a star of the reference colour) and all
    that follows are truth. ``cloud_x``, ``cloud_y``: gradient along the focal plane (mag/deg). ``warp``: coefficients
    of the visit's own distortion.
    """

    visit: int
    seq_num: int
    day_obs: int
    mjd_mid: float
    exposure_time: float
    tract: int
    band: str
    physical_filter: str
    ra: float
    dec: float
    rotation: float
    airmass: float
    true_ra: float
    true_dec: float
    true_rotation: float
    zero_point: float
    colour_term: float
    cloud: float
    cloud_x: float
    cloud_y: float
    fwhm: float
    e1: float
    e2: float
    sky: float
    sky_x: float
    sky_y: float
    epoch: int
    warp: tuple[float, ...]

    @property
    def photometric(self) -> bool:
        return self.cloud == 0.0


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole simulated survey; small, picklable, and a function of the campaign's text alone.

    Plans are equal when their ``digest`` of everything that goes in is: results are kept by it in each process.
    """

    campaign: str
    instrument_name: str
    skymap_name: str
    settings: Settings
    tracts: tuple[int, ...]
    visits: tuple[Visit, ...]
    digest: str

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @property
    def instrument(self) -> Instrument:
        return instruments.load(self.instrument_name)

    @property
    def skymap(self) -> RingsSkyMap:
        return _skymap(self.skymap_name)

    def filter(self, band: str) -> Filter:
        return self.instrument.filter_of_band(band)

    def visit(self, number: int) -> Visit:
        """SimulateError when the plan has no such visit."""
        for visit in self.visits:
            if visit.visit == number:
                return visit
        raise SimulateError(f"campaign {self.campaign} has no visit {number}")

    @property
    def epochs(self) -> tuple[int, ...]:
        """Nights on which a flat begins to hold."""
        return flat_epochs(self.settings)

    @property
    def mid_survey(self) -> float:
        """MJD of the middle of the survey, to which truth positions refer."""
        return 0.5 * (self.visits[0].mjd_mid + self.visits[-1].mjd_mid)


@cache
def _skymap(name: str) -> RingsSkyMap:
    return skymaps.load(name)


def flat_epochs(settings: Settings) -> tuple[int, ...]:
    return settings.flat_epochs or (settings.nights[0],)


def mapping(campaign: Campaign | Mapping[str, Any]) -> Mapping[str, Any]:
    """What plan() needs of a campaign."""
    if isinstance(campaign, Mapping):
        return campaign
    return {
        "name": campaign.name, "instrument": campaign.instrument, "skymap": campaign.skymap,
        "simulate": campaign.simulate, "tracts": campaign.tracts,
    }  # fmt: skip


def plan(campaign: Mapping[str, Any]) -> Plan:
    """The survey of a campaign: a mapping with name, instrument, skymap, simulate and tracts.

    SimulateError names the key that is wrong.
    """
    settings = parse(campaign.get("simulate"))
    camera = instruments.load(campaign["instrument"])
    sky = _skymap(campaign["skymap"])
    tracts = settings.tracts or tuple(sorted(campaign.get("tracts") or ()))
    if not tracts:
        raise SimulateError("simulate.tracts: neither the section nor the campaign's sites name a tract")
    for tract in tracts:
        if not 0 <= tract < sky.tracts:
            raise SimulateError(f"simulate.tracts: skymap {sky.name} has no tract {tract}")
    for band in settings.bands:
        try:
            camera.filter_of_band(band)
        except InstrumentError as error:
            raise SimulateError(f"simulate.bands: {error}") from None
    digest = hashlib.sha256(repr((campaign["name"], camera, sky, tracts, settings)).encode()).hexdigest()
    visits = _visits(settings, camera, sky, tracts)
    return Plan(campaign["name"], camera.name, sky.name, settings, tracts, visits, digest)


def sidereal_time(mjd: float, longitude: float) -> float:
    """Local mean sidereal time in degrees (linear formula: good to an arcminute, enough for an airmass)."""
    return (280.46062 + 360.98564737 * (mjd - 51544.5) + longitude) % 360.0


def airmass(hour_angle: float, dec: float, latitude: float) -> float:
    """Plane-parallel airmass of a position (degrees), limited at 10 degrees of altitude."""
    h, d, f = np.radians([hour_angle, dec, latitude])
    return float(1.0 / max(np.sin(f) * np.sin(d) + np.cos(f) * np.cos(d) * np.cos(h), np.sin(np.radians(10.0))))


def _schedule(settings: Settings, tracts: tuple[int, ...]) -> list[list[tuple[int, str, int]]]:
    """For each night the (tract, band, epoch) to observe in order: tracts shuffled, the bands of a tract in a row."""
    nights: list[list[tuple[int, str, int]]] = []
    for n, night in enumerate(settings.nights):
        order = generator(settings.seed, "order", night).permutation(np.array(tracts))
        todo = []
        for tract in order.tolist():
            for epoch in range(settings.epochs):
                if epoch % len(settings.nights) == n:
                    todo += [(tract, band, epoch) for band in settings.bands]
        nights.append(todo)
    return nights


def _visits(s: Settings, camera: Instrument, sky: RingsSkyMap, tracts: tuple[int, ...]) -> tuple[Visit, ...]:
    centre_ra, centre_dec = (np.atleast_1d(a) for a in sky.tract_centre(np.array(tracts)))
    position = {t: (float(centre_ra[i]), float(centre_dec[i])) for i, t in enumerate(tracts)}
    turn = np.radians(centre_ra)
    middle = float(np.degrees(np.arctan2(np.sin(turn).mean(), np.cos(turn).mean())))
    schedule = _schedule(s, tracts)
    clear = [(n, i) for n, todo in enumerate(schedule) for i in range(len(todo)) if s.nights[n] not in s.cloudy_nights]
    picked = generator(s.seed, "cloudy visits").permutation(len(clear))[: s.cloudy_visits]
    cloudy = {clear[i] for i in picked.tolist()}
    visits = []
    for n, (night, todo) in enumerate(zip(s.nights, schedule, strict=True)):
        weather = generator(s.seed, "night", night)
        night_zero = weather.normal(0.0, s.night_scatter)
        night_extinction = weather.normal(0.0, s.extinction_scatter)
        night_seeing = weather.normal(0.0, s.seeing_scatter)
        start = night_begin(night)
        transit = start + ((middle - sidereal_time(start, camera.longitude)) % 360.0) / 360.98564737
        spacing = max(s.hours / 24.0 / max(len(todo) - 1, 1), (s.exposure_time + 20.0) / 86400.0)
        for i, (tract, band, epoch) in enumerate(todo):
            utc = transit + (i - 0.5 * (len(todo) - 1)) * spacing
            tai = erfa.utctai(MJD_ZERO, utc)
            rng = generator(s.seed, "visit", night, i)
            ra0, dec0 = position[tract]
            dx, dy = rng.uniform(-s.dither, s.dither, 2)
            # What goes into headers has no more digits than FITS keeps.
            dec = round(float(dec0 + dy), 7)
            ra = round(float(ra0 + dx / np.cos(np.radians(dec))) % 360.0, 7)
            rotation = round(float(s.rotations[epoch % len(s.rotations)] + rng.uniform(-1.0, 1.0)) % 360.0, 6)
            limit = camera.pointing_tolerance / 1.5
            error = np.clip(rng.normal(0.0, s.pointing_error / 3600.0, 2), -limit / 1.5, limit / 1.5)
            air = round(airmass(sidereal_time(utc, camera.longitude) - ra, dec, camera.latitude), 4)
            is_cloudy = night in s.cloudy_nights or (n, i) in cloudy
            mean_cloud, grey = rng.uniform(*s.cloud), rng.normal(0.0, s.grey_scatter)
            gradient = rng.normal(0.0, s.cloud_gradient, 2)
            filter_ = camera.filter_of_band(band)
            zero = filter_.zero_point + 2.5 * np.log10(s.exposure_time) + night_zero + grey
            zero -= (filter_.extinction + night_extinction) * air
            fwhm = s.seeing * np.exp(night_seeing + rng.normal(0.0, 0.5 * s.seeing_scatter)) * air**0.2
            shape = rng.normal(0.0, 0.015, 2)
            sky_level = s.sky[band] + rng.normal(0.0, 0.08) - 0.15 * (air - 1.0) + (0.2 if is_cloudy else 0.0)
            sky_gradient = rng.normal(0.0, 0.015, 2)
            warp = tuple(float(c) for c in rng.normal(0.0, 1.0, 12))
            visits.append(
                Visit(
                    visit=(night - 20000000) * 100000 + i + 1, seq_num=i + 1, day_obs=night,
                    mjd_mid=round(float((tai[0] - MJD_ZERO) + tai[1]), 8), exposure_time=s.exposure_time, tract=int(tract),
                    band=band, physical_filter=filter_.physical_filter,
                    ra=ra, dec=dec, rotation=rotation, airmass=air,
                    true_ra=float((ra + error[0] / np.cos(np.radians(dec))) % 360.0), true_dec=float(dec + error[1]),
                    true_rotation=float(rotation + rng.normal(0.0, 0.01)),
                    zero_point=float(zero),
                    colour_term=float(filter_.colour_term + s.colour_extinction.get(band, 0.0) * air),
                    cloud=float(mean_cloud) if is_cloudy else 0.0,
                    cloud_x=float(gradient[0]) if is_cloudy else 0.0, cloud_y=float(gradient[1]) if is_cloudy else 0.0,
                    fwhm=float(fwhm), e1=float(shape[0]), e2=float(shape[1]),
                    sky=float(sky_level), sky_x=float(sky_gradient[0]), sky_y=float(sky_gradient[1]),
                    epoch=max((e for e in flat_epochs(s) if e <= night), default=flat_epochs(s)[0]), warp=warp,
                )
            )  # fmt: skip
    return tuple(visits)
