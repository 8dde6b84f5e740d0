"""The normal equations of the photometric fit: assembled in SQL, brought from blocks to unknowns, solved.

With weights w, terms a and star magnitudes eliminated (S = sum w, T = sum w m, U = sum w a over a star),

    N = sum_i [ sum_j w a a^T - U_i U_i^T / S_i ],   r = sum_i [ sum_j w m a - U_i T_i / S_i ],   N p = -r.

SQL gives N and r for the zero point and the colour slope of every block (a (visit, detector)); these are linear in the
unknowns p, so N_p = P^T N P. Its sums are of integers (fixed_point.sql): they add up over any partition of the stars.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, diags_array
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import splu

from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class System:
    """Normal matrix (2 B, 2 B) and right-hand side (2 B,) over zero points (first B) and slopes of the blocks;
    ``shared``: pairs of blocks and the number of stars they share, (i, j, stars); ``stars`` (B,) fitted in each block."""

    matrix: csr_array
    right: Array
    shared: tuple[IntArray, IntArray, IntArray]
    stars: IntArray


@dataclass(frozen=True)
class Solution:
    """Zero point and slope of each block (2 B,), the unknowns (P,), and a function for variances."""

    blocks: Array
    unknowns: Array
    factor: Any
    terms: csr_array

    def variance(self, rows: csr_array) -> Array:
        """Variances of linear combinations of the unknowns (R, P), from the inverse of the normal matrix."""
        result = np.empty(rows.shape[0])
        for start in range(0, rows.shape[0], 512):
            part = rows[start : start + 512].toarray()
            result[start : start + 512] = np.sum(part * self.factor.solve(np.ascontiguousarray(part.T)).T, axis=1)
        return result

    def unknown_variance(self) -> Array:
        """Variance of each unknown (P,)."""
        return self.variance(csr_array(diags_array(np.ones(len(self.unknowns)))))

    def block_variance(self) -> Array:
        """Variance of the zero point of each block (B,)."""
        return self.variance(self.terms[: self.terms.shape[0] // 2])


def assemble(con: duckdb.DuckDBPyConnection, blocks: int) -> System:
    """Run the SQL over this round's ``weighted`` observations."""
    con.execute(statement("star_sums"))
    own = con.sql(statement("block_sums")).fetchnumpy()
    pair = con.sql(statement("normal_equations")).fetchnumpy()
    b = np.asarray(own["block"], np.int64)
    i, j = np.asarray(pair["i"], np.int64), np.asarray(pair["j"], np.int64)
    stars = np.zeros(blocks, np.int64)
    stars[b] = own["stars"]
    right = np.zeros(2 * blocks)
    right[b], right[blocks + b] = own["r1"], own["rc"]
    # upper triangle of the block pairs; where i < j the mirror image follows, for colours are the star's own
    parts = [(b, b, own["n11"]), (b, blocks + b, own["n1c"]), (blocks + b, b, own["n1c"]), (blocks + b, blocks + b, own["ncc"])]
    for x, y in ((i, j), (j[i < j], i[i < j])):
        of = slice(None) if len(x) == len(i) and x is i else i < j
        parts += [(x, y, -pair["n11"][of]), (x, blocks + y, -pair["n1c"][of]), (blocks + x, y, -pair["n1c"][of]),
                  (blocks + x, blocks + y, -pair["ncc"][of])]  # fmt: skip
    row, column, value = (np.concatenate([part[k] for part in parts]) for k in range(3))
    matrix = coo_array((value, (row, column)), shape=(2 * blocks, 2 * blocks)).tocsr()
    return System(matrix, right, (i, j, np.asarray(pair["stars"], np.int64)), stars)


def solve(system: System, terms: csr_array, prior: csr_array, target: Array, error: Array) -> Solution:
    """The most probable unknowns: ``terms`` (2 B, P) make the blocks of them, ``prior`` (Q, P) is known to be ``target``."""
    weight = diags_array(error**-2)
    matrix = terms.T @ system.matrix @ terms + prior.T @ weight @ prior
    right = prior.T @ (weight @ target) - terms.T @ system.right
    factor = splu(csc_array(matrix), permc_spec="MMD_AT_PLUS_A", options={"SymmetricMode": True, "DiagPivotThresh": 0.0})
    unknowns = factor.solve(right)
    unknowns += factor.solve(right - matrix @ unknowns)  # one step of refinement
    return Solution(terms @ unknowns, unknowns, factor, terms)


def components(system: System, visit: IntArray, reference: Mask, enough: int) -> tuple[IntArray, Mask]:
    """Component of each block, and whether ``enough`` reference stars tie it: visits are connected by the stars they share.

    The detectors of a visit are one whole; the reference catalogue connects nothing, it ties.
    """
    i, j, stars = system.shared
    numbers, whole = np.unique(visit, return_inverse=True)
    real = ~reference[i] & ~reference[j]
    edges = coo_array((np.ones(int(real.sum()), np.int8), (whole[i[real]], whole[j[real]])), shape=(len(numbers),) * 2)
    component = connected_components(edges, directed=False)[1][whole]
    tie = reference[i] != reference[j]
    inner = np.where(reference[i[tie]], j[tie], i[tie])
    found = np.bincount(component[inner], stars[tie], int(component.max(initial=-1)) + 1)
    return np.asarray(component, np.int64), np.asarray((found >= enough)[component] & ~reference)
