"""Checks of the ingested table that no suite has to ask for: what passes unseen through expectations, and columns gone bad since `init`."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.core.profile import is_nearly_constant, separation

if TYPE_CHECKING:
    import polars as pl

    from pipelines.core.profile import Separation

#: Offending rows shown per check.
SAMPLE = 5


@dataclass(frozen=True)
class Check:
    """One check of one column (or of the table: column None) with what was observed; `remedy` is set where it is not the usual one."""

    check: str
    column: str | None
    expectation: str
    observed: str
    ok: bool
    rows: tuple[tuple[int, Any], ...] = ()
    remedy: str = ""
    error: bool = False


def look_alike_key(text: str) -> str:
    """Reduce `text` to what a reader takes it for: NFKC, case folded, without invisible characters, white space collapsed."""
    return " ".join(text.lower().split()) if text.isascii() else _visible(_visible(text).casefold())


def _visible(text: str) -> str:
    shown = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    return " ".join(unicodedata.normalize("NFKC", shown).split())


def look_alikes(values: Iterable[str]) -> list[list[str]]:
    """Group the distinct `values` that a reader would take for one; groups of one are left out."""
    groups: dict[str, list[str]] = {}
    for value in sorted(set(values)):
        groups.setdefault(look_alike_key(value), []).append(value)
    return [group for group in groups.values() if len(group) > 1]


def repeated(names: Iterable[str]) -> list[str]:
    """Names that occur more than once, or that a reader would take for one another, in order of appearance."""
    listed = list(names)
    normal = [_visible(name) for name in listed]
    return [name for name, key in zip(listed, normal, strict=True) if normal.count(key) > 1]


def separation_of(column: pl.Series, labels: np.ndarray[Any, Any], n_classes: int) -> Separation:
    """Separation of the classes by one column of numbers or text; see `pipelines.core.profile.separation`."""
    return separation(values_of(column), labels, n_classes)


def values_of(column: pl.Series) -> np.ndarray[Any, Any]:
    """Numbers as float64 with NaN for missing, anything else as int64 codes in sorted order with -1 for missing."""
    import polars as pl

    if column.dtype.is_numeric():
        return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
    return (column.cast(pl.String).rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()


def codes_of(column: pl.Series) -> np.ndarray[Any, Any]:
    """Distinct values in sorted order as int64 codes, -1 for missing (null or NaN)."""
    import polars as pl

    values = column.fill_nan(None) if column.dtype.is_float() else column
    return (values.rank("dense").cast(pl.Int64) - 1).fill_null(-1).to_numpy()


def table_checks(
    table: pl.DataFrame, schema: dict[str, Any], *, allow_separating: Collection[str], allow_look_alikes: Collection[str]
) -> list[Check]:
    """Check every column of the ingested `table` against its role in `schema` (`data/ingest/schema.json`)."""
    kinds = {column["name"]: column["kind"] for column in schema["columns"]}
    features = [column["name"] for column in schema["columns"] if "feature" in column["role"]]
    target, classes = schema["target"], list(schema["classes"])
    names_things = {column["name"] for column in schema["columns"] if column["role"] in ("key", "group")}
    text = [target, *(name for name, kind in kinds.items() if kind in ("category", "boolean") and name not in names_things)]
    checks = [_finite(table[name]) for name, kind in kinds.items() if kind in ("number", "date")]
    checks += [_alike(table[name], allow_look_alikes) for name in text]
    checks += [_alive(table[name]) for name in features]
    labels = table[target].cast(str).replace_strict({name: i for i, name in enumerate(classes)}, default=-1, return_dtype=int).to_numpy()
    known = labels >= 0
    plain = [name for name in features if kinds[name] not in ("text", "image")]
    checks += [_honest(table[name].filter(known), labels[known], classes, allow_separating) for name in plain]
    return checks


def _sample(column: pl.Series, bad: pl.Series) -> tuple[tuple[int, Any], ...]:
    rows = bad.arg_true()[:SAMPLE].to_list()
    return tuple((row, column[row]) for row in rows)


def _finite(column: pl.Series) -> Check:
    bad = column.is_infinite().fill_null(False)
    count = int(bad.sum())
    return Check(
        "finite", column.name, "numbers are finite", f"{count} of {len(column)} rows are infinite", count == 0, _sample(column, bad)
    )


def _alike(column: pl.Series, allowed: Collection[str]) -> Check:
    groups = look_alikes(column.drop_nulls().unique().cast(str).to_list())
    shown = "; ".join(" and ".join(repr(value) for value in group) for group in groups[:SAMPLE])
    ok = not groups or column.name in allowed
    rows = () if ok else _sample(column, column.is_in(groups[0][1:]).fill_null(False))
    return Check(
        "look_alikes",
        column.name,
        "no two values differ only in Unicode form, case or white space",
        f"{len(groups)} groups of look-alikes: {shown}" if groups else "no look-alikes",
        ok,
        rows,
        remedy=f"Make them one in the source, or list {column.name!r} under validate.allow_look_alikes in params.yaml.",
    )


def _alive(column: pl.Series) -> Check:
    """A feature that has no two values teaches nothing and, newly so, means that its source broke."""
    codes = codes_of(column)
    remedy = f"Mend the source, or give {column.name!r} the role ignored under ingest.columns in params.yaml."
    rule = "a feature has at least two values"
    missing = int((codes < 0).sum())
    if missing == len(codes):
        return Check("alive", column.name, rule, f"all {missing} rows are missing", False, _sample(column, column.is_null()), remedy)
    distinct = len(np.unique(codes))
    value = "" if distinct > 1 else f": every row is {column[0]!r}"
    return Check("alive", column.name, rule, f"{distinct} distinct{value}", distinct > 1, (), remedy)


def _honest(column: pl.Series, labels: np.ndarray[Any, Any], classes: list[str], allowed: Collection[str]) -> Check:
    found = separation_of(column, labels, len(classes))
    return Check(
        "separating",
        column.name,
        "one feature alone does not separate the classes (AUC below 0.99)",
        f"AUC {found.score:.4f}",
        not found.separates or column.name in allowed,
        (),
        f"It is probably recorded after the outcome: give {column.name!r} the role ignored under ingest.columns in params.yaml; "
        "where it is known in time, list it under validate.allow_separating.",
    )


__all__ = ["SAMPLE", "Check", "codes_of", "is_nearly_constant", "look_alikes", "repeated", "separation_of", "table_checks", "values_of"]
