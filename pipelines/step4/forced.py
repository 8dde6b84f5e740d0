"""Task forced_photometry: PSF fluxes of the tract's objects on the visit image and on the difference image."""

from __future__ import annotations

from pipelines.photometry import forced_rows
from pipelines.quantum import Inputs, Payload, Quantum


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``object_forced_source``: a row per primary object of the tract (they lie in its inner region) on the detector."""
    objects = inputs.table("object")
    primary = objects.filter(objects["detect_isPrimary"])
    ids, ra, dec = (primary[name].to_numpy() for name in ("objectId", "coord_ra", "coord_dec"))
    images = inputs.image("visit_image"), inputs.image("difference_image")
    return {"object_forced_source": forced_rows("object_forced_source", quantum, images, ("objectId", ids), ra, dec)}
