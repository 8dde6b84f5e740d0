"""Tables that the simulator writes: the reference catalogue that steps use, and the truth that only checks may read."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

import schemas
from pipelines.simulate import electronics, exposure, optics, sky
from pipelines.simulate.settings import generator
from pipelines.simulate.survey import Plan, Visit

#: Dataset types of the truth: (dimensions, storage). They are not in drp.yaml, as no task may name them.
TRUTH: dict[str, tuple[tuple[str, ...], str]] = {
    "truth_star": (("skymap", "tract"), "table"),
    "truth_transient": (("skymap", "tract"), "table"),
    "truth_photo_calib": (("instrument", "visit"), "table"),
    "truth_wcs": (("instrument", "visit"), "table"),
}


def reference_stars(plan: Plan, tract: int, site: str) -> pa.Table:
    """Rows of ``reference_star``: the stars (variables too, at their mean) of the inner region, down to the limit.

    Positions are those at the catalogue's epoch, good to 2-10 mas; magnitudes to 5-20 mmag; motions to 0.05 mas/yr.
    """
    s = plan.settings
    everything = sky.tract_sources(plan, tract)
    bright = everything.mag[:, 1] < s.reference_limit
    stars = everything.take(np.flatnonzero(bright & (everything.kind <= sky.VARIABLE)))
    n = len(stars)
    rng = generator(s.seed, "reference", tract)
    depth = np.clip((stars.mag[:, 1] - 12.0) / (s.reference_limit - 12.0), 0.0, 1.0)
    error = (2.0 + 8.0 * depth) / 3.6e6
    motion = 0.05 * rng.normal(size=(2, n))
    years = (s.reference_epoch - plan.mid_survey) / 365.25
    offset = error * rng.normal(size=(2, n))
    cos_dec = np.cos(np.radians(stars.dec))
    mag_error = 0.005 + 0.015 * depth[:, None] ** 2 * np.array([1.0, 0.8, 0.8, 1.0])
    mag = stars.mag + mag_error * rng.normal(size=(n, 4))
    columns = {
        "site": [site] * n, "tract": np.full(n, tract), "skymap": [plan.skymap_name] * n,
        "reference_id": stars.truth_id,
        "coord_ra": np.mod(stars.ra + (stars.pm_ra * years / 3.6e6 + offset[0]) / cos_dec, 360.0),
        "coord_dec": stars.dec + stars.pm_dec * years / 3.6e6 + offset[1],
        "coord_raErr": error, "coord_decErr": error,
        "pm_ra": stars.pm_ra + motion[0], "pm_dec": stars.pm_dec + motion[1], "parallax": np.zeros(n),
        "epoch": np.full(n, s.reference_epoch),
    }  # fmt: skip
    for i, band in enumerate(sky.BANDS):
        columns |= {f"{band}_mag": mag[:, i], f"{band}_magErr": mag_error[:, i]}
    return schemas.conform("reference_star", pa.table(columns))


def truth_stars(plan: Plan, tract: int, neighbours: Iterable[int], site: str) -> pa.Table:
    """Rows of ``truth_star``; ``neighbours`` are the tracts whose sources may disturb those at the border."""
    everything = sky.tract_sources(plan, tract)
    steady = everything.take(np.flatnonzero(everything.kind != sky.TRANSIENT))
    others = sky.join([sky.tract_sources(plan, t) for t in sorted({tract, *neighbours})])
    n = len(steady)
    galaxy, variable = steady.kind == sky.GALAXY, steady.kind == sky.VARIABLE
    columns = {
        "site": [site] * n, "tract": np.full(n, tract), "truthId": steady.truth_id,
        "kind": np.array(sky.KINDS)[steady.kind], "coord_ra": steady.ra, "coord_dec": steady.dec,
        **{f"{band}_mag": steady.mag[:, i] for i, band in enumerate(sky.BANDS)},
        "half_light_radius": pa.array(steady.radius, mask=~galaxy),
        "amplitude": pa.array(steady.amplitude, mask=~variable), "period": pa.array(steady.period, mask=~variable),
        "phase": pa.array(steady.phase, mask=~variable), "isolated": sky.isolated(plan, steady, others),
    }  # fmt: skip
    return schemas.conform("truth_star", pa.table(columns))


def truth_transients(plan: Plan, tract: int, site: str) -> pa.Table:
    """Rows of ``truth_transient``."""
    everything = sky.tract_sources(plan, tract)
    found = everything.take(np.flatnonzero(everything.kind == sky.TRANSIENT))
    n = len(found)
    columns = {
        "site": [site] * n, "tract": np.full(n, tract), "truthId": found.truth_id, "coord_ra": found.ra,
        "coord_dec": found.dec, "mjd_start": found.start, "mjd_end": found.end, "mag": found.mag[:, 1],
    }  # fmt: skip
    return schemas.conform("truth_transient", pa.table(columns))


def truth_photo_calib(plan: Plan, visit: Visit, site: str) -> pa.Table:
    """Rows of ``truth_photo_calib``, one per detector.

    The zero point belongs to electrons as step 1 gives them: after division by the flat, hence its normalisation and
    its error; averaged in magnitudes over the detector, for a star of the instrument's reference colour.
    """
    camera = plan.instrument
    norm = 2.5 * np.log10(electronics.flat_mean(plan, visit.epoch, visit.physical_filter))
    rows = []
    for d in camera.detectors:
        x, y = np.meshgrid(np.linspace(0, d.width - 1, 9), np.linspace(0, d.height - 1, 9))
        cloud = float(exposure.cloud(visit, *d.to_focal_plane(x, y, camera.pixel_scale)).mean())
        offset = 2.5 / np.log(10.0) * electronics.flat_error(plan, visit.epoch, d.detector)[0]
        rows.append(
            {
                **_keys(plan, visit, d.detector, site), "zeroPoint": float(visit.zero_point - cloud + norm - offset),
                "photometric": visit.photometric, "cloud": cloud,
            }
        )  # fmt: skip
    return pa.Table.from_pylist(rows, schema=schemas.table("truth_photo_calib").arrow)


def truth_wcs(plan: Plan, visit: Visit, site: str) -> pa.Table:
    """Rows of ``truth_wcs``, one per detector."""
    rows = [
        {**_keys(plan, visit, d.detector, site), "wcs": optics.true_wcs(plan, visit, d.detector).to_json()}
        for d in plan.instrument.detectors
    ]
    return pa.Table.from_pylist(rows, schema=schemas.table("truth_wcs").arrow)


def _keys(plan: Plan, visit: Visit, detector: int, site: str) -> dict[str, object]:
    return {
        "site": site, "day_obs": visit.day_obs, "instrument": plan.instrument_name, "band": visit.band,
        "physical_filter": visit.physical_filter, "visit": visit.visit, "detector": detector,
    }  # fmt: skip
