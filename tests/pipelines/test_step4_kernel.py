"""The parts of difference imaging: kernel basis and fit, peaks, holes of the template."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.signal import fftconvolve

from pipelines.image import MASK, Image
from pipelines.psf import PsfModel
from pipelines.step4 import peaks
from pipelines.step4.matching_kernel import Basis, Stamps, fit
from pipelines.step4.template import template_for
from pipelines.wcs import SkyWcs

SHAPE = (300, 300)


def gaussian(width: float, half: int, ellipticity: float = 0.0) -> np.ndarray:
    y, x = np.mgrid[-half : half + 1, -half : half + 1]
    stamp = np.exp(-0.5 * (x**2 * (1 + ellipticity) + y**2 * (1 - ellipticity)) / width**2)
    return stamp / stamp.sum()


def test_basis_functions_convolve_as_their_images_do() -> None:
    basis = Basis.gaussians(6, (0.6, 1.2), (3, 1))
    kernels = basis.kernels()
    assert kernels.shape == (10 + 3, 13, 13)
    np.testing.assert_allclose(kernels.sum(axis=(1, 2)), [1] + [0] * 12, atol=1e-12)
    stamps = np.random.default_rng(0).normal(size=(2, 31, 31))
    convolved = basis.convolved(stamps)
    for k, kernel in enumerate(kernels):
        np.testing.assert_allclose(convolved[k, 1], fftconvolve(stamps[1], kernel, mode="valid"), atol=1e-10)


def stamps(n: int, seed: int, noise: float, stars: bool = True) -> Stamps:
    """Pairs whose kernel is elliptical, with flux scale 0.9 + 0.1 X (X from -1 to 1 along x)."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(20, 280, (2, n))
    flux = rng.uniform(50, 200, n) * (2.0 if stars else 0.01)
    kernel = gaussian(0.9, 6, 0.1)
    scale = 0.9 + 0.1 * (2 * x / (SHAPE[1] - 1) - 1)
    sharp = flux[:, None, None] * gaussian(1.0, 16)
    broad = np.stack([fftconvolve(s, kernel, mode="valid") for s in sharp]) * scale[:, None, None]
    if stars:
        broad = broad + rng.normal(0, 5, n)[:, None, None]  # backgrounds differ from star to star
    broad = broad + rng.normal(0, noise, broad.shape)
    return Stamps(sharp, broad, np.full(broad.shape, 1 / max(noise, 1e-3) ** 2), x, y, stars)


def empty(stars: bool) -> Stamps:
    nothing = stamps(1, 0, 0.1)
    parts = (nothing.sharp, nothing.broad, nothing.weight, nothing.x, nothing.y)
    return Stamps(*(part[:0] for part in parts), stars=stars)


def test_a_kernel_that_varies_is_found_and_variable_stars_are_dropped() -> None:
    given = stamps(40, 1, 0.05)
    given.broad[:4] *= 1.5
    kernel = fit(Basis.gaussians(6, (0.6, 1.2, 2.4), (3, 2, 0)), given, empty(False), 1, SHAPE)
    assert kernel.stars == 36
    left, right = kernel.at(0.0, 150.0)[0], kernel.at(299.0, 150.0)[0]
    assert left.sum() == pytest.approx(0.8, abs=0.01)
    assert right.sum() == pytest.approx(1.0, abs=0.01)
    np.testing.assert_allclose(right, gaussian(0.9, 6, 0.1), atol=0.01)


def test_models_decide_where_there_are_no_stars() -> None:
    kernel = fit(Basis.gaussians(6, (0.6, 1.2, 2.4), (3, 2, 0)), empty(True), stamps(16, 2, 0.0, stars=False), 1, SHAPE)
    assert kernel.stars == 0
    assert kernel.at(149.5, 149.5).sum() == pytest.approx(0.9, abs=0.01)
    with pytest.raises(ValueError, match="no star"):
        fit(Basis.gaussians(6, (1.0,), (0,)), empty(True), empty(False), 1, SHAPE)


def test_peaks_count_once() -> None:
    plane = np.zeros((50, 60))
    plane[10, 20], plane[11, 21], plane[30, 0], plane[31, 3], plane[40, 40:42] = 9, 8, 7, 6, 5
    y, x = peaks.local_maxima(plane, 4, 2)
    assert list(zip(y.tolist(), x.tolist(), strict=True)) == [(10, 20), (30, 0), (31, 3), (40, 40)]
    nothing = peaks.local_maxima(plane, 99, 2)
    assert len(nothing[0]) == 0
    assert peaks.cutouts(plane, np.array([0]), np.array([30]), 1)[0].tolist() == [[0, 0, 0], [0, 7, 0], [0, 0, 0]]


def test_stars_are_chosen_all_over_the_image() -> None:
    rng = np.random.default_rng(3)
    x, y = rng.integers(0, 150, (2, 500))  # crowded in one quarter, few elsewhere
    x, y = np.append(x, [200, 250]), np.append(y, [220, 30])
    chosen = peaks.spread_out(x, y, np.append(rng.uniform(10, 20, 500), [1, 2]), SHAPE, cells=4, most=64)
    assert {500, 501} <= set(chosen.tolist())
    cells = (y[chosen] * 4 // 300) * 4 + x[chosen] * 4 // 300
    assert np.bincount(cells).max() == 4


def test_small_holes_of_a_template_are_filled_and_large_ones_are_not() -> None:
    wcs = SkyWcs((10.0, 5.0), (150.0, 150.0), (-1e-3, 0.0, 0.0, 1e-3))
    half = gaussian(1.2, 12)
    psf_stamps = half[None]
    patch = Image(
        np.full(SHAPE, 5, np.float32), np.ones(SHAPE, np.float32), np.zeros(SHAPE, np.int16), wcs,
        PsfModel(psf_stamps, 0, SHAPE), {"x0": 0, "y0": 0},
    )  # fmt: skip
    for box in (np.s_[100:104, 100:105], np.s_[200:220, 200:220]):
        patch.image[box] = np.nan
        patch.mask[box] |= MASK["NO_DATA"]
    template = template_for([patch], wcs.shifted(20.3, 10.6), (200, 240), 25)
    assert template is not None
    small, large = np.s_[89:94, 79:85], np.s_[192:200, 182:196]
    assert not template.bad(MASK["NO_DATA"])[small].any() and template.bad(MASK["INTERPOLATED"])[small].any()
    np.testing.assert_allclose(template.image[small], 5, atol=0.01)
    assert template.bad(MASK["NO_DATA"])[large].all()
    assert template.psf is not None
    np.testing.assert_allclose(template.psf.centred(100, 100)[0], half, atol=2e-3)
