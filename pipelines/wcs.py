"""Sky coordinates of pixels: a TAN projection with a polynomial of low order (the SIP convention).

Pixels are 0-based (0 is the centre of the first pixel), angles are degrees, sky is ICRS.
Model: (u, v) = (x - crpix0, y - crpix1); (u', v') = (u, v) + sum_pq (A_pq, B_pq) u^p v^q, 2 <= p+q <= order;
intermediate world coordinates = CD (u', v'), then the inverse gnomonic projection about crval.
Source: Shupe et al. 2005 (ASPC 347, 491) for SIP; Calabretta & Greisen 2002 for TAN.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def project(ra: ArrayLike, dec: ArrayLike, ra0: ArrayLike, dec0: ArrayLike) -> tuple[Array, Array]:
    """Gnomonic projection: sky (deg) to tangent plane (xi east, eta north, deg); NaN on the far hemisphere."""
    a, d = np.radians(np.asarray(ra, float) - np.asarray(ra0, float)), np.radians(np.asarray(dec, float))
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    cos_c = s0 * np.sin(d) + c0 * np.cos(d) * np.cos(a)
    cos_c = np.where(cos_c > 1e-6, cos_c, np.nan)
    xi = np.cos(d) * np.sin(a) / cos_c
    eta = (c0 * np.sin(d) - s0 * np.cos(d) * np.cos(a)) / cos_c
    return np.degrees(xi), np.degrees(eta)


def deproject(xi: ArrayLike, eta: ArrayLike, ra0: ArrayLike, dec0: ArrayLike) -> tuple[Array, Array]:
    """Inverse gnomonic projection: tangent plane (deg) to sky (deg, 0 <= ra < 360)."""
    x, y = np.radians(np.asarray(xi, float)), np.radians(np.asarray(eta, float))
    s0, c0 = np.sin(np.radians(dec0)), np.cos(np.radians(dec0))
    denominator = c0 - y * s0
    ra = np.degrees(np.arctan2(x, denominator)) + np.asarray(ra0, float)
    dec = np.degrees(np.arctan2(s0 + y * c0, np.hypot(x, denominator)))
    return np.mod(ra, 360.0), dec


def polynomial_terms(order: int, lowest: int = 0) -> list[tuple[int, int]]:
    """Exponents (p, q) with lowest <= p + q <= order, in the fixed order used for coefficients everywhere."""
    return [(n - q, q) for n in range(lowest, order + 1) for q in range(n + 1)]


@dataclass(frozen=True)
class SkyWcs:
    """An immutable TAN-SIP WCS. ``cd`` is row-major (deg/pixel); ``a``, ``b`` follow polynomial_terms(order, 2)."""

    crval: tuple[float, float]
    crpix: tuple[float, float]
    cd: tuple[float, float, float, float]
    order: int = 1
    a: tuple[float, ...] = ()
    b: tuple[float, ...] = ()

    def _distort(self, u: Array, v: Array) -> tuple[Array, Array]:
        du, dv = np.zeros_like(u), np.zeros_like(v)
        powers = [(np.ones_like(u), np.ones_like(v))]
        for _ in range(self.order if self.a else 0):
            powers.append((powers[-1][0] * u, powers[-1][1] * v))
        for (p, q), a, b in zip(polynomial_terms(self.order, 2), self.a, self.b, strict=True):
            term = powers[p][0] * powers[q][1]
            du += a * term
            dv += b * term
        return u + du, v + dv

    def pixel_to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Array, Array]:
        """Pixels (0-based) to (ra, dec) in degrees."""
        u, v = self._distort(np.asarray(x, float) - self.crpix[0], np.asarray(y, float) - self.crpix[1])
        c = self.cd
        return deproject(c[0] * u + c[1] * v, c[2] * u + c[3] * v, *self.crval)

    def sky_to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Array, Array]:
        """(ra, dec) in degrees to pixels (0-based), by fixed-point iteration to 1e-9 pixel; NaN on the far hemisphere."""
        xi, eta = project(ra, dec, *self.crval)
        c = self.cd
        det = c[0] * c[3] - c[1] * c[2]
        tu, tv = (c[3] * xi - c[1] * eta) / det, (c[0] * eta - c[2] * xi) / det
        u, v = tu.copy(), tv.copy()
        if self.a:
            for _ in range(20):
                fu, fv = self._distort(u, v)
                du, dv = tu - fu, tv - fv
                u, v = u + du, v + dv
                if not np.any(np.abs(du) + np.abs(dv) > 1e-9):
                    break
        return u + self.crpix[0], v + self.crpix[1]

    @property
    def pixel_scale(self) -> float:
        """Pixel scale at crpix, arcsec per pixel."""
        c = self.cd
        return 3600.0 * float(np.sqrt(abs(c[0] * c[3] - c[1] * c[2])))

    def shifted(self, dx: float, dy: float) -> SkyWcs:
        """The same sky for an image whose origin moved by (dx, dy): new pixel = old pixel - (dx, dy)."""
        return SkyWcs(self.crval, (self.crpix[0] - dx, self.crpix[1] - dy), self.cd, self.order, self.a, self.b)

    def to_json(self) -> str:
        """Compact JSON that reads back to the bit (the form kept in tables and FITS headers)."""
        return json.dumps(
            {"crval": self.crval, "crpix": self.crpix, "cd": self.cd, "order": self.order, "a": self.a, "b": self.b},
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> SkyWcs:
        d = json.loads(text)
        return cls(tuple(d["crval"]), tuple(d["crpix"]), tuple(d["cd"]), d["order"], tuple(d["a"]), tuple(d["b"]))

    def to_header(self) -> dict[str, str | float | int]:
        """FITS keywords (1-based CRPIX), readable by any WCS library."""
        sip = "-SIP" if self.a else ""
        header: dict[str, str | float | int] = {
            "CTYPE1": "RA---TAN" + sip, "CTYPE2": "DEC--TAN" + sip, "CUNIT1": "deg", "CUNIT2": "deg",
            "CRVAL1": self.crval[0], "CRVAL2": self.crval[1],
            "CRPIX1": self.crpix[0] + 1, "CRPIX2": self.crpix[1] + 1,
            "CD1_1": self.cd[0], "CD1_2": self.cd[1], "CD2_1": self.cd[2], "CD2_2": self.cd[3],
            "RADESYS": "ICRS",
        }  # fmt: skip
        if self.a:
            header |= {"A_ORDER": self.order, "B_ORDER": self.order}
            for (p, q), a, b in zip(polynomial_terms(self.order, 2), self.a, self.b, strict=True):
                header |= {f"A_{p}_{q}": a, f"B_{p}_{q}": b}
        return header


def fit_tan_sip(
    x: ArrayLike,
    y: ArrayLike,
    ra: ArrayLike,
    dec: ArrayLike,
    crval: tuple[float, float],
    crpix: tuple[float, float],
    order: int,
    weight: ArrayLike | None = None,
) -> SkyWcs:
    """Least-squares TAN-SIP of the given order through matched pixels (N,) and sky positions (N,) in degrees.

    Linear in the tangent plane about ``crval``; the constant term is moved into crval by one further pass.
    Raises ValueError when there are fewer points than coefficients.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    terms = polynomial_terms(order)
    if len(x) < len(terms):
        raise ValueError(f"{len(x)} points cannot fix a polynomial of order {order} ({len(terms)} coefficients)")
    u, v = x - crpix[0], y - crpix[1]
    scale = max(1.0, float(np.max(np.hypot(u, v))))
    design = np.stack([(u / scale) ** p * (v / scale) ** q for p, q in terms], axis=1)
    w = np.ones_like(x) if weight is None else np.sqrt(np.asarray(weight, float))
    solution = np.zeros((len(terms), 2))
    for _ in range(3):
        xi, eta = project(ra, dec, *crval)
        solution = np.linalg.lstsq(design * w[:, None], np.stack([xi, eta], axis=1) * w[:, None], rcond=None)[0]
        ra0, dec0 = deproject(solution[0, 0], solution[0, 1], *crval)
        crval = (float(ra0), float(dec0))
    cd = np.array([[solution[1, 0], solution[2, 0]], [solution[1, 1], solution[2, 1]]]) / scale
    inverse = np.linalg.inv(cd)
    powers = np.array([scale ** -(p + q) for p, q in terms[3:]])
    sip = (inverse @ solution[3:].T) * powers if order > 1 else np.zeros((2, 0))
    flat = tuple(float(c) for c in cd.ravel())
    return SkyWcs(crval, crpix, (flat[0], flat[1], flat[2], flat[3]), order, tuple(map(float, sip[0])), tuple(map(float, sip[1])))
