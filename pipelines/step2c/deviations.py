"""How far detectors of visits are off by themselves: the variance of what no zero point, gradient or flat explains.

The residual g of a detector is e + n - own: what it is off by, the noise of its stars and of their means, and what both make of
the zero points that it is measured from. Level 1 took part K of e + n for the detector's flat and V for its visit, and K_c of that
of other visits c. Stars are in few visits: other detectors k have the share x_k in the means of b's, X = sum_k x_k^2, and their own
zero points follow e by x_k (K + V), in first order. With g freed of its visit's mean, and u the noise of the stars alone,

    E g^2 = L [(1 - K - F)^2 s + (1 - 2 K - 3/2 V)^2 sum_k x_k^2 s_k + (1 - 2 K - F) u + sum_(c not b) K_c^2 (s_c + m_c) + K^2 u],
    F = (K + V) X,    m = u + sum_k x_k^2 s_k.

L is what a plane over the field leaves. So squares of residuals are linear in the variances s of clear and of cloudy visits, and
tell them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
#: How well the variance of noise is known (part); and how often squares are weighted anew.
UNSURE, REWEIGHTED = 0.05, 4


@dataclass(frozen=True)
class Detectors:
    """Detectors of visits (B,), mag: numbers of their ``visit``, ``band`` and ``flat``; whether the visit is not photometric
    (``dark``); the residual ``g`` with its ``weight`` (``seen``: has one), ``noise`` = 1 / weight; shares of ``clear`` and
    ``clouded`` others in it; the weight that level 1 gave it (``fitted``); the least variance of the visit's terms and of the flat
    (``of_visit``, ``of_flat``), and what the weights of visits under clouds allowed for (``structure``)."""

    visit: IntArray
    band: IntArray
    flat: IntArray
    dark: Mask
    seen: Mask
    g: Array
    weight: Array
    noise: Array
    clear: Array
    clouded: Array
    fitted: Array
    of_visit: Array
    of_flat: Array
    structure: Array


@dataclass(frozen=True)
class Deviations:
    """Of each detector of a visit (B,), mag^2: the variance ``s`` of what it is off by; the noise ``m`` of its residual, and
    ``fitted`` that of level 1, where others under clouds weigh less."""

    s: Array
    m: Array
    fitted: Array


def read(rows: pa.Table, known: float | Array) -> Detectors:
    """From rows of block_residuals.sql. ``known``: what the weights of all detectors allowed for (mag)."""
    names = ("weight", "ownWeight", "g", "others", "clouded", "ofVisit", "ofFlat", "structure")
    weight, own, g, others, clouded, of_visit, of_flat, structure = (np.asarray(rows[name].to_numpy(), float) for name in names)
    weight = np.maximum(weight, 0.0)
    seen = weight > 1.0
    visit, band, dark = numbers(rows, "visit"), numbers(rows, "band"), ~rows["photometric"].to_numpy(zero_copy_only=False)
    # what weighs less has a smaller share in its stars' means too, as far as the others of these stars do not weigh less as well
    under = np.divide(clouded, others, out=np.zeros_like(others), where=others > 0)
    usual = total(band, weight * dark * structure) / np.maximum(total(band, weight * dark), 1e-30)
    theirs = (1.0 - under) / (1.0 + own * known**2) + under / (1.0 + own * (known**2 + usual))
    rest = theirs * weight / np.maximum(own, 1e-30)
    share = np.maximum(1.0 - weight / np.maximum(own, 1e-30), 0.0)
    fitted = own * rest / np.maximum(share + rest * (1.0 + own * (known**2 + structure)), 1e-30)
    return Detectors(
        visit, band, numbers(rows, "band", "epoch", "detector"), dark, seen, g, weight,
        np.where(seen, 1.0 / np.maximum(weight, 1.0), 0.0), np.maximum(others - clouded, 0.0), clouded, fitted, of_visit, of_flat,
        structure,
    )  # fmt: skip


def numbers(rows: pa.Table, *names: str) -> IntArray:
    """Number (B,) of each combination of columns among those there are."""
    number = np.zeros(rows.num_rows, np.int64)
    for name in names:
        values = pc.dictionary_encode(rows[name].combine_chunks())
        number = number * (len(values.dictionary) + 1) + values.indices.to_numpy()
    return np.asarray((np.cumsum(np.bincount(number) > 0) - 1)[number])


def total(group: IntArray, value: NDArray[Any]) -> Array:
    """The sum over the group of each element (B,)."""
    return np.asarray(np.bincount(group, value)[group])


def find(d: Detectors, known: float | Array) -> Deviations:
    """Variances of clear and of cloudy visits of each band; each visit has its own, drawn to them as far as visits differ by no
    more than chance. None is less than that ``known`` (mag)."""
    taken = np.minimum(d.fitted * d.of_flat, 0.95)  # K
    # stars of b tell their other visits and flats of e, too: these follow it, and so do the means that g is measured from
    visit = d.weight / np.maximum(total(d.visit, d.weight), 1e-30)
    followed = (taken + visit) * (d.clear + d.clouded)
    square, own = taken**2, np.maximum(1.0 - taken - followed, 0.05) ** 2
    theirs = np.maximum(1.0 - 2.0 * taken - 1.5 * visit, 0.05) ** 2
    left = np.clip(1.0 - (d.fitted * d.of_visit - d.fitted / np.maximum(total(d.visit, d.fitted), 1e-30)), 0.1, 1.0)
    thin = _of_clouds(d)
    g = d.g - total(d.visit, d.weight * d.g) / np.maximum(total(d.visit, d.weight), 1e-30)
    rest = np.maximum(1.0 - visit, 0.05)  # the mean takes its share
    found = np.where(d.seen, g * g / rest, 0.0)
    # E g^2 = noise + of_clear s(clear) + of_dark s(cloudy)
    noise = left * (np.maximum(1.0 - 2.0 * taken - followed, 0.05) * d.noise + total(d.flat, square * d.noise))
    of_clear, of_dark = (
        left * (own * mine + theirs * share - square * (mine + seen) + total(d.flat, square * (mine + seen)))
        for mine, share, seen in ((~d.dark + 0.0, d.clear, d.clear), (d.dark + 0.0, d.clouded, d.clouded * thin))
    )
    enough = d.seen & (total(d.visit, d.seen.astype(float)) > 2)
    clear, dark, more = _by_kind(d, enough, [of_clear, of_dark, noise], found, known)
    usual = np.where(d.dark, dark, clear)
    expected = noise * (1.0 + more) + of_clear * clear + of_dark * dark
    use = np.where(enough, d.weight * own * left, 0.0)
    s = np.maximum(_by_visit(d, use, own * left, usual, found - expected, expected, noise), known**2)
    unseen = np.where(d.seen, d.noise, 1e9)
    return Deviations(s, unseen + d.clear * clear + d.clouded * dark, unseen + d.clear * clear + d.clouded * thin * dark)


def _of_clouds(d: Detectors) -> Array:
    """By how much less the deviations of visits under clouds count in level 1, squared, in each band (B,)."""
    weight = np.where(d.dark, d.weight, 0.0)
    return total(d.band, weight * (d.fitted / np.maximum(d.weight, 1e-30)) ** 2) / np.maximum(total(d.band, weight), 1e-30)


def _by_kind(d: Detectors, use: Mask, of: list[Array], found: Array, known: float | Array) -> tuple[Array, Array, Array]:
    """Variances of clear and of cloudy visits in the band of each detector (B,), (B,), and by which part its noise is more than
    stated: those that ``found`` makes most likely, as squares of normal deviates (``of``: by what factors each counts, ``use``
    where). A part of the noise is told from what all detectors share by its being smaller where stars are many."""
    result = np.zeros((int(d.band.max(initial=-1)) + 1, 3))
    for band in range(len(result)):
        own = np.flatnonzero(use & (d.band == band))
        factors, beyond = np.stack([factor[own] for factor in of]), found[own] - of[2][own]
        for _ in range(REWEIGHTED):
            expected = result[band] @ factors + factors[2]
            weighted = factors * (0.5 / np.maximum(expected, 1e-30) ** 2)
            matrix, right = weighted @ factors.T, weighted @ beyond
            matrix[2, 2] += UNSURE**-2
            size = np.sqrt(np.where(np.diag(matrix) > 0, np.diag(matrix), 1.0))
            root = np.linalg.cholesky(matrix / np.outer(size, size) + 1e-9 * np.eye(3))
            result[band] = nnls(root.T, np.linalg.solve(root, right / size))[0] / size
    clear, dark, more = result[d.band].T
    return np.maximum(clear, known**2), np.maximum(dark, known**2), more


def _by_visit(
    d: Detectors, use: Array, factor: Array, usual: Array, beyond: Array, expected: Array, noise: Array
) -> Array:  # fmt: skip
    """The variance of each visit (B,): that ``usual`` for its kind and what it differs by, as far as visits differ by more than
    chance and what is not known of their noise. Their mean stays what is usual: they differ about nothing by nothing."""
    count = int(d.visit.max(initial=-1)) + 1
    many, top, chance, unsure = (
        np.bincount(d.visit, value, count) for value in (use * factor, use * beyond, 2.0 * (use * expected) ** 2, use * noise)
    )
    ok = many > 0
    off = np.divide(top, many, out=np.zeros(count), where=ok)
    kind = 2 * d.band + d.dark
    # squares of what is no normal deviate (stars that vary) differ by more: as those within visits do
    own = np.maximum(factor * off[d.visit], -0.5 * expected)
    within, normal = total(kind, (use * (beyond - own)) ** 2), 2.0 * total(kind, (use * (expected + own)) ** 2)
    more = np.zeros(count)
    more[d.visit] = np.maximum(np.divide(within, normal, out=np.ones_like(within), where=normal > 0), 1.0)
    chance = np.divide(more * chance + (UNSURE * unsure) ** 2, many**2, out=np.zeros(count), where=ok)
    there = d.seen & ok[d.visit]
    spread = total(kind, there * (off**2 - chance)[d.visit]) / np.maximum(total(kind, there + 0.0), 1e-30)
    differ = np.maximum(spread, 0.0)
    s = np.maximum(usual + off[d.visit] * differ / np.maximum(differ + chance[d.visit], 1e-30), 0.0)
    return np.asarray(s * np.minimum(total(kind, d.seen * usual) / np.maximum(total(kind, d.seen * s), 1e-30), 1.0))
