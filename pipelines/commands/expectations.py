"""`expost expectations`: a suite proposed from the data, wide enough for an ordinary next week, and the takeover of reviewed changes."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines import store
from pipelines.errors import must
from pipelines.suite import SUITE, read_suite

if TYPE_CHECKING:
    import polars as pl

#: Marks an expectation that `propose` wrote; one without it is hand-written and never touched.
GENERATED = {"generated": True}

#: Share of rows that may be new categories, or lie outside a number's range, next week.
TOLERANCE = 0.05
OUTSIDE = 0.02

#: A category with more values than this is not listed value by value.
LISTED = 500

#: The largest finite float64.
LARGEST = sys.float_info.max

Suite = list[dict[str, Any]]


@dataclass(frozen=True)
class Change:
    """What `accept` changed: `before` or `after` is None where the expectation is new or gone."""

    column: str | None
    type: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None

    def __str__(self) -> str:
        """One line for people: what was expected, and what is expected now."""
        where = "table" if self.column is None else self.column
        if self.before is None:
            return f"{where}: {self.type} is new: {_text(self.after)}"
        if self.after is None:
            return f"{where}: {self.type} is gone: {_text(self.before)}"
        moved = sorted(key for key in {*self.before, *self.after} if self.before.get(key) != self.after.get(key))
        shown = "; ".join(_moved(key, self.before.get(key), self.after.get(key)) for key in moved)
        return f"{where}: {self.type}: {shown}"


def propose(table: pl.DataFrame, schema: dict[str, Any]) -> Suite:
    """Propose the expectations that `table`, typed as ingest writes it, and half of it, would pass.

    `schema` is as in `data/ingest/schema.json`: target, classes, columns with name, role and kind. Each expectation has a type, kwargs, a
    description and the marker `meta.generated`; every rule about a column's values stands beside one about its missing share.
    """
    n, target = len(table), schema["target"]
    half = max(1, n // 2)
    names = [column["name"] for column in schema["columns"]] + [target]
    suite = [
        _item("expect_table_row_count_to_be_between", {"min_value": half}, f"The table has at least {half} rows, half of what it had."),
        _item(
            "expect_table_columns_to_match_set",
            {"column_set": sorted(names), "exact_match": False},
            f"The table has the {len(names)} columns that are declared; others may stand beside them.",
        ),
    ]
    for column in schema["columns"]:
        suite += _column(table[column["name"]], column["role"], column["kind"])
    return suite + _target(table[target], schema["classes"])


def _item(kind: str, kwargs: dict[str, Any], description: str, **meta: Any) -> dict[str, Any]:
    return {"type": kind, "kwargs": kwargs, "description": description, "meta": {**GENERATED, **meta}}


def _column(values: pl.Series, role: str, kind: str) -> Suite:
    suite = [_present(values)]
    if role == "key":
        suite.append(
            _item("expect_column_values_to_be_unique", {"column": values.name}, f"{values.name} names each row once, as it is the key.")
        )
    elif role not in ("group", "weight"):  # a row may occur any number of times next week
        suite += [] if kind in ("text", "image") else _numbers(values, kind) if kind in ("number", "date") else _categories(values)
    return suite


def _present(values: pl.Series) -> dict[str, Any]:
    """The share of present values may fall by 2 points, or by five standard errors in half the rows, but not below half of itself."""
    n = len(values)
    present = 1 - values.null_count() / n
    slack = max(OUTSIDE, 5 * _error(present, n))
    mostly = _down(max(present / 2, present - slack))
    text = f"{values.name} is present in at least {100 * mostly:.4g} % of the rows; now in {100 * present:.4g} %."
    return _item("expect_column_values_to_not_be_null", {"column": values.name, "mostly": mostly}, text)


def _numbers(values: pl.Series, kind: str) -> Suite:
    low, high = value_range(values.drop_nulls().to_numpy())
    kwargs: dict[str, Any] = {"column": values.name, "min_value": low, "max_value": high}
    what = f"lies between {low:g} and {high:g}"
    if kind == "date":  # tomorrow is later than every date seen
        del kwargs["max_value"]
        what = f"is no earlier than day {low:g} after 1970-01-01"
    given = values.drop_nulls().to_numpy()
    beyond = (given < low) | ((given > high) & (kind != "date"))
    outside = float(np.mean(beyond)) if len(given) else 0.0
    kwargs["mostly"] = mostly = _down(1 - outside - max(OUTSIDE, 5 * _error(outside, max(1, len(given)))))
    return [
        _item("expect_column_values_to_be_of_type", {"column": values.name, "type_": "float64"}, f"{values.name} is a column of numbers."),
        _item("expect_column_values_to_be_between", kwargs, f"{values.name} {what} in at least {100 * mostly:.4g} % of the rows."),
    ]


def value_range(values: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Range in which next week's ordinary values lie: that of the middle 99 %, widened by its half on each side; never below 0 if none is.

    The middle keeps one wild value from making the range useless; where it is one point (a count that is nearly always 0), all values count.
    `values` float64 `(n,)` without NaN; infinities are left out. Bounds are rounded outwards to three digits.
    """
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 0.0
    scale = 2.0 if np.abs(values).max() > LARGEST / 2 else 1.0  # between quantiles differences are taken, which must be finite
    low, high = (scale * float(value) for value in np.quantile(values / scale, [0.005, 0.995]))
    if low == high:
        low, high = float(values.min()), float(values.max())
    margin = 0.5 * high - 0.5 * low or 0.5 * abs(high) or 0.5
    lowest = _round_out(low - margin, ROUND_FLOOR)
    return (max(0.0, lowest) if values.min() >= 0 else lowest), _round_out(high + margin, ROUND_CEILING)


def _categories(values: pl.Series) -> Suite:
    """Known values may be joined by new ones, which are scored as unseen, in a small share of the rows; singletons tell how many to expect."""
    counts = values.drop_nulls().value_counts()["count"]
    singletons = int((counts == 1).sum())
    known = sorted(values.drop_nulls().unique().to_list())
    if len(known) > LISTED:
        least = max(1, len(known) // 4)
        text = f"{values.name} has at least {least} distinct values, a quarter of now."
        return [_item("expect_column_unique_value_count_to_be_between", {"column": values.name, "min_value": least}, text)]
    mostly = _down(1 - max(TOLERANCE, 3 * singletons / max(1, int(counts.sum()))))
    text = f"{values.name} is one of {len(known)} known values in at least {100 * mostly:.4g} % of the rows; others count as unseen."
    return [_item("expect_column_values_to_be_in_set", {"column": values.name, "value_set": known, "mostly": mostly}, text)]


def _target(values: pl.Series, classes: list[str]) -> Suite:
    """The target is complete, has exactly the declared classes, and their shares are about what they were."""
    name, n = values.name, len(values)
    suite = [
        _item("expect_column_values_to_not_be_null", {"column": name}, f"{name}, the target, is never missing."),
        _item(
            "expect_column_distinct_values_to_equal_set",
            {"column": name, "value_set": list(classes)},
            f"{name} has the {len(classes)} declared classes, all of them and no others.",
        ),
    ]
    for label in classes:
        share = int((values == label).sum()) / n
        suite += _class_share(name, label, share, _error(share, n), both=len(classes) > 2)
    return suite


def _class_share(name: str, label: str, share: float, error: float, *, both: bool) -> Suite:
    """Bounds where the class's odds halve or double, or five standard errors away where that is further; of two classes one bound each does."""
    odds = share / max(1e-12, 1 - share)
    least = _down(min(odds / (2 + odds), max(0.0, share - 5 * error)))
    text = f"{name} is {label} in at least {100 * least:.4g} % of the rows; now in {100 * share:.4g} %."
    kwargs = {"column": name, "value_set": [label], "mostly": least}
    suite = [_item("expect_column_values_to_be_in_set", kwargs, text, share_of_class=label)]
    if both:
        others = _down(1 - max(2 * odds / (1 + 2 * odds), share + 5 * error))
        text = f"{name} is {label} in at most {100 * (1 - others):.4g} % of the rows; now in {100 * share:.4g} %."
        kwargs = {"column": name, "value_set": [label], "mostly": others}
        suite.append(_item("expect_column_values_to_not_be_in_set", kwargs, text, share_of_class=label))
    return suite


def _error(share: float, n: int) -> float:
    """Standard error of a share in half of `n` rows."""
    return math.sqrt(max(share * (1 - share), 0.0) / max(1, n // 2))


def _down(share: float) -> float:
    """A share rounded down to four digits, within [0, 1]."""
    return max(0.0, math.floor(round(share * 1e4, 6)) / 1e4)


def _round_out(value: float, rounding: str) -> float:
    """A number rounded to three digits, within the finite ones."""
    given = Decimal(f"{max(-LARGEST, min(LARGEST, value)):.8e}")  # nine digits: 0.15000000000000002 is 0.15
    rounded = float(given.quantize(Decimal(1).scaleb(given.adjusted() - 2), rounding=rounding)) if given else 0.0
    return max(-LARGEST, min(LARGEST, rounded))


def suite_text(suite: Suite, name: str = "expectations") -> str:
    """The suite's file: JSON with a digest by which `init` sees that it would overwrite nobody's work (null beside hand-written ones)."""
    mark = digest(suite) if all(is_generated(item) for item in suite) else None
    return json.dumps({"name": name, "generated": mark, "expectations": suite}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def is_generated(item: dict[str, Any]) -> bool:
    """Whether `propose` wrote the expectation; others are hand-written and never touched."""
    return bool((item.get("meta") or {}).get("generated"))


def digest(suite: Suite) -> str:
    """SHA-256 over the expectations in canonical JSON."""
    return hashlib.sha256(json.dumps(suite, sort_keys=True, ensure_ascii=True).encode()).hexdigest()


def accept(report: Callable[[str], None] = print, *, dry_run: bool = False, path: Path = SUITE) -> list[Change]:
    """Take the data as it is now for the ordinary: recompute generated expectations, leave hand-written ones, and report what changed.

    The data is `data/ingest/table.parquet`, or the source of params.yaml where ingest has not run. With `dry_run` nothing is written. Raises
    ExpostError where neither is there, or where params.yaml declares other columns than that table was made with.
    """
    table, schema = _current()
    old: dict[str, Any] = read_suite(path, empty_is_fine=True) if path.exists() else {"expectations": []}
    new, changes = merge(old["expectations"], propose(table, schema))
    for change in changes:
        report(str(change))
    if not changes:
        report(f"{path} fits the data as it is; nothing to accept.")
    elif dry_run:
        report(f"{len(changes)} changes, none written. Run `expost expectations accept` to take them over.")
    else:
        with store.atomic_file(path) as temporary:
            temporary.write_text(suite_text(new, str(old.get("name", "expectations"))), encoding="utf-8")
        report(f"{len(changes)} changes written to {path}; hand-written expectations stand as they were.")
    return changes


def merge(old: Suite, proposed: Suite) -> tuple[Suite, list[Change]]:
    """Replace what was generated by `proposed`, keeping the places; a hand-written expectation wins over a proposal of its column and type."""
    waiting = {_identity(item): item for item in proposed}
    merged, changes = [], []
    for item in old:
        if not is_generated(item):
            merged.append(item)
            waiting.pop(_identity(item), None)
    for place, item in enumerate(old):
        if not is_generated(item):
            continue
        after = waiting.pop(_identity(item), None)
        if after is not None:
            merged.insert(place, after)
        if after is None or after["kwargs"] != item["kwargs"]:
            changes.append(_change(item, after))
    changes += [_change(None, item) for item in waiting.values()]
    return merged + list(waiting.values()), changes


def _identity(item: dict[str, Any]) -> tuple[str, str | None, str | None]:
    return item["type"], item.get("kwargs", {}).get("column"), (item.get("meta") or {}).get("share_of_class")


def _change(before: dict[str, Any] | None, after: dict[str, Any] | None) -> Change:
    some = before or after or {}
    return Change(some["kwargs"].get("column"), some["type"], before and before["kwargs"], after and after["kwargs"])


def _current() -> tuple[pl.DataFrame, dict[str, Any]]:
    import polars as pl

    from pipelines.ingest import read_source, schema_of, type_table
    from pipelines.params import load
    from pipelines.params.ingest import Ingest
    from pipelines.tables import raw_path

    ingest, table = load(Ingest), store.stage_path("ingest", "table.parquet")
    if table.exists():
        schema = store.read_json(store.stage_path("ingest", "schema.json"))
        declared = schema_of(ingest, 0, [])
        if any(schema[name] != declared[name] for name in ("target", "classes", "columns")):
            got = "params.yaml declares other columns, roles or classes since it ran"
            raise must("data/ingest must be made with the section ingest of params.yaml as it is now", got, "Run `dvc repro ingest` first.")
        return pl.read_parquet(table), schema
    frame = read_source(raw_path(ingest.source, "table"), ingest)
    return type_table(frame, ingest), schema_of(ingest, len(frame), [])


def _text(kwargs: dict[str, Any] | None) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in (kwargs or {}).items() if key != "column")


def _moved(key: str, before: Any, after: Any) -> str:
    if isinstance(before, list) and isinstance(after, list):
        gone, come = [v for v in before if v not in after], [v for v in after if v not in before]
        return f"{key}" + (f" gains {_value(come)}" if come else "") + (f" loses {_value(gone)}" if gone else "")
    return f"{key} {_value(before)} -> {_value(after)}"


def _value(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 100 else text[:97] + "..."
