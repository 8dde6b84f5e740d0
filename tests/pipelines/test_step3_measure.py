"""measure_objects: sources found, separated and measured without bias; rows as declared."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from scipy.spatial import cKDTree
from step3_scene import PATCH, SKYMAP, TRACT, Sky, gaussian_psf, image_inputs, paint, random_sky

import schemas
from pipelines import skymap
from pipelines.image import MASK, Image
from pipelines.quantum import NoWork, Quantum
from pipelines.step3 import measure
from pipelines.step3.detect import Field, core_amplitude, find_peaks
from pipelines.step3.fit import Stamps, errors, model, solve

COLOURS = {"g": 0.6, "r": 1.0, "i": 1.3}
SIGMA = {"g": 1.30, "r": 1.20, "i": 1.10}
NOISE = 300.0  # nJy per pixel


def coadd_of(sky: Sky, band: str, seed: int | None, shape: tuple[int, int] = (426, 426)) -> Image:
    """A coadd as assemble_coadd leaves it, with white noise."""
    wcs = skymap.load(SKYMAP).patch_wcs(TRACT, PATCH)
    x, y = wcs.sky_to_pixel(sky.ra, sky.dec)
    image = np.zeros(shape)
    paint(image, x, y, sky.flux * COLOURS.get(band, 1.0), np.hypot(SIGMA.get(band, 1.2), sky.radius / 5.0))
    variance = NOISE**2 + np.maximum(image, 0.0) * 20.0
    if seed is not None:
        image = np.random.default_rng(seed).normal(image, np.sqrt(variance))
    meta = {"band": band, "skymap": SKYMAP, "tract": TRACT, "patch": PATCH, "x0": 336, "y0": 336}
    return Image(image.astype(np.float32), variance.astype(np.float32), np.zeros(shape, np.int16), wcs,
                 gaussian_psf(SIGMA.get(band, 1.2), 0.0, shape), meta)  # fmt: skip


def run(root: Path, coadds: list[Image], **config: object) -> pa.Table:
    quantum = Quantum("m", "measure_objects", {"skymap": SKYMAP, "tract": TRACT, "patch": PATCH}, config)
    table = measure.run(quantum, image_inputs(root, "deep_coadd", coadds))["object"]
    assert isinstance(table, pa.Table)
    return table


def of_children(table: pa.Table, sky: Sky) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """For each true source: distance to the nearest row that is no parent; that row's values."""
    children = table.filter(pa.compute.invert(pa.compute.is_in(table["objectId"], table["parentObjectId"])))
    x, y = skymap.load(SKYMAP).tract_wcs(TRACT).sky_to_pixel(sky.ra, sky.dec)
    places = np.stack([children["x"].to_numpy(), children["y"].to_numpy()], 1)
    distance, row = cKDTree(places).query(np.stack([x, y], 1))
    return distance, {name: children[name].to_numpy()[row] for name in children.column_names}


def sources_at(*places: tuple[float, float, float], radius: float = 0.0) -> Sky:
    """Sources at patch pixels (x, y) with a flux each."""
    x, y, flux = np.array(places, float).T
    ra, dec = skymap.load(SKYMAP).patch_wcs(TRACT, PATCH).pixel_to_sky(x, y)
    return Sky(ra, dec, flux, np.full(len(flux), radius))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sky, pa.Table]:
    sky = random_sky(800, seed=5, flux=(5e3, 3e6))
    return sky, run(tmp_path_factory.mktemp("crowded"), [coadd_of(sky, band, seed=n) for n, band in enumerate("gri")])


def matched(sky: Sky, table: pa.Table) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """For each true source: distance to the next one, distance to its row, whether it is in the inner box; rows."""
    primary = table.filter(table["detect_isPrimary"])
    rows = {name: primary[name].to_numpy() for name in primary.column_names}
    x, y = skymap.load(SKYMAP).tract_wcs(TRACT).sky_to_pixel(sky.ra, sky.dec)
    alone = cKDTree(np.stack([x, y], 1)).query(np.stack([x, y], 1), k=2)[0][:, 1]
    distance, row = cKDTree(np.stack([rows["x"], rows["y"]], 1)).query(np.stack([x, y], 1))
    inner = (x > 366) & (x < 731) & (y > 366) & (y < 731)
    return alone, distance, inner, {name: values[row] for name, values in rows.items()}


def test_rows_are_as_declared(crowded: tuple[Sky, pa.Table]) -> None:
    _, table = crowded
    declared = schemas.table("object").arrow
    assert table.column_names == [name for name in declared.names if name != "site"]
    assert all(table.schema.field(n).type == declared.field(n).type for n in table.column_names)
    ids = table["objectId"].to_numpy()
    assert len(np.unique(ids)) == len(ids)
    assert np.all(ids >> 40 == TRACT) and np.all((ids >> 32) & 255 == PATCH)
    assert table["z_psfFlux"].null_count == table.num_rows


def test_found_and_nothing_invented(crowded: tuple[Sky, pa.Table]) -> None:
    sky, table = crowded
    alone, distance, inner, rows = matched(sky, table)
    bright = inner & (sky.flux > 12 * np.median(rows["r_psfFluxErr"]))
    assert np.mean(distance[bright & (alone > 6)] < 1.0) > 0.98
    assert np.mean(distance[bright & (alone > 3)] < 1.0) > 0.95
    primary = table.filter(table["detect_isPrimary"])
    truth = cKDTree(np.stack(skymap.load(SKYMAP).tract_wcs(TRACT).sky_to_pixel(sky.ra, sky.dec), 1))
    far = truth.query(np.stack([primary["x"].to_numpy(), primary["y"].to_numpy()], 1))[0] > 2.0
    assert far.sum() <= 3


@pytest.mark.parametrize("band", ["g", "r", "i"])
def test_unblended_stars_are_unbiased(crowded: tuple[Sky, pa.Table], band: str) -> None:
    sky, table = crowded
    alone, distance, inner, rows = matched(sky, table)
    truth = sky.flux * COLOURS[band]
    for kind in ("psfFlux", "apFlux"):
        use = inner & (distance < 1) & (alone > 10) & (truth > 50 * rows[f"{band}_psfFluxErr"])
        ratio = rows[f"{band}_{kind}"][use] / truth[use]
        assert use.sum() > 40
        assert abs(np.median(ratio) - 1.0) < 0.004
    use = inner & (distance < 1) & (alone > 8) & (truth > 10 * rows[f"{band}_psfFluxErr"])
    pull = (rows[f"{band}_psfFlux"] - truth)[use] / rows[f"{band}_psfFluxErr"][use]
    assert 0.75 < 1.4826 * np.median(np.abs(pull - np.median(pull))) < 1.3
    assert np.mean(rows["refExtendedness"][use]) < 0.03


def test_close_pairs_are_separated(tmp_path: Path) -> None:
    """Pairs of 3 to 4.5 pixels and up to 10:1 in flux; the fainter one is right to a few per cent."""
    places = []
    for n in range(8):
        for m in range(8):
            x, y, angle, apart = 45.3 + 45 * n, 45.6 + 45 * m, 0.7 * (n + 8 * m), 3.2 + 0.2 * (m % 7)
            places += [(x, y, 4e5), (x + apart * np.cos(angle), y + apart * np.sin(angle), 4e5 / (1 + 9 * (n / 7)))]
    sky = sources_at(*places)
    table = run(tmp_path, [coadd_of(sky, band, seed=n) for n, band in enumerate("ri")])
    distance, rows = of_children(table, sky)
    assert np.mean(distance < 0.5) > 0.95
    ratio, error = rows["r_psfFlux"] / sky.flux, rows["r_psfFluxErr"] / sky.flux
    found = distance < 0.5
    assert abs(np.median(ratio[found]) - 1.0) < 0.01
    assert np.median(np.abs(ratio[found] - 1.0) / error[found]) < 1.5
    assert np.all(np.isfinite(rows["parentObjectId"][found]))
    assert np.median(rows["blendedness"][1::2]) > np.median(rows["blendedness"][::2])


def test_parents_are_rows_that_do_not_count(tmp_path: Path) -> None:
    sky = sources_at((200.0, 200.0, 3e5), (204.0, 200.5, 2e5), (100.2, 120.4, 3e5))
    table = run(tmp_path, [coadd_of(sky, "r", seed=1)])
    assert table.num_rows == 4
    parent = table.slice(3)
    number = parent["objectId"][0].as_py()
    assert table["parentObjectId"].to_pylist() == [None, number, number, None]
    assert table["detect_isPrimary"].to_pylist() == [True, True, True, False]
    assert parent["r_apFlux"][0].as_py() == pytest.approx(5e5, rel=0.15)
    assert 536 < parent["x"][0].as_py() < 540


def test_galaxies_are_extended_and_spare_their_neighbours(tmp_path: Path) -> None:
    galaxies = sources_at(*((50.4 + 60 * i, 51.1 + 60 * j, 1.5e6) for i in range(6) for j in range(6)), radius=8.0)
    stars = sources_at(*((57.0 + 60 * i, 54.0 + 60 * j, 2e5) for i in range(6) for j in range(6)))
    names = ("ra", "dec", "flux", "radius")
    sky = Sky(*(np.concatenate([getattr(galaxies, name), getattr(stars, name)]) for name in names))
    table = run(tmp_path, [coadd_of(sky, "r", seed=3), coadd_of(sky, "i", seed=4)])
    distance, rows = of_children(table, sky)
    assert np.mean(distance < 1.0) > 0.95
    extended = rows["refExtendedness"]
    assert extended[:36].mean() > 0.95 and extended[36:].mean() < 0.2
    ratio = rows["r_psfFlux"][36:] / stars.flux
    assert abs(np.median(ratio) - 1.0) < 0.05
    assert np.all(rows["r_apFlux"][:36] > rows["r_psfFlux"][:36])


def test_missing_data_flags_and_edges(tmp_path: Path) -> None:
    sky = sources_at((100.0, 100.0, 3e5), (200.0, 200.0, 3e5), (300.0, 300.0, 3e5), (1.0, 250.0, 3e5),
                     (350.0, 120.0, 3e5))  # fmt: skip
    r, g = coadd_of(sky, "r", seed=1), coadd_of(sky, "g", seed=2)
    g.image[90:110, 90:110] = g.variance[90:110, 90:110] = np.nan
    g.mask[90:110, 90:110] |= np.int16(MASK["NO_DATA"])
    r.mask[199:202, 199:202] |= np.int16(MASK["SAT"])
    for image in (r, g):
        image.mask[119:122, 349:352] |= np.int16(MASK["SAT"])
        image.image[119:122, 349:352] = 1e4
    g.image[290:300, :] = g.variance[290:300, :] = np.nan
    table = run(tmp_path, [g, r])
    row = {round(x - 336): n for n, x in enumerate(table["x"].to_pylist())}
    first, second, third, edge, both = (table.slice(row[x], 1).to_pylist()[0] for x in (100, 200, 300, 1, 350))
    assert first["g_psfFlux"] is None and first["g_psfFlux_flag"] and not first["r_psfFlux_flag"]
    assert first["r_psfFlux"] == pytest.approx(3e5, rel=0.03)
    assert second["r_psfFlux_flag"] and second["refBand"] == "g" and not second["flag_saturated"]
    # A saturated star is measured by its wings.
    for star in (second, both):
        assert abs(star["r_psfFlux"] - 3e5) < 4 * star["r_psfFluxErr"] < 2e5
    assert both["flag_saturated"]
    assert third["g_psfFlux"] == pytest.approx(3e5 * 0.6, rel=0.05)
    assert edge["flag_edge"] and not edge["detect_isPrimary"] and not first["flag_edge"]
    assert table["i_psfFlux"].null_count == table.num_rows


def test_primary_is_in_exactly_one_patch(tmp_path: Path) -> None:
    sky = sources_at((30.5, 200.0, 3e5), (28.5, 260.0, 3e5), (396.5, 330.0, 3e5), (394.5, 100.0, 3e5))
    table = run(tmp_path, [coadd_of(sky, "r", seed=1)])
    got = dict(zip(np.round(table["y"].to_numpy() - 336).tolist(), table["detect_isPrimary"].to_pylist(), strict=True))
    assert got == {200.0: True, 260.0: False, 330.0: False, 100.0: True}


def test_same_coadds_same_rows(tmp_path: Path) -> None:
    coadds = [coadd_of(random_sky(150, seed=9), band, seed=n) for n, band in enumerate("gr")]
    assert run(tmp_path / "a", coadds).equals(run(tmp_path / "b", coadds))


def test_nothing_to_do_and_unknown_band(tmp_path: Path) -> None:
    empty = coadd_of(sources_at((1.0, 1.0, 0.0)), "r", seed=None)
    with pytest.raises(NoWork, match="nothing is detected"):
        run(tmp_path / "a", [empty])
    blank = coadd_of(sources_at((1.0, 1.0, 0.0)), "r", seed=None)
    blank.image[:] = np.nan
    with pytest.raises(NoWork, match="no coadd"):
        run(tmp_path / "b", [blank])
    with pytest.raises(ValueError, match="band 'K' has no columns"):
        run(tmp_path / "c", [coadd_of(sources_at((1.0, 1.0, 1.0)), "K", seed=1)])


def test_errors_are_those_of_the_full_covariance() -> None:
    """Against the dense inverse, for a chain of overlapping stars."""
    x, y = 20.0 + 2.7 * np.arange(6), np.full(6, 20.3)
    psf = gaussian_psf(1.2, 0.0, (40, 60))
    design = Stamps.of(psf, x, y, 7).matrix(np.ones((40, 60), bool))
    variance = np.random.default_rng(1).uniform(1, 4, (40, 60)).astype(np.float32)
    flux = np.array([5.0, 9, 2, 7, 3, 8])
    amplitude, normal = solve(design, model(design, flux, (40, 60)))
    assert amplitude == pytest.approx(flux, rel=1e-5)
    dense = design.toarray()
    inverse = np.linalg.inv(dense @ dense.T)
    full = np.sqrt(np.diag(inverse @ (dense * variance.ravel()) @ dense.T @ inverse))
    assert errors(design, normal, variance) == pytest.approx(full, rel=1e-5)


def test_core_amplitude_ignores_a_slope() -> None:
    y, x = np.mgrid[0:41, 0:41].astype(float)
    star = 50.0 * np.exp(-0.5 * ((x - 20) ** 2 + (y - 20) ** 2) / 1.2**2)
    amplitude, _ = core_amplitude((star + 30.0 * x + 500.0).astype(np.float32), 1.2)
    assert amplitude[20, 20] == pytest.approx(50.0, rel=0.01)
    assert abs(amplitude[8, 20]) < 0.5


def test_faint_star_beside_a_bright_one_is_a_peak() -> None:
    psf = gaussian_psf(1.2, 0.0, (80, 80))
    image = np.zeros((80, 80))
    paint(image, np.array([40.0, 44.3]), np.array([40.0, 41.0]), np.array([2000.0, 150.0]), np.full(2, 1.2))
    every = np.ones((80, 80), bool)
    field = Field(image.astype(np.float32), np.ones((80, 80), np.float32), every, ~every, psf)
    peaks = find_peaks(field, 5.0)
    assert np.allclose(sorted(peaks.x), [40.0, 44.3], atol=1.0)
    assert peaks.footprints.max() == 1
