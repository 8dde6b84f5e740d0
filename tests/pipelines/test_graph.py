"""The graph: predicted quanta, the datasets they should leave, and what each one reads, for every kind of join."""

from __future__ import annotations

import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import toy
import yaml

import schemas
from lake import delta, registry
from lake.site import Site
from pipelines import definition, graph
from pipelines.definition import Pipeline, Task
from pipelines.journal import now

VISITS = 4


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    return toy.lake(tmp_path_factory.mktemp("graph") / "lake", VISITS, raws=True).central


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return toy.pipeline()


def task(pipeline: Pipeline, label: str) -> Task:
    return next(t for t in pipeline.tasks if t.label == label)


def of(table: pa.Table, label: str) -> pa.Table:
    return table.filter(pa.array([name == label for name in table["task"].to_pylist()]))


def values(table: pa.Table, *columns: str) -> set[tuple[Any, ...]]:
    return set(zip(*(table[c].to_pylist() for c in columns), strict=True))


# -- prediction --------------------------------------------------------------------------------------------------------


def test_quanta_follow_the_footprint(site: Site, pipeline: Pipeline) -> None:
    quanta, _ = graph.predict(site, pipeline, toy.campaign())
    sky = toy.overlaps(VISITS)
    assert values(of(quanta, "isr"), "exposure", "detector") == {(v, d) for v in range(1, 5) for d in (0, 1)}
    assert values(of(quanta, "summarize"), "visit") == {(v,) for v in range(1, 5)}
    assert values(of(quanta, "stars"), "tract") == {(1,), (2,)}
    assert values(of(quanta, "warp"), "visit", "tract", "patch") == {(o["visit"], o["tract"], o["patch"]) for o in sky}
    assert values(of(quanta, "coadd"), "band", "tract", "patch") == {
        ("g" if o["visit"] % 2 else "r", o["tract"], o["patch"]) for o in sky
    }  # fmt: skip
    assert values(of(quanta, "subtract"), "visit", "detector", "tract") == {(o["visit"], o["detector"], o["tract"]) for o in sky}
    assert Counter(quanta["task"].to_pylist()) == {
        "isr": 8, "summarize": 4, "stars": 2, "solve": 1, "warp": 10, "coadd": 5, "subtract": 10,
    }  # fmt: skip
    assert len(set(quanta["quantum_id"].to_pylist())) == quanta.num_rows


def test_data_ids_are_filled_in_as_far_as_they_are_implied(site: Site, pipeline: Pipeline) -> None:
    quanta, _ = graph.predict(site, pipeline, toy.campaign())
    (isr,) = [row for row in of(quanta, "isr").to_pylist() if (row["visit"], row["detector"]) == (3, 1)]
    assert isr | {"quantum_id": None} == {
        **toy.night(3), "quantum_id": None, "campaign": "toy", "step": "step1", "task": "isr", "job": "isr/exposure=3",
        "visit": 3, "detector": 1, "skymap": None, "tract": None, "patch": None,
    }  # fmt: skip
    coadd = of(quanta, "coadd").to_pylist()[0]
    assert [c for c in schemas.DATA_ID if coadd[c] is not None] == ["band", "skymap", "tract", "patch"]


def test_jobs_are_clusters(site: Site, pipeline: Pipeline) -> None:
    quanta, _ = graph.predict(site, pipeline, toy.campaign())
    assert values(of(quanta, "summarize"), "job", "visit") == {
        ("summarize/day_obs=20260101", 1), ("summarize/day_obs=20260101", 2),
        ("summarize/day_obs=20260102", 3), ("summarize/day_obs=20260102", 4),
    }  # fmt: skip
    assert ("warp/visit=1|tract=2",) in values(of(quanta, "warp"), "job")


def test_ids_are_those_of_the_registry(site: Site, pipeline: Pipeline) -> None:
    quanta, expected = graph.predict(site, pipeline, toy.campaign())

    def name(text: str) -> str:
        return str(uuid.uuid5(registry.NAMESPACE, text))

    (row,) = [r for r in of(expected, "subtract").to_pylist() if (r["visit"], r["detector"], r["tract"]) == (3, 1, 2)]
    data_id = "instrument=Toy|visit=3|detector=1|skymap=toy_sky|tract=2"
    assert row["dataset_id"] == name(f"difference_image|toy/step4|{data_id}")
    assert row["quantum_id"] == name(f"toy|subtract|{data_id}")
    assert (row["run"], row["step"], row["dataset_type"]) == ("toy/step4", "step4", "difference_image")
    assert set(expected["quantum_id"].to_pylist()) == set(quanta["quantum_id"].to_pylist())


def test_a_finer_output_is_one_dataset_per_data_id(site: Site, pipeline: Pipeline) -> None:
    quanta, expected = graph.predict(site, pipeline, toy.campaign())
    solved = of(expected, "solve")
    assert values(solved, "visit", "band") == {(1, "g"), (2, "r"), (3, "g"), (4, "r")}
    assert set(solved["quantum_id"].to_pylist()) == set(of(quanta, "solve")["quantum_id"].to_pylist())


def test_a_site_processes_whole_visits_of_its_own_tracts(tmp_path: Path, pipeline: Pipeline) -> None:
    lake = toy.lake(tmp_path / "lake", VISITS)
    campaign = toy.campaign({"A": (1,), "B": (2,)})
    quanta, _ = graph.predict(lake.site("B"), pipeline, campaign)
    assert values(of(quanta, "isr"), "exposure", "detector") == {(v, d) for v in (1, 3) for d in (0, 1)}
    assert values(of(quanta, "warp"), "visit", "tract", "patch") == {(1, 2, 0), (3, 2, 0)}
    assert of(quanta, "solve").num_rows == 0, "the global solution is the central site's alone"
    central, expected = graph.predict(lake.central, pipeline, campaign)
    assert of(central, "solve").num_rows == 1
    assert of(expected, "solve").num_rows == VISITS, "over all tracts of the campaign"


def test_ids_do_not_depend_on_the_site(tmp_path: Path, pipeline: Pipeline) -> None:
    lake = toy.lake(tmp_path / "lake", VISITS)
    campaign = toy.campaign({"A": (1, 2), "B": (2,)})
    mine, theirs = (values(graph.predict(lake.site(n), pipeline, campaign)[1], "dataset_id", "quantum_id") for n in "AB")
    assert len(theirs) > 5 and theirs < mine


def test_the_shipped_pipeline_on_the_toy_sky(site: Site) -> None:
    quanta, expected = graph.predict(site, definition.load(), toy.campaign())
    schemas.check("expected_dataset", expected.schema)
    counts = Counter(quanta["task"].to_pylist())
    assert (counts["isr"], counts["make_warp"], counts["survey_maps"], counts["survey_metrics"]) == (8, 10, 2, 1)
    kinds = Counter(expected["dataset_type"].to_pylist())
    assert (kinds["photo_calib"], kinds["standard_star"], kinds["calib_night"], kinds["visit_summary"]) == (4, 2, 1, 4)
    assert len(set(expected["dataset_id"].to_pylist())) == expected.num_rows


# -- inputs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline) -> tuple[Site, dict[str, pa.Table], dict[str, pa.Table]]:
    """A site at which every output was registered, but the image of visit 2, detector 1; its quanta and edges by task."""
    site = toy.lake(tmp_path_factory.mktemp("done") / "lake", VISITS, raws=True).central
    toy.register(site, "reference_star", "toy/refcat", [({"skymap": "toy_sky", "tract": 1}, "stars")])
    quanta, expected = graph.predict(site, pipeline, toy.campaign())
    runs: dict[tuple[str, str], list[tuple[dict[str, Any], str]]] = {}
    for row in expected.to_pylist():
        if row["dataset_type"] != "visit_table" and (row["dataset_type"], row["visit"], row["detector"]) != (
            "post_isr_image",
            2,
            1,
        ):
            data_id = {c: row[c] for c in schemas.DATA_ID if row[c] is not None}
            runs.setdefault((row["dataset_type"], row["run"]), []).append((data_id, "made"))
    for (kind, run), files in runs.items():
        registered = toy.register(site, kind, run, files)
        assert set(registered["dataset_id"].to_pylist()) <= set(expected["dataset_id"].to_pylist())
    tables = {t.label: of(quanta, t.label) for t in pipeline.tasks}
    edges = {t.label: graph.resolve(site, pipeline, toy.campaign(), t, tables[t.label]) for t in pipeline.tasks}
    return site, tables, edges


def read(
    done: tuple[Site, dict[str, pa.Table], dict[str, pa.Table]], label: str, kind: str, by: str, want: str
) -> dict[Any, list[Any]]:
    """What one task reads of one type: quantum's data ID values -> data ID values of its inputs, in order."""
    _, quanta, edges = done
    keys = {row["quantum_id"]: tuple(row[c] for c in by.split()) for row in quanta[label].to_pylist()}
    found: dict[Any, list[Any]] = {}
    for row in edges[label].to_pylist():
        if row["dataset_type"] == kind:
            found.setdefault(keys[row["quantum_id"]], []).append(tuple(row[c] for c in want.split()))
    return found


def test_equality_join(done) -> None:
    assert read(done, "isr", "raw", "exposure detector", "exposure detector") == {
        (v, d): [(v, d)] for v in range(1, 5) for d in (0, 1)
    }  # fmt: skip


def test_many_inputs_in_canonical_order(done) -> None:
    found = read(done, "summarize", "post_isr_image", "visit", "exposure detector")
    assert found == {(1,): [(1, 0), (1, 1)], (2,): [(2, 0)], (3,): [(3, 0), (3, 1)], (4,): [(4, 0), (4, 1)]}


def test_from_the_sky_to_visits(done) -> None:
    """stars (tract) reads images (visit, detector) that overlap the tract; warp (visit, patch) those on the patch."""
    assert read(done, "stars", "post_isr_image", "tract", "visit detector") == {
        (1,): [(1, 0), (1, 1), (2, 0), (3, 0), (3, 1), (4, 0), (4, 1)], (2,): [(1, 1), (3, 1)],
    }  # fmt: skip
    assert read(done, "warp", "post_isr_image", "visit tract patch", "visit detector") == {
        (o["visit"], o["tract"], o["patch"]): [(o["visit"], o["detector"])]
        for o in toy.overlaps(VISITS)
        if (o["visit"], o["detector"]) != (2, 1)
    }


def test_from_visits_to_the_sky(done) -> None:
    """subtract (visit, detector, tract) reads the coadds of its band on the patches that the detector touches."""
    found = read(done, "subtract", "deep_coadd", "visit detector tract", "band tract patch")
    assert found == {
        (o["visit"], o["detector"], o["tract"]): [("g" if o["visit"] % 2 else "r", o["tract"], o["patch"])]
        for o in toy.overlaps(VISITS)
    }


def test_sky_to_sky(done) -> None:
    warps = read(done, "coadd", "direct_warp", "band tract patch", "visit tract patch")
    assert warps[("g", 2, 0)] == [(1, 2, 0), (3, 2, 0)]
    assert warps[("r", 1, 1)] == [(2, 1, 1), (4, 1, 1)]
    assert read(done, "warp", "isolated_star", "visit tract patch", "tract")[(3, 2, 0)] == [(2,)]
    assert read(done, "solve", "isolated_star", "instrument", "tract") == {("Toy",): [(1,), (2,)]}


def test_calibrations_by_time(done) -> None:
    """Flats from MJD 60003.0 on are other ones: the middle of visit 3 is the first moment of the new ones."""
    found = read(done, "isr", "flat", "exposure detector", "run detector band")
    assert found == {
        (v, d): [("toy/calib/old" if v < 3 else "toy/calib/new", d, "g" if v % 2 else "r")] for v in range(1, 5) for d in (0, 1)
    }  # fmt: skip


def test_what_is_missing(done, pipeline: Pipeline) -> None:
    site, quanta, edges = done

    def missing(label: str, by: str) -> dict[Any, list[str]]:
        keys = {row["quantum_id"]: tuple(row[c] for c in by.split()) for row in quanta[label].to_pylist()}
        lacking = graph.missing_inputs(site, pipeline, toy.campaign(), task(pipeline, label), quanta[label], edges[label])
        return {keys[quantum]: names for quantum, names in lacking.items()}

    assert missing("isr", "exposure detector") == {}
    assert missing("summarize", "visit") == {}, "partial: one detector will do"
    assert missing("stars", "tract") == {}, "tract 2 has no reference stars, which are optional"
    assert missing("warp", "visit patch") == {(2, 1): ["post_isr_image"]}
    assert missing("subtract", "visit detector tract") == {(2, 1, 1): ["post_isr_image"]}
    empty = edges["warp"].slice(0, 0)
    both = graph.missing_inputs(site, pipeline, toy.campaign(), task(pipeline, "warp"), quanta["warp"], empty)
    assert len(both) == 10 and set(map(tuple, both.values())) == {("post_isr_image", "isolated_star")}


def test_an_input_that_may_not_be_partial(tmp_path: Path) -> None:
    """One of a visit's two images is there: the visit waits for the other, unless that one had nothing to give."""
    document = yaml.safe_load(toy.PIPELINE)
    document["tasks"]["summarize"]["inputs"] = {"post_isr_image": {}}
    strict, campaign = definition.parse(document, "strict"), toy.campaign()
    site = toy.lake(tmp_path / "lake", 1, raws=True).central
    predicted, expected = graph.predict(site, strict, campaign)
    delta.append(site, "expected_dataset", expected)
    image = {**toy.night(1), "visit": 1, "detector": 0}
    toy.register(site, "post_isr_image", "toy/step1", [(image, "made")])
    summarize, quanta = task(strict, "summarize"), of(predicted, "summarize")

    def missing() -> list[list[str]]:
        edges = graph.resolve(site, strict, campaign, summarize, quanta)
        return list(graph.missing_inputs(site, strict, campaign, summarize, quanta, edges).values())

    assert missing() == [["part of post_isr_image"]]
    other = next(row for row in of(predicted, "isr").to_pylist() if row["detector"] == 1)
    for state in ("failed", "no_work"):
        ended = {"quantum_id": other["quantum_id"], "campaign": "toy", "step": "step1", "task": "isr", "job": "j", "attempt": 1}
        noted = ended | {"state": state, "noted_at": now(), "software": "x"}
        delta.append(site, "attempt", pa.Table.from_pylist([noted], schema=schemas.table("attempt").arrow))
        assert missing() == ([["part of post_isr_image"]] if state == "failed" else [])


def test_another_instrument_with_the_same_visit_numbers(tmp_path: Path, pipeline: Pipeline) -> None:
    site = toy.lake(tmp_path / "lake", 2, raws=True).central
    toy.insert(site, "instrument", [{"instrument": "Other", "detector_count": 1}])
    toy.insert(site, "detector", [{"instrument": "Other", "detector": 0, "width": 8, "height": 8}])
    overlap = {"instrument": "Other", "visit": 1, "detector": 0, "skymap": "toy_sky", "tract": 2, "patch": 0}
    toy.insert(site, "visit_detector_patch", [overlap])
    image = {**toy.night(1), "visit": 1, "detector": 0}
    toy.register(site, "post_isr_image", "toy/step1", [(image, "made")])
    stars = task(pipeline, "stars")
    quanta = of(graph.predict(site, pipeline, toy.campaign())[0], "stars")
    edges = graph.resolve(site, pipeline, toy.campaign(), stars, quanta)
    tracts = dict(zip(quanta["quantum_id"].to_pylist(), quanta["tract"].to_pylist(), strict=True))
    assert [tracts[q] for q in edges["quantum_id"].to_pylist()] == [1]


# -- determinism -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_number_of_threads_changes_nothing(done, pipeline: Pipeline, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    site, _, edges = done
    wanted = graph.predict(site, pipeline, toy.campaign())
    shipped = graph.predict(site, definition.load(), toy.campaign())
    monkeypatch.setattr(delta, "cursor", lambda: delta.connect(threads))
    again = graph.predict(site, pipeline, toy.campaign())
    assert [table.equals(other) for table, other in zip(wanted, again, strict=True)] == [True, True]
    again = graph.predict(site, definition.load(), toy.campaign())
    assert [table.equals(other) for table, other in zip(shipped, again, strict=True)] == [True, True]
    for t in pipeline.tasks:
        assert graph.resolve(site, pipeline, toy.campaign(), t, of(wanted[0], t.label)).equals(edges[t.label]), t.label
