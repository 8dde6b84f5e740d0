"""Attacks: names, links and rules that would lead out of a site, SQL that would do more than read, YAML that is more than data."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import small_lake
import yaml

from lake import datastore, movement, plain_yaml, query, registry
from lake.site import Lake, LakeError, Site, read_sites

ROOT = Path(__file__).parents[2]
SECRET = "what nobody may read"


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake with raws; beside it, a directory that is not the lake's, and links to it from within a site."""
    folder = tmp_path_factory.mktemp("security")
    lake = small_lake.make(folder / "lake", raws=True)
    outside = folder / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    (outside / "secret.csv").write_text(f"a\n{SECRET}\n")
    root = lake.central.root
    (root / "files" / "door").symlink_to(outside)
    (root / "files" / "door.csv").symlink_to(outside / "secret.csv")
    (lake.root / "USDF-other").mkdir()
    (lake.root / "USDF-other" / "secret.txt").write_text(SECRET)
    return lake


def outside(lake: Lake) -> dict[str, bytes]:
    """Everything that is not in a site, by name: no attack changes it."""
    folder = lake.root.parent
    sites = [site.root for site in lake.sites.values()]
    found = [p for p in folder.rglob("*") if p.is_file() and not any(p.is_relative_to(s) for s in sites)]
    return {str(p.relative_to(folder)): p.read_bytes() for p in found}


# -- SQL ---------------------------------------------------------------------------------------------------------------

FILES = [
    "{outside}/secret.txt", "{lake}/lake.yaml", "{site}/../lake.yaml", "{site}/files/../../lake.yaml",
    "{site}/files/door/secret.txt", "{site}/files/door.csv", "{lake}/USDF-other/secret.txt", "/etc/passwd",
    "file:///etc/passwd", "/proc/self/environ", "~/.bashrc",
    "http://127.0.0.1:1/x", "s3://bucket/x", "lake.yaml",
]  # fmt: skip
READERS = ["read_text", "read_blob", "read_csv", "read_json", "read_parquet", "parquet_metadata", "sniff_csv", "glob"]


@pytest.mark.parametrize("path", FILES)
def test_sql_reads_no_file_outside_the_sites(lake: Lake, path: str) -> None:
    where = path.format(lake=lake.root, site=lake.central.root, outside=lake.root.parent / "outside")
    with query.connect(lake) as con:
        for sql in [f"SELECT * FROM {reader}('{where}')" for reader in READERS] + [f"SELECT * FROM '{where}'"]:
            with pytest.raises(query.QueryError, match=r"only the lake's own files can be read|there is no table"):
                print(sql, con.table(sql).to_pylist())


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT getenv('HOME')",
        "FROM query('SELECT getenv(''HOME'')')",
        "SELECT * FROM glob('{site}/files/door/*')",
        "PIVOT read_csv('{outside}/secret.csv') ON a USING count(*)",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{site}/x.csv''')",
        "WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x",
        "SELECT * FROM (WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x)",
        "SELECT (WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT 1)",
        "SELECT 1 UNION ALL (WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT 1)",
        "WITH RECURSIVE x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x",
        "WITH y AS (WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x) SELECT * FROM y",
        "SUMMARIZE WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x",
        "DESCRIBE WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x",
        "EXPLAIN ANALYZE WITH x AS (COPY (SELECT 1) TO '{site}/x.csv') SELECT * FROM x",
        "FROM query('WITH x AS (COPY (SELECT 1) TO ''{site}/x.csv'') SELECT * FROM x')",
        "SELECT * FROM range(3) WHERE EXISTS (FROM query('WITH x AS (COPY (SELECT 1) TO ''{site}/x.csv'') SELECT 1'))",
        "PIVOT (WITH x AS (COPY (SELECT 1 AS a) TO '{site}/x.csv') SELECT 1 AS a) ON a USING count(*)",
        "PIVOT (FROM QUERY('WITH x AS (COPY (SELECT 1) TO ''{site}/x.csv'') SELECT 1 AS a')) ON a USING count(*)",
        "PIVOT (FROM \"query\"('SELECT 1 AS a')) ON a USING count(*)",
        "WITH x AS (DELETE FROM dataset) SELECT 1",
        "FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
        "EXPLAIN ANALYZE CREATE TABLE x AS SELECT 1",
        "COPY (SELECT 1) TO '{site}/files/door/x.csv'",
        "IMPORT DATABASE '{outside}'",
        "CREATE SECRET x (TYPE s3)",
        "SET VARIABLE x = 1",
        "SET enable_external_access = true",
        "SET GLOBAL allowed_directories = ['/']",
        "SELECT * FROM enable_logging()",
        "CALL enable_logging()",
        "FORCE INSTALL httpfs FROM '{outside}'",
        "LOAD '{outside}/x.duckdb_extension'",
        "PREPARE x AS SELECT 1",
        "USE memory",
        "BEGIN",
        "FROM read_duckdb('{outside}/x.db')",
        "SELECT * FROM duckdb_secrets()",
    ],
)
def test_sql_does_nothing_but_read(lake: Lake, sql: str) -> None:
    before = outside(lake), sorted(lake.root.rglob("*"))
    places = {"site": lake.central.root, "outside": lake.root.parent / "outside"}
    with query.connect(lake) as con, pytest.raises(query.QueryError) as refused:
        con.table(sql.format(**places))
    assert "\n" not in str(refused.value) and SECRET not in str(refused.value)
    assert (outside(lake), sorted(lake.root.rglob("*"))) == before


def test_spilled_rows_have_no_name_that_another_user_could_guess(lake: Lake) -> None:
    found = set()
    for _ in range(2):
        with query.connect(lake) as con:
            found |= {con.table("SELECT current_setting('temp_directory') AS d")["d"][0].as_py()}
    assert len(found) == 2 and not any(Path(folder).exists() for folder in found)


def test_a_sites_root_may_be_a_link(tmp_path: Path) -> None:
    lake = small_lake.make(tmp_path / "lake", raws=True)
    lake.central.root.rename(tmp_path / "big disk")
    lake.central.root.symlink_to(tmp_path / "big disk")
    site = Lake.open(lake.root).central
    row = query.query(lake, "SELECT path, file_bytes, file_checksum FROM dataset ORDER BY path LIMIT 1").to_pylist()[0]
    assert datastore.check(site, row["path"], row["file_bytes"], row["file_checksum"]) is None
    assert datastore.write_file(site, "files/new/x.json", b"{}").path == "files/new/x.json"


# -- paths -------------------------------------------------------------------------------------------------------------

ESCAPES = ["../x", "files/../../x", "/tmp/x", "files/door/x", "files/door/deep/x", "..", "", "files/\0x"]


@pytest.mark.parametrize("path", ESCAPES)
def test_no_path_leaves_the_site(lake: Lake, tmp_path: Path, path: str) -> None:
    before, site = outside(lake), lake.central
    source = tmp_path / "source"
    source.write_bytes(b"1")
    for attack in (
        lambda: site.path(path),
        lambda: datastore.write_file(site, path, b"1"),
        lambda: datastore.put_file(site, source, path),
        lambda: datastore.put_file(site, source, path, "link"),
        lambda: datastore.put_file(site, source, path, "move"),
    ):
        with pytest.raises(LakeError, match=r"^site USDF: path .* (is not below the site's root|leads through a symbolic link)"):
            attack()
    assert outside(lake) == before and source.exists()


@pytest.mark.parametrize("run", ["../../x", "/etc", "a/../../../x", "door"])
def test_no_run_name_leaves_the_site(lake: Lake, run: str) -> None:
    before = outside(lake)
    with pytest.raises(LakeError):
        datastore.write_file(lake.central, datastore.template(run, "raw", {"detector": 1}), b"1")
    assert outside(lake) == before


def test_names_in_a_data_id_are_only_names() -> None:
    path = datastore.template("c/raw", "raw", {"instrument": "../../../etc/passwd", "detector": 1})
    assert path == "files/c/raw/raw/raw_..-..-..-etc-passwd_d1.fits"


def row(site: Site, path: str, **values: Any) -> pa.Table:
    size = {"bytes": 20, "file_bytes": 20, "checksum": "0" * 64, "file_checksum": "0" * 64}
    given = small_lake.visit_row("raw", "c/attack", 1, detector=0, path=path, **size | values)
    return registry.with_ids(None, small_lake.table([given]), small_lake.DIMENSIONS)


@pytest.mark.parametrize("verify", [True, False])
@pytest.mark.parametrize("path", ["../outside/secret.txt", "/etc/passwd", "files/../../lake.yaml"])
def test_nothing_outside_is_registered(lake: Lake, path: str, verify: bool) -> None:
    [verdict] = registry.ingest(lake.central, row(lake.central, path), verify=verify).to_pylist()
    assert verdict["verdict"] == "rejected" and "is not below the site's root" in verdict["reason"]


@pytest.mark.parametrize("path", ["files/door/secret.txt", "files/door.csv"])
def test_what_a_link_leads_to_is_not_registered(lake: Lake, path: str) -> None:
    size = (lake.central.root / path).stat().st_size
    [verdict] = registry.ingest(lake.central, row(lake.central, path, file_bytes=size, bytes=size)).to_pylist()
    assert verdict["verdict"] == "rejected" and "symbolic link" in verdict["reason"]


def test_a_registered_file_that_becomes_a_link_is_damaged(tmp_path: Path) -> None:
    lake = small_lake.make(tmp_path / "lake", raws=True)
    path = lake.central.path(query.query(lake, "SELECT path FROM dataset LIMIT 1")["path"][0].as_py())
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    rel, size = lake.central.relative(path), (tmp_path / "elsewhere").stat().st_size
    assert datastore.check(lake.central, rel, size) == f"damaged: {rel} is a symbolic link"


@pytest.mark.parametrize(
    "predicate",
    [
        "true) UNION ALL SELECT * REPLACE ('../../evil.fits' AS path) FROM dataset WHERE (true",
        "true) UNION ALL SELECT * REPLACE ('/tmp/drp-evil.fits' AS path) FROM dataset WHERE (true",
        "(SELECT content FROM read_text('{outside}/secret.txt')) <> ''",
        "true; COPY (SELECT 1) TO '{outside}/x.csv'",
    ],
)
def test_no_rule_leads_out_of_the_site(tmp_path: Path, predicate: str) -> None:
    lake = small_lake.make(tmp_path / "lake", raws=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text(SECRET)
    before = outside(lake)
    try:
        rule = movement.add_rule(lake, "c", "evil", ["raw"], predicate.format(outside=tmp_path / "outside"), "USDF", "LANCS")
        [stuck] = movement.run_rules(lake, [rule]).stuck
        said = str(stuck.reason)
    except LakeError as refused:
        said = str(refused)
    assert said and SECRET not in said and "\n" not in said
    assert outside(lake) == before and not Path("/tmp/drp-evil.fits").exists()


@pytest.mark.parametrize("name", ["..", "../x", "a/b", "/etc", "", "files\0", "x" * 40, "main"])
def test_no_site_name_leads_out_of_the_lake(tmp_path: Path, name: str) -> None:
    with pytest.raises(LakeError, match="a site's name is 1 to 32 letters"):
        Lake.create(tmp_path / "lake", {name: {"central": True}})
    assert not (tmp_path / "lake").exists()


# -- YAML and the source -----------------------------------------------------------------------------------------------


def test_yaml_is_data_only(tmp_path: Path) -> None:
    canary = tmp_path / "made"
    for text in (f"!!python/object/apply:os.system ['touch {canary}']", f"!!python/object/new:os.mkdir ['{canary}']"):
        with pytest.raises(yaml.YAMLError):
            plain_yaml.parse(text)
        (tmp_path / "sites.yaml").write_text(f"sites: {text}")
        with pytest.raises(LakeError, match=r"sites.yaml line 1: is not YAML"):
            read_sites(tmp_path / "sites.yaml")
    assert not canary.exists()


def test_a_file_of_sites_takes_no_credential_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("DRP_S3_ENDPOINT", "http://127.0.0.1:1")
    file = tmp_path / "sites.yaml"
    for name in ("$AWS_SECRET_ACCESS_KEY", "${AWS_SECRET_ACCESS_KEY}"):
        file.write_text(f'sites: {{A: {{root: "s3://b/{name}"}}}}')
        with pytest.raises(LakeError, match=r"sites.yaml: .AWS_SECRET_ACCESS_KEY names a credential") as refused:
            read_sites(file)
        assert SECRET not in str(refused.value)
    file.write_text('sites: {A: {endpoint: "$DRP_S3_ENDPOINT"}}')
    assert read_sites(file)["A"]["endpoint"] == "http://127.0.0.1:1"


def test_a_few_bytes_of_yaml_stay_a_few_values() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(12)
    )
    with pytest.raises(yaml.YAMLError, match="aliases"):
        plain_yaml.parse(bomb)
    assert plain_yaml.parse("a: '*b'\nc: 2 * 3\n") == {"a": "*b", "c": "2 * 3"}


UNSAFE_CALLS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "system",
    "popen",
    "load_all",
    "unsafe_load",
    "full_load",
    "unsafe_load_all",
}


def unsafe(source: str) -> list[str]:
    """Calls and imports of a source text that could turn data into code."""
    found = []
    safe = {"yaml.CSafeLoader", "yaml.SafeLoader"}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef) and node.bases and {ast.unparse(base) for base in node.bases} <= safe:
            safe.add(node.name)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            owner = node.func.value.id if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) else ""
            if name in UNSAFE_CALLS and owner not in ("re", "sql", "con"):
                found.append(f"line {node.lineno}: {owner}.{name}")
            if owner == "yaml" and name == "load":
                loaders = [ast.unparse(k.value) for k in node.keywords if k.arg == "Loader"] + [
                    ast.unparse(a) for a in node.args[1:]
                ]
                if not loaders or not safe.issuperset(loaders):
                    found.append(f"line {node.lineno}: yaml.load without a safe loader")
            if any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords):
                found.append(f"line {node.lineno}: a shell")
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] + [getattr(node, "module", "") or ""]
            found += [f"line {node.lineno}: {n}" for n in names if n.split(".")[0] in ("pickle", "marshal", "shelve", "dill")]
    return found


@pytest.mark.parametrize("room", ["schemas", "lake", "checks", "pipelines", "benchmarks"])
def test_no_data_becomes_code(room: str) -> None:
    found = {str(p): unsafe(p.read_text()) for p in sorted((ROOT / room).rglob("*.py"))}
    if room == "benchmarks":  # peers among the tools of the system are run as people run them
        found = {path: [line for line in lines if not line.endswith("a shell")] for path, lines in found.items()}
    assert {path: lines for path, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    ["yaml.load(x)", "yaml.load(x, Loader=yaml.Loader)", "yaml.full_load(x)", "eval(x)", "import pickle", "os.system(x)",
     "subprocess.run(x, shell=True)"],
)  # fmt: skip
def test_the_scan_sees_what_it_looks_for(source: str) -> None:
    assert unsafe(source)


def test_sql_of_the_command_line_has_no_way_to_the_environment(lake: Lake) -> None:
    """As a process, with a credential in its environment."""
    command = [sys.executable, "-c", "from pipelines.cli import main; main()", "sql", str(lake.root)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "AWS_SECRET_ACCESS_KEY": SECRET}
    for sql in (
        "SELECT getenv('AWS_SECRET_ACCESS_KEY')",
        "SELECT content FROM read_text('/proc/self/environ')",
        "SELECT * FROM duckdb_settings()",
        "SELECT getvariable('AWS_SECRET_ACCESS_KEY')",
    ):
        done = subprocess.run([*command, sql], capture_output=True, text=True, env=environment)
        assert SECRET not in done.stdout + done.stderr
