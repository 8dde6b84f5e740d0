"""make_warp: flux, noise, PSF and mask survive the resampling; what cannot be used does not enter."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from step3_scene import SIZE, Sky, Visit, expose, random_sky, warp_inputs

from pipelines.image import MASK, Image
from pipelines.quantum import NoWork
from pipelines.settings import SettingsError
from pipelines.step3 import warp


def warped(root: Path, visit: Visit, image: Image, **changes: object) -> Image:
    result = warp.run(*warp_inputs(root, visit, image, **changes))["direct_warp"]
    assert isinstance(result, Image)
    return result


def psf_fluxes(image: Image, sky: Sky) -> tuple[np.ndarray, np.ndarray]:
    """PSF fluxes of sources that are alone, with all of their stamp on data, over the truth; and which sources."""
    assert image.wcs is not None and image.psf is not None
    x, y = image.wcs.sky_to_pixel(sky.ra, sky.dec)
    apart = np.hypot(x[:, None] - x, y[:, None] - y) + 99.0 * np.eye(len(x))
    ny, nx = image.shape
    inside = (np.abs(x - nx / 2) < nx / 2 - 16) & (np.abs(y - ny / 2) < ny / 2 - 16)
    which = np.flatnonzero(inside & (apart.min(axis=1) > 14))
    ratio = []
    for n, stamp, x0, y0 in zip(which, *image.psf.rendered(x[which], y[which]), strict=True):
        data = image.image[y0 : y0 + len(stamp), x0 : x0 + len(stamp)]
        ratio.append(np.sum(data * stamp) / np.sum(stamp**2) / sky.flux[n])
    finite = np.isfinite(ratio)
    return np.array(ratio)[finite], which[finite]


@pytest.mark.parametrize(("rotation", "scale"), [(1.0, 5.0), (37.0, 5.0), (180.0, 5.0), (90.0, 4.5)])
def test_flux_and_psf_survive(tmp_path: Path, rotation: float, scale: float) -> None:
    sky = random_sky(250, seed=1, flux=(1e5, 3e6))
    visit = Visit(1, sigma=1.1, psf_slope=0.1, rotation=rotation, scale=scale)
    image = warped(tmp_path, visit, expose(sky, visit, size=500))
    ratio, _ = psf_fluxes(image, sky)
    assert len(ratio) > 50
    assert abs(np.median(ratio) - 1.0) < 0.004
    assert np.std(ratio) < 0.004
    assert image.meta["BUNIT"] == "nJy" and image.meta["x0"] == 336 and image.meta["band"] == "r"


def test_variance_is_what_a_psf_flux_sees(tmp_path: Path) -> None:
    """Pure noise: the scatter of PSF fluxes over many places is what the variance plane predicts."""
    visit = Visit(2, sigma=1.2, rotation=20.0, scale=4.0)
    nothing = Sky(*(np.zeros(0) for _ in range(4)))
    image = warped(tmp_path, visit, expose(nothing, visit, seed=5, size=760))
    assert image.psf is not None
    stamp = image.psf.centred(213.0, 213.0)[0]
    half = len(stamp) // 2
    places = [(y, x) for y in range(20, 400, 13) for x in range(20, 400, 13)]
    cut = [(slice(y - half, y + half + 1), slice(x - half, x + half + 1)) for y, x in places]
    flux = np.array([np.sum(image.image[c] * stamp) for c in cut])
    error = np.sqrt(np.mean([np.sum(image.variance[c] * stamp**2) for c in cut]))
    assert np.std(flux) == pytest.approx(error, rel=0.08)
    assert image.meta["weight"] == pytest.approx(1.0 / np.median(image.variance))


def test_bad_pixels_leave_no_trace_beyond_their_mask(tmp_path: Path) -> None:
    sky = random_sky(60, seed=3)
    visit = Visit(3, rotation=0.5)
    clean = expose(sky, visit)
    dirty = expose(sky, visit)
    rng = np.random.default_rng(0)
    rows, columns = rng.integers(10, SIZE - 10, (2, 300))
    dirty.image[rows, columns] = np.where(rng.random(300) < 0.5, np.nan, 1e7)
    dirty.mask[rows, columns] |= np.int16(MASK["CR"])
    a = warped(tmp_path / "a", visit, clean)
    b = warped(tmp_path / "b", visit, dirty)
    lost = np.isnan(b.image) & np.isfinite(a.image)
    assert 300 < lost.sum() < 300 * 12
    assert np.all(b.mask[lost] & MASK["NO_DATA"])
    both = np.isfinite(b.image)
    # The light of stars under the filled pixels is known only roughly; on sky nothing remains of 1e7.
    difference = np.abs(b.image - a.image)[both] / np.sqrt(a.variance[both])
    assert np.percentile(difference, 99.9) < 0.5 and difference.max() < 30


def test_saturated_pixels_are_kept_and_marked(tmp_path: Path) -> None:
    visit = Visit(4)
    image = expose(random_sky(5, seed=3), visit)
    image.mask[200:203, 200:203] |= np.int16(MASK["SAT"])
    result = warped(tmp_path, visit, image)
    assert 4 <= np.count_nonzero(result.mask & MASK["SAT"]) <= 16
    assert np.all(np.isfinite(result.image[(result.mask & MASK["SAT"]) != 0]))


def test_no_work_without_calibration_or_overlap(tmp_path: Path) -> None:
    visit = Visit(5, photometric=False)
    image = expose(random_sky(5, seed=3), visit)
    with pytest.raises(NoWork, match="calibration"):
        warped(tmp_path / "a", visit, image, zeroPointErr=0.2)
    with pytest.raises(NoWork, match="calibration"):
        warped(tmp_path / "b", visit, image, zeroPoint=None)
    assert warped(tmp_path / "c", visit, image, zeroPointErr=0.02).meta["photometric"] is False
    far = replace(visit, offset=(2000.0, 0.0), photometric=True)
    with pytest.raises(NoWork, match="usable pixel"):
        warped(tmp_path / "d", far, expose(random_sky(5, seed=3), far))


def test_a_sliver_of_a_patch_has_a_psf(tmp_path: Path) -> None:
    visit = Visit(9, offset=(-425.0, 0.0))
    image = warped(tmp_path, visit, expose(random_sky(50, seed=3), visit))
    good = np.isfinite(image.image)
    assert 100 < good.sum() < 426 * 30 and not good[:, 42].any()
    assert image.psf is not None and image.psf.order == 0
    assert image.psf.centred(5.0, 200.0)[0].max() == pytest.approx(1 / (2 * np.pi * visit.sigma**2), rel=0.03)


def test_unknown_setting_is_named(tmp_path: Path) -> None:
    visit = Visit(6)
    quantum, inputs = warp_inputs(tmp_path, visit, expose(random_sky(5, seed=3), visit))
    with pytest.raises(SettingsError, match=r"make_warp: unknown setting 'psf_grit'"):
        warp.run(replace(quantum, config={"psf_grit": 3}), inputs)


def test_same_input_same_bytes(tmp_path: Path) -> None:
    visit = Visit(7, rotation=12.0)
    image = expose(random_sky(100, seed=4), visit, seed=1)
    for name in ("a", "b"):
        warped(tmp_path / name, visit, image).write(tmp_path / f"{name}.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
