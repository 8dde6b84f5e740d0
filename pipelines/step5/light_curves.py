"""Task light_curves: PSF fluxes of the tract's dia objects on one visit, detected there or not."""

from __future__ import annotations

import pyarrow as pa

import schemas
from pipelines.photometry import forced_rows
from pipelines.quantum import Inputs, Payload, Quantum

_TABLE = "dia_object_forced_source"


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``dia_object_forced_source``: a row per object and detector of the visit that holds it, ordered by key.

    Fluxes on the difference image are null where this tract made none of that detector.
    """
    objects = inputs.table("dia_object")
    ids, ra, dec = (objects[name].to_numpy() for name in ("diaObjectId", "coord_ra", "coord_dec"))
    differences = {ref.data_id["detector"]: image for ref, image in inputs.images("difference_image")}
    parts = [
        forced_rows(_TABLE, quantum, (image, differences.get(ref.data_id["detector"])), ("diaObjectId", ids), ra, dec)
        for ref, image in inputs.images("visit_image")
    ]
    if not parts:
        nothing = schemas.table(_TABLE).arrow.empty_table()
        return {_TABLE: nothing.drop_columns(["site"])}
    keys = [("diaObjectId", "ascending"), ("visit", "ascending"), ("detector", "ascending")]
    return {_TABLE: pa.concat_tables(parts).sort_by(keys).combine_chunks()}
