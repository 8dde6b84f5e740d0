"""Small square windows around sources, and what is measured in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pipelines.boxes import Boxes

Array = NDArray[np.float64]


class Windows(Boxes):
    """Windows (N, n, n) with n = 2 ``half`` + 1 around the pixels nearest to ``x``, ``y`` (N,), beyond edges too.

    ``dx``, ``dy`` (N, n, n): pixel minus source.
    """

    def __init__(self, x: Array, y: Array, half: int, shape: tuple[int, int]) -> None:
        self.x, self.y, self.half = x, y, half
        self.column, self.row = np.floor(x + 0.5).astype(np.int64), np.floor(y + 0.5).astype(np.int64)
        super().__init__(self.column - half, self.row - half, 2 * half + 1, shape)
        steps, size = np.arange(-half, half + 1), (len(x), self.size, self.size)
        self.dx = np.broadcast_to(steps[None, None, :] - (x - self.column)[:, None, None], size)
        self.dy = np.broadcast_to(steps[None, :, None] - (y - self.row)[:, None, None], size)


def second_moments(light: Array, dx: Array, dy: Array, sigma: float) -> tuple[Array, Array, Array]:
    """(ixx, iyy, ixy) (N,) in pixels^2 of windows (N, n, n), under a round Gaussian weight of ``sigma`` pixels.

    The weight is taken out as if the source were Gaussian, M = (W^-1 - w^-2)^-1 with W the weighted moments (Bernstein
    & Jarvis 2002); NaN where that gives no positive matrix (noise).
    """
    weighted = light * np.exp(-0.5 * (dx**2 + dy**2) / sigma**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = weighted.sum(axis=(1, 2))
        mx, my = ((weighted * d).sum(axis=(1, 2)) / total for d in (dx, dy))
        xx = (weighted * dx**2).sum(axis=(1, 2)) / total - mx**2
        yy = (weighted * dy**2).sum(axis=(1, 2)) / total - my**2
        xy = (weighted * dx * dy).sum(axis=(1, 2)) / total - mx * my
        det = xx * yy - xy**2
        a, b, c = yy / det - sigma**-2, xx / det - sigma**-2, -xy / det
        inverse = a * b - c**2
        good = (total > 0) & (det > 0) & (xx > 0) & (inverse > 0) & (a > 0)
        return tuple(np.where(good, m, np.nan) for m in (b / inverse, a / inverse, -c / inverse))  # type: ignore[return-value]


def centroid(light: Array, dx: Array, dy: Array, sigma: float, rounds: int = 4) -> tuple[Array, Array]:
    """Offsets (N,) of the centre of light under a Gaussian weight that follows it (SExtractor's windowed position)."""
    ox, oy = np.zeros(len(light)), np.zeros(len(light))
    for _ in range(rounds):
        u, v = dx - ox[:, None, None], dy - oy[:, None, None]
        weighted = light * np.exp(-0.5 * (u**2 + v**2) / sigma**2)
        total = weighted.sum(axis=(1, 2))
        with np.errstate(divide="ignore", invalid="ignore"):
            step_x, step_y = (2.0 * (weighted * d).sum(axis=(1, 2)) / total for d in (u, v))
        good = np.isfinite(step_x) & np.isfinite(step_y) & (total > 0)
        ox += np.where(good, np.clip(step_x, -1.0, 1.0), 0.0)
        oy += np.where(good, np.clip(step_y, -1.0, 1.0), 0.0)
    return ox, oy
