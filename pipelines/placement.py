"""What must be where, and when: the rules of a campaign, by phase.

place     raws, calibrations, reference stars and the software fingerprint, from where they were taken in to every site that
          needs them
fan-in    the three star catalogues to the central site, or what every site made of its own (calibration.mode partial: the normal
          equations of its tracts); astrometric fits to every other site that shares visits
solution  (partial) the global solution to every site, which judges its own stars by it
residuals (partial) what is left of every detector and visit, and the standard stars, to the central site
fan-out   the zero points to every site that has the visits
return    products and metrics to the central site
rules     what the campaign's own section ``rules`` says, at the end of every run

A tract belongs to one site; what a second site made of it (``also``) stays there, to be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime
from typing import Any

from lake.movement import ANY, RuleSpec, spread
from lake.site import Lake
from pipelines.campaign import Campaign, CampaignError
from pipelines.definition import Pipeline

PHASES = ("place", "fan-in", "solution", "residuals", "fan-out", "return")
#: The phase of the rules that a campaign declares itself.
OWN = "rules"
Plan = tuple[tuple[str, tuple[str, ...]], ...]
_BEGIN: Plan = (("move", ("place",)), ("steps", ("step1", "step2a", "step2b")))
_END: Plan = (
    ("move", ("fan-out",)),
    ("steps", ("step2d", "step2e", "step3", "step4", "step5", "step6")),
    ("move", ("return",)),
    ("central", ("step7",)),
    ("move", (OWN,)),
)

#: What a campaign does, in order, by the mode of its calibration: move a phase's datasets; steps that every site runs on its own;
#: steps of the central site.
PLANS: dict[str, Plan] = {
    "catalogue": (
        *_BEGIN,
        ("move", ("fan-in",)),
        ("central", ("step2c.equations", "step2c.solution", "step2c.standards", "step2c.zero_points")),
        *_END,
    ),
    "partial": (
        *_BEGIN,
        ("steps", ("step2c.equations",)),
        ("move", ("fan-in",)),
        ("central", ("step2c.solution",)),
        ("move", ("solution",)),
        ("steps", ("step2c.standards",)),
        ("move", ("residuals",)),
        ("central", ("step2c.zero_points",)),
        *_END,
    ),
}
#: What is fanned in for the calibration, by its mode, beside the summaries of visits.
STARS = {
    "catalogue": ["isolated_star", "isolated_star_association"],
    "partial": ["normal_term", "normal_equation", "visit_scatter"],
}

#: What an entry of a campaign's ``rules`` may say, and the kind of each; the first four it must say.
KEYS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "name": (str, "a text"),
    "types": (list, "a list of dataset types"),
    "from": (str, "a site, or any"),
    "to": ((str, list), "a site, or a list of sites"),
    "where": (str, "a SQL condition over the table dataset"),
    "copies": (int, "a whole number"),
    "priority": (int, "a whole number"),
    "not_before": ((str, date), "a date or time, as 2027-01-31 or 2027-01-31T12:00"),
    "expires": ((str, date), "a date or time, as 2027-01-31 or 2027-01-31T12:00"),
    "once": (bool, "true or false"),
}


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in values) or "NULL"


def _of_runs(pipeline: Pipeline, campaign: Campaign, types: Iterable[str]) -> str:
    """SQL for datasets of this campaign's runs."""
    runs = sorted({pipeline.run(campaign.name, kind) for kind in types})
    return " OR ".join(f"run = '{run}' OR starts_with(run, '{run}/')" for run in runs)


def _visits(campaign: Campaign, tracts: Iterable[int]) -> str:
    """SQL for the visits whose footprint touches the tracts."""
    return f"SELECT visit FROM visit_detector_patch WHERE skymap = '{campaign.skymap}' AND tract IN ({_numbers(tracts)})"


def rules(phase: str, pipeline: Pipeline, campaign: Campaign, central: str) -> list[RuleSpec]:
    """The rules of one phase, in a fixed order."""
    found: list[RuleSpec] = []

    def add(what: str, types: list[str], predicate: str, source: str, destination: str) -> None:
        if source != destination:
            mine = _of_runs(pipeline, campaign, types)
            name = f"{phase}/{what}/{source}-{destination}"
            found.append(RuleSpec(campaign.name, name, tuple(types), f"({mine}) AND {predicate}", source, destination))

    for site, share in campaign.sites.items():
        visits, own = _visits(campaign, share.processed), _numbers(share.tracts)
        touched = f"SELECT tract FROM visit_detector_patch WHERE visit IN ({visits})"
        if phase == "place":
            add("software", ["software"], "true", central, site)
            for source in sorted({central, *(campaign.raws or {})}):
                add("calibrations", ["bias", "dark", "flat", "defects"], f"instrument = '{campaign.instrument}'", source, site)
                add("reference stars", ["reference_star"], f"tract IN ({touched})", source, site)
                add("raws", ["raw"], f"visit IN ({visits})", source, site)
        elif phase == "fan-in":
            add("stars", STARS[campaign.calibration], f"tract IN ({own})", site, central)
            add("summaries", ["preliminary_visit_summary"], "true", site, central)
            for other, theirs in campaign.sites.items():
                shared = f"SELECT tract FROM visit_detector_patch WHERE visit IN ({_visits(campaign, theirs.processed)})"
                add("astrometry", ["visit_wcs"], f"tract IN ({own}) AND tract IN ({shared})", site, other)
        elif phase == "solution" and campaign.calibration == "partial":
            add("solution", ["calib_visit", "calib_flat"], "true", central, site)
        elif phase == "residuals" and campaign.calibration == "partial":
            add("residuals", ["standard_star", "calib_residual", "calib_residual_map"], f"tract IN ({own})", site, central)
        elif phase == "fan-out":
            add("photometry", ["photo_calib"], f"visit IN ({visits})", central, site)
        elif phase == "return":
            by_tract = [
                "object", "object_forced_source", "dia_source", "dia_object", "dia_association", "dia_object_forced_source",
                "dia_source_visit", "deep_coadd", "template_coadd", "visit_wcs",
            ]  # fmt: skip
            add("products", by_tract, f"tract IN ({own})", site, central)
            add("visits", ["visit_summary", "visit_table", "visit_detector_table", "source"], "true", site, central)
    return found


def own_rules(lake: Lake, pipeline: Pipeline, campaign: Campaign) -> list[RuleSpec]:
    """The rules that the campaign declares, one per destination; CampaignError or RuleError names the entry and key."""
    entries = campaign.document.get("rules") or []
    if not isinstance(entries, list):
        raise CampaignError(f"campaign {campaign.name}: rules: must be a list of rules, not {entries!r}")
    found: list[RuleSpec] = []
    names: set[str] = set()
    for number, entry in enumerate(entries, 1):
        where = f"campaign {campaign.name}: rules[{number}]"
        _check_entry(where, entry, pipeline, lake)
        if entry["name"] in names:
            raise CampaignError(f"{where}: name: {entry['name']!r} is the name of another rule already")
        names.add(entry["name"])
        to = entry["to"] if isinstance(entry["to"], list) else [entry["to"]]
        predicate = f"({_of_runs(pipeline, campaign, entry['types'])}) AND ({entry.get('where', 'true')}\n)"
        source = ANY if entry["from"] == "any" else entry["from"]
        spec = RuleSpec(
            campaign.name, f"{OWN}/{entry['name']}", tuple(entry["types"]), predicate, source, to[0], entry.get("priority", 0),
            _moment(f"{where}.not_before", entry.get("not_before")), _moment(f"{where}.expires", entry.get("expires")),
            entry.get("once", False),
        )  # fmt: skip
        found += spread(lake, spec, to, entry.get("copies", len(set(to) - {source})))
    return found


def _check_entry(where: str, entry: Any, pipeline: Pipeline, lake: Lake) -> None:
    if not isinstance(entry, dict):
        raise CampaignError(f"{where}: must be a mapping of {', '.join(KEYS)}, not {entry!r}")
    for key, value in entry.items():
        if key not in KEYS:
            raise CampaignError(f"{where}: unknown key {key!r}; known keys: {', '.join(KEYS)}")
        kind, said = KEYS[key]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise CampaignError(f"{where}.{key}: {value!r} is not {said}")
    if missing := [key for key in list(KEYS)[:4] if not entry.get(key)]:
        raise CampaignError(f"{where}: key {missing[0]!r} is missing: {KEYS[missing[0]][1]}")
    for kind_name in entry["types"]:
        if kind_name not in pipeline.dataset_types:
            known = ", ".join(sorted(pipeline.dataset_types))
            raise CampaignError(f"{where}.types: unknown dataset type {kind_name!r}; known: {known}")
    for name in [entry["from"], *(entry["to"] if isinstance(entry["to"], list) else [entry["to"]])]:
        if name not in lake.sites and not (name == "any" and name is entry["from"]):
            raise CampaignError(f"{where}: no site {name!r} in this lake; its sites are {', '.join(lake.sites)}")


def _moment(where: str, value: str | date | None) -> datetime | None:
    try:
        return None if value is None else moment(value)
    except ValueError:
        raise CampaignError(f"{where}: {value!r} is not {KEYS['expires'][1]}") from None


def moment(value: str | date) -> datetime:
    """A date or time as people write it, in UTC where it names no zone; ValueError when it is none."""
    if isinstance(value, str):
        value = datetime.fromisoformat(value.strip())
    if not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
