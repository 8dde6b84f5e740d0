"""Masks grow by exactly their radius; holes are filled from good neighbours only."""

from __future__ import annotations

import numpy as np
import pytest

from pipelines.neighbours import filled, grown, stretched


@pytest.mark.parametrize("radius", range(7))
def test_growing_reaches_exactly_the_radius(radius: int) -> None:
    mask = (np.random.default_rng(radius).random((40, 50)) < 0.01).astype(np.int16) * 4
    padded = np.pad(mask, radius)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1))
    assert np.array_equal(grown(mask, radius), windows.max(axis=(2, 3)))
    assert np.array_equal(grown(mask != 0, radius), windows.max(axis=(2, 3)) != 0)


def test_planes_grow_side_by_side_and_images_of_a_stack_apart() -> None:
    mask = np.zeros((2, 9, 9), np.int16)
    mask[0, 4, 2], mask[0, 4, 4] = 1, 8
    result = grown(mask)
    assert result[0, 3, 3] == 9 and result[0, 4, 1] == 1 and result[0, 4, 5] == 8 and not result[1].any()
    assert stretched(mask[0] != 0, 2, axis=0).sum() == 10
    assert mask.sum() == 9


def test_holes_take_the_good_neighbours_and_never_the_bad() -> None:
    image = np.full((9, 9), 5.0, np.float32)
    holes, bad = np.zeros((9, 9), bool), np.zeros((9, 9), bool)
    holes[4, 4] = bad[4, 4] = bad[4, 5] = True
    image[4, 4], image[4, 5] = np.nan, 1e9
    result = filled(image, holes, bad)
    assert result[4, 4] == pytest.approx(5.0) and result[4, 5] == 1e9 and np.isnan(image[4, 4])


def test_a_hole_beyond_reach_of_good_pixels_takes_what_it_is_told() -> None:
    everywhere = np.ones((90, 90), bool)
    nothing = np.full((90, 90), np.nan, np.float32)
    assert (filled(nothing, everywhere, everywhere) == 0.0).all()
    assert (filled(nothing, everywhere, everywhere, otherwise=7.0) == 7.0).all()
    slope = np.arange(90.0, dtype=np.float32) * np.ones((90, 1), np.float32)
    dotted = np.random.default_rng(2).random((90, 90)) < 0.3
    inner = (slice(3, -3), slice(3, -3))
    assert np.abs(filled(slope, dotted, dotted, 3) - slope)[inner].max() < 1.5
