"""The normal equations against the full design, and one solver against another."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from scipy.sparse import coo_array, csr_array, diags_array, hstack, vstack
from scipy.sparse.linalg import lsmr
from step2c_survey import Survey, make

from pipelines.step2c import camera, design, equations, normal, observations, preconditioner
from pipelines.step2c.calibrate import calibrate
from pipelines.step2c.preconditioner import Preconditioner
from pipelines.step2c.settings import Settings
from pipelines.step2c.system import System


@pytest.fixture(scope="module")
def survey() -> Survey:
    return make(stars=1500, visits=6, nights=2, cloudy_nights=(1,))


@pytest.fixture(scope="module")
def tract(survey: Survey) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the judged observations of a tract, gradients and polynomials among the terms."""
    with survey.connect() as con:
        camera_of = camera.of(con)
        settings = Settings(flat_order=2)
        observations.prepare(con, camera_of, settings)
        equations.weigh(con, camera_of, settings)
        equations.assemble(con, settings)
        yield con


def test_elimination_of_the_stars_is_the_full_least_squares(tract: duckdb.DuckDBPyConnection) -> None:
    made = equations.assemble(tract, Settings(flat_order=2))
    term, pair = made["normal_term"], made["normal_equation"]
    assert {"zero_point", "gradient_x", "flat", "flat_20", "reference"} <= set(term["kind"].to_pylist())
    size = term.num_rows
    i, j, n11 = (pair[name].to_numpy() for name in ("i", "j", "n11"))
    upper = i < j
    n = csr_array(coo_array((np.r_[n11, n11[upper]], (np.r_[i, j[upper]], np.r_[j, i[upper]])), shape=(size, size)))
    prior = diags_array(np.full(size, 1 / 0.05**2))
    eliminated = np.linalg.solve((n + prior).toarray(), -term["r1"].to_numpy())
    fit = design.read(tract)
    count, stars = len(fit["star"]), int(np.max(fit["star"])) + 1
    a = design.matrix(fit, size)
    s = coo_array((-np.ones(count), (np.arange(count), fit["star"])), shape=(count, stars))
    root = diags_array(np.sqrt(np.asarray(fit["w"], float)))
    known = hstack([diags_array(np.full(size, 1 / 0.05)), coo_array((size, stars))])
    full = vstack([root @ hstack([a, s]), known])
    right = np.r_[-(root @ np.asarray(fit["m"], float)), np.zeros(size)]
    whole = lsmr(full, right, atol=1e-14, btol=1e-14, maxiter=20000)[0][:size]
    np.testing.assert_allclose(eliminated, whole, atol=2e-7)


def test_stars_that_were_seen_once_tie_nothing() -> None:
    rows = {
        "star": np.array([0, 1]), "w": np.ones(2), **{name: np.zeros(2) for name in ("c", "m", "xi", "eta", "px", "py")},
        **{kind: np.full(2, -1) for kind in (*design.OF_VISITS, *design.OF_FLATS)}, "zero_point": np.array([0, 1]),
    }  # fmt: skip
    terms = pa.table({"term": pa.array([0, 1], pa.int32()), "band": ["r", "r"], "kind": ["zero_point"] * 2})
    named, equations = design.normal(rows, terms)
    assert named["weight"].to_pylist() == [1.0, 1.0] and named["stars"].to_pylist() == [1, 1]
    assert not np.any(equations["n11"].to_numpy()) and equations.schema.equals(design.EQUATION)


def test_the_zero_point_of_everything_is_the_null_vector(tract: duckdb.DuckDBPyConnection) -> None:
    made = equations.assemble(tract, Settings())
    kind = np.array(made["normal_term"]["kind"].to_pylist())
    shift = np.isin(kind, ["zero_point", "reference"]).astype(float)
    i, j, n11 = (made["normal_equation"][name].to_numpy() for name in ("i", "j", "n11"))
    moved = np.bincount(i, n11 * shift[j], len(kind)) + np.bincount(j, np.where(i < j, n11 * shift[i], 0.0), len(kind))
    assert np.max(np.abs(moved)) < 1e-5 * np.max(n11)


def test_conjugate_gradients_give_the_direct_solution_and_its_errors(survey: Survey, monkeypatch: pytest.MonkeyPatch) -> None:
    def thorough(
        system: System,
        right: np.ndarray,
        group: np.ndarray,
        direct: int,
        tolerance: float,
        probes: int,
        start: np.ndarray,
        *_: Any,
        **how: Any,
    ) -> normal.Solution:  # visits are judged by errors as good as those of the direct solution
        return solve(system, right, group, direct, tolerance, probes or 2000, start, **how)

    solve = normal.solve
    monkeypatch.setattr(normal, "solve", thorough)
    direct = calibrate([survey.tables]).products["calib_visit"]
    iterated = calibrate([survey.tables], Settings(direct=0, probes=2000)).products["calib_visit"]
    np.testing.assert_allclose(iterated["zeroPoint"].to_numpy(), direct["zeroPoint"].to_numpy(), atol=1e-8)
    np.testing.assert_allclose(iterated["zeroPointErr"].to_numpy(), direct["zeroPointErr"].to_numpy(), rtol=0.1)


def _diagonal(base: Preconditioner) -> Any:
    every = np.arange(base.many + len(base.few))
    return base.elements(every, every)


def test_the_preconditioner_is_exact_where_visits_share_no_star() -> None:
    chance = np.random.default_rng(5)
    many, few = 40, 4
    coupling = chance.normal(size=(many, few))
    whole = np.diag(chance.uniform(5, 9, many + few))
    whole[np.arange(0, many, 2), np.arange(1, many, 2)] = whole[np.arange(1, many, 2), np.arange(0, many, 2)] = 2.0
    whole[:many, many:], whole[many:, :many] = coupling, coupling.T
    whole[many:, many:] += coupling.T @ coupling * 2
    right = chance.normal(size=many + few)
    system = System(csr_array(whole[:-2, :-2]), whole[:-2, -2:], whole[-2:, -2:])  # two of the few are flats
    np.testing.assert_allclose(system @ right, whole @ right, rtol=1e-9)
    base = Preconditioner(system, np.arange(many) // 2)
    np.testing.assert_allclose(base.apply(right), np.linalg.solve(whole, right), rtol=1e-9)
    np.testing.assert_allclose(_diagonal(base), np.diag(np.linalg.inv(whole)), rtol=1e-9)


@pytest.mark.parametrize("tie", [0.05, 3.0])
def test_what_visits_share_is_what_is_iterated(tie: float) -> None:
    chance = np.random.default_rng(6)
    many, few = 60, 5
    coupling = chance.normal(size=(many, few))
    whole = np.diag(chance.uniform(5, 9, many + few))
    whole[:many, many:], whole[many:, :many] = coupling, coupling.T
    whole[many:, many:] += coupling.T @ coupling * 0.05  # the more visits share, the less these are without it
    neighbour = np.arange(many - 1)
    for i, j in ((neighbour, neighbour + 1), (neighbour + 1, neighbour)):
        whole[i, j] -= tie
    whole += np.diag(np.maximum(0.0, 0.01 - np.linalg.eigvalsh(whole)[0]) * np.ones(many + few))
    system = System(csr_array(whole[:-2, :-2]), whole[:-2, -2:], whole[-2:, -2:])
    base, y = Preconditioner(system, np.arange(many)), chance.normal(size=(many + few, 3))
    inverse, drawn = base.apply(np.eye(many + few)), base.sample(chance, 20_000)
    np.testing.assert_allclose(inverse, inverse.T, rtol=1e-9, atol=1e-12)
    assert np.linalg.eigvalsh(inverse)[0] > 0
    size = np.sqrt(np.diag(inverse))
    np.testing.assert_allclose(drawn @ drawn.T / 20_000 / size / size[:, None], inverse / size / size[:, None], atol=0.05)
    solved = normal.solve(system, y[:, 0], np.arange(many), 0, 1e-12, 4000, np.zeros(many + few))
    np.testing.assert_allclose(solved.unknowns, np.linalg.solve(whole, y[:, 0]), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(solved.variances, np.diag(np.linalg.inv(whole)), rtol=0.12)


def test_pieces_of_sky_that_shift_together_are_known_without_iterating() -> None:
    """Two pieces of sky whose visits are tied to their neighbours, and hardly to anything else."""
    x, y = (side.ravel() for side in np.meshgrid(np.arange(40.0), np.arange(24.0)))
    x = np.where(x >= 30, x + 10, x)
    ties = np.maximum(1.0 - np.hypot(x - x[:, None], y - y[:, None]) / 2.5, 0.0) * 1e4
    many = len(x)
    system = System(csr_array(np.diag(ties.sum(axis=1) + 0.1) - ties), np.full((many, 1), 0.01), np.array([[100.0]]))
    inverse = np.linalg.inv(system.toarray())
    base = Preconditioner(system, np.arange(many))
    np.testing.assert_allclose(_diagonal(base), np.diag(inverse), rtol=0.1)
    for own in (x < 35, x > 35):
        mean = np.append(own / np.count_nonzero(own), 0.0)
        assert mean @ base.apply(mean) == pytest.approx(mean @ inverse @ mean, rel=1e-3)
    right = np.random.default_rng(8).normal(size=many + 1)
    solved = normal.solve(system, right, np.arange(many), 0, 1e-10, 16, np.zeros(many + 1))
    np.testing.assert_allclose(solved.unknowns, inverse @ right, rtol=1e-5)
    np.testing.assert_allclose(solved.variances, np.diag(inverse), rtol=0.1)
    assert solved.iterations < 40


def test_patches_are_put_together_until_they_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = csr_array(np.diag(np.full(300, 3.0)) - np.eye(300, k=1) - np.eye(300, k=-1))
    monkeypatch.setattr(preconditioner, "MOST", 20)
    own, patch = preconditioner._patches(chain)
    assert len(own) == 300 and 3 < patch.max() < 20
    assert len(np.unique(patch)) == patch.max() + 1
    assert np.all(np.abs(np.diff(patch)) <= 300) and np.count_nonzero(np.diff(patch)) == patch.max()  # each in one piece
    assert len(preconditioner._patches(csr_array(np.eye(5)))[0]) == 0  # what is tied to nothing has none


def test_what_is_not_positive_definite_is_mended_by_what_is_true_of_it() -> None:
    matrix = np.array([[1.0, 2.0], [2.0, 1.0]])  # eigenvalues 3 and -1
    root, less = preconditioner._inverse_root(matrix, lambda modes: np.full((modes.shape[1],) * 2, 0.25))
    assert less is not None
    now = np.linalg.inv(root.T @ root)
    np.testing.assert_allclose(np.linalg.eigvalsh(now), [0.25, 3.0])
    np.testing.assert_allclose(now + less, matrix, atol=1e-12)


def test_flats_that_visits_hide_together_are_not_taken_for_unknown() -> None:
    """Each visit answers a pattern of the flats less than it would by itself, for its neighbours answer it, too: taken one by one
    they would leave less than nothing of it."""
    many, few = 200, 6
    ring = 2.0 * np.eye(many) + 0.15 * (np.roll(np.eye(many), 1, axis=1) + np.roll(np.eye(many), -1, axis=1))
    pattern = np.linspace(-1.0, 1.0, few)
    coupling = np.outer(np.ones(many), pattern)
    whole = np.block([[ring + 0.01 * np.eye(many), coupling], [coupling.T, np.eye(few)]])
    whole[many:, many:] += coupling.T @ np.linalg.solve(whole[:many, :many], coupling)
    system = System(csr_array(whole[:many, :many]), coupling, whole[many:, many:])
    alone = whole[many:, many:] - coupling.T @ coupling / whole[0, 0]
    assert np.linalg.eigvalsh(alone)[0] < 0
    base, inverse = Preconditioner(system, np.arange(many)), np.linalg.inv(whole)
    mode = np.append(np.zeros(many), pattern)
    assert 0.1 < (mode @ base.apply(mode)) / (mode @ inverse @ mode) < 1.0
    solved = normal.solve(system, mode, np.arange(many), 0, 1e-10, 16, np.zeros(many + few))
    np.testing.assert_allclose(solved.unknowns, inverse @ mode, rtol=1e-6, atol=1e-9)
    assert solved.iterations < 30


def test_what_cannot_be_solved_is_said() -> None:
    def system(matrix: list[list[float]]) -> System:
        return System(csr_array(np.array(matrix)), np.zeros((len(matrix), 0)), np.zeros((0, 0)))

    with pytest.raises(normal.NotSolved, match="neither data nor a prior"):
        normal.solve(system([[1.0, 0.0], [0.0, 0.0]]), np.ones(2), np.array([0]), 10, 1e-9, 4, np.zeros(2))
    with pytest.raises(normal.NotSolved, match="not positive definite"):
        normal.solve(system([[1.0, 2.0], [2.0, 1.0]]), np.ones(2), np.arange(2), 10, 1e-9, 4, np.zeros(2))
    wide = system((np.diag(np.geomspace(1e-12, 1e12, 60)) + 1e-13).tolist())
    with pytest.raises(normal.NotSolved, match="did not converge"):
        normal.conjugate_gradients(lambda p: wide @ p, lambda r: r, np.ones(60), 1e-14, limit=5)
