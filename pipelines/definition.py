"""The pipeline definition: ``drp.yaml`` read, checked, and given as dataset types and tasks.

Errors name the key at fault; a definition that reads the simulator's truth, or an input that nothing makes, is refused.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import schemas
from lake import plain_yaml

STEPS = (
    "step1", "step2a", "step2b", "step2c.equations", "step2c.solution", "step2c.standards", "step2c.zero_points", "step2d",
    "step2e", "step3", "step4", "step5", "step6", "step7",
)  # fmt: skip
#: Where a task runs: at every site, at the central one, or where the campaign says that the calibration is assembled.
PLACES = ("all", "central", "calibration")

#: Dataset types that are placed by rules before the first step, and the run suffix they live in.
PLACED = {
    "raw": "raw", "bias": "calib", "dark": "calib", "flat": "calib", "defects": "calib",
    "reference_star": "refcat", "software": "software",
}  # fmt: skip


#: Data ID columns that a visit or exposure implies.
IMPLIED = ("exposure", "visit", "physical_filter", "band", "day_obs")


def steps(name: str) -> tuple[str, ...]:
    """The steps that a name means: one, or all parts of one (step2c); ValueError where there is none."""
    found = tuple(step for step in STEPS if step == name or step.startswith(f"{name}."))
    if not found:
        raise ValueError(f"unknown step {name!r}; known steps: {', '.join(STEPS)}")
    return found


class DefinitionError(ValueError):
    """The pipeline definition is wrong; the message names the file, the key and the remedy."""


@dataclass(frozen=True)
class DatasetType:
    """A dataset type: its required dimensions in canonical order, and how it is stored (fits, json, table)."""

    name: str
    dimensions: tuple[str, ...]
    storage: str


@dataclass(frozen=True)
class Input:
    """How a task finds an input: by shared dimensions, or as the calibration valid at the time of the exposure."""

    dataset_type: str
    calibration: bool = False
    optional: bool = False
    partial: bool = False


@dataclass(frozen=True)
class Task:
    """A task of the pipeline; ``cluster`` are the dimensions whose quanta run as one job, ``place`` is one of PLACES, and
    ``section`` is the part of a campaign's configuration that holds its settings."""

    label: str
    step: str
    function: str
    dimensions: tuple[str, ...]
    inputs: tuple[Input, ...]
    outputs: tuple[str, ...]
    cluster: tuple[str, ...]
    place: str = "all"
    settings: str | None = None
    section: str = ""

    def load(self) -> Callable[..., Any]:
        """Import the task's function."""
        function: Callable[..., Any] = _imported(self.function)
        return function

    def load_settings(self) -> type | None:
        """Import the dataclass of the task's settings; None where it has none."""
        kind: type | None = _imported(self.settings) if self.settings else None
        return kind


def _imported(name: str) -> Any:
    module, _, member = name.partition(":")
    return getattr(importlib.import_module(module), member)


@dataclass(frozen=True)
class Pipeline:
    """Dataset types by name and tasks in order of execution."""

    dataset_types: Mapping[str, DatasetType]
    tasks: tuple[Task, ...]

    def step(self, step: str) -> tuple[Task, ...]:
        """The tasks of one step, in order."""
        return tuple(task for task in self.tasks if task.step == step)

    def run(self, campaign: str, dataset_type: str) -> str:
        """The RUN collection a dataset type is written to: ``<campaign>/<step>`` or, when placed, ``<campaign>/<kind>``."""
        for task in self.tasks:
            if dataset_type in task.outputs:
                return f"{campaign}/{task.step.partition('.')[0]}"
        return f"{campaign}/{PLACED[dataset_type]}"

    def types(self, name: str) -> list[str]:
        """The dataset types that a step, or any part of it, reads or makes, in alphabetical order."""
        tasks = [task for step in steps(name) for task in self.step(step)]
        return sorted({kind for task in tasks for kind in (*(given.dataset_type for given in task.inputs), *task.outputs)})

    def dimensions(self) -> dict[str, list[str]]:
        """Required dimensions by dataset type."""
        return {name: list(kind.dimensions) for name, kind in self.dataset_types.items()}


def columns(dimensions: Iterable[str]) -> list[str]:
    """Data ID columns that are known once ``dimensions`` are: themselves and what a visit implies, in canonical order."""
    have = set(dimensions)
    if have & {"visit", "exposure"}:
        have |= set(IMPLIED)
    if "physical_filter" in have:
        have.add("band")
    return [c for c in schemas.DATA_ID if c in have]


def _known(where: str, given: Mapping[str, Any], needed: Set[str], optional: Set[str] = frozenset()) -> None:
    if not isinstance(given, Mapping):
        raise DefinitionError(f"{where}: {given!r} is not a mapping")
    for key in given:
        if key not in needed | optional:
            raise DefinitionError(f"{where}: unknown key {key!r}; known keys: {', '.join(sorted(needed | optional))}")
    for key in sorted(needed):
        if key not in given:
            raise DefinitionError(f"{where}: key {key!r} is missing")


def _ordered(where: str, dimensions: list[str]) -> tuple[str, ...]:
    for name in dimensions:
        if name not in schemas.DATA_ID:
            raise DefinitionError(f"{where}: unknown dimension {name!r}; known: {', '.join(schemas.DATA_ID)}")
    return tuple(c for c in schemas.DATA_ID if c in dimensions)


def _implied(where: str, wanted: Set[str], dimensions: tuple[str, ...]) -> None:
    for name in sorted(wanted - {*columns(dimensions)}):
        raise DefinitionError(f"{where} {name}, which ({', '.join(dimensions)}) does not imply")


def parse(document: Mapping[str, Any], source: str) -> Pipeline:
    """Check a pipeline document and turn it into a Pipeline; ``source`` names it in errors."""
    _known(source, document, {"dataset_types", "tasks"})
    kinds = {}
    for name, given in document["dataset_types"].items():
        where = f"{source}: dataset_types.{name}"
        _known(where, given, {"dimensions", "storage"})
        if given["storage"] not in ("fits", "json", "table"):
            raise DefinitionError(f"{where}.storage: {given['storage']!r} is not fits, json or table")
        if given["storage"] == "table" and name not in schemas.tables():
            raise DefinitionError(f"{where}: storage is table, but schemas/ declares no table {name!r}")
        dimensions = _ordered(where, given["dimensions"])
        if given["storage"] == "table":
            _implied(f"{where}: table {name} is partitioned by", {*schemas.table(name).partition_by} - {"site"}, dimensions)
        kinds[name] = DatasetType(name, dimensions, given["storage"])
    tasks: list[Task] = []
    made = set(PLACED)
    for label, given in document["tasks"].items():
        where = f"{source}: tasks.{label}"
        _known(where, given, {"step", "function", "dimensions", "inputs", "outputs"}, {"cluster", "site", "settings", "config"})
        if given["step"] not in STEPS:
            raise DefinitionError(f"{where}.step: unknown step {given['step']!r}; known: {', '.join(STEPS)}")
        inputs = []
        for name, options in given["inputs"].items():
            _known(f"{where}.inputs.{name}", options, set(), {"find", "optional", "partial"})
            if name.startswith("truth_"):
                raise DefinitionError(f"{where}.inputs: {name} is the simulator's truth, which no step may read")
            if name not in made or name not in kinds:
                raise DefinitionError(f"{where}.inputs: {name} is not placed, nor made by an earlier task")
            inputs.append(
                Input(name, options.get("find") == "calibration", options.get("optional", False), options.get("partial", False))
            )
        for name in given["outputs"]:
            if name not in kinds:
                raise DefinitionError(f"{where}.outputs: {name} is not among dataset_types")
            if name in made:
                raise DefinitionError(f"{where}.outputs: {name} is made by an earlier task too")
            made.add(name)
        dimensions = _ordered(where, given["dimensions"])
        if not dimensions:
            raise DefinitionError(f"{where}.dimensions: a task needs at least one dimension")
        cluster = _ordered(where, given.get("cluster", given["dimensions"]))
        _implied(f"{where}.cluster:", set(cluster), dimensions)
        place = given.get("site", "all")
        if place not in PLACES:
            raise DefinitionError(f"{where}.site: {place!r} is not one of {', '.join(PLACES)}")
        outputs = tuple(given["outputs"])
        settings, section = given.get("settings"), given.get("config", label)
        tasks.append(
            Task(label, given["step"], given["function"], dimensions, tuple(inputs), outputs, cluster, place, settings, section)
        )
    return Pipeline(kinds, tuple(tasks))


def read_yaml(text: str) -> Any:
    """A YAML document; yaml.YAMLError where it is none."""
    return plain_yaml.parse(text)


@cache
def load(path: str | None = None) -> Pipeline:
    """The pipeline of a YAML file (default: the one beside this module)."""
    file = Path(path) if path else Path(__file__).with_name("drp.yaml")
    try:
        document = read_yaml(file.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DefinitionError(f"{file}: {' '.join(str(error).split())}") from None
    return parse(document, file.name)
