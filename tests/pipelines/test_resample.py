"""Resampling: positions, flux, noise, masks and PSFs survive a change of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from difference_sky import SCALE, SIZE, Sources, Visit, detector_wcs, field_sources, moffat_psf, observe, render

from pipelines.image import MASK, Image
from pipelines.photometry import forced
from pipelines.resample import PixelMap, lanczos_weights, resample, shared_box, spread, warped_psf
from pipelines.wcs import SkyWcs

NOTHING = Sources(np.zeros(0), np.zeros(0), np.zeros(0))


def turned(degrees: float, scale: float = SCALE) -> SkyWcs:
    """A grid about the same sky as detector_wcs, turned and moved by a fraction of a pixel."""
    angle = np.radians(degrees)
    c, s = float(np.cos(angle)) * scale, float(np.sin(angle)) * scale
    return SkyWcs(detector_wcs(0, 0, 0).crval, (201.3, 198.6), (-c, s, s, c))


@pytest.mark.parametrize("degrees", [0.0, 2.0, 90.0, 137.0])
def test_the_map_agrees_with_the_two_wcs(degrees: float) -> None:
    source, target = detector_wcs(5, -3, 0.03), turned(degrees)
    pixel_map = PixelMap.between(target, source, (0, SIZE, 0, SIZE))
    x, y = np.random.default_rng(0).uniform(0, SIZE - 1, (2, 100))
    exact = source.sky_to_pixel(*target.pixel_to_sky(x, y))
    np.testing.assert_allclose(pixel_map(x, y), exact, atol=1e-6)
    gx, gy = pixel_map.grid()
    np.testing.assert_allclose([gx[37, 59], gy[37, 59]], pixel_map(59, 37), atol=1e-9)
    step = 1e-3
    slope = (np.array(pixel_map(60 + step, 80)) - np.array(pixel_map(60 - step, 80))) / (2 * step)
    np.testing.assert_allclose(pixel_map.affine(60, 80)[0][:, 0], slope, atol=1e-6)
    area = abs(np.linalg.det(pixel_map.affine(60, 80)[0]))
    assert pixel_map.jacobian()[80, 60] == pytest.approx(area, abs=1e-9)


@pytest.mark.parametrize("degrees", [0.0, 90.0, 33.0])
def test_flux_and_position_of_stars_are_kept(degrees: float) -> None:
    visit = Visit(1, detector_wcs(0, 0, 0.01), moffat_psf(2.6, 0.05, 0.05, 2))
    stars = field_sources(3, 60, 0, faint=1e5, bright=1e6)
    image = observe(visit, NOTHING)
    image.image = render((SIZE, SIZE), visit.wcs, visit.psf, stars).astype(np.float32)
    image.mask[:] = 0
    target = turned(degrees, SCALE * 1.1)
    result = resample(image, target, (SIZE, SIZE))
    px, py = target.sky_to_pixel(stars.ra, stars.dec)
    apart = np.hypot(px[:, None] - px, py[:, None] - py) + 99 * np.eye(len(px))
    inside = [result.bad(MASK["NO_DATA"])[int(b) - 9 : int(b) + 10, int(a) - 9 : int(a) + 10].sum() == 0
              for a, b in zip(px.clip(10, 389), py.clip(10, 389), strict=True)]  # fmt: skip
    near = (px > 10) & (px < 389) & (py > 10) & (py < 389) & (apart.min(axis=1) > 20) & np.array(inside)
    assert near.sum() > 5
    for x, y, flux in zip(px[near], py[near], stars.flux[near], strict=True):
        column, row = round(x), round(y)
        box = result.image[row - 8 : row + 9, column - 8 : column + 9].astype(float)
        assert box.sum() / flux == pytest.approx(1.0, abs=0.02)
        dy, dx = np.mgrid[-8:9, -8:9]
        assert column + (box * dx).sum() / box.sum() == pytest.approx(x, abs=0.05)
        assert row + (box * dy).sum() / box.sum() == pytest.approx(y, abs=0.05)


def test_errors_of_psf_fluxes_after_resampling() -> None:
    """Noise only: fluxes measured through the PSF scatter as the variance plane says, correlated as the pixels are."""
    visit = Visit(5, detector_wcs(0, 0, 0.05), moffat_psf(2.8, 0.0, 0.0, 1))
    target = turned(10.0, SCALE * 1.2)
    result = resample(observe(visit, NOTHING), target, (SIZE, SIZE))
    result.psf = moffat_psf(2.4, 0.0, 0.0, 1)
    fluxes = forced(result, *np.random.default_rng(1).uniform(60, 340, (2, 3000)))
    good = ~fluxes.flag
    assert good.sum() > 2000
    assert np.std((fluxes.flux / fluxes.error)[good]) == pytest.approx(1.0, abs=0.08)


def test_bad_pixels_do_not_ring_and_mark_their_neighbours() -> None:
    visit = Visit(5, detector_wcs(0, 0, 0.0), moffat_psf(2.8, 0.0, 0.0, 1))
    image = observe(visit, NOTHING)
    image.image[200, 150] = 1e9
    image.mask[200, 150] |= MASK["CR"]
    image.image[100, 100] = np.nan
    image.mask[100, 100] |= MASK["NO_DATA"]
    result = resample(image, turned(0.0), (SIZE, SIZE))
    sigma = np.sqrt(image.variance[0, 0])
    usable = ~result.bad()
    assert np.abs(result.image[usable]).max() < 8 * sigma
    assert result.bad(MASK["CR"]).sum() in range(4, 17)
    outside = result.bad(MASK["NO_DATA"])
    assert np.isinf(result.variance[outside & (result.image == 0)]).any()


def test_images_that_do_not_meet() -> None:
    source = detector_wcs(0, 0, 0.0)
    far = SkyWcs((180.0, -60.0), (200.0, 200.0), (-SCALE, 0.0, 0.0, SCALE))
    assert shared_box(far, (SIZE, SIZE), source, (SIZE, SIZE)) is None
    image = Image(np.ones((SIZE, SIZE), np.float32), np.ones((SIZE, SIZE), np.float32), np.zeros((SIZE, SIZE), np.int16), source)
    assert resample(image, far, (SIZE, SIZE)).bad(MASK["NO_DATA"]).all()
    with pytest.raises(ValueError, match="WCS"):
        resample(Image(image.image, image.variance, image.mask), far, (SIZE, SIZE))


def test_a_psf_turns_with_its_image() -> None:
    psf = moffat_psf(2.8, 0.2, 0.0, 4)
    x = y = np.array([200.0])
    source = detector_wcs(0, 0, 0.0)
    same, quarter = (
        warped_psf(psf, PixelMap.between(turned(angle), source, (0, SIZE, 0, SIZE)), x, y, 25)[0] for angle in (0.0, 90.0)
    )
    assert same.sum() == pytest.approx(1.0)
    turned_back = min(np.abs(np.rot90(same, k) - quarter).max() for k in (1, 3))
    assert turned_back < 1e-3 * same.max() < np.abs(same - quarter).max()


def test_weights_sum_to_one_and_interpolate() -> None:
    fraction = np.linspace(0, 1, 101, endpoint=False)
    weights = lanczos_weights(fraction)
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=1e-6)
    np.testing.assert_allclose(weights[:, 0], [0, 0, 1, 0, 0, 0], atol=1e-6)
    wave = np.cos(2 * np.pi * 0.1 * (np.arange(-2, 4)[:, None]))
    np.testing.assert_allclose((weights * wave).sum(0), np.cos(2 * np.pi * 0.1 * fraction), atol=0.01)


@pytest.mark.parametrize("radius", range(7))
def test_spreading_reaches_exactly_the_radius(radius: int) -> None:
    mask = (np.random.default_rng(radius).random((40, 50)) < 0.01).astype(np.int16) * 4
    padded = np.pad(mask, radius)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
    assert np.array_equal(spread(mask, radius), windows.max(axis=(2, 3)))
