"""Settings of step 7, with defaults that run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


class ConfigError(ValueError):
    """A setting is unknown or has a value that cannot be; the message names the task and the key."""


@dataclass(frozen=True)
class MapConfig:
    """Task ``survey_maps``: HEALPix resolution of the maps (powers of two); 4096 is 0.86 arcmin."""

    nside: int = 4096
    nside_coverage: int = 32

    @classmethod
    def read(cls, given: Mapping[str, Any], task: str) -> MapConfig:
        """ConfigError names an unknown key, or a resolution that is no power of two."""
        known = [f.name for f in fields(cls)]
        for key, value in given.items():
            if key not in known:
                raise ConfigError(f"config of {task}: unknown key {key!r} (known: {', '.join(known)})")
            if not isinstance(value, int) or value < 1 or value & (value - 1):
                raise ConfigError(f"config of {task}: {key} must be a power of two, not {value!r}")
        config = cls(**given)
        if config.nside_coverage > config.nside:
            raise ConfigError(f"config of {task}: nside_coverage must not exceed nside ({config.nside})")
        return config


@dataclass(frozen=True)
class MetricConfig:
    """Task ``survey_metrics``: ``bright_error`` (mag) of one observation, up to which a star measures repeatability."""

    bright_error: float = 0.01

    @classmethod
    def read(cls, given: Mapping[str, Any], task: str) -> MetricConfig:
        """ConfigError names an unknown key or a value that is no positive number."""
        for key, value in given.items():
            if key != "bright_error":
                raise ConfigError(f"config of {task}: unknown key {key!r} (known: bright_error)")
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise ConfigError(f"config of {task}: {key} must be a positive number, not {value!r}")
        return cls(**given)
