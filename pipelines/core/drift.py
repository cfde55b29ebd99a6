"""Compact profiles of columns, and how much a column moved between two tables: sizes of change, and a word that noise rarely earns.

A profile holds counts in bins at the table's own deciles, or of the values that are frequent, and no value of few rows. A later table is
counted in the same bins. "moved" needs both: significance (Holm over all columns of the comparison at 5 %) and a size that matters, the
population stability index above what sampling alone gives. Two samples are taken as independent: where the later table contains the
earlier one, as growing tables do, the levels are smaller than stated. Source of the index: Siddiqi (2006), Credit Risk Scorecards, ch. 8;
its value under no change, (cells - 1) (1/n + 1/m): Yurdakul (2018), Statistical Properties of Population Stability Index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from pipelines.core.rowhash import Column, Text, row_hashes

Floats = NDArray[np.float64]

#: Bins of a number, values of a category that are listed, fewest rows of each of them, and hashed buckets that hold every value.
BINS, LISTED, LEAST, BUCKETS = 10, 50, 5, 16
#: Level of the whole comparison, and the index above noise from which a column "moved" or "moved much": 0.14 and 0.5 standard deviations of a normal.
ALPHA, MOVED, MUCH = 0.05, 0.02, 0.25
#: Rows that a chi-square cell must be expected to hold.
EXPECTED = 5.0
STABLE, WORDS = "stable", ("stable", "moved", "moved much")


@dataclass(frozen=True)
class Cells:
    """Weighted rows of a column in its bins or listed values `(k,)`, of values not listed, missing ones, and per hashed bucket `(b,)`."""

    values: Floats
    other: float
    missing: float
    buckets: Floats

    @property
    def total(self) -> float:
        """All rows."""
        return float(self.values.sum()) + self.other + self.missing

    def scaled(self, rows: float) -> Cells:
        """The same shares of `rows` rows in all."""
        factor = rows / self.total if self.total else 0.0
        return Cells(self.values * factor, self.other * factor, self.missing * factor, self.buckets * factor)


@dataclass(frozen=True)
class Shift:
    """How far a column moved: the index, what noise alone gives it, total variation distance, Kolmogorov-Smirnov's (numbers only), p-value."""

    psi: float
    noise: float
    tv: float
    ks: float | None
    p_value: float


def describe(column: Column, weights: ArrayLike | None = None, *, listed: int = LISTED, least: int = LEAST) -> dict[str, Any]:
    """Profile of a column of `n` rows that count `weights` times each: plain JSON types, the same for every order of rows.

    Numbers: `edges` of bins at the deciles, each bin with at least `least` rows, and their `counts`. Text: `counts` by value of at most `listed`
    values that have `least` rows each, the most frequent ones, then alphabetically; `other` and `buckets`, counts by hash of the value.
    """
    frame: dict[str, Any]
    if isinstance(column, Text):
        rows = np.bincount(column.codes[column.codes >= 0], minlength=len(column.values))
        order = sorted((code for code in range(len(rows)) if rows[code] >= least), key=lambda code: (-rows[code], column.values[code]))
        frame = {"values": sorted(column.values[code] for code in order[:listed])}
    else:
        frame = {"edges": _edges(column[~np.isnan(column)], least)}
    cells = count(frame, column, weights)
    if isinstance(column, Text):
        return {**frame, "counts": cells.values.tolist(), "other": cells.other, "missing": cells.missing, "buckets": cells.buckets.tolist()}
    return {**frame, "counts": cells.values.tolist(), "missing": cells.missing}


def _edges(present: Floats, least: int) -> list[float]:
    """Upper edges of all bins but the last, ascending: deciles, where the bins on both sides have `least` rows."""
    if present.size < 2 * least:
        return []
    candidates = np.unique(np.quantile(present, np.arange(1, BINS) / BINS, method="inverted_cdf"))
    upto = np.searchsorted(np.sort(present), candidates, "right")
    edges, below = list[float](), 0
    for edge, rows in zip(candidates, upto, strict=True):
        if rows - below >= least and present.size - rows >= least:
            edges.append(float(edge))
            below = int(rows)
    return edges


def count(profile: Mapping[str, Any], column: Column, weights: ArrayLike | None = None) -> Cells:
    """Count a column `(n,)` in the bins or values of a profile, each row `weights` times."""
    heavy = np.ones(len(column)) if weights is None else np.asarray(weights, dtype=np.float64)
    if isinstance(column, Text):
        place = {value: cell for cell, value in enumerate(profile["values"])}
        k = len(place)
        cell = np.array([*(place.get(value, k) for value in column.values), k + 1], dtype=np.int64)[column.codes]  # the last: missing
        found: Floats = np.bincount(cell, weights=heavy, minlength=k + 2).astype(np.float64)
        return Cells(found[:k], float(found[k]), float(found[k + 1]), _buckets(column, heavy))
    missing = np.isnan(column)
    bins = np.searchsorted(np.asarray(profile["edges"], dtype=np.float64), column[~missing], "left")
    inside = np.bincount(bins, weights=heavy[~missing], minlength=len(profile["edges"]) + 1)
    return Cells(inside.astype(np.float64), 0.0, float(heavy[missing].sum()), np.zeros(0))


def _buckets(column: Text, weights: Floats) -> Floats:
    distinct = Text(np.arange(len(column.values), dtype=np.int32), column.values)
    bucket = (row_hashes({"value": distinct}) % np.uint64(BUCKETS)).astype(np.int64)
    present = column.codes >= 0
    return np.bincount(bucket[column.codes[present]], weights=weights[present], minlength=BUCKETS).astype(np.float64)


def counted(profile: Mapping[str, Any]) -> Cells:
    """The counts that a profile holds."""
    values, buckets = (np.asarray(profile.get(name, []), dtype=np.float64) for name in ("counts", "buckets"))
    return Cells(values, float(profile.get("other", 0.0)), float(profile["missing"]), buckets)


def shift(before: Cells, now: Cells, *, ordered: bool) -> Shift:
    """How far `now` is from `before`, both scaled to the rows that they are worth; `ordered` says that cells are bins of a number."""
    if not before.total or not now.total:
        return Shift(0.0, 0.0, 0.0, None, 1.0)
    cells, hashed = (before.values, now.values), False
    if not ordered:
        known, (a, b) = _standing(before, now), cells
        hashed = before.other > 0 and (a + b)[known].sum() < 0.5 * (before.total + now.total - before.missing - now.missing)
        cells = (before.buckets, now.buckets) if hashed else (a, b)
    rest = (np.array([0.0 if hashed else item.other, item.missing]) for item in (before, now))
    old, new = (np.concatenate(pair) for pair in zip(cells, rest, strict=True))
    p, q = old / old.sum(), new / new.sum()
    return Shift(
        *_index(old, new), float(np.abs(p - q).sum() / 2), _ks(*cells) if ordered else None, _p_value(before, now, ordered, hashed)
    )


def _index(old: Floats, new: Floats) -> tuple[float, float]:
    """Population stability index of counts, half a row added to each cell that is not empty in both, and its mean under no change."""
    used = old + new > 0
    a, b = old[used] + 0.5, new[used] + 0.5
    p, q = a / a.sum(), b / b.sum()
    noise = (int(used.sum()) - 1) * (1 / old.sum() + 1 / new.sum())
    return float((p - q) @ np.log(p / q)), float(noise)


def _ks(old: Floats, new: Floats) -> float:
    """Largest difference of the distribution functions at the bins' edges, missing values left out."""
    if not old.sum() or not new.sum():
        return 0.0
    return float(np.abs(np.cumsum(old) / old.sum() - np.cumsum(new) / new.sum()).max())


def _standing(before: Cells, now: Cells) -> NDArray[np.bool_]:
    """Listed values `(k,)` that are tested each for itself: so frequent in both tables together that they were not listed by luck.

    A value that only just reached the list had luck, and falls back in the next table; values chosen by their rows in both tables had none.
    """
    share = before.total / (before.total + now.total)
    unlisted = 0.0 if not before.other else min(before.other, before.values.min() if before.values.size >= LISTED else LEAST - 1.0)
    lucky = (np.sqrt(unlisted + 2.25) + 1.5) ** 2 if unlisted else 0.0  # three standard deviations above what an unlisted value may have
    return np.asarray(before.values + now.values >= max(lucky / share, EXPECTED / min(share, 1 - share)))


def _p_value(before: Cells, now: Cells, ordered: bool, hashed: bool) -> float:
    """Bonferroni over exact tests of missing and of new values, and a chi-square test of the cells: a valid level in small tables too."""
    found = [_fisher([(item.total - item.missing, item.missing) for item in (before, now)])]
    if hashed:
        cells = np.array([before.buckets, now.buckets])
    elif ordered:
        cells = np.array([before.values, now.values])
    else:
        known = _standing(before, now)
        rest = [[item.other + item.values[~known].sum()] for item in (before, now)]
        cells = np.hstack([np.array([before.values, now.values])[:, known], rest])
        if not before.other:
            found.append(_fisher([(float(item.values.sum()), item.other) for item in (before, now)]))
    found.append(_chi_square(_merged(cells)))
    tested = [p for p in found if p is not None]
    return min([1.0, *(len(tested) * p for p in tested)])


def _fisher(table: Sequence[tuple[float, float]]) -> float | None:
    """P-value of the exact test of two rows of counts, None where there is nothing to test."""
    rows = np.rint(np.array(table)).astype(np.int64)
    return float(stats.fisher_exact(rows).pvalue) if rows.sum(axis=0).all() and rows.sum(axis=1).all() else None


def _merged(cells: Floats) -> Floats:
    """Cells `(2, k)` joined with their neighbours until each is expected to hold enough rows in both tables."""
    totals = cells.sum(axis=1)
    if not totals.all():
        return cells[:, :0]
    share, joined, open_cell = totals.min() / totals.sum(), list[Floats](), np.zeros(2)
    for cell in cells.T:
        open_cell = open_cell + cell
        if open_cell.sum() * share >= EXPECTED:
            joined.append(open_cell)
            open_cell = np.zeros(2)
    if open_cell.any() and joined:
        joined[-1] = joined[-1] + open_cell
    return np.array(joined).T.reshape(2, -1)


def _chi_square(cells: Floats) -> float | None:
    return float(stats.chi2_contingency(cells, correction=False).pvalue) if cells.shape[1] > 1 else None


def words(shifts: Sequence[Shift]) -> list[str]:
    """One word per column, from all columns of a comparison: "stable" unless it moved significantly (Holm) and by a size that matters."""
    p = np.array([item.p_value for item in shifts])
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(p.size)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(p[order] * np.arange(p.size, 0, -1)))
    return [_word(item.psi - item.noise, level) for item, level in zip(shifts, adjusted, strict=True)]


def _word(above: float, p_value: float) -> str:
    if p_value >= ALPHA or above < MOVED:
        return STABLE
    return WORDS[2] if above >= MUCH else WORDS[1]
