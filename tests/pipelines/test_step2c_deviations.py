"""What detectors are off by themselves: found from residuals, and what is left of it in the errors of zero points."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from benchmarks import calibration_pulls
from benchmarks._calibration import camera_of, settings_of
from pipelines.simulate.photometric_conditions import conditions
from pipelines.simulate.photometric_survey import simulate
from pipelines.step2c import equations, errors, observations, shares, zero_points
from pipelines.step2c.calibrate import calibrate
from pipelines.step2c.camera import Camera
from pipelines.step2c.settings import Settings


def _blocks(
    rng: np.random.Generator, visits: int, epoch: int, dark: bool, scatter: float, noise: Any, stated: float = 1.0
) -> tuple[pa.Table, Any]:
    """Zero points and flats of 25 detectors fitted to their residuals, which know nothing of ``scatter``; every second visit of an
    epoch is under clouds where ``dark``, and then only those scatter. ``noise`` of all, or of each; ``stated``: the part of its
    variance that is. Rows of level two, and offsets from the truth."""
    detectors = 25
    visit, detector = (part.ravel() for part in np.meshgrid(np.arange(visits), np.arange(detectors), indexing="ij"))
    cloudy = (visit % 2 == 1) & dark
    off = rng.normal(0, 1, len(visit)) * np.where(cloudy | (not dark), scatter, 0.0)
    weight = np.broadcast_to(1.0 / (stated * np.square(noise)), len(visit))
    seen = off + rng.normal(0, noise, len(visit))  # true zero points and flats are zero
    row = np.arange(len(visit))
    flat = visits + visit // epoch * detectors + detector
    design = np.zeros((len(visit), flat.max() + 1))
    design[row, visit] = design[row, flat] = 1.0
    prior = np.where(np.arange(design.shape[1]) < visits, 0.0, 0.01**-2)
    inverse = np.linalg.inv(design.T @ (weight[:, None] * design) + np.diag(prior))
    level_one = design @ (inverse @ (design.T @ (weight * seen)))
    of_visit, of_flat = np.bincount(visit, weight)[visit], np.bincount(flat, weight)[flat]
    return pa.table({
        "visit": visit, "detector": detector, "band": ["r"] * len(visit), "epoch": (visit // epoch).astype(str),
        "photometric": ~cloudy, "weight": weight, "ownWeight": weight,
        "g": level_one - seen, "others": np.zeros(len(visit)), "clouded": np.zeros(len(visit)),
        "variance": np.sum((design @ inverse) * design, axis=1), "ofVisit": 1.0 / of_visit,
        "ofFlat": 1.0 / (of_flat + 0.01**-2), "common": np.zeros(len(visit)), "structure": np.zeros(len(visit)),
    }), level_one - off  # fmt: skip


@pytest.mark.parametrize(
    ("epoch", "dark", "scatter"), [(10, False, 0.0), (10, False, 0.004), (2, False, 0.004), (10, True, 0.004), (4, True, 0.004)]
)
def test_deviations_of_which_no_weight_knew(epoch: int, dark: bool, scatter: float) -> None:
    """Clear and cloudy detectors have pulls of unit width, whatever their flats took of the deviations."""
    rng = np.random.default_rng(7)
    pulls: dict[bool, list[Any]] = {True: [], False: []}
    better = []
    for _ in range(20):
        rows, level_one = _blocks(rng, 40, epoch, dark, scatter, 0.002)
        part, variance = zero_points.level_two(rows, 0.0)
        found = level_one - part * rows["g"].to_numpy()
        clear = rows["photometric"].to_numpy(zero_copy_only=False)
        for kind in pulls:
            pulls[kind].append((found / np.sqrt(variance))[clear == kind])
        better.append(np.std(found) / np.std(level_one))
    for values in pulls.values():
        if sum(map(len, values)):
            assert 0.93 < np.sqrt(np.mean(np.concatenate(values) ** 2)) < 1.07
    assert np.mean(better) < 1.01


def test_noise_that_is_not_stated_right_is_no_deviation() -> None:
    """Errors of stars that are a little too small make no deviation of detectors that have few stars: these keep what their visit
    says, whose error is right."""
    rng = np.random.default_rng(8)
    pulls = []
    for stated in (0.97, 0.99, 1.03):
        rows, level_one = _blocks(rng, 120, 40, False, 0.0, rng.uniform(0.002, 0.006, 3000), stated)
        part, variance = zero_points.level_two(rows, 0.0)
        assert np.mean(part) < 0.005
        pulls.append((level_one - part * rows["g"].to_numpy()) / np.sqrt(variance))
    assert 0.9 < np.sqrt(np.mean(np.square(pulls))) < 1.1


def test_rounding_below_zero_is_no_weight() -> None:
    """A detector whose stars were seen by no other has a weight of nothing; sums may leave less than that."""
    rows, _ = _blocks(np.random.default_rng(1), 8, 4, False, 0.0, 0.002)
    weight = rows["weight"].to_numpy().copy()
    weight[::5] = -1e-4
    rows = rows.set_column(rows.column_names.index("weight"), "weight", pa.array(weight))
    part, variance = zero_points.level_two(rows, 0.0)
    assert np.all(variance > 0) and np.all(np.isfinite(variance)) and np.all(part[::5] < 1e-9)


@pytest.mark.parametrize("chunk", [10, 4_000_000])
def test_others_are_in_the_means_of_shared_stars(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    """Against drawn deviations of every detector, put through the means of the stars."""
    monkeypatch.setattr(shares, "CHUNK", chunk)
    rng = np.random.default_rng(3)
    star, visit = (part.ravel() for part in np.meshgrid(np.arange(200), np.arange(6), indexing="ij"))
    kept = rng.random(len(star)) < 0.7
    star, visit = star[kept], visit[kept]
    block = visit * 4 + (star // 50 + rng.integers(0, 2, len(star))) % 4
    w = rng.uniform(1.0, 4.0, len(star))
    h = w / np.bincount(star, w)[star]
    weight = np.bincount(block, w * (1 - h))
    rows = {"star": star, "block": block, "w": w, "h": h, "clouded": visit == 5}
    whole, clouded = shares.others(rows, weight)
    turned = shares.others({name: values[::-1] for name, values in rows.items()}, weight)
    assert np.array_equal(whole, turned[0]) and np.array_equal(clouded, turned[1])
    found = []
    for under in (slice(None), slice(20, 24)):
        off = np.zeros((24, 4000))
        off[under] = rng.standard_normal(off[under].shape)
        mean = np.stack([np.bincount(star, h * e[block]) for e in off.T], axis=1)
        residual = np.zeros_like(off)
        np.add.at(residual, block, w[:, None] * (off[block] - mean[star]))
        found.append(np.var(residual / weight[:, None] - off, axis=1))
    assert whole == pytest.approx(found[0], rel=0.15)
    assert clouded[:20] == pytest.approx(found[1][:20], rel=0.15, abs=1e-6)
    assert np.all(clouded <= whole + 1e-12)


def _planned(con: duckdb.DuckDBPyConnection, name: str, seed: int, **changes: Any) -> tuple[Any, Camera, Settings]:
    """The whole sky of a survey as views, and what is known of it."""
    design, known = calibration_pulls.designs()[name](seed)
    design = replace(design, **changes)
    for table, rows in simulate(design).tables.items():
        con.register(table, rows)
    return design, camera_of(design), settings_of(design, **known)


def test_large_flats_hide_no_gradient() -> None:
    """Visits under clouds have terms for a gradient, however much the flats scatter."""
    kept, wanted = 0, 0
    for seed in (102, 106, 204):
        with duckdb.connect() as con:
            design, camera, settings = _planned(con, "large flats", seed, cloud_structure=0.0)
            observations.prepare(con, camera, settings)
            found = [row[0] for row in con.sql("SELECT visit FROM suspect").fetchall()]
        truth = conditions(design)
        steep = truth.cloudy & (np.hypot(*truth.gradient.T) > 0.03)
        kept += int(np.isin(design.pointings.visit[steep], found).sum())
        wanted += int(steep.sum())
    assert wanted > 30 and kept == wanted


def test_a_gradient_is_no_scatter_and_neither_is_chance() -> None:
    """Stars of a detector under a steep gradient, or few stars of a clear visit, scatter no more than their errors say."""
    steep, clear = [], []
    for seed in (101, 102):
        with duckdb.connect() as con:
            plain = {"cloud_structure": 0.0, "variables": 0.0, "wrong_matches": 0.0}
            design, camera, settings = _planned(con, "usual", seed, **plain)
            observations.prepare(con, camera, settings)
            equations.weigh(con, camera, settings)
            rows = con.sql("SELECT visit, excess FROM scatter WHERE visit >= 0 ORDER BY visit").fetchnumpy()
        truth = conditions(design)
        order = np.argsort(design.pointings.visit)
        order = order[np.isin(design.pointings.visit[order], rows["visit"])]
        square = 1e6 * np.asarray(rows["excess"]) ** 2
        steep += square[np.hypot(*truth.gradient[order].T) > 0.05].tolist()
        clear += square[~truth.cloudy[order]].tolist()
    # within a detector, 50 mmag/deg are 2.9 mmag; 200 stars tell the variance of their errors (some 10 mmag^2) to 16 %
    assert len(steep) > 10 and np.mean(steep) < 1.5
    assert np.mean(clear) < 0.3


def test_a_flat_that_no_star_tells_of_is_as_uncertain_as_flats_scatter() -> None:
    """Detector 5 sees stars before the new flat only: its zero points after it have the scatter of the flats (10 mmag) as error."""
    design, known = calibration_pulls.designs()["usual"](1)
    survey = simulate(design)
    late = pa.array(design.pointings.visit[design.pointings.day_obs >= design.epochs[0]])
    tiles = []
    for tile in survey.tiles():
        rows = tile["isolated_star_association"]
        gone = pc.and_(pc.is_in(rows["visit"], value_set=late), pc.equal(rows["detector"], 5))
        tiles.append({**tile, "isolated_star_association": rows.filter(pc.invert(gone))})
    found = calibrate(tiles, settings_of(design, **known), camera=camera_of(design)).products["photo_calib"]
    found = found.filter(pc.and_(pc.is_in(found["visit"], value_set=late), found["photometric"]))
    blind = found.filter(pc.equal(found["detector"], 5))["zeroPointErr"].to_numpy()
    others = found.filter(pc.not_equal(found["detector"], 5))["zeroPointErr"].to_numpy()
    assert np.all(blind > 0.005) and np.all(blind < 0.02) and np.median(others) < 0.002


def test_errors_know_how_much_flats_were_found_to_scatter(monkeypatch: pytest.MonkeyPatch) -> None:
    given = []
    keep = errors.of_band

    def noted(*values: Any) -> Any:
        given.append(values[7])
        return keep(*values)

    monkeypatch.setattr(errors, "of_band", noted)
    design, known = calibration_pulls.designs()["one epoch"](1)
    calibrate(simulate(design).tiles(), settings_of(design, **known), camera=camera_of(design))
    assert len(given) == 4 and all(0.005 < value < 0.02 for value in given)  # 10 mmag; 50 were assumed at first
