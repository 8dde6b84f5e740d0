"""What a Butler is told of our datasets: storage classes and formatters, and which types are calibrations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

import schemas
from lake.dimensions import TABLES
from lake.site import LakeError

DEFAULT = Path(__file__).with_name("definitions.yaml")
_KEYS = ("storage", "dataset_types", "calibrations", "records")


class ButlerError(LakeError):
    """An export cannot be read or made; the message names the file, what is wrong in it and the remedy."""


@dataclass(frozen=True)
class Stored:
    """How a Butler keeps a dataset: the name of its storage class and the full name of its formatter."""

    storage_class: str
    formatter: str


@dataclass(frozen=True)
class Definitions:
    """The content of a definitions file (see ``definitions.yaml`` beside this module, which holds the defaults)."""

    storage: Mapping[str, Stored]
    dataset_types: Mapping[str, Stored]
    calibrations: frozenset[str]
    records: Mapping[str, Mapping[str, Any]]

    def stored(self, dataset_type: str, storage: str) -> Stored:
        """How a Butler keeps datasets of a type that is stored here as ``storage``."""
        if dataset_type not in self.dataset_types and storage not in self.storage:
            raise ButlerError(f"dataset type {dataset_type}: no storage class for {storage!r}; name one under dataset_types")
        return self.dataset_types.get(dataset_type) or self.storage[storage]


def read_definitions(path: str | Path | None = None) -> Definitions:
    """The defaults, with what a YAML file of the same form changes; ButlerError names file and key that are wrong."""
    merged = _read(DEFAULT)
    for key, value in _read(Path(path)).items() if path is not None else ():
        merged[key] = merged[key] + value if isinstance(value, list) else {**merged[key], **value}
    return Definitions(
        storage={name: Stored(**value) for name, value in merged["storage"].items()},
        dataset_types={name: Stored(**value) for name, value in merged["dataset_types"].items()},
        calibrations=frozenset(merged["calibrations"]),
        records=merged["records"],
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise ButlerError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except yaml.YAMLError as error:
        raise ButlerError(f"{path}: is not YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise ButlerError(f"{path}: must be a mapping with keys {', '.join(_KEYS)}")
    for key, value in content.items():
        if key not in _KEYS:
            raise ButlerError(f"{path}: unknown key {key!r}; known: {', '.join(_KEYS)}")
        if not isinstance(value, list if key == "calibrations" else dict):
            raise ButlerError(f"{path}: {key} must be a {'list of names' if key == 'calibrations' else 'mapping'}")
    for key in ("storage", "dataset_types"):
        for name, value in content.get(key, {}).items():
            if not isinstance(value, dict) or set(value) != {"storage_class", "formatter"}:
                raise ButlerError(f"{path}: {key}.{name} must have the keys storage_class and formatter")
    for table, values in content.get("records", {}).items():
        columns = schemas.table(table).arrow.names if table in TABLES else []
        if not isinstance(values, dict) or not set(values) <= set(columns):
            raise ButlerError(f"{path}: records.{table} must map columns of a dimension table ({', '.join(TABLES)}) to values")
    return content
