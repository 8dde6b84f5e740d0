"""Errors of zero points: against the truth of small surveys, and against the inverse that they come from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import csr_array, random_array

from benchmarks import calibration_pulls
from benchmarks._calibration import camera_of, offsets, settings_of
from pipelines.simulate.photometric_survey import simulate
from pipelines.step2c import zero_points
from pipelines.step2c.calibrate import calibrate
from pipelines.step2c.normal import solve
from pipelines.step2c.preconditioner import Preconditioner
from pipelines.step2c.system import System


@pytest.mark.parametrize("design", ["nine detectors", "large flats", "scatter of 4 mmag, known", "two visits a flat"])
def test_pulls_have_unit_width(design: str) -> None:
    squares = []
    for seed in (1, 2, 3):
        made, known = calibration_pulls.designs()[design](seed)
        survey = simulate(made)
        solved = calibrate(survey.tiles(), settings_of(made, **known), camera=camera_of(made))
        pulls = np.concatenate([band.pull for band in offsets(solved.products["photo_calib"], survey.truth).values()])
        squares.append(float(np.mean(pulls**2)))
    # three surveys of four bands have some thirty large-scale modes: 13 % of the width, and 2.5 sigma of it
    assert 0.67 < np.sqrt(np.mean(squares)) < 1.33


def _system(direct: int, probes: int = 2000) -> tuple[Any, System]:
    """A system like those of a band: 40 visits with neighbours that share stars, tied to 8 others."""
    rng = np.random.default_rng(4)
    few = random_array((8, 48), density=0.5, rng=rng)
    links = random_array((48, 48), density=0.05, rng=rng)
    dense = (few.T @ few).toarray() + (links @ links.T).toarray() + np.diag(rng.uniform(3.0, 5.0, 48))
    system = System(csr_array(dense[:44, :44]), dense[:44, 44:], dense[44:, 44:])
    return solve(system, np.ones(48), np.arange(40), direct, 1e-10, probes, np.zeros(48)), system


def test_covariances_are_those_of_the_inverse() -> None:
    solution, matrix = _system(direct=100)
    inverse = np.linalg.inv(matrix.toarray())
    i, j = np.array([0, 3, 45, 45]), np.array([0, 41, 2, 46])
    assert solution.covariance(i, j) == pytest.approx(inverse[i, j])
    assert solution.with_flats(i[:2]) == pytest.approx(inverse[i[:2], 44:])
    sums = csr_array(np.eye(48)[:3] + np.eye(48)[40:43])
    assert solution.variance(sums) == pytest.approx(np.einsum("ri,ij,rj->r", sums.toarray(), inverse, sums.toarray()))


def test_large_systems_estimate_them() -> None:
    solution, matrix = _system(direct=10)
    inverse = np.linalg.inv(matrix.toarray())
    mean = csr_array(np.where(np.arange(48) < 40, 1.0 / 40, 0.0)[None, :])
    exact = (mean.toarray() @ inverse @ mean.toarray().T)[0]
    assert solution.variance(mean) == pytest.approx(exact, rel=0.15)
    assert solution.covariance(np.arange(48), np.arange(48)) == pytest.approx(solution.variances)


def test_elements_of_the_preconditioner() -> None:
    _, matrix = _system(direct=100)
    rough = Preconditioner(matrix, np.arange(40) // 2)  # visits of two unknowns
    dense = rough.apply(np.eye(48))
    close = {"rtol": 1e-9, "atol": 1e-9 * np.abs(dense).max()}
    for own in (np.arange(40), np.arange(40, 48)):
        i, j = (part.ravel() for part in np.meshgrid(own, own, indexing="ij"))
        assert np.allclose(rough.elements(i, j), dense[i, j], **close)
    assert np.allclose(rough.with_flats(np.arange(40)), dense[:40, 44:], **close)


def _row(**given: float) -> pa.Table:
    usual: dict[str, Any] = {
        "weight": 1e6, "g": 0.0, "others": 0.1, "variance": 4e-7, "ofVisit": 1e-7, "ofFlat": 1e-8, "common": 1e-7, "structure": 0.0,
        "visit": 1, "band": "g", "photometric": True, "clouded": 0.0, "epoch": "epoch_0",
    }  # fmt: skip
    usual["ownWeight"] = 1.1 * given.get("weight", usual["weight"])
    return pa.table({name: [value] * 9 for name, value in (usual | given).items()} | {"detector": list(range(9))})


def test_a_detector_that_is_not_off_has_the_error_of_level_one() -> None:
    part, variance = zero_points.level_two(_row(), known=0.0)
    assert np.all(part < 1e-12) and np.all(variance < 1.001 * 4e-7)


def test_a_detector_with_many_stars_has_their_error_where_detectors_are_off() -> None:
    part, variance = zero_points.level_two(_row(weight=1e8, others=0.0), known=0.01)
    assert np.all(part > 0.999) and np.all(variance < 4e-7) and np.all(variance > 1e-7)


def test_a_detector_without_stars_is_as_uncertain_as_detectors_are_off() -> None:
    part, variance = zero_points.level_two(_row(weight=0.0), known=0.01)
    assert np.all(part < 1e-9) and np.all(variance > 1e-4)
