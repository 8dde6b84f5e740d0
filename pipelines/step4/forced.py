"""Task forced_photometry: PSF fluxes of the tract's objects on the visit image and on the difference image."""

from __future__ import annotations

import numpy as np

from pipelines.photometry import forced_columns, forced_rows
from pipelines.quantum import Inputs, Payload, Quantum


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``object_forced_source``: one row per primary object of the tract on the detector."""
    objects = inputs.table("object").to_pydict() if False else inputs.table("object")
    primary = objects.filter(objects["detect_isPrimary"])
    visit_image, difference = inputs.image("visit_image"), inputs.image("difference_image")
    on, columns = forced_columns(
        visit_image, difference, primary["coord_ra"].to_numpy(), primary["coord_dec"].to_numpy()
    )
    columns["objectId"] = primary["objectId"].combine_chunks().take(np.asarray(on))
    return {"object_forced_source": forced_rows("object_forced_source", quantum, visit_image, columns)}
