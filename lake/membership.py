"""What belongs to TAGGED and CALIBRATION collections now, and taking more into them."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb

from lake import collection, delta
from lake.site import Site


def install_memberships(con: duckdb.DuckDBPyConnection, site: Site) -> None:
    """Make the views association_now (collection, dataset_id) and certification_now (as ``certification``) on ``con``."""
    con.execute(
        "CREATE OR REPLACE TEMP VIEW association_now AS SELECT collection, dataset_id "
        f"FROM ({delta.select(site, 'association')}) GROUP BY ALL HAVING NOT arg_max(removed, noted_at)"
    )
    con.execute(f"CREATE OR REPLACE TEMP VIEW certification_now AS {delta.select(site, 'certification')}")


def associate(site: Site, name: str, dataset_ids: Iterable[str]) -> int:
    """Take datasets into a TAGGED collection; returns how many were not in it. CollectionError as of collection.tag()."""
    with delta.cursor() as con:
        install_memberships(con, site)
        held = con.sql("SELECT dataset_id FROM association_now WHERE collection = $name", params={"name": name}).fetchall()
    new = set(dataset_ids).difference(dataset_id for (dataset_id,) in held)
    if new:
        collection.tag(site, name, new)
    return len(new)
