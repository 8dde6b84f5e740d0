"""Run by a Butler's own Python: import an export, say what is seen, export it again. Prints one JSON object.

Arguments: the directory of the export, a directory for the repository, one for the new export, the transfer mode.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from lsst.daf.butler import Butler, Timespan
from lsst.sphgeom import ConvexPolygon


def main(given: str, repository: str, out: str, transfer: str) -> None:
    Butler.makeRepo(repository)
    butler = Butler.from_config(repository, writeable=True)
    butler.import_(directory=given, filename=str(Path(given) / "export.yaml"), transfer=transfer)
    refs = sorted(butler.registry.queryDatasets(..., collections=butler.collections.query("*")), key=lambda ref: str(ref.id))
    regions = butler.query_dimension_records("visit_detector_region")
    tables = {}
    for ref in refs:
        if ref.datasetType.storageClass_name == "ArrowTable":
            tables[str(ref.id)] = butler.get(ref).to_pydict()
        elif ref.datasetType.storageClass_name == "StructuredDataDict":
            tables[str(ref.id)] = butler.get(ref)
    seen = {
        "datasets": [{"id": str(r.id), "type": r.datasetType.name, "run": r.run, "data_id": dict(r.dataId.required)} for r in refs],
        "sizes": {str(r.id): butler.getURI(r).size() for r in refs},
        "tables": tables,
        "tagged": sorted(str(r.id) for r in butler.registry.queryDatasets("raw", collections="c/good")),
        "chain": list(butler.collections.get_info("c/all").children),
        "validity": sorted(
            [str(a.ref.id), a.timespan.begin and a.timespan.begin.tai.mjd, a.timespan.end and a.timespan.end.tai.mjd]
            for a in butler.registry.queryDatasetAssociations("flat", collections=["c/calib"])
        ),
        "valid_flats": sorted(
            str(ref.id)
            for ref in (
                butler.find_dataset(
                    "flat",
                    instrument="Cam",
                    detector=d,
                    physical_filter="r_cam",
                    collections="c/calib",
                    timespan=Timespan(None, None),
                )
                for d in (1,)
            )
        ),
        "times": {r.id: [r.timespan.begin.tai.mjd, r.timespan.end.tai.mjd] for r in butler.query_dimension_records("exposure")},
        "regions": [
            [
                r.visit,
                r.detector,
                isinstance(r.region, ConvexPolygon),
                r.region.encode() == ConvexPolygon(r.region.getVertices()).encode() if r.region is not None else None,
                [[v.x(), v.y(), v.z()] for v in r.region.getVertices()],
            ]
            for r in regions
        ],
        "detectors_in_visit": sum(
            r.region is not None
            and butler.query_dimension_records("visit", visit=r.visit, instrument="Cam")[0].region.contains(r.region.getCentroid())
            for r in regions
        ),
        "overlaps": sorted(
            [r["visit"], r["detector"], r["tract"], r["patch"]]
            for r in butler.query_data_ids(["visit", "detector", "patch"], instrument="Cam", skymap="sky")
        ),
    }
    Path(out).mkdir()
    with butler.export(directory=out, filename="export.yaml", transfer="copy") as export:
        for name in butler.collections.query("*"):
            export.saveCollection(name)
        export.saveDatasets(refs)
    print(json.dumps(seen))


if __name__ == "__main__":
    main(*sys.argv[1:])
