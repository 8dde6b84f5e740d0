"""The report is one file that needs nothing else, whatever state the campaign is in."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from paper_lake import files

from checks import report
from checks.report import sky, style
from lake.site import Lake, LakeError

VOID = {"meta", "link", "img", "br", "col"}


class Page(HTMLParser):
    """Checks that tags close in order and collects what the page asks for."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.asked: list[str] = []
        self.images = 0
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self.images += tag == "img"
        self.asked += [value or "" for name, value in attrs if name in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(path: Path) -> str:
    return re.sub(r"data:image/svg[^\"]*", "", path.read_text())


def test_a_finished_campaign(finished: Lake, tmp_path: Path) -> None:
    path = report.write(finished, "paper", tmp_path / "report.html")
    page = Page(path.read_text())
    assert page.open == [] and page.images >= 6
    assert all(asked.startswith(("data:", "#")) for asked in page.asked), "the page asks for something outside itself"
    text = text_of(path)
    assert "http" not in text and "<script" not in text and "@import" not in text and "url(" not in text
    assert "synthetic raws" in text and "Every raw exposure is simulated" in text
    for words in ("Ledger reconciled", "Checks met", "The sky", "USDF to FRDF", "fan-in", "Residuals", "Packages and source"):
        assert words in text, words
    assert path.stat().st_size < 5e6
    section = path.read_text().partition('<section id="calibration">')[2].partition("</section>")[0]
    pictures = {part.partition("</h3>")[0]: part.count("<img") for part in section.split("<h3>")[1:]}
    assert pictures == {
        "Warnings": 0, "Zero points": 1, "Nights": 1, "Flats over the focal plane": 1, "Residuals over the focal plane": 1,
        "Residuals over the sky": 2, "Repeatability of reserved stars": 1, "Residuals of single observations": 1,
    }  # fmt: skip
    assert "extinction not determined" in section, "the paper campaign has extinctions that are not fitted"


def test_what_is_wrong_is_shown_with_the_rows_behind_it(lake: Lake, tmp_path: Path) -> None:
    site = lake.site("FRDF")
    gone = files(site, "visit_image")[0]
    site.path(gone).unlink()
    text = text_of(report.write(lake, "paper", tmp_path / "report.html"))
    assert "Ledger NOT reconciled" in text and "Checks NOT met" in text and "Storage NOT sound" in text
    assert text.count(gone) >= 2 and "What does not reconcile" in text and "Raws that did not reach every product (1)" in text


def test_a_campaign_that_is_half_done(half: Lake, tmp_path: Path) -> None:
    path = report.write(half, "paper", tmp_path / "deep" / "report.html")
    assert Page(path.read_text()).open == []
    text = text_of(path)
    assert "not reached yet" in text and "no survey map yet" in text and "Ledger NOT reconciled" in text


def test_unwritable_files_and_unknown_campaigns_are_refused(finished: Lake, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(LakeError, match="no campaign 'other'"):
        report.write(finished, "other", tmp_path / "r.html")
    with pytest.raises(LakeError, match="cannot be written"):
        report.write(finished, "paper", blocked / "r.html")


def test_the_sky_is_cut_where_it_is_empty() -> None:
    turned = sky.unwrapped([359.5, 0.0, 1.5, 340.0])
    assert np.ptp(turned) == pytest.approx(21.5) and np.all(np.mod(turned, 360) == [359.5, 0.0, 1.5, 340.0])
    assert sky.unwrapped([10.0, 20.0]).tolist() == [10.0, 20.0]
    tracts = [{"tract": i, "ra": ra} for i, ra in enumerate((0.0, 1.5, 340.0, 342.0))]
    assert [[t["tract"] for t in group] for group in sky.panels(tracts)] == [[1, 0], [3, 2]]


def test_values_read_well() -> None:
    assert [style.size(n) for n in (12.0, 1234.0, 5.6e9, 7e15)] == ["12 B", "1.23 kB", "5.6 GB", "7e+03 TB"]
    assert [style.span(s) for s in (0.5, 59.0, 61.0, 3700.0, None)] == ["0.5 s", "59 s", "1 min 01 s", "1 h 01 min", ""]
    assert style.value("<b>") == "&lt;b&gt;" and style.value(1234, "visit") == "1234" and style.value(1234) == "1,234"
