"""Isolated stars: pure, complete, each in one tract, whatever the order of the rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from step2b_sky import MAP, Sky, TableInputs, make, shuffled

import schemas
from pipelines.quantum import NoWork, Quantum
from pipelines.step2b import associate, cells


def run(sky: Sky, tract: int = 9469, inputs: dict[str, pa.Table] | None = None, **config: float) -> dict[str, pa.Table]:
    quantum = Quantum("q", "associate_isolated_stars", {"skymap": MAP.name, "tract": tract}, {"skymap": MAP.name, **config})
    return associate.run(quantum, TableInputs(inputs or sky.inputs))


@pytest.fixture(scope="module")
def sky() -> Sky:
    return make()


@pytest.fixture(scope="module")
def result(sky: Sky) -> dict[str, pa.Table]:
    return run(sky)


def test_payloads_are_as_declared(result: dict[str, pa.Table]) -> None:
    for name, rows in result.items():
        schemas.check(
            name, rows.append_column("site", pa.array(["A"] * rows.num_rows)).select(schemas.table(name).arrow.names).schema
        )


def test_a_star_is_one_star(sky: Sky, result: dict[str, pa.Table]) -> None:
    rows = result["isolated_star_association"]
    true = np.array([sky.star_of_source[s] for s in rows["sourceId"].to_pylist()])
    pairs = np.unique(np.stack([rows["isolatedStarId"].to_numpy(), true]), axis=1)
    assert len(np.unique(pairs[0])) == pairs.shape[1] == len(np.unique(pairs[1]))
    assert result["isolated_star"].num_rows > 500
    assert np.array_equal(np.unique(rows["isolatedStarId"]), np.unique(result["isolated_star"]["isolatedStarId"]))


def test_positions_are_right_on_both_sides_of_ra_zero(sky: Sky, result: dict[str, pa.Table]) -> None:
    stars = result["isolated_star"]
    ra = stars["coord_ra"].to_numpy()
    assert ra.min() >= 0 and ra.max() < 360 and np.sum(ra < 1) > 100 and np.sum(ra > 359) > 100
    first = {
        s: sky.star_of_source[q]
        for s, q in zip(*(result["isolated_star_association"][c].to_pylist() for c in ("isolatedStarId", "sourceId")), strict=True)
    }
    true = np.array([first[s] for s in stars["isolatedStarId"].to_pylist()])
    off = 3600 * np.hypot((ra - sky.ra[true] + 180) % 360 - 180, stars["coord_dec"].to_numpy() - sky.dec[true])
    assert np.quantile(off, 0.95) < 1.0  # of pixels of 5 arcsec with WCSs that are off by 0.2 pixel


def test_ids_follow_declination(result: dict[str, pa.Table]) -> None:
    stars = result["isolated_star"]
    assert stars["isolatedStarId"].to_pylist() == [9469 * 2**32 + n for n in range(stars.num_rows)]
    assert np.all(np.diff(stars["coord_dec"].to_numpy()) >= 0)


def test_no_star_has_a_neighbour(sky: Sky, result: dict[str, pa.Table]) -> None:
    stars = result["isolated_star"]
    vectors = cells.unit_vectors(stars["coord_ra"].to_numpy(), stars["coord_dec"].to_numpy())
    assert not cells.crowded(vectors, 5.0 * 5.0).any()
    assert run(sky, isolation_pixels=20.0)["isolated_star"].num_rows < 0.5 * stars.num_rows


def test_a_tenth_is_reserved(result: dict[str, pa.Table]) -> None:
    assert 0.05 < np.mean(result["isolated_star"]["reserved"].to_numpy(zero_copy_only=False)) < 0.16


def test_order_of_rows_does_not_matter(sky: Sky, result: dict[str, pa.Table]) -> None:
    again = run(sky, inputs={name: shuffled(rows) for name, rows in sky.inputs.items()})
    assert all(again[name].equals(result[name]) for name in result)


def test_neighbouring_tracts_share_out_the_stars() -> None:
    sky = make(tracts=(9469, 9470), visits=10, density=500.0, references=False)
    parts = [run(sky, tract)["isolated_star"] for tract in (9469, 9470)]
    both = pa.concat_tables(parts)
    ra, dec = both["coord_ra"].to_numpy(), both["coord_dec"].to_numpy()
    assert np.array_equal(MAP.find_tract(ra, dec), both["tract"].to_numpy())
    assert not cells.crowded(cells.unit_vectors(ra, dec), 25.0).any()  # none twice
    border = np.abs(ra - 0.5 * 1.4815) < 0.1
    assert border.sum() > 20  # and none missing between them


def test_a_visit_that_sees_two_sources_in_one_place_rules_the_star_out(sky: Sky) -> None:
    stars = sky.inputs["single_visit_star"]
    twin = stars.slice(0, 1)
    ids = pa.array([int(stars["sourceId"].to_numpy().max()) + 1])
    twin = twin.set_column(twin.column_names.index("sourceId"), twin.schema.field("sourceId"), ids)
    result = run(sky, inputs={**sky.inputs, "single_visit_star": pa.concat_tables([stars, twin])})
    assert twin["sourceId"][0].as_py() not in result["isolated_star_association"]["sourceId"].to_pylist()
    assert stars["sourceId"][0].as_py() not in result["isolated_star_association"]["sourceId"].to_pylist()


def test_nothing_to_do(sky: Sky) -> None:
    with pytest.raises(NoWork, match="no detection"):
        run(sky, inputs={"preliminary_visit_summary": sky.inputs["preliminary_visit_summary"]})


def test_unknown_setting_is_named(sky: Sky) -> None:
    with pytest.raises(ValueError, match=r"associate_isolated_stars.*'isolation'.*isolation_pixels"):
        run(sky, isolation=3.0)


@pytest.mark.parametrize("dec", [-89.9999, -45.0, 0.0, 60.0, 89.9999])
def test_cells_close_the_sphere(dec: float) -> None:
    """Detections scattered by half a radius are one star anywhere on the sphere, at RA 0 and at the poles too."""
    rng = np.random.default_rng(2)
    ra = rng.uniform(-1, 1, 400) * 0.3 / 3600 / np.cos(np.radians(dec))
    label = cells.group(np.mod(ra, 360), dec + rng.uniform(-1, 1, 400) * 0.3 / 3600, 1.0)
    assert np.all(label == 0)
    assert len(np.unique(cells.group([359.9999, 0.0001], [0.0, 0.0], 0.5))) == 2
