"""Cells of a utility matrix that are expressions over a row's columns: checked without data, evaluated with it, never by `eval`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import must

if TYPE_CHECKING:
    import polars as pl

Cells = Sequence[Sequence[float | str]]
#: Functions that look at one row at a time, by their names in a serialised expression.
_FUNCTIONS = {"Abs", "Ceil", "Coalesce", "Exp", "Floor", "Log", "Log1p", "MaxHorizontal", "MinHorizontal", "Sign"}
_BOOLEAN = {"IsIn", "IsNotNull", "IsNull", "Not"}
_SHOWN = "ABS, CEIL, COALESCE, EXP, FLOOR, GREATEST, IF, LEAST, LN, LOG, NULLIF, POWER, ROUND, SIGN, SQRT"
_REMEDY = 'Mend the cell under utility.matrix; names of columns with spaces stand in double quotes, as in -"lost amount".'


def expressions(cells: Cells) -> list[str]:
    """The distinct expressions among the cells, in their order."""
    return list(dict.fromkeys(cell for row in cells for cell in row if isinstance(cell, str)))


def parsed(text: str) -> pl.Expr:
    """The expression that `text` means; raises ExpostError unless it computes each row's value from that row alone."""
    import polars as pl

    try:
        expression = pl.sql_expr(text)
        names, tree = expression.meta.root_names(), json.loads(expression.meta.serialize(format="json"))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, TypeError) as error:
        got = f"{text!r} is none: {' '.join(str(error).split())[:200]}"
        raise must("a cell must be a number or an SQL expression over columns", got, _REMEDY) from error
    if not _is_elementwise(tree):
        rule = "an expression in a cell must be element-wise, a row's value from that row alone"
        got = f"{text!r} aggregates, looks at other rows, or uses a function that is not allowed"
        raise must(rule, got, f"Compute such a column beforehand and name it here. Allowed: + - * / %, comparisons, CASE, CAST, {_SHOWN}.")
    if not names:
        raise must("an expression in a cell must name a column", f"{text!r} names none", "Write a number without quotes, or name a column.")
    if _divides_integers(tree):
        rule = "a quotient of two whole numbers must be written as a decimal, since SQL would round it down"
        raise must(rule, f"got {text!r}", "Write 0.5 in the place of 1/2.")
    return expression.cast(pl.Float64)


def _is_elementwise(tree: Any) -> bool:
    """Whether every node of a serialised expression is on the list of what looks at one row at a time."""
    if not isinstance(tree, dict) or len(tree) != 1:
        return False
    ((kind, node),) = tree.items()
    if kind in ("Column", "Literal"):
        return True
    if kind == "Function":
        name = node.get("function")
        allowed = name in _FUNCTIONS if isinstance(name, str) else isinstance(name, dict) and _is_known(name)
        return allowed and all(map(_is_elementwise, node.get("input", [])))
    parts = {"BinaryExpr": ("left", "right"), "Ternary": ("predicate", "truthy", "falsy"), "Cast": ("expr",)}.get(kind)
    return parts is not None and all(_is_elementwise(node.get(part)) for part in parts)


def _is_known(function: dict[str, Any]) -> bool:
    ((family, member),) = function.items()
    return family in ("Sql", "Pow") or (family == "Boolean" and (next(iter(member)) if isinstance(member, dict) else member) in _BOOLEAN)


def _divides_integers(tree: Any) -> bool:
    if isinstance(tree, dict):
        function = tree.get("Function")
        if isinstance(function, dict) and function.get("function") == {"Sql": {"Binary": "Div"}}:
            inputs = function.get("input", [])
            if all(isinstance(item, dict) and "Int" in (item.get("Literal") or {}).get("Dyn", {}) for item in inputs):
                return True
        return any(map(_divides_integers, tree.values()))
    return isinstance(tree, list) and any(map(_divides_integers, tree))


def columns(cells: Cells) -> list[str]:
    """Names of the columns that the cells' expressions read; raises ExpostError for an expression that is none."""
    return list(dict.fromkeys(name for text in expressions(cells) for name in parsed(text).meta.root_names()))


def check_columns(cells: Cells, roles: Mapping[str, str]) -> None:
    """Raise ExpostError where an expression names a column that has no cost role in `roles` (column -> role)."""
    costs = [name for name, role in roles.items() if role in ("cost", "feature+cost")]
    for name in columns(cells):
        if name not in costs:
            got = f"{name!r} has the role {roles[name]}" if name in roles else f"there is no column {name!r}"
            remedy = f"Give it the role cost or feature+cost under ingest.columns; columns with one: {costs or 'none'}."
            raise must("an expression in utility.matrix must name columns with a cost role", got, remedy)


def values(cells: Cells, frame: pl.DataFrame | None = None, rows: pl.Series | None = None) -> NDArray[np.float64]:
    """The utilities: `(K, A)` where every cell is a number, else `(n, K, A)` for the rows of `frame`, whose columns are typed.

    Raises ExpostError where an expression gives a missing or a non-finite value, naming it and the rows (`rows`, 1.. by default).
    """
    found = expressions(cells)
    if not found:
        return np.array(cells, dtype=np.float64)
    assert frame is not None, "utilities that differ by row need the rows"
    computed = {text: _evaluated(text, frame, rows) for text in found}
    made = np.empty((frame.height, len(cells), len(cells[0])))
    for k, row in enumerate(cells):
        for a, cell in enumerate(row):
            made[:, k, a] = computed[cell] if isinstance(cell, str) else cell
    return made


def _evaluated(text: str, frame: pl.DataFrame, rows: pl.Series | None) -> NDArray[np.float64]:
    import polars as pl

    expression = parsed(text)
    absent = [name for name in expression.meta.root_names() if name not in frame.columns]
    if absent:
        remedy = "Add the column; the model's utility needs it to decide."
        raise must(f"the table must have the columns of the expression {text!r}", f"{', '.join(absent)} is missing", remedy)
    try:
        series = frame.select(expression.alias("value"))["value"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise must(f"the expression {text!r} must give a number", " ".join(str(error).split())[:200], _REMEDY) from error
    if len(series) != frame.height:
        raise must(f"the expression {text!r} must give one number per row", f"it gives {len(series)} for {frame.height}", _REMEDY)
    result = series.fill_null(float("nan")).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(result))
    if len(wrong):
        shown = ", ".join(f"row {rows[int(i)] if rows is not None else i + 1}: {_shown(series[int(i)])}" for i in wrong[:3])
        remedy = "Drop such rows with ingest.where, fill the values in, or write the expression so that it always gives a number."
        raise must(f"the expression {text!r} must give a finite number in every row", f"{len(wrong)} rows have none ({shown})", remedy)
    return np.asarray(result, dtype=np.float64)


def _shown(value: float | None) -> str:
    return "missing" if value is None else f"{value:g}"
