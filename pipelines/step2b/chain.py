"""Where pixels fall on the sky by a chain of maps: what a detector does in every visit, then what a visit does to all detectors.

The preliminary WCS of each frame was fitted alone. Their common part is more than their average: focal plane = D_d(pixel), a
polynomial for each detector; tangent plane of the visit = A_v(focal plane), an affine map for each visit. The split follows
Bernstein et al. 2017 (PASP 129, 074503). A frame whose own WCS is wrong or rests on few stars is placed by the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.step2b import cells
from pipelines.step2b.registration import IDENTITY
from pipelines.wcs import deproject, polynomial_terms, project

Array = NDArray[np.float64]
IntArray = NDArray[np.int64]
Mask = NDArray[np.bool_]
GRID = 7


def terms_of(x: Array, y: Array, order: int) -> Array:
    """Polynomial terms (N, K) of coordinates that are within about [-1, 1]."""
    return np.stack([x**p * y**q for p, q in polynomial_terms(order)], axis=1)


@dataclass(frozen=True)
class Chain:
    """``device`` (D, K, 2) polynomials to the focal plane (deg), ``affine`` (V, 2, 3) to each visit's tangent plane at
    ``centre`` (V, 2) deg; ``detector``, ``visit`` (F,) are the maps of each frame; ``size`` (D, 2) pixels."""

    device: Array
    affine: Array
    centre: Array
    detector: IntArray
    visit: IntArray
    size: Array
    order: int

    def focal_plane(self, frame: IntArray, x: Array, y: Array) -> Array:
        """Focal plane (N, 2) in degrees."""
        d = self.detector[frame]
        return np.asarray(np.einsum("jk,jkc->jc", terms_of(*self.scaled(frame, x, y), self.order), self.device[d]))

    def scaled(self, frame: IntArray, x: Array, y: Array) -> tuple[Array, Array]:
        """Pixels as fractions of the detector: -1 at its left (lower) edge, 1 at its right (upper)."""
        size = self.size[self.detector[frame]]
        return (2.0 * x + 1.0) / size[:, 0] - 1.0, (2.0 * y + 1.0) / size[:, 1] - 1.0

    def pixel_to_sky(self, frame: IntArray, x: Array, y: Array) -> tuple[Array, Array]:
        """(ra, dec) in degrees of pixels (N,) of frames (N,)."""
        v = self.visit[frame]
        plane = _affine(self.affine[v], self.focal_plane(frame, x, y)[:, None])[:, 0]
        ra, dec = np.empty(len(x)), np.empty(len(x))
        for i, centre in enumerate(self.centre):
            own = v == i
            ra[own], dec[own] = deproject(plane[own, 0], plane[own, 1], *centre)
        return ra, dec

    def phase(self) -> NDArray[np.complex128]:
        """The rotation of each visit's focal plane on the sky (V,), as a complex number of modulus 1; a flip aside."""
        a = self.affine
        z = (a[:, 0, 0] + a[:, 1, 1]) + 1.0j * (a[:, 1, 0] - a[:, 0, 1])
        return np.asarray(z / np.abs(z), complex)


def link(frames: list[dict[str, Any]], sky: list[tuple[Array, Array]], sizes: dict[int, tuple[float, float]], order: int) -> Chain:
    """The chain behind frames (dicts with visit and detector), given where each one's grid() pixels fall on the ``sky``.

    Detector and visit maps are fitted in turn by least squares; then once more without the frames far from that solution.
    """
    visits, visit = np.unique([f["visit"] for f in frames], return_inverse=True)
    detectors, detector = np.unique([f["detector"] for f in frames], return_inverse=True)
    vectors = np.stack([cells.unit_vectors(ra, dec).mean(axis=0) for ra, dec in sky])
    centre = np.stack(cells.sky_positions(cells.mean_vectors(vectors, visit, len(visits))), axis=1)
    plane = np.stack([np.stack(project(*s, *centre[v]), axis=1) for s, v in zip(sky, visit, strict=True)])
    keep = np.ones(len(frames), bool)
    for _ in range(2):
        device, affine = _start(plane, visit, detector, order, keep)
        for _ in range(4):
            device = _devices(plane, visit, detector, order, keep, affine)
            affine = _visits(plane, visit, detector, order, keep, device)
        model = _affine(affine[visit], (_terms(order) @ device)[detector])
        off = np.sqrt(np.mean((model - plane) ** 2, axis=(1, 2)))
        keep = off <= 5.0 * np.median(off) + 1e-9
    size = np.array([sizes[int(d)] for d in detectors])
    return Chain(device, affine, centre, detector, visit, size, order)


def grid(size: tuple[float, float]) -> tuple[Array, Array]:
    """The pixels (49,) at which link() wants to know the preliminary sky positions."""
    u, v = _unit_grid()
    return (u + 1.0) * size[0] / 2.0 - 0.5, (v + 1.0) * size[1] / 2.0 - 0.5


def _unit_grid() -> tuple[Array, Array]:
    u, v = np.meshgrid(np.linspace(-1.0, 1.0, GRID), np.linspace(-1.0, 1.0, GRID))
    return u.ravel(), v.ravel()


def _terms(order: int) -> Array:
    return terms_of(*_unit_grid(), order)


def _start(plane: Array, visit: IntArray, detector: IntArray, order: int, keep: Mask) -> tuple[Array, Array]:
    """First maps: visits join in order of how many detectors they have, through detectors that are already placed."""
    terms = _terms(order)
    solve = np.linalg.pinv(terms)
    device = np.full((int(detector.max()) + 1, terms.shape[1], 2), np.nan)
    affine = np.tile(IDENTITY, (int(visit.max()) + 1, 1, 1))
    count = np.bincount(visit[keep], minlength=len(affine))
    for v in sorted(range(len(affine)), key=lambda v: (-count[v], v)):
        own = np.flatnonzero(visit == v)
        placed = np.isfinite(device[detector[own], 0, 0])
        shared = own[placed & keep[own]]
        if len(shared):
            affine[v] = _visits(plane[shared], np.zeros_like(shared), detector[shared], order, keep[shared], device)[0]
        new = own[~placed]
        device[detector[new]] = solve @ _undone(affine[visit[new]], plane[new])
    return device, affine


def _devices(plane: Array, visit: IntArray, detector: IntArray, order: int, keep: Mask, affine: Array) -> Array:
    """Detector maps (D, K, 2) through the mean focal-plane position of each grid point."""
    count = np.bincount(detector[keep], minlength=int(detector.max()) + 1)
    use = keep | (count[detector] == 0)  # a detector with nothing else takes what there is
    target = np.zeros((len(count), *plane.shape[1:]))
    np.add.at(target, detector[use], _undone(affine[visit[use]], plane[use]))
    target /= np.bincount(detector[use], minlength=len(count))[:, None, None]
    return np.asarray(np.linalg.pinv(_terms(order)) @ target)


def _visits(plane: Array, visit: IntArray, detector: IntArray, order: int, keep: Mask, device: Array) -> Array:
    """Affine maps (V, 2, 3) of the focal plane to each visit's tangent plane."""
    count = np.bincount(visit[keep], minlength=int(visit.max()) + 1)
    use = keep | (count[visit] == 0)
    focal = (_terms(order) @ device)[detector[use]]
    x = np.concatenate([focal, np.ones((*focal.shape[:2], 1))], axis=2)
    normal, right = np.zeros((len(count), 3, 3)), np.zeros((len(count), 3, 2))
    np.add.at(normal, visit[use], np.einsum("fpa,fpb->fab", x, x))
    np.add.at(right, visit[use], np.einsum("fpa,fpc->fac", x, plane[use]))
    return np.asarray(np.linalg.solve(normal, right).transpose(0, 2, 1))


def _affine(maps: Array, position: Array) -> Array:
    """Maps (..., 2, 3), one for each set of positions (..., P, 2)."""
    return np.asarray(np.einsum("fab,fpb->fpa", maps[:, :, :2], position) + maps[:, None, :, 2])


def _undone(maps: Array, position: Array) -> Array:
    return np.asarray(np.einsum("fab,fpb->fpa", np.linalg.inv(maps[:, :, :2]), position - maps[:, None, :, 2]))
