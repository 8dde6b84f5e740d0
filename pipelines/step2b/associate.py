"""Step 2b, isolated stars: which detections of all visits and bands are the same star, for stars without neighbours.

A star belongs to the tract whose inner region holds its mean position: the union over tracts has every star once.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from pipelines import skymap
from pipelines.quantum import Inputs, Quantum, returned
from pipelines.step2b import cells
from pipelines.step2b.sources import Matching, Sources, read
from pipelines.step2b.statement import statement


@dataclass(frozen=True)
class Settings(Matching):
    """``isolation_pixels``: no other star so near; ``min_observations`` of a star (one will do where there is one visit);
    ``reserve``: fraction of the stars kept out of every photometric fit, drawn by sky cells of ``reserve_cell`` arcsec."""

    isolation_pixels: float = 5.0
    min_observations: int = 2
    reserve: float = 0.1
    reserve_cell: float = 60.0


def run(quantum: Quantum, inputs: Inputs) -> dict[str, pa.Table]:
    """``isolated_star`` and ``isolated_star_association`` of a tract; raises NoWork where it has no detection."""
    settings = quantum.settings(Settings)
    tract, sky = int(quantum.data_id["tract"]), skymap.load(quantum.data_id["skymap"])
    ra, dec = sky.tract_centre(tract)
    with duckdb.connect(config={"threads": 1}) as con:
        sources = read(con, inputs, (float(ra), float(dec)), settings)
        star, groups = group_stars(sources, settings)
        inner = sky.find_tract(groups["ra"].to_numpy(), groups["dec"].to_numpy()) == tract
        con.register("star_group", groups.append_column("inner", pa.array(inner)))
        con.register(
            "member",
            pa.table({"star": star, "sourceId": sources.source, "visit": sources.visit(), "good": sources.good}),
        )
        visits = len({f["visit"] for f in sources.frames})
        con.execute(
            "CREATE TEMP TABLE isolated AS " + statement("isolated_stars"),
            {"tract": tract, "skymap": sky.name, "min_observations": min(settings.min_observations, visits)},
        )
        isolated = con.sql("SELECT * EXCLUDE (star) FROM isolated ORDER BY isolatedStarId").to_arrow_table()
        association = con.sql(statement("associations")).to_arrow_table()
    return {
        "isolated_star": returned("isolated_star", isolated),
        "isolated_star_association": returned("isolated_star_association", association),
    }


def group_stars(sources: Sources, settings: Settings) -> tuple[np.ndarray, pa.Table]:
    """The star of each detection (N,), and the stars: mean position of the good detections, isolated, reserved.

    Detections too poor to calibrate with count as neighbours where at least two visits saw them (once: it may be noise).
    """
    star = cells.group(sources.ra, sources.dec, settings.match_pixels * sources.scale)
    count = int(star.max()) + 1 if len(star) else 0
    weight = np.bincount(star, sources.good, count)
    seen = np.bincount(star, minlength=count)
    vectors = cells.unit_vectors(sources.ra, sources.dec)
    mean = cells.mean_vectors(vectors[sources.good], star[sources.good], count)
    centre = np.where(weight[:, None] > 0, mean, cells.mean_vectors(vectors, star, count))
    real = np.flatnonzero((seen > 1) | (weight > 0))
    crowded = np.ones(count, bool)
    crowded[real] = cells.crowded(centre[real], settings.isolation_pixels * sources.scale)
    ra, dec = cells.sky_positions(centre)
    reserved = cells.lot(cells.sky_cell(ra, dec, settings.reserve_cell), salt=1) < settings.reserve
    columns = {"star": np.arange(count), "isolated": ~crowded & (weight > 0), "ra": ra, "dec": dec, "reserved": reserved}
    return star, pa.table(columns)
