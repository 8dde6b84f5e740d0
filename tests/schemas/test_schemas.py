"""The declarations: valid Felis, loaded as written, and wrong data refused against them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml

import schemas

ROOT = Path(schemas.__file__).parent
FILES = sorted(ROOT.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_is_valid_felis(path: Path) -> None:
    felis = pytest.importorskip("felis.datamodel")
    schema = felis.Schema.model_validate(yaml.safe_load(path.read_text()), context={"id_generation": True})
    assert schema.tables


def test_every_table_is_loaded_as_declared() -> None:
    declared = [table for path in FILES for table in yaml.safe_load(path.read_text())["tables"]]
    assert sorted(schemas.tables()) == sorted(table["name"] for table in declared)
    for table in declared:
        loaded = schemas.table(table["name"])
        assert loaded.arrow.names == [column["name"] for column in table["columns"]]
        for column, field in zip(table["columns"], loaded.arrow, strict=True):
            assert field.nullable == column.get("nullable", True)
            assert (field.metadata or {}).get(b"unit", b"").decode() == column.get("ivoa:unit", "")


@pytest.mark.parametrize("schema", schemas.tables().values(), ids=lambda schema: schema.name)
def test_every_table_can_be_kept(schema: schemas.TableSchema) -> None:
    assert schema.primary_key and set(schema.primary_key) <= set(schema.arrow.names)
    assert len(set(schema.arrow.names)) == len(schema.arrow.names)
    assert schema.payload.names == [c for c in schema.arrow.names if c not in schema.partition_by]
    for column in schema.partition_by:
        assert not schema.arrow.field(column).nullable, "a partition value stands in a path"
        assert schema.arrow.field(column).type in (pa.string(), pa.int32(), pa.int64())
    if schema.subject == "catalogues":
        assert schema.partition_by[0] == "site" and schema.arrow.names[0] == "site"
    else:
        assert len(schema.partition_by) <= 1
    for name in schemas.DATA_ID:
        if name in schema.arrow.names and name in schemas.table("dataset").arrow.names:
            assert schema.arrow.field(name).type == schemas.table("dataset").arrow.field(name).type


def test_the_registry_has_every_data_id_column() -> None:
    for table in ("dataset", "parked", "quantum", "expected_dataset"):
        names = schemas.table(table).arrow.names
        assert [name for name in names if name in schemas.DATA_ID] == list(schemas.DATA_ID)


def test_what_is_not_declared_is_named() -> None:
    with pytest.raises(KeyError, match=r"no table 'sources' is declared in schemas/; known: .*source"):
        schemas.table("sources")


def metric(**change: Any) -> pa.Table:
    schema = schemas.table("metric").arrow
    blank = {"campaign": "c", "metric": "m", "value": 1.0}
    columns = {f.name: pa.array([blank.get(f.name)], f.type) for f in schema}
    columns["noted_at"] = pa.array([0], pa.timestamp("us", "UTC"))
    return pa.table({name: array for name, array in (columns | change).items() if array is not None})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"unit": None}, "column 'unit' is missing"),
        ({"more": pa.array([1])}, "column 'more' is not declared"),
        ({"value": pa.array([1.0], pa.float32())}, "column 'value' is float, declared double"),
        ({"tract": pa.array([1], pa.int64())}, "column 'tract' is int64, declared int32"),
        ({"noted_at": pa.array([0], pa.timestamp("us"))}, r"column 'noted_at' is timestamp\[us\]"),
        ({"campaign": None, "more": pa.array([1])}, "'campaign' is missing; column 'more' is not declared"),
    ],
)
def test_check_names_every_difference(change: dict[str, Any], named: str) -> None:
    with pytest.raises(schemas.SchemaError, match=f"table 'metric': .*{named}"):
        schemas.check("metric", metric(**change).schema)


def test_check_sees_order_and_repetition() -> None:
    good = metric()
    schemas.check("metric", good.schema)
    with pytest.raises(schemas.SchemaError, match="another order"):
        schemas.check("metric", good.select(good.column_names[::-1]).schema)
    with pytest.raises(schemas.SchemaError, match="'unit' is given twice"):
        schemas.check("metric", good.append_column("unit", good["unit"]).schema)


def test_check_of_a_payload_leaves_partition_columns_out() -> None:
    schema = schemas.table("isolated_star")
    schemas.check("isolated_star", schema.payload, payload=True)
    with pytest.raises(schemas.SchemaError, match="'tract' is not declared"):
        schemas.check("isolated_star", schema.arrow, payload=True)


def test_conform_orders_and_casts_safely() -> None:
    given = metric(tract=pa.array([9469], pa.int64()), value=pa.array([2.5], pa.float32()), unit=None)
    conformed = schemas.conform("metric", given.select(given.column_names[::-1]))
    assert conformed.schema == schemas.table("metric").arrow
    assert conformed.to_pylist()[0] | {"noted_at": None} == {
        "campaign": "c", "metric": "m", "site": None, "tract": 9469, "visit": None, "band": None, "value": 2.5, "unit": None,
        "noted_at": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"tract": pa.array([2**40])}, "column 'tract'"),
        ({"tract": pa.array([1.5])}, "column 'tract'"),
        ({"value": pa.array([None], pa.float64())}, "column 'value' must not be null"),
        ({"value": None}, "column 'value' is missing"),
        ({"more": pa.array([1])}, "column 'more' is not declared"),
        ({"visit": pa.array(["seven"])}, "column 'visit'"),
    ],
)
def test_conform_refuses_what_would_lose_a_value(change: dict[str, Any], named: str) -> None:
    with pytest.raises(schemas.SchemaError, match=f"table 'metric': {named}"):
        schemas.conform("metric", metric(**change))
