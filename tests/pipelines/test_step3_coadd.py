"""assemble_coadd: the constant sky without what comes and goes, and a PSF that is the pixels' own."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from step3_scene import Sky, Visit, coadd_quantum, expose, image_inputs, random_sky, warp_inputs
from test_step3_warp import psf_fluxes

from pipelines.image import MASK, Image
from pipelines.quantum import Inputs, NoWork
from pipelines.step3 import coadd, warp
from pipelines.step3.outliers import median, rejected

VISITS = [
    Visit(10, sigma=1.05, psf_slope=0.05, rotation=0.4, offset=(5.0, -8.0)),
    Visit(11, sigma=1.15, rotation=90.7, offset=(-15.0, 12.0)),
    Visit(12, sigma=1.10, psf_slope=-0.05, rotation=179.2, offset=(9.0, 9.0)),
    Visit(13, sigma=1.30, rotation=2.0, offset=(-3.0, -19.0)),
    Visit(14, sigma=1.20, psf_slope=0.1, rotation=270.5, offset=(14.0, 3.0)),
]


def make_warps(root: Path, sky: Sky, visits: list[Visit], disturb: dict[int, np.ndarray] | None = None) -> list[Image]:
    """Warps of noisy exposures; ``disturb`` adds electrons to the image of a visit."""
    warps = []
    for visit in visits:
        image = expose(sky, visit, seed=visit.visit, size=500)
        if disturb and visit.visit in disturb:
            image.image += disturb[visit.visit].astype(np.float32)
        result = warp.run(*warp_inputs(root / str(visit.visit), visit, image))["direct_warp"]
        assert isinstance(result, Image)
        warps.append(result)
    return warps


def coadds(root: Path, warps: list[Image], **config: object) -> tuple[Image, Image]:
    result = coadd.run(coadd_quantum("r", **config), image_inputs(root / "coadd", "direct_warp", warps))
    deep, template = result["deep_coadd"], result["template_coadd"]
    assert isinstance(deep, Image) and isinstance(template, Image)
    return deep, template


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sky, list[Image], Image, Image]:
    root = tmp_path_factory.mktemp("coadd")
    sky = random_sky(250, seed=1, flux=(3e4, 3e6))
    warps = make_warps(root, sky, VISITS)
    return sky, warps, *coadds(root, warps)


def test_stars_keep_their_flux(scene: tuple[Sky, list[Image], Image, Image]) -> None:
    sky, _, deep, template = scene
    for image in (deep, template):
        ratio, which = psf_fluxes(image, sky)
        bright = sky.flux[which] > 2e5
        assert bright.sum() > 25
        assert abs(np.median(ratio[bright]) - 1.0) < 0.004
        assert np.std(ratio[bright]) < 0.01


def test_nothing_constant_is_rejected(scene: tuple[Sky, list[Image], Image, Image]) -> None:
    _, warps, deep, _ = scene
    every = np.sum([np.isfinite(w.image) for w in warps], axis=0)
    assert np.count_nonzero(every != deep.planes["N_INPUT"]) < 20


def test_the_template_is_sharper_and_the_deep_coadd_deeper(scene: tuple[Sky, list[Image], Image, Image]) -> None:
    _, _, deep, template = scene
    assert (deep.meta["n_input"], template.meta["n_input"]) == (5, 4)
    assert float(template.meta["seeing"]) < float(deep.meta["seeing"])
    assert float(deep.meta["depth"]) > float(template.meta["depth"])
    assert np.nanmedian(deep.variance) < np.nanmedian(template.variance)


def test_variance_and_counts(scene: tuple[Sky, list[Image], Image, Image]) -> None:
    """On empty sky the coadd scatters less than its variance plane says by what interpolation smooths away, no more."""
    _, _, deep, _ = scene
    level = np.nanmedian(deep.image)
    quiet = np.abs(deep.image - level) < 4 * np.sqrt(deep.variance)
    pull = np.std((deep.image - level)[quiet] / np.sqrt(deep.variance)[quiet])
    assert 0.7 < pull < 1.15
    empty = deep.planes["N_INPUT"] == 0
    assert np.array_equal(empty, np.isnan(deep.image)) and np.array_equal(empty, (deep.mask & MASK["NO_DATA"]) != 0)


def test_transients_cosmic_rays_and_trails_do_not_enter(tmp_path: Path) -> None:
    """Point sources in one or two visits of five, missed cosmic rays, a satellite: neither coadd shows them."""
    sky = random_sky(150, seed=2, flux=(3e4, 1e6))
    sky = replace(sky, flux=sky.flux.copy())
    guests = random_sky(40, seed=99, flux=(2e5, 2e6))
    clean_warps = make_warps(tmp_path / "clean", sky, VISITS)
    disturb = {v.visit: np.zeros((500, 500)) for v in VISITS}
    rng = np.random.default_rng(8)
    for n, visit in enumerate(VISITS):
        here = np.arange(40) % 5 == n
        alone = Sky(guests.ra[here], guests.dec[here], guests.flux[here], guests.radius[here])
        disturb[visit.visit] += expose(alone, visit, size=500).image
        rows, columns = rng.integers(20, 480, (2, 15))
        disturb[visit.visit][rows, columns] += rng.uniform(3e3, 3e5, 15)
    disturb[11][np.arange(500), np.arange(500)] += 3000.0
    dirty_warps = make_warps(tmp_path / "dirty", sky, VISITS, disturb)
    pairs = zip(coadds(tmp_path / "clean", clean_warps), coadds(tmp_path / "dirty", dirty_warps), strict=True)
    for clean, dirty in pairs:
        assert clean.psf is not None and clean.wcs is not None
        error = np.sqrt(float(np.nanmedian(clean.variance)) * clean.psf.noise_area(213.0, 213.0)[0])
        x, y = clean.wcs.sky_to_pixel(guests.ra, guests.dec)
        inside = np.flatnonzero((np.abs(x - 213) < 190) & (np.abs(y - 213) < 190))
        left = np.nan_to_num(dirty.image - clean.image)
        flux = []
        for stamp, x0, y0 in zip(*clean.psf.rendered(x[inside], y[inside]), strict=True):
            cut = left[y0 : y0 + len(stamp), x0 : x0 + len(stamp)]
            flux.append(np.sum(cut * stamp) / np.sum(stamp**2))
        # A plain mean would leave a fifth of each guest, S/N 20 to 200; on top of a star nothing can be told.
        assert np.median(np.abs(flux)) < 2.0 * error
        assert np.median(flux / guests.flux[inside]) < 0.02
        assert np.mean(np.abs(left) > 10 * np.sqrt(np.nan_to_num(clean.variance, nan=np.inf))) < 2e-4


def test_of_two_warps_the_quieter_is_believed(tmp_path: Path) -> None:
    sky = random_sky(30, seed=2)
    disturb = {10: np.zeros((500, 500))}
    disturb[10][310, 180:300:20] = 1e5
    warps = make_warps(tmp_path, sky, VISITS[:2], disturb)
    deep, _ = coadds(tmp_path, warps)
    row = int(np.nanargmax(warps[0].image)) // 426
    box = (slice(row - 4, row + 5), slice(0, 426))
    noise = np.sqrt(warps[1].variance[box])
    hit = (np.abs(warps[0].image[box]) > 50 * noise) & (np.abs(warps[1].image[box]) < 5 * noise)
    assert hit.sum() > 20
    # Equal but for the quantisation of files.
    assert np.abs(deep.image[box] - warps[1].image[box])[hit].max() < 0.1 * np.sqrt(np.nanmedian(warps[1].variance))


def test_median_of_few() -> None:
    nan = np.nan
    stack = np.array([[1.0, -9, nan, nan, 90], [5.0, 1, 4, nan, 1], [3.0, nan, nan, nan, 80], [nan, nan, nan, nan, 2]])
    middle, count = median(stack[:, None].astype(np.float32))
    assert count.tolist() == [[3, 2, 1, 0, 4]]
    assert middle[0, [0, 1, 2, 4]].tolist() == [3.0, 1.0, 4.0, 2.0] and np.isnan(middle[0, 3])


def test_rejection_makes_no_holes() -> None:
    """However wildly the warps disagree, a pixel that any of them has keeps one."""
    rng = np.random.default_rng(3)
    stack = (rng.normal(size=(3, 40, 40)) * 10.0 ** rng.uniform(-1, 4, (3, 40, 40))).astype(np.float32)
    stack[:, :5] = np.nan
    stack[1:, 5:20] = np.nan
    stack[2, 20:30] = np.nan
    nothing = np.zeros((40, 40), bool)
    out = rejected(stack, np.ones_like(stack), nothing, np.full(3, 0.1), 5.0, 2.0)
    assert out[:, 20:].sum() > 500 and not out[:, :20].any()
    assert np.array_equal((np.isfinite(stack) & ~out).any(axis=0), np.isfinite(stack).any(axis=0))


def test_hopeless_warps_are_left_out(tmp_path: Path) -> None:
    cloudy = replace(VISITS[4], zero_point=23.0)
    warps = make_warps(tmp_path, random_sky(20, seed=2), [*VISITS[:3], cloudy])
    deep, _ = coadds(tmp_path, warps)
    assert deep.meta["n_input"] == 3


def test_no_warps_no_work(tmp_path: Path) -> None:
    with pytest.raises(NoWork, match="band r"):
        coadd.run(coadd_quantum("r"), Inputs(tmp_path, {}))


def test_files_are_the_same_bytes_and_read_back(tmp_path: Path, scene: tuple[Sky, list[Image], Image, Image]) -> None:
    _, warps, deep, _ = scene
    again, _ = coadds(tmp_path, warps[::-1])
    deep.write(tmp_path / "a.fits")
    again.write(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    back = Image.read(tmp_path / "a.fits")
    assert np.array_equal(back.planes["N_INPUT"], deep.planes["N_INPUT"])
    assert np.array_equal(np.isnan(back.image), np.isnan(deep.image))
    assert back.meta["n_input"] == 5 and back.meta["seeing"] == pytest.approx(deep.meta["seeing"])
