"""Zones: every tract has one site, shares are met, and only an offline site's tracts move."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.skymap import load
from pipelines.zones import SEQUENCE, SHARES, ZoneError, published_bands, weighted_bands

SKYMAP = load("demo_rings")
FOOTPRINT = SKYMAP.tracts_between(-72.0, 2.0)


def test_published_bands_are_eight_of_equal_width_from_the_south() -> None:
    plan = published_bands(SKYMAP, FOOTPRINT)
    bands = plan.bands().to_pylist()
    assert tuple(row["site"] for row in bands) == SEQUENCE
    assert [row["dec_min"] for row in bands[1:]] == [row["dec_max"] for row in bands[:-1]]
    ring = np.degrees(SKYMAP.ring_height)
    heights = np.array([row["dec_max"] - row["dec_min"] for row in bands])
    assert heights.max() - heights.min() < 1.01 * ring
    assert sum(row["tracts"] for row in bands) == len(FOOTPRINT)
    # What the published plan cannot do: a fifth of the work for the site that signed up for a tenth.
    assert plan.shares()["LANCS"] > 0.2


@pytest.mark.parametrize("weighted", [False, True])
def test_weighted_bands_give_the_shares(weighted: bool) -> None:
    weight = np.random.default_rng(1).integers(1, 200, len(FOOTPRINT)) if weighted else None
    plan = weighted_bands(SKYMAP, FOOTPRINT, weight=weight)
    assert plan.shares() == pytest.approx(SHARES, abs=1e-3)
    assert tuple(row["site"] for row in plan.bands().to_pylist()) == SEQUENCE
    for site in SHARES:  # half of each site's share in the south, half in the north
        halves = [row["share"] for row in plan.bands().to_pylist() if row["site"] == site]
        assert halves == pytest.approx([SHARES[site] / 2] * 2, abs=1e-3)


def test_every_tract_has_one_site_whatever_the_order_given() -> None:
    plan = weighted_bands(SKYMAP, FOOTPRINT)
    again = weighted_bands(SKYMAP, np.random.default_rng(2).permutation(FOOTPRINT))
    assert plan.assignment().equals(again.assignment())
    assert plan.assignment()["tract"].to_pylist() == FOOTPRINT.tolist()
    assert sorted(np.concatenate([plan.tracts_of(site) for site in plan.sites]).tolist()) == FOOTPRINT.tolist()
    assert plan.site_of([9469, 9469]).tolist() == [str(plan.site_of(9469))] * 2


@pytest.mark.parametrize("offline", sorted(SHARES))
@pytest.mark.parametrize("make", [published_bands, weighted_bands])
def test_an_offline_sites_tracts_are_rehomed_and_no_others(make, offline: str) -> None:
    before = make(SKYMAP, FOOTPRINT)
    after = before.without(offline)
    assert offline not in after.sites and offline not in set(after.site.tolist())
    stay = before.site != offline
    np.testing.assert_array_equal(before.site[stay], after.site[stay])
    np.testing.assert_array_equal(before.tract, after.tract)
    if make is weighted_bands:
        wanted = {site: share / (1 - SHARES[offline]) for site, share in SHARES.items() if site != offline}
        assert after.shares() == pytest.approx(wanted, abs=3e-3)
    # Neighbours stay together: at most one run of tracts for each site in each band.
    for band in range(len(SEQUENCE)):
        sites = after.site[after.band == band]
        assert np.sum(sites[1:] != sites[:-1]) < len(after.sites)


def test_two_sites_offline_one_after_the_other() -> None:
    plan = weighted_bands(SKYMAP, FOOTPRINT).without("RAL").without("LANCS")
    assert plan.shares() == pytest.approx({"FRDF": 0.40 / 0.75, "USDF": 0.35 / 0.75}, abs=5e-3)


def test_errors_name_the_thing() -> None:
    plan = published_bands(SKYMAP, FOOTPRINT)
    with pytest.raises(ZoneError, match="tract 18000 is not in the footprint"):
        plan.site_of([9469, 18000])
    with pytest.raises(ZoneError, match="no site 'SLAC' in this plan; known: FRDF, LANCS, RAL, USDF"):
        plan.without("SLAC")
    with pytest.raises(ZoneError, match="site 'RAL' needs a share > 0"):
        weighted_bands(SKYMAP, FOOTPRINT, {"LANCS": 0.5, "FRDF": 0.3, "USDF": 0.2})
    with pytest.raises(ZoneError, match="the footprint has no tract"):
        published_bands(SKYMAP, [])
    with pytest.raises(ZoneError, match="weights must be"):
        published_bands(SKYMAP, FOOTPRINT, weight=[1.0])
    only = published_bands(SKYMAP, FOOTPRINT, sequence=("USDF",))
    with pytest.raises(ZoneError, match="USDF is the only site"):
        only.without("USDF")
