"""Detector images as resampling needs them; kept while they fit, as neighbouring patches need the same detectors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipelines.image import MASK, Image
from pipelines.kept import Kept
from pipelines.neighbours import filled, grown
from pipelines.quantum import DatasetRef, Inputs

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


_frames: Kept[Frame] = Kept(192 * 2**20)


def read_frame(inputs: Inputs, ref: DatasetRef) -> Frame:
    """The detector image of ``ref``, not to be changed by the caller; raises DamagedInput or ImageError."""
    if ref.file_checksum is None:  # nothing says that it is still the same file
        return Frame.of(Image.read(inputs.path(ref)))
    key = (str(inputs.root / ref.path), ref.file_checksum)
    return _frames.get(key, lambda: Frame.of(Image.read(inputs.path(ref))))
