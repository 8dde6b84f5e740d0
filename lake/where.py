"""Conditions on datasets as people of this field write them, translated to SQL: never pasted into it.

    instrument = 'Cam' AND visit IN (1..9, 20..40:2) AND tract = 9469 AND NOT band = 'g' AND visit.mjd_mid > 60000

A name is a column of ``dataset``, or ``record.column`` of a dimension record. Values are numbers and texts in quotes;
``a..b:c`` in an IN list stands for a, a+c, ... up to and including b. Every value becomes a parameter of the statement.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NoReturn

import pyarrow as pa

import schemas
from lake.demand import Demand, Range
from lake.site import LakeError

#: Dimension records that a condition may ask about, and the columns of a dataset that find them.
RECORDS = {
    "instrument": ("instrument",), "detector": ("instrument", "detector"), "physical_filter": ("instrument", "physical_filter"),
    "exposure": ("instrument", "exposure"), "visit": ("instrument", "visit"), "skymap": ("skymap",), "tract": ("skymap", "tract"),
    "patch": ("skymap", "tract", "patch"),
}  # fmt: skip
#: Columns through which images are related to the sky.
SKY = ("skymap", "tract", "patch")
DEEPEST = 50
Value = str | int | float
_TOKEN = re.compile(
    r"(?P<space>\s+)|(?P<number>(?:\d+(?:\.(?!\.)\d*)?|\.\d+)(?:[eE][+-]?\d+)?)|(?P<text>'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\")"
    r"|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)|(?P<sign>\.\.|<=|>=|!=|<>|==|[=<>(),:-])"
)
_COMPARISONS = {"=": "=", "==": "=", "!=": "<>", "<>": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}
_WORDS = ("and", "or", "not", "in", "is", "null", "like", "between")


class WhereError(LakeError):
    """A condition cannot be understood; the message shows where."""


@dataclass(frozen=True)
class Condition:
    """SQL over ``d`` (datasets) and the named dimension records, with its parameters."""

    sql: str = "true"
    params: dict[str, Value] = field(default_factory=dict)
    records: frozenset[str] = frozenset()
    columns: frozenset[str] = frozenset()
    #: The same without SQL, where it says no more than that columns of ``dataset`` lie in ranges; else None.
    demands: tuple[Demand, ...] | None = ()

    @property
    def on_sky(self) -> bool:
        """Whether it asks for a place of the skymap."""
        return bool(self.columns.intersection(SKY) or self.records.intersection(SKY))


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    at: int


def parse(text: str) -> Condition:
    """The condition that a text describes (an empty one: true); WhereError names the word and its position."""
    return _Parser(text).condition()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = list(self._tokens())
        self.next = 0
        self.depth = 0
        self.params: dict[str, Value] = {}
        self.records: set[str] = set()
        self.columns: set[str] = set()
        self.demands: list[Demand] = []
        self.simple = True

    def condition(self) -> Condition:
        if self.peek().kind == "end":
            return Condition()
        sql = self.either()
        if self.peek().kind != "end":
            self.fail(self.peek(), "AND, OR or the end")
        demands = tuple(self.demands) if self.simple else None
        return Condition(sql, self.params, frozenset(self.records), frozenset(self.columns), demands)

    # -- words ---------------------------------------------------------------------------------------------------------

    def _tokens(self) -> list[_Token]:
        found, at = [], 0
        while at < len(self.text):
            match = _TOKEN.match(self.text, at)
            if match is None:
                quote = self.text[at] in "'\""
                self.fail(_Token("", self.text[at], at), "a closing quote" if quote else "something that a condition may hold")
            if match.lastgroup != "space":
                kind = str(match.lastgroup)
                word = kind == "name" and match[0].lower() in _WORDS
                found.append(_Token(match[0].lower() if word else kind, match[0], at))
            at = match.end()
        return [*found, _Token("end", "the end", len(self.text))]

    def peek(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def accept(self, *kinds: str) -> _Token | None:
        token = self.peek()
        return self.take() if token.kind in kinds or (token.kind == "sign" and token.text in kinds) else None

    def expect(self, kind: str, what: str) -> _Token:
        return self.accept(kind) or self.fail(self.peek(), what)

    def fail(self, token: _Token, expected: str) -> NoReturn:
        shown = token.text if token.kind == "end" else repr(token.text)
        raise WhereError(f"condition: {expected} was expected at position {token.at + 1}, there is {shown}: {self.text!r}")

    # -- logic ---------------------------------------------------------------------------------------------------------

    def either(self) -> str:
        parts = [self.all()]
        while self.accept("or"):
            parts.append(self.all())
            self.simple = False
        return parts[0] if len(parts) == 1 else f"({' OR '.join(parts)})"

    def all(self) -> str:
        parts = [self.denied()]
        while self.accept("and"):
            parts.append(self.denied())
        return " AND ".join(parts)

    def denied(self) -> str:
        self.depth += 1
        if self.depth > DEEPEST:
            self.fail(self.peek(), f"at most {DEEPEST} levels of NOT and parentheses")
        if self.accept("not"):
            sql = f"NOT ({self.denied()})"
            self.simple = False
        elif self.accept("("):
            sql = f"({self.either()})"
            self.expect(")", "a closing parenthesis")
        else:
            sql = self.comparison()
        self.depth -= 1
        return sql

    # -- comparisons ---------------------------------------------------------------------------------------------------

    def comparison(self) -> str:
        name = self.peek()
        if name.kind in ("number", "text"):  # 5 < visit: as visit > 5
            value = self.take()
            sign = self.sign()
            column, kind = self.column()
            turned = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(sign, sign)
            return self.compared(column, turned, self.parameter(value, kind), kind)
        column, kind = self.column()
        if self.accept("is"):
            negated = self.accept("not")
            self.simple = False
            self.expect("null", "NULL")
            return f"{column} IS {'NOT ' if negated else ''}NULL"
        denied = "NOT " if self.accept("not") else ""
        self.simple &= not denied
        if self.accept("in"):
            return f"{denied}({self.members(column, kind)})"
        if self.accept("like"):
            self.simple = False
            return f"{column} {denied}LIKE {self.parameter(self.take(), pa.string())}"
        if self.accept("between"):
            low = self.value(kind)
            self.expect("and", "AND")
            high = self.value(kind)
            self.demand(column, kind, (self.params[low[1:]], self.params[high[1:]]))  # type: ignore[arg-type]
            return f"{column} {denied}BETWEEN {low} AND {high}"
        if denied:
            self.fail(self.peek(), "IN, LIKE or BETWEEN")
        sign = self.sign()
        if self.peek().kind == "name":
            other, other_kind = self.column()
            if _numeric(kind) != _numeric(other_kind):
                self.fail(self.tokens[self.next - 1], "a column of the same kind")
            self.simple = False
            return f"{column} {sign} {other}"
        return self.compared(column, sign, self.value(kind), kind)

    def compared(self, column: str, sign: str, value: str, kind: pa.DataType) -> str:
        v = self.params[value[1:]]
        ranges: dict[str, Range] = {"=": (v, v), ">=": (v, None), "<=": (None, v)}
        if isinstance(v, int):
            ranges |= {">": (v + 1, None), "<": (None, v - 1)}
        self.demand(column, kind, ranges.get(sign))
        return f"{column} {sign} {value}"

    def demand(self, column: str, kind: pa.DataType, *ranges: Range | None) -> None:
        """Note that a column lies in one of the ranges; where that cannot be said so, that there is more to the condition."""
        table, name = column.replace('"', "").split(".")
        if pa.types.is_integer(kind):
            fit = all(r and all(v is None or (isinstance(v, int) and abs(v) < 2**62) for v in r) for r in ranges)
        else:
            fit = pa.types.is_string(kind) and all(r and r[0] == r[1] for r in ranges)
        self.simple &= fit and table == "d"
        self.demands.append((name, [r for r in ranges if r]))

    def sign(self) -> str:
        token = self.take()
        if token.text not in _COMPARISONS or token.kind != "sign":
            self.fail(token, "a comparison (=, !=, <, <=, >, >=, IN, LIKE, BETWEEN, IS)")
        return _COMPARISONS[token.text]

    def members(self, column: str, kind: pa.DataType) -> str:
        self.expect("(", "a list in parentheses")
        parts, ranges = [], []
        while True:
            at = self.peek()
            low = self.value(kind)
            if self.accept(".."):
                if not pa.types.is_integer(kind):
                    self.fail(at, "a whole number for a range")
                high, step = self.value(kind), self.value(kind) if self.accept(":") else None
                if step is not None and self.params[step[1:]] < 1:  # type: ignore[operator]
                    self.fail(self.tokens[self.next - 1], "a stride of 1 or more")
                parts.append(f"{column} BETWEEN {low} AND {high}" + (f" AND ({column} - {low}) % {step} = 0" if step else ""))
                self.simple &= step is None
            else:
                high = low
                parts.append(f"{column} = {low}")
            ranges.append((self.params[low[1:]], self.params[high[1:]]))
            if not self.accept(","):
                break
        self.expect(")", "a comma or a closing parenthesis")
        self.demand(column, kind, *ranges)
        return " OR ".join(parts)

    def column(self) -> tuple[str, pa.DataType]:
        token = self.expect("name", "the name of a column")
        table, _, name = token.text.rpartition(".")
        if table and table not in RECORDS:
            self.fail(token, f"a record of {', '.join(RECORDS)}")
        schema = schemas.table(table or "dataset").arrow
        if name not in schema.names:
            self.fail(token, f"a column of {table or 'dataset'} ({', '.join(schema.names)})")
        if table:
            self.records.add(table)
        else:
            self.columns.add(name)
        return f'"{table or "d"}"."{name}"', schema.field(name).type

    def value(self, kind: pa.DataType) -> str:
        minus = self.accept("-") is not None
        return self.parameter(self.take(), kind, minus)

    def parameter(self, token: _Token, kind: pa.DataType, minus: bool = False) -> str:
        value: Value
        if token.kind == "text" and not _numeric(kind):
            quote = token.text[0]
            value = token.text[1:-1].replace(quote * 2, quote)
        elif token.kind == "number" and _numeric(kind):
            value = int(token.text) if token.text.isdigit() else float(token.text)
            if isinstance(value, int) and value >= 2**63:
                self.fail(token, "a smaller number")
            value = -value if minus else value
        else:
            self.fail(token, "a number" if _numeric(kind) else "a text in quotes")
        name = f"w{len(self.params)}"
        self.params[name] = value
        return f"${name}"


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
