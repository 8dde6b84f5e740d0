"""A Butler's export.yaml, read safely: only the tags that the format knows, every entry checked before anything is done.

YAML tags that are not listed here are refused, so that nothing in a file can make Python do something.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lake.butler.definitions import ButlerError

NAMESPACE = "daf_butler"
KINDS = ("RUN", "TAGGED", "CALIBRATION", "CHAINED")
_VERSION = re.compile(r"1\.0(\.\d+)?")
_TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d{1,9})?")
_REGIONS = ("ConvexPolygon", "Ellipse", "Circle", "Box", "UnionRegion", "IntersectionRegion")


@dataclass(frozen=True)
class DatasetType:
    """A dataset type as a Butler has it; ``dimensions`` hold the implied ones too."""

    name: str
    dimensions: tuple[str, ...]
    storage_class: str


@dataclass(frozen=True)
class Dataset:
    """One dataset: ``path`` as in the file, ``extra`` what our own exports add (checksum, origin, quantum_id)."""

    id: str
    dataset_type: str
    run: str
    data_id: Mapping[str, Any]
    path: str
    extra: Mapping[str, Any]


@dataclass
class Document:
    """The content of an export. ``validity`` has (collection, begin, end, id); times are TAI as ISO text or None."""

    path: Path
    records: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    collections: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    dataset_types: dict[str, DatasetType] = field(default_factory=dict)
    datasets: list[Dataset] = field(default_factory=list)
    tags: dict[str, list[str]] = field(default_factory=dict)
    validity: list[tuple[str, str | None, str | None, str]] = field(default_factory=list)


def read(path: str | Path) -> Document:
    """The export at ``path`` (the file, or the directory with export.yaml); ButlerError in one line if it is not one."""
    path = Path(path)
    path = path / "export.yaml" if path.is_dir() else path
    try:
        with path.open("rb") as file:
            content = yaml.load(file, Loader=_Loader)  # noqa: S506  a CSafeLoader with the tags below
    except OSError as error:
        raise ButlerError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise ButlerError(f"{path}{line}: is not YAML that an export may hold ({problem})") from None
    if not isinstance(content, dict) or not isinstance(content.get("data"), list) or "version" not in content:
        raise ButlerError(f"{path}: is not a Butler export (a mapping with version and data, a list)")
    if not _VERSION.fullmatch(str(content["version"])):
        raise ButlerError(f"{path}: has the format version {content['version']}; versions 1.0.x are read")
    if content.get("universe_namespace", NAMESPACE) != NAMESPACE:
        raise ButlerError(f"{path}: is of the dimension universe {content['universe_namespace']!r}; {NAMESPACE} is read")
    document = Document(path)
    for number, entry in enumerate(content["data"], start=1):
        try:
            _ENTRIES[entry["type"]](document, entry)
        except KeyError as error:
            raise ButlerError(f"{path}: entry {number}{_named(entry)}: {error} is missing or not known") from None
        except (TypeError, ValueError, AttributeError) as error:
            raise ButlerError(f"{path}: entry {number}{_named(entry)}: {error}") from None
    return document


def _named(entry: Any) -> str:
    if not isinstance(entry, dict):
        return f" ({entry!r})"[:100]
    known = (f"{k} {entry[k]}" for k in ("type", "element", "dataset_type", "collection", "name") if k in entry)
    return f" ({', '.join(known)})"


# -- entries -----------------------------------------------------------------------------------------------------------


def _dimension(document: Document, entry: dict[str, Any]) -> None:
    records = _list(entry, "records")
    if not all(isinstance(record, dict) for record in records):
        raise ValueError("a record is not a mapping")
    document.records.setdefault(_text(entry, "element"), []).extend(records)


def _collection(document: Document, entry: dict[str, Any]) -> None:
    kind, name = entry["collection_type"], _text(entry, "name")
    if kind not in KINDS:
        raise ValueError(f"collection_type {kind!r} is not one of {', '.join(KINDS)}")
    children = tuple(_list(entry, "children")) if kind == "CHAINED" else ()
    for each in (name, *children):
        if not isinstance(each, str) or "," in each:
            raise ValueError(f"{each!r} cannot be the name of a collection here (text without a comma)")
    document.collections[name] = (kind, children)


def _run(document: Document, entry: dict[str, Any]) -> None:
    document.collections[_text(entry, "name")] = ("RUN", ())


def _dataset_type(document: Document, entry: dict[str, Any]) -> None:
    dimensions = tuple(str(d) for d in _list(entry, "dimensions"))
    kind = DatasetType(_text(entry, "name"), dimensions, _text(entry, "storage_class"))
    document.dataset_types[kind.name] = kind


def _datasets(document: Document, entry: dict[str, Any]) -> None:
    kind, run = _text(entry, "dataset_type"), _text(entry, "run")
    if kind not in document.dataset_types:
        raise ValueError("its dataset type is not declared before it")
    for record in _list(entry, "records"):
        ids, data_ids = record["dataset_id"], record["data_id"]
        ids, data_ids = (v if isinstance(v, list) else [v] for v in (ids, data_ids))
        extra = record.get("drp") or {}
        if len(ids) != len(data_ids) or not all(isinstance(d, dict) for d in data_ids) or not isinstance(extra, dict):
            raise ValueError(f"dataset {ids}: as many data IDs, each a mapping, are wanted")
        for each, data_id in zip(ids, data_ids, strict=True):
            document.datasets.append(Dataset(_id(each), kind, run, data_id, _text(record, "path"), extra))


def _associations(document: Document, entry: dict[str, Any]) -> None:
    name, kind = _text(entry, "collection"), entry["collection_type"]
    if kind == "TAGGED":
        document.tags.setdefault(name, []).extend(_id(i) for i in _list(entry, "dataset_ids"))
    elif kind == "CALIBRATION":
        for valid in _list(entry, "validity_ranges"):
            begin, end = valid["timespan"] if "timespan" in valid else (valid["begin"], valid["end"])
            document.validity.extend((name, begin, end, _id(i)) for i in _list(valid, "dataset_ids"))
    else:
        raise ValueError(f"collection_type {kind!r} has no associations")


_ENTRIES: dict[str, Callable[[Document, dict[str, Any]], None]] = {
    "dimension": _dimension, "collection": _collection, "run": _run, "dataset_type": _dataset_type, "dataset": _datasets,
    "associations": _associations,
}  # fmt: skip


def _text(entry: Mapping[str, Any], key: str) -> str:
    if not isinstance(entry[key], str) or not entry[key]:
        raise ValueError(f"{key} is {entry[key]!r}, not a text")
    return str(entry[key])


def _list(entry: Mapping[str, Any], key: str) -> list[Any]:
    if not isinstance(entry[key], list):
        raise ValueError(f"{key} is not a list")
    return list(entry[key])


def _id(value: Any) -> str:
    if not isinstance(value, uuid.UUID):
        raise ValueError(f"dataset id {value!r} is not a !uuid (Butlers older than UUIDs are not read)")
    return str(value)


# -- YAML --------------------------------------------------------------------------------------------------------------


class _Loader(yaml.CSafeLoader):  # type: ignore[misc]
    """Plain values, and the tags of the format."""


def _uuid(loader: Any, node: yaml.ScalarNode) -> uuid.UUID:
    try:
        return uuid.UUID(loader.construct_scalar(node))
    except ValueError:
        raise yaml.constructor.ConstructorError(None, None, f"{node.value!r} is not a UUID", node.start_mark) from None


def _time(loader: Any, node: yaml.ScalarNode) -> str:
    text = str(loader.construct_scalar(node))
    if not _TIME.fullmatch(text):
        raise yaml.constructor.ConstructorError(None, None, f"{text!r} is not a time", node.start_mark)
    return text


def _timespan(loader: Any, node: yaml.Node) -> tuple[str | None, str | None]:
    values = loader.construct_mapping(node) if isinstance(node, yaml.MappingNode) else {}
    if set(values) != {"begin", "end"}:
        raise yaml.constructor.ConstructorError(None, None, "a timespan without begin and end", node.start_mark)
    return values["begin"], values["end"]


def _region(loader: Any, node: yaml.MappingNode) -> bytes:
    try:
        return bytes.fromhex(loader.construct_mapping(node)["encoded"])
    except (KeyError, TypeError, ValueError):
        raise yaml.constructor.ConstructorError(None, None, "a region that is not encoded as hex", node.start_mark) from None


_Loader.add_constructor("!uuid", _uuid)
_Loader.add_constructor("!butler_time/tai/iso", _time)
_Loader.add_constructor("!lsst.daf.butler.Timespan", _timespan)
for _name in _REGIONS:
    _Loader.add_constructor(f"lsst.sphgeom.{_name}", _region)
