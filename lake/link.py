"""Links: how much may go from one site to another at a time, from the section ``links`` of ``lake.yaml``.

    links:
      USDF -> FRDF: {mb_per_second: 1000, streams: 8}
      "* -> LANCS": {mb_per_second: 100}

The most particular entry counts (A -> B, A -> *, * -> B, * -> *); a link that none names has no limit. One process at a
time moves files to a site (it holds the site's lock "movement"), so that a limit kept by the process is kept by the link.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from lake.objects import is_object
from lake.site import CONFIG, Lake, LakeError, Site, read_config

#: Seconds' worth of bandwidth that may pass at once after a pause.
BURST = 0.25
_OPTIONS = {"mb_per_second": (int, float), "streams": int}


def reachable(site: Site) -> bool:
    """Whether a site's storage is there at all: what cannot be reached looks empty, and nothing may be concluded from it."""
    if not is_object(site.root):
        return (site.root / "tables").is_dir()
    try:
        (site.root / "tables").is_dir()  # an empty bucket is there as well: what counts is that it answers
    except OSError:
        return False
    return True


class Link:
    """One link; safe to share between threads. ``streams`` (None: no limit) is how many copies may run at once."""

    def __init__(self, bytes_per_second: float | None = None, streams: int | None = None) -> None:
        self.bytes_per_second, self.streams = bytes_per_second, streams
        self._lock = threading.Lock()
        self._free_at = 0.0

    def take(self, count: int) -> None:
        """Wait until ``count`` more bytes may have passed (a token bucket, filled by time, BURST seconds deep)."""
        if self.bytes_per_second is None:
            return
        with self._lock:
            now = time.monotonic()
            self._free_at = max(self._free_at, now - BURST) + count / self.bytes_per_second
            wait = self._free_at - now
        if wait > 0:
            time.sleep(wait)


class Links:
    """The links of a lake, each made when it is first asked for, and the same one for every asker."""

    def __init__(self, lake: Lake) -> None:
        self._given = parse(read_config(lake.root / CONFIG).get("links", {}), lake.sites)
        self._made: dict[tuple[str, str], Link] = {}

    def link(self, source: str, destination: str) -> Link:
        key = (source, destination)
        if key not in self._made:
            names = ((source, destination), (source, "*"), ("*", destination), ("*", "*"))
            options = next((self._given[name] for name in names if name in self._given), {})
            rate = options.get("mb_per_second")
            self._made[key] = Link(None if rate is None else rate * 1e6, options.get("streams"))
        return self._made[key]


def parse(given: Mapping[str, Any], sites: Iterable[str]) -> dict[tuple[str, str], Mapping[str, Any]]:
    """The section ``links``, checked: (source, destination) -> options. LakeError names the link and what is wrong."""
    names = {*sites, "*"}
    found: dict[tuple[str, str], Mapping[str, Any]] = {}
    for key, options in given.items():
        where = f"{CONFIG}: link {key!r}"
        ends = [end.strip() for end in str(key).split("->")]
        if len(ends) != 2:
            raise LakeError(f"{where}: a link is written SOURCE -> DESTINATION, either of which may be *")
        if unknown := [end for end in ends if end not in names]:
            raise LakeError(f"{where}: no site {unknown[0]!r}; the sites are {', '.join(sorted(names - {'*'}))}")
        if ends[0] == ends[1] != "*":
            raise LakeError(f"{where}: its ends are the same site")
        if not isinstance(options, Mapping):
            raise LakeError(f"{where}: its options must be a mapping, not {options!r}")
        for name, value in options.items():
            if name not in _OPTIONS:
                raise LakeError(f"{where}: unknown key {name!r}; known: {', '.join(_OPTIONS)}")
            if isinstance(value, bool) or not isinstance(value, _OPTIONS[name]) or not value > 0:  # type: ignore[arg-type]
                kind = "a whole number of at least 1" if name == "streams" else "a positive number"
                raise LakeError(f"{where}: {name}: {value!r} is not {kind}")
        found[ends[0], ends[1]] = options
    return found
