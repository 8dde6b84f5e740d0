"""What must be where: the rules of the reference campaign by phase, and what they pick on the toy survey."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import toy

from lake import delta, movement
from lake.movement import RuleSpec
from lake.site import Lake
from pipelines import campaign as campaigns
from pipelines import definition, placement
from pipelines.placement import PHASES, PLANS


def rules(phase: str, mode: str = "catalogue") -> list[RuleSpec]:
    return placement.rules(phase, definition.load(), replace(campaigns.read("six_tract"), calibration=mode), "USDF")


def links(found: list[RuleSpec], what: str) -> set[tuple[str, str]]:
    return {(rule.source, rule.destination) for rule in found if rule.name.split("/")[1] == what}


@pytest.mark.parametrize("mode", campaigns.MODES)
def test_the_plan_goes_through_every_step_and_phase_once(mode: str) -> None:
    plan = PLANS[mode]
    assert tuple(name for kind, names in plan if kind in ("steps", "central") for name in names) == definition.STEPS
    moved = tuple(name for kind, names in plan if kind == "move" for name in names)
    assert moved == (*(phase for phase in PHASES if rules(phase, mode)), placement.OWN)
    campaign = replace(campaigns.read("six_tract"), calibration=mode)
    central = {name for kind, names in plan if kind == "central" for name in names}
    assert {task.step for task in definition.load().tasks if campaign.runs_centrally(task)} == central


@pytest.mark.parametrize("phase", PHASES)
def test_rules_are_distinct_and_never_to_oneself(phase: str) -> None:
    found = rules(phase, "partial")
    assert found and len({rule.rule_id for rule in found}) == len(found)
    assert all(rule.source != rule.destination and rule.name.startswith(f"{phase}/") for rule in found)
    assert found == rules(phase, "partial")


def test_links_of_the_reference_campaign() -> None:
    out = {("USDF", "LANCS"), ("USDF", "FRDF")}
    home = {(there, here) for here, there in out}
    place = rules("place")
    assert {what: links(place, what) for what in ("software", "calibrations", "reference stars", "raws")} == dict.fromkeys(
        ("software", "calibrations", "reference stars", "raws"), out
    )
    fan_in = rules("fan-in")
    assert links(fan_in, "stars") == links(fan_in, "summaries") == home
    assert links(fan_in, "astrometry") == {(a, b) for a in ("USDF", "FRDF", "LANCS") for b in ("USDF", "FRDF", "LANCS") if a != b}
    assert links(rules("fan-out"), "photometry") == links(rules("solution", "partial"), "solution") == out
    assert links(rules("residuals", "partial"), "residuals") == home and rules("solution") == rules("residuals") == []
    assert links(rules("return"), "products") == links(rules("return"), "visits") == home


@pytest.mark.parametrize("mode", campaigns.MODES)
def test_every_final_table_comes_home(mode: str) -> None:
    """What no site reads later, and is not an image of a single visit, is at the central site in the end."""
    pipeline = definition.load()
    campaign = replace(campaigns.read("six_tract"), calibration=mode)
    returned = {kind for phase in ("fan-in", "residuals", "return") for rule in rules(phase, mode) for kind in rule.dataset_types}
    central = {kind for task in pipeline.tasks if campaign.runs_centrally(task) for kind in task.outputs}
    read = {given.dataset_type for task in pipeline.tasks for given in task.inputs}
    final = {name for name, kind in pipeline.dataset_types.items() if kind.storage == "table" and name not in read}
    assert final - returned - central == set()


def test_what_the_rules_pick(tmp_path: Path) -> None:
    """Site B answers for tract 2, which detector 1 of visits 1 and 3 sees: whole visits go there, and what belongs to them."""
    lake = toy.lake(tmp_path / "lake", 4, raws=True)
    toy.register(lake.central, "reference_star", "toy/refcat", [({"skymap": "toy_sky", "tract": t}, "stars") for t in (1, 2)])
    specs = placement.rules("place", toy.pipeline(), toy.campaign({"A": (1,), "B": (2,)}), "A")
    report = movement.run_rules(lake, movement.add_rules(lake, specs))
    assert report.ok, report.stuck
    with delta.connect() as con:
        delta.view(con, lake.site("B"), "dataset")
        found = con.execute("SELECT dataset_type, visit, detector, tract FROM dataset ORDER BY ALL").fetchall()
        assert [row for row in found if row[0] == "raw"] == [("raw", v, d, None) for v in (1, 3) for d in (0, 1)]
        assert [row[3] for row in found if row[0] == "reference_star"] == [1, 2], "its visits also see tract 1"
        assert len([row for row in found if row[0] == "flat"]) == 8
        delta.view(con, lake.site("B"), "certification")
        assert con.execute("SELECT count(*) FROM certification").fetchall() == [(8,)]


# -- the campaign's own rules ----------------------------------------------------------------------------------------------

RULE = {"name": "flats to B", "types": ["flat"], "from": "A", "to": "B"}


def own(lake: Lake, *entries: object) -> list[RuleSpec]:
    return placement.own_rules(
        lake, toy.pipeline(), replace(toy.campaign({"A": (1,), "B": (2,)}), document={"rules": list(entries)})
    )


def test_own_rules_say_what_is_written(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 4, raws=True)
    handling = {"priority": 3, "not_before": date(2026, 1, 31), "expires": "2099-01-31T12:00", "once": True}
    [rule] = own(lake, RULE | handling | {"where": "detector = 0 -- the first", "from": "any", "to": ["A", "B"], "copies": 1})
    assert (rule.name, rule.source, rule.destination, rule.priority, rule.once) == ("rules/flats to B", "*", "A", 3, True)
    assert (rule.not_before, rule.expires_at) == (datetime(2026, 1, 31, tzinfo=UTC), datetime(2099, 1, 31, 12, tzinfo=UTC))
    [rule] = own(lake, RULE | {"where": "detector = 0 -- the first"})
    movement.check(lake, [rule])
    report = movement.run_rules(lake, movement.add_rules(lake, [rule]))
    assert report.ok and report.files == 4
    assert own(lake) == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("flats", "must be a mapping of name"),
        ({"name": "x"}, "key 'types' is missing: a list of dataset types"),
        (RULE | {"tpyes": []}, "unknown key 'tpyes'; known keys: name, types"),
        (RULE | {"types": ["flatt"]}, "unknown dataset type 'flatt'"),
        (RULE | {"to": "MARS"}, "no site 'MARS' in this lake; its sites are A, B"),
        (RULE | {"to": "any"}, "no site 'any'"),
        (RULE | {"to": "A"}, "0 copies of 0 sites|1 copies of 0 sites"),
        (RULE | {"copies": 2}, "2 copies of 1 sites"),
        (RULE | {"priority": "high"}, "'high' is not a whole number"),
        (RULE | {"once": "yes"}, "'yes' is not true or false"),
        (RULE | {"expires": "soon"}, "'soon' is not a date or time"),
    ],
)
def test_own_rules_that_cannot_be(tmp_path: Path, entry: object, said: str) -> None:
    lake = toy.lake(tmp_path / "lake", 1)
    with pytest.raises((campaigns.CampaignError, movement.RuleError), match=said) as error:
        own(lake, entry)
    assert "\n" not in str(error.value)
    assert movement.rules(lake) == []


def test_own_rules_with_the_same_name(tmp_path: Path) -> None:
    with pytest.raises(campaigns.CampaignError, match=r"rules\[2\]: name: 'flats to B' is the name of another rule"):
        own(toy.lake(tmp_path / "lake", 1), RULE, RULE)


def test_a_wrong_condition_is_refused_before_anything_is_added(tmp_path: Path) -> None:
    lake = toy.lake(tmp_path / "lake", 1)
    with pytest.raises(movement.RuleError, match="its predicate"):
        movement.check(lake, own(lake, RULE | {"where": "detektor = 1"}))
    assert movement.rules(lake) == []
