"""Resampling: positions, flux, noise, masks and PSFs survive a change of pixels."""

from __future__ import annotations

import numpy as np
import pytest
from difference_sky import SCALE, SIZE, Sources, Visit, detector_wcs, field_sources, moffat_psf, observe, render

from pipelines.image import MASK, Image
from pipelines.photometry import forced
from pipelines.pixel_map import PixelMap, shared_box
from pipelines.psf import PsfModel
from pipelines.resample import carried_psf, carried_size, lanczos3, resample
from pipelines.wcs import SkyWcs

NOTHING = Sources(np.zeros(0), np.zeros(0), np.zeros(0))


def turned(degrees: float, scale: float = SCALE) -> SkyWcs:
    """A grid about the same sky as detector_wcs, turned and moved by a fraction of a pixel."""
    angle = np.radians(degrees)
    c, s = float(np.cos(angle)) * scale, float(np.sin(angle)) * scale
    return SkyWcs(detector_wcs(0, 0, 0).crval, (201.3, 198.6), (-c, s, s, c))


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
        carried_psf(psf, PixelMap.between(turned(angle), source, (0, SIZE, 0, SIZE)), x, y, 25)[0] for angle in (0.0, 90.0)
    )
    assert same.sum() == pytest.approx(1.0)
    turned_back = min(np.abs(np.rot90(same, k) - quarter).max() for k in (1, 3))
    assert turned_back < 1e-3 * same.max() < np.abs(same - quarter).max()


def test_constants_stay_and_smooth_waves_are_followed() -> None:
    y, x = np.mgrid[0:80, 0:90].astype(float)
    wave = np.cos(2 * np.pi * x / 9) * np.cos(2 * np.pi * y / 11)
    at_x, at_y = np.random.default_rng(1).uniform(5, 70, (2, 40_000))
    assert lanczos3(np.full((80, 90), 7, np.float32), at_x, at_y) == pytest.approx(7.0, abs=1e-5)
    expected = np.cos(2 * np.pi * at_x / 9) * np.cos(2 * np.pi * at_y / 11)
    assert np.abs(lanczos3(wave.astype(np.float32), at_x, at_y) - expected).max() < 0.02
    at = np.arange(10.0)
    assert np.array_equal(lanczos3(wave.astype(np.float32), at, at), wave.astype(np.float32)[range(10), range(10)])


def test_a_psf_is_what_a_resampled_star_looks_like() -> None:
    """Stars of a narrow PSF, resampled: their mean is the PSF carried over, which is broader than the detector's own."""
    source, psf = detector_wcs(0, 0, 0.0), moffat_psf(2.6, 0.1, 0.0, 3)
    target = turned(25.0, 0.95 * SCALE)
    step = np.arange(40.0, 360.0, 32.0) + np.random.default_rng(0).uniform(-0.5, 0.5, 10)
    x, y = (grid.ravel() for grid in np.meshgrid(step, step))
    stars = Sources(*source.pixel_to_sky(x, y), np.full(len(x), 1e6))
    image = observe(Visit(1, source, psf), NOTHING)
    image.image, image.mask[:] = render((SIZE, SIZE), source, psf, stars).astype(np.float32), 0
    result = resample(image, target, (SIZE, SIZE))
    pixel_map = PixelMap.between(target, source, (0, SIZE, 0, SIZE))
    px, py = target.sky_to_pixel(stars.ra, stars.dec)
    near = (np.abs(px - 200) < 150) & (np.abs(py - 200) < 150)
    model = PsfModel(carried_psf(psf, pixel_map, [200.0], [200.0], 25), 0, (SIZE, SIZE))
    drawn, x0, y0 = model.rendered(px[near], py[near], 6)
    seen = np.stack([result.image[row : row + 13, column : column + 13] for column, row in zip(x0, y0, strict=True)]) / 1e6
    excess = np.abs((seen - drawn).mean(axis=0)).max() / drawn.max()
    assert near.sum() > 30 and excess < 0.004
    assert carried_size(25, pixel_map) == 27
    assert model.width > 1.05 * psf.width
