"""The rings skymap against published numbers, and as a partition of the sky."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

import schemas
from pipelines.skymap import RingsSkyMap, SkyMapError, load
from pipelines.wcs import deproject

NAMES = ("hsc_rings_v1", "lsst_cells_v1", "demo_rings", "sara_rings")


def sky(count: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Uniform positions on the sphere, and as many crowded around the poles and around RA 0."""
    random = np.random.default_rng(seed)
    ra = random.uniform(0.0, 360.0, 3 * count)
    dec = np.degrees(np.arcsin(random.uniform(-1.0, 1.0, 3 * count)))
    dec[count : 2 * count] = np.where(random.random(count) < 0.5, 1, -1) * (90.0 - 5.0 * random.random(count) ** 2)
    ra[2 * count :] = random.normal(0.0, 1e-3, count) % 360.0
    return ra, dec


@pytest.fixture(params=NAMES)
def skymap(request: pytest.FixtureRequest) -> RingsSkyMap:
    return load(request.param)


def test_published_size_and_patches() -> None:
    sizes = {name: (load(name).tracts, load(name).patches_per_side, load(name).width) for name in NAMES}
    assert sizes == {
        "hsc_rings_v1": (18938, 9, 36000), "lsst_cells_v1": (18938, 10, 30000),
        "demo_rings": (18938, 3, 1098), "sara_rings": (18938, 10, 10000),
    }  # fmt: skip


def test_published_tract_centres(skymap: RingsSkyMap) -> None:
    ra, dec = skymap.tract_centre([9469, 9470])
    np.testing.assert_allclose(ra, [0.0, 1.4815], atol=5e-5)
    np.testing.assert_allclose(dec, 0.7438, atol=5e-5)
    # The other tracts of the six-tract test: two pairs of neighbours in the next ring to the north.
    ra, dec = skymap.tract_centre([9941, 9942, 9948, 9949])
    np.testing.assert_allclose(ra, [340.6612, 342.1488, 351.0744, 352.5620], atol=5e-5)
    np.testing.assert_allclose(dec, 2.2314, atol=5e-5)


def test_well_known_fields(skymap: RingsSkyMap) -> None:
    """ECDFS, Abell 360 (Rubin DP1) and COSMOS (HSC) are in the tracts in which their data were released."""
    found = skymap.find_tract([53.13, 37.865, 150.12], [-28.10, 6.982, 2.21])
    assert found.tolist() == [5063, 10463, 9813]


def test_published_patch_corners() -> None:
    """Inner corners of lsst_cells_v1 tract 1234, patch 56, as the skymap_convert package prints Rubin's."""
    ra = [353.19436746094334, 353.5462936615678, 353.54818789227375, 353.19815518019567]
    dec = [-61.733705740129906, -61.73505840062234, -61.568395336612376, -61.567052069980534]
    lsst = load("lsst_cells_v1")
    x0, y0, x1, y1 = lsst.inner_box(56)
    x, y = lsst.tract_wcs(1234).sky_to_pixel(ra, dec)
    np.testing.assert_allclose(x, [x1 + 0.5, x0 - 0.5, x0 - 0.5, x1 + 0.5], atol=1e-6)
    np.testing.assert_allclose(y, [y0 - 0.5, y0 - 0.5, y1 + 0.5, y1 + 0.5], atol=1e-6)


def test_every_position_is_in_exactly_one_inner_region(skymap: RingsSkyMap) -> None:
    ra, dec = sky(5000)
    everything = np.arange(skymap.tracts)
    ra_min, ra_max, dec_min, dec_max = skymap.inner_bounds(everything)
    # Counted from the declared bounds, not from find_tract, for a sample small enough for all pairs.
    sample = slice(None, None, 37)
    a, d = ra[sample, None], dec[sample, None]
    holds = ((a - ra_min) % 360.0 < ra_max - ra_min) & (d >= dec_min) & (d < dec_max)
    assert (holds.sum(axis=1) == 1).all()
    np.testing.assert_array_equal(holds.argmax(axis=1), skymap.find_tract(ra, dec)[sample])
    assert skymap.in_inner_region(skymap.find_tract(ra, dec), ra, dec).all()
    neighbour = (skymap.find_tract(ra, dec) + 1) % skymap.tracts
    assert not skymap.in_inner_region(neighbour, ra, dec).any()


def test_inner_region_is_inside_the_tract_image(skymap: RingsSkyMap) -> None:
    """Wherever a position is, the tract it belongs to has a pixel and a patch for it."""
    ra, dec = sky(5000, seed=2)
    tract = skymap.find_tract(ra, dec)
    patch = skymap.find_patch(tract, ra, dec)
    if skymap.name == "demo_rings":  # too narrow for the curved rings near the poles, see the module's text
        ra, dec, tract, patch = (column[np.abs(dec) < 75.0] for column in (ra, dec, tract, patch))
    assert (patch >= 0).all()
    box = skymap.inner_box(patch)
    for n in range(0, len(ra), 997):
        x, y = skymap.tract_wcs(tract[n]).sky_to_pixel(ra[n], dec[n])
        assert box[n, 0] - 0.5 <= x <= box[n, 2] + 0.5
        assert box[n, 1] - 0.5 <= y <= box[n, 3] + 0.5


def test_tract_centres_find_their_tract(skymap: RingsSkyMap) -> None:
    everything = np.arange(skymap.tracts)
    np.testing.assert_array_equal(skymap.find_tract(*skymap.tract_centre(everything)), everything)
    assert skymap.ring_of(0) == (-1, 0)
    assert skymap.ring_of(skymap.tracts - 1) == (skymap.rings, 0)


def test_right_ascension_wraps_at_zero() -> None:
    demo = load("demo_rings")
    assert demo.find_tract([359.9999, 0.0, 360.0, -0.0001, 720.1], [0.5] * 5).tolist() == [9469] * 5
    assert demo.find_tract([359.2, 0.8], [0.5, 0.5]).tolist() == [9711, 9470]
    west, east = demo.inner_bounds(9469)[:2]
    assert west == -east < 0.0


def test_ring_edges_and_poles() -> None:
    demo = load("demo_rings")
    edge = np.degrees(0.5 * demo.ring_height)
    assert demo.find_tract([0.0, 123.0], [-90.0, 90.0]).tolist() == [0, demo.tracts - 1]
    assert demo.find_tract(0.0, 90.0 - 1.01 * edge) == demo.tracts - 1 - demo.ring_tracts[-1]
    # Around a cap every direction is inside its image.
    angle = np.linspace(0.0, 360.0, 73)
    assert (demo.find_patch(demo.tracts - 1, angle, 90.0 - 0.999 * edge) >= 0).all()


def test_inner_boxes_tile_the_tract(skymap: RingsSkyMap) -> None:
    box = skymap.inner_box(np.arange(skymap.patches_per_side**2))
    size = skymap.patch_inner
    assert (box[:, 2:] - box[:, :2] + 1 == size).all()
    cells = set(map(tuple, (box[:, :2] // size).tolist()))
    assert len(cells) == skymap.patches_per_side**2
    assert box.min() == 0 and box.max() == skymap.width - 1


def test_outer_boxes_are_clipped_for_rings_not_for_cells() -> None:
    assert load("hsc_rings_v1").outer_box([0, 40, 80]).tolist() == [
        [0, 0, 4099, 4099], [15900, 15900, 20099, 20099], [31900, 31900, 35999, 35999],
    ]  # fmt: skip
    assert load("lsst_cells_v1").outer_box(0).tolist() == [-200, -200, 3199, 3199]


def test_patch_wcs_shares_pixels_with_the_tract() -> None:
    demo = load("demo_rings")
    x0, y0, _, _ = demo.outer_box(4)
    ra, dec = demo.tract_wcs(9470).pixel_to_sky(500.0, 600.0)
    x, y = demo.patch_wcs(9470, 4).sky_to_pixel(ra, dec)
    np.testing.assert_allclose([x + x0, y + y0], [500.0, 600.0], atol=1e-8)


def test_records_have_the_declared_schema_and_agree_with_the_wcs() -> None:
    demo = load("demo_rings")
    tracts, patches = demo.tract_records([9470, 9469, 9470, 0]), demo.patch_records([9470, 9469])
    for name, table in (("skymap", demo.skymap_record()), ("tract", tracts), ("patch", patches)):
        schemas.check(name, table.schema)
    assert tracts["tract"].to_pylist() == [0, 9469, 9470]
    assert patches.num_rows == 18
    row = patches.slice(9 + 5).to_pylist()[0]
    assert (row["tract"], row["patch"]) == (9470, 5)
    wcs = demo.tract_wcs(9470)
    edges = [(row["x0"] - 0.5, row["y0"] - 0.5), (row["x1"] + 0.5, row["y0"] - 0.5),
             (row["x1"] + 0.5, row["y1"] + 0.5), (row["x0"] - 0.5, row["y1"] + 0.5)]  # fmt: skip
    for n, (x, y) in enumerate(edges):
        np.testing.assert_allclose([row[f"ra{n}"], row[f"dec{n}"]], wcs.pixel_to_sky(x, y), atol=1e-10)


def test_tracts_touching_a_footprint() -> None:
    demo = load("demo_rings")
    ra, dec = demo.tract_centre(9469)
    corners = {}
    for n, (x, y) in enumerate([(-0.2, -0.2), (0.2, -0.2), (0.2, 0.2), (-0.2, 0.2)]):
        corners[f"ra{n}"], corners[f"dec{n}"] = (np.atleast_1d(c) for c in deproject(x, y, ra, dec))
    assert demo.tracts_touching(pa.table(corners)).tolist() == [9469]
    # On the corner between tracts: two of this ring, and those of the ring to the south that meet them.
    for n, (x, y) in enumerate([(-0.2, -0.2), (0.2, -0.2), (0.2, 0.2), (-0.2, 0.2)]):
        corners[f"ra{n}"], corners[f"dec{n}"] = (np.atleast_1d(c) for c in deproject(x, y, 0.7407, 0.0))
    assert demo.tracts_touching(pa.table(corners)).tolist() == [9226, 9227, 9469, 9470]


def test_errors_name_the_thing(tmp_path) -> None:
    with pytest.raises(SkyMapError, match=r"no skymap 'hsc'; known: demo_rings, hsc_rings_v1, lsst_cells_v1, sara_rings"):
        load("hsc")
    demo = load("demo_rings")
    with pytest.raises(SkyMapError, match="no tract 18938: its tracts are 0 to 18937"):
        demo.tract_centre([3, 18938])
    with pytest.raises(SkyMapError, match="no patch 9"):
        demo.inner_box(9)
    configuration = tmp_path / "skymaps.yaml"
    configuration.write_text("mine: {rings: 120, overlap: 0.1, pixel_scale: 1.0, patch_inner: 100, border: 3}")
    with pytest.raises(SkyMapError, match="skymap 'mine' has an unknown key 'border'"):
        load("mine", configuration)
