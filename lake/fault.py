"""Named points at which a test can make the process die as by kill -9: DRP_FAULT=<area>:<point>[:n]."""

from __future__ import annotations

import os
import signal

_passed: dict[str, int] = {}


def point(name: str) -> None:
    """Die here, by SIGKILL, if DRP_FAULT names this point and it is passed for the n-th time (the first by default)."""
    wanted = os.environ.get("DRP_FAULT")
    if wanted is None:
        return
    _passed[name] = _passed.get(name, 0) + 1
    if wanted in (f"{name}:{_passed[name]}", name) and (wanted != name or _passed[name] == 1):
        os.kill(os.getpid(), signal.SIGKILL)
