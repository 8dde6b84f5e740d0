"""One detector of one exposure: from the sky to the numbers that a camera would write."""

from __future__ import annotations

from typing import Any

import erfa  # type: ignore[import-untyped]
import numexpr
import numpy as np
from numpy.typing import NDArray

from pipelines.raw import MJD_ZERO
from pipelines.simulate import electronics, optics, sky
from pipelines.simulate.settings import generator
from pipelines.simulate.survey import Plan, Visit
from pipelines.wcs import project

Array = NDArray[np.float64]
#: Half sizes of stamps (pixels) and the electrons up to which a source gets one: what is cut off is below the noise.
STAMPS = ((6, 3e3), (10, 1e5), (15, 2e6), (24, np.inf))
FAINTEST = 4.0  # electrons: sources below are not drawn


def render(plan: Plan, visit: Visit, detector: int) -> tuple[NDArray[np.uint16], dict[str, Any]]:
    """The raw array (ny, nx) of ADU, overscan included, and its header; a function of the arguments alone."""
    s, d = plan.settings, plan.instrument.detector(detector)
    rng = generator(s.seed, "exposure", visit.visit, detector)
    light = draw_sources(plan, visit, detector)
    light += sky_level(plan, visit, detector)
    light *= electronics.response(plan, visit.epoch, visit.physical_filter, detector)
    charge = light + electronics.dark_rate(plan, detector) * np.float32(visit.exposure_time)
    noise = rng.standard_normal(charge.shape, dtype=np.float32)
    read = np.float32(d.read_noise**2)
    # Counts are large enough everywhere that photon noise is Gaussian.
    charge = numexpr.evaluate("charge + noise * sqrt(charge + read)", local_dict={"charge": charge, "noise": noise, "read": read})
    pixels, energies = electronics.cosmic_rays(rng, s.cosmic_rays, charge.shape)
    np.add.at(charge.ravel(), pixels, energies)
    full = electronics.full_well(plan, d)
    electronics.bleed(charge, full)
    return read_out(plan, visit, detector, charge, full, rng), header(plan, visit, detector)


def read_out(
    plan: Plan, visit: Visit, detector: int, charge: NDArray[np.float32], full: float, rng: np.random.Generator
) -> NDArray[np.uint16]:
    """Charge (e-) to the raw array (ADU): bias that drifts, its structure, the overscan."""
    s, d = plan.settings, plan.instrument.detector(detector)
    ny, nx = d.raw_shape
    level = s.bias_level + rng.normal(0.0, 3.0)
    rows = np.linspace(0.0, rng.normal(0.0, 2.0), ny)[:, None]
    raw = np.full((ny, nx), level, np.float32) + rows.astype(np.float32)
    if d.overscan is not None:
        x0, x1 = d.overscan
        raw[:, x0:x1] += rng.standard_normal((ny, x1 - x0), dtype=np.float32) * np.float32(d.read_noise / d.gain)
    x0, x1, y0, y1 = d.data
    # The limit keeps saturated pixels saturated, with the little scatter that real ones have.
    ceiling = np.float32(d.saturation + 0.6 * electronics.ABOVE_SATURATION)
    adu = raw[y0:y1, x0:x1] + charge / np.float32(d.gain) + electronics.bias_structure(plan, detector)
    brim = charge >= 0.9999 * full
    adu[brim] = np.maximum(adu[brim], ceiling)
    raw[y0:y1, x0:x1] = adu
    return np.clip(np.rint(raw), 0, 65535).astype(np.uint16)


def fluxes(plan: Plan, visit: Visit, sources: sky.Sources, fx: Array, fy: Array) -> Array:
    """Electrons (N,) of sources in the exposure at focal-plane positions (deg), before the detector's response."""
    band = sky.BANDS.index(visit.band)
    colour = sources.mag[:, 0] - sources.mag[:, 1] - plan.instrument.reference_colour
    natural = sources.mag[:, band] + visit.colour_term * colour
    return 10 ** (0.4 * (visit.zero_point - cloud(visit, fx, fy) - natural))  # type: ignore[no-any-return]


def cloud(visit: Visit, fx: Array, fy: Array) -> Array:
    """Extinction by clouds (mag) at focal-plane positions (deg)."""
    if visit.photometric:
        return np.zeros_like(fx)
    return np.maximum(visit.cloud + visit.cloud_x * fx + visit.cloud_y * fy, 0.0)


def sky_level(plan: Plan, visit: Visit, detector: int) -> NDArray[np.float32]:
    """Electrons per pixel of the sky: its brightness at the site, with a gradient over the field."""
    camera = plan.instrument
    d = camera.detector(detector)
    filter_ = camera.filters[visit.physical_filter]
    magnitude = visit.sky - 5.0 * np.log10(camera.pixel_scale)
    level = visit.exposure_time * 10 ** (0.4 * (filter_.zero_point - filter_.extinction - magnitude))
    scale = camera.pixel_scale / 3600.0
    fx = d.x_centre + scale * (np.arange(d.width) - 0.5 * (d.width - 1))
    fy = d.y_centre + scale * (np.arange(d.height) - 0.5 * (d.height - 1))
    return np.asarray(level * (1.0 + visit.sky_x * fx[None, :] + visit.sky_y * fy[:, None]), np.float32)


def draw_sources(plan: Plan, visit: Visit, detector: int) -> NDArray[np.float32]:
    """Electrons of all sources (height, width), noise-free, before the response of the detector."""
    camera = plan.instrument
    d = camera.detector(detector)
    found, x, y = on_detector(plan, visit, detector, margin=STAMPS[-1][0])
    fx, fy = d.to_focal_plane(x, y, camera.pixel_scale)
    electrons = fluxes(plan, visit, found, fx, fy)
    covariance = optics.psf_covariance(plan, visit, fx, fy)
    image = np.zeros(d.height * d.width)
    extended = found.kind == sky.GALAXY
    low = FAINTEST
    for half, high in STAMPS:
        chosen = (electrons >= low) & (electrons < high)
        low = high
        point = np.flatnonzero(chosen & ~extended)
        _add(image, (d.height, d.width), x[point], y[point], _stars(electrons[point], covariance[point]), half)
        disc = np.flatnonzero(chosen & extended)
        shape = _disc_covariance(plan, visit, found.take(disc))
        _add(image, (d.height, d.width), x[disc], y[disc], _discs(electrons[disc], covariance[disc], shape), half + 4)
    return image.reshape(d.height, d.width).astype(np.float32)


def on_detector(plan: Plan, visit: Visit, detector: int, margin: float = 0.0) -> tuple[sky.Sources, Array, Array]:
    """Sources whose true position (pixels, also returned) falls on a detector or within ``margin`` pixels of it."""
    d = plan.instrument.detector(detector)
    sources, xi, eta = sky.visit_sources(plan, visit)
    wcs = optics.true_wcs(plan, visit, detector)
    reach = (0.75 * max(d.width, d.height) + margin) * plan.instrument.pixel_scale / 3600.0
    centre = project(*wcs.crval, visit.true_ra, visit.true_dec)
    near = np.flatnonzero(np.hypot(xi - float(centre[0]), eta - float(centre[1])) < reach)
    x, y = wcs.sky_to_pixel(sources.ra[near], sources.dec[near])
    inside = (x > -0.5 - margin) & (x < d.width - 0.5 + margin) & (y > -0.5 - margin) & (y < d.height - 0.5 + margin)
    return sources.take(near[inside]), x[inside], y[inside]


def _disc_covariance(plan: Plan, visit: Visit, galaxies: sky.Sources) -> Array:
    """(N, 3) pixel^2 of a disc of half-light radius 1 sigma, turned from the sky to the pixels."""
    camera = plan.instrument
    major = (galaxies.radius / camera.pixel_scale) ** 2
    minor = major * galaxies.q**2
    # Position angle east of north, to the angle from the pixel x axis, for a detector mounted straight.
    turn = np.radians(90.0 + (galaxies.angle - visit.true_rotation) * camera.parity)
    c, s = np.cos(turn), np.sin(turn)
    return np.stack([major * c**2 + minor * s**2, (major - minor) * c * s, major * s**2 + minor * c**2], axis=1)


def _stars(electrons: Array, covariance: Array) -> Array:
    """Gaussians (N, 2, 4) as (amplitude, xx, xy, yy) of point sources."""
    parts = [_gaussian(electrons * w, covariance * k**2) for w, k in zip(optics.WEIGHTS, optics.WIDTHS, strict=True)]
    return np.stack(parts, axis=1)


def _discs(electrons: Array, covariance: Array, shape: Array) -> Array:
    """Gaussians (N, 8, 4) of discs seen through the PSF."""
    parts = [
        _gaussian(electrons * w * dw, covariance * k**2 + shape * ds**2)
        for w, k in zip(optics.WEIGHTS, optics.WIDTHS, strict=True)
        for dw, ds in zip(optics.DISC_WEIGHTS, optics.DISC_SIGMAS, strict=True)
    ]
    return np.stack(parts, axis=1)


def _gaussian(electrons: Array, covariance: Array) -> Array:
    """(N, 4): peak value, and the coefficients of dx^2, dx dy, dy^2 in the exponent."""
    xx, xy, yy = covariance.T
    det = xx * yy - xy**2
    return np.stack([electrons / (2.0 * np.pi * np.sqrt(det)), -0.5 * yy / det, xy / det, -0.5 * xx / det], axis=1)


def _add(image: Array, shape: tuple[int, int], x: Array, y: Array, gaussians: Array, half: int) -> None:
    """Add sums of Gaussians (N, K, 4), evaluated at pixel centres in stamps of 2 half + 1 pixels, to the flat image.

    The widths are a pixel or more, so that values at pixel centres add up to the flux (to 1e-8 by Poisson's formula).
    """
    if not len(x):
        return
    column, row = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    step = np.arange(-half, half + 1)
    dx = (column[:, None] + step - x[:, None]).astype(np.float32)[:, None, :]
    dy = (row[:, None] + step - y[:, None]).astype(np.float32)[:, :, None]
    value = np.zeros((len(x), len(step), len(step)), np.float32)
    for k in range(gaussians.shape[1]):
        peak, a, b, c = (gaussians[:, k, i].astype(np.float32)[:, None, None] for i in range(4))
        local = {"value": value, "peak": peak, "a": a, "b": b, "c": c, "dx": dx, "dy": dy}
        value = numexpr.evaluate("value + peak * exp((a * dx + b * dy) * dx + c * dy * dy)", local_dict=local)
    px = (column[:, None] + step)[:, None, :]
    py = (row[:, None] + step)[:, :, None]
    inside = (px >= 0) & (px < shape[1]) & (py >= 0) & (py < shape[0])
    flat = (py * shape[1] + px)[inside]
    image += np.bincount(flat, weights=value[inside], minlength=len(image))


def header(plan: Plan, visit: Visit, detector: int) -> dict[str, Any]:
    """Header keys of the raw file, as commanded (nothing of the truth), labelled as synthetic."""
    d = plan.instrument.detector(detector)
    begin = visit.mjd_mid - 0.5 * visit.exposure_time / 86400.0
    utc = erfa.taiutc(MJD_ZERO, begin)
    year, month, day, clock = erfa.d2dtf("UTC", 3, *utc)
    time = f"{clock[0]:02d}:{clock[1]:02d}:{clock[2]:02d}.{clock[3]:03d}"
    return {
        "INSTRUME": plan.instrument_name,
        "SIMULATE": True,
        "ORIGIN": "synthetic, made by the simulator of multisite-drp",
        "EXPID": visit.visit,
        "DAYOBS": visit.day_obs,
        "SEQNUM": visit.seq_num,
        "DETECTOR": detector,
        "DETNAME": d.name,
        "IMGTYPE": "science",
        "OBJECT": f"tract {visit.tract}",
        "FILTER": visit.physical_filter,
        "EXPTIME": visit.exposure_time,
        "DATE-OBS": f"{year:04d}-{month:02d}-{day:02d}T{time}",
        "TIMESYS": "UTC",
        "MJD-MID": visit.mjd_mid,
        "RA": visit.ra,
        "DEC": visit.dec,
        "ROTPA": visit.rotation,
        "AIRMASS": visit.airmass,
        "GAIN": d.gain,
        "RDNOISE": d.read_noise,
        "SEED": plan.settings.seed,
    }
