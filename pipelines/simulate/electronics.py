"""The detectors: what they do to light and charge, as maps that are fixed for a camera, a filter or a flat epoch.

All maps are (height, width) float32 of imaging pixels and depend on the seed and the names alone; each process keeps
them.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from pipelines.instrument import Detector
from pipelines.simulate.settings import generator
from pipelines.simulate.survey import Plan

Map = NDArray[np.float32]
#: Saturated pixels sit this much above the level from which the instrument calls them saturated (ADU).
ABOVE_SATURATION = 700.0


def _grid(d: Detector) -> tuple[Map, Map]:
    """Columns and rows scaled to [-1, 1], broadcastable."""
    x = np.linspace(-1.0, 1.0, d.width, dtype=np.float32)[None, :]
    y = np.linspace(-1.0, 1.0, d.height, dtype=np.float32)[:, None]
    return x, y


@lru_cache(maxsize=512)
def defects(plan: Plan, detector: int) -> NDArray[np.int8]:
    """0 good, 1 dead (little response), 2 hot (large dark current), 3 bad column (both)."""
    s, d = plan.settings, plan.instrument.detector(detector)
    rng = generator(s.seed, "defects", plan.instrument_name, detector)
    flags = np.zeros((d.height, d.width), np.int8)
    flags[rng.integers(0, d.height, s.dead_pixels), rng.integers(0, d.width, s.dead_pixels)] = 1
    flags[rng.integers(0, d.height, s.hot_pixels), rng.integers(0, d.width, s.hot_pixels)] = 2
    for column, row in zip(
        rng.integers(0, d.width, s.bad_columns).tolist(), rng.integers(0, d.height, s.bad_columns).tolist(), strict=True
    ):
        flags[row:, column] = 3
    return flags


@lru_cache(maxsize=512)
def bias_structure(plan: Plan, detector: int) -> Map:
    """ADU that stay after the overscan is subtracted: column pattern, slope, glow in a corner."""
    d = plan.instrument.detector(detector)
    rng = generator(plan.settings.seed, "bias", plan.instrument_name, detector)
    x, y = _grid(d)
    columns = rng.normal(0.0, 1.5, (1, d.width)).astype(np.float32)
    slope = rng.normal(0.0, 2.0, 2).astype(np.float32)
    glow = 6.0 * np.exp(-((x - 1.0) ** 2 + (y - 1.0) ** 2) / 0.05)
    return np.asarray(columns + slope[0] * x + slope[1] * y + glow, np.float32)


@lru_cache(maxsize=512)
def dark_rate(plan: Plan, detector: int) -> Map:
    """Dark current, e-/s: a level with a glow along one edge, hot pixels and columns."""
    s, d = plan.settings, plan.instrument.detector(detector)
    rng = generator(s.seed, "dark", plan.instrument_name, detector)
    x, y = _grid(d)
    rate = s.dark_current * (1.0 + 0.2 * x + 1.5 * np.exp(-(y + 1.0) / 0.2))
    flags = defects(plan, detector)
    hot = np.flatnonzero(flags >= 2)
    rate = rate.astype(np.float32)
    rate.ravel()[hot] += 10 ** rng.uniform(0.5, 1.8, len(hot)).astype(np.float32)
    return np.asarray(rate)


@lru_cache(maxsize=512)
def response(plan: Plan, epoch: int, physical_filter: str, detector: int) -> Map:
    """Fraction of the light that is counted, about 1: efficiency, pixels, vignetting, illumination pattern, dust.

    The illumination pattern and the dust drift from one flat epoch to the next.
    """
    seed, camera = plan.settings.seed, plan.instrument
    d = camera.detector(detector)
    x, y = _grid(d)
    fixed = generator(seed, "response", camera.name, detector)
    pixels = fixed.normal(1.0, 0.01, (d.height, d.width)).astype(np.float32)
    efficiency = 1.0 + generator(seed, "efficiency", camera.name, physical_filter, detector).normal(0.0, 0.03)
    scale = camera.pixel_scale / 3600.0
    fx, fy = d.x_centre + 0.5 * d.width * scale * x, d.y_centre + 0.5 * d.height * scale * y
    edge = max(float(np.hypot(c.x_centre, c.y_centre)) for c in camera.detectors) + 0.2
    pattern = generator(seed, "illumination", camera.name, physical_filter, epoch).normal(0.0, 0.012, 4)
    u, v = fx / edge, fy / edge
    smooth = 1.0 - 0.12 * (u**2 + v**2) + pattern[0] * u + pattern[1] * v + pattern[2] * u * v + pattern[3] * (u**2 - v**2)
    total = pixels * (np.float32(efficiency) * smooth.astype(np.float32))
    places = generator(seed, "dust", camera.name, detector)
    drift = generator(seed, "dust drift", camera.name, detector, epoch)
    for _ in range(4):
        cx, cy = places.uniform(0, d.width) + drift.normal(0, 8.0), places.uniform(0, d.height) + drift.normal(0, 8.0)
        radius, depth = places.uniform(0.03, 0.06) * d.width, places.uniform(0.01, 0.04) * drift.uniform(0.7, 1.3)
        r = np.hypot(np.arange(d.width) - cx, (np.arange(d.height) - cy)[:, None]) / radius
        total *= (1.0 - depth * np.exp(-((r - 0.75) ** 2) / 0.06)).astype(np.float32)
    flags = defects(plan, detector)
    total[flags == 1] *= 0.03
    total[flags == 3] *= 0.3
    return np.asarray(total)


def flat_error(plan: Plan, epoch: int, detector: int) -> tuple[float, float, float]:
    """What flats get wrong in an epoch (stray light, another spectrum): offset and slopes in x, y of the logarithm."""
    rms = plan.settings.illumination_error / 1.0857
    offset, sx, sy = generator(plan.settings.seed, "flat error", plan.instrument_name, epoch, detector).normal(0.0, rms, 3)
    return float(offset), float(0.2 * sx), float(0.2 * sy)


def flat_error_map(plan: Plan, epoch: int, detector: int) -> Map:
    """The factor (about 1) by which flat and response differ."""
    x, y = _grid(plan.instrument.detector(detector))
    offset, sx, sy = flat_error(plan, epoch, detector)
    return np.exp(offset + sx * x + sy * y).astype(np.float32)


@lru_cache(maxsize=64)
def flat_mean(plan: Plan, epoch: int, physical_filter: str) -> float:
    """Mean of a flat over the good pixels of the focal plane, before it is normalised."""
    total, pixels = 0.0, 0
    for d in plan.instrument.detectors:
        good = defects(plan, d.detector) == 0
        flat = response(plan, epoch, physical_filter, d.detector) * flat_error_map(plan, epoch, d.detector)
        total += float(flat[good].sum(dtype=np.float64))
        pixels += int(good.sum())
    return total / pixels


def full_well(plan: Plan, detector: Detector) -> float:
    """Electrons that a pixel holds before it bleeds."""
    return (detector.saturation + ABOVE_SATURATION - plan.settings.bias_level) * detector.gain


def bleed(charge: Map, full: float) -> None:
    """Move charge above ``full`` along its column, half up and half down, in place; what runs off the edge is lost."""
    rows, columns = np.nonzero(charge > full)
    if not len(rows):
        return
    order = np.lexsort((rows, columns))
    rows, columns = rows[order], columns[order]
    starts = np.flatnonzero(np.r_[True, (np.diff(columns) != 0) | (np.diff(rows) != 1)])
    ends = np.r_[starts[1:], len(rows)] - 1
    for first, last in zip(starts.tolist(), ends.tolist(), strict=True):
        column = charge[:, columns[first]]
        low, high = int(rows[first]), int(rows[last])
        excess = float((column[low : high + 1] - full).sum())
        column[low : high + 1] = full
        _fill(column[high + 1 :], 0.5 * excess, full)
        _fill(column[:low][::-1], 0.5 * excess, full)


def _fill(cells: Map, amount: float, full: float) -> None:
    room = np.cumsum(np.maximum(full - cells, 0.0), dtype=np.float64)
    n = int(np.searchsorted(room, amount))
    if n < len(cells):
        cells[n] += amount - (room[n - 1] if n else 0.0)
    np.maximum(cells[:n], full, out=cells[:n])


def cosmic_rays(rng: np.random.Generator, mean: float, shape: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Flat pixel numbers and electrons of straight tracks: a pixel to tens of pixels long, mostly short."""
    n = int(rng.poisson(mean))
    x, y, angle = rng.uniform(0, shape[1], n), rng.uniform(0, shape[0], n), rng.uniform(0, 2 * np.pi, n)
    length = rng.exponential(5.0, n)
    energy = rng.lognormal(np.log(1800.0), 0.5, n)  # electrons per pixel of path
    step = 0.25
    samples = np.maximum(np.ceil(length / step), 2).astype(np.int64)
    track = np.repeat(np.arange(n), samples)
    along = step * (np.arange(samples.sum()) - np.repeat(np.cumsum(samples) - samples, samples))
    px = np.floor(x[track] + along * np.cos(angle[track])).astype(np.int64)
    py = np.floor(y[track] + along * np.sin(angle[track])).astype(np.int64)
    inside = (px >= 0) & (px < shape[1]) & (py >= 0) & (py < shape[0])
    return (py * shape[1] + px)[inside], (step * energy[track])[inside].astype(np.float32)
