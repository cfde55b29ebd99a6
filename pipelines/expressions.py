"""SQL expressions and predicates over a row's own columns: checked by their words, then by their tree; never `eval`.

Polars parses them. Its SQL opens files while it parses (`(SELECT a FROM read_csv('...'))`), and expressions come from the network too,
so only words on a list reach it; what it makes of them must consist of nodes that look at one row at a time.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipelines.errors import ExpostError, must

if TYPE_CHECKING:
    import polars as pl

FUNCTIONS = (
    *("ABS", "CEIL", "COALESCE", "EXP", "FLOOR", "GREATEST", "IF", "IFNULL", "LEAST"),
    *("LN", "LOG", "MOD", "NULLIF", "POWER", "ROUND", "SIGN", "SQRT"),
)
_KEYWORDS = ("AND", "BETWEEN", "CASE", "ELSE", "IN", "NOT", "OR", "THEN", "WHEN")
_NEVER = {"ALL", "ANY", "ARRAY", "EXISTS", "FROM", "LATERAL", "OVER", "SELECT", "SOME", "TABLE", "UNNEST", "VALUES", "WITH"}
_TOKEN = re.compile(
    r"""\s+ | (?P<number>(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?) | (?P<word>[^\W\d]\w*) | (?P<column>"[^"]*") | (?P<text>'[^'\\]*')
    | (?P<bracket>\() | [-+*/%<>=!),]""",
    re.VERBOSE,
)
_LONGEST = 1000  #: characters; a tree too deep would end the process
_ROWWISE = {"Abs", "Ceil", "Coalesce", "Exp", "Floor", "Log", "MaxHorizontal", "MinHorizontal", "Sign"}
_BOOLEAN = {"IsIn", "IsNotNull", "IsNull", "Not"}
_SCALARS = {"Boolean", "Decimal", "Float32", "Float64", "Int32", "Int64", "Null", "String"}
_PARTS = {"BinaryExpr": ("left", "right"), "Ternary": ("predicate", "truthy", "falsy"), "Cast": ("expr",)}
_ALLOWED = f"Allowed: + - * / %, comparisons, AND, OR, NOT, IN, BETWEEN, CASE, CAST, {', '.join(FUNCTIONS)}."


@dataclass(frozen=True)
class Use:
    """What an expression is for: its name, what it must be and the remedies, in the words of the messages; whether it may name dates."""

    name: str
    rule: str
    remedy: str
    nameless: str
    dates: bool = False


CELL = Use(
    "an expression in a cell",
    "a cell must be a number or an SQL expression over columns",
    'Mend the cell under utility.matrix; names of columns with spaces stand in double quotes, as in -"lost amount".',
    "Write a number without quotes, or name a column.",
)
SLICE = Use(
    "a slice",
    "a slice must be an SQL predicate over columns",
    "Mend it under evaluate.slices; text stands in single quotes, names of columns with spaces in double quotes, as in \"home type\" = 'rent'.",
    "Name a column, or leave the slice out: all rows together are judged anyway.",
    dates=True,
)


@lru_cache(maxsize=256)
def expression(text: str, use: Use = CELL) -> pl.Expr:
    """The polars expression that `text` means; raises ExpostError unless it names a column and is element-wise."""
    import polars as pl

    _check_words(text, use)
    try:
        parsed = pl.sql_expr(text)
        names, tree = parsed.meta.root_names(), json.loads(parsed.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError, RecursionError) as error:
        raise _none(text, reason(error), use) from error
    if not _is_elementwise(tree, _SCALARS | ({"Date"} if use.dates else set())):
        raise _not_elementwise(text, use)
    if not names:
        raise must(f"{use.name} must name a column", f"{text[:100]!r} names none", _as_number(text) if use == CELL else use.nameless)
    if _divides_integers(tree):
        rule = "a quotient of two whole numbers must be written as a decimal, since SQL would round it down"
        raise must(rule, f"got {text[:100]!r}", "Write 0.5 in the place of 1/2, or one of the two with a decimal point.")
    return parsed


def columns_of(text: str, use: Use = CELL) -> list[str]:
    """Names of the columns that an expression reads, each once; raises ExpostError where it is none."""
    return list(dict.fromkeys(expression(text, use).meta.root_names()))


def reason(error: BaseException) -> str:
    """What Polars says, on one line."""
    return " ".join(str(error).split())[:200]


def _as_number(text: str) -> str:
    """What to write in the place of an expression of numbers alone: YAML 1.1 reads 1e-3 as text, for want of a point and a sign."""
    found = re.fullmatch(r"([-+]?)(\d+)(?:\.(\d*))?[eE]([-+]?\d{1,3})", text.strip())
    if found is None:
        return CELL.nameless
    sign, whole, fraction, power = found.groups()
    scientific = f"{sign}{whole}.{fraction or 0}e{int(power):+d}"
    plain = f"{Decimal(text.strip()):f}"
    written = f"{plain} or {scientific}" if len(plain) <= 20 else scientific
    return f"Write {written} without quotes; without a point and a sign of the exponent YAML reads it as text."


def _none(text: str, why: str, use: Use) -> ExpostError:
    return must(use.rule, f"{text[:100]!r} is none: {why}", use.remedy)


def _not_elementwise(
    text: str, use: Use, what: str = "aggregates, looks at other rows, or uses a function that is not allowed"
) -> ExpostError:
    rule = f"{use.name} must be element-wise, a row's value from that row alone"
    return must(rule, f"{text[:100]!r} {what}", f"Compute such a column beforehand and name it here. {_ALLOWED}")


def _check_words(text: str, use: Use) -> None:
    """Let only numbers, names, text, operators and the functions above through to the parser, so that it opens nothing."""
    if len(text) > _LONGEST:
        raise must(f"{use.name} must have at most {_LONGEST} characters", f"it has {len(text)}", "Shorten it.")
    if comment := next((mark for mark in ("--", "/*") if mark in text), None):
        raise _none(text, f"{comment} begins a comment (a minus before a minus needs a space)", use)
    place, before = 0, ""  # the word or name that stands before, where one does
    while place < len(text):
        found = _TOKEN.match(text, place)
        if found is None:
            raise _none(text, f"{text[place]!r} has no meaning here", use)
        kind, token = found.lastgroup, found.group().upper()
        if kind == "word" and token in (*_NEVER, "CURRENT_DATE"):
            raise _not_elementwise(text, use, f"has {token}, which looks beyond the row")
        if kind == "bracket" and before and before not in (*_KEYWORDS, *FUNCTIONS, "CAST"):
            raise _not_elementwise(text, use, f"calls {before[:100]}, which is not allowed")
        if kind == "text" and before and before not in (*_KEYWORDS, *(["DATE"] if use.dates else [])):
            raise _none(text, f"{before[:100]} may not stand before text", use)
        if not token.isspace():
            before = token if kind in ("word", "column") else ""
        place = found.end()


def _is_elementwise(tree: Any, scalars: set[str]) -> bool:
    """Whether every node of a serialised expression is on the list of what looks at one row at a time."""
    if not isinstance(tree, dict) or len(tree) != 1:
        return False
    ((kind, node),) = tree.items()
    if kind == "Column":
        return True
    if kind == "Literal":
        return not isinstance(node, dict) or "Scalar" not in node or set(node["Scalar"]) <= scalars
    if kind == "Function":
        return _is_rowwise(node.get("function")) and all(_is_elementwise(part, scalars) for part in node.get("input", []))
    parts = _PARTS.get(kind)
    return parts is not None and all(_is_elementwise(node.get(part), scalars) for part in parts)


def _is_rowwise(function: Any) -> bool:
    if not isinstance(function, dict):
        return function in _ROWWISE
    ((family, member),) = function.items()
    return family in ("Sql", "Pow") or (family == "Boolean" and (next(iter(member)) if isinstance(member, dict) else member) in _BOOLEAN)


def _divides_integers(tree: Any) -> bool:
    """Whether somewhere a whole number made of whole numbers alone is divided by another: columns of numbers hold decimals."""
    if isinstance(tree, list):
        return any(map(_divides_integers, tree))
    if not isinstance(tree, dict):
        return False
    function = tree.get("Function")
    if isinstance(function, dict) and function.get("function") == {"Sql": {"Binary": "Div"}} and all(map(_is_whole, function["input"])):
        return True
    return any(map(_divides_integers, tree.values()))


def _is_whole(tree: Any) -> bool:
    ((kind, node),) = tree.items()
    if kind == "Literal":
        return "Int" in (node.get("Dyn") or {})
    if kind == "Cast":
        return "Int" in str(node.get("dtype"))
    if kind == "Function":
        return node["function"] != {"Sql": "ToFloat"} and all(map(_is_whole, node["input"]))
    return kind != "Column" and all(_is_whole(node[part]) for part in _PARTS[kind] if part != "predicate")
