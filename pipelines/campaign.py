"""A campaign: which sky is processed where, with what settings. Read from YAML, checked key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipelines import definition, skymap


class CampaignError(ValueError):
    """The campaign file is wrong, or the campaign cannot do what was asked; the message names the key and the remedy."""

    exit_code = 2


@dataclass(frozen=True)
class SiteShare:
    """The tracts a site answers for, and those it processes besides their own site, to prove that results agree."""

    tracts: tuple[int, ...]
    also: tuple[int, ...] = ()

    @property
    def processed(self) -> tuple[int, ...]:
        """Every tract that is processed at the site."""
        return tuple(sorted({*self.tracts, *self.also}))


@dataclass(frozen=True)
class Campaign:
    """One campaign. ``config`` holds settings by task label; ``tolerate`` the accepted fraction of failed quanta by step;
    ``calibration`` is one of MODES."""

    name: str
    instrument: str
    skymap: str
    sites: Mapping[str, SiteShare]
    text: str
    document: Mapping[str, Any]
    description: str = ""
    simulate: Mapping[str, Any] | None = None
    raws: Mapping[str, Any] | None = None
    config: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    calibration: str = "catalogue"
    attempts: int = 3
    tolerate: Mapping[str, float] = field(default_factory=dict)
    workers: int = 2

    @property
    def tracts(self) -> tuple[int, ...]:
        """Every tract of the campaign."""
        return tuple(sorted({t for share in self.sites.values() for t in share.tracts}))

    def runs_centrally(self, task: definition.Task) -> bool:
        """Whether a task runs at the central site, for all tracts, or at every site for its own."""
        return task.place == "central" or (task.place == "calibration" and self.calibration == "catalogue")


#: How the photometric solution is assembled: from catalogues that are fanned in, or from what every site makes of its own.
MODES = ("catalogue", "partial")
KEYS = {
    "name", "description", "instrument", "skymap", "sites", "simulate", "raws", "config", "attempts", "tolerate", "workers",
    "rules", "calibration",
}  # fmt: skip


def _require(where: str, value: Any, kind: type | tuple[type, ...], what: str) -> Any:
    if isinstance(value, bool) or not isinstance(value, kind):
        raise CampaignError(f"{where}: {value!r} is not {what}")
    return value


def _tracts(where: str, value: Any, known: skymap.RingsSkyMap) -> tuple[int, ...]:
    for tract in _require(where, value, list, "a list of tract numbers"):
        _require(where, tract, int, "a tract number")
        if not 0 <= tract < known.tracts:
            raise CampaignError(f"{where}: unknown tract {tract}; {known.name} has tracts 0 to {known.tracts - 1}")
    return tuple(sorted(set(value)))


def parse(text: str, source: str) -> Campaign:
    """Check campaign YAML; CampaignError names the key (and line, when the YAML itself is broken)."""
    try:
        document = definition.read_yaml(text)
    except yaml.YAMLError as error:
        raise CampaignError(f"{source}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(document, dict):
        raise CampaignError(f"{source}: a campaign is a mapping of keys; known keys: {', '.join(sorted(KEYS))}")
    for key in document:
        if key not in KEYS:
            raise CampaignError(f"{source}:{_line(text, key)} unknown key {key!r}; known keys: {', '.join(sorted(KEYS))}")
    for key in ("name", "instrument", "skymap", "sites"):
        if key not in document:
            raise CampaignError(f"{source}: key {key!r} is missing")
    name = _require(f"{source}: name", document["name"], str, "a name")
    if not name.replace("_", "").replace("-", "").isalnum():
        raise CampaignError(f"{source}: name: {name!r} may hold letters, digits, - and _ only")
    try:
        sky = skymap.load(document["skymap"])
    except (KeyError, ValueError) as error:
        raise CampaignError(f"{source}: skymap: {error.args[0]}") from None
    shares: dict[str, SiteShare] = {}
    owner: dict[int, str] = {}
    for site, given in _require(f"{source}: sites", document["sites"], dict, "a mapping of sites").items():
        where = f"{source}: sites.{site}"
        _require(where, given, dict, "a mapping with tracts")
        for key in given:
            if key not in ("tracts", "also"):
                raise CampaignError(f"{where}: unknown key {key!r}; known keys: tracts, also")
        share = SiteShare(
            _tracts(f"{where}.tracts", given.get("tracts", []), sky), _tracts(f"{where}.also", given.get("also", []), sky)
        )
        for tract in share.tracts:
            if tract in owner:
                raise CampaignError(f"{where}.tracts: tract {tract} belongs to {owner[tract]} already (use also: to repeat it)")
            owner[tract] = site
        shares[site] = share
    for site, share in shares.items():
        for tract in share.also:
            if tract not in owner:
                raise CampaignError(f"{source}: sites.{site}.also: tract {tract} is no site's own tract")
    labels = {task.section for task in definition.load().tasks}
    for label, settings in _section(source, document, "config").items():
        if label not in labels:
            raise CampaignError(f"{source}: config: unknown task {label!r}; known tasks: {', '.join(sorted(labels))}")
        _require(f"{source}: config.{label}", settings, dict, "a mapping of settings")
    tolerate: dict[str, float] = {}
    for step, fraction in _section(source, document, "tolerate").items():
        try:
            meant = definition.steps(step)
        except ValueError as error:
            raise CampaignError(f"{source}: tolerate: {error}") from None
        if not 0 <= _require(f"{source}: tolerate.{step}", fraction, (int, float), "a fraction") <= 1:
            raise CampaignError(f"{source}: tolerate.{step}: {fraction} is not a fraction (0 to 1)")
        tolerate |= dict.fromkeys(meant, fraction)
    return Campaign(
        name=name,
        description=_require(f"{source}: description", document.get("description", ""), str, "a text"),
        instrument=_require(f"{source}: instrument", document["instrument"], str, "an instrument name"),
        skymap=sky.name,
        sites=shares,
        text=text,
        document=document,
        simulate=_section(source, document, "simulate") or None,
        raws=_section(source, document, "raws") or None,
        config=_section(source, document, "config"),
        calibration=_calibration(source, document),
        attempts=_count(source, document, "attempts", 3),
        tolerate=tolerate,
        workers=_count(source, document, "workers", 2),
    )


def _calibration(source: str, document: Mapping[str, Any]) -> str:
    """The mode of the calibration."""
    given = _section(source, document, "calibration")
    for key in given:
        if key != "mode":
            raise CampaignError(f"{source}: calibration: unknown key {key!r}; known keys: mode")
    mode = given.get("mode", MODES[0])
    if mode not in MODES:
        raise CampaignError(f"{source}: calibration.mode: {mode!r} is not one of {', '.join(MODES)}")
    return str(mode)


def _section(source: str, document: Mapping[str, Any], key: str) -> dict[str, Any]:
    """A key's mapping; empty where the key is absent or has nothing under it."""
    found: dict[str, Any] = _require(f"{source}: {key}", document.get(key) or {}, dict, "a mapping")
    return found


def _count(source: str, document: Mapping[str, Any], key: str, default: int) -> int:
    value: int = _require(f"{source}: {key}", document.get(key, default), int, "a whole number")
    if value < 1:
        raise CampaignError(f"{source}: {key}: {value} must be at least 1")
    return value


def _line(text: str, key: str) -> str:
    lines = [i for i, line in enumerate(text.splitlines(), 1) if line.startswith(f"{key}:")]
    return f"{lines[0]}:" if lines else ""


def read(path: str | Path) -> Campaign:
    """The campaign of a YAML file; a bare name finds one of the campaigns that come with the project."""
    file = Path(path)
    shipped = Path(__file__).with_name("campaigns") / f"{path}.yaml"
    if not file.exists() and shipped.exists():
        file = shipped
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not text"
        raise CampaignError(f"{path}: cannot read the campaign file ({reason})") from None
    return parse(text, file.name)
