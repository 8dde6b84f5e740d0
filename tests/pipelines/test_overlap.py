"""The spatial join against polygon clipping of all pairs, and its cost."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa
import pytest

import schemas
from pipelines.overlap import OverlapError, overlapping, overlaps
from pipelines.skymap import load
from pipelines.wcs import deproject, project

SPOTS = [(0.0, 0.0), (0.0, 0.7438), (359.7, -35.0), (120.0, 89.9), (30.0, -89.95), (0.0, 90.0), (200.0, 60.0)]


def squares(ra: np.ndarray, dec: np.ndarray, size: np.ndarray, seed: int) -> pa.Table:
    """Regions: slightly skewed quadrilaterals of ``size`` degrees at any angle, half of them clockwise."""
    random = np.random.default_rng(seed)
    count = len(ra)
    angle, turn = random.uniform(0.0, 2 * np.pi, count), np.where(random.random(count) < 0.5, 1.0, -1.0)
    columns = {
        "instrument": pa.repeat("Camera", count),
        "visit": pa.array(np.arange(count) // 4),
        "detector": pa.array(np.arange(count) % 4, pa.int32()),
        "ra": ra % 360.0,
        "dec": dec,
    }
    for n in range(4):
        direction = angle + turn * (n * np.pi / 2 + random.uniform(-0.2, 0.2, count))
        radius = size / np.sqrt(2.0)
        x, y = radius * np.cos(direction), radius * np.sin(direction)
        columns[f"ra{n}"], columns[f"dec{n}"] = deproject(x, y, ra, dec)
    return schemas.conform("visit_detector_region", pa.table(columns))


def scattered(count: int, seed: int) -> pa.Table:
    """Regions of very different sizes crowded at the seam, at the poles and elsewhere."""
    random = np.random.default_rng(seed)
    spot = np.array(SPOTS)[np.arange(count) % len(SPOTS)]
    ra, dec = deproject(random.normal(0, 0.5, count), random.normal(0, 0.5, count), spot[:, 0], spot[:, 1])
    return squares(ra, dec, 10 ** random.uniform(-2.0, 0.3, count), seed + 1)


def corners(table: pa.Table) -> np.ndarray:
    """(N, 4, 2) sky corners."""
    return np.stack([[table[f"{axis}{n}"].to_numpy() for axis in ("ra", "dec")] for n in range(4)]).transpose(2, 0, 1)


def common_area(p: np.ndarray, q: np.ndarray) -> float:
    """Area (square degrees, on the plane tangent at p's first corner) that two convex polygons share, by clipping."""
    ra0, dec0 = p[0]
    plane = [np.stack(project(*polygon.T, ra0, dec0), axis=1) for polygon in (p, q)]
    if not np.isfinite(plane[1]).all():
        return 0.0

    def area(polygon: np.ndarray) -> float:
        x, y = polygon.T
        return 0.5 * float(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y))

    subject, clip = (polygon if area(polygon) > 0 else polygon[::-1] for polygon in plane)
    for start, end in zip(clip, np.roll(clip, -1, axis=0), strict=True):
        edge = end - start
        side = edge[0] * (subject[:, 1] - start[1]) - edge[1] * (subject[:, 0] - start[0])
        kept = []
        for n, (point, height) in enumerate(zip(subject, side, strict=True)):
            before, height_before = subject[n - 1], side[n - 1]
            if (height >= 0) != (height_before >= 0):
                kept.append(before + (point - before) * height_before / (height_before - height))
            if height >= 0:
                kept.append(point)
        if len(kept) < 3:
            return 0.0
        subject = np.array(kept)
    return area(subject)


def test_equals_clipping_of_all_pairs() -> None:
    a, b = scattered(90, 1), scattered(110, 5)
    region, target = overlapping(a, b)
    found = set(zip(region.tolist(), target.tolist(), strict=True))
    assert len(found) == len(region) > 200
    expected, unclear = set(), set()
    p, q = corners(a), corners(b)
    for i in range(len(p)):
        for j in range(len(q)):
            area = common_area(p[i], q[j])
            if area > 0:
                (expected if area > 1e-9 else unclear).add((i, j))
    assert expected - found == set()
    assert found - expected - unclear == set()


def test_result_does_not_depend_on_order_or_threads() -> None:
    demo = load("demo_rings")
    regions = squares(np.linspace(359.0, 361.0, 40), np.linspace(0.0, 1.5, 40), np.full(40, 0.55), 3)
    patches = demo.patch_records([9469, 9470, 9711, 9228])
    shuffle = np.random.default_rng(0).permutation
    once = overlaps(regions, patches, threads=1)
    again = overlaps(regions.take(pa.array(shuffle(40))), patches.take(pa.array(shuffle(patches.num_rows))), threads=2)
    assert once.equals(again)
    schemas.check("visit_detector_patch", once.schema)
    keys = list(zip(*(once[key].to_pylist() for key in schemas.table("visit_detector_patch").primary_key), strict=True))
    assert keys == sorted(set(keys)) and len(keys) > 100


def test_finds_every_patch_that_holds_a_point_of_the_footprint() -> None:
    """Points inside a footprint lie in patches that the join must have found."""
    demo = load("demo_rings")
    tracts = [9469, 9470, 9711, 9227, 9228, 9710]
    random = np.random.default_rng(4)
    regions = squares(random.uniform(359.5, 361.0, 30), random.uniform(-0.5, 1.5, 30), np.full(30, 0.5), 8)
    table = overlaps(regions, demo.patch_records(tracts))
    found = set(zip(*(table[key].to_pylist() for key in ("visit", "detector", "tract", "patch")), strict=True))
    weight = random.dirichlet(np.ones(4), 200)
    for n, row in enumerate(corners(regions)):
        d, a = np.radians(row[:, 1]), np.radians(row[:, 0])
        inside = weight @ np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)
        ra, dec = (
            np.degrees(np.arctan2(inside[:, 1], inside[:, 0])),
            np.degrees(np.arctan2(inside[:, 2], np.hypot(*inside[:, :2].T))),
        )
        for tract in tracts:
            for patch in set(demo.find_patch(tract, ra, dec).tolist()) - {-1}:
                assert (n // 4, n % 4, tract, patch) in found


def test_touching_is_not_overlapping_and_nothing_gives_nothing() -> None:
    demo = load("demo_rings")
    hsc = load("hsc_rings_v1")
    tract = int(hsc.find_tract(180.0, -40.0))
    far = squares(*(np.atleast_1d(c) for c in hsc.tract_centre(tract)), np.array([0.2]), 1)
    assert overlaps(far, demo.patch_records([9469])).num_rows == 0
    assert overlaps(far.slice(0, 0), demo.patch_records([9469])).num_rows == 0
    assert overlaps(far, demo.patch_records([])).num_rows == 0
    assert hsc.tracts_touching(far).tolist() == [tract]
    assert hsc.tracts_touching(far.slice(0, 0)).tolist() == []
    # Three fields side by side: a meridian in common, an arc in common, a corner in common.
    west = [(9.0, -1.0), (10.0, -1.0), (10.0, 1.0), (9.0, 1.0)]
    fields = [west, [(ra + 1.0, dec) for ra, dec in west], [(ra + 1.0, dec + 2.0) for ra, dec in west]]
    table = pa.table({f"{a}{n}": [f[n][k] for f in fields] for n in range(4) for k, a in enumerate(("ra", "dec"))})
    region, target = overlapping(table, table)
    assert list(zip(region.tolist(), target.tolist(), strict=True)) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("spoil", ["nan", "crossed", "flat", "infinite"])
def test_footprints_that_are_no_polygons_are_named(spoil: str) -> None:
    regions = scattered(8, 2)
    columns = {name: regions[name].to_numpy().copy() for name in regions.column_names if name[:2] in ("ra", "de")}
    if spoil == "crossed":
        for axis in ("ra", "dec"):
            columns[f"{axis}1"][6], columns[f"{axis}2"][6] = columns[f"{axis}2"][6], columns[f"{axis}1"][6]
    elif spoil == "flat":
        columns["ra1"][6], columns["dec1"][6] = columns["ra0"][6], columns["dec0"][6]
    else:
        columns["dec3"][6] = {"nan": np.nan, "infinite": np.inf}[spoil]
    for name in ("ra0", "dec0", "ra1", "dec1", "ra2", "dec2", "ra3", "dec3"):
        regions = regions.set_column(regions.column_names.index(name), name, pa.array(columns[name]))
    with pytest.raises(OverlapError, match="instrument=Camera visit=1 detector=2 is not a convex polygon"):
        overlaps(regions, load("demo_rings").patch_records([9469]))


def test_cost_follows_neighbours_not_all_pairs() -> None:
    lsst = load("lsst_cells_v1")
    random = np.random.default_rng(6)
    regions = squares(random.uniform(0.0, 7.0, 10_000), random.uniform(0.0, 7.0, 10_000), np.full(10_000, 0.222), 7)
    patches = lsst.patch_records(lsst.tracts_touching(regions)[:30])
    assert patches.num_rows == 3000
    start = time.perf_counter()
    table = overlaps(regions, patches)
    assert time.perf_counter() - start < 10.0  # 0.2 s on a quiet machine; 3e7 pairs one by one would take minutes
    assert table.num_rows > 30_000
