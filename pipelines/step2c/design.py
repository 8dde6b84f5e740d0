"""The design matrix of a tract and its product with itself: normal equations with the stars eliminated.

SQL says which observation has which terms; sparse products add up what pairs of terms share. An observation has a row of factors,
and so has a star, with the opposite sign: N = sum w a a^T - sum U U^T / S. Rows are in the order of stars and visits, so that
sums are made in one order, and what comes out is rounded to a unit, so that tracts add up to the same bits in any order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import coo_array, csc_array, csr_array, vstack

from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rows = Mapping[str, Array]
#: Of what comes out (1/mag^2): sums of multiples of it are exact up to 3e10.
UNIT = 2.0**-18
EQUATION = pa.schema(
    [("band", pa.string()), ("i", pa.int32()), ("j", pa.int32()), ("stars", pa.int64())]
    + [(name, pa.float64()) for name in ("n11", "n1c", "ncc")]
)
#: Kinds of terms of which the factor is one.
PLAIN = ("zero_point", "reference", "flat")


def read(con: duckdb.DuckDBPyConnection) -> dict[str, Array]:
    """The rows of design_rows.sql as columns (M,); NaN, of terms -1, where there is nothing."""
    rows = con.sql(statement("design_rows")).fetchnumpy()
    return {name: np.asarray(np.ma.filled(column, np.nan if column.dtype.kind == "f" else -1)) for name, column in rows.items()}


def factors(rows: Rows) -> dict[str, Array]:
    """What each kind of term is multiplied with, (M,) each."""
    one, px, py = np.ones(len(rows["star"])), rows["px"], rows["py"]
    return {
        "zero_point": one, "gradient_x": rows["xi"], "gradient_y": rows["eta"], "flat": one, "flat_10": px, "flat_01": py,
        "flat_20": 2.0 * px * px - 1.0, "flat_11": px * py, "flat_02": 2.0 * py * py - 1.0,
    }  # fmt: skip


def matrix(rows: Rows, terms: int) -> csr_array:
    """The design matrix (M, T). Columns of ``rows`` named as factors() have the term of each observation; negative: none."""
    parts = []
    for kind, factor in factors(rows).items():
        own = np.flatnonzero((rows[kind] >= 0) & np.isfinite(factor))
        parts.append((own, rows[kind][own].astype(np.int64), factor[own]))
    observation, term, a = (np.concatenate(part) for part in zip(*parts, strict=True))
    return csr_array(coo_array((a, (observation, term)), shape=(len(rows["star"]), terms)))


def normal(rows: Rows, terms: pa.Table) -> tuple[pa.Table, pa.Table]:
    """``normal_term`` and ``normal_equation`` of observations in the order of star and visit. ``terms`` are in the order of
    normal_terms.sql: those of visits, then those of flats, each band by band."""
    a = matrix(rows, terms.num_rows)
    band, kind = (terms[name].to_numpy(zero_copy_only=False).astype(str) for name in ("band", "kind"))
    of_flats = np.char.startswith(kind, "flat")
    w, d, c = rows["w"], rows["d"], rows["c"]
    observation, term = np.repeat(np.arange(len(w)), np.diff(a.indptr)), a.indices
    of_term = {
        "weight": w[observation] * a.data**2, "r1": (w * d)[observation] * a.data,
        "rc": np.where(of_flats[term], 0.0, (w * d * c)[observation] * a.data),
    }  # fmt: skip
    named = terms.append_column("stars", pa.array(np.bincount(term, minlength=terms.num_rows)))
    for name, values in of_term.items():
        named = named.append_column(name, pa.array(_rounded(np.bincount(term, values, terms.num_rows).astype(float))))

    _, first, star = np.unique(rows["star"], return_index=True, return_inverse=True)
    weighted = csr_array(coo_array((w, (star, np.arange(len(w)))), shape=(len(first), len(w))))
    u = _scaled(csr_array(weighted @ a), 1.0 / np.sqrt(rows["s"][first]))
    whole = csc_array(vstack([_scaled(a, np.sqrt(w)), u]))
    sign = np.concatenate([np.ones(len(w)), -np.ones(len(first))])
    colour = np.concatenate([c, c[first]])
    parts = []
    for name in np.unique(band):
        own = [np.flatnonzero((band == name) & (of_flats == flat)) for flat in (False, True)]
        for part in _of_band(whole, own[0], own[1], sign, colour, np.isin(kind[own[0]], PLAIN)):
            parts.append(pa.table({"band": pa.repeat(pa.scalar(str(name)), len(part["i"])), **part}, schema=EQUATION))
    return named, pa.concat_tables(parts) if parts else EQUATION.empty_table()


def _of_band(
    whole: csc_array, visits: IntArray, flats: IntArray, sign: Array, colour: Array, plain: NDArray[np.bool_]
) -> Iterator[dict[str, NDArray[np.generic]]]:
    """The equations of a band: of its visits with each other, of visits with flats, of flats with each other. Of the terms of
    visits those that are ``plain`` count the stars that they share."""
    of_visits, of_flats = (csc_array(whole[:, own[0] : own[-1] + 1] if len(own) else whole[:, :0]) for own in (visits, flats))
    left, left_flats = csr_array(of_visits.T), csr_array(of_flats.T)
    right, right_flats = csr_array(of_visits.tocsr()), csr_array(of_flats.tocsr())
    seen = np.repeat(sign < 0, np.diff(right.indptr)) & plain[right.indices]
    shared = csr_array((seen.astype(float), right.indices, right.indptr), shape=right.shape, copy=True)
    shared.eliminate_zeros()
    both = sign * (1.0 + 1.0j * colour)  # sums times 1 are the real part, sums times c the other
    row, column = (int(own[0]) if len(own) else 0 for own in (visits, flats))
    among, ties = left @ _scaled(right, both), csr_array(shared.T.tocsr()) @ shared
    yield _upper(row, row, among, left @ _scaled(right, sign * colour**2), ties)
    yield _upper(row, column, left @ _scaled(right_flats, both))
    yield _upper(column, column, left_flats @ _scaled(right_flats, sign))


def _upper(row: int, column: int, sums: csr_array, *others: csr_array) -> dict[str, NDArray[np.generic]]:
    """Entries i <= j of the block that begins at row and column: of n11 and n1c in one, and of ncc and stars where given."""
    width = max(sums.shape[1], 1)
    keys, both = _entries(sums, width)
    parts = [_entries(other, width) for other in others]
    for own, _ in parts:
        if len(np.setdiff1d(own, keys, assume_unique=True)):
            union = np.union1d(keys, own)  # a product leaves out sums that are zero
            placed = np.zeros(len(union), both.dtype)
            placed[np.searchsorted(union, keys)] = both
            keys, both = union, placed
    rest = np.zeros((2, len(keys)))
    for number, (own, value) in enumerate(parts):
        rest[number, np.searchsorted(keys, own)] = value
    i, j = keys // width + row, keys % width + column
    kept = slice(None) if row != column else np.flatnonzero(i <= j)
    return {
        "i": i[kept].astype(np.int32), "j": j[kept].astype(np.int32), "stars": rest[1, kept].astype(np.int64),
        "n11": _rounded(both.real[kept]), "n1c": _rounded(both.imag[kept]), "ncc": _rounded(rest[0, kept]),
    }  # fmt: skip


def _entries(matrix: csr_array, width: int) -> tuple[IntArray, NDArray[Any]]:
    """Numbers of the entries of a matrix, ascending, and their values."""
    matrix.sort_indices()
    rows = np.repeat(np.arange(matrix.shape[0], dtype=np.int64) * width, np.diff(matrix.indptr))
    return rows + matrix.indices, matrix.data


def _scaled(matrix: csr_array, factor: NDArray[Any]) -> csr_array:
    """A matrix whose rows are multiplied; entries that become zero stay."""
    return csr_array((matrix.data * np.repeat(factor, np.diff(matrix.indptr)), matrix.indices, matrix.indptr), shape=matrix.shape)


def _rounded(value: Array) -> Array:
    return np.asarray(np.rint(value / UNIT) * UNIT)
