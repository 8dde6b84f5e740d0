"""Whether the errors of the zero points are right, on surveys of other designs than those on which they were made.

Small surveys that differ in numbers of visits, detectors, stars, nights and epochs, in flats, clouds and scatter. A pull is (zero
point - truth) / error. The pulls of one survey share the few large-scale modes of its solution and its constant, so a design is
judged over all of its seeds, with room for chance; all designs together have little left. Of a single night the constant is
nearly all: that design has more surveys. Constants are stated apart, too, and pulls about them by what is left of the errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from benchmarks import Quantity

if TYPE_CHECKING:
    from benchmarks._calibration import Offsets
    from pipelines.simulate.photometric_conditions import Design

ABOUT = "Pulls of the zero points of small surveys of many designs: unit width?"
OPTIONS: list[click.Parameter] = [
    click.Option(["--seeds"], type=click.IntRange(1), help="Surveys of each design [default: 6, 20 and 60 at scales 1, 10, 100]."),
    click.Option(["--design"], help="One design only."),
]
Made = tuple["Design", dict[str, Any]]
#: How many times as many surveys a design has.
MORE = {"one night": 8}


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
    from benchmarks._calibration import camera_of, offsets, rms, settings_of
    from pipelines.simulate.photometric_survey import simulate
    from pipelines.step2c.calibrate import calibrate

    chosen = {name: make for name, make in designs().items() if design in (None, name)}
    if not chosen:
        raise click.ClickException(f"no design {design!r}; there are: {', '.join(designs())}")
    all_of: list[tuple[str, Offsets]] = []
    for name, make in chosen.items():
        number = MORE.get(name, 1) * (seeds or {1: 6, 10: 20, 100: 60}[scale])
        found: list[tuple[str, Offsets]] = []
        constants: list[float] = []
        about: list[float] = []
        for seed in range(101, 101 + number):
            survey_design, known = make(seed)
            survey = simulate(survey_design)
            solved = calibrate(survey.tiles(), settings_of(survey_design, **known), camera=camera_of(survey_design))
            own = offsets(solved.products["photo_calib"], survey.truth)
            found += own.items()
            for constant, rest in _apart(own, solved.products["calib_error"]):
                constants.append(constant)
                about.append(rest)
        all_of += found
        clear, pull, few = (np.concatenate([getattr(part, key) for _, part in found]) for key in ("clear", "pull", "few"))
        room = 0.1 + 0.4 / np.sqrt(number)
        width = rms(pull[clear])
        yield Quantity(f"{name}: clear", "", width, f"1 +- {room:.2f}", abs(width - 1.0) <= room, count=int(clear.sum()))
        for word, chosen_ones in (("cloudy", ~clear), ("few stars", few)):
            if chosen_ones.any():
                yield Quantity(f"{name}: {word}", "", rms(pull[chosen_ones]), count=int(chosen_ones.sum()))
        yield Quantity(f"{name}: constants", "", rms(constants), count=len(constants))
        yield Quantity(f"{name}: clear, about the constant", "", rms(about), count=len(about))
    for band in sorted({band for band, _ in all_of}):
        own_band = np.concatenate([part.pull[part.clear] for name, part in all_of if name == band])
        yield Quantity(f"clear, {band}", "", rms(own_band), count=len(own_band))
    for word, wanted in (("clear", True), ("cloudy", False)):
        chosen_pulls = np.concatenate([part.pull[part.clear == wanted] for _, part in all_of])
        if len(chosen_pulls):
            width = rms(chosen_pulls)
            yield Quantity(word, "", width, "0.9 to 1.1", 0.9 <= width <= 1.1, count=len(chosen_pulls))


def _apart(found: Mapping[str, Offsets], errors: pa.Table) -> Iterator[tuple[float, float]]:
    """Of each band of a survey, on clear visits: the pull of the constant, and the width of the pulls about it. ``errors``:
    calib_error."""
    for band, part in found.items():
        own = errors.filter(pc.equal(errors["band"], band))
        common = float(np.median(own["common"].to_numpy()))
        off, error = part.off[part.clear], part.error[part.clear]
        constant = float(np.mean(off))
        rest = (off - constant) ** 2 / np.maximum(error**2 - common, 0.1 * error**2)
        yield constant / np.sqrt(common), float(np.sqrt(np.mean(rest)))
