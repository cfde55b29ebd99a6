"""Bounds of means that stay valid when costly errors are rare, and the bootstrap for what is not a mean."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

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
    confidence: float = 0.95,
    worst: float,
    best: float,
    two_sided: bool = True,
) -> Interval:
    """Bounds of the mean of bounded `values` `(n,)`: t-bounds with a pseudo-row added, `worst` for the low, `best` for the high bound.

    A plain t or percentile bound never sees a rare, costly error that happens to be absent from the sample; the pseudo-row stands for it.
    With `groups` `(n,)` the variance is cluster-robust, the degrees of freedom count clusters and the pseudo-row becomes a cluster of mean
    size. With `two_sided` each bound misses with probability (1 - confidence) / 2, else each misses with 1 - confidence. Bounds lie in
    [worst, best]; without rows they are [worst, best] around a NaN. Raises ExpostError where a value lies outside [worst, best].
    """
    array = _checked(values, worst, best)
    miss = (1 - confidence) / 2 if two_sided else 1 - confidence
    if array.size == 0:
        return Interval(math.nan, worst, best, 0)
    if not np.isfinite(array).all():
        return Interval(math.nan, math.nan, math.nan, array.size)
    low_mean, low_error, freedom = augmented_moments(array, worst, groups)
    high_mean, high_error, _ = augmented_moments(array, best, groups)
    quantile = float(stdtrit(freedom, 1 - miss))
    return Interval(
        float(array.mean()),
        float(max(worst, low_mean - quantile * low_error)),
        float(min(best, high_mean + quantile * high_error)),
        array.size,
    )


def p_value_above(values: ArrayLike, null: float = 0.0, *, groups: ArrayLike | None = None, worst: float, best: float) -> float:
    """One-sided p-value of "the mean is at most `null`": below alpha exactly where the low bound of `mean_interval` exceeds `null`.

    1 without rows, NaN where a value is NaN. Raises ExpostError where a value lies outside [worst, best].
    """
    array = _checked(values, worst, best)
    if array.size == 0:
        return 1.0
    if not np.isfinite(array).all():
        return math.nan
    mean, error, freedom = augmented_moments(array, worst, groups)
    if error == 0:
        return 0.0 if mean > null else 1.0
    return float(stdtr(freedom, -(mean - null) / error))


def augmented_moments(values: Floats, pseudo: float, groups: ArrayLike | None = None) -> tuple[float, float, int]:
    """Mean, its standard error and degrees of freedom after the pseudo-row joined finite `values` `(n,)`, n >= 1.

    Clustered: sandwich variance G/(G-1) * sum of squared cluster sums of residuals / rows^2, G clusters with the pseudo-cluster.
    """
    sums: Floats = values
    sizes: Floats = np.ones(values.size)
    if groups is not None:
        codes = np.unique(np.asarray(groups), return_inverse=True)[1]
        sums, sizes = np.bincount(codes, weights=values).astype(np.float64), np.bincount(codes).astype(np.float64)
    weight = float(sizes.mean())  # 1 where rows are independent
    sums, sizes = np.append(sums, weight * pseudo), np.append(sizes, weight)
    total, clusters = float(sizes.sum()), sizes.size
    mean = float(sums.sum()) / total
    residual = sums - sizes * mean
    error = math.sqrt(clusters / (clusters - 1) * float(residual @ residual)) / total
    return mean, error, clusters - 1


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
    draws = np.concatenate(found)
    draws = draws[np.isfinite(draws)]
    if draws.size == 0:
        return Interval(estimate, math.nan, math.nan, rows)
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(estimate, float(low), float(high), rows)


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
