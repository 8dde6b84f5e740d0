"""measure_objects: one catalogue of sources from the deep coadds of all bands of a patch.

Detection on all bands together; positions by simultaneous PSF fits, first on the detection image, then in the band of
highest signal (``refBand``); forced photometry at these positions in each band. Sources that share a footprint are
children of a parent, which is a row as well: the whole footprint measured as if it were one source.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from pipelines.image import MASK, Image
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.step3.config import MeasureConfig
from pipelines.step3.detect import Array, Field, background, combined, find_peaks
from pipelines.step3.fit import IntArray, Stamps, offsets
from pipelines.step3.objects import BANDS, Sources, rows
from pipelines.step3.photometry import Photometry, added_variance, amplitudes, measure, middle_sigma, unshared, wings


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """All ``deep_coadd`` of a patch to ``object`` rows; NoWork when no band has data or nothing is detected."""
    config = MeasureConfig.read(quantum.config, quantum.task)
    coadds = {str(ref.data_id["band"]): image for ref, image in inputs.images("deep_coadd")}
    unknown = sorted(set(coadds) - set(BANDS))
    if unknown:
        known = ", ".join(BANDS)
        raise ValueError(f"band {unknown[0]!r} has no columns in table object (known: {known}): declare it in schemas/")
    coadds = {band: coadds[band] for band in BANDS if band in coadds and usable(coadds[band])}
    if not coadds:
        raise NoWork(f"no coadd of patch {quantum.data_id['patch']} has data")
    sources, photometry = catalogue({band: field_of(image, config) for band, image in coadds.items()}, config)
    if not len(sources.x):
        raise NoWork(f"nothing is detected in patch {quantum.data_id['patch']}")
    return {"object": rows(quantum.data_id, coadds, sources, photometry)}


def usable(coadd: Image) -> bool:
    return bool(np.isfinite(coadd.image).any()) and coadd.psf is not None


def field_of(coadd: Image, config: MeasureConfig) -> Field:
    """A coadd ready to be measured: background subtracted, zeros where there are no data."""
    assert coadd.psf is not None
    valid = np.isfinite(coadd.image) & ~coadd.bad(MASK["NO_DATA"]) & (coadd.variance > 0)
    image, variance = (np.where(valid, plane, np.float32(0)) for plane in (coadd.image, coadd.variance))
    level = background(image, valid, config.background_mesh)
    return Field(np.where(valid, image - level, np.float32(0)), variance, valid, coadd.psf)


def catalogue(fields: dict[str, Field], config: MeasureConfig) -> tuple[Sources, dict[str, Photometry]]:
    """Sources, children first and then their parents, and their photometry in each band."""
    x, y, footprint = locate(combined(list(fields.values())), config)
    if not len(x):
        return Sources.none(), {}
    first = {band: first_look(field, x, y, config) for band, field in fields.items()}
    looks = list(first.values())
    reference = np.argmax([look.snr for look in looks], axis=0)
    each = np.arange(len(x))
    broad = extended(looks, reference, config)
    x = x + np.stack([look.dx for look in looks])[reference, each]
    y = y + np.stack([look.dy for look in looks])[reference, each]
    flux = np.stack([look.amplitude for look in looks])[reference, each]
    family = Family.of(footprint, x, y, flux, reference)
    photometry = {}
    for (band, look), field in zip(first.items(), fields.values(), strict=True):
        half, radius = sizes(field, config)
        far = wings(look.field, x, y, look.amplitude, half)
        near = replace(look.field, image=look.field.image - far * look.field.valid)
        children = measure(near, x, y, broad, half, radius)
        photometry[band] = children.joined(unshared(look.field, family.x, family.y, half, radius))
    names = list(fields)
    reference = np.concatenate([reference, family.reference])
    sources = Sources(
        x=np.concatenate([x, family.x]), y=np.concatenate([y, family.y]),
        parent=np.concatenate([family.parent, np.full(len(family.x), -1)]),
        is_parent=np.concatenate([np.zeros(len(x), bool), np.ones(len(family.x), bool)]),
        band=[names[n] for n in reference],
        extended=extended(list(photometry.values()), reference, config),
    )  # fmt: skip
    return sources, photometry


def extended(
    looks: Sequence[Look] | Sequence[Photometry], reference: IntArray, config: MeasureConfig
) -> NDArray[np.bool_]:
    """Which sources (N,) are broader than the PSF in their reference band (a number into ``looks``, one per band)."""
    each = np.arange(len(reference))
    width = np.stack([look.width for look in looks])[reference, each]
    error = np.stack([look.width_error for look in looks])[reference, each]
    return (width > config.extended_sigma * error) & (width > config.extended_width)


def sizes(field: Field, config: MeasureConfig) -> tuple[int, float]:
    """Half-size of the stamps and radius of the aperture for a PSF, pixels."""
    sigma = middle_sigma(field)
    return min(field.psf.size // 2, int(np.ceil(config.stamp * sigma))), config.aperture * sigma


def locate(field: Field, config: MeasureConfig) -> tuple[Array, Array, IntArray]:
    """Positions and footprints (N,) of the sources in the detection image; fits that fail or coincide are dropped."""
    peaks = find_peaks(field, config.threshold)
    x, y = peaks.x, peaks.y
    half, _ = sizes(field, config)
    for turn in range(config.rounds):
        if not len(x):
            break
        stamps = Stamps.of(field.psf, x, y, half)
        amplitude, left, cutouts = amplitudes(field, stamps)
        dx, dy = offsets(stamps, cutouts, amplitude, stamps.take(field.valid))
        x, y = x + dx, y + dy
        limit = 3.0 * field.noise * np.sqrt(1.0 / (stamps.values**2).sum(axis=(1, 2)))
        keep = (amplitude > limit) & apart(x, y, amplitude, config.min_distance)
        x, y = x[keep], y[keep]
        level = background(left, field.valid, config.background_mesh)
        if turn == 0:
            rest = replace(field, image=np.where(field.valid, left - level, np.float32(0)))
            more = find_peaks(rest, config.threshold, field.image - left, config.doubt)
            x, y = np.concatenate([x, more.x]), np.concatenate([y, more.y])
        field = replace(field, image=np.where(field.valid, field.image - level, np.float32(0)))
    order = np.lexsort((x, y))
    return x[order], y[order], footprints_at(peaks.footprints, x[order], y[order])


def footprints_at(footprints: IntArray, x: Array, y: Array) -> IntArray:
    """The footprint that each position (N,) lies in; one that lies in none has one of its own."""
    row = np.clip(np.floor(y + 0.5).astype(np.int64), 0, footprints.shape[0] - 1)
    column = np.clip(np.floor(x + 0.5).astype(np.int64), 0, footprints.shape[1] - 1)
    label = footprints[row, column].astype(np.int64)
    return np.where(label > 0, label, -1 - np.arange(len(x)))


def apart(x: Array, y: Array, amplitude: Array, distance: float) -> NDArray[np.bool_]:
    """False for the fainter of two sources closer than ``distance``."""
    pairs = cKDTree(np.stack([x, y], axis=1)).query_pairs(distance, output_type="ndarray")
    keep = np.ones(len(x), bool)
    first, second = pairs[:, 0], pairs[:, 1]
    keep[np.where(amplitude[first] < amplitude[second], first, second)] = False
    return keep


@dataclass(frozen=True)
class Look:
    """One band before the final fit: its field with the background below the sources removed, and per source (N,)..."""

    field: Field
    amplitude: Array
    snr: Array
    dx: Array
    dy: Array
    width: Array
    width_error: Array


def first_look(field: Field, x: Array, y: Array, config: MeasureConfig) -> Look:
    """PSF amplitudes at the positions found, what the band says about positions and widths, and a better background."""
    half, _ = sizes(field, config)
    stamps = Stamps.of(field.psf, x, y, half)
    amplitude, left, cutouts = amplitudes(field, stamps)
    valid = stamps.take(field.valid)
    dx, dy = offsets(stamps, cutouts, amplitude, valid)
    width, error = added_variance(field, stamps, cutouts, valid)
    level = background(left, field.valid, config.background_mesh)
    cleaned = replace(field, image=np.where(field.valid, field.image - level, np.float32(0)))
    values = stamps.values * valid
    noise = np.sqrt((values**2 * stamps.take(field.variance)).sum(axis=(1, 2)))
    power = (values**2).sum(axis=(1, 2))
    snr = np.divide(amplitude * power, noise, out=np.zeros_like(power), where=noise > 0)
    return Look(cleaned, amplitude, snr, dx, dy, width, error)


@dataclass(frozen=True)
class Family:
    """Parents: light-weighted positions (M,), band of their brightest child; ``parent`` (N,): each source's, or -1."""

    x: Array
    y: Array
    reference: IntArray
    parent: IntArray

    @classmethod
    def of(cls, footprint: IntArray, x: Array, y: Array, flux: Array, reference: IntArray) -> Family:
        _, group, count = np.unique(footprint, return_inverse=True, return_counts=True)
        shared = count > 1
        number = np.cumsum(shared) - 1
        light = np.maximum(flux, 1e-30)
        total = np.bincount(group, light)
        brightest = np.lexsort((-flux, group))[np.concatenate([[0], np.cumsum(count)[:-1]])]
        mean_x, mean_y = (np.bincount(group, light * value) / total for value in (x, y))
        parent = np.where(shared[group], number[group], -1)
        return cls(mean_x[shared], mean_y[shared], reference[brightest][shared], parent)
