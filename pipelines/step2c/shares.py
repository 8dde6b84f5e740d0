"""What other detectors make of a detector's residual: they are in the mean magnitudes of the stars that they share.

With weights w of the detector b and shares h of other detectors k in the means of its stars i, what k is off by is in the
residual of b with the factor sum_i w_i h_ik / sum_i w_i (1 - h_ib). Stars of one detector lie on few others of a visit, so that it
is the same deviation for many of them: factors are sums over stars, before they are squared.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

Array = NDArray[np.float64]
#: Products of pairs of detectors that are held at a time.
CHUNK = 4_000_000


def others(rows: Mapping[str, Array], weight: Array) -> tuple[Array, Array]:
    """Sum of the squares of these factors over all other detectors, and over those of visits that are under clouds, (B,) each.

    ``rows``: columns of shares.sql (M,), in any order; ``weight``: sum_i w_i (1 - h_ib) of each detector (B,), 1/mag^2.
    """
    star, block, clouded = (np.asarray(rows[name]) for name in ("star", "block", "clouded"))
    count = len(weight)
    if not count:
        return np.zeros(0), np.zeros(0)
    shape = (count, int(star.max(initial=-1)) + 1)
    ours, theirs = (csr_array(coo_array((np.asarray(rows[name]), (block, star)), shape=shape)) for name in ("w", "h"))
    ours.sort_indices()  # sums are made in the order of stars
    theirs = csr_array(theirs.T)
    theirs.sort_indices()  # and of detectors
    under = np.zeros(count)
    under[block[clouded]] = 1.0
    products = np.add.reduceat(np.append(np.diff(theirs.indptr)[ours.indices], 0), ours.indptr[:-1])
    edges = np.searchsorted(np.cumsum(products), np.arange(CHUNK, products.sum() + CHUNK, CHUNK)) + 1
    result = np.zeros((count, 2))
    for first, last in zip([0, *edges[:-1]], edges, strict=True):
        both = csr_array(ours[first:last] @ theirs)
        row = np.repeat(np.arange(first, first + both.shape[0]), np.diff(both.indptr))
        both.data[both.indices == row] = 0.0
        both.data **= 2
        result[first:last] = both @ np.stack([np.ones(count), under], axis=1)
    result /= np.maximum(weight, 1e-9)[:, None] ** 2
    return result[:, 0], result[:, 1]
