"""Campaign files: the shipped ones, and one clear line for each that is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipelines import campaign, definition, instrument
from pipelines.campaign import CampaignError

TEXT = """\
name: test
instrument: TinyCam
skymap: tiny_rings
sites:
  USDF: {tracts: [9470, 9469]}
  FRDF: {tracts: [9471], also: [9469]}
"""
SHIPPED = sorted(p.stem for p in (Path(campaign.__file__).parent / "campaigns").glob("*.yaml") if not p.stem.startswith("sites"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_campaigns(name: str) -> None:
    read = campaign.read(name)
    assert read.name == name
    assert instrument.load(read.instrument).name == read.instrument
    assert bool(read.simulate) != bool(read.raws)


def test_the_reference_campaign() -> None:
    shares = campaign.read("six_tract").sites
    assert {name: share.tracts for name, share in shares.items()} == {
        "LANCS": (9941, 9942), "FRDF": (9948, 9949), "USDF": (9469, 9470),
    }  # fmt: skip
    assert {name: share.also for name, share in shares.items() if share.also} == {"FRDF": (9470,)}


def test_shares_and_defaults() -> None:
    read = campaign.parse(TEXT, "test.yaml")
    assert read.sites["USDF"].tracts == (9469, 9470)
    assert read.sites["FRDF"].processed == (9469, 9471)
    assert read.tracts == (9469, 9470, 9471)
    assert (read.attempts, read.workers, read.tolerate, read.config, read.text) == (3, 2, {}, {}, TEXT)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("instrument:", "instrumnet:", ["test.yaml:2: unknown key 'instrumnet'", "instrument"]),
        ("name: test\n", "", ["test.yaml: key 'name' is missing"]),
        ("name: test", "name: a/b", ["name: 'a/b'"]),
        ("name: test", "name: 7", ["name: 7 is not a name"]),
        ("tiny_rings", "rings", ["skymap", "rings"]),
        ("9471]", "18938000]", ["sites.FRDF.tracts: unknown tract 18938000", "tracts 0 to"]),
        ("9471]", "-1]", ["unknown tract -1"]),
        ("9471]", "9470]", ["sites.FRDF.tracts: tract 9470 belongs to USDF"]),
        ("[9471]", "9471", ["sites.FRDF.tracts: 9471 is not a list"]),
        ("[9471]", "[true]", ["True is not a tract number"]),
        ("also: [9469]", "also: [17]", ["sites.FRDF.also: tract 17"]),
        ("also: [9469]", "share: 0.1", ["sites.FRDF: unknown key 'share'"]),
        ("FRDF: {", "FRDF: [", ["not YAML", "line 6"]),
        ("TinyCam\n", "TinyCam\nattempts: many\n", ["attempts: 'many' is not a whole number"]),
        ("TinyCam\n", "TinyCam\nattempts: 0\n", ["attempts: 0 must be at least 1"]),
        ("TinyCam\n", "TinyCam\nworkers: 0\n", ["workers: 0 must be at least 1"]),
        ("TinyCam\n", "TinyCam\nconfig: {irs: {}}\n", ["config: unknown task 'irs'", "isr"]),
        ("TinyCam\n", "TinyCam\nconfig: {isr: 3}\n", ["config.isr: 3 is not a mapping"]),
        ("TinyCam\n", "TinyCam\ntolerate: {step9: 0.1}\n", ["tolerate: unknown step 'step9'", "step2a"]),
        ("TinyCam\n", "TinyCam\ntolerate: {step1: 3}\n", ["tolerate.step1: 3 is not a fraction"]),
        ("TinyCam\n", "TinyCam\ntolerate: {step2c.x: 0.1}\n", ["tolerate: unknown step 'step2c.x'", "step2c.solution"]),
        ("TinyCam\n", "TinyCam\ncalibration: {mode: global}\n", ["calibration.mode: 'global' is not one of catalogue, partial"]),
        ("TinyCam\n", "TinyCam\ncalibration: {mode: [partial]}\n", ["calibration.mode: ['partial'] is not one of"]),
        ("TinyCam\n", "TinyCam\ncalibration: {mod: partial}\n", ["calibration: unknown key 'mod'; known keys: mode"]),
        ("TinyCam\n", "TinyCam\ncalibration: partial\n", ["calibration: 'partial' is not a mapping"]),
        ("TinyCam\n", "TinyCam\nsimulate: yes please\n", ["simulate: 'yes please' is not a mapping"]),
    ],
)
def test_errors_name_the_key(old: str, new: str, words: list[str]) -> None:
    assert old in TEXT
    with pytest.raises(CampaignError) as refused:
        campaign.parse(TEXT.replace(old, new, 1), "test.yaml")
    assert "\n" not in str(refused.value)
    assert [word for word in ["test.yaml", *words] if word not in str(refused.value)] == [], refused.value


def test_the_mode_of_the_calibration() -> None:
    assert campaign.parse(TEXT, "test.yaml").calibration == "catalogue"
    assert [campaign.parse(f"{TEXT}calibration: {{mode: {mode}}}\n", "test.yaml").calibration for mode in campaign.MODES] == [
        "catalogue", "partial",
    ]  # fmt: skip


def test_a_step_of_parts_is_tolerated_in_all() -> None:
    parts = definition.steps("step2c")
    assert len(parts) == 4
    assert campaign.parse(f"{TEXT}tolerate: {{step2c: 0.1}}\n", "test.yaml").tolerate == dict.fromkeys(parts, 0.1)
    text = f"{TEXT}tolerate: {{step2c: 0.1, step2c.solution: 0}}\n"
    assert campaign.parse(text, "test.yaml").tolerate == dict.fromkeys(parts, 0.1) | {"step2c.solution": 0}


def test_a_campaign_that_is_no_mapping_or_no_file(tmp_path: Path) -> None:
    with pytest.raises(CampaignError, match="a mapping of keys"):
        campaign.parse("- 1", "x.yaml")
    with pytest.raises(CampaignError, match="cannot read the campaign file"):
        campaign.read(tmp_path / "nothing.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CampaignError, match=r"binary\.yaml"):
        campaign.read(tmp_path / "binary.yaml")
