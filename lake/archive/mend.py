"""Make bundles good again from the files they were made of."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pyarrow as pa

from lake.archive.container import COLUMNS
from lake.archive.keep import contents_of, store
from lake.archive.shelf import DAMAGED, LOST, STORED, Bundle, Shelf, bundles, members
from lake.query import connect
from lake.site import Lake, Site


def mend(lake: Lake, site: Site, paths: Iterable[str]) -> dict[str, str]:
    """Make the bundles at these paths of ``site`` again, byte by byte, where their source still has every file; one that cannot
    be made again is noted as lost. Returns the reason for each of these.
    """
    wanted, hopeless = set(paths), {}
    shelf = Shelf(site)
    with site.lock("archive"):
        for bundle in bundles(lake, site.name):
            if bundle.location or bundle.path not in wanted or bundle.state not in (STORED, DAMAGED):
                continue
            records, failed = _records(lake, bundle), dict[str, str]()
            same = contents_of(records).bundle_id == bundle.bundle_id
            made = store(lake.site(bundle.source), shelf, records, failed, lambda count: None) if same else None
            if made is None or made.bundle_id != bundle.bundle_id:
                gone = not shelf.file(bundle.path).exists()
                why = (
                    "; ".join(f"{path} {reason}" for path, reason in failed.items()) or f"{bundle.source} has not all of its files"
                )
                hopeless[bundle.path] = f"cannot be made again: {why}"
                shelf.note(replace(bundle, state=LOST if gone else DAMAGED, reason=hopeless[bundle.path]))
    return hopeless


def _records(lake: Lake, bundle: Bundle) -> pa.Table:
    """What the source has registered of the files in a bundle, ordered as archive() orders it."""
    files = members(bundle, lake)
    with connect(lake, [bundle.source]) as con:
        return con.table(
            f"SELECT {', '.join(COLUMNS)} FROM dataset SEMI JOIN ("
            "SELECT unnest($paths::VARCHAR[]) AS path, unnest($checksums::VARCHAR[]) AS file_checksum"
            ") USING (path, file_checksum) ORDER BY path, dataset_id",
            {"paths": [file.path for file in files], "checksums": [file.checksum for file in files]},
        )
