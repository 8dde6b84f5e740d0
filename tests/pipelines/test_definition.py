"""The pipeline definition: the shipped one, and what is refused."""

from __future__ import annotations

import copy
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
import toy
import yaml

import schemas
from pipelines import definition
from pipelines.definition import DefinitionError


def test_the_shipped_pipeline() -> None:
    pipeline = definition.load()
    assert [step for step in definition.STEPS if not pipeline.step(step)] == []
    made = [name for task in pipeline.tasks for name in task.outputs]
    assert len(made) == len(set(made))
    assert set(made) | set(definition.PLACED) == set(pipeline.dataset_types)
    assert [task.label for task in pipeline.tasks if task.place == "central"] == [
        "global_calibration", "zero_points", "survey_maps", "survey_metrics",
    ]  # fmt: skip
    assert {kind.name for kind in pipeline.dataset_types.values() if kind.storage == "table"} <= set(schemas.tables())


def test_a_step_means_all_its_parts() -> None:
    parts = ("step2c.equations", "step2c.solution", "step2c.standards", "step2c.zero_points")
    assert definition.steps("step2c") == parts
    assert [definition.steps(name) for name in ("step1", "step2a", *parts)] == [("step1",), ("step2a",), *((p,) for p in parts)]
    for wrong in ("step2", "step2c.", "step2c.sol", "step9", ""):
        with pytest.raises(ValueError, match=f"unknown step '{wrong}'; known steps: step1, step2a"):
            definition.steps(wrong)
    assert definition.load().types("step2a") == ["preliminary_detector_summary", "preliminary_visit_summary"]


@pytest.mark.parametrize("task", definition.load().tasks, ids=lambda task: task.label)
def test_every_task_has_its_function(task: definition.Task) -> None:
    assert callable(task.load())
    settings = task.load_settings()
    assert settings is None or {f.name for f in fields(settings) if f.default is MISSING and f.default_factory is MISSING} == set()


def test_dimensions_are_in_canonical_order() -> None:
    document = yaml.safe_load(toy.PIPELINE)
    document["dataset_types"]["direct_warp"]["dimensions"].reverse()
    document["tasks"]["warp"]["dimensions"].reverse()
    pipeline = definition.parse(document, "toy")
    assert pipeline.dataset_types["direct_warp"].dimensions == ("instrument", "visit", "skymap", "tract", "patch")
    assert pipeline.step("step3")[0].dimensions == ("instrument", "visit", "skymap", "tract", "patch")


def test_runs() -> None:
    pipeline = toy.pipeline()
    assert [pipeline.run("c", name) for name in ("raw", "flat", "reference_star", "software", "post_isr_image", "deep_coadd")] == [
        "c/raw", "c/calib", "c/refcat", "c/software", "c/step1", "c/step3",
    ]  # fmt: skip


def edited(path: str, value: Any) -> dict[str, Any]:
    """The toy pipeline's document with one value changed (None: taken away)."""
    document = copy.deepcopy(yaml.safe_load(toy.PIPELINE))
    place = document
    *parents, last = path.split("/")
    for key in parents:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("taskz", {}, ["toy: unknown key 'taskz'", "dataset_types, tasks"]),
        ("tasks", None, ["toy: key 'tasks' is missing"]),
        ("tasks/isr/step", None, ["tasks.isr: key 'step' is missing"]),
        ("tasks/isr/step", "step9", ["tasks.isr.step", "'step9'", "step2c"]),
        ("tasks/isr/memory", 4, ["tasks.isr", "'memory'", "cluster"]),
        ("tasks/isr/dimensions", ["instrument", "ccd"], ["tasks.isr", "'ccd'", "detector"]),
        ("tasks/isr/dimensions", [], ["tasks.isr.dimensions"]),
        ("tasks/isr/inputs", {"deep_coadd": {}}, ["tasks.isr.inputs: deep_coadd", "nor made by an earlier task"]),
        ("tasks/isr/inputs", {"raw": {"optionall": True}}, ["tasks.isr.inputs.raw", "'optionall'"]),
        ("tasks/isr/inputs", {"truth_star": {}}, ["truth_star is the simulator's truth"]),
        ("tasks/isr/inputs", {"raw": None}, ["tasks.isr.inputs.raw", "None is not a mapping"]),
        ("tasks/isr/cluster", ["tract"], ["tasks.isr.cluster: tract", "does not imply"]),
        ("dataset_types/visit_table/dimensions", ["instrument"], ["visit_table is partitioned by day_obs", "does not imply"]),
        ("tasks/stars/outputs", ["post_isr_image"], ["post_isr_image is made by an earlier task too"]),
        ("tasks/stars/outputs", ["galaxy"], ["galaxy is not among dataset_types"]),
        ("dataset_types/raw/storage", "hdf5", ["dataset_types.raw.storage", "'hdf5'", "table"]),
        ("dataset_types/raw/storage", "table", ["schemas/ declares no table 'raw'"]),
        ("dataset_types/raw", {"dimensions": ["visit"]}, ["dataset_types.raw: key 'storage' is missing"]),
    ],
)
def test_errors_name_the_key(path: str, value: Any, words: list[str]) -> None:
    with pytest.raises(DefinitionError) as refused:
        definition.parse(edited(path, value), "toy")
    assert [word for word in words if word not in str(refused.value)] == [], refused.value


def test_a_file_that_is_no_yaml(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("tasks: [")
    for path in (file, tmp_path / "absent.yaml"):
        with pytest.raises(DefinitionError, match=path.name) as refused:
            definition.load(str(path))
        assert "\n" not in str(refused.value)
