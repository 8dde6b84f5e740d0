"""The registry of a site in a few small files: what comes in is what went out, and a damaged export is none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import butler_lake
import pyarrow as pa
import pytest
from test_butler_export import assert_same

from lake import collection, delta, registry
from lake.exchange import ExchangeError, export_registry, import_registry
from lake.selection import Selection
from lake.site import Lake, Site


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A lake, and the export of its site A beside it."""
    folder = tmp_path_factory.mktemp("made")
    export_registry(butler_lake.make(folder / "lake").central, folder / "export")
    return folder


@pytest.fixture
def lake(made: Path, tmp_path: Path) -> Lake:
    """A copy of that lake whose site B has the files of A, and nothing else."""
    lake = Lake.open(shutil.copytree(made / "lake", tmp_path / "lake"))
    for folder in ("files", "tables/catalogues"):
        shutil.copytree(
            lake.central.path(folder), lake.site("B").path(folder), dirs_exist_ok=True, ignore=shutil.ignore_patterns("_delta_log")
        )
    return lake


def rows(site: Site, table: str, columns: str) -> list[tuple]:
    with delta.cursor() as con:
        return con.sql(f"SELECT {columns} FROM ({delta.select(site, table)}) ORDER BY ALL").fetchall()


def test_what_comes_in_is_what_went_out(lake: Lake, made: Path) -> None:
    other = lake.site("B")
    outcomes = import_registry(other, made / "export")
    assert outcomes.ok, [o for o in outcomes.found if o.reason]
    assert_same(lake.central, other, outcomes)
    whole = "dataset_id, path, bytes, rows, checksum, file_bytes, file_checksum, origin, quantum_id"
    assert rows(other, "dataset", whole) == rows(lake.central, "dataset", whole)
    assert collection.collections_now(other) == collection.collections_now(lake.central)
    assert registry.dataset_types(other) == registry.dataset_types(lake.central)
    again = import_registry(other, made / "export")
    assert {o.verdict for o in again.found} == {"present"}


def test_a_missing_file_is_one_verdict_and_the_rest_goes_in(lake: Lake, made: Path) -> None:
    other = lake.site("B")
    path = next(p for (p,) in rows(lake.central, "dataset", "path") if "raw_Cam_1_d1" in p)
    other.path(path).unlink()
    outcomes = import_registry(other, made / "export")
    assert outcomes.counted("dataset", "accepted") == 10 and outcomes.counted("dataset", "rejected") == 1
    assert outcomes.counted("member", "new") == 1 and outcomes.counted("member", "left out") == 1
    shutil.copy(lake.central.path(path), other.path(path))
    assert import_registry(other, made / "export").ok


def test_ids_and_checksums_that_are_not_hexadecimal_travel_too(tmp_path: Path) -> None:
    lake = butler_lake.make(tmp_path / "lake")
    quanta = ["isr of 1", "0123456789abcdef" * 2, "0" * 8 + "-0000-0000-0000-" + "0" * 12]
    raw = {"dataset_type": "raw", "instrument": "Cam", "exposure": 1, "visit": 1, "detector": 0}
    butler_lake.register(lake.central, [raw | {"run": f"c/odd/{i}", "quantum_id": q} for i, q in enumerate(quanta)])
    export_registry(lake.central, tmp_path / "export", Selection(types=["raw"], where="run LIKE 'c/odd/%'"))
    import_registry(lake.site("B"), tmp_path / "export", verify=False)
    assert rows(lake.site("B"), "dataset", "run, quantum_id") == [(f"c/odd/{i}", q) for i, q in enumerate(quanta)]
    assert ("c/odd/0", "RUN", None) in [(n, *k) for n, k in collection.collections_now(lake.site("B")).items()]


def test_a_choice_takes_along_what_it_needs(lake: Lake, tmp_path: Path) -> None:
    counts = export_registry(lake.central, tmp_path / "one", Selection(collections=["c/good"], where="visit = 1"))
    assert counts["dataset"] == counts["association"] == counts["visit"] == 1 and "tract" not in counts
    nothing = export_registry(lake.central, tmp_path / "none", Selection(where="false"))
    assert nothing["dataset"] == 0
    assert import_registry(lake.site("B"), tmp_path / "none").ok


def test_a_damaged_or_unfinished_export_changes_nothing(lake: Lake, made: Path, tmp_path: Path) -> None:
    def broken(name: str) -> Path:
        return Path(shutil.copytree(made / "export", tmp_path / name))

    flipped = broken("flipped")
    data = bytearray((flipped / "dataset.parquet").read_bytes())
    data[100] ^= 1
    (flipped / "dataset.parquet").write_bytes(data)
    lost = broken("lost")
    (lost / "visit.parquet").unlink()
    unfinished = broken("unfinished")
    (unfinished / "manifest.json").unlink()
    newer = broken("newer")
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps(manifest | {"format": "multisite-drp registry 2"}))
    escaping = broken("escaping")
    (escaping / "manifest.json").write_text(json.dumps(manifest | {"files": {"../x.parquet": {"sha256": ""}}}))
    other = broken("other")
    (other / "manifest.json").write_text("[]")
    for path, said in (
        (flipped, "dataset.parquet: is damaged"),
        (lost, "visit.parquet: cannot be read"),
        (unfinished, "manifest.json: cannot be read"),
        (newer, "has the format 'multisite-drp registry 2'"),
        (escaping, "is not the name of a table"),
        (other, "is not a manifest"),
    ):
        with pytest.raises(ExchangeError, match=said) as error:
            import_registry(lake.site("B"), path)
        assert "\n" not in str(error.value)
    assert not lake.site("B").table_path("dataset").exists() and not lake.site("B").table_path("collection").exists()
    with pytest.raises(ExchangeError, match="is there already"):
        export_registry(lake.central, made / "export")


def test_a_thousand_datasets_take_less_than_sixty_bytes_each(tmp_path: Path) -> None:
    """Random checksums and quanta cost 48 bytes; names and data IDs must cost next to nothing."""
    import numpy as np

    lake = butler_lake.make(tmp_path / "lake")
    generator = np.random.default_rng(1)
    count = 5000
    given = [
        {
            "dataset_type": "raw", "run": f"c/{i // 2:05}", "instrument": "Cam", "exposure": 1, "visit": 1, "detector": i % 2,
            "path": f"files/c/{i // 2:05}/raw/raw_Cam_1_d{i % 2}.fits", "bytes": int(generator.integers(1e7, 2e7)), "origin": "A",
            "checksum": generator.bytes(32).hex(), "file_bytes": 1, "file_checksum": generator.bytes(32).hex(),
            "quantum_id": None, "physical_filter": "r_cam", "band": "r", "day_obs": butler_lake.NIGHT,
        }
        for i in range(count)
    ]  # fmt: skip
    for row in given:
        row |= {"file_bytes": row["bytes"], "file_checksum": row["checksum"]}
    table = registry.with_ids(None, butler_lake.table(given), butler_lake.DIMENSIONS)
    assert set(registry.ingest(lake.central, table, verify=False)["verdict"].to_pylist()) == {"accepted"}
    export_registry(lake.central, tmp_path / "export", Selection(types=["raw"], where="run LIKE 'c/0%'"))
    size = (tmp_path / "export" / "dataset.parquet").stat().st_size
    assert size / count < 60
    import_registry(lake.site("B"), tmp_path / "export", verify=False)
    with delta.cursor() as con:
        back = con.sql(f"SELECT * EXCLUDE (registered_at) FROM ({delta.select(lake.site('B'), 'dataset')})").to_arrow_table()
    assert back.sort_by("dataset_id").equals(pa.table(table).sort_by("dataset_id").cast(back.schema))
