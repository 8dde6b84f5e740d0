"""Image files: what is read is what was written, to the stated precision; the same image gives the same bytes."""

from __future__ import annotations

from pathlib import Path

import fitsio
import numpy as np
import pytest

from pipelines.image import MASK, Image, ImageError
from pipelines.psf import PsfModel
from pipelines.wcs import SkyWcs

WCS = SkyWcs((10.1, -20.2), (49.5, 39.5), (-1.4e-3, 1e-5, 1e-5, 1.4e-3), 2, (1e-7, 2e-7, 3e-7), (4e-8, 5e-8, 6e-8))


def sky(shape: tuple[int, int] = (101, 97), level: float = 900.0) -> Image:
    """Photon noise on sky, a bright star, a hole without data."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[: shape[0], : shape[1]]
    truth = level + 1e6 * np.exp(-0.5 * ((x - 30) ** 2 + (y - 60) ** 2) / 1.3**2)
    image = rng.normal(truth, np.sqrt(truth)).astype(np.float32)
    variance, mask = truth.astype(np.float32), rng.integers(0, 256, shape).astype(np.int16)
    image[5:9, 5:30] = variance[5:9, 5:30] = np.nan
    mask[5:9, 5:30] = MASK["NO_DATA"]
    stamp = np.exp(-0.5 * np.hypot(*np.mgrid[-7:8, -7:8]) ** 2 / 1.3**2)
    meta = {"visit": 26091000011, "zeroPoint": 26.388482683612234, "photometric": True, "band": "r", "a_longer_key": -1e-300}
    return Image(image, variance, mask, WCS, PsfModel(stamp[None] / stamp.sum(), 0, shape), meta, {"N_INPUT": mask // 32})


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    image = sky()
    image.write(tmp_path / "a.fits")
    back = Image.read(tmp_path / "a.fits")
    assert np.array_equal(back.mask, image.mask) and np.array_equal(back.planes["N_INPUT"], image.planes["N_INPUT"])
    assert np.array_equal(np.isnan(back.image), np.isnan(image.image))
    assert back.wcs == image.wcs and back.meta == image.meta and type(back.meta["visit"]) is int
    assert back.psf is not None and image.psf is not None
    np.testing.assert_allclose(back.psf.stamps, image.psf.stamps, rtol=1e-7)
    assert (back.psf.order, back.psf.shape, back.psf.stamps.dtype) == (0, (101, 97), np.float64)


def test_compression_costs_little_and_has_no_bias(tmp_path: Path) -> None:
    image = sky((400, 400))
    image.mask[:], image.planes = 0, {}
    image.write(tmp_path / "a.fits")
    back = Image.read(tmp_path / "a.fits")
    good = np.isfinite(image.image)
    off = ((back.image - image.image) / np.sqrt(image.variance))[good].astype(float)
    assert off.std() < 0.02 and abs(off.mean()) < 3e-4 and np.abs(off).max() < 0.05
    relative = (back.variance / image.variance)[good].astype(float) - 1.0
    assert relative.std() < 0.006 and abs(relative.mean()) < 1e-4 and (back.variance[good] > 0).all()
    assert (tmp_path / "a.fits").stat().st_size < 0.25 * image.nbytes


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_planes_without_a_known_noise_survive(tmp_path: Path, level: float) -> None:
    x = np.arange(50, dtype=np.float32) * np.ones((60, 1), np.float32)
    flat = Image(1.0 + 0.001 * x, np.zeros((60, 50), np.float32), np.zeros((60, 50), np.int16))
    flat.variance[10:20] = np.inf
    flat.image += np.float32(level) * np.random.default_rng(0).normal(0, 1e-3, x.shape).astype(np.float32)
    flat.write(tmp_path / "flat.fits")
    back = Image.read(tmp_path / "flat.fits")
    assert np.abs(back.image - flat.image).max() < 1e-3 and not back.variance[:10].any()
    assert np.isnan(back.variance[10:20]).all()  # FITS has one word for all that is no number
    assert back.wcs is None and back.psf is None and back.meta == {}


def test_the_same_image_gives_the_same_bytes(tmp_path: Path) -> None:
    image = sky()
    image.write(tmp_path / "a.fits")
    again = image.copy()
    again.meta = dict(reversed(again.meta.items()))
    again.write(tmp_path / "b.fits")
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()


def test_other_programs_find_the_wcs_and_the_facts_in_the_header(tmp_path: Path) -> None:
    sky().write(tmp_path / "a.fits")
    header = fitsio.read_header(str(tmp_path / "a.fits"), ext="IMAGE")
    assert header["CTYPE1"] == "RA---TAN-SIP" and header["CRPIX1"] == 50.5 and header["A_2_0"] == 1e-7
    assert header["BAND"] == "r" and header["A_LONGER_KEY"] == pytest.approx(-1e-300)


def test_a_file_that_is_no_image_is_named(tmp_path: Path) -> None:
    fitsio.write(str(tmp_path / "x.fits"), np.zeros((4, 4)))
    for name, content in (("x.fits", None), ("y.fits", b"nothing of the kind"), ("z.fits", b"")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(ImageError, match=name):
            Image.read(tmp_path / name)
