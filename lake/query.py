"""Read-only SQL over every table of every site: DuckDB on the live files of the Delta tables.

Names: ``object`` is the union over the sites, ``"LANCS".object`` one site's own table. The union of a catalogue takes
from each lake only the rows produced there, so that replicas are not counted twice; every other union leads with a
``site`` column that names the lake (tables that declare a ``site`` of their own keep that one). Beside the tables
stand the views of ``lake/sql/views``, such as ``rule_now`` and ``quantum_state``.

Only the tables that a statement names are opened; they are opened again when they have grown.
"""

from __future__ import annotations

import difflib
import re
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb
import pyarrow as pa

import schemas
from lake import delta, registry
from lake.access import attach
from lake.reading import QueryError, named_tables
from lake.row_groups import RowGroups
from lake.site import Lake, Site
from lake.sql import statement

__all__ = ["Connection", "Parameters", "QueryError", "connect", "identifier", "literal", "query"]

#: Statements whose tables a connection remembers.
REMEMBERED = 256
VIEWS = Path(__file__).parent / "sql" / "views"


def connect(
    root: str | Path | Lake,
    sites: Sequence[str] | None = None,
    home: str | None = None,
    prune: Mapping[str, str] | None = None,
) -> Connection:
    """A read-only connection to the lake at ``root`` (or an open Lake), to some or all of its ``sites``.

    With ``home``, unqualified names mean that site's own tables instead of the union. ``prune`` maps a table to a
    condition on its partitions or statistics: files that cannot meet it are not opened, whatever a statement asks.
    Raises LakeError for no such lake or site.
    """
    lake = root if isinstance(root, Lake) else Lake.open(root)
    chosen = [lake.site(name) for name in sites] if sites else list(lake.sites.values())
    return Connection(lake, chosen, home, prune)


def query(root: str | Path | Lake, sql: str, parameters: Parameters = None, sites: Sequence[str] | None = None) -> pa.Table:
    """The answer to one statement as an Arrow table; raises QueryError and LakeError."""
    with connect(root, sites) as connection:
        return connection.table(sql, parameters)


Parameters = Mapping[str, Any] | Sequence[Any] | None


class Connection:
    """SQL over a lake; one thread at a time. Writing, other files, settings and extensions are refused."""

    def __init__(self, lake: Lake, sites: Sequence[Site], home: str | None = None, prune: Mapping[str, str] | None = None) -> None:
        self.lake = lake
        self._prune = dict(prune or {})
        self.sites = {site.name: site for site in sites}
        self._home = lake.site(home).name if home else None
        self._versions: dict[tuple[str, str], int] = {}
        self._named: dict[str, set[tuple[str, str]] | None] = {}
        self._newest: dict[tuple[str, str], int] = {}
        self._row_groups: dict[tuple[str, str], RowGroups] = {}
        self._con = duckdb.connect(
            config={
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "python_enable_replacements": False,
            }
        )
        attach(self._con)
        self._con.execute(statement("macros"))
        roots = ", ".join(literal(str(site.root)) for site in sites)
        for name in self.sites:
            self._con.execute(f"CREATE SCHEMA {identifier(name)}")
        for setting in (
            "TimeZone = 'UTC'",
            "parquet_metadata_cache = true",
            f"temp_directory = {literal(f'{tempfile.gettempdir()}/drp-sql-{uuid.uuid4().hex}')}",
            *([f"search_path = {literal(identifier(self._home) + ',main')}"] if self._home else []),
            f"allowed_directories = [{roots}]",
            "enable_external_access = false",
            "lock_configuration = true",
        ):
            self._con.execute(f"SET {setting}")

    def execute(self, sql: str, parameters: Parameters = None) -> duckdb.DuckDBPyConnection:
        """Run one reading statement; fetch from what it returns (``fetchall``, ``fetchnumpy``, ``to_arrow_table``)."""
        self._open(self._named_tables(sql))
        try:
            return self._con.execute(sql, parameters)
        except duckdb.Error as error:
            raise self._explained(error) from None

    def table(self, sql: str, parameters: Parameters = None) -> pa.Table:
        """The answer to one reading statement as an Arrow table."""
        self._open(self._named_tables(sql))
        try:
            return self._con.sql(sql, params=parameters).to_arrow_table()
        except duckdb.Error as error:
            raise self._explained(error) from None

    def row_groups(self, site: str, table: str) -> RowGroups:
        """A site's own table for look-ups without SQL, of which is kept what this connection has read."""
        if (site, table) not in self._row_groups:
            self._row_groups[site, table] = RowGroups(self.sites[site], table, self._prune.get(table))
        return self._row_groups[site, table]

    def names(self) -> list[str]:
        """Every table and view that a statement may name."""
        return sorted([*schemas.tables(), *_views()])

    def close(self) -> None:
        self._con.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _explained(self, error: duckdb.Error) -> QueryError:
        message = " ".join(str(error).split("\n\n")[0].split("\nLINE ")[0].split())
        unknown = re.match(r"Catalog Error: Table with name (\S+) does not exist", message)
        if unknown:
            close = difflib.get_close_matches(unknown[1].lower(), self.names(), 3)
            hint = f"; did you mean {' or '.join(close)}?" if close else "; SHOW TABLES lists what there is"
            message = f"there is no table {unknown[1]}{hint}"
        if "disabled by configuration" in message:
            message = f"only the lake's own files can be read ({message})"
        return QueryError(message)

    def _named_tables(self, sql: str) -> set[tuple[str, str]] | None:
        """As named_tables(), which takes 1 ms: of a statement that comes again (with other parameters) it is remembered."""
        if sql not in self._named:
            if len(self._named) >= REMEMBERED:
                self._named.clear()
            self._named[sql] = named_tables(self._con, sql)
        return self._named[sql]

    def _open(self, named: set[tuple[str, str]] | None) -> None:
        """Make the views of the tables that are named; None stands for all of them."""
        if named is None:
            named = {(schema, name) for schema in ("", *self.sites) for name in self.names()}
        lower = {name.lower(): name for name in self.sites}
        for schema, name in sorted(named):
            schema = lower.get(schema.lower(), schema.lower())
            name = name.lower()
            if schema in ("", "main") and name in _known():
                self._open_view(name, None)
                if self._home and schema == "":
                    self._open_view(name, self._home)
            elif schema in self.sites and name in _known():
                self._open_view(name, schema)

    def _open_view(self, name: str, site: str | None) -> None:
        """The view ``name`` of one site, or of the union over the sites (None), made or renewed where it is stale."""
        if name in _views():
            for table in _inputs(self._con, name):
                self._open_view(table, site)
            version = 0
        else:
            version = sum(self._version(s, name) for s in self._of(site))
            if site is not None and schemas.table(name).subject == "catalogues":
                version += self._version(self.sites[site], "dataset")
        key = (site or "main", name)
        if self._versions.get(key) == version:
            return
        select = self._derived(name, site) if name in _views() else self._table(name, site)
        self._con.execute(f"CREATE OR REPLACE VIEW {identifier(key[0])}.{identifier(name)} AS {select}")
        self._versions[key] = version

    def _version(self, site: Site, table: str) -> int:
        self._newest[site.name, table] = version = delta.newest(site, table, self._newest.get((site.name, table)))
        return version

    def _of(self, site: str | None) -> list[Site]:
        return [self.sites[site]] if site else list(self.sites.values())

    def _table(self, name: str, site: str | None) -> str:
        schema = schemas.table(name)
        parts = []
        for each in self._of(site):
            files = delta.files(each, name, self._prune.get(name))
            if schema.subject == "catalogues":
                own = f"/site={quote(each.name)}/"
                others = [file for file in files if own not in file]
                files = [file for file in files if own in file]
                if site is not None and others:
                    parts.append(_registered(each, name, others))
            lead = f"{literal(each.name)} AS site, " if site is None and "site" not in schema.arrow.names else ""
            parts.append(f"SELECT {lead}* FROM ({delta.scan(name, files)})")
        return " UNION ALL ".join(parts)

    def _derived(self, name: str, site: str | None) -> str:
        """A view's text on the union, or on one site's tables by the names that it uses."""
        inputs = []
        added = False  # a site's own tables have no column that names the lake: lend them one while the text runs
        for table in _inputs(self._con, name):
            lead = ""
            if site and "site" not in schemas.table(table).arrow.names:
                lead, added = f"{literal(site)} AS site, ", True
            source = f"{identifier(site or 'main')}.{identifier(table)}"
            inputs.append(f"{identifier(table)} AS (SELECT {lead}* FROM {source})")
        columns = "* EXCLUDE (site)" if added else "*"
        return f"WITH {', '.join(inputs)} SELECT {columns} FROM ({_views()[name]})"


def _registered(site: Site, name: str, files: Sequence[str]) -> str:
    """Rows that came to a site from others, where their dataset is registered there in that very file: such a file may also
    hold datasets that the site has in a file of its own."""
    kind = registry.dataset_types(site).get(name)
    columns = schemas.table(name).arrow.names
    keys = [c for c in kind.dimensions if c in columns] if kind else []
    on = " AND ".join([f"f.filename = {literal(f'{site.root}/')} || d.path", *(f'f."{c}" = d."{c}"' for c in keys)])
    known = delta.select(site, "dataset", f"dataset_type = {literal(name)}")
    return (
        f"SELECT f.* EXCLUDE (filename) FROM ({delta.scan(name, files, filename=True)}) f "
        f"SEMI JOIN (SELECT * FROM ({known}) WHERE dataset_type = {literal(name)}) d ON {on}"
    )


@cache
def _views() -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(VIEWS.glob("*.sql"))}


@cache
def _known() -> frozenset[str]:
    return frozenset([*schemas.tables(), *_views()])


def _inputs(con: duckdb.DuckDBPyConnection, view: str) -> list[str]:
    """The declared tables that a view reads."""
    if view not in _view_inputs:
        named = named_tables(con, _views()[view]) or set()
        _view_inputs[view] = sorted(name for _, name in named if name in schemas.tables())
    return _view_inputs[view]


_view_inputs: dict[str, list[str]] = {}


def literal(text: str) -> str:
    """A text as SQL writes it, in single quotes."""
    return "'" + text.replace("'", "''") + "'"


def identifier(name: str) -> str:
    """A name as SQL writes it, in double quotes."""
    return '"' + name.replace('"', '""') + '"'
