"""Butler: export of registered files as YAML, and its import into another repository, files taken where they lie.

Argument: how many datasets. Run by the Butler's own Python; prints one JSON object: datasets per second and bytes of YAML.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

from lsst.daf.butler import Butler, DatasetRef, DatasetType, FileDataset

DETECTORS = 100


def repository(root: Path) -> Butler:
    Butler.makeRepo(str(root))
    return Butler.from_config(str(root), writeable=True)


def records(butler: Butler, exposures: int) -> None:
    """One instrument, its detectors, and exposures of one night."""
    insert = butler.registry.insertDimensionData
    limits = {"visit_max": 10**7, "exposure_max": 10**7, "detector_max": DETECTORS, "class_name": "x.Cam"}
    insert("instrument", {"name": "Cam", **limits})
    insert("detector", *({"instrument": "Cam", "id": d, "full_name": f"S{d}"} for d in range(DETECTORS)))
    insert("physical_filter", {"instrument": "Cam", "name": "r_cam", "band": "r"})
    insert("day_obs", {"instrument": "Cam", "id": 20260101})
    insert("group", *({"instrument": "Cam", "name": str(e)} for e in range(exposures)))
    common = {"instrument": "Cam", "physical_filter": "r_cam", "day_obs": 20260101, "exposure_time": 30.0}
    insert("exposure", *({**common, "id": e, "obs_id": str(e), "group": str(e)} for e in range(exposures)))


def main(count: int) -> None:
    with tempfile.TemporaryDirectory(prefix="butler-exchange-") as folder:
        base = Path(folder)
        butler = repository(base / "one")
        records(butler, count // DETECTORS)
        dimensions = ["instrument", "exposure", "detector"]
        kind = DatasetType("raw", dimensions, "StructuredDataDict", universe=butler.dimensions)
        butler.registry.registerDatasetType(kind)
        butler.collections.register("c/raw")
        (base / "files").mkdir()
        datasets = []
        for number in range(count):
            path = base / "files" / f"{number}.yaml"
            path.write_text("a: 1\n")
            data_id = {"instrument": "Cam", "exposure": number // DETECTORS, "detector": number % DETECTORS}
            ref = DatasetRef(kind, butler.registry.expandDataId(data_id), run="c/raw")
            datasets.append(FileDataset(str(path), [ref]))
        butler.ingest(*datasets, transfer="direct")

        started = time.perf_counter()
        with butler.export(filename=str(base / "export.yaml"), transfer=None) as export:
            export.saveDatasets(butler.registry.queryDatasets("raw", collections="c/raw"))
        exported = time.perf_counter() - started

        other = repository(base / "two")
        started = time.perf_counter()
        other.import_(filename=str(base / "export.yaml"), transfer="direct")
        imported = time.perf_counter() - started
        found = len(set(other.registry.queryDatasets("raw", collections="c/raw")))
        if found != count:
            raise SystemExit(f"the Butler imported {found} of {count} datasets")
        size = (base / "export.yaml").stat().st_size
    figures = {"export": count / exported, "import": count / imported, "bytes": size / count, "count": count}
    print(json.dumps({"version": version("lsst-daf-butler"), **figures}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
