"""The campaign report: one HTML file that works offline, with everything inside it (style, plots, tables)."""

from __future__ import annotations

from datetime import UTC, datetime
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from checks.ledger import Ledger, definition_of
from checks.subject import Subject
from checks.suites import Verdict
from lake.query import connect
from lake.site import Lake, LakeError

HERE = Path(__file__).parent


def write(lake: Lake, campaign: str, path: str | Path, ledger: Ledger | None = None, verdict: Verdict | None = None) -> Path:
    """Write the report of a campaign to ``path`` and return it.

    ``ledger`` and ``verdict`` are made here where they are not given. LakeError when there is no such campaign, or the
    file cannot be written.
    """
    path = Path(path)
    definition = definition_of(lake, campaign)
    temporary = path.with_name(f".tmp-{path.name}")
    _put(path, temporary, "")  # before the work, not after it
    try:
        page = _page(lake, campaign, definition, ledger, verdict)
        _put(path, temporary, page)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _put(path: Path, temporary: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise LakeError(f"{path}: the report cannot be written ({error.strerror}); choose another file with -o") from None


def _page(lake: Lake, campaign: str, definition: dict[str, Any], ledger: Ledger | None, verdict: Verdict | None) -> str:
    from checks import suites
    from checks.report import sections

    with connect(lake) as con:
        subject = Subject(lake, campaign, con, definition)
        if ledger is not None:
            subject.know(ledger)
        parts = sections.every(subject, verdict or suites.judge_subject(subject))
    body = "\n".join(
        f'<section id="{part.name}"><h2>{escape(part.title)}</h2>\n{part.html}\n</section>' for part in parts if part.title
    )
    return Template((HERE / "page.html").read_text()).substitute(
        style=(HERE / "page.css").read_text(),
        title=escape(campaign),
        header=next(part.html for part in parts if not part.title),
        links="".join(f'<a href="#{part.name}">{escape(part.title)}</a>' for part in parts if part.title),
        body=body,
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
