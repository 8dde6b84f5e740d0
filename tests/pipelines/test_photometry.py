"""Forced PSF photometry and units."""

from __future__ import annotations

import numpy as np
import pytest
from difference_sky import Sources, Visit, detector_wcs, moffat_psf, observe

from pipelines.image import MASK
from pipelines.photometry import forced, magnitude, nanojansky_per_electron, rows


def test_units() -> None:
    assert nanojansky_per_electron(31.4) == pytest.approx(1.0)
    np.testing.assert_allclose(magnitude(np.array([1.0, 3631e9])), [31.4, 0.0], atol=2e-4)
    assert np.isnan(magnitude(np.array([-1.0, 0.0]))).all()
    assert 31.4 - 2.5 * np.log10(500 * nanojansky_per_electron(27.0)) == pytest.approx(27.0 - 2.5 * np.log10(500))


def test_fluxes_are_unbiased_and_errors_true() -> None:
    visit = Visit(2, detector_wcs(0, 0, 0.0), moffat_psf(2.6, 0.05, 0.1, 3))
    step = np.arange(20.0, 380.0, 24.0)
    x, y = (g.ravel() for g in np.meshgrid(step, step))
    x, y = x + np.random.default_rng(0).uniform(-0.5, 0.5, (2, len(x)))[0], y + 0.3
    ra, dec = visit.wcs.pixel_to_sky(x, y)
    truth = np.geomspace(1e4, 1e6, len(x))
    result = forced(observe(visit, Sources(ra, dec, truth)), x, y)
    good = ~result.flag
    pull = ((result.flux - truth) / result.error)[good]
    assert good.mean() > 0.9
    assert abs(pull.mean()) < 0.2
    assert pull.std() == pytest.approx(1.0, abs=0.15)
    assert np.median(result.chi2[good]) == pytest.approx(1.0, abs=0.15)


def test_unusable_pixels_lower_the_coverage_and_raise_flags() -> None:
    visit = Visit(2, detector_wcs(0, 0, 0.0), moffat_psf(2.6, 0.0, 0.0, 3))
    x, y = np.array([100.0, 150.0, 1.0, 200.0, 250.0, -50.0]), np.array([100.0, 150.0, 200.0, 200.0, 250.0, 10.0])
    ra, dec = visit.wcs.pixel_to_sky(x, y)
    image = observe(visit, Sources(ra, dec, np.full(6, 1e6)))
    image.mask[150, 151] |= MASK["CR"]
    image.image[150, 151] = 1e9
    image.mask[200, 200] |= MASK["SAT"]
    image.image[240:260, 240:260] = np.nan
    result = forced(image, x, y)
    assert result.coverage[0] == pytest.approx(1.0)
    assert not result.flag[0]
    assert result.flux[1] == pytest.approx(1e6, rel=0.05)
    assert result.coverage[1] < 0.95
    assert result.flag[3] and result.flag[4] and result.flag[5]
    assert np.isnan(result.flux[4]) and np.isnan(result.error[5])
    nothing = forced(image, np.zeros(0), np.zeros(0))
    assert len(nothing.flux) == len(nothing.flag) == 0


def test_rows_have_nulls_for_nan_and_the_declared_types() -> None:
    table = rows(
        "dia_object", 2, {"tract": 5, "skymap": "s"},
        {
            "diaObjectId": np.array([1, 2]), "coord_ra": np.zeros(2), "coord_dec": np.zeros(2), "nDiaSources": np.array([1, 1]),
            "firstDiaSourceMjdTai": np.array([1.0, np.nan]), "lastDiaSourceMjdTai": np.zeros(2),
            "nearestObjectId": np.array([3, 4]), "nearestObjectDist": np.array([np.nan, 1.0]),
        },
    )  # fmt: skip
    assert table["firstDiaSourceMjdTai"].to_pylist() == [1.0, None]
    assert table["nearestObjectDist"].null_count == 1
    assert "site" not in table.column_names
