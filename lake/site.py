"""A lake and its sites: where they are, which one is central, and how a path below a site is formed.

``<root>/lake.yaml`` names the sites; each has its tables and files below ``<root>/<site>``, or below the root of an
object store that it names. The path of a thing below the site's root is the same at every site. All paths of the lake
are made here.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

import schemas
from lake import plain_yaml
from lake.access import at
from lake.bucket import SCHEMES, StoreError
from lake.durable import write_durable
from lake.objects import ObjectPath, is_object

CONFIG = "lake.yaml"
#: Seconds to wait for a site's lock: commits take well under one.
LOCK_TIMEOUT = 300.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
#: Characters that DuckDB (globs, partition values) or Delta (encoded paths) would read as something else.
_UNUSABLE = frozenset("=%*?[]'")
#: Site names are schema names of the query room; these are taken there.
_RESERVED = {"main", "temp", "system", "memory", "information_schema", "pg_catalog"}


class LakeError(ValueError):
    """Something about a lake or a site is not as asked; the message is one line that names it and the remedy.

    A class of errors with ``exit_code`` 1 tells of storage that is wrong or fails; the others of what was asked for.
    """


@dataclass(frozen=True)
class Site:
    """One site's lake: ``cores``, ``memory_gb``, ``storage_tb`` are what a campaign may use there (None: no limit).

    ``root`` is a directory, or an ObjectPath that stands in for one; ``home`` is the directory of the lake (default: the
    one that holds ``root``).
    """

    name: str
    root: Path
    home: Path = Path()
    central: bool = False
    cores: int = 1
    memory_gb: float | None = None
    storage_tb: float | None = None

    def __post_init__(self) -> None:
        if self.home == Path():
            object.__setattr__(self, "home", self.root.parent)

    @property
    def lake(self) -> Lake:
        """The lake this site belongs to."""
        return Lake.open(self.home)

    def path(self, rel: str | PurePosixPath) -> Path:
        """The absolute path of ``rel``, which is relative to the site's root; LakeError if it would leave the site.

        Below the root no directory may be a symbolic link (the root itself may): what seems to be inside is inside.
        """
        parts = PurePosixPath(rel)
        if parts.is_absolute() or ".." in parts.parts or not parts.parts or "\0" in str(rel):
            raise LakeError(f"site {self.name}: path {str(rel)!r} is not below the site's root")
        if str(parts) != str(rel):  # one file has one path: what is registered under another looks like an orphan
            raise LakeError(f"site {self.name}: path '{rel}' has an empty name or '.' in it; as a file's path write '{parts}'")
        path = self.root.joinpath(*parts.parts)
        if not is_object(self.root) and not _direct(self.root, path.parent):
            raise LakeError(f"site {self.name}: path {str(rel)!r} leads through a symbolic link; only the site's root may be one")
        return path

    def relative(self, path: str | Path) -> str:
        """The inverse of path(): a path below the root, as it is written in the registry."""
        try:
            return at(str(path)).relative_to(self.root).as_posix()
        except ValueError:
            raise LakeError(f"site {self.name}: {path} is not below {self.root}") from None

    def table_path(self, table: str) -> Path:
        """The directory of a Delta table, ``tables/<subject>/<table>``; KeyError names an undeclared table."""
        return self.path(table_dir(table))

    @contextmanager
    def lock(self, name: str = "registry", timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Hold the site's lock of this name: one committer at a time. It ends with its process, however that ends.

        Not re-entrant. LakeError when it is held by another for longer than ``timeout`` seconds. The lock is a file below
        the lake's own directory, for a site in an object store too; commits of other machines are told apart by Delta.
        """
        path = self.home / self.name / ".lock" / name
        deadline = time.monotonic() + timeout
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+b")
        except OSError as error:
            raise LakeError(f"site {self.name}: {path} cannot be locked: {one_line(error)}") from None
        with file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise LakeError(
                            f"site {self.name}: another process has held {path} for {timeout:.0f} s; wait for it or end it"
                        ) from None
                    time.sleep(0.005)
            yield


@lru_cache(maxsize=65536)
def _direct(root: Path, folder: Path) -> bool:
    """Whether no directory between a site's root and a folder is a symbolic link."""
    return os.path.realpath(folder) == str(Path(os.path.realpath(root), folder.relative_to(root)))


def table_dir(table: str) -> str:
    """Directory of a declared table relative to a site's root."""
    return f"tables/{schemas.table(table).subject}/{table}"


@dataclass(frozen=True)
class Lake:
    """All sites below one root, as ``lake.yaml`` names them, in that order."""

    root: Path
    sites: dict[str, Site]

    @classmethod
    def create(
        cls, root: str | Path, sites: Mapping[str, Mapping[str, Any] | None], links: Mapping[str, Any] | None = None
    ) -> Lake:
        """Make a new lake; ``sites`` maps a name to {central, cores, memory_gb, storage_tb}; one of them is central.

        ``links`` are limits between sites (lake/link.py).

        Nothing is left behind when it is refused (LakeError): lake.yaml is written last.
        """
        root = Path(root).absolute()
        if found := sorted(_UNUSABLE.intersection(str(root))):
            raise LakeError(f"{root}: the path of a lake may not hold {' '.join(found)} (choose another directory)")
        if (root / CONFIG).exists():
            raise LakeError(f"{root} is already a lake; open it, or choose another directory")
        from lake.link import parse

        lake = cls(root, _parse(root, sites))
        parse(links or {}, lake.sites)
        try:
            root.mkdir(parents=True, exist_ok=True)
            for site in lake.sites.values():
                (root / site.name / ".lock").mkdir(parents=True, exist_ok=True)
                if isinstance(site.root, ObjectPath):
                    site.root.claim()
                else:
                    for sub in ("files", "tables", "publish"):
                        (site.root / sub).mkdir(parents=True, exist_ok=True)
            document = {"sites": {n: dict(o or {}) for n, o in sites.items()}} | ({"links": dict(links)} if links else {})
            text = yaml.safe_dump(document, sort_keys=False)
            write_durable(root / CONFIG, text.encode())
        except StoreError as error:
            raise LakeError(str(error)) from None
        except OSError as error:
            raise LakeError(f"cannot create a lake in {root}: {one_line(error)}; choose a writable directory") from None
        return lake

    @classmethod
    def open(cls, root: str | Path) -> Lake:
        """The lake at ``root``; LakeError when there is none or its lake.yaml is wrong."""
        root = Path(root).absolute()
        if not (root / CONFIG).is_file():
            raise LakeError(f"{root} is not a lake (it has no {CONFIG}); make one with 'drp init'")
        return cls(root, _parse(root, read_sites(root / CONFIG)))

    @property
    def central(self) -> Site:
        """The one site that solves, archives and holds the campaign's state."""
        return next(site for site in self.sites.values() if site.central)

    def site(self, name: str) -> Site:
        """A site by name; LakeError names those that exist."""
        try:
            return self.sites[name]
        except KeyError:
            raise LakeError(f"no site {name!r} in {self.root}; its sites are {', '.join(self.sites)}") from None


def read_sites(path: str | Path) -> dict[str, dict[str, Any]]:
    """The ``sites`` section of a YAML file; LakeError names the file and the line or key that is wrong."""
    return read_config(path)["sites"]


def read_config(path: str | Path) -> dict[str, dict[str, Any]]:
    """The sections of a YAML file of a lake: ``sites`` and, perhaps, ``links``; LakeError as read_sites()."""
    try:
        content = plain_yaml.parse(_expanded(path, Path(path).read_text()))
    except OSError as error:
        raise LakeError(f"{path}: cannot be read ({error.strerror})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        raise LakeError(f"{path}{line}: is not YAML ({getattr(error, 'problem', None) or error})") from None
    if not isinstance(content, dict) or "sites" not in content or set(content) - {"sites", "links"}:
        raise LakeError(f"{path}: must hold the key 'sites' (and may hold 'links') and nothing else")
    for key, value in content.items():
        if not isinstance(value, dict):
            raise LakeError(f"{path}: {key} must be a mapping of {'site name' if key == 'sites' else 'link'} to its options")
    return content


def _expanded(path: str | Path, text: str) -> str:
    """The text with $NAME taken from the environment, but for credentials: what a file of sites says can be read by anyone."""
    named = {a or b for a, b in re.findall(r"\$(?:(\w+)|\{(\w+)\})", text)}
    if secret := sorted(name for name in named if re.search("SECRET|PASS|TOKEN|ACCESS_KEY|CREDENTIAL", name, re.IGNORECASE)):
        raise LakeError(f"{path}: ${secret[0]} names a credential; these stay in the environment, no file of sites needs them")
    return os.path.expandvars(text)


def _parse(root: Path, sites: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Site]:
    parsed: dict[str, Site] = {}
    folded: set[str] = set()
    for name, options in sites.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name.lower() in _RESERVED:
            raise LakeError(f"site {name!r}: a site's name is 1 to 32 letters, digits, - or _, and starts with a letter")
        if name.lower() in folded:
            raise LakeError(f"site {name!r}: another site differs from it in case only; rename one")
        folded.add(name.lower())
        given = _options(name, options or {})
        url, endpoint = given.pop("root", None), given.pop("endpoint", None)
        place = ObjectPath.root(url, endpoint, name) if url else root / name
        parsed[name] = Site(name=name, root=place, home=root, **given)
    roots = [str(site.root) for site in parsed.values()]
    for one in roots:
        if any(other != one and f"{other}/".startswith(f"{one}/") for other in roots) or roots.count(one) > 1:
            raise LakeError(f"two sites share the root {one}; give each a bucket or a prefix of its own")
    central = [site.name for site in parsed.values() if site.central]
    if len(central) != 1:
        found = f"{', '.join(central)} are" if central else "none is"
        raise LakeError(f"exactly one site must have 'central: true'; {found}")
    return parsed


_OPTIONS = {"central": bool, "cores": int, "memory_gb": (int, float), "storage_tb": (int, float), "root": str, "endpoint": str}


def _options(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(options, Mapping):
        raise LakeError(f"site {name!r}: its options must be a mapping, not {options!r}")
    for key, value in options.items():
        if key not in _OPTIONS:
            raise LakeError(f"site {name!r}: unknown key {key!r}; known: {', '.join(_OPTIONS)}")
        wanted = _OPTIONS[key]
        if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):  # type: ignore[arg-type]
            kind = {"central": "true/false", "root": "URL", "endpoint": "URL"}.get(key, "number")
            raise LakeError(f"site {name!r}: {key}: {value!r} is not a {kind}")
        if key == "root" and not value.startswith(SCHEMES):
            raise LakeError(f"site {name!r}: root: {value!r} must be s3://BUCKET[/PREFIX] (without a root the site is a directory)")
        if key == "endpoint" and not value.startswith(("http://", "https://")):
            raise LakeError(f"site {name!r}: endpoint: {value!r} must be http://HOST:PORT or https://HOST")
        if isinstance(value, int | float) and key != "central" and not value > 0:
            raise LakeError(f"site {name!r}: {key}: {value!r} must be positive")
    return dict(options)


def one_line(error: BaseException) -> str:
    """An error as one line, without the number of an OSError."""
    if isinstance(error, OSError) and error.errno:
        return os.strerror(error.errno)
    return " ".join(str(error).split())[:300]
