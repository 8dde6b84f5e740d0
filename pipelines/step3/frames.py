"""What the quanta of one job share: detector images and summary rows, read once and kept while they fit.

Neighbouring patches need the same detectors. Keeping is only a matter of speed: files are immutable, and a file is
known by its checksum, so what is kept is what would be read.
"""

from __future__ import annotations

from collections import OrderedDict
from functools import cache
from typing import Any

from pipelines import skymap
from pipelines.image import Image
from pipelines.quantum import DatasetRef, Inputs

KEEP_BYTES = 128 * 2**20
KEEP_TABLES = 8

_images: OrderedDict[tuple[str, str], Image] = OrderedDict()
_tables: OrderedDict[tuple[str, ...], list[dict[str, Any]]] = OrderedDict()


def image(inputs: Inputs, ref: DatasetRef) -> Image:
    """The image of ``ref``, not to be changed by the caller; raises DamagedInput or ImageError."""
    if ref.file_checksum is None:
        return Image.read(inputs.path(ref))
    key = (str(inputs.root / ref.path), ref.file_checksum)
    if key not in _images:
        _images[key] = Image.read(inputs.path(ref))
    _images.move_to_end(key)
    while len(_images) > 1 and sum(kept.nbytes for kept in _images.values()) > KEEP_BYTES:
        _images.popitem(last=False)
    return _images[key]


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
