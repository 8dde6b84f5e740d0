"""Run by a Butler's own Python: import exports of ours, say what is seen, export all again. Prints one JSON object.

Arguments: an export with its files, one that names files where they are, the place for two repositories, the directory for
the Butler's own export.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import astropy.time
from lsst.daf.butler import Butler, CollectionType, Timespan
from lsst.sphgeom import ConvexPolygon, LonLat, UnitVector3d


def repository(root: str, export: str, transfer: str) -> Butler:
    Butler.makeRepo(root)
    butler = Butler.from_config(root, writeable=True)
    butler.import_(directory=export, filename=str(Path(export) / "export.yaml"), transfer=transfer)
    return butler


def all_datasets(butler: Butler) -> list[Any]:
    runs = butler.collections.query("*", collection_types={CollectionType.RUN})
    return sorted(set(butler.registry.queryDatasets(..., collections=runs).expanded()), key=lambda ref: str(ref.id))


def checksums(butler: Butler, refs: list[Any]) -> dict[str, str]:
    return {str(ref.id): hashlib.sha256(butler.getURI(ref).read()).hexdigest() for ref in refs}


def flat_at(butler: Butler, mjd: float) -> str | None:
    time = astropy.time.Time(mjd, format="mjd", scale="tai")
    data_id = {"instrument": "Cam", "detector": 0, "physical_filter": "r_cam"}
    found = butler.find_dataset("flat", data_id, collections="c/calib", timespan=Timespan.fromInstant(time))
    return None if found is None else str(found.id)


def refusal(butler: Butler, ref: Any) -> str:
    try:
        butler.get(ref)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "was read"


def square(ra: float, dec: float, size: float) -> list[Any]:
    points = [(ra, dec), (ra + size, dec), (ra + size, dec + size), (ra, dec + size)]
    polygon = ConvexPolygon([UnitVector3d(LonLat.fromDegrees(*p)) for p in points])
    return [[p[0] for p in points], [p[1] for p in points], polygon.encode().hex()]


def main(export: str, in_place: str, root: str, out: str) -> None:
    butler = repository(root, export, "copy")
    direct = repository(f"{root}-direct", in_place, "direct")
    refs = all_datasets(butler)
    readable = ("ArrowTable", "StructuredDataDict")
    regions = butler.query_dimension_records("visit_detector_region")
    visits = {v.id: v.region for v in butler.query_dimension_records("visit")}
    validity = butler.registry.queryDatasetAssociations("flat", collections=["c/calib"])
    seen = {
        "datasets": [{"id": str(r.id), "type": r.datasetType.name, "run": r.run, "data_id": dict(r.dataId.required)} for r in refs],
        "checksums": checksums(butler, refs),
        "checksums_in_place": checksums(direct, all_datasets(direct)),
        "read": {
            str(r.id): content.to_pydict() if hasattr(content, "to_pydict") else content
            for r in refs
            if r.datasetType.storageClass_name in readable
            for content in [butler.get(r)]
        },
        "tagged": [str(r.id) for r in butler.registry.queryDatasets("raw", collections="c/good")],
        "chain": list(butler.collections.get_info("c/all").children),
        "validity": [[str(a.ref.id), *(t and t.tai.mjd for t in (a.timespan.begin, a.timespan.end))] for a in validity],
        "images": sorted({refusal(butler, r) for r in refs if r.datasetType.storageClass_name not in readable}),
        "flat_at_60020": flat_at(butler, 60020.0),
        "flat_at_60040": flat_at(butler, 60040.0),
        "times": {r.id: [r.timespan.begin.tai.mjd, r.timespan.end.tai.mjd] for r in butler.query_dimension_records("exposure")},
        "regions": [[r.visit, r.detector, r.region.encode().hex()] for r in regions],
        "polygons": sum(isinstance(r.region, ConvexPolygon) for r in regions),
        "detectors_in_visit": sum(visits[r.visit].contains(r.region.getCentroid()) for r in regions),
        "overlaps": sorted(
            [r["visit"], r["detector"], r["tract"], r["patch"]]
            for r in butler.query_data_ids(["visit", "detector", "patch"], instrument="Cam", skymap="sky")
        ),
        "squares": [square(10, 0, 0.1), square(359.95, -40, 0.1), square(150, 85, 1.0)],
    }
    Path(out).mkdir()
    with butler.export(directory=out, filename="export.yaml", transfer="copy") as written:
        for name in butler.collections.query("*"):
            written.saveCollection(name)
        written.saveDatasets(refs)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
