"""The simulator of raw exposures, for campaigns whose raws cannot be shipped; its truth is kept in truth_* tables."""

from pipelines.simulate.place import Summary, simulate

__all__ = ["Summary", "simulate"]
