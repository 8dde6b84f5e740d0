"""Choosing datasets of a site: by collection, by type and by condition; nothing is shadowed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa

import schemas
from lake import collection, registry
from lake.collection import install_memberships
from lake.site import LakeError, Site, one_line
from lake.sql import statement

#: Datasets of a type and run that are near each other on the sky or in time are near each other here.
ORDER = "dataset_type, run, instrument, exposure, visit, detector, skymap, tract, patch, dataset_id"


class SelectionError(LakeError):
    """What was asked for cannot be chosen; the message names it."""


@dataclass(frozen=True)
class Selection:
    """Which datasets: in ``collections`` (None: all), of ``types`` (None: all), that meet a SQL condition on ``dataset``."""

    collections: Sequence[str] | None = None
    types: Sequence[str] | None = None
    where: str = "true"

    def named(self, site: Site) -> dict[str, tuple[str, list[str]]]:
        """Name -> (kind, children) of these collections and all below them; CollectionError names an unknown one."""
        known = collection.collections_now(site)
        wanted = list(known) if self.collections is None else list(self.collections)
        collection.resolve(site, wanted)
        found: dict[str, tuple[str, list[str]]] = {}
        while wanted:
            name = wanted.pop()
            kind, children = known[name]
            found[name] = (kind, [c for c in (children or "").split(",") if c])
            wanted += [c for c in found[name][1] if c not in found]
        return dict(sorted(found.items()))

    def datasets(self, con: duckdb.DuckDBPyConnection, site: Site) -> pa.Table:
        """The datasets, in the order of type, run and data ID."""
        unknown = sorted(set(self.types or ()).difference(registry.dataset_types(site)))
        if unknown:
            raise SelectionError(f"site {site.name}: no dataset type {unknown[0]!r}")
        try:
            found = registry.datasets(con, site, self.where, types=self.types)
            if self.collections is not None:
                searched = collection.resolve(site, self.collections)
                con.register("searched", pa.table({"collection": [n for n, _ in searched], "kind": [k for _, k in searched]}))
                found.create_view("dataset")
                install_memberships(con, site)
                found = con.sql(statement("belonging"))
            return schemas.conform("dataset", found.order(ORDER).to_arrow_table())
        except duckdb.Error as error:
            raise SelectionError(f"condition {self.where!r}: {one_line(error)}") from None


EVERYTHING = Selection()
