"""make_warp: one visit on the pixels of one patch, in nJy.

The detectors of the visit that reach the patch are interpolated with their final WCS and zero point; flux is preserved
(surface brightness times the change of pixel area). A pixel without data is NaN with the plane NO_DATA. All pixels of a
warp share one weight, so that the PSF of a coadd is the same average of PSFs as the coadd is of pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.image import MASK, Image
from pipelines.psf import PsfModel
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.step3 import frames
from pipelines.step3.config import WarpConfig
from pipelines.step3.lanczos import fill, footprint, grown, lanczos3
from pipelines.step3.warped_psf import carried, carried_size, fit_psf, noise_area, sample_grid
from pipelines.wcs import SkyWcs

#: Zero point of a flux in nJy: mag_AB = 31.4 - 2.5 log10(flux / nJy).
NJY_ZERO_POINT = 31.4

#: Columns of visit_summary that a warp's header repeats.
OF_VISIT = ("instrument", "visit", "band", "physical_filter", "day_obs", "mjd_mid", "exposure_time")

#: Planes whose pixels hold no usable value. Saturated pixels are kept (a hole in every bright star would help nobody)
#: and stay marked.
UNUSABLE = MASK["BAD"] | MASK["CR"] | MASK["EDGE"] | MASK["NO_DATA"] | MASK["BLEED"]


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``preliminary_visit_image`` and ``visit_summary`` of a visit to the ``direct_warp`` of one patch.

    NoWork when no detector of the visit has a usable calibration or no usable pixel falls in the patch.
    """
    config = WarpConfig.read(quantum.config, quantum.task)
    sky, tract, patch = frames.sky(quantum.data_id["skymap"]), quantum.data_id["tract"], quantum.data_id["patch"]
    x0, y0, x1, y1 = (int(v) for v in sky.outer_box(patch))
    rows = {row["detector"]: row for row in frames.rows(inputs, "visit_summary") if usable(row, config)}
    refs = [ref for ref in inputs.refs("preliminary_visit_image") if ref.data_id["detector"] in rows]
    if not refs:
        raise NoWork(f"visit {quantum.data_id['visit']}: no detector over patch {patch} has a usable calibration")
    warp = empty_warp((y1 - y0 + 1, x1 - x0 + 1), sky.patch_wcs(tract, patch))
    detectors = [(frames.image(inputs, ref), rows[ref.data_id["detector"]]) for ref in refs]
    used = [(image, row) for image, row in detectors if add_detector(warp, image, row)]
    good = np.isfinite(warp.image)
    if np.count_nonzero(good) < config.min_pixels:
        raise NoWork(f"visit {quantum.data_id['visit']}: no usable pixel in patch {patch} of tract {tract}")
    warp.psf = warp_psf(warp, used, config)
    row = used[0][1]
    warp.meta = {
        **{key: row[key] for key in OF_VISIT},
        "skymap": quantum.data_id["skymap"], "tract": tract, "patch": patch, "x0": x0, "y0": y0,
        "photometric": all(r["photometric"] for _, r in used), "n_input": len(used),
        "BUNIT": "nJy", "zeroPoint": NJY_ZERO_POINT,
        "weight": 1.0 / float(np.median(warp.variance[good])),
        "seeing": 2.3548 * float(np.sqrt(noise_area(warp.psf) / (4.0 * np.pi))) * sky.pixel_scale,
    }  # fmt: skip
    return {"direct_warp": warp}


def usable(row: Mapping[str, Any], config: WarpConfig) -> bool:
    """Whether a detector's calibration serves: a zero point of a photometric visit, or one with a small error."""
    zero_point, error = row["zeroPoint"], row["zeroPointErr"]
    if zero_point is None or not np.isfinite(zero_point):
        return False
    return bool(row["photometric"] or (error is not None and error <= config.max_zero_point_error))


def empty_warp(shape: tuple[int, int], wcs: SkyWcs) -> Image:
    """An image of ``shape`` in which no pixel has data yet."""
    nothing = np.full(shape, np.nan, np.float32)
    return Image(nothing, nothing.copy(), np.full(shape, MASK["NO_DATA"], np.int16), wcs)


def add_detector(warp: Image, image: Image, row: Mapping[str, Any]) -> bool:
    """Interpolate one detector (electrons) into ``warp`` (nJy) in place; False when it adds no pixel.

    Target pixels whose nearest source pixel is unusable, beside an unusable one, or beside the edge get no data:
    any farther and the kernel's weight on the bad pixel is too small to matter, given what it was filled with.
    """
    assert warp.wcs is not None
    source = SkyWcs.from_json(row["wcs"])
    place = footprint(source, image.shape, warp.wcs, warp.shape)
    if place is None:
        return False
    x0, y0, x1, y1 = place.box
    box = (slice(y0, y1 + 1), slice(x0, x1 + 1))
    ny, nx = image.shape
    inside = (place.x > 0.5) & (place.x < nx - 1.5) & (place.y > 0.5) & (place.y < ny - 1.5)
    inside &= np.isnan(warp.image[box])
    if not inside.any():
        return False
    x, y = place.x[inside], place.y[inside]
    bad = image.bad(UNUSABLE) | ~np.isfinite(image.image) | ~(image.variance > 0)
    nearest = (y + 0.5).astype(np.intp) * nx + (x + 0.5).astype(np.intp)
    keep = ~grown(bad).ravel()[nearest]
    planes = image.mask.ravel()[nearest]
    scale = 10.0 ** (0.4 * (NJY_ZERO_POINT - row["zeroPoint"]))
    gain = (scale * place.area[inside]).astype(np.float32)
    pixels = lanczos3(fill(image.image, bad), x, y) * gain
    variance = image.variance.ravel()[nearest] * (gain * np.float32(scale))
    _put(warp.image, box, inside, np.where(keep, pixels, np.float32(np.nan)))
    _put(warp.variance, box, inside, np.where(keep, variance, np.float32(np.nan)))
    _put(warp.mask, box, inside, np.where(keep, planes & ~UNUSABLE, planes | MASK["NO_DATA"]).astype(np.int16))
    return bool(keep.any())


def _put(plane: NDArray[Any], box: tuple[slice, slice], inside: NDArray[np.bool_], values: NDArray[Any]) -> None:
    plane[box][inside] = values


def warp_psf(warp: Image, used: Sequence[tuple[Image, Mapping[str, Any]]], config: WarpConfig) -> PsfModel:
    """The PSF of a warp from the models of its detectors, sampled on a grid of its pixels that have data."""
    assert warp.wcs is not None
    sources = [(image, SkyWcs.from_json(row["wcs"])) for image, row in used if image.psf is not None]
    if not sources:
        raise ValueError("no detector image has a PSF model; step 1 must write one")
    size = max(carried_size(image.psf, source, warp.wcs) for image, source in sources if image.psf is not None)
    x, y = sample_grid(warp.shape, config.psf_grid)
    good = np.isfinite(warp.image)
    covered = good[y.astype(int), x.astype(int)]
    if not covered.any():  # a sliver between grid points: its middle pixel
        rows, columns = np.nonzero(good)
        x, y = np.array([float(columns[len(columns) // 2])]), np.array([float(rows[len(rows) // 2])])
        covered = np.ones(1, bool)
    x, y = x[covered], y[covered]
    stamps, done = np.zeros((len(x), size, size)), np.zeros(len(x), bool)
    for image, source in sources:
        assert image.psf is not None
        sx, sy = source.sky_to_pixel(*warp.wcs.pixel_to_sky(x, y))
        here = ~done & (sx > -0.5) & (sx < image.shape[1] - 0.5) & (sy > -0.5) & (sy < image.shape[0] - 0.5)
        if here.any():
            stamps[here] = carried(image.psf, source, warp.wcs, x[here], y[here], size)
            done |= here
    if not done.any():
        raise ValueError("the detectors that cover the patch have no PSF model; step 1 must write one")
    return fit_psf(stamps[done], x[done], y[done], np.ones(np.count_nonzero(done)), warp.shape, config.psf_order)
