"""Settings of the photometric solution; magnitudes unless said otherwise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """Defaults suit a survey of stars measured to 0.01 mag. Every task of the step reads the same settings.

    Judgement, tract by tract: ``rounds`` of means, judgement and clipping; ``clip`` sigma and ``limit`` mag from the star;
    ``star_chi2`` per degree of freedom; ``floor`` and ``reference_floor``: errors added to every observation and reference
    magnitude; ``few`` stars of a detector count as much as those of its visit, ``usual`` stars of a visit as much as the scatter
    of its band. ``min_references`` tie connected visits to the sky; ``min_stars``
    make a (visit, detector) that needs no flag.
    Visits: not photometric if bright stars scatter by more than ``cloud_scatter`` beyond their errors, if they have a gradient
    of ``cloud_tilt`` rms over the field, or if they lie ``cloud_depth`` below the band's clear level, or 4 times as far below
    their night as others lie about it (at least ``cloud_step``); terms for a gradient are kept ready
    for visits of which the preliminary zero points do not show that they are clear (``suspect_gradient``, ``suspect_depth``).
    What is left of a cloud within a gradient is ``cloud_structure``; ``detector_scatter`` is how far a detector of a visit is off
    by itself in a camera whose flats leave so much, ``detector_scatters`` in bands that are unlike the others. ``flat_epochs``:
    nights (YYYYMMDD) on which a new flat begins; ``flat_order``: of its polynomials over a detector (0: one number).
    Colour: of the bands ``colour_bands``, relative to ``reference_colour`` (default: the instrument's, else 0.6), limited to
    ``colour_reach`` about it; taken from stars with mean magnitudes good to ``colour_error``. The natural system is that of
    ``airmass``. ``water_bands`` get a second colour term of each night. ``reference_radius``: arcsec; default 1.5 pixels.
    Priors: ``gauge`` on preliminary zero points, ``unmeasured`` on nominal ones, ``extinction``, ``flat_mean``, ``shape`` (of a
    polynomial), ``gradient`` (mag per degree), ``colour``, ``water``, ``reference_colour_term``. First guesses of what the survey
    tells itself: ``night``, the scatter of photometric visits about their night; ``drift`` of a night in an hour; ``flat``.
    ``direct``: the largest number of unknowns of a band that is solved with the whole inverse; more are solved by conjugate
    gradients to ``tolerance``; their errors are those of the preconditioner, mended by ``probes`` random vectors.
    """

    rounds: int = 3
    clip: float = 5.0
    limit: float = 0.3
    star_chi2: float = 5.0
    floor: float = 0.003
    reference_floor: float = 0.005
    few: float = 10.0
    usual: float = 50.0
    min_references: int = 3
    min_stars: int = 10
    cloud_scatter: float = 0.015
    cloud_depth: float = 0.15
    cloud_tilt: float = 0.004
    cloud_step: float = 0.01
    cloud_structure: float = 0.005
    detector_scatter: float = 0.0
    detector_scatters: Mapping[str, float] = field(default_factory=dict)
    suspect_gradient: float = 0.002
    suspect_depth: float = 0.02
    flat_epochs: tuple[int, ...] = ()
    flat_order: int = 0
    colour_bands: tuple[str, str] = ("g", "r")
    reference_colour: float | None = None
    colour_reach: float = 1.5
    colour_error: float = 0.05
    airmass: float = 1.2
    water_bands: tuple[str, ...] = ("z", "y")
    reference_radius: float | None = None
    gauge: float = 0.5
    unmeasured: float = 3.0
    night: float = 0.01
    drift: float = 0.01
    extinction: float = 0.05
    flat: float = 0.05
    flat_mean: float = 0.00002
    shape: float = 0.01
    gradient: float = 0.2
    colour: float = 0.02
    water: float = 0.01
    reference_colour_term: float = 0.1
    direct: int = 3000
    tolerance: float = 1e-9
    probes: int = 16


#: Where an instrument file says nothing: extinction per airmass, zero point of one electron per second, reference colour.
EXTINCTION = {"u": 0.45, "g": 0.18, "r": 0.10, "i": 0.07, "z": 0.06, "y": 0.06}
ZERO_POINT = 25.0
REFERENCE_COLOUR = 0.6
