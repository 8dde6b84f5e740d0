"""Look-ups in a registry, on an open connection that looks for new commits each time.

Scale 1 has 100,000 rows, scale 10 1,000,000, scale 100 10,000,000: in large files that upkeep made, and 31 small ones that it has
not merged yet. A tract holds 2,000 images, found by the footprints of their visits: taken one after the other or, in a second
lake, scattered over all the nights. Butler has 20,000 rows on SQLite; its tract holds 2,000 too. References are what
Butler answers with: id, type, run and data ID.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from benchmarks import Peer, Quantity, _peer

ABOUT = "One dataset, and all of a tract, in a registry of up to ten million rows; beside Butler with 20,000."
OPTIONS: list[click.Option] = []
PEER_ROWS = 20_000
REPEAT = 25


def run(scale: int) -> Iterator[Quantity]:
    """Median milliseconds of each look-up."""
    from benchmarks import _registry

    rows = 100_000 * scale
    ours: dict[str, tuple[float, int]] = {}
    for scattered in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            ours |= _looked_up(Path(folder) / "lake", rows, scattered)
    in_tract = _registry.VISITS * _registry.DETECTORS
    for name, (_, found) in ours.items():
        if found != (1 if name.startswith("one") else in_tract):
            raise click.ClickException(f"{name}: {found} datasets were found")
    with tempfile.TemporaryDirectory() as folder:
        peer = _peer.measure("butler", "butler_lookup", PEER_ROWS, REPEAT, folder)
    for name, (milliseconds, _) in ours.items():
        verb, wanted = ("query", 1.0) if name.startswith("one") else ("tract", 0.1)
        other = Peer("butler", peer["version"], 1e3 * peer[verb]) if peer else None
        ok = milliseconds <= wanted * other.figure if other else None
        yield Quantity(name, "ms", milliseconds, f"<= {wanted:g}x", ok, other, rows)


def _looked_up(root: Path, rows: int, scattered: bool) -> dict[str, tuple[float, int]]:
    """Milliseconds of each look-up in a lake of its own, and how many datasets it found."""
    from benchmarks import _registry
    from lake import query
    from lake.search import REFERENCE, look
    from lake.where import parse

    visits, chance = rows // _registry.DETECTORS, random.Random(1)
    tracts = visits // _registry.VISITS
    site = _registry.make(root, visits, scattered)
    _registry.fill(site, rows, "bench")
    with query.connect(site.lake, ["A"], "A") as con:

        def search(where: str, columns: Sequence[str]) -> int:
            condition = parse(f"instrument = 'Cam' AND run = 'bench' AND {where}")
            return int(look(con, site, [_registry.TYPE], condition, columns=columns).num_rows)

        def one(columns: Sequence[str] = ()) -> int:
            which = f"visit = {chance.randrange(visits)} AND detector = {chance.randrange(_registry.DETECTORS)}"
            return search(which, columns)

        def of_tract(columns: Sequence[str] = ()) -> int:
            return search(f"skymap = 'sky' AND tract = {chance.randrange(tracts)}", columns)

        how = ", scattered" if scattered else ""
        return {
            f"one dataset{how}": _median(one),
            f"one dataset{how}, as a reference": _median(lambda: one(REFERENCE)),
            f"all of a tract{how}": _median(of_tract),
            f"all of a tract{how}, as references": _median(lambda: of_tract(REFERENCE)),
        }


def _median(look: Callable[[], int]) -> tuple[float, int]:
    """Median milliseconds of a look-up, and how many datasets it found."""
    found, seconds = look(), []
    for _ in range(REPEAT):
        began = time.perf_counter()
        look()
        seconds.append(time.perf_counter() - began)
    return 1e3 * statistics.median(seconds), found
