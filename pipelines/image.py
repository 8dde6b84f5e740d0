"""Images with their variance, mask, WCS, PSF and calibration, and their FITS form.

A file has the HDUs IMAGE, VARIANCE, MASK (RICE-compressed), META (JSON) and, where there is one, PSF. META holds what is
known of the image and its WCS, to the bit; the header of IMAGE repeats both for other programs. Writing is deterministic:
the same image gives the same bytes (fixed dither seed, no dates), as results must be a function of data IDs.
Pixels (y, x), 0-based. Units are in the header key BUNIT: ``electron`` up to the preliminary image, ``nJy`` after it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import fitsio
import numpy as np
from numpy.typing import NDArray

from pipelines.psf import PsfModel
from pipelines.wcs import SkyWcs

#: Mask planes as bits of an int16.
MASK = {
    "BAD": 1,  # defect: dead, hot, or a flat too low to divide by
    "SAT": 2,  # saturated
    "CR": 4,  # cosmic ray
    "EDGE": 8,  # too near the edge of the detector
    "NO_DATA": 16,  # no pixel contributed
    "DETECTED": 32,  # part of a source
    "BLEED": 64,  # bleed trail of a saturated star
    "INTERPOLATED": 128,  # value interpolated over a bad pixel
}
UNUSABLE = MASK["BAD"] | MASK["SAT"] | MASK["CR"] | MASK["EDGE"] | MASK["NO_DATA"] | MASK["BLEED"]

#: Steps of compressed float planes: 1/16 of the noise of the image (adds 0.03 % to its variance) and 1/64 of the variance
#: (an error of 0.5 % in a pixel, without bias). Where the variance does not tell the noise, the pixels do.
IMAGE_STEPS, VARIANCE_STEPS = 16, 64
#: Rows compressed together.
TILE_ROWS = 40


class ImageError(ValueError):
    """A FITS file cannot be read as an image; the message names the file and what is wrong."""


@dataclass
class Image:
    """``image`` and ``variance`` (ny, nx) float32, ``mask`` (ny, nx) int16; NaN image pixels carry NO_DATA or BAD.

    ``meta`` holds FITS-able scalars: instrument, visit, detector, band, physical_filter, mjd_mid, exposure_time,
    airmass, BUNIT, zeroPoint, ... ``wcs`` maps these pixels; ``psf`` describes them. ``planes`` holds further integer planes
    by name (upper case), for instance N_INPUT of a coadd.
    """

    image: NDArray[np.float32]
    variance: NDArray[np.float32]
    mask: NDArray[np.int16]
    wcs: SkyWcs | None = None
    psf: PsfModel | None = None
    meta: dict[str, str | float | int | bool] = field(default_factory=dict)
    planes: dict[str, NDArray[np.int16]] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        return (int(self.image.shape[0]), int(self.image.shape[1]))

    @property
    def nbytes(self) -> int:
        """Memory held by the pixel planes."""
        return self.image.nbytes + self.variance.nbytes + self.mask.nbytes

    def copy(self) -> Image:
        """An image whose planes may be changed without changing this one."""
        planes = {name: plane.copy() for name, plane in self.planes.items()}
        return Image(self.image.copy(), self.variance.copy(), self.mask.copy(), self.wcs, self.psf, dict(self.meta), planes)

    def bad(self, planes: int = UNUSABLE) -> NDArray[np.bool_]:
        """Pixels that carry any of the given mask planes."""
        return np.asarray((self.mask & planes) != 0)

    def write(self, path: str | Path) -> None:
        """Write to ``path``; OSError says why a disk does not take it (which cfitsio would not: it writes to memory)."""
        header = [{"name": "HIERARCH " + k if len(k) > 8 else k, "value": v} for k, v in sorted(self.meta.items())]
        if self.wcs is not None:
            header += [{"name": k, "value": v} for k, v in self.wcs.to_header().items()]
        variance = self._least_variance()
        # Negative levels are steps in the units of the plane, positive ones parts of the scatter that cfitsio measures.
        steps = (-np.sqrt(variance) / IMAGE_STEPS, -variance / VARIANCE_STEPS) if variance > 0 else (IMAGE_STEPS, IMAGE_STEPS)
        tile = (min(TILE_ROWS, self.shape[0]), self.shape[1])
        with fitsio.FITS("mem://", "rw") as fits:
            for name, plane, step in (("IMAGE", self.image, steps[0]), ("VARIANCE", self.variance, steps[1])):
                fits.write(
                    np.ascontiguousarray(plane, np.float32), extname=name, header=header if name == "IMAGE" else None,
                    compress="RICE", tile_dims=tile, qlevel=step, qmethod="SUBTRACTIVE_DITHER_1", dither_seed=1,
                )  # fmt: skip
            for name, integers in (("MASK", self.mask), *sorted(self.planes.items())):
                fits.write(np.ascontiguousarray(integers, np.int16), extname=name, compress="RICE", tile_dims=tile)
            fits.write(np.frombuffer(self._facts().encode(), np.uint8), extname="META")
            if self.psf is not None:
                fits.write(np.asarray(self.psf.stamps, np.float32), extname="PSF")
            content = fits.read_raw()
        Path(path).write_bytes(content)

    def _facts(self) -> str:
        """All but the arrays, as JSON."""
        facts = {
            "meta": self.meta,
            "wcs": None if self.wcs is None else self.wcs.to_json(),
            "psf": None if self.psf is None else {"order": self.psf.order, "shape": self.psf.shape},
        }
        return json.dumps(facts, sort_keys=True, separators=(",", ":"), default=lambda scalar: scalar.item())

    def _least_variance(self) -> float:
        """Variance that a twentieth of a sample of the pixels is below: it stays small where most pixels hold stars. 0: unknown."""
        sample = self.variance[::5, ::5]
        sample = sample[np.isfinite(sample) & (sample > 0)]
        return float(np.partition(sample, len(sample) // 20)[len(sample) // 20]) if len(sample) else 0.0

    @classmethod
    def read(cls, path: str | Path) -> Image:
        """Read what write() wrote; ImageError names a file that is not one."""
        try:
            with fitsio.FITS(str(path)) as fits:
                names = {hdu.get_extname() for hdu in fits} - {""}
                image, variance, mask = (fits[n].read() for n in ("IMAGE", "VARIANCE", "MASK"))
                planes = {n: fits[n].read() for n in sorted(names - {"IMAGE", "VARIANCE", "MASK", "META", "PSF"})}
                facts = json.loads(fits["META"].read().tobytes())
                stamps = fits["PSF"].read().astype(np.float64) if "PSF" in names else None
            wcs = SkyWcs.from_json(facts["wcs"]) if facts["wcs"] is not None else None
            psf = PsfModel(stamps, facts["psf"]["order"], tuple(facts["psf"]["shape"])) if stamps is not None else None
        except (OSError, ValueError, KeyError) as error:
            raise ImageError(f"{path}: not a readable image ({error})") from None
        return cls(image, variance, mask, wcs, psf, facts["meta"], planes)
