"""The Cramer-Rao bound that the calibration is judged by: against a fit by brute force, many times over."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow.compute as pc
import pytest

from benchmarks._bound import bound
from pipelines.simulate.photometric_presets import fgcm_like
from pipelines.simulate.photometric_survey import Survey, simulate


def fitted(survey: Survey) -> np.ndarray:
    """Zero point minus truth of each (visit, detector) in g by least squares over visits, flats of zero mean and stars."""
    rows = survey.tables["isolated_star_association"].join(
        survey.stars.filter(pc.field("band") == "g").select(["isolatedStarId", "mag"]), "isolatedStarId", join_type="inner"
    )
    rows = rows.filter(pc.field("band") == "g").sort_by([("visit", "ascending"), ("isolatedStarId", "ascending")])
    fixed = survey.tables["isolated_star"].filter(pc.invert(survey.tables["isolated_star"]["reserved"]))["isolatedStarId"]
    rows = rows.filter(pc.is_in(rows["isolatedStarId"], value_set=fixed))
    visits, v = np.unique(rows["visit"].to_numpy(), return_inverse=True)
    ids, s = np.unique(rows["isolatedStarId"].to_numpy(), return_inverse=True)
    d = rows["detector"].to_numpy()
    flux, error = rows["instFlux"].to_numpy(), 2.5 / np.log(10) * rows["instFluxErr"].to_numpy() / rows["instFlux"].to_numpy()
    n, width = len(flux), int(d.max()) + 1
    a = np.zeros((n, len(visits) + width + len(ids)))
    row = np.arange(n)
    a[row, v], a[row, len(visits) + d], a[row, len(visits) + width + s] = 1.0, 1.0, -1.0
    weight = 1.0 / np.hypot(error, 0.003)
    reference = survey.tables["reference_star"].filter(pc.is_in(survey.tables["reference_star"]["reference_id"], value_set=fixed))
    reference = reference.filter(pc.is_in(reference["reference_id"], value_set=rows["isolatedStarId"].combine_chunks()))
    place = np.searchsorted(ids, reference["reference_id"].to_numpy())
    tie = np.zeros((len(place), a.shape[1]))
    tie[np.arange(len(place)), len(visits) + width + place] = 1.0
    known = np.zeros((width + 1, a.shape[1]))
    known[np.arange(width), len(visits) + np.arange(width)] = 1.0
    known[width, len(visits) : len(visits) + width] = 1e4
    left = np.concatenate([a * weight[:, None], tie / 0.02, known / 0.01])
    right = np.concatenate([2.5 * np.log10(flux) * weight, reference["g_mag"].to_numpy() / 0.02, np.zeros(width + 1)])
    answer = np.linalg.lstsq(left, right)[0]
    truth = survey.truth.filter(pc.field("band") == "g")
    own = np.searchsorted(visits, truth["visit"].to_numpy())
    return answer[own] + answer[len(visits) + truth["detector"].to_numpy()] - truth["zero_point"].to_numpy()


def test_least_squares_reaches_the_bound_and_no_more() -> None:
    quiet = {"cloudy": 0.0, "variables": 0.0, "wrong_matches": 0.0, "epochs": (), "spectra": False, "jitter": 0.3}
    quiet |= {"second_order": {}, "reference_shift": 0.0}
    got, limits = [], []
    for seed in range(1, 7):
        design = replace(fgcm_like(seed, visits=60, density=60.0), **quiet)  # type: ignore[arg-type]
        survey = simulate(design)
        got.append(np.std(fitted(survey)))
        limits.append(bound(design, survey, "g"))
    ratio = np.sqrt(np.mean(np.square(got)) / np.mean(np.square(limits)))
    assert ratio == pytest.approx(1.0, abs=0.12)
