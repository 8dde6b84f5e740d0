"""Task reprocess_visit_image: the preliminary image in nJy, with the final WCS and zero point and a better background."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc
import sep
from numpy.typing import NDArray

from pipelines.image import MASK, UNUSABLE, Image
from pipelines.neighbours import grown
from pipelines.photometry import nanojansky_per_electron
from pipelines.quantum import Inputs, NoWork, Payload, Quantum
from pipelines.wcs import SkyWcs


@dataclass(frozen=True)
class Settings:
    """How the background is refined."""

    background_mesh: int = 100  # pixels
    source_sigma: float = 3.0  # pixels this far above the noise belong to sources
    source_grow: int = 3  # and those within so many pixels of them


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``visit_image``; NoWork where the visit has no final calibration of this detector."""
    settings = quantum.settings(Settings)
    detector = quantum.data_id["detector"]
    summary = inputs.table("visit_summary")
    rows = summary.filter(pc.equal(summary["detector"], detector)).to_pylist()
    if not rows or rows[0]["zeroPoint"] is None or not np.isfinite(rows[0]["zeroPoint"]):
        raise NoWork(f"visit {quantum.data_id['visit']} has no zero point for detector {detector}")
    row = rows[0]
    image = inputs.image("preliminary_visit_image")
    meta = dict(image.meta)
    for key in ("instrument", "visit", "detector", "band", "physical_filter", "day_obs", "mjd_mid", "exposure_time", "airmass",
                "zeroPoint", "zeroPointErr", "photometric", "absolute", "photo_source", "wcs_source"):  # fmt: skip
        if row[key] is not None:
            meta[key] = row[key]
    meta["BUNIT"] = "nJy"
    background = refined_background(image, settings)
    scale = float(nanojansky_per_electron(row["zeroPoint"]))
    return {
        "visit_image": Image(
            ((image.image - background) * scale).astype(np.float32),
            (image.variance * scale**2).astype(np.float32),
            image.mask,
            SkyWcs.from_json(row["wcs"]),
            image.psf,
            meta,
        )
    }


def refined_background(image: Image, settings: Settings) -> NDArray[np.float32]:
    """What is left of the background once sources are masked further out than at first; 0 where there is too little sky."""
    with np.errstate(invalid="ignore"):
        bright = image.image > settings.source_sigma * np.sqrt(image.variance)
    # single bright pixels are noise: a source is bright in a neighbour as well
    pairs = bright[:, 1:] & bright[:, :-1]
    source = np.zeros(image.shape, bool)
    source[:, 1:] = pairs
    source[:, :-1] |= pairs
    hidden = grown(source, settings.source_grow)
    hidden |= image.bad(UNUSABLE & ~MASK["EDGE"] | MASK["DETECTED"]) | ~np.isfinite(image.image)
    if hidden.mean() > 0.9:
        return np.zeros(image.shape, np.float32)
    mesh = settings.background_mesh
    plane = np.where(hidden, np.float32(0), image.image)
    return np.asarray(sep.Background(plane, mask=hidden, bw=mesh, bh=mesh, fw=3, fh=3).back(dtype=np.float32))
