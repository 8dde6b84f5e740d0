"""A task's section of the campaign configuration, read into the dataclass of its settings: numbers, words, switches, lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

S = TypeVar("S")

#: Keys of a section that are the campaign's own, and no setting of a task.
CAMPAIGN_KEYS = ("instrument", "skymap")


class SettingsError(ValueError):
    """A setting is unknown or has a value that cannot be; the message names the task and the key."""


def read(kind: type[S], given: Mapping[str, Any], task: str) -> S:
    """The settings of ``task``: ``kind`` (a dataclass whose fields have defaults) with what ``given`` changes."""
    known = {f.name: f.default for f in fields(kind)}  # type: ignore[arg-type]
    chosen = {key: value for key, value in given.items() if key not in CAMPAIGN_KEYS}
    for key, value in chosen.items():
        if key not in known:
            raise SettingsError(f"config.{task}: unknown setting {key!r}; known settings: {', '.join(known)}")
        if not _alike(value, known[key]):
            raise SettingsError(f"config.{task}: {key} must be like {known[key]!r}, not {value!r}")
    return kind(**{key: tuple(value) if isinstance(value, list) else value for key, value in chosen.items()})


def _alike(value: Any, default: Any) -> bool:
    """Whether a value is of its default's kind, where the default tells: a switch, a number or a word."""
    kinds: tuple[type | tuple[type, ...], ...] = (bool, (int, float), str)
    kind = next((k for k in kinds if isinstance(default, k)), None)
    return kind is None or (isinstance(value, kind) and isinstance(value, bool) == isinstance(default, bool))
