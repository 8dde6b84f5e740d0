"""The bridge to a Butler: its YAML export format 1.0.2, written and read. Nothing here needs a Butler to be installed.

The door is export_butler() and import_butler(); definitions.yaml says how our datasets look to a Butler.
"""

from __future__ import annotations

from lake.butler.definitions import ButlerError, Definitions, read_definitions
from lake.butler.export import Exported, export_butler
from lake.butler.imports import import_butler

__all__ = ["ButlerError", "Definitions", "Exported", "export_butler", "import_butler", "read_definitions"]
