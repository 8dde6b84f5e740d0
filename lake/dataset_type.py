"""Dataset types: what a dataset of a name needs in its data ID, and how it is stored. Types are added, never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa

import schemas
from lake import delta
from lake.identity import RegistryError
from lake.site import Site

STORAGE = ("fits", "json", "table")


@dataclass(frozen=True)
class DatasetType:
    """``dimensions`` are the required ones; ``storage`` is fits, json or table (a slice of that catalogue)."""

    name: str
    dimensions: tuple[str, ...]
    storage: str


def register_dataset_types(site: Site, types: Mapping[str, tuple[Sequence[str], str]]) -> int:
    """Make dataset types known: name -> (required dimensions, storage); returns how many were new.

    RegistryError when a type is known with another definition, or a dimension or storage does not exist; nothing is
    added then.
    """
    new = []
    with site.lock("dimensions"):
        known = dataset_types(site)
        for name, (dimensions, storage) in types.items():
            wrong = [d for d in dimensions if d not in schemas.DATA_ID]
            if wrong or storage not in STORAGE:
                raise RegistryError(f"dataset type {name}: {wrong[0] if wrong else storage!r} is not a dimension or storage")
            given = DatasetType(name, tuple(c for c in schemas.DATA_ID if c in dimensions), storage)
            if name not in known:
                new.append({"dataset_type": name, "dimensions": ",".join(given.dimensions), "storage": storage})
            elif known[name] != given:
                raise RegistryError(
                    f"site {site.name}: dataset type {name} is known as ({', '.join(known[name].dimensions)}; "
                    f"{known[name].storage}), given is ({', '.join(given.dimensions)}; {storage}); use another name"
                )
        if new:
            delta.append(site, "dataset_type", pa.Table.from_pylist(new, schema=schemas.table("dataset_type").arrow))
    return len(new)


def dataset_types(site: Site) -> dict[str, DatasetType]:
    """The dataset types known at a site, by name."""
    return dict(_types(delta.select(site, "dataset_type")))


@lru_cache(64)
def _types(source: str) -> dict[str, DatasetType]:
    """The dataset types in files, which never change."""
    with delta.cursor() as con:
        rows = con.sql(source).order("dataset_type").fetchall()
    return {name: DatasetType(name, tuple(d for d in dimensions.split(",") if d), storage) for name, dimensions, storage in rows}
