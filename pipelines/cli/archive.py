"""drp archive: many small files into few large bundles; read, verify and recall them."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pipelines.cli.output import Bars, emit, format_option, lake_argument

if TYPE_CHECKING:
    from lake.site import Lake, Site

COLUMNS = ("site", "location", "path", "bytes", "members", "datasets", "state", "reason", "noted_at")
UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@click.command("archive")
@lake_argument
@click.argument("site", metavar="[SITE]", required=False)
@click.option("--types", metavar="TYPE,...", help="Dataset types (default: all).")
@click.option("--where", default="true", show_default=True, metavar="SQL", help="Which of them: a condition over table dataset.")
@click.option("--target-size", default="1GB", show_default=True, metavar="SIZE", help="Bytes that a bundle holds at least.")
@click.option("--full-only", is_flag=True, help="Leave what does not fill a bundle for the next time.")
@click.option("--to", metavar="SITE|DIR", help="Where the bundles go: a site, or a directory (default: SITE).")
@click.option("--list", "listing", is_flag=True, help="List the bundles, and nothing else.")
@click.option("--verify", is_flag=True, help="Read the bundles again: each one's sha256, and each member's.")
@click.option("--recall", is_flag=True, help="Bring archived files that SITE lacks or has damaged back to it.")
@click.option("--read", metavar="PATH|ID", help="Read one member: its path, or the id of a dataset.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where --read writes it; - is stdout.")
@format_option
def command(
    lake: Path, site: str | None, types: str | None, where: str, target_size: str, full_only: bool, to: str | None,
    listing: bool, verify: bool, recall: bool, read: str | None, output: Path | None, form: str,
) -> None:  # fmt: skip
    """Bundle the files of SITE (default: the central site) into large indexed ZIP files, and verify these.

    Every file keeps its path in its bundle, beside SHA256SUMS and the registry's rows: unzip opens it without this program.
    What is archived already is left out; a run that was killed is continued by the same command. Exit code 1 when
    something could not be archived, is damaged, or could not be recalled.

    \b
    Examples:
      drp archive ./drp-demo --types raw,post_isr_image --target-size 5GB
      drp archive ./drp-demo FRDF --where "tract = 9948" --to /mnt/tape
      drp archive ./drp-demo --list
      drp archive ./drp-demo --verify
      drp archive ./drp-demo FRDF --recall --types raw --where "visit = 1180"
      drp archive ./drp-demo --read files/six_tract/raw/raw/20260101/raw_DemoCam_1_d0.fits -o raw.fits
    """
    from lake.site import Lake

    if listing + verify + recall + (read is not None) > 1:
        raise click.UsageError("--list, --verify, --recall and --read are four different things; choose one")
    if (read is None) != (output is None):
        raise click.UsageError("--read needs -o FILE, and -o needs --read")
    opened = Lake.open(lake)
    kinds = _types(opened, site, types)
    if read is not None and output is not None:
        _read(opened, read, output)
    elif listing:
        _list(opened, site, form)
    elif verify:
        _verify(opened, site, form)
    elif recall:
        _recall(opened, opened.site(site) if site else opened.central, kinds, where, form)
    else:
        _archive(opened, opened.site(site) if site else opened.central, to, kinds, where, size(target_size), full_only, form)


def size(text: str) -> int:
    """Bytes of a text such as 1GB, 500 MB, 2GiB; UsageError where it is none."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)?B?\s*", text.upper())
    if not found or not float(found[1]):
        raise click.UsageError(f"--target-size {text!r}: not a size; write for instance 1GB, 500MB or 2GiB")
    return max(1, int(float(found[1]) * UNITS[found[2] or ""]))


def _types(lake: Lake, site: str | None, types: str | None) -> list[str] | None:
    from lake import registry

    if types is None:
        return None
    wanted = [kind.strip() for kind in types.split(",") if kind.strip()]
    known = registry.dataset_types(lake.site(site) if site else lake.central)
    if not wanted or (unknown := [kind for kind in wanted if kind not in known]):
        raise click.UsageError(f"dataset type {unknown[0] if wanted else types!r} is not known; known: {', '.join(sorted(known))}")
    return wanted


def _archive(
    lake: Lake, site: Site, to: str | None, types: Sequence[str] | None, where: str, target: int, full_only: bool, form: str
) -> None:
    from lake import archive

    shelf = archive.Shelf(lake.sites[to]) if to in lake.sites else archive.Shelf.at(site, to)
    with Bars() as bars:
        progress = lambda done, total: bars.update(site.name, "archiving (MB)", done >> 20, total >> 20)  # noqa: E731
        kept = archive.archive(lake, site, shelf, types, where, target, full_only, progress)
        for path, reason in kept.failed.items():
            bars.say(f"{path}: {reason}; not archived (drp run heals it)")
    click.echo(
        f"{site.name}: {kept.files:,} files in {len(kept.bundles)} new bundles ({kept.bytes / 1e9:.3g} GB) in {shelf.folder}"
        + (f"; {kept.left:,} files wait until they fill a bundle" if kept.left else ""),
        err=True,
    )
    if kept.bundles or form != "table":
        emit([vars(bundle) for bundle in kept.bundles], form, COLUMNS[:-2])
    if kept.failed:
        raise SystemExit(1)


def _list(lake: Lake, site: str | None, form: str) -> None:
    from lake import archive

    emit([vars(bundle) for bundle in archive.bundles(lake, site)], form, COLUMNS)


def _verify(lake: Lake, site: str | None, form: str) -> None:
    from lake import archive

    with Bars() as bars:
        found = archive.verify(
            lake, site, None, lambda done, total: bars.update("archive", "reading (MB)", done >> 20, total >> 20)
        )
        for (_, path), reason in found.wrong.items():
            bars.say(f"{path}: {reason}")
        for location in found.unreachable:
            bars.say(f"{location} is not there (not mounted?): its bundles were not looked at")
    emit([vars(bundle) for bundle in found.bundles], form, COLUMNS)
    if not found.ok:
        raise SystemExit(1)


def _recall(lake: Lake, site: Site, types: Sequence[str] | None, where: str, form: str) -> None:
    from lake import archive

    with Bars() as bars:
        found = archive.recall(lake, site, None, types, where, lambda done, total: bars.update(site.name, "recall", done, total))
    verdicts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(found.verdicts.items())) or "none"
    click.echo(
        f"{site.name}: {len(found.restored):,} files recalled, {found.present:,} were there whole, {len(found.failed):,} failed; "
        f"datasets: {verdicts}",
        err=True,
    )
    rows = [{"path": path, "state": "recalled", "said": bundle} for path, bundle in found.restored.items()]
    rows += [{"path": path, "state": "failed", "said": reason} for path, reason in found.failed.items()]
    if rows or form != "table":
        emit(rows, form, ["path", "state", "said"])
    if found.failed:
        raise SystemExit(1)


def _read(lake: Lake, name: str, output: Path) -> None:
    from lake import archive
    from lake.durable import write_durable

    with archive.Reader(lake) as reader:
        content = reader.read(name)
    if str(output) == "-":
        sys.stdout.buffer.write(content)
        return
    try:
        write_durable(output, content)
    except OSError as error:
        raise click.UsageError(f"{output}: {error.strerror}") from None
    click.echo(f"{output}: {len(content):,} bytes", err=True)
