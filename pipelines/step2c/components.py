"""Which visits hold together: sets of visits connected by the stars they share, and what ties each to the sky."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.step2c.model import Equations, Visits

IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class Components:
    """``visit`` (V,): the component of each visit, numbered in the order of their first visits; ``references`` (K,): reference
    stars that the visits of a component share with the catalogue, counted once per visit and star; ``absolute`` (K,): enough."""

    visit: IntArray
    references: IntArray
    absolute: NDArray[np.bool_]


def find(visits: Visits, equations: Equations, enough: int) -> Components:
    """The connected components of a band. The reference catalogue connects nothing, it ties; flats connect nothing either."""
    number = np.full(len(equations.kind), -1, np.int32)
    zero = np.flatnonzero(equations.kind == "zero_point")
    number[zero] = np.searchsorted(visits.visit, equations.visit[zero])
    entries, count = coo_array(equations.visits11), len(visits.visit)
    i, j = (number[equations.few :][coordinate] for coordinate in entries.coords)
    tied = (entries.data < 0) & (i >= 0) & (i < j)  # each star that they share makes it less
    edges = coo_array((np.ones(int(tied.sum()), np.int8), (i[tied], j[tied])), shape=(count, count))
    label = connected_components(edges, directed=False)[1]
    _, first, label = np.unique(label, return_index=True, return_inverse=True)
    component = np.argsort(np.argsort(first))[label]
    found = np.bincount(component[number[zero]], equations.references[zero], len(first)).astype(np.int64)
    return Components(component.astype(np.int64), found, found >= enough)


def columns(found: Components, visits: Visits) -> dict[str, Any]:
    """A row per component: how many visits and nights, what ties it, and where its gauge comes from."""
    count = len(found.absolute)
    size = np.bincount(found.visit, minlength=count)
    nights = [len(np.unique(visits.day_obs[found.visit == k])) for k in range(count)] if count <= 1000 else np.zeros(count, int)
    first = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(first, found.visit, visits.visit)
    known = np.bincount(found.visit, visits.known, count) > 0
    stars = np.bincount(found.visit, visits.stars, count).astype(np.int64)
    gauge = np.where(found.absolute, "reference stars", np.where(known, "preliminary zero points", "nominal zero points"))
    return {
        "component": np.arange(count), "first_visit": first, "visits": size, "nights": np.asarray(nights), "observations": stars,
        "references": found.references, "absolute": found.absolute, "gauge": gauge,
    }  # fmt: skip
