"""From typed columns to the network's inputs: fitted on train rows, stored as JSON numbers, the same code in training and in scoring.

Numbers: a stored grid of train quantiles maps onto the scores of a normal distribution (`np.interp`, no noise), so heavy tails
and outliers stay inside the range that periodic embeddings resolve; a missing value becomes the train median, with an indicator
column where train rows miss it too. Categories: values seen in train have codes 1, 2, ...; a missing value has its own code when
train rows miss it too; everything else has code 0, whose embedding is zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from pipelines.errors import must

FORMAT = 1
GRID = 256
UNSEEN = 0
Floats = NDArray[np.float64]
Codes = NDArray[np.integer[Any]]


def fit(
    numbers: Floats,
    categories: Codes,
    number_names: Sequence[str],
    category_names: Sequence[str],
    vocabularies: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """Fit the preprocessing on train rows: `numbers` (n, F), NaN missing; `categories` (n, C) codes into `vocabularies`, -1 missing.

    Returns plain JSON types. Columns that are constant in these rows are listed under `dropped` and reach no network.
    Raises ExpostError when nothing varies.
    """
    fitted_numbers = [_fit_number(name, column) for name, column in zip(number_names, numbers.T, strict=True)]
    fitted_categories = [_fit_category(name, column, vocabularies[name]) for name, column in zip(category_names, categories.T, strict=True)]
    kept_numbers = [column for column in fitted_numbers if column["grid"] or column["indicator"]]
    kept_categories = [column for column in fitted_categories if len(column["values"]) + column["missing"] > 1]
    kept = {column["name"] for column in (*kept_numbers, *kept_categories)}
    if not kept:
        raise must(
            "at least one feature must vary in the train rows",
            f"all {len(number_names) + len(category_names)} are constant",
            "Give more columns the role feature, or add rows.",
        )
    return {
        "format": FORMAT,
        "numbers": kept_numbers,
        "categories": kept_categories,
        "dropped": [name for name in (*number_names, *category_names) if name not in kept],
    }


def _fit_number(name: str, column: Floats) -> dict[str, Any]:
    present = np.sort(column[np.isfinite(column)])
    if not len(present):
        return {"name": name, "median": 0.0, "indicator": False, "grid": [], "scores": []}
    grid, scores = _quantile_scores(present)
    return {
        "name": name,
        "median": float(np.median(present)),
        "indicator": len(present) < len(column),
        "grid": grid.tolist() if len(grid) > 1 else [],
        "scores": scores.tolist() if len(grid) > 1 else [],
    }


def _quantile_scores(ordered: Floats) -> tuple[Floats, Floats]:
    """Distinct grid values and the normal score of the middle of each value's rank range; `ordered` (n,) ascending, finite."""
    values = np.unique(ordered)
    if len(values) > GRID:
        values = np.unique(np.quantile(ordered, np.linspace(0, 1, GRID)))
    below, upto = np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")
    middle = np.clip((below + upto) / (2 * len(ordered)), 0.5 / len(ordered), 1 - 0.5 / len(ordered))
    return values, ndtri(middle)


def _fit_category(name: str, column: Codes, vocabulary: Sequence[str]) -> dict[str, Any]:
    seen = np.unique(column)
    return {"name": name, "values": [vocabulary[code] for code in seen if code >= 0], "missing": bool((seen < 0).any())}


def transform(
    preprocessing: Mapping[str, Any],
    numbers: Mapping[str, Floats],
    categories: Mapping[str, Codes],
    vocabularies: Mapping[str, Sequence[str]],
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Apply a fitted preprocessing to columns given by name: numbers (n,) with NaN for missing, codes (n,) into `vocabularies`, -1 missing.

    Returns (n, F') float32, always finite, and (n, C') int64. Columns that the preprocessing does not use are not looked at.
    """
    columns = [part for fitted in preprocessing["numbers"] for part in _transform_number(fitted, numbers[fitted["name"]])]
    codes = [
        _transform_category(fitted, categories[fitted["name"]], vocabularies[fitted["name"]]) for fitted in preprocessing["categories"]
    ]
    rows = len(next(iter((*columns, *codes))))
    return (
        np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((rows, 0), np.float32),
        np.stack(codes, axis=1) if codes else np.zeros((rows, 0), np.int64),
    )


def _transform_number(fitted: Mapping[str, Any], column: Floats) -> list[Floats]:
    missing = np.isnan(column)
    parts = []
    if fitted["grid"]:
        parts.append(np.interp(np.where(missing, fitted["median"], column), fitted["grid"], fitted["scores"]))
    if fitted["indicator"]:
        parts.append(missing.astype(np.float64))
    return parts


def _transform_category(fitted: Mapping[str, Any], column: Codes, vocabulary: Sequence[str]) -> NDArray[np.int64]:
    known = {value: code for code, value in enumerate(fitted["values"], start=1)}
    # The last entry serves the code -1: a missing value.
    missing = len(known) + 1 if fitted["missing"] else UNSEEN
    table = np.array([*(known.get(value, UNSEEN) for value in vocabulary), missing], dtype=np.int64)
    return table[column]


def named(names: Sequence[str], columns: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Columns (n, len(names)) as a mapping from name to (n,)."""
    return dict(zip(names, columns.T, strict=True))


def cardinalities(preprocessing: Mapping[str, Any]) -> list[int]:
    """Number of codes of each category column of the network, the unseen code included."""
    return [1 + len(fitted["values"]) + bool(fitted["missing"]) for fitted in preprocessing["categories"]]


def number_count(preprocessing: Mapping[str, Any]) -> int:
    """Number of float columns of the network, indicators included."""
    return sum(bool(fitted["grid"]) + bool(fitted["indicator"]) for fitted in preprocessing["numbers"])


def unseen_counts(preprocessing: Mapping[str, Any], codes: NDArray[np.int64], missing: Mapping[str, NDArray[np.bool_]]) -> dict[str, int]:
    """Rows of each category column that hold a value never seen in train; `codes` (n, C') of `transform`, `missing` masks (n,) by name."""
    counts = {
        fitted["name"]: int(((column == UNSEEN) & ~missing[fitted["name"]]).sum())
        for fitted, column in zip(preprocessing["categories"], codes.T, strict=True)
    }
    return {name: count for name, count in counts.items() if count}
