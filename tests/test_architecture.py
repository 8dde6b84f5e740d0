"""The house rules that a machine can check: imports run one way, steps keep to themselves, SQL lies beside its Python."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ORDER = ["schemas", "lake", "checks", "pipelines"]
SOURCES = [p for room in ORDER for p in sorted((ROOT / room).rglob("*.py"))]


def imported(path: Path) -> set[str]:
    """Dotted names that a file imports, at the top or inside functions."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_run_one_way(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    allowed = set(ORDER[: ORDER.index(room) + 1])
    used = {name.split(".")[0] for name in imported(path)} & set(ORDER)
    assert used <= allowed, f"{path.relative_to(ROOT)} reaches up to {sorted(used - allowed)}"


@pytest.mark.parametrize("path", [p for p in SOURCES if p.parent.name.startswith("step")], ids=lambda p: p.stem)
def test_steps_do_not_import_each_other(path: Path) -> None:
    own = f"pipelines.{path.parent.name}"
    others = {n for n in imported(path) if n.startswith("pipelines.step") and not (n == own or n.startswith(own + "."))}
    assert not others, f"{path.relative_to(ROOT)} imports {sorted(others)}"


def test_steps_do_not_read_truth() -> None:
    readers = [str(p.relative_to(ROOT)) for p in SOURCES if p.parent.name.startswith("step") and "truth_" in p.read_text()]
    assert readers == []


def test_no_drawers_without_a_subject() -> None:
    names = {"utils", "util", "helpers", "common", "misc"}
    assert [p for p in SOURCES if p.stem in names or names & set(p.parts)] == []


def test_the_command_line_starts_light() -> None:
    heavy = ["great_expectations", "pandas", "matplotlib", "dask", "scipy", "astropy", "duckdb", "deltalake", "numpy"]
    code = f"import sys, pipelines.cli; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.strip() == "[]"


def test_every_command_has_help_with_an_example() -> None:
    from click.testing import CliRunner

    from pipelines.cli import COMMANDS, cli

    for name in COMMANDS:
        result = CliRunner().invoke(cli, [name, "--help"])
        assert result.exit_code == 0, name
        if name != "rule":
            assert "xample" in result.output, f"drp {name} --help shows no example"
