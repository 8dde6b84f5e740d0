"""The equations of all tracts added up, band by band, and what is known of the visits of a band.

Terms of flats come first. Every visit shares stars with nearly every detector of every epoch, so what ties visits and flats is
kept as a dense block; visits share stars with few others, so what ties them is sparse. What is added up are multiples of a
unit: the sums are exact, the same for any order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import duckdb
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array

from pipelines.step2c.model import Equations, Visits

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
#: Rows of equations that are added up at a time.
BATCH = 2**20


def visits(con: duckdb.DuckDBPyConnection, band: str) -> Visits:
    """The visits of a band, from the table ``seen_visit``."""
    rows = con.execute("SELECT * FROM seen_visit WHERE band = $band ORDER BY visit", {"band": band}).fetchnumpy()

    def number(name: str, missing: float = np.nan) -> Array:
        return np.asarray(np.ma.filled(np.ma.asarray(rows[name]).astype(float), missing))

    return Visits(
        np.asarray(rows["visit"], np.int64), np.asarray(rows["day_obs"], np.int64), np.asarray(rows["epoch"], str),
        np.asarray(rows["clouded"], bool), number("airmass"), number("mjd"), number("prior"),
        number("nominal"), number("exposure"), number("extinction"), np.asarray(rows["known"], bool),
        number("stars", 0.0).astype(np.int64), number("excess", 0.0),
    )  # fmt: skip


def equations(con: duckdb.DuckDBPyConnection, band: str) -> Equations:
    """The equations of a band, from ``normal_equation`` and the tables ``merged_term`` and ``numbered``."""
    term = con.execute("SELECT * FROM merged_term WHERE band = $band ORDER BY number", {"band": band}).fetchnumpy()
    kind, weight = np.asarray(term["kind"], str), np.asarray(term["weight"], float)
    few = int(np.count_nonzero(np.char.startswith(kind, "flat")))
    many = len(kind) - few
    flats, between11, between1c = np.zeros((few, few)), np.zeros((many, few)), np.zeros((many, few))
    of_flats, of_visits = _rounding(weight[:few]), _rounding(weight[few:])
    tied: list[IntArray] = []
    values: list[Array] = []
    for i, j, n in _numbered(con, band):
        inner, across, outer = j < few, (i < few) & (j >= few), i >= few
        np.add.at(flats, (i[inner], j[inner]), of_flats(n[0, inner]))
        at = (j[across] - few) * few + i[across]
        np.add.at(between11.reshape(-1), at, of_visits(n[0, across]))
        np.add.at(between1c.reshape(-1), at, of_visits(n[1, across]))
        tied.append(np.stack([i[outer] - few, j[outer] - few]))
        values.append(of_visits(n[:, outer]))
    i, j = np.concatenate([np.zeros((2, 0), np.int64), *tied], axis=1)
    n = np.concatenate([np.zeros((3, 0)), *values], axis=1)
    return Equations(
        kind, np.asarray(np.ma.filled(term["visit"], -1), np.int64), np.asarray(np.ma.filled(term["epoch"], ""), str),
        np.asarray(np.ma.filled(term["detector"], -1), np.int64), np.asarray(term["stars"], np.int64),
        np.asarray(term["nReference"], np.int64),
        np.asarray(term["r1"], float), np.asarray(term["rc"], float), few, flats + np.triu(flats, 1).T, between11, between1c,
        _symmetric(i, j, n[0], many), _symmetric(i, j, n[1], many), _symmetric(i, j, n[2], many),
    )  # fmt: skip


def _rounding(weight: Array) -> Callable[[Array], Array]:
    """What rounds to a unit, by terms of these weights, such that no sum of their equations exceeds 2^53 units."""
    large = 1.5 * 2.0 ** (np.ceil(np.log2(weight.max(initial=1.0))) + 2)
    return lambda value: (value + large) - large


def _numbered(con: duckdb.DuckDBPyConnection, band: str) -> Iterator[tuple[IntArray, IntArray, Array]]:
    """The rows of ``normal_equation`` of a band, in parts: terms i <= j by their numbers within the band, and n11, n1c and ncc
    (3, rows)."""
    own = con.execute("SELECT tract, term, number FROM numbered WHERE band = $band", {"band": band}).fetchnumpy()
    tracts, place = np.unique(np.asarray(own["tract"]), return_inverse=True)
    of = np.full((len(tracts), int(np.max(own["term"], initial=-1)) + 1), -1)
    of[place, np.asarray(own["term"])] = own["number"]
    rows = con.sql("SELECT tract, i, j, n11, n1c, ncc FROM normal_equation WHERE band = $band", params={"band": band})
    for batch in rows.to_arrow_reader(BATCH):
        tract, i, j, *values = (column.to_numpy(zero_copy_only=False) for column in batch.columns)
        place = np.searchsorted(tracts, tract)
        a, b = of[place, i], of[place, j]
        yield np.minimum(a, b), np.maximum(a, b), np.stack(values)


def _symmetric(i: IntArray, j: IntArray, value: Array, size: int) -> csr_array:
    """The symmetric matrix of which these are entries of one triangle, added up where they repeat."""
    kept = value != 0
    upper = kept & (i != j)
    row, column = np.concatenate([i[kept], j[upper]]), np.concatenate([j[kept], i[upper]])
    return csr_array(coo_array((np.concatenate([value[kept], value[upper]]), (row, column)), shape=(size, size)))
