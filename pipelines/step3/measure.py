"""measure_objects: one catalogue of sources from the deep coadds of all bands of a patch.

Detection on all bands together; positions by simultaneous PSF fits, first on the detection image, then in the band of
highest signal (``refBand``); forced photometry at these positions in each band. Sources that share a footprint are
children of a parent, which is a row as well: the whole footprint measured as if it were one source.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipelines.image import MASK, Image
from pipelines.neighbours import grown
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.step3.config import MeasureConfig
from pipelines.step3.detect import Array, Field, background, combined
from pipelines.step3.fit import IntArray, offsets
from pipelines.step3.locate import Located, is_broad, locate, sizes
from pipelines.step3.objects import BANDS, Sources, rows
from pipelines.step3.photometry import Photometry, measure, unshared
from pipelines.step3.scene import fit_scene, wings


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """All ``deep_coadd`` of a patch to ``object`` rows; NoWork when no band has data or nothing is detected."""
    config = quantum.settings(MeasureConfig)
    coadds = {str(ref.data_id["band"]): image for ref, image in inputs.images("deep_coadd")}
    unknown = sorted(set(coadds) - set(BANDS))
    if unknown:
        known = ", ".join(BANDS)
        raise ValueError(f"band {unknown[0]!r} has no columns in table object (known: {known}): declare it in schemas/")
    fields = {band: field_of(coadds[band], config) for band in BANDS if band in coadds}
    fields = {band: field for band, field in fields.items() if field.valid.any()}
    if not fields:
        raise NoWork(f"no coadd of patch {quantum.data_id['patch']} has data")
    sources, photometry = catalogue(fields, config)
    if not len(sources.x):
        raise NoWork(f"nothing is detected in patch {quantum.data_id['patch']}")
    return {"object": rows(quantum.data_id, {band: coadds[band] for band in fields}, sources, photometry)}


def field_of(coadd: Image, config: MeasureConfig) -> Field:
    """A coadd ready to be measured: background subtracted, zeros where it is not to be used."""
    if coadd.psf is None:
        raise ValueError(f"deep_coadd {coadd.meta.get('band')}: no PSF; assemble_coadd must write one")
    saturated = grown(coadd.bad(MASK["SAT"]))
    valid = np.isfinite(coadd.image) & ~coadd.bad(MASK["NO_DATA"]) & (coadd.variance > 0) & ~saturated
    image, variance = (np.where(valid, plane, np.float32(0)) for plane in (coadd.image, coadd.variance))
    level = background(image, valid, config.background_mesh)
    return Field(np.where(valid, image - level, np.float32(0)), variance, valid, saturated, coadd.psf)


def catalogue(fields: dict[str, Field], config: MeasureConfig) -> tuple[Sources, dict[str, Photometry]]:
    """Sources, children first and then their parents, and their photometry in each band."""
    found = locate(combined(list(fields.values())), config)
    if not len(found.x):
        return Sources.none(), {}
    looks = [first_look(field, found, config) for field in fields.values()]
    reference = np.argmax([look.snr for look in looks], axis=0)
    each = np.arange(len(found.x))
    x, y, flux = (np.stack([getattr(look, name) for look in looks])[reference, each] for name in ("x", "y", "flux"))
    family = Family.of(found.footprint, x, y, flux, reference)
    photometry = {}
    for band, look in zip(fields, looks, strict=True):
        half, radius = sizes(look.field, config)
        far = wings(look.field, x, y, look.flux, half)
        near = replace(look.field, image=look.field.image - far * look.field.valid)
        children = measure(near, x, y, found.broad, half, radius)
        photometry[band] = children.joined(unshared(look.field, family.x, family.y, half, radius))
    reference = np.concatenate([reference, family.reference])
    every = np.arange(len(reference))
    width = np.stack([measured.width for measured in photometry.values()])[reference, every]
    error = np.stack([measured.width_error for measured in photometry.values()])[reference, every]
    names = list(fields)
    sources = Sources(
        x=np.concatenate([x, family.x]), y=np.concatenate([y, family.y]),
        parent=np.concatenate([family.parent, np.full(len(family.x), -1)]),
        is_parent=np.concatenate([np.zeros(len(x), bool), np.ones(len(family.x), bool)]),
        band=[names[n] for n in reference], extended=is_broad(width, error, config),
    )  # fmt: skip
    return sources, photometry


@dataclass(frozen=True)
class Look:
    """One band before its final fit: its field with the background below the sources removed, and per source (N,)
    the PSF flux, its signal to noise, and where this band would have it."""

    field: Field
    flux: Array
    snr: Array
    x: Array
    y: Array


def first_look(field: Field, found: Located, config: MeasureConfig) -> Look:
    """What one band says about sources found on all bands together."""
    scene = fit_scene(field, found.x, found.y, found.broad, sizes(field, config)[0])
    valid = scene.stamps.take(field.valid)
    dx, dy = offsets(scene.stamps, scene.cutouts, valid)
    level = background(scene.left, field.valid, config.background_mesh)
    cleaned = replace(field, image=np.where(field.valid, field.image - level, np.float32(0)))
    values = scene.stamps.values * valid
    signal = (values * scene.cutouts).sum(axis=(1, 2))
    noise = np.sqrt((values**2 * scene.stamps.take(field.variance)).sum(axis=(1, 2)))
    snr = np.divide(signal, noise, out=np.zeros_like(signal), where=noise > 0)
    flux = signal / np.maximum((values**2).sum(axis=(1, 2)), 1e-30)
    return Look(cleaned, flux, snr, found.x + dx, found.y + dy)


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
