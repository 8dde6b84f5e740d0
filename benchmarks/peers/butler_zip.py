"""Butler: datasets read from a zip that was made by retrieve_artifacts_zip and taken in by ingest_zip.

Arguments: how many members, bytes per member, seconds to read for, folder. The repositories (SQLite) are made here.
"""

from __future__ import annotations

import json
import random
import sys
import time
from importlib.metadata import version
from pathlib import Path

from lsst.daf.butler import Butler, Config, DatasetRef, DatasetType, FileDataset

count, size, patience, folder = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4])
DETECTORS = 200


def repository(name: str) -> Butler:
    """A new repository that knows an instrument, its detectors and as many exposures as are needed."""
    Butler.makeRepo(str(folder / name), config=Config())
    butler = Butler.from_config(str(folder / name), writeable=True, run="run")
    registry = butler.registry
    registry.insertDimensionData("instrument", {"name": "Cam", "class_name": "lsst.obs.Cam", "detector_max": DETECTORS})
    registry.insertDimensionData(
        "detector", *[{"instrument": "Cam", "id": d, "full_name": f"d{d}"} for d in range(min(DETECTORS, count))]
    )
    registry.registerDatasetType(
        DatasetType("thing", ("instrument", "detector", "group"), "StructuredDataDict", universe=butler.dimensions)
    )
    groups = [{"instrument": "Cam", "name": f"g{g}"} for g in range(-(-count // DETECTORS))]
    registry.insertDimensionData("group", *groups)
    return butler


butler = repository("one")
kind = butler.registry.getDatasetType("thing")
refs = [
    DatasetRef(
        kind,
        butler.registry.expandDataId(instrument="Cam", detector=n % DETECTORS, group=f"g{n // DETECTORS}"),
        run="run",
    )
    for n in range(count)
]
(folder / "given").mkdir()
files = []
for n, ref in enumerate(refs):
    path = folder / "given" / f"{n}.json"
    path.write_text(json.dumps({"n": n, "filler": "x" * (size - 30)}))
    files.append(FileDataset(str(path), [ref], formatter="lsst.daf.butler.formatters.json.JsonFormatter"))
butler.ingest(*files, transfer="direct")

began = time.perf_counter()
archive = butler.retrieve_artifacts_zip(refs, destination=str(folder / "zip"))
made = time.perf_counter() - began
other = repository("two")
began = time.perf_counter()
other.ingest_zip(archive, transfer="copy")
taken = time.perf_counter() - began

chance, seconds = random.Random(1), []
until = time.perf_counter() + patience
while not seconds or time.perf_counter() < until:
    n = chance.randrange(count)
    began = time.perf_counter()
    found = other.get("thing", instrument="Cam", detector=n % DETECTORS, group=f"g{n // DETECTORS}", collections="run")
    seconds.append(time.perf_counter() - began)
    assert found["n"] == n
print(
    json.dumps(
        {
            "version": version("lsst-daf-butler"), "members": count, "bytes": Path(archive.ospath).stat().st_size,
            "reads": len(seconds), "read_seconds": sum(seconds) / len(seconds), "make_seconds": made, "ingest_seconds": taken,
        }
    )
)  # fmt: skip
