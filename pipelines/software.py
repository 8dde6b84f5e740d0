"""The software's own fingerprint: what code and which package versions make results; placed at every site as a dataset.

A campaign pins it once. Each site compares what is placed there with what its own workers run, before they get any work, and
each worker compares again before its jobs: one that was started after an upgrade computes nothing.
"""

from __future__ import annotations

import hashlib
import json
import platform
from functools import cache
from importlib import metadata
from pathlib import Path

from lake import datastore, delta, registry
from lake.site import LakeError, Site

#: Packages whose version can change a result.
PACKAGES = (
    "duckdb", "pyarrow", "deltalake", "numpy", "numexpr", "scipy", "astropy", "fitsio", "sep", "astroscrappy", "hpgeom",
    "healsparse",
)  # fmt: skip


class FingerprintError(LakeError):
    """The software that runs is not the software that the campaign pinned."""

    exit_code = 1


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


def pinned(site: Site, run: str) -> bytes | None:
    """The fingerprint that is placed at a site in the run of a campaign's software, as describe() gave it; None before that.

    FingerprintError when its file is lost or is not what was registered.
    """
    with delta.connect() as con:
        found = registry.datasets(con, site, "run = $run", {"run": run}, ["software"])
        held = found.select("path", "file_bytes", "file_checksum").fetchall()
    if not held:
        return None
    if problem := datastore.check(site, *held[0]):
        raise FingerprintError(
            f"site {site.name}: the software's fingerprint is {problem}; drp run heals it (drp audit --deep first)"
        )
    return site.path(held[0][0]).read_bytes()


def require(wanted: bytes, running: bytes, where: str) -> None:
    """FingerprintError, which says ``where`` and what differs, unless ``running`` is the software that is wanted."""
    if running != wanted:
        raise FingerprintError(
            f"{where} runs other software than the campaign was begun with: {difference(wanted, running)}; install that again "
            "(nothing was computed), or start a new campaign"
        )


def difference(pinned: bytes, running: bytes) -> str:
    """What differs between two fingerprints, in words."""
    old, new = json.loads(pinned), json.loads(running)
    found = [
        f"{name} {old['packages'].get(name)} then, {new['packages'].get(name)} now"
        for name in sorted({*old["packages"], *new["packages"]})
        if old["packages"].get(name) != new["packages"].get(name)
    ]
    found += [f"{k} {old[k]} then, {new[k]} now" for k in ("python", "machine") if old[k] != new[k]]
    return "; ".join(found) or "the project's own source has changed"
