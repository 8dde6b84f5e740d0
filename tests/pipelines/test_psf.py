"""The PSF model: stamps moved by fractions of a pixel, and what is said of their size."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import erf

from pipelines.psf import PsfModel, shift


def gaussian(fwhm: float, dx: float = 0.0, dy: float = 0.0, half: int = 12) -> np.ndarray:
    """A Gaussian integrated over pixels, (25, 25), sum 1."""
    edges = np.arange(-half, half + 2) - 0.5
    s = np.sqrt(2.0) * fwhm / 2.3548
    px, py = (0.5 * np.diff(erf((edges - d) / s)) for d in (dx, dy))
    return py[:, None] * px[None, :]


@pytest.mark.parametrize("fwhm", [2.2, 3.0, 5.0])
def test_shift_moves_stamps_without_changing_flux_or_shape(fwhm):
    rng = np.random.default_rng(1)
    dx, dy = rng.uniform(-0.5, 0.5, (2, 20))
    moved = shift(np.repeat(gaussian(fwhm)[None], 20, axis=0), dx, dy)
    true = np.stack([gaussian(fwhm, x, y) for x, y in zip(dx, dy, strict=True)])
    assert np.abs(moved - true).max() < 0.004 * true.max()
    flux = (moved * true).sum(axis=(1, 2)) / (moved**2).sum(axis=(1, 2))
    assert np.abs(flux - 1.0).max() < 1.5e-3
    assert np.allclose(moved.sum(axis=(1, 2)), 1.0, atol=1e-6)


def test_rendered_stamps_cover_the_star_and_crop_alike():
    model = PsfModel(np.stack([gaussian(2.6), 0.1 * (gaussian(3.0) - gaussian(2.6)), 0 * gaussian(2.6)]), 1, (100, 200))
    x, y = np.array([10.0, 57.3, 150.6]), np.array([5.5, 60.2, 99.9])
    full, x0, y0 = model.rendered(x, y)
    crop, cx0, cy0 = model.rendered(x, y, 6)
    assert np.allclose(full[:, 6:-6, 6:-6], crop, atol=1e-15)
    assert (cx0 - x0 == 6).all() and (cy0 - y0 == 6).all()
    yy, xx = np.mgrid[0:25, 0:25]
    assert np.allclose((full * xx).sum(axis=(1, 2)) + x0, x, atol=1e-3)
    assert np.allclose((full * yy).sum(axis=(1, 2)) + y0, y, atol=1e-3)
    assert np.allclose(model.centred(x, y).sum(axis=(1, 2)), 1.0)


def test_slopes_are_derivatives():
    model = PsfModel(gaussian(2.6)[None], 0, (100, 100))
    x, y, h = np.array([40.2, 50.9]), np.array([30.4, 60.0]), 1e-5
    profile, along_x, along_y = model.rendered_with_slopes(x, y, 6)
    assert np.allclose(profile, model.rendered(x, y, 6)[0])
    right, left = model.rendered(x + h, y, 6)[0], model.rendered(x - h, y, 6)[0]
    assert np.allclose((right - left) / (2 * h), along_x, atol=1e-8)
    up, down = model.rendered(x, y + h, 6)[0], model.rendered(x, y - h, 6)[0]
    assert np.allclose((up - down) / (2 * h), along_y, atol=1e-8)


def test_widths():
    model = PsfModel(gaussian(3.0)[None], 0, (100, 100))
    pixel = np.sqrt(3.0**2 + 2.3548**2 / 12)  # a pixel adds its own width
    assert model.fwhm(50, 50) == pytest.approx(pixel, rel=0.02)
    assert model.sigma(50, 50) == pytest.approx(pixel / 2.3548, rel=0.01)
    assert model.noise_area(50, 50)[0] == pytest.approx(4 * np.pi * (pixel / 2.3548) ** 2, rel=0.02)
