"""The template of one detector: the coadd patches of a tract, joined and resampled onto the detector's pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pipelines.image import MASK, Image
from pipelines.neighbours import filled, grown
from pipelines.pixel_map import PixelMap, shared_box
from pipelines.psf import PsfModel, sample_grid
from pipelines.resample import carried_psf, resample
from pipelines.wcs import SkyWcs

#: Pixels of the tract kept around the detector's footprint, for the taps of the resampling kernel.
_MARGIN = 8
#: Holes of up to twice this width (pixels) are filled.
_HOLE = 3
#: The PSF is carried over at a grid of this many positions a side.
_PSF_GRID = 6


def template_for(patches: Sequence[Image], wcs: SkyWcs, shape: tuple[int, int], psf_size: int) -> Image | None:
    """The template on the pixels of a detector (``wcs``, ``shape``), with its PSF there; None where nothing overlaps.

    ``patches`` are coadds of one tract and band in canonical order: ``meta`` x0, y0 place them in the tract's pixels,
    and each has a WCS and a PSF of its own.
    """
    joined = _joined(patches, wcs, shape)
    if joined is None:
        return None
    template = resample(joined, wcs, shape)
    if np.all(template.bad(MASK["NO_DATA"])):
        return None
    template.psf = _psf(patches, template, wcs, psf_size)
    return template


def _origin(patch: Image) -> tuple[int, int]:
    return int(patch.meta["x0"]), int(patch.meta["y0"])


def _joined(patches: Sequence[Image], wcs: SkyWcs, shape: tuple[int, int]) -> Image | None:
    """The patches as one image over the part of the tract that the detector covers."""
    if not patches:
        return None
    first = patches[0]
    if first.wcs is None:
        raise ValueError("template_coadd: a patch has no WCS")
    x0, y0 = _origin(first)
    tract_wcs = first.wcs.shifted(-x0, -y0)
    ends = [(_origin(p)[0] + p.shape[1], _origin(p)[1] + p.shape[0]) for p in patches]
    box = shared_box(tract_wcs, (max(y for _, y in ends), max(x for x, _ in ends)), wcs, shape, _MARGIN)
    if box is None:
        return None
    left, right, low, high = box
    size = (high - low, right - left)
    joined = Image(
        np.zeros(size, np.float32), np.full(size, np.inf, np.float32), np.full(size, MASK["NO_DATA"], np.int16),
        tract_wcs.shifted(left, low), None, {},
    )  # fmt: skip
    for patch in patches:
        px, py = _origin(patch)
        ax, bx = max(px, left), min(px + patch.shape[1], right)
        ay, by = max(py, low), min(py + patch.shape[0], high)
        if ax >= bx or ay >= by:
            continue
        here = (slice(ay - low, by - low), slice(ax - left, bx - left))
        there = (slice(ay - py, by - py), slice(ax - px, bx - px))
        empty = (joined.mask[here] & MASK["NO_DATA"]) != 0
        for mine, theirs in ((joined.image, patch.image), (joined.variance, patch.variance), (joined.mask, patch.mask)):
            mine[here] = np.where(empty, theirs[there], mine[here])
    unknown = ~np.isfinite(joined.image) | ~np.isfinite(joined.variance)
    joined.mask[unknown] |= MASK["NO_DATA"]
    _close_holes(joined)
    return joined


def _close_holes(joined: Image) -> None:
    """Fill small holes from their surroundings, in place.

    Where few visits overlap, a coadd may have rejected them all at the place of a transient: on just these pixels a
    template is needed.
    """
    hidden = joined.bad(MASK["NO_DATA"])
    # What is within reach of data and, from everywhere else, out of reach of emptiness, is a hole.
    holes = hidden & ~grown(~grown(~hidden, _HOLE), _HOLE)
    joined.image = filled(joined.image, holes, hidden, _HOLE + 1)
    joined.variance = filled(joined.variance, holes, hidden, _HOLE + 1)
    joined.image[hidden & ~holes] = 0
    joined.mask[holes] = (joined.mask[holes] & ~MASK["NO_DATA"]) | MASK["INTERPOLATED"]


def _psf(patches: Sequence[Image], template: Image, wcs: SkyWcs, size: int) -> PsfModel:
    """The PSF of the template on the detector, from the PSF of the patch nearest to each of a grid of positions."""
    ny, nx = template.shape
    x, y = sample_grid(template.shape, _PSF_GRID)
    known = (template.mask[y, x] & MASK["NO_DATA"]) == 0
    if not known.any():
        # the overlap falls between the grid positions: any of its pixels will do
        y, x = (pixels[[len(pixels) // 2]] for pixels in np.nonzero(~template.bad(MASK["NO_DATA"])))
        known = np.array([True])
    x, y = x[known], y[known]
    nearest = _nearest_patch(patches, wcs, x, y)
    stamps = np.empty((len(x), size, size))
    for number in np.unique(nearest):
        patch = patches[number]
        if patch.psf is None or patch.wcs is None:
            raise ValueError(f"template_coadd: the patch at {_origin(patch)} has no PSF")
        mine = nearest == number
        pixel_map = PixelMap.between(wcs, patch.wcs, (0, nx, 0, ny))
        stamps[mine] = carried_psf(patch.psf, pixel_map, x[mine], y[mine], size)
    return PsfModel.through(stamps, x, y, 2, template.shape)


def _nearest_patch(patches: Sequence[Image], wcs: SkyWcs, x: NDArray[np.int64], y: NDArray[np.int64]) -> NDArray[np.int64]:
    """For detector positions (N,), the number of the patch in whose pixels they are furthest from the edge."""
    first = patches[0]
    assert first.wcs is not None
    px, py = first.wcs.sky_to_pixel(*wcs.pixel_to_sky(x, y))
    px, py = px + _origin(first)[0], py + _origin(first)[1]
    low = np.array([_origin(patch) for patch in patches])
    half = np.array([[(patch.shape[1] - 1) / 2, (patch.shape[0] - 1) / 2] for patch in patches])
    distance = np.abs(np.stack([px, py]) - (low + half)[:, :, None]) - half[:, :, None]
    return np.asarray(distance.max(axis=1).argmin(axis=0))
