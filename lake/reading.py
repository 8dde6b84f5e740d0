"""What a SQL statement is allowed: to read, and nothing else; and which tables it names.

DuckDB itself keeps statements to files of the lake; here is refused what would write such files, or change the database.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import duckdb

#: What a statement that holds a PIVOT may begin with (such a statement has no syntax tree that could be looked at).
READING = ("select", "with", "from", "pivot", "unpivot", "table", "values", "describe", "summarize", "(")
#: Words that such a statement may not hold, not even as names.
WRITING = {"copy", "insert", "update", "delete", "merge", "query", "json_execute_serialized_sql"}
#: Queries as the syntax tree calls them: in DuckDB a WITH may also COPY, INSERT, UPDATE, DELETE.
READING_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
#: Functions that run a text.
RUNNING = {"query", "json_execute_serialized_sql"}


class QueryError(ValueError):
    """A statement that cannot be answered; the message is one line."""


def named_tables(con: duckdb.DuckDBPyConnection, sql: str) -> set[tuple[str, str]] | None:
    """The (schema, table) names in a reading statement; None if it may look at any. QueryError if it does not read."""
    try:
        statements = con.extract_statements(sql)
    except duckdb.Error as error:
        raise QueryError(" ".join(str(error).split("\n\n")[0].split("\nLINE ")[0].split())) from None
    if len(statements) != 1:
        raise QueryError(f"one statement at a time, here are {len(statements) or 'none'}")
    kind = statements[0].type.name
    if kind == "EXPLAIN":
        inner = re.match(r"\s*explain\s+(?:analyze\b|\([^)]*\))?", sql, re.IGNORECASE)
        if inner:
            return named_tables(con, sql[inner.end() :])
    elif kind == "MULTI":
        tokens = duckdb.tokenize(sql)
        first = re.match(r"\w+|\(", sql[tokens[0][0] :]) if tokens else None
        words = set(re.findall(r"\w+", sql))
        if first and first[0].lower() in READING and not WRITING.intersection(word.lower() for word in words):
            return {("", word) for word in words}
    elif kind == "SELECT":
        tree = json.loads(con.execute("SELECT json_serialize_sql($sql)", {"sql": sql}).fetchall()[0][0])
        nodes = list(_nodes(tree))
        if tree["error"]:
            kind = "something else"
        elif any(str(node.get("type")).endswith("_NODE") and node["type"] not in READING_NODES for node in nodes):
            kind = "a WITH that writes"
        elif any(str(node.get("function_name")).lower() in RUNNING for node in nodes):
            kind = "a statement made of text"
        elif any(_looks_around(node) for node in nodes):
            return None
        else:
            return {name for name in map(_table_name, nodes) if name[1]}
    raise QueryError(f"SQL here only reads (SELECT, WITH, FROM, DESCRIBE, SHOW, SUMMARIZE, EXPLAIN), this is {kind}")


def condition(text: str) -> str:
    """A text that is to stand between parentheses in a WHERE, if it stays between them; QueryError if it does not."""
    depth, tokens = 0, duckdb.tokenize(text)
    ends = [*(begin for begin, _ in tokens[1:]), len(text)][: len(tokens)]
    for (begin, kind), end in zip(tokens, ends, strict=True):
        for sign in text[begin:end] if kind == duckdb.token_type.operator else "":
            depth += (sign == "(") - (sign == ")")
            if depth < 0 or sign == ";":
                raise QueryError(f"{' '.join(text.split())!r} is not one condition: {sign!r} at character {begin + 1} would end it")
    if depth or not text.strip():
        raise QueryError(f"{' '.join(text.split())!r} is not one condition: {'a ) is missing' if depth else 'it is empty'}")
    return text


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
        for value in tree.values():
            yield from _nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _nodes(value)


def _table_name(node: dict[str, Any]) -> tuple[str, str]:
    if node.get("type") not in ("BASE_TABLE", "SHOW_REF"):
        return "", ""
    return node.get("schema_name") or "", node.get("table_name") or ""


def _looks_around(node: dict[str, Any]) -> bool:
    """True for a node that may see any table: SHOW TABLES, the catalogue of DuckDB, tables named by a string."""
    if node.get("type") == "SHOW_REF":
        return str(node.get("show_type")).startswith("SHOW_")
    if node.get("type") == "BASE_TABLE":
        schema, name = str(node.get("schema_name")), str(node["table_name"])
        return schema in ("information_schema", "pg_catalog") or name.startswith(("duckdb_", "sqlite_", "pg_"))
    if node.get("type") == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name"))
        return name == "query_table" or name.startswith(("duckdb_", "pragma_"))
    return False
