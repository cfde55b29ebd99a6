"""Slices: named predicates on a row's inputs, never on predictions; which rows of a table lie in each."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pipelines.core.conditions import Condition, Operation
from pipelines.errors import ExpostError, must
from pipelines.expressions import SLICE, columns_of, expression, reason
from pipelines.params.evaluate import Evaluate

if TYPE_CHECKING:
    import polars as pl

Kind = Literal["declared", "lesson", "earlier lesson"]

_REMEDY = "Mend it under evaluate.slices in params.yaml."


@dataclass(frozen=True)
class Slice:
    """A named predicate: SQL where it was declared, conditions that all hold where it is a lesson; `version` whose lesson it was."""

    name: str
    kind: Kind
    rule: str | tuple[Condition, ...]
    version: int | None = None

    @property
    def columns(self) -> list[str]:
        """Names of the columns that the predicate reads, each once."""
        if isinstance(self.rule, str):
            return columns_of(self.rule, SLICE)
        return list(dict.fromkeys(condition.column for condition in self.rule))


def declared(params: Evaluate) -> tuple[Slice, ...]:
    """The slices of params.yaml, in the order of the file."""
    return tuple(Slice(name, "declared", text) for name, text in params.slices.items())


def of_lessons(lessons: Mapping[str, Any] | Iterable[Mapping[str, Any]], kind: Kind = "lesson") -> tuple[Slice, ...]:
    """Lessons as they stand in JSON, the whole file or its list, as slices; raises ExpostError where a condition is none."""
    entries = lessons["lessons"] if isinstance(lessons, Mapping) else lessons
    return tuple(
        Slice(entry["name"], kind, tuple(_condition(item, entry["name"]) for item in entry["conditions"]), entry.get("version"))
        for entry in entries
    )


def _condition(item: Mapping[str, Any], name: str) -> Condition:
    op, value = item.get("op"), item.get("value")
    fits = {
        "<=": isinstance(value, int | float),
        ">": isinstance(value, int | float),
        "is": isinstance(value, str),
        "is not": isinstance(value, str),
        "in": isinstance(value, list) and all(isinstance(one, str) for one in value),
        "missing": value is None,
        "present": value is None,
    }
    if not isinstance(item.get("column"), str) or not fits.get(str(op), False):
        rule = f"a condition of a lesson must have a column, one of the operations {list(get_args(Operation))} and a value that fits it"
        raise must(rule, f"lesson {name!r} has {dict(item)}", "Retire the lesson, or run the stage that writes it again.")
    return Condition(item["column"], op, tuple(value) if isinstance(value, list) else value)  # type: ignore[arg-type]


def masks(frame: pl.DataFrame, slices: Sequence[Slice]) -> NDArray[np.bool_]:
    """Which rows of the typed table lie in each slice, `(s, n)`; where a predicate is missing, the row does not.

    Raises ExpostError for a column that the table lacks and for a predicate that is neither true nor false.
    """
    found = np.zeros((len(slices), frame.height), dtype=np.bool_)
    for i, one in enumerate(slices):
        absent = [name for name in one.columns if name not in frame.columns]
        if absent:
            rule = f"the table must have the columns of the slice {one.name!r}"
            raise must(rule, f"{', '.join(absent)} is missing", _REMEDY if one.kind == "declared" else "Retire the lesson.")
        found[i] = _mask(frame, one)
    return found


def _mask(frame: pl.DataFrame, one: Slice) -> NDArray[np.bool_]:
    import polars as pl
    import polars.selectors as cs

    rule = f"the slice {one.name!r} must be true or false"
    read = frame.select(one.columns).with_columns(cs.float().fill_nan(None))  # to Polars, NaN is above any number
    try:
        predicate = expression(one.rule, SLICE) if isinstance(one.rule, str) else pl.all_horizontal(map(_holds, one.rule))
        series = read.select(predicate.alias("in"))["in"]
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise must(
            rule, f"{reason(error)}; categories and booleans are text, dates are written as in day > DATE '2024-01-31'", _REMEDY
        ) from error
    if series.dtype != pl.Boolean:
        raise must(rule, f"{one.rule!r} gives {series.dtype}; categories and booleans are text, as in flag = 'true'", _REMEDY)
    return np.asarray(series.fill_null(False).to_numpy(), dtype=np.bool_)


def _holds(condition: Condition) -> pl.Expr:
    import polars as pl

    column, value = pl.col(condition.column), condition.value
    if condition.op in ("missing", "present"):
        return column.is_null() if condition.op == "missing" else column.is_not_null()
    if isinstance(value, tuple):
        return column.is_in(value)
    holds = {"<=": column.le, ">": column.gt, "is": column.eq, "is not": column.ne}[condition.op]
    return holds(pl.lit(value, dtype=pl.Float64 if isinstance(value, int | float) else pl.String))


def applicable(frame: pl.DataFrame, slices: Sequence[Slice]) -> tuple[list[Slice], list[tuple[Slice, str]]]:
    """The slices that these inputs can have rows in, and the others with the reason: a column that is gone, or of another type now."""
    import polars as pl

    kept, others = [], []
    for one in slices:
        absent = next((name for name in one.columns if name not in frame.columns), None)
        if absent is not None:
            others.append((one, f"column {absent!r} is not among the table's inputs now"))
            continue
        wrong = [c.column for c in one.rule if isinstance(c, Condition) and not _fits(c, frame.schema[c.column] == pl.String)]
        if wrong:
            others.append((one, f"column {wrong[0]!r} is of another type now"))
        else:
            kept.append(one)
    return kept, others


def _fits(condition: Condition, is_text: bool) -> bool:
    return condition.value is None or is_text is not isinstance(condition.value, int | float)


def check(slices: Sequence[Slice], columns: Mapping[str, str], target: str) -> list[str]:
    """What is wrong with declared slices, one sentence each; `columns` maps the table's columns to their kinds, those left out to "ignored"."""
    import polars as pl

    read = {name: kind for name, kind in columns.items() if kind != "ignored"}
    schema = {name: pl.Float64 if kind in ("number", "date") else pl.String for name, kind in read.items()}
    faults = []
    for one in slices:
        try:
            wrong = next((name for name in one.columns if name not in read), None)
            if wrong is not None:
                raise _unreadable(one.name, wrong, columns, target)
            masks(pl.DataFrame(schema=schema), [one])
        except ExpostError as error:
            faults.append(f"evaluate.slices.{one.name}: {error}")
    return faults


def _unreadable(slice_name: str, name: str, columns: Mapping[str, str], target: str) -> ExpostError:
    rule = f"the slice {slice_name!r} must read columns of the table other than the target"
    if name == target:
        return must(rule, f"{name!r} is the target", "A slice tells which cases, not how they end: name inputs.")
    if name in columns:
        return must(rule, f"{name!r} has the role ignored", "Give it another role under ingest.columns, such as key.")
    close = difflib.get_close_matches(name.casefold(), {other.casefold(): other for other in columns}, n=1)
    near = next((f"; did you mean {other}?" for other in columns if close and other.casefold() == close[0]), "")
    return must(rule, f"there is no column {name!r}{near}", _REMEDY)
