"""Butler: look-ups in a repository. Arguments: how many datasets, how many repetitions, folder."""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import butler_repo

count, repeat, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
butler = butler_repo.make(folder / "repo", -(-count // butler_repo.DETECTORS), sky=True)
paths = butler_repo.write(folder / "given", count, b"{}")
butler.ingest(*butler_repo.files(paths, butler_repo.refs(butler, count)), transfer="direct")
chance = random.Random(1)


def timed(look: Callable[[], int]) -> tuple[float, int]:
    """Median seconds of a look-up, and how many datasets it found the last time."""
    look()
    seconds, found = [], 0
    for _ in range(repeat):
        began = time.perf_counter()
        found = look()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), found


def one() -> int:
    n = chance.randrange(count)
    visit, detector = divmod(n, butler_repo.DETECTORS)
    found = butler.query_datasets(
        butler_repo.TYPE, collections=butler_repo.RUN, instrument="Cam", visit=visit, detector=detector, limit=None
    )
    return len(found)


def point() -> int:
    visit, detector = divmod(chance.randrange(count), butler_repo.DETECTORS)
    found = butler.find_dataset(butler_repo.TYPE, instrument="Cam", visit=visit, detector=detector, collections=butler_repo.RUN)
    return int(found is not None)


def of_tract() -> int:
    where = f"skymap = 'sky' AND tract = {chance.randrange(butler_repo.TRACTS)}"
    return len(butler.query_datasets(butler_repo.TYPE, collections=butler_repo.RUN, where=where, limit=None))


(query, _), (find, _), (tract, found) = timed(one), timed(point), timed(of_tract)
print(json.dumps({"version": butler_repo.VERSION, "query": query, "find": find, "tract": tract, "in_tract": found}))
