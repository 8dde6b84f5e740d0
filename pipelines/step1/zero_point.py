"""The first zero point of a detector: reference magnitude minus instrumental magnitude, averaged over matched stars."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.step1.config import CalibrateConfig

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ZeroPoint:
    """mag = ``value`` - 2.5 log10(electrons), its ``error``, and how many ``stars`` gave it (0, error NaN: nominal)."""

    value: float
    error: float
    stars: int


def solve(flux: Array, flux_err: Array, mag: Array, mag_err: Array, nominal: float, config: CalibrateConfig) -> ZeroPoint:
    """Zero point from matched stars: ``flux`` (N,) electrons, reference ``mag`` (N,) (NaN: none), with errors.

    Weighted mean with variances mag_err^2 + flux error^2 + floor^2; the floor covers what colour terms do. Stars beyond
    3 sigma of the robust scatter (but at least 0.1 mag: colours are not noise) are left out.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        usable = np.isfinite(mag) & (flux > 0) & (flux > config.zero_point_snr * flux_err)
    if usable.sum() < config.zero_point_minimum:
        return ZeroPoint(nominal, float("nan"), 0)
    flux, flux_err = flux[usable], flux_err[usable]
    value = mag[usable] + 2.5 * np.log10(flux)
    noise2 = np.nan_to_num(mag_err[usable]) ** 2 + (1.0857 * flux_err / flux) ** 2 + config.zero_point_floor**2
    weight = 1.0 / noise2
    middle = _weighted_median(value, weight)
    for _ in range(3):
        spread = 1.4826 * float(np.median(np.abs(value - middle)))
        keep = np.abs(value - middle) <= max(3.0 * spread, 0.1)
        middle = float((weight * value)[keep].sum() / weight[keep].sum())
    count = int(keep.sum())
    if count < config.zero_point_minimum:
        return ZeroPoint(nominal, float("nan"), 0)
    chi2 = float((weight[keep] * (value[keep] - middle) ** 2).sum()) / max(count - 1, 1)
    return ZeroPoint(middle, float(np.sqrt(max(chi2, 1.0) / weight[keep].sum())), count)


def _weighted_median(value: Array, weight: Array) -> float:
    order = np.argsort(value, kind="stable")
    total = np.cumsum(weight[order])
    return float(value[order][np.searchsorted(total, 0.5 * total[-1])])
