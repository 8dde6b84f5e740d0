"""Where data lives and how it moves. Knows dimensions and datasets; knows no astronomy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lake.query import connect as connect
    from lake.site import Lake as Lake
    from lake.site import Site as Site

_HOMES = {"connect": "lake.query", "Lake": "lake.site", "Site": "lake.site"}


def __getattr__(name: str) -> Any:
    """Loaded when used: importing one room must not cost the libraries of all."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lake' has no attribute {name!r}")
