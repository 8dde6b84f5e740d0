"""The design matrix of a tract and its product with itself: normal equations with the stars eliminated.

SQL says which observation has which terms; sparse products add up what pairs of terms share. An observation has a row of factors,
and so has a star, with the opposite sign: N = sum w a a^T - sum U U^T / S. Rows are in the order of bands, stars and visits, so
that sums are made in one order, and what comes out is rounded to a unit, so that tracts add up to the same bits in any order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import pairwise
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from pipelines.step2c.statement import statement

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Rows = Mapping[str, Array]
#: Of what comes out (1/mag^2): sums of multiples of it are exact up to 3e10.
UNIT = 2.0**-18
#: Observations that are multiplied together: what they take fits into caches.
TOGETHER = 2**17
SUMS = pa.schema([("stars", pa.int64()), ("nReference", pa.int64())] + [(name, pa.float64()) for name in ("weight", "r1", "rc")])
EQUATION = pa.schema(
    [("band", pa.string()), ("i", pa.int32()), ("j", pa.int32())] + [(name, pa.float64()) for name in ("n11", "n1c", "ncc")]
)
#: Kinds of terms, as columns of place_terms.sql; the reference catalogue is a visit.
OF_VISITS = ("zero_point", "gradient_x", "gradient_y")
OF_FLATS = ("flat", "flat_10", "flat_01", "flat_20", "flat_11", "flat_02")


def read(con: duckdb.DuckDBPyConnection) -> dict[str, Array]:
    """The rows of design_rows.sql as columns (M,) and, of each kind, the number of the term of each (M,); NaN, of terms -1, where
    there is nothing."""
    rows, terms = (con.sql(statement(name)).fetchnumpy() for name in ("design_rows", "place_terms"))
    place = rows.pop("place")
    columns = {
        name: np.asarray(np.ma.filled(column, np.nan)) if column.dtype.kind == "f" else column for name, column in rows.items()
    }
    return {**columns, **{kind: np.ma.filled(numbers, -1)[place] for kind, numbers in terms.items()}}


def matrix(rows: Rows, terms: int, kinds: Sequence[str] = OF_VISITS + OF_FLATS, first: int = 0) -> csr_array:
    """The design matrix (M, ``terms``) of the terms of these kinds, numbered from ``first``. Columns of ``rows`` named as the kinds
    have the term of each observation; negative: none."""
    count = len(rows["star"])
    there = [kind for kind in kinds if np.any(rows[kind] >= 0)]
    if not there:
        return csr_array((count, terms))
    term = np.stack([rows[kind] for kind in there], axis=1)
    factor = np.stack([_factor(rows, kind) for kind in there], axis=1)
    kept = (term >= 0) & np.isfinite(factor)
    ends = np.concatenate([[0], np.cumsum(np.count_nonzero(kept, axis=1))])
    return csr_array((factor[kept], term[kept].astype(np.int32) - np.int32(first), ends), shape=(count, terms))


def _factor(rows: Rows, kind: str) -> Array:
    """What the terms of a kind are multiplied with (M,)."""
    px, py = rows["px"], rows["py"]
    match kind:
        case "gradient_x":
            return rows["xi"]
        case "gradient_y":
            return rows["eta"]
        case "flat_10":
            return px
        case "flat_01":
            return py
        case "flat_20":
            return 2.0 * px * px - 1.0
        case "flat_11":
            return px * py
        case "flat_02":
            return 2.0 * py * py - 1.0
        case _:
            return np.ones(len(px))


def normal(rows: Rows, terms: pa.Table) -> tuple[pa.Table, pa.Table]:
    """``normal_term`` and ``normal_equation`` of observations in the order of band, star and visit. ``terms`` are in the order of
    normal_terms.sql: those of visits, then those of flats, each band by band."""
    band, kind = (terms[name].to_numpy(zero_copy_only=False).astype(str) for name in ("band", "kind"))
    of_flats, catalogue = np.char.startswith(kind, "flat"), kind == "reference"
    of_row = band[rows["zero_point"].astype(np.int64)]
    sums = {column.name: np.zeros(len(band), column.type.to_pandas_dtype()) for column in SUMS}
    parts = []
    for name in np.unique(band):
        own = slice(*(int(np.searchsorted(of_row, name, side)) for side in ("left", "right")))  # type: ignore[call-overload]
        visits, flats = (_range((band == name) & (of_flats == flat)) for flat in (False, True))
        known, among, square, between, inner = _of_band(
            {key: column[own] for key, column in rows.items()}, visits, flats, catalogue
        )
        for key, value in zip(SUMS.names, known, strict=True):
            sums[key][visits.start : visits.stop] = value[: len(visits)]
            sums[key][flats.start : flats.stop] = value[len(visits) :]
        equations = (
            _upper(visits.start, visits.start, among, square), _upper(visits.start, flats.start, between),
            _upper(flats.start, flats.start, inner),
        )  # fmt: skip
        for part in equations:
            parts.append(pa.table({"band": pa.repeat(pa.scalar(str(name)), len(part["i"])), **part}, schema=EQUATION))
    for key, total in sums.items():
        terms = terms.append_column(key, pa.array(_rounded(total) if total.dtype.kind == "f" else total))
    return terms, pa.concat_tables(parts) if parts else EQUATION.empty_table()


def _range(mask: NDArray[np.bool_]) -> range:
    """Where a mask is true, which is in one piece."""
    where = np.flatnonzero(mask)
    return range(int(where[0]), int(where[-1]) + 1) if len(where) else range(0)


def _of_band(rows: Rows, visits: range, flats: range, catalogue: NDArray[np.bool_]) -> tuple[Array, *tuple[csr_array, ...]]:
    """Sums over the observations of a band, some stars at a time: rows of SUMS (5, V + F) over terms of ``visits`` and ``flats``
    (``catalogue``: which are the reference catalogue's); and equations: among visits (V, V), n11 and n1c in one, then ncc; between
    visits and flats (V, F), n11 and n1c in one; of flats (F, F)."""
    star = rows["star"]
    first = np.flatnonzero(np.diff(star, prepend=-1))
    starts = np.unique(first[np.searchsorted(first, np.arange(0, len(star), TOGETHER), "right") - 1])
    parts = (
        _products({key: column[begin:end] for key, column in rows.items()}, visits, flats, catalogue)
        for begin, end in pairwise([*starts.tolist(), len(star)])
    )
    return reduce(lambda one, other: tuple(a + b for a, b in zip(one, other, strict=True)), parts)


def _products(rows: Rows, visits: range, flats: range, catalogue: NDArray[np.bool_]) -> tuple[Array, *tuple[csr_array, ...]]:
    """What _of_band() adds up, of some stars."""
    first = np.flatnonzero(np.diff(rows["star"], prepend=-1))
    ends = np.append(first, len(rows["star"]))
    star = np.repeat(np.arange(len(first)), np.diff(ends))
    w, c = rows["w"], rows["c"]
    total = np.add.reduceat(w, first)
    off = w * (rows["m"] - (np.add.reduceat(w * rows["m"], first) / total)[star])
    of_star = csr_array((w, np.arange(len(w)), ends), shape=(len(first), len(w)))

    known, whole = [], []
    for terms, kinds, slope in ((visits, OF_VISITS, c), (flats, OF_FLATS, np.zeros(len(c)))):
        a = matrix(rows, len(terms), kinds, terms.start)
        each = a.T.tocsr()
        known.append([np.diff(each.indptr), np.zeros(len(terms)), each.power(2) @ w, each @ off, each @ (off * slope)])
        whole.append(csr_array(vstack([_scaled(a, np.sqrt(w)), _scaled(of_star @ a, 1.0 / np.sqrt(total))])))
    zero = rows["zero_point"].astype(np.int64)
    reference = catalogue[zero]
    matched = np.zeros(len(first), bool)
    matched[star[reference]] = True
    known[0][1] = np.bincount(zero[matched[star] & ~reference] - visits.start, minlength=len(visits))

    of_visits, of_flats = whole
    sign = np.concatenate([np.ones(len(w)), -np.ones(len(first))])
    colour = np.concatenate([c, c[first]])
    both = sign * (1.0 + 1.0j * colour)  # sums times 1 are the real part, sums times c the other
    left = of_visits.T.tocsr()
    return (
        np.concatenate(known, axis=1), left @ _scaled(of_visits, both), left @ _scaled(of_visits, sign * colour**2),
        left @ _scaled(of_flats, both), of_flats.T.tocsr() @ _scaled(of_flats, sign),
    )  # fmt: skip


def _upper(row: int, column: int, sums: csr_array, square: csr_array | None = None) -> dict[str, NDArray[np.generic]]:
    """Entries i <= j of the block that begins at row and column: of n11 and n1c in one, and of ncc where given."""
    width = max(sums.shape[1], 1)
    keys, both = _entries(sums, width)
    rest = np.zeros(len(keys))
    if square is not None:
        own, values = _entries(square, width)
        if len(np.setdiff1d(own, keys, assume_unique=True)):  # a product leaves out sums that are zero
            union = np.union1d(keys, own)
            placed = np.zeros(len(union), both.dtype)
            placed[np.searchsorted(union, keys)] = both
            keys, both, rest = union, placed, np.zeros(len(union))
        rest[np.searchsorted(keys, own)] = values
    i, j = keys // width + row, keys % width + column
    kept = slice(None) if row != column else np.flatnonzero(i <= j)
    return {
        "i": i[kept].astype(np.int32), "j": j[kept].astype(np.int32),
        "n11": _rounded(both.real[kept]), "n1c": _rounded(both.imag[kept]), "ncc": _rounded(rest[kept]),
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
