"""Boxes of pixels: taken from a plane and painted into one, over its edges too."""

from __future__ import annotations

import numpy as np

from pipelines.boxes import Boxes


def test_boxes_hold_the_pixels_and_repeat_the_edge() -> None:
    plane = np.arange(20.0).reshape(4, 5)
    boxes = Boxes(np.array([1, -1]), np.array([0, 2]), 3, (4, 5))
    assert np.array_equal(boxes.take(plane)[0], plane[0:3, 1:4])
    assert boxes.take(plane)[1].tolist() == [[10, 10, 11], [15, 15, 16], [15, 15, 16]]
    assert boxes.inside[0].all() and boxes.inside[1].tolist() == [[False, True, True], [False, True, True], [False, False, False]]


def test_painting_adds_up_and_drops_what_is_outside() -> None:
    boxes = Boxes(np.array([0, 1, 3]), np.array([0, 1, -1]), 2, (3, 4))
    painted = boxes.paint(np.ones((3, 2, 2)))
    assert painted.tolist() == [[1, 1, 0, 1], [1, 2, 1, 0], [0, 1, 1, 0]]
    assert Boxes(np.zeros(0, int), np.zeros(0, int), 2, (3, 4)).paint(np.zeros((0, 2, 2))).sum() == 0
