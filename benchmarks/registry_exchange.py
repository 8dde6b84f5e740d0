"""Export and import of a registry: our files and YAML, beside the Butler's YAML, datasets per second and bytes each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pyarrow as pa

from benchmarks import Peer, Quantity
from benchmarks._peer import measure

ABOUT = "Export and import of a registry, and bytes per dataset, beside the Butler's YAML."
OPTIONS = [click.Option(["--peer-datasets"], default=10_000, show_default=True, help="Datasets of the Butler.")]

DETECTORS = 100
#: Files are made, and looked at on import, up to this many datasets.
WITH_FILES = 100_000
#: Datasets of the YAML bridge, which is bound by the reading of YAML.
IN_YAML = 10_000


def run(scale: int, peer_datasets: int) -> Iterator[Quantity]:
    """``scale`` x 10,000 raw frames, half with a known quantum, every checksum and size random; the Butler has 10,000.

    The Butler looks at every file on import, and so do we up to 100,000; above that the rows alone are judged.
    """
    from lake.butler import export_butler, import_butler
    from lake.exchange import export_registry, import_registry
    from lake.selection import Selection

    found = measure("butler", "butler_exchange", peer_datasets)
    count = 10_000 * scale
    with tempfile.TemporaryDirectory(prefix="registry-exchange-") as folder:
        base = Path(folder)
        one, two = _lakes(base, count)
        started = time.perf_counter()
        export_registry(one, base / "export")
        yield _rate("export", count, started, found, "export")
        size = sum(p.stat().st_size for p in (base / "export").iterdir()) / count
        yield Quantity("bytes per dataset", "B", size, "< 60", size < 60, _peer(found, "bytes"), count)
        verify = count <= WITH_FILES
        if verify:
            _link(one.root, two.root)
        started = time.perf_counter()
        outcomes = import_registry(two, base / "export", verify)
        yield _rate(f"import, {'files looked at' if verify else 'rows alone'}", count, started, found, "import")
        assert outcomes.counted("dataset", "accepted") == count, outcomes.found
        if scale > 1:
            return
        started = time.perf_counter()
        export_butler(one, base / "yaml", Selection(where=f"exposure < {IN_YAML // DETECTORS}"), transfer="none")
        yield _rate("export as Butler YAML", IN_YAML, started, found, "export", wanted=None)
        started = time.perf_counter()
        import_butler(three := _empty(base / "third"), base / "yaml", transfer="link", anywhere=True)
        yield _rate("import of Butler YAML, linked, checksums", IN_YAML, started, found, "import", wanted=None)
        assert three.path("files").exists()


def _rate(name: str, count: int, started: float, found: dict | None, figure: str, wanted: float | None = 100) -> Quantity:
    rate = count / (time.perf_counter() - started)
    peer = _peer(found, figure)
    ok = rate / peer.figure >= wanted if peer and wanted else None
    return Quantity(name, "/s", rate, f">= {wanted}x" if wanted else "", ok, peer, count)


def _peer(found: dict | None, figure: str) -> Peer | None:
    return Peer("Butler", found["version"], found[figure]) if found else None


def _lakes(base: Path, count: int) -> tuple:
    """A site with the datasets, and one of another lake that knows nothing yet but has its tables, as a new Butler has."""
    from lake import registry
    from lake.handle import ensure_table

    one = _empty(base / "one")
    _records(one, count // DETECTORS)
    registry.register_dataset_types(one, {"raw": (("instrument", "exposure", "detector"), "fits")})
    verdicts = registry.ingest(one, _datasets(one, count), verify=False)
    assert set(verdicts["verdict"].unique().to_pylist()) == {"accepted"}
    two = _empty(base / "two")
    for table in ("dataset_type", "collection", "dataset", "instrument", "detector", "physical_filter", "exposure", "visit"):
        ensure_table(two, table)
    return one, two


def _empty(root: Path):
    from lake.site import Lake

    return Lake.create(root, {"A": {"central": True}}).central


def _records(site, exposures: int) -> None:
    import schemas
    from lake import dimensions

    number = np.arange(exposures)
    common = {"instrument": pa.array(["Cam"] * exposures), "day_obs": 20260101 + number // 1000, "exposure": number}
    common |= {"physical_filter": pa.array(["r_cam"] * exposures), "band": pa.array(["r"] * exposures)}
    common |= {"exposure_time": np.full(exposures, 30.0), "mjd_mid": 61041 + number / 1440}
    rows = {
        "instrument": {"instrument": ["Cam"], "detector_count": [DETECTORS]},
        "detector": {
            "instrument": ["Cam"] * DETECTORS,
            "detector": np.arange(DETECTORS),
            "width": np.full(DETECTORS, 4000),
            "height": np.full(DETECTORS, 4096),
        },
        "physical_filter": {"instrument": ["Cam"], "physical_filter": ["r_cam"], "band": ["r"]},
        "exposure": common | {"observation_type": ["science"] * exposures},
        "visit": common | {"visit": number, "ra": np.full(exposures, 150.0), "dec": np.full(exposures, 2.0)},
    }
    for table, columns in rows.items():
        dimensions.insert(site, table, schemas.conform(table, pa.table(columns)))


def _datasets(site, count: int) -> pa.Table:
    """Rows of raws with random content; up to WITH_FILES their files are made, of the size that is registered."""
    from lake import delta, registry

    generator = np.random.default_rng(20260101)
    number = np.arange(count)
    sizes = generator.integers(1, 200, count) if count <= WITH_FILES else generator.integers(10_000_000, 20_000_000, count)
    digits = pa.array([generator.bytes(32).hex() for _ in range(count)])
    quanta = pa.array([generator.bytes(16).hex() for _ in range(count)])
    given = pa.table({"number": number, "bytes": sizes, "checksum": digits, "quantum": quanta})
    with delta.cursor() as con:
        con.register("made", given)
        rows = con.sql(
            f"""
            SELECT 'raw' AS dataset_type, 'c/raw' AS run, 'Cam' AS instrument, number // {DETECTORS} AS exposure,
                number // {DETECTORS} AS visit, (number % {DETECTORS})::INTEGER AS detector, 'r_cam' AS physical_filter,
                'r' AS band, (20260101 + number // {DETECTORS * 1000})::INTEGER AS day_obs,
                format('files/c/raw/raw/{{}}/raw_Cam_{{}}_d{{}}.fits', 20260101 + number // {DETECTORS * 1000},
                    number // {DETECTORS}, number % {DETECTORS}) AS path,
                bytes, NULL::BIGINT AS rows, checksum, bytes AS file_bytes, checksum AS file_checksum, 'A' AS origin,
                IF(number % 2 = 0, quantum::UUID::VARCHAR, NULL) AS quantum_id
            FROM made ORDER BY number
            """
        ).to_arrow_table()
    if count <= WITH_FILES:
        import hashlib

        from lake.site import Site

        digests = []
        assert isinstance(site, Site)
        for path, size, checksum in zip(
            rows["path"].to_pylist(), rows["bytes"].to_pylist(), rows["checksum"].to_pylist(), strict=True
        ):
            target = site.path(path)
            if not digests or not target.parent.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
            content = (checksum * 4)[:size].encode()
            target.write_bytes(content)
            digests.append(hashlib.sha256(content).hexdigest())
        for column in ("checksum", "file_checksum"):
            rows = rows.set_column(rows.column_names.index(column), column, pa.array(digests))
    return registry.with_ids(None, rows, {"raw": ("instrument", "exposure", "detector")})


def _link(source: Path, target: Path) -> None:
    """Bring the files to where they are at the other site, as a copy would have."""
    (target / "files").rmdir()
    (source / "files").rename(target / "files")
    (source / "files").symlink_to(target / "files")
