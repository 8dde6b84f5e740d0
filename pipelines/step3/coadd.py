"""assemble_coadd: the warps of one band and patch as a deep image and as a template for differencing.

Both are means with one weight per warp, 1 / (its median variance), without the pixels that outliers.py rejects.
Weights that do not follow the noise of single pixels keep the PSF of a star independent of its brightness: it is the
average of the warps' PSFs with the same weights. The template takes the visits of better seeing only; where those have
no data, all.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.image import MASK, Image
from pipelines.neighbours import grown
from pipelines.photometry import AB_ZERO_POINT, magnitude
from pipelines.psf import Index, PsfModel, resized, sample_grid
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.step3.config import CoaddConfig
from pipelines.step3.outliers import BoolStack, FloatStack, psf_tolerance, rejected

#: Planes that a pixel of a coadd has when any pixel in it has.
CARRIED = MASK["SAT"] | MASK["INTERPOLATED"]


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """All ``direct_warp`` of a band and patch to ``deep_coadd`` and ``template_coadd`` (nJy); NoWork without warps."""
    config = quantum.settings(CoaddConfig)
    warps = [warp for _, warp in inputs.images("direct_warp") if warp.psf is not None]
    if not warps:
        raise NoWork(f"no warp in band {quantum.data_id['band']} of patch {quantum.data_id['patch']}")
    warps.sort(key=lambda warp: (str(warp.meta["instrument"]), int(warp.meta["visit"])))
    best = max(float(warp.meta["weight"]) for warp in warps)
    warps = [warp for warp in warps if float(warp.meta["weight"]) >= config.min_relative_weight * best]
    stack = np.stack([warp.image for warp in warps])
    variance = np.stack([warp.variance for warp in warps])
    keep = np.isfinite(stack) & ~outliers(warps, stack, variance, config)
    chosen = best_seeing(warps, config)
    ids = {key: quantum.data_id[key] for key in ("band", "skymap", "tract", "patch")}
    template = keep & (chosen[:, None, None] | ~keep[chosen].any(axis=0))
    return {
        "deep_coadd": average(warps, stack, variance, keep, config, ids),
        "template_coadd": average(warps, stack, variance, template, config, ids),
    }


def outliers(warps: Sequence[Image], stack: FloatStack, variance: FloatStack, config: CoaddConfig) -> BoolStack:
    """Pixels of each warp that disagree with the others (N, ny, nx)."""
    saturated = grown(np.logical_or.reduce([warp.bad(MASK["SAT"]) for warp in warps]), 2)
    tolerance = psf_tolerance(psf_stamps(warps, *sample_grid(warps[0].shape, 1))[:, 0], config.psf_margin)
    return rejected(stack, variance, saturated, tolerance, config.clip_sigma, config.grow_sigma)


def best_seeing(warps: Sequence[Image], config: CoaddConfig) -> NDArray[np.bool_]:
    """Which warps (N,) the template takes: ``template_fraction`` of them, but not fewer than ``template_min``."""
    order = sorted(range(len(warps)), key=lambda n: (float(warps[n].meta["seeing"]), n))
    chosen = np.zeros(len(warps), bool)
    chosen[order[: max(config.template_min, int(np.ceil(config.template_fraction * len(warps))))]] = True
    return chosen


def average(
    warps: Sequence[Image],
    stack: FloatStack,
    variance: FloatStack,
    keep: BoolStack,
    config: CoaddConfig,
    ids: dict[str, str | int],
) -> Image:
    """The weighted mean of the pixels to ``keep`` (N, ny, nx), its variance, mask, N_INPUT plane and PSF."""
    weights = np.array([float(warp.meta["weight"]) for warp in warps])
    total, noise, weight = (np.zeros(stack.shape[1:], np.float32) for _ in range(3))
    count, mask = np.zeros(stack.shape[1:], np.int16), np.zeros(stack.shape[1:], np.int16)
    relative = (weights / weights.max()).astype(np.float32)
    for n, warp in enumerate(warps):
        w = relative[n] * keep[n]
        total += w * np.where(keep[n], stack[n], np.float32(0))
        noise += w * w * np.where(keep[n], variance[n], np.float32(0))
        weight += w
        count += keep[n]
        mask |= np.where(keep[n], warp.mask & CARRIED, 0).astype(np.int16)
    empty = count == 0
    mask[empty] |= MASK["NO_DATA"]
    # The core of a star that bleeds has no data in any warp; it is still known why.
    for warp in warps:
        mask[empty] |= warp.mask[empty] & MASK["SAT"]
    safe = np.where(empty, np.float32(np.nan), weight)
    mean, variance_of_mean = (total / safe).astype(np.float32), (noise / (safe * safe)).astype(np.float32)
    coadd = Image(mean, variance_of_mean, mask, warps[0].wcs, planes={"N_INPUT": count})
    coadd.psf = coadd_psf(warps, weights, keep, config)
    used = keep.any(axis=(1, 2))
    scale = float(coadd.wcs.pixel_scale) if coadd.wcs is not None else 1.0
    median_noise = float(np.median(coadd.variance[~empty])) if not empty.all() else float("nan")
    coadd.meta = {
        **ids, "x0": int(warps[0].meta["x0"]), "y0": int(warps[0].meta["y0"]), "BUNIT": "nJy", "zeroPoint": AB_ZERO_POINT,
        "n_input": int(np.count_nonzero(used)), "seeing": coadd.psf.seeing * scale,
        "depth": float(magnitude(5.0 * np.sqrt(coadd.psf.area * median_noise))),
    }  # fmt: skip
    return coadd


def psf_stamps(warps: Sequence[Image], x: Index, y: Index) -> NDArray[np.float64]:
    """PSF stamps (N, positions, size, size) of all warps at positions of the patch, padded to the largest size."""
    models = [warp.psf for warp in warps if warp.psf is not None]
    size = max(model.size for model in models)
    return np.stack([resized(model.centred(x, y), size) for model in models])


def coadd_psf(warps: Sequence[Image], weights: NDArray[np.float64], keep: BoolStack, config: CoaddConfig) -> PsfModel:
    """A polynomial through the mean PSFs on a grid, weighted as the pixels about each grid point are."""
    shape = warps[0].shape
    x, y = sample_grid(shape, config.psf_grid)
    reach = np.arange(-6, 7, 3)
    rows = np.clip(y[:, None, None] + reach[:, None], 0, shape[0] - 1)
    columns = np.clip(x[:, None, None] + reach, 0, shape[1] - 1)
    local = weights[:, None] * keep[:, rows, columns].mean(axis=(2, 3))
    total = local.sum(axis=0)
    here = total > 0
    if not here.any():  # only slivers between the grid points have data: all positions count, by the warps' weights
        local, here = np.broadcast_to(weights[:, None], local.shape), np.ones(len(x), bool)
        total = local.sum(axis=0)
    x, y, local, total = x[here], y[here], local[:, here], total[here]
    mean = np.einsum("np,npij->pij", local / total, psf_stamps(warps, x, y))
    return PsfModel.through(mean, x, y, config.psf_order, shape, total / total.max())
