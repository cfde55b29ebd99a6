"""Bounds of means that stay valid when costly errors are rare, and the bootstrap, for display and for what is not a mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from pipelines.core import resample
from pipelines.errors import must

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Interval:
    """An estimate with its bounds and the number of rows behind it; all NaN where a value was NaN."""

    mean: float
    low: float
    high: float
    rows: int


def mean_interval(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    worst: float,
    best: float,
    two_sided: bool = True,
) -> Interval:
    """Bounds of the mean of bounded `values` `(n,)`: t-bounds with a pseudo-row added, `worst` for the low, `best` for the high bound.

    A plain t or percentile bound never sees a rare, costly error that happens to be absent from the sample; the pseudo-row stands for it.
    With `groups` `(n,)` the variance is cluster-robust, the degrees of freedom count clusters, fewer where their sizes are unequal, and the
    pseudo-row becomes a cluster as large as the largest. With `weights` `(n,)`, at least 0, it is the weighted mean; a row is one independent unit whatever its weight, and the pseudo-row
    has the largest weight. With `two_sided` each bound misses with probability (1 - confidence) / 2, else each misses with 1 - confidence.
    Bounds lie in [worst, best]; without rows they are [worst, best] around a NaN. Raises ExpostError where a value lies outside
    [worst, best] and for weights that are negative or not finite.
    """
    array = _checked(values, worst, best)
    heavy = checked_weights(weights, array.size)
    miss = (1 - confidence) / 2 if two_sided else 1 - confidence
    if array.size == 0:
        return Interval(math.nan, worst, best, 0)
    if not np.isfinite(array).all():
        return Interval(math.nan, math.nan, math.nan, array.size)
    if heavy is not None and not heavy.any():
        return Interval(math.nan, worst, best, array.size)
    low_mean, low_error, freedom = augmented_moments(array, worst, groups, heavy)
    high_mean, high_error, _ = augmented_moments(array, best, groups, heavy)
    quantile = float(stdtrit(freedom, 1 - miss))
    return Interval(
        float(array.mean() if heavy is None else array @ heavy / heavy.sum()),
        float(max(worst, low_mean - quantile * low_error)),
        float(min(best, high_mean + quantile * high_error)),
        array.size,
    )


def p_value_above(
    values: ArrayLike,
    null: float = 0.0,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    worst: float,
    best: float,
) -> float:
    """One-sided p-value of "the mean is at most `null`": below alpha exactly where the low bound of `mean_interval` exceeds `null`.

    1 without rows, NaN where a value is NaN. Raises ExpostError as `mean_interval` does.
    """
    array = _checked(values, worst, best)
    heavy = checked_weights(weights, array.size)
    if array.size == 0:
        return 1.0
    if not np.isfinite(array).all():
        return math.nan
    if heavy is not None and not heavy.any():
        return 1.0
    mean, error, freedom = augmented_moments(array, worst, groups, heavy)
    if error == 0:
        return 0.0 if mean > null else 1.0
    return float(stdtr(freedom, -(mean - null) / error))


def augmented_moments(
    values: Floats, pseudo: float, groups: ArrayLike | None = None, weights: ArrayLike | None = None
) -> tuple[float, float, float]:
    """Mean, its standard error and degrees of freedom after the pseudo-row joined finite `values` `(n,)`, n >= 1.

    Sandwich variance of a ratio estimator, G/(G-1) * sum of squared cluster sums of weighted residuals / (sum of weights)^2, with G
    clusters (rows, where there are no groups), the pseudo-cluster, as heavy as the heaviest, among them. Degrees of freedom are the
    effective number of clusters, (sum w)^2 / sum w^2 over their weights (Kish 1965): all of them where they are equal. Rows of weight 0
    are left out.
    """
    heavy = checked_weights(weights, values.size)
    if heavy is not None:
        kept = heavy > 0
        values, heavy, groups = values[kept], heavy[kept], None if groups is None else np.asarray(groups)[kept]
    sums: Floats = values if heavy is None else values * heavy
    sizes: Floats = np.ones(values.size) if heavy is None else heavy
    if groups is not None:
        codes = resample.codes_of(groups)
        sums, sizes = np.bincount(codes, weights=sums).astype(np.float64), np.bincount(codes, weights=heavy).astype(np.float64)
    freedom, weight = effective_size(sizes), float(sizes.max())
    sums, sizes = np.append(sums, weight * pseudo), np.append(sizes, weight)
    total, clusters = float(sizes.sum()), sizes.size
    mean = float(sums.sum()) / total
    residual = sums - sizes * mean
    error = math.sqrt(clusters / (clusters - 1) * float(residual @ residual)) / total
    return mean, error, freedom


def effective_size(weights: ArrayLike) -> float:
    """Number of equally weighted rows that estimate a mean as well as rows of these `weights` `(n,)`: (sum w)^2 / sum w^2 (Kish 1965)."""
    heavy = np.asarray(weights, dtype=np.float64)
    return float(heavy.sum() ** 2 / (heavy @ heavy)) if heavy.any() else 0.0


def checked_weights(weights: ArrayLike | None, rows: int) -> Floats | None:
    """Weights `(n,)` as floats, None for none; raises ExpostError unless there is one per row, finite and at least 0."""
    if weights is None:
        return None
    heavy = np.asarray(weights, dtype=np.float64).ravel()
    if heavy.size != rows:
        raise must("weights must be one number per row", f"got {heavy.size} for {rows} rows", "Pass one weight per row.")
    if not (np.isfinite(heavy) & (heavy >= 0)).all():
        bad = int(np.flatnonzero(~(np.isfinite(heavy) & (heavy >= 0)))[0])
        raise must("weights must be finite and at least 0", f"row {bad} has {heavy[bad]:g}", "Correct the column of weights.")
    return heavy


def bootstrap_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of the (weighted) mean of `values` `(n,)`, for display only; rows, or whole groups, are drawn with replacement.

    Quick where `bootstrap_interval` is not: it holds no table of resamples by rows. All NaN without rows or where a value is NaN.
    """
    series = np.asarray(values, dtype=np.float64)[None]
    return bootstrap_means(series, groups=groups, weights=weights, confidence=confidence, resamples=resamples, seed=seed)[0]


def bootstrap_means(
    values: Floats,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> list[Interval]:
    """`bootstrap_mean` of several series `(m, n)` on the same draws: m intervals."""
    rows = values.shape[1]
    heavy = checked_weights(weights, rows)
    if rows == 0 or not np.isfinite(values).all() or (heavy is not None and not heavy.any()):
        return [Interval(math.nan, math.nan, math.nan, rows)] * len(values)
    sums = values if heavy is None else np.vstack([values * heavy, heavy])
    codes = resample.clusters_of(groups, rows)
    if codes is not None:
        sizes = [np.bincount(codes)] if heavy is None else []
        sums = np.vstack([*(np.bincount(codes, weights=column) for column in sums), *sizes])
    totals = resample.sums(np.ascontiguousarray(sums), resamples, seed)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = totals / rows if len(sums) == len(values) else totals[:, :-1] / totals[:, -1:]
    means = values.mean(axis=1) if heavy is None else values @ heavy / heavy.sum()
    return [percentile_interval(float(mean), draw, confidence, rows) for mean, draw in zip(means, draws.T, strict=True)]


def percentile_interval(estimate: float, draws: Floats, confidence: float, rows: int) -> Interval:
    """Interval of an estimate from the percentiles of its bootstrap `draws` `(b,)`; draws that are no number are left out."""
    kept = draws[np.isfinite(draws)]
    if kept.size == 0:
        return Interval(estimate, math.nan, math.nan, rows)
    low, high = np.quantile(kept, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), rows)


def bootstrap_interval(
    statistic: Statistic,
    rows: int,
    *,
    groups: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    batch_cells: int = 4_000_000,
) -> Interval:
    """Percentile bootstrap of a statistic that is not a mean, for display only; whole groups are drawn where given.

    `statistic` maps weights `(b, rows)`, how often each row was drawn, to b values; resamples where it is NaN (no positive drawn) are
    left out. The estimate is the statistic at weights of one. All NaN where that is no number.
    """
    estimate = float(statistic(np.ones((1, max(rows, 1))))[0]) if rows else math.nan
    if not math.isfinite(estimate):
        return Interval(math.nan, math.nan, math.nan, rows)
    codes = np.arange(rows) if groups is None else np.unique(np.asarray(groups), return_inverse=True)[1]
    units, rng = int(codes.max()) + 1, np.random.default_rng(seed)
    batch, found = max(1, batch_cells // rows), []
    for start in range(0, resamples, batch):
        size = min(batch, resamples - start)
        drawn = rng.integers(units, size=(size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        found.append(statistic(counts[:, codes].astype(np.float64)))
    return percentile_interval(estimate, np.concatenate(found), confidence, rows)


def _checked(values: ArrayLike, worst: float, best: float) -> Floats:
    array = np.asarray(values, dtype=np.float64).ravel()
    slack = 1e-9 * max(1.0, abs(worst), abs(best))
    if not worst <= best:
        raise must("worst must not exceed best", f"worst is {worst:g} and best is {best:g}", "Swap them.")
    if array.size and (np.nanmin(array, initial=best) < worst - slack or np.nanmax(array, initial=worst) > best + slack):
        raise must(
            f"values must lie in [{worst:g}, {best:g}]",
            f"they lie in [{np.nanmin(array):g}, {np.nanmax(array):g}]",
            "Give the range that a value can take, not one seen in a sample.",
        )
    return array
