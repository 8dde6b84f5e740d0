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

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]


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


def read(rows: pa.Table, known: float) -> Detectors:
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


def total(group: IntArray, value: Array) -> Array:
    """The sum over the group of each element (B,)."""
    return np.asarray(np.bincount(group, value)[group])


def find(d: Detectors, known: float) -> Deviations:
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
    use = np.where(d.seen & (total(d.visit, d.seen.astype(float)) > 2), d.weight * own * left, 0.0)
    clear, dark = _by_kind(d, use, of_clear, of_dark, found - noise, known)
    usual = np.where(d.dark, dark, clear)
    expected = noise + of_clear * clear + of_dark * dark
    s = np.maximum(usual + _by_visit(d, use, own * left, found - expected, expected), known**2)
    unseen = np.where(d.seen, d.noise, 1e9)
    return Deviations(s, unseen + d.clear * clear + d.clouded * dark, unseen + d.clear * clear + d.clouded * thin * dark)


def _of_clouds(d: Detectors) -> Array:
    """By how much less the deviations of visits under clouds count in level 1, squared, in each band (B,)."""
    weight = np.where(d.dark, d.weight, 0.0)
    return total(d.band, weight * (d.fitted / np.maximum(d.weight, 1e-30)) ** 2) / np.maximum(total(d.band, weight), 1e-30)


def _by_kind(d: Detectors, use: Array, of_clear: Array, of_dark: Array, found: Array, known: float) -> tuple[Array, Array]:
    """Variances of clear and of cloudy visits in the band of each detector (B,), (B,): those that make the means of ``found`` of
    both, weighted by ``use``."""
    count = int(d.band.max(initial=-1)) + 1
    kind = 2 * d.band + d.dark
    sums = [np.bincount(kind, use * value, 2 * count).reshape(count, 2) for value in (of_clear, of_dark, found)]
    result = np.zeros((count, 2))
    for band in range(count):
        matrix, right = np.stack([sums[0][band], sums[1][band]], axis=1), sums[2][band].copy()
        for k in np.flatnonzero(np.diag(matrix) <= 0):
            matrix[k], right[k] = np.eye(2)[k], 0.0
        size = np.diag(matrix).copy()
        result[band] = nnls(matrix / size[:, None], right / size)[0]
    result = np.maximum(result, known**2)
    return result[d.band, 0], result[d.band, 1]


def _by_visit(d: Detectors, use: Array, factor: Array, beyond: Array, expected: Array) -> Array:
    """How far the variance of each visit lies from that of its kind (B,), as far as they differ by more than chance."""
    count = int(d.visit.max(initial=-1)) + 1
    many, n, top, chance = (
        np.bincount(d.visit, value, count) for value in (use * factor, d.seen, use * beyond, 2.0 * (use * expected) ** 2)
    )
    ok = many > 0
    off = np.divide(top, many, out=np.zeros(count), where=ok)
    chance = np.divide(chance, many**2, out=np.zeros(count), where=ok)
    kind = np.zeros(count, np.int64)
    kind[d.visit] = 2 * d.band + d.dark
    weight = np.where(ok, n, 0.0)
    differ = np.maximum(np.bincount(kind, weight * (off**2 - chance)) / np.maximum(np.bincount(kind, weight), 1e-30), 0.0)[kind]
    return np.asarray((off * differ / np.maximum(differ + chance, 1e-30))[d.visit])
