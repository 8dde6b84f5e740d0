"""Step 5: association that does not depend on order, objects across RA 0, light curves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from difference_sky import (
    TRACT,
    Site,
    Sources,
    Visit,
    coadd,
    detector_wcs,
    field_sources,
    make_visits,
    moffat_psf,
    observe,
)

import schemas
from pipelines import skymap
from pipelines.image import Image
from pipelines.quantum import Inputs, Quantum
from pipelines.step4 import subtract
from pipelines.step5 import associate, light_curves

PIXEL = 5.0 / 3600.0
TRACT_ID = {"skymap": "demo_rings", "tract": TRACT}


def quantum(task: str, **more: object) -> Quantum:
    return Quantum("q", task, TRACT_ID | {"instrument": "TestCam"} | more, {})


def dia_sources(ra: np.ndarray, dec: np.ndarray, visit: np.ndarray, bad: np.ndarray, snr: np.ndarray) -> pa.Table:
    n = len(ra)
    fixed = TRACT_ID | {
        "detector": 4, "instrument": "TestCam", "band": "r", "physical_filter": "r_test", "x": 0.0, "y": 0.0, "isDipole": False,
        "site": "TEST",
    }  # fmt: skip
    columns = {key: [value] * n for key, value in fixed.items()} | {
        "visit": visit, "diaSourceId": 1000 + np.arange(n), "midpointMjdTai": 61000.0 + visit, "coord_ra": ra,
        "coord_dec": dec, "flag_bad": bad, "snr": snr.astype(np.float32),
    }  # fmt: skip
    return schemas.conform("dia_source", pa.table(columns))


def objects(ra: list[float], dec: list[float]) -> pa.Table:
    n = len(ra)
    fixed = TRACT_ID | {"patch": 0, "x": 0.0, "y": 0.0, "refBand": "r", "site": "TEST"}
    columns = {key: [value] * n for key, value in fixed.items()} | {
        "objectId": 7_000 + np.arange(n), "coord_ra": ra, "coord_dec": dec, "detect_isPrimary": [True] * n,
        "flag_edge": [False] * n, "flag_saturated": [False] * n,
    }  # fmt: skip
    return schemas.conform("object", pa.table(columns))


class Given(Inputs):
    """Tables as they are, in the order given."""

    def __init__(self, **tables: pa.Table) -> None:
        super().__init__(".", {})
        self.tables = tables

    def table(self, dataset_type: str) -> pa.Table:
        return self.tables[dataset_type]


def scattered(seed: int) -> tuple[pa.Table, np.ndarray]:
    """40 objects around RA 0, each seen in 6 visits with 0.2 pixel of scatter; some flagged sources near and far."""
    rng = np.random.default_rng(seed)
    dec0 = float(skymap.load("demo_rings").tract_centre(TRACT)[1])
    grid = np.arange(40)
    centre = np.stack([(grid % 8 - 3.5) * 20 * PIXEL, dec0 + (grid // 8 - 2) * 20 * PIXEL])
    ra = np.repeat(centre[0], 6) + rng.normal(0, 0.2 * PIXEL, 240)
    dec = np.repeat(centre[1], 6) + rng.normal(0, 0.2 * PIXEL, 240)
    visit, bad = np.tile(np.arange(6), 40), np.zeros(240, bool)
    # five flagged sources beside objects 0 to 4, five where there is nothing
    ra = np.concatenate([ra, centre[0, :5] + 0.5 * PIXEL, centre[0, :5] + 8 * PIXEL])
    dec = np.concatenate([dec, centre[1, :5], centre[1, :5] + 8 * PIXEL])
    visit, bad = np.concatenate([visit, np.full(10, 9)]), np.concatenate([bad, np.ones(10, bool)])
    return dia_sources(np.mod(ra, 360), dec, visit, bad, rng.uniform(5, 50, 250)), centre


def test_sources_of_an_object_come_together_across_ra_zero() -> None:
    sources, centre = scattered(1)
    result = associate.run(quantum("associate_dia_sources"), Given(dia_source=sources, object=objects([0.0], [50.0])))
    found, links = result["dia_object"], result["dia_association"]
    assert found.num_rows == 40
    assert sorted(found["nDiaSources"].to_pylist()) == [6] * 35 + [7] * 5
    assert links.num_rows == 245  # flagged sources far from any object belong to none
    offset = (found["coord_ra"].to_numpy()[:, None] - centre[0] + 180) % 360 - 180
    distance = np.hypot(offset, found["coord_dec"].to_numpy()[:, None] - centre[1]).min(axis=1)
    assert distance.max() < 0.4 * PIXEL
    ra, dec, ids = (found[c].to_numpy() for c in ("coord_ra", "coord_dec", "diaObjectId"))
    assert ids.tolist() == [TRACT * 2**32 + n for n in range(1, 41)]
    assert np.array_equal(np.lexsort((ra, dec)), np.arange(40))
    assert (ra >= 0).all() and (ra < 360).all() and (ra > 300).any() and (ra < 60).any()
    assert found["firstDiaSourceMjdTai"].to_pylist() == [61000.0] * 40
    assert found["nearestObjectId"].null_count == 40


def test_the_order_of_the_sources_does_not_matter() -> None:
    sources, _ = scattered(2)
    nothing = objects([], [])
    first = associate.run(quantum("associate_dia_sources"), Given(dia_source=sources, object=nothing))
    shuffled = sources.take(np.random.default_rng(0).permutation(sources.num_rows))
    second = associate.run(quantum("associate_dia_sources"), Given(dia_source=shuffled, object=nothing))
    for name in first:
        assert first[name].equals(second[name])


def test_the_nearest_object_within_two_pixels() -> None:
    sources, centre = scattered(3)
    near = objects(
        [centre[0, 0] % 360, (centre[0, 1] + 1.5 * PIXEL) % 360, (centre[0, 2] + 3 * PIXEL) % 360],
        centre[1, :3].tolist(),
    )
    found = associate.run(quantum("associate_dia_sources"), Given(dia_source=sources, object=near))["dia_object"]
    known = found.filter(pc.is_valid(found["nearestObjectId"])).sort_by("nearestObjectId")
    assert known["nearestObjectId"].to_pylist() == [7000, 7001]
    np.testing.assert_allclose(known["nearestObjectDist"].to_numpy() / 5.0, [0.0, 1.5], atol=0.4)


@pytest.mark.parametrize("flagged", [True, False])
def test_without_good_sources_tables_are_empty_but_declared(flagged: bool) -> None:
    sources, _ = scattered(4)
    given = sources.slice(240) if flagged else sources.slice(0, 0)
    result = associate.run(quantum("associate_dia_sources"), Given(dia_source=given, object=objects([], [])))
    for name in ("dia_object", "dia_association"):
        assert result[name].num_rows == 0
        assert result[name].column_names == [c for c in schemas.table(name).arrow.names if c != "site"]


def test_light_curves_show_a_transient_and_a_variable(tmp_path: Path) -> None:
    """From images to light curves: subtract five visits, associate, measure every object in every visit."""
    site = Site(tmp_path)
    visits, constant = make_visits([2.5, 2.6, 2.8, 2.9, 3.1]), field_sources(1, 300, 10)
    centre = visits[0].wcs.pixel_to_sky(np.array([150.0, 260.0]), np.array([180.0, 240.0]))
    transient = np.array([0.0, 0.0, 1e5, 6e4, 0.0])
    variable = 3e5 * (1 + 0.4 * np.sin(np.arange(5)))
    for visit, a, b in zip(visits, transient, variable, strict=True):
        image = observe(visit, constant, Sources(*centre, np.array([a, b])))
        site.put("visit_image", image, visit=visit.number, detector=4)
    static = Sources(centre[0][1:], centre[1][1:], np.array([3e5]))
    for patch in coadd([observe(v, constant, static) for v in visits], [v.psf for v in visits]):
        site.put("template_coadd", patch, **TRACT_ID, patch=patch.meta["patch"])
    for visit in visits:
        result = subtract.run(
            quantum("subtract_images", visit=visit.number, detector=4),
            site.inputs("visit_image", "template_coadd", visit=visit.number),
        )
        key = TRACT_ID | {"visit": visit.number, "detector": 4}
        assert isinstance(result["difference_image"], Image) and isinstance(result["dia_source"], pa.Table)
        site.put("difference_image", result["difference_image"], **key)
        site.put("dia_source", result["dia_source"], **key)
    site.put("object", objects([centre[0][1]], [centre[1][1]]), **TRACT_ID, patch=0)
    result = associate.run(quantum("associate_dia_sources"), site.inputs("dia_source", "object"))
    for name in ("dia_object", "dia_association"):
        site.put(name, result[name], **TRACT_ID)
    found = result["dia_object"]
    pixel = visits[0].wcs.sky_to_pixel(found["coord_ra"].to_numpy(), found["coord_dec"].to_numpy())
    who = [int(np.argmin(np.hypot(pixel[0] - x, pixel[1] - y))) for x, y in ((150, 180), (260, 240))]
    detections = found["nDiaSources"].to_numpy()[who].tolist()
    assert detections[0] == 2 and detections[1] >= 3  # of the variable's five, one has its mean flux and one nearly so
    assert found["nearestObjectId"].to_pylist()[who[1]] == 7000
    curves = pa.concat_tables(
        light_curves.run(
            quantum("light_curves", visit=v.number),
            site.inputs("dia_object", "visit_image", "difference_image", visit=v.number),
        )["dia_object_forced_source"]
        for v in visits
    )
    assert curves.num_rows == 5 * found.num_rows
    for number, truth in ((who[0], transient), (who[1], variable - 3e5)):
        mine = curves.filter(pc.equal(curves["diaObjectId"], found["diaObjectId"][number])).sort_by("visit")
        error = np.hypot(mine["psfDiffFluxErr"].to_numpy(), 0.015 * (truth + 3e5 * (number == who[1])))
        assert np.abs((mine["psfDiffFlux"].to_numpy() - truth) / error).max() < 4
        assert mine["midpointMjdTai"].to_pylist() == [61000.0 + n for n in range(5)]


def test_a_visit_image_without_difference_has_null_fluxes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    visit = Visit(0, detector_wcs(0, 0, 0.0), moffat_psf(2.8, 0.0, 0.0, 1))
    ra, dec = visit.wcs.pixel_to_sky(np.array([50.0, 900.0]), np.array([60.0, 60.0]))
    site.put("visit_image", observe(visit, Sources(ra, dec, np.full(2, 1e5))), visit=0, detector=4)
    found = schemas.conform("dia_object", pa.table({
        "site": ["TEST"] * 2, "skymap": ["demo_rings"] * 2, "tract": [TRACT] * 2, "diaObjectId": [1, 2], "coord_ra": ra,
        "coord_dec": dec, "nDiaSources": [1, 1], "firstDiaSourceMjdTai": [1.0, 1.0], "lastDiaSourceMjdTai": [1.0, 1.0],
    }))  # fmt: skip
    site.put("dia_object", found, **TRACT_ID)
    table = light_curves.run(quantum("light_curves", visit=0), site.inputs("dia_object", "visit_image", "difference_image"))[
        "dia_object_forced_source"
    ]
    assert table["diaObjectId"].to_pylist() == [1]  # the other is off the detector
    assert table["psfFlux"].to_pylist() == [pytest.approx(1e5, rel=0.1)]
    assert table["psfDiffFlux"].null_count == 1 and table["flag_bad"].to_pylist() == [True]
    empty = light_curves.run(quantum("light_curves", visit=0), site.inputs("dia_object"))["dia_object_forced_source"]
    assert empty.num_rows == 0 and empty.column_names == table.column_names
