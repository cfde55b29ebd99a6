"""Conditions on single columns, of which lessons consist: structured, never text to be parsed."""

from __future__ import annotations

import datetime
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Operation = Literal["<=", ">", "is", "is not", "in", "missing", "present"]
Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Condition:
    """One condition: `value` is a number for <= and >, text for is and is not, a tuple of texts for in, else None.

    A missing value meets "missing" alone, so "is not" leaves it out.
    """

    column: str
    op: Operation
    value: float | str | tuple[str, ...] | None = None


@dataclass(frozen=True)
class Inputs:
    """Columns of n rows: numbers `(n,)`, NaN where missing, and categories as codes `(n,)` into their values, -1 where missing."""

    numbers: Mapping[str, Float]
    categories: Mapping[str, tuple[Int, Sequence[str]]]

    def take(self, rows: Any) -> Inputs:
        """The same for some of the rows, by mask or by index."""
        categories = {name: (codes[rows], values) for name, (codes, values) in self.categories.items()}
        return Inputs({name: column[rows] for name, column in self.numbers.items()}, categories)

    def missing(self, column: str) -> Bool:
        """Where the column has no value, `(n,)`."""
        if column in self.numbers:
            return np.isnan(self.numbers[column])
        return np.asarray(self.categories[column][0] < 0)


def holds(inputs: Inputs, conditions: Sequence[Condition]) -> Bool:
    """Rows `(n,)` that meet all of the conditions, of which there is at least one."""
    return np.asarray(np.logical_and.reduce([_holds(inputs, condition) for condition in conditions]))


def _holds(inputs: Inputs, condition: Condition) -> Bool:
    column, value = condition.column, condition.value
    if condition.op in ("missing", "present"):
        return np.asarray(inputs.missing(column) == (condition.op == "missing"))
    if column in inputs.numbers:
        limit = np.float64(value)  # type: ignore[arg-type]
        return np.asarray(inputs.numbers[column] <= limit if condition.op == "<=" else inputs.numbers[column] > limit)
    codes, values = inputs.categories[column]
    wanted = value if isinstance(value, tuple) else (value,)
    found = np.isin(codes, [code for code, name in enumerate(values) if name in wanted])
    return np.asarray(~found & (codes >= 0) if condition.op == "is not" else found)


def simplified(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    """The same rows by fewer conditions: of several bounds on a column the tightest, of several sets their intersection.

    "present" falls away where another condition on the column already implies it. Columns stay in the order of their first condition.
    """
    kept: list[Condition] = []
    for column in dict.fromkeys(condition.column for condition in conditions):
        mine = [condition for condition in conditions if condition.column == column]
        made = [*_tightest(mine), *_narrowest(mine)]
        bare = [Condition(column, op) for op in ("missing", "present") if any(condition.op == op for condition in mine)]
        kept += made + [condition for condition in bare if condition.op == "missing" or not made]
    return tuple(kept)


def _tightest(conditions: Sequence[Condition]) -> list[Condition]:
    above = [condition for condition in conditions if condition.op == ">"]
    upto = [condition for condition in conditions if condition.op == "<="]
    return [
        *([max(above, key=lambda c: float(c.value))] if above else []),  # type: ignore[arg-type]
        *([min(upto, key=lambda c: float(c.value))] if upto else []),  # type: ignore[arg-type]
    ]


def _narrowest(conditions: Sequence[Condition]) -> list[Condition]:
    sets = [c.value if isinstance(c.value, tuple) else (c.value,) for c in conditions if c.op in ("is", "in")]
    banned = list(dict.fromkeys(c.value for c in conditions if c.op == "is not"))
    column = conditions[0].column
    if not sets:
        return [Condition(column, "is not", value) for value in banned]
    values = tuple(str(v) for v in sets[0] if all(v in other for other in sets) and v not in banned)
    return [Condition(column, "is", values[0]) if len(values) == 1 else Condition(column, "in", values)]


def name_of(conditions: Sequence[Condition], dates: Collection[str] = ()) -> str:
    """The conditions in words, as in "age > 50.5 and housing is rent"; columns among `dates` hold days since 1970-01-01."""
    return " and ".join(_worded(condition, condition.column in dates) for condition in conditions)


def _worded(condition: Condition, is_date: bool) -> str:
    if condition.op in ("missing", "present"):
        return f"{condition.column} is {condition.op}"
    value = condition.value
    if isinstance(value, tuple):
        return f"{condition.column} in {{{', '.join(value)}}}"
    return f"{condition.column} {condition.op} {number_text(value, is_date) if isinstance(value, int | float) else value}"


def number_text(value: float, is_date: bool = False) -> str:
    """A number in as few characters as name it, a whole number of days as its date."""
    if is_date and value == int(value) and abs(value) < 2_000_000:
        return (datetime.date(1970, 1, 1) + datetime.timedelta(days=int(value))).isoformat()
    return f"{int(value)}" if value == int(value) and abs(value) < 1e15 else repr(float(value))


def shortest_between(low: float, high: float) -> float:
    """The number with the fewest decimals from `low` (included) to `high` (excluded), both finite: a cut that people can read."""
    exact, widest = Decimal(repr(float(low))), math.floor(math.log10(high - low)) + 1
    for power in range(widest, widest - 4, -1):
        step = Decimal(1).scaleb(power)
        found = float((exact / step).to_integral_value(ROUND_CEILING) * step)
        if low <= found < high:
            return found
    return low
