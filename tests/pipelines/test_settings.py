"""A task's settings: defaults run, and what is wrong is named."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pipelines.quantum import Quantum
from pipelines.settings import SettingsError


@dataclass(frozen=True)
class Settings:
    radius: float = 1.5
    rounds: int = 3
    clean: bool = True
    bands: tuple[str, ...] = ("g", "r")
    colour: str = "g-r"


def settings(**given: object) -> Settings:
    return Quantum("q", "shine", {}, given).settings(Settings)


def test_defaults_and_changes() -> None:
    assert settings() == Settings()
    assert settings(radius=2, bands=["i"], instrument="Cam", skymap="rings") == Settings(radius=2, bands=("i",))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"radios": 1}, "config.shine: unknown setting 'radios'; known settings: radius, rounds, clean, bands, colour"),
        ({"radius": "wide"}, "config.shine: radius must be like 1.5, not 'wide'"),
        ({"radius": True}, "radius must be like 1.5, not True"),
        ({"clean": 1}, "clean must be like True, not 1"),
        ({"colour": 3}, "colour must be like 'g-r', not 3"),
    ],
)
def test_what_cannot_be_is_named(given: dict[str, object], words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        settings(**given)
