"""Butler: which of its datasets are stored. Arguments: how many datasets, folder.

A repository (SQLite) and its files are made; ``stored_many`` is timed; then one file is removed, one cut short, one
altered at the same size, and ``stored_many`` is asked again what it says of each.
"""

from __future__ import annotations

import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

from lsst.daf.butler import Butler, DatasetRef, DatasetType, FileDataset

DETECTORS = 100


def main(count: int, folder: Path) -> None:
    Butler.makeRepo(str(folder / "repo"))
    butler = Butler.from_config(str(folder / "repo"), writeable=True, run="run")
    insert = butler.registry.insertDimensionData
    insert("instrument", {"name": "Cam", "class_name": "x.Cam", "detector_max": DETECTORS})
    insert("detector", *({"instrument": "Cam", "id": d, "full_name": f"d{d}"} for d in range(DETECTORS)))
    insert("group", *({"instrument": "Cam", "name": f"g{g}"} for g in range(-(-count // DETECTORS))))
    kind = DatasetType("thing", ("instrument", "detector", "group"), "StructuredDataDict", universe=butler.dimensions)
    butler.registry.registerDatasetType(kind)
    refs, given = [], []
    for number in range(count):
        place = {"instrument": "Cam", "detector": number % DETECTORS, "group": f"g{number // DETECTORS}"}
        refs.append(DatasetRef(kind, butler.registry.expandDataId(place), run="run"))
        path = folder / "given" / str(number // 1000) / f"{number}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"n": number}))
        given.append(FileDataset(str(path), [refs[-1]], formatter="lsst.daf.butler.formatters.json.JsonFormatter"))
    butler.ingest(*given, transfer="direct")
    began = time.perf_counter()
    stored = butler.stored_many(refs)
    seconds = time.perf_counter() - began
    assert all(stored.values()) and len(stored) == count
    missing, short, altered = (Path(str(file.path)) for file in given[:3])
    missing.unlink()
    short.write_text("{")
    altered.write_text(altered.read_text().replace("2", "3"))
    said = butler.stored_many(refs[:3])
    words = {name: said[ref] for name, ref in zip(("missing", "short", "altered"), refs[:3], strict=True)}
    print(json.dumps({"version": version("lsst-daf-butler"), "seconds": seconds, "files": count, "stored": words}))


main(int(sys.argv[1]), Path(sys.argv[2]))
