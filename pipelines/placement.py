"""What must be where, and when: the rules of a campaign, by phase.

place     raws, calibrations, reference stars and the software fingerprint, from where they were taken in to every site that
          needs them
fan-in    the three star catalogues to the central site; astrometric fits to every other site that shares visits
fan-out   the photometric solution to every site that has the visits
return    products and metrics to the central site

A tract belongs to one site; what a second site made of it (``also``) stays there, to be compared.
"""

from __future__ import annotations

from collections.abc import Iterable

from lake.movement import RuleSpec
from pipelines.campaign import Campaign
from pipelines.definition import Pipeline

PHASES = ("place", "fan-in", "fan-out", "return")

#: What a campaign does, in order: move a phase's datasets; steps that every site runs on its own; steps of the central site.
PLAN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("move", ("place",)),
    ("steps", ("step1", "step2a", "step2b")),
    ("move", ("fan-in",)),
    ("central", ("step2c",)),
    ("move", ("fan-out",)),
    ("steps", ("step2d", "step2e", "step3", "step4", "step5", "step6")),
    ("move", ("return",)),
    ("central", ("step7",)),
)


def _numbers(values: Iterable[int]) -> str:
    return ", ".join(str(int(value)) for value in values) or "NULL"


def _visits(campaign: Campaign, tracts: Iterable[int]) -> str:
    """SQL for the visits whose footprint touches the tracts."""
    return f"SELECT visit FROM visit_detector_patch WHERE skymap = '{campaign.skymap}' AND tract IN ({_numbers(tracts)})"


def rules(phase: str, pipeline: Pipeline, campaign: Campaign, central: str) -> list[RuleSpec]:
    """The rules of one phase, in a fixed order."""
    found: list[RuleSpec] = []

    def add(what: str, types: list[str], predicate: str, source: str, destination: str) -> None:
        if source != destination:
            runs = sorted({pipeline.run(campaign.name, t) for t in types})
            mine = " OR ".join(f"run = '{run}' OR starts_with(run, '{run}/')" for run in runs)
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
            add("stars", ["isolated_star", "isolated_star_association"], f"tract IN ({own})", site, central)
            add("summaries", ["preliminary_visit_summary"], "true", site, central)
            for other, theirs in campaign.sites.items():
                shared = f"SELECT tract FROM visit_detector_patch WHERE visit IN ({_visits(campaign, theirs.processed)})"
                add("astrometry", ["visit_wcs"], f"tract IN ({own}) AND tract IN ({shared})", site, other)
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
