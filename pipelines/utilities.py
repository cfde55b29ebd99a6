"""Cells of a utility matrix, numbers or expressions over a row's columns: which columns they read, and what they come to for each row."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import must
from pipelines.expressions import columns_of, expression, reason

if TYPE_CHECKING:
    import polars as pl

Cells = Sequence[Sequence[float | str]]
SHOWN = 3


def expressions(cells: Cells) -> list[str]:
    """The distinct expressions among the cells, in their order."""
    return list(dict.fromkeys(cell for row in cells for cell in row if isinstance(cell, str)))


def columns(cells: Cells) -> list[str]:
    """Names of the columns that the cells' expressions read; raises ExpostError for an expression that is none."""
    return list(dict.fromkeys(name for text in expressions(cells) for name in columns_of(text)))


def check_columns(cells: Cells, roles: Mapping[str, str]) -> None:
    """Raise ExpostError where an expression names a column that has no cost role in `roles` (column -> role)."""
    costs = [name for name, role in roles.items() if role in ("cost", "feature+cost")]
    for name in columns(cells):
        if name not in costs:
            close = difflib.get_close_matches(name.casefold(), {other.casefold(): other for other in roles}, n=1)
            near = next((other for other in roles if close and other.casefold() == close[0]), None)
            got = f"{name!r} has the role {roles[name]}" if name in roles else f"there is no column {name!r}"
            got += f"; did you mean {near}?" if name not in roles and near else ""
            remedy = f"Give it the role cost or feature+cost under ingest.columns; columns with one: {costs or 'none'}."
            raise must("an expression in utility.matrix must name columns with a cost role", got, remedy)


def check_kinds(cells: Cells, kinds: Mapping[str, str]) -> None:
    """Raise ExpostError where an expression gives no number for columns of these `kinds` (column -> number, category, boolean, date)."""
    found = expressions(cells)
    if not found:
        return
    import polars as pl

    types = {name: pl.Float64 if kind in ("number", "date") else pl.String for name, kind in kinds.items()}
    for text in found:
        _select(text, pl.DataFrame(schema=types), what="; categories and booleans are text")


def values(cells: Cells, frame: pl.DataFrame | None = None, rows: pl.Series | None = None, *, scoring: bool = False) -> NDArray[np.float64]:
    """The utilities: `(K, A)` where every cell is a number, else `(n, K, A)` for the rows of `frame`, whose columns are typed.

    Raises ExpostError where an expression gives a missing or a non-finite value, naming its columns and the rows: `rows` (n,) are their
    numbers in the table, 1.. by default. With `scoring` they are a batch's, which no ingest has read.
    """
    found = expressions(cells)
    if not found:
        return np.array(cells, dtype=np.float64)
    assert frame is not None, "utilities that differ by row need the rows"
    computed = {text: _evaluated(text, frame, rows, scoring) for text in found}
    made = np.empty((frame.height, len(cells), len(cells[0])))
    for k, row in enumerate(cells):
        for a, cell in enumerate(row):
            made[:, k, a] = computed[cell] if isinstance(cell, str) else cell
    return made


def check_choice(values: NDArray[np.float64], actions: Sequence[str]) -> None:
    """Raise ExpostError where one action is best for every class in every row of `values` `(n, K, A)` or `(K, A)`: nothing is to decide."""
    best = values.max(axis=-1)
    for action, name in enumerate(actions):
        if values.size and (values[..., action] >= best).all():
            got = f"{name!r} is best for every true class{' in every row' if values.ndim > 2 else ''}, so there is nothing to decide"
            remedy = "Check the signs: utilities are higher when better, a cost is a negative utility."
            raise must("no action may be best whatever happens", got, remedy)


def _evaluated(text: str, frame: pl.DataFrame, rows: pl.Series | None, scoring: bool) -> NDArray[np.float64]:
    names = columns_of(text)
    absent = [name for name in names if name not in frame.columns]
    if absent:
        remedy = "Add the column; the model's utility needs it to decide."
        raise must(f"the table must have the columns of the expression {text!r}", f"{', '.join(absent)} is missing", remedy)
    series = _select(text, frame)
    result = series.fill_null(float("nan")).to_numpy()
    wrong = np.flatnonzero(~np.isfinite(result))
    if len(wrong):
        shown = "; ".join(_row(i, rows, series, frame.select(names)) for i in wrong[:SHOWN].tolist())
        got = f"{len(wrong)} of {len(result)} rows have none ({shown})"
        empty = next((name for name in names if frame[name][wrong.tolist()].null_count() == len(wrong)), None)
        where = f" ('\"{empty}\" IS NOT NULL')" if empty else ""
        remedy = "Fill the values in, or leave such rows out of the batch."
        if not scoring:
            remedy = (
                f"Fill the values in, leave such rows out (of the source with ingest.where{where}), or write the expression so that it gives "
                "a number there."
            )
        raise must(f"the expression {text!r} must give a finite number in every row", got, remedy)
    return np.asarray(result, dtype=np.float64)


def _select(text: str, frame: pl.DataFrame, what: str = "") -> pl.Series:
    """The expression's value in each row as Float64; raises ExpostError where it gives no numbers."""
    import polars as pl

    rule, remedy = f"the expression {text!r} must give a number", "Mend the cell under utility.matrix, or the kinds of its columns."
    try:
        series = frame.select(expression(text).alias("value"))["value"]
        if not (series.dtype.is_numeric() or series.dtype == pl.Null) or len(series) != frame.height:
            raise must(rule, f"it gives {series.dtype}", remedy)
        return series.cast(pl.Float64)
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise must(rule, reason(error) + what, remedy) from error


def _row(index: int, rows: pl.Series | None, series: pl.Series, read: pl.DataFrame) -> str:
    """`row 3: missing, where C_FN is missing`: the number of a row, its value and what its columns hold."""
    held = ", ".join(f"{name} is {_shown(read[name][index])}" for name in read.columns)
    return f"row {rows[index] if rows is not None else index + 1}: {_shown(series[index])}, where {held}"


def _shown(value: object) -> str:
    return "missing" if value is None else f"{value:g}" if isinstance(value, float) else repr(value)
