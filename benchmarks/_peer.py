"""The peers: other software that does the same work, in an environment of its own, measured in the same run.

``make peers`` makes the environments below ``.peers/``; a peer's part of a benchmark is a script in ``benchmarks/peers``
that prints one JSON object, its ``version`` among the keys.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import click

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parent / ".peers"


def measure(peer: str, script: str, *arguments: str | int | Path) -> dict[str, Any] | None:
    """What ``peers/<script>.py`` prints when it runs with the arguments in the peer's environment.

    None, with a word on stderr, where the environment is not there. ClickException when the script fails.
    """
    python = ENVIRONMENTS / peer / "bin" / "python"
    if not python.exists():
        click.echo(f"{peer} is not measured: {python} is not there (make peers)", err=True)
        return None
    command = [str(python), str(HERE / "peers" / f"{script}.py"), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise click.ClickException(f"{peer}: {script} failed: {said[0]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
