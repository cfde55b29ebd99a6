"""Profile of one column against the target: how well it separates the classes on its own, and whether a rare flag gives one away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: A column whose best one-feature score ranks the classes this well is taken for a copy or a consequence of the target. Of the real
#: tables that this was set on, honest features reach 0.975 (breast_cancer, worst perimeter) to 0.989 (hypothyroid, TSH; KDD 99, count),
#: and columns derived from the target 0.991 (cardiotocography, CLASS) to 1 (KDD 99, attack).
SEPARATING_AUC = 0.99

#: Classes with fewer rows than this say nothing about a column.
MIN_CLASS_ROWS = 10

_FOLDS = 5


@dataclass(frozen=True)
class Separation:
    """One-vs-rest AUC `(K,)` of the best one-feature score, in [0.5, 1], NaN for classes too rare to judge.

    `score` is their row-weighted mean.
    """

    per_class: NDArray[np.float64]
    score: float

    @property
    def separates(self) -> bool:
        """Whether the column alone ranks the classes so well that leakage is likelier than luck."""
        return self.score >= SEPARATING_AUC


@dataclass(frozen=True)
class Flag:
    """A rare value that occurs almost only with one uncommon class.

    `purity` is the share of its `rows` that have the class, `share` that of the class's rows that have the value.
    """

    code: int
    label: int
    rows: int
    purity: float
    share: float


def separation(values: NDArray[np.float64] | NDArray[np.integer], labels: NDArray[np.int64], n_classes: int) -> Separation:
    """Best AUC that one column reaches alone, monotone or not.

    `values` is float64 `(n,)` with NaN = missing, or integer codes `(n,)` with -1 = missing; `labels` int64 `(n,)` in `[0, n_classes)`.
    Numbers are judged twice, by their ranks and by cross-fitted class rates per quantile bin (which see a U shape too); codes by
    cross-fitted rates only, so that a column of unique values scores 0.5 and not 1.
    """
    labels = np.asarray(labels, dtype=np.int64)
    totals = np.bincount(labels, minlength=n_classes)
    if values.size == 0 or np.count_nonzero(totals) < 2:
        return Separation(np.full(n_classes, np.nan), 0.5)
    if np.issubdtype(values.dtype, np.floating):
        ranked, bins = _ranks_and_bins(np.asarray(values, dtype=np.float64))
        cells = _cell_counts(ranked, labels, n_classes)
        by_rank = _auc_of_cells(np.broadcast_to(np.arange(len(cells))[:, None], cells.shape), cells)
        by_rank = np.maximum(by_rank, 1 - by_rank)
        auc = np.fmax(by_rank, _cross_fitted_auc(bins, labels, n_classes))
    else:
        auc = _cross_fitted_auc(np.asarray(values, dtype=np.int64) + 1, labels, n_classes)
    auc = np.where((totals >= MIN_CLASS_ROWS) & (totals < labels.size), np.maximum(auc, 0.5), np.nan)
    known = ~np.isnan(auc)
    score = float(np.average(auc[known], weights=totals[known])) if known.any() else 0.5
    return Separation(auc, score)


def tell_tale(codes: NDArray[np.integer], labels: NDArray[np.int64], n_classes: int) -> Flag | None:
    """Find the value of a two-valued column that gives an uncommon class away, or None.

    `codes` int `(n,)`, -1 = missing. The rarer value must have 10 rows, 95 % of them in one class that holds at most 15 % of all rows,
    and cover 5 % of that class: failure modes recorded beside a failure, or a label of another scheme, look like this.
    """
    present = np.asarray(codes)[np.asarray(codes) >= 0]
    counts = np.bincount(present)
    if np.count_nonzero(counts) != 2:
        return None
    code = int(np.flatnonzero(counts)[np.argmin(counts[counts > 0])])
    totals = np.bincount(labels, minlength=n_classes)
    inside = np.bincount(labels[np.asarray(codes) == code], minlength=n_classes)
    label, rows = int(np.argmax(inside)), int(inside.sum())
    purity, share = inside[label] / rows, inside[label] / totals[label]
    if rows >= 10 and purity >= 0.95 and share >= 0.05 and totals[label] <= 0.15 * labels.size:
        return Flag(code, label, rows, float(purity), float(share))
    return None


def rows_beside_the_commonest(codes: NDArray[np.integer]) -> int:
    """Count the rows whose value, missing included, differs from the commonest one; `codes` int `(n,)` with -1 = missing."""
    return int(codes.size - np.bincount(np.asarray(codes, dtype=np.int64) + 1).max()) if codes.size else 0


def is_nearly_constant(codes: NDArray[np.integer]) -> bool:
    """Whether so few rows (under 5, and under 1 % in small tables) differ from the commonest value that half the table may be constant."""
    return rows_beside_the_commonest(codes) < min(5.0, max(1.0, 0.01 * codes.size))


def dense_codes(values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Code the distinct values of float64 `(n,)` in ascending order as 0, 1, ...; NaN becomes -1."""
    missing = np.isnan(values)
    distinct = np.unique(values[~missing])
    codes = np.searchsorted(distinct, values).astype(np.int64)
    codes[missing] = -1
    return codes


def _ranks_and_bins(values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Dense ranks with missing as 0, and the same cut into at most 64 bins of about equal size with missing as bin 0."""
    ranked = dense_codes(values) + 1
    sizes = np.bincount(ranked)
    bins = int(np.clip(values.size // 20, 8, 64))
    present = sizes.copy()
    present[0] = 0
    before = np.cumsum(present) - present
    per_rank = 1 + (before * bins) // max(1, int(present.sum()))
    if np.count_nonzero(present) <= bins:
        per_rank = np.arange(len(sizes))
    per_rank[0] = 0
    return ranked, per_rank[ranked]


def _cell_counts(cells: NDArray[np.int64], labels: NDArray[np.int64], n_classes: int) -> NDArray[np.int64]:
    """Rows per cell and class, `(cells, K)`."""
    size = (int(cells.max()) + 1) * n_classes
    return np.bincount(cells * n_classes + labels, minlength=size).reshape(-1, n_classes)


def _cross_fitted_auc(codes: NDArray[np.int64], labels: NDArray[np.int64], n_classes: int) -> NDArray[np.float64]:
    """AUC `(K,)` of the class rate per code, fitted without the row's own fold; rows of one fold and code share a score: cells do."""
    # A stride through the rows is a fold that no library version changes; rows sorted by class are spread too.
    order = np.argsort(labels, kind="stable")
    fold = np.empty(labels.size, dtype=np.int64)
    fold[order] = np.arange(labels.size) % _FOLDS
    m = int(codes.max()) + 1
    counts = _cell_counts(fold * m + codes, labels, n_classes)
    counts = np.vstack([counts, np.zeros((_FOLDS * m - len(counts), n_classes), dtype=np.int64)]).reshape(_FOLDS, m, n_classes)
    others = counts.sum(axis=0, keepdims=True) - counts
    prior = others.sum(axis=1, keepdims=True) / np.maximum(others.sum(axis=(1, 2), keepdims=True), 1)
    rate = (others + prior) / (others.sum(axis=2, keepdims=True) + 1)
    # Cells without rows elsewhere get exactly the prior of their fold; folds are ranked together.
    return _auc_of_cells(rate.reshape(-1, n_classes), counts.reshape(-1, n_classes))


def _auc_of_cells(score: NDArray[np.floating], counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """One-vs-rest AUC `(K,)` of rows that share a score per cell: the Mann-Whitney statistic with half weight for ties."""
    n_classes = counts.shape[1]
    rows = counts.sum(axis=1)
    out = np.full(n_classes, np.nan)
    for k in range(n_classes):
        _, tied = np.unique(score[:, k], return_inverse=True)
        positive = np.bincount(tied, weights=counts[:, k])
        negative = np.bincount(tied, weights=rows - counts[:, k])
        if positive.sum() and negative.sum():
            below = np.cumsum(negative) - negative
            out[k] = float(positive @ (below + 0.5 * negative) / (positive.sum() * negative.sum()))
    return out
