"""Task associate_dia_sources: difference sources of a tract, over all visits and bands, to objects.

Sources that are near each other are friends, and friends of friends are one object: the answer depends on the set of
sources, not on their order. Flagged sources found no object, they only join one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from pipelines import skymap
from pipelines.photometry import rows
from pipelines.quantum import Inputs, Payload, Quantum

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Settings:
    """Distances in pixels of the skymap."""

    radius: float = 1.5  # of friendship
    nearest_object: float = 2.0


def run(quantum: Quantum, inputs: Inputs) -> dict[str, Payload]:
    """``dia_object`` and ``dia_association`` of a tract; both empty where there are no unflagged sources."""
    settings = quantum.settings(Settings)
    name, tract = str(quantum.data_id["skymap"]), int(quantum.data_id["tract"])
    pixel = skymap.load(name).pixel_scale / 3600.0
    sources, objects = inputs.table("dia_source"), inputs.table("object")
    position = unit_vectors(sources["coord_ra"], sources["coord_dec"])
    seed = ~sources["flag_bad"].to_numpy()
    group = np.full(len(seed), -1, np.int64)
    group[seed] = friends_of_friends(position[seed], settings.radius * pixel)
    distance, nearest = neighbours(position[seed], position[~seed], settings.radius * pixel)
    if seed.any():
        group[~seed] = np.where(np.isfinite(distance), group[seed][nearest], -1)
    member = pa.table(
        {
            "cluster": group, "seed": seed, "diaSourceId": sources["diaSourceId"], "snr": sources["snr"],
            "midpointMjdTai": sources["midpointMjdTai"], "x": position[:, 0], "y": position[:, 1], "z": position[:, 2],
        }
    ).filter(pa.array(group >= 0))  # fmt: skip
    with duckdb.connect(config={"threads": 1}) as con:
        con.register("member", member)
        found = con.sql(_statement("dia_object"), params={"tract": tract}).to_arrow_table()
        con.register("found", found)
        association = con.sql(_statement("dia_association")).to_arrow_table()
    columns = {c: found[c] for c in found.column_names} | nearest_object(found, objects, settings.nearest_object * pixel)
    constant = {"tract": tract, "skymap": name}
    return {
        "dia_object": rows("dia_object", found.num_rows, constant, columns),
        "dia_association": rows(
            "dia_association", association.num_rows, constant, {c: association[c] for c in association.column_names}
        ),
    }


def _statement(name: str) -> str:
    return Path(__file__).with_name(f"{name}.sql").read_text()


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Array:
    """Unit vectors (N, 3) of sky positions in degrees."""
    a, d = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=1)


def _chord(angle: float) -> float:
    return 2.0 * float(np.sin(np.radians(angle) / 2.0))


def friends_of_friends(position: Array, radius: float) -> NDArray[np.int64]:
    """Group number (N,) of each unit vector: chains of neighbours within ``radius`` (deg) share one."""
    n = len(position)
    if not n:
        return np.zeros(0, np.int64)
    pairs = cKDTree(position).query_pairs(_chord(radius), output_type="ndarray")
    links = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
    return np.asarray(connected_components(links, directed=False)[1], np.int64)


def neighbours(position: Array, of: Array, radius: float) -> tuple[Array, NDArray[np.int64]]:
    """For each unit vector in ``of`` (M, 3): distance (deg, inf if none within ``radius``) and index of the nearest."""
    if not len(position) or not len(of):
        return np.full(len(of), np.inf), np.zeros(len(of), np.int64)
    chord, index = cKDTree(position).query(of, distance_upper_bound=_chord(radius))
    near = np.isfinite(chord)
    distance = np.degrees(2.0 * np.arcsin(np.where(near, chord, 0.0) / 2.0))
    return np.where(near, distance, np.inf), np.where(near, index, 0)


def nearest_object(found: pa.Table, objects: pa.Table, radius: float) -> dict[str, pa.Array]:
    """Columns nearestObjectId and nearestObjectDist (arcsec): the nearest primary object within ``radius`` (deg), or null."""
    primary = objects.filter(objects["detect_isPrimary"])
    distance, nearest = neighbours(
        unit_vectors(primary["coord_ra"], primary["coord_dec"]),
        unit_vectors(found["coord_ra"], found["coord_dec"]),
        radius,
    )
    none = ~np.isfinite(distance)
    ids = np.append(primary["objectId"].to_numpy(), 0)  # of an empty table there is something to take, too
    return {
        "nearestObjectId": pa.array(ids[nearest], pa.int64(), mask=none),
        "nearestObjectDist": pa.array(3600.0 * np.where(none, 0.0, distance), pa.float64(), mask=none),
    }
