"""The software's own fingerprint: what code and which package versions make results; placed at every site as a dataset."""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

#: Packages whose version can change a result.
PACKAGES = (
    "duckdb", "pyarrow", "deltalake", "numpy", "numexpr", "scipy", "astropy", "fitsio", "sep", "astroscrappy", "hpgeom",
    "healsparse",
)  # fmt: skip


@cache
def describe() -> bytes:
    """Canonical JSON of the package versions, the Python version and a hash over the source that can change a result."""
    digest = hashlib.sha256()
    root = Path(__file__).parent.parent
    for room in ("schemas", "lake", "pipelines"):
        for file in sorted((root / room).rglob("*")):
            if file.suffix in (".py", ".sql", ".yaml") and not {"cli", "campaigns"} & set(file.parts):
                digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes() + b"\0")
    content = {
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        "source": digest.hexdigest(),
    }
    return json.dumps(content, indent=1, sort_keys=True).encode()


@cache
def fingerprint() -> str:
    """Short name of describe(): the first 16 hex digits of its sha256."""
    return hashlib.sha256(describe()).hexdigest()[:16]
