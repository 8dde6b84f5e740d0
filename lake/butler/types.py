"""Dataset types of a Butler as ours: which dimensions are required, and how we would store what its files hold."""

from __future__ import annotations

from collections.abc import Iterable

import schemas
from lake.butler.document import Document
from lake.parquet import partition_value
from lake.registry import DatasetType
from lake.site import LakeError

#: What each dimension of the default universe implies.
IMPLIES = {
    "physical_filter": {"band"},
    "visit": {"physical_filter", "band", "day_obs"},
    "exposure": {"physical_filter", "band", "day_obs", "group"},
}
#: Ends of the names of files that can be datasets here; the longest that fits counts.
SUFFIXES = {
    ".fits.fz": "fits", ".fits.gz": "fits", ".fits": "fits", ".fit": "fits", ".json": "json", ".parquet": "table", ".parq": "table",
}  # fmt: skip


def suffix(path: str) -> str | None:
    """The end of a file's name that says what it is; None if nothing here is stored so."""
    return next((end for end in SUFFIXES if path.endswith(end)), None)


def required(dimensions: Iterable[str]) -> tuple[str, ...]:
    """The dimensions that are not implied by others among them; those that we have first, in canonical order."""
    names = set(dimensions)
    left = names.difference(*(IMPLIES.get(name, set()) for name in names))
    return (*(c for c in schemas.DATA_ID if c in left), *sorted(left.difference(schemas.DATA_ID)))


def counterparts(document: Document, known: dict[str, DatasetType]) -> dict[str, DatasetType | str]:
    """By name: the type as we would have it, or why we cannot."""
    paths: dict[str, str] = {}
    for dataset in document.datasets:
        paths.setdefault(dataset.dataset_type, dataset.path)
    return {
        kind.name: _counterpart(kind.name, required(kind.dimensions), paths.get(kind.name), known.get(kind.name))
        for kind in document.dataset_types.values()
    }


def _counterpart(name: str, dimensions: tuple[str, ...], path: str | None, known: DatasetType | None) -> DatasetType | str:
    strange = [d for d in dimensions if d not in schemas.DATA_ID]
    if strange:
        return f"there is no dimension {strange[0]} here"
    if known is not None and known.dimensions != dimensions:
        return f"known here with the dimensions {', '.join(known.dimensions)}, there it has {', '.join(dimensions)}"
    if known is not None:
        return known
    try:
        partition_value("dataset", "dataset_type", name)
    except LakeError as error:
        return str(error)
    end = suffix(path or "")
    if end is None:
        return f"files like {path} are not stored here (only {', '.join(SUFFIXES)})" if path else "it has no datasets"
    if SUFFIXES[end] == "table" and (name not in schemas.tables() or schemas.table(name).subject != "catalogues"):
        return f"no catalogue table {name} is declared"
    return DatasetType(name, dimensions, SUFFIXES[end])
