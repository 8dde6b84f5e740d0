"""Settings of the photometric solution; magnitudes unless said otherwise."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """Defaults suit a small survey of stars measured to 0.01 mag.

    Fit: ``rounds`` of fit, judgement and clipping; ``clip`` sigma and ``limit`` mag from the star; ``star_chi2`` per degree of
    freedom; ``floor`` and ``reference_floor``: errors added to every observation and reference magnitude;
    ``min_references`` tie connected visits to the sky; ``min_stars`` make a block that needs no flag.
    Visits: not photometric if bright stars scatter by more than ``cloud_scatter`` beyond their errors, or the zero point is
    ``cloud_depth`` below the band's clear level. ``flat_epochs``: nights (YYYYMMDD) on which a new flat begins.
    Colour: of the bands ``colour_bands``, relative to ``reference_colour`` (default: the instrument's, else the median star);
    limited to ``colour_reach`` about it; taken from stars with mean magnitudes good to ``colour_error``. The natural system
    is that of ``airmass``. ``reference_radius``: arcsec; default 1.5 pixels.
    Priors: ``gauge`` on preliminary zero points, ``unmeasured`` on nominal ones, ``night`` the first guess of the scatter of
    photometric visits about their night, ``extinction``, ``flat``, ``flat_mean``, ``colour``, ``reference_colour_term``.
    """

    rounds: int = 5
    clip: float = 5.0
    limit: float = 0.3
    star_chi2: float = 5.0
    floor: float = 0.003
    reference_floor: float = 0.005
    min_references: int = 3
    min_stars: int = 10
    cloud_scatter: float = 0.015
    cloud_depth: float = 0.15
    flat_epochs: tuple[int, ...] = ()
    colour_bands: tuple[str, str] = ("g", "r")
    reference_colour: float | None = None
    colour_reach: float = 1.5
    colour_error: float = 0.05
    airmass: float = 1.2
    reference_radius: float | None = None
    gauge: float = 0.5
    unmeasured: float = 3.0
    night: float = 0.01
    extinction: float = 0.05
    flat: float = 0.05
    flat_mean: float = 0.0005
    colour: float = 0.02
    reference_colour_term: float = 0.1


#: Where an instrument file says nothing: extinction per airmass, and a zero point of one electron per second.
EXTINCTION = {"u": 0.45, "g": 0.18, "r": 0.10, "i": 0.07, "z": 0.06, "y": 0.06}
ZERO_POINT = 25.0
