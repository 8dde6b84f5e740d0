"""Where the sources are: detection and simultaneous fits of positions, on the image that combines the bands."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.step3.config import MeasureConfig
from pipelines.step3.detect import Array, Field, background, find_peaks
from pipelines.step3.fit import IntArray, offsets
from pipelines.step3.scene import added_variance, fit_scene


def sizes(field: Field, config: MeasureConfig) -> tuple[int, float]:
    """Half-size of the stamps and radius of the aperture for a PSF, pixels."""
    sigma = field.psf.width
    return min(field.psf.size // 2, int(np.ceil(config.stamp * sigma))), config.aperture * sigma


def is_broad(width: Array, error: Array, config: MeasureConfig) -> NDArray[np.bool_]:
    """Which sources are significantly broader than the PSF, from added_variance."""
    return (width > config.extended_sigma * error) & (width > config.extended_width)


@dataclass(frozen=True)
class Located:
    """Per source (N,), in raster order: position, footprint number, whether it is modelled as extended."""

    x: Array
    y: Array
    footprint: IntArray
    broad: NDArray[np.bool_]


def locate(field: Field, config: MeasureConfig) -> Located:
    """The sources in the detection image.

    After each round of the fit, sources are moved, dropped (no signal left, or on top of another), judged to be
    extended or not, and the background below all of them is renewed. After the second, when extended sources are
    modelled as such, the residuals are searched for what hid beside brighter sources.
    """
    peaks = find_peaks(field, config.threshold)
    x, y, broad = peaks.x, peaks.y, np.zeros(len(peaks.x), bool)
    half, _ = sizes(field, config)
    for turn in range(config.rounds):
        if not len(x):
            break
        scene = fit_scene(field, x, y, broad, half)
        valid = scene.stamps.take(field.valid)
        dx, dy = offsets(scene.stamps, scene.cutouts, valid)
        x, y = x + dx, y + dy
        values = scene.stamps.values * valid
        power = np.maximum((values**2).sum(axis=(1, 2)), 1e-30)
        flux = (values * scene.cutouts).sum(axis=(1, 2)) / power
        keep = (flux > 3.0 * field.noise / np.sqrt(power)) & apart(x, y, flux, config.min_distance)
        broad = is_broad(*added_variance(field, scene.stamps, scene.cutouts, valid), config)
        x, y, broad = x[keep], y[keep], broad[keep]
        level = background(scene.left, field.valid, config.background_mesh)
        if turn == 1:
            rest = replace(field, image=np.where(field.valid, scene.left - level, np.float32(0)))
            more = find_peaks(rest, config.threshold, scene.fitted, config.doubt)
            # What was taken for an extended source may be two: those beside a new one are judged anew.
            broad = np.concatenate([broad & ~beside(x, y, more.x, more.y, half), np.zeros(len(more.x), bool)])
            x, y = np.concatenate([x, more.x]), np.concatenate([y, more.y])
        field = replace(field, image=np.where(field.valid, field.image - level, np.float32(0)))
    order = np.lexsort((x, y))
    x, y = x[order], y[order]
    return Located(x, y, footprints_at(peaks.footprints, x, y), broad[order])


def beside(x: Array, y: Array, new_x: Array, new_y: Array, reach: float) -> NDArray[np.bool_]:
    """Which positions (N,) have one of the new positions (M,) within ``reach`` pixels."""
    if not len(new_x):
        return np.zeros(len(x), bool)
    nearest, _ = cKDTree(np.stack([new_x, new_y], axis=1)).query(np.stack([x, y], axis=1))
    return np.asarray(nearest < reach)


def footprints_at(footprints: IntArray, x: Array, y: Array) -> IntArray:
    """The footprint that each position (N,) lies in; one that lies in none has one of its own."""
    row = np.clip(np.floor(y + 0.5).astype(np.int64), 0, footprints.shape[0] - 1)
    column = np.clip(np.floor(x + 0.5).astype(np.int64), 0, footprints.shape[1] - 1)
    label = footprints[row, column].astype(np.int64)
    return np.where(label > 0, label, -1 - np.arange(len(x)))


def apart(x: Array, y: Array, amplitude: Array, distance: float) -> NDArray[np.bool_]:
    """False for the fainter of two sources closer than ``distance``."""
    pairs = cKDTree(np.stack([x, y], axis=1)).query_pairs(distance, output_type="ndarray")
    keep = np.ones(len(x), bool)
    first, second = pairs[:, 0], pairs[:, 1]
    keep[np.where(amplitude[first] < amplitude[second], first, second)] = False
    return keep
