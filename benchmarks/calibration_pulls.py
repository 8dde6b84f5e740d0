"""Whether the errors of the zero points are right, on surveys of other designs than those on which they were made.

Small surveys that differ in numbers of visits, detectors, stars, nights and epochs, in flats, clouds and scatter. A pull is (zero
point - truth) / error. The pulls of one survey share the few large-scale modes of its solution and its constant, so a design is
judged over all of its seeds, with room for chance; all designs together have little left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from benchmarks import Quantity

if TYPE_CHECKING:
    from pipelines.simulate.photometric_conditions import Design

ABOUT = "Pulls of the zero points of small surveys of many designs: unit width?"
OPTIONS: list[click.Parameter] = [
    click.Option(["--seeds"], type=click.IntRange(1), help="Surveys of each design [default: 6, 20 and 60 at scales 1, 10, 100]."),
    click.Option(["--design"], help="One design only."),
]
Made = tuple["Design", dict[str, Any]]


def designs() -> dict[str, Callable[[int], Made]]:
    """Designs by name: a survey of a seed, and what its operator says of it."""
    from pipelines.simulate.photometric_presets import fgcm_like

    def usual(seed: int, visits: int = 96, side: int = 4, nights: int = 4, density: float = 800.0, cloudy: float = 0.15) -> Design:
        return fgcm_like(seed, visits, side, nights, density, cloudy)

    grey: dict[str, Any] = {"spectra": False, "second_order": {}, "water_colour": {}, "reference_shift": 0.0}
    return {
        "usual": lambda seed: (usual(seed), {}),
        "nine detectors": lambda seed: (usual(seed, side=3, density=1200.0), {}),
        "few stars": lambda seed: (usual(seed, density=120.0), {}),
        "one epoch": lambda seed: (replace(usual(seed), epochs=()), {}),
        "one night": lambda seed: (replace(usual(seed, visits=60, nights=1), epochs=()), {}),
        "large flats": lambda seed: (replace(usual(seed), flat=0.04), {}),
        "flats with a tilt": lambda seed: (replace(usual(seed), illumination=0.02), {}),
        "no clouds": lambda seed: (usual(seed, cloudy=0.0), {}),
        "half under clouds": lambda seed: (usual(seed, cloudy=0.5), {}),
        "no colours": lambda seed: (replace(usual(seed), **grey), {"colour_bands": ("none", "none")}),
        "scatter of 4 mmag, known": lambda seed: (replace(usual(seed), scatter=0.004), {"detector_scatter": 0.004}),
        "scatter of 4 mmag, unknown": lambda seed: (replace(usual(seed), scatter=0.004), {}),
        "two visits a flat": lambda seed: (usual(seed, visits=16, side=6, nights=2, density=1500.0), {}),
    }


def run(scale: int, seeds: int | None, design: str | None) -> Iterator[Quantity]:
    """Width of the pulls of each design, on clear and on cloudy visits and where few stars are; of all designs by band."""
    from benchmarks._calibration import Offsets, camera_of, offsets, rms, settings_of
    from pipelines.simulate.photometric_survey import simulate
    from pipelines.step2c.calibrate import calibrate

    chosen = {name: make for name, make in designs().items() if design in (None, name)}
    if not chosen:
        raise click.ClickException(f"no design {design!r}; there are: {', '.join(designs())}")
    number, all_of = seeds or {1: 6, 10: 20, 100: 60}[scale], list[tuple[str, Offsets]]()
    for name, make in chosen.items():
        found: list[tuple[str, Offsets]] = []
        for seed in range(101, 101 + number):
            survey_design, known = make(seed)
            survey = simulate(survey_design)
            solved = calibrate(survey.tiles(), settings_of(survey_design, **known), camera=camera_of(survey_design))
            found += offsets(solved.products["photo_calib"], survey.truth).items()
        all_of += found
        clear, pull, few = (np.concatenate([getattr(part, key) for _, part in found]) for key in ("clear", "pull", "few"))
        room = 0.1 + 0.4 / np.sqrt(number)
        width = rms(pull[clear])
        yield Quantity(f"{name}: clear", "", width, f"1 +- {room:.2f}", abs(width - 1.0) <= room, count=int(clear.sum()))
        for word, own in (("cloudy", ~clear), ("few stars", few)):
            if own.any():
                yield Quantity(f"{name}: {word}", "", rms(pull[own]), count=int(own.sum()))
    for band in sorted({band for band, _ in all_of}):
        own_band = np.concatenate([part.pull[part.clear] for name, part in all_of if name == band])
        yield Quantity(f"clear, {band}", "", rms(own_band), count=len(own_band))
    for word, wanted in (("clear", True), ("cloudy", False)):
        chosen_pulls = np.concatenate([part.pull[part.clear == wanted] for _, part in all_of])
        if len(chosen_pulls):
            width = rms(chosen_pulls)
            yield Quantity(word, "", width, "0.9 to 1.1", 0.9 <= width <= 1.1, count=len(chosen_pulls))
