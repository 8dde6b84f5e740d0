"""What the quanta of one job share: detector images and summary rows, read once and kept while they fit.

Neighbouring patches need the same detectors. Keeping is only a matter of speed: files are immutable, and a file is
known by its checksum, so what is kept is what would be read.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines import skymap
from pipelines.image import MASK, Image
from pipelines.neighbours import filled, grown
from pipelines.quantum import DatasetRef, Inputs

KEEP_BYTES = 192 * 2**20
KEEP_TABLES = 8

#: Planes whose pixels hold no usable value. Saturated pixels are kept (a hole in every bright star would help nobody)
#: and stay marked.
UNUSABLE = MASK["BAD"] | MASK["CR"] | MASK["EDGE"] | MASK["NO_DATA"] | MASK["BLEED"]


@dataclass(frozen=True)
class Frame:
    """A detector image and what resampling needs of it: ``pixels`` without bad values, and which are ``lost``.

    Lost are the unusable pixels and those beside them: any farther, and a kernel's weight on the bad pixel is too
    small to matter, given what it was filled with.
    """

    image: Image
    pixels: NDArray[np.float32]
    lost: NDArray[np.bool_]

    @classmethod
    def of(cls, image: Image) -> Frame:
        wrong = ~np.isfinite(image.image) | ~(image.variance > 0)
        bad = image.bad(UNUSABLE) | wrong
        return cls(image, filled(image.image, (bad & ~image.bad(MASK["INTERPOLATED"])) | wrong, bad), grown(bad))

    @property
    def nbytes(self) -> int:
        return self.image.nbytes + self.pixels.nbytes + self.lost.nbytes


_frames: OrderedDict[tuple[str, str], Frame] = OrderedDict()
_tables: OrderedDict[tuple[str, ...], list[dict[str, Any]]] = OrderedDict()


def frame(inputs: Inputs, ref: DatasetRef) -> Frame:
    """The detector image of ``ref``, not to be changed by the caller; raises DamagedInput or ImageError."""
    if ref.file_checksum is None:
        return Frame.of(Image.read(inputs.path(ref)))
    key = (str(inputs.root / ref.path), ref.file_checksum)
    if key not in _frames:
        _frames[key] = Frame.of(Image.read(inputs.path(ref)))
        while len(_frames) > 1 and sum(kept.nbytes for kept in _frames.values()) > KEEP_BYTES:
            _frames.popitem(last=False)
    _frames.move_to_end(key)
    return _frames[key]


def rows(inputs: Inputs, dataset_type: str) -> list[dict[str, Any]]:
    """The rows of a small input table, not to be changed by the caller."""
    refs = inputs.refs(dataset_type)
    if any(ref.file_checksum is None for ref in refs):
        return list(inputs.table(dataset_type).to_pylist())
    key = (str(inputs.root), *(f"{ref.dataset_id} {ref.file_checksum}" for ref in refs))
    if key not in _tables:
        _tables[key] = inputs.table(dataset_type).to_pylist()
    while len(_tables) > KEEP_TABLES:
        _tables.popitem(last=False)
    return _tables[key]


@cache
def sky(name: str) -> skymap.RingsSkyMap:
    """The skymap of that name; raises SkyMapError."""
    return skymap.load(name)
