"""What the solution has to know of a camera: where its detectors are, what its filters give, which colour it refers to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

from pipelines import instrument
from pipelines.step2c.settings import EXTINCTION, REFERENCE_COLOUR, ZERO_POINT

FOCAL_PLANE = pa.schema(
    [("detector", pa.int32()), *((name, pa.float64()) for name in ("x0", "y0", "xx", "xy", "yx", "yy", "cx", "cy"))]
)


@dataclass(frozen=True)
class Camera:
    """``focal_plane``: a row per detector: x0, y0 of its centre (deg); xx, xy, yx, yy (deg per pixel); cx, cy, the pixel there.
    ``nominal``: band -> (magnitude of 1 e-/s above the atmosphere, extinction per airmass)."""

    focal_plane: pa.Table
    nominal: Mapping[str, tuple[float, float]]
    reference_colour: float = REFERENCE_COLOUR

    def filters(self, bands: Sequence[str]) -> pa.Table:
        """Nominal zero point and extinction of bands, also of those that the camera says nothing of."""
        values = [self.nominal.get(band, (ZERO_POINT, EXTINCTION.get(band, 0.1))) for band in bands]
        columns = [pa.array(bands, pa.string()), *(pa.array([v[k] for v in values], pa.float64()) for k in range(2))]
        return pa.table(columns, ["band", "zero_point", "extinction"])


def of(con: duckdb.DuckDBPyConnection, visits: str = "preliminary_visit_summary") -> Camera:
    """The camera of the view ``visits``, from its file; one without has no gradients and nominal filters."""
    name = con.sql(f"SELECT min(instrument) FROM {visits}").fetchall()[0][0]
    try:
        if name:
            return from_instrument(instrument.load(name))
    except instrument.InstrumentError:
        pass
    return Camera(FOCAL_PLANE.empty_table(), {})


def from_instrument(camera: instrument.Instrument) -> Camera:
    """A camera as its file describes it."""
    rows = []
    for d in camera.detectors:
        cx, cy = 0.5 * (d.width - 1), 0.5 * (d.height - 1)
        (x0, xx, xy), (y0, yx, yy) = (
            (float(at[0]), float(at[1] - at[0]), float(at[2] - at[0]))
            for at in d.to_focal_plane([cx, cx + 1, cx], [cy, cy, cy + 1], camera.pixel_scale)
        )
        rows.append({"detector": d.detector, "x0": x0, "y0": y0, "xx": xx, "xy": xy, "yx": yx, "yy": yy, "cx": cx, "cy": cy})
    chromatic = any(f.colour_term for f in camera.filters.values())
    return Camera(
        pa.Table.from_pylist(rows, schema=FOCAL_PLANE),
        {f.band: (f.zero_point, f.extinction) for f in camera.filters.values()},
        camera.reference_colour if chromatic else REFERENCE_COLOUR,
    )
