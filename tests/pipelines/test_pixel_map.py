"""The map between the pixels of two images agrees with their WCSs."""

from __future__ import annotations

import numpy as np
import pytest
from difference_sky import SCALE, SIZE, detector_wcs

from pipelines.pixel_map import PixelMap, shared_box
from pipelines.wcs import SkyWcs


def turned(degrees: float) -> SkyWcs:
    """A grid about the same sky as detector_wcs, turned and moved by a fraction of a pixel."""
    angle = np.radians(degrees)
    c, s = float(np.cos(angle)) * SCALE, float(np.sin(angle)) * SCALE
    return SkyWcs(detector_wcs(0, 0, 0).crval, (201.3, 198.6), (-c, s, s, c))


@pytest.mark.parametrize("degrees", [0.0, 2.0, 90.0, 137.0])
def test_the_map_agrees_with_the_two_wcs(degrees: float) -> None:
    source, target = detector_wcs(5, -3, 0.03), turned(degrees)
    pixel_map = PixelMap.between(target, source, (0, SIZE, 0, SIZE))
    x, y = np.random.default_rng(0).uniform(0, SIZE - 1, (2, 100))
    exact = source.sky_to_pixel(*target.pixel_to_sky(x, y))
    np.testing.assert_allclose(pixel_map(x, y), exact, atol=1e-7)
    gx, gy = pixel_map.grid()
    np.testing.assert_allclose([[gx[37, 59]], [gy[37, 59]]], pixel_map([59], [37]), atol=1e-9)
    step = 1e-3
    slope = np.subtract(pixel_map([60 + step], [80]), pixel_map([60 - step], [80]))[:, 0] / (2 * step)
    np.testing.assert_allclose(pixel_map.affine(60, 80)[0][:, 0], slope, atol=1e-6)
    areas = np.abs(np.linalg.det(pixel_map.affine(x.astype(int), y.astype(int))))
    np.testing.assert_allclose(pixel_map.area()[y.astype(int), x.astype(int)], areas, atol=1e-9)


def test_a_single_pixel_has_a_map_with_slopes() -> None:
    source, target = detector_wcs(0, 0, 0.0), turned(0.0)
    pixel_map = PixelMap.between(target, source, (7, 8, 3, 4))
    assert pixel_map.grid()[0].shape == (1, 1)
    assert pixel_map.area()[0, 0] == pytest.approx(1.0, abs=0.01)
    assert pixel_map.has(np.array([7, 8]), np.array([3, 3])).tolist() == [True, False]


def test_the_shared_box_holds_every_pixel_that_both_have() -> None:
    source, target = detector_wcs(90, -60, 0.3), turned(0.0)
    box = shared_box(target, (SIZE, SIZE), source, (SIZE, SIZE), margin=0)
    assert box is not None
    y, x = np.mgrid[0:SIZE, 0:SIZE]
    sx, sy = source.sky_to_pixel(*target.pixel_to_sky(x, y))
    rows, columns = np.nonzero((sx > -0.5) & (sx < SIZE - 0.5) & (sy > -0.5) & (sy < SIZE - 0.5))
    assert columns.min() - 1 <= box[0] <= columns.min() and columns.max() < box[1] <= columns.max() + 3
    assert rows.min() - 1 <= box[2] <= rows.min() and rows.max() < box[3] <= rows.max() + 3
    far = SkyWcs((180.0, -60.0), (200.0, 200.0), (-SCALE, 0.0, 0.0, SCALE))
    assert shared_box(far, (SIZE, SIZE), source, (SIZE, SIZE)) is None
