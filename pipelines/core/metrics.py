"""Metrics of probabilities and actions: per row where they are means, with intervals from fine cells of the score where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from pipelines.core import grid
from pipelines.core.bounds import Interval, checked_weights, percentile_interval

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: A probability of zero for what happened costs 34.5 nats, not infinity: one such row must weigh heavily, not hide all the others.
SMALLEST = 1e-15


def log_loss_rows(probability: Floats, labels: Ints) -> Floats:
    """Log loss `(n,)` in nats of probabilities `(n, K)`, each at least 1e-15; NaN stays NaN."""
    return np.asarray(-np.log(np.maximum(_of_label(probability, labels), SMALLEST)))


def brier_rows(probability: Floats, labels: Ints) -> Floats:
    """Brier score `(n,)` in [0, 2], the squared error summed over all classes (Brier 1950): twice the one-column form where K = 2."""
    squared = np.square(probability).sum(axis=1)
    return np.asarray(squared + 1.0 - 2.0 * _of_label(probability, labels))


def confusion_by_action(labels: Ints, actions: Ints, classes: int, choices: int) -> Ints:
    """Count rows `(K, A)` by true class and action."""
    return np.bincount(labels * choices + actions, minlength=classes * choices).reshape(classes, choices).astype(np.int64)


def weighted_auc(score: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """Area under the ROC curve `(b,)` of score `(n,)` for each row of weights `(b, n)`; ties count half, NaN without both classes."""
    order = np.argsort(score, kind="stable")
    ordered, is_positive, drawn = score[order], positive[order], weights[:, order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    above = np.add.reduceat(drawn * is_positive, starts, axis=1)
    below = np.add.reduceat(drawn * ~is_positive, starts, axis=1)
    return _auc_of(above, below)


def auc(probability: Floats, labels: Ints, weights: Floats | None = None) -> Floats:
    """AUC `(b,)`: of the last class where K = 2, else the plain mean of one class against the rest; NaN where a class is absent."""
    drawn = np.ones((1, labels.size)) if weights is None else weights
    if not np.isfinite(probability).all() or labels.size == 0:
        return np.full(drawn.shape[0], np.nan)
    last = probability.shape[1] - 1
    one = range(last, last + 1) if last == 1 else range(last + 1)
    return np.asarray(np.mean([weighted_auc(probability[:, k], labels == k, drawn) for k in one], axis=0))


def auc_interval(
    probability: Floats,
    labels: Ints,
    *,
    groups: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Interval:
    """`auc` of probabilities `(n, K)` in [0, 1] with its percentile bootstrap interval; rows, or whole `groups` `(n,)`, are drawn again.

    The estimate is exact. Its draws are exact up to `grid.LEVELS` distinct scores of a class; beyond, order within a fine cell of the
    score is lost, which moves a draw by at most half the sum over cells of (share of positives) * (share of negatives): below 1.3e-4, and
    in practice a hundredth of it. All NaN where a class is absent or a probability is no number.
    """
    heavy = checked_weights(weights, labels.size)
    estimate = float(auc(probability, labels, None if heavy is None else heavy[None])[0])
    if not np.isfinite(estimate):
        return Interval(np.nan, np.nan, np.nan, labels.size)
    last = probability.shape[1] - 1
    one = [1] if last == 1 else range(last + 1)
    cells = [grid.cells_of(probability[:, k]) for k in one]
    coded = [2 * cell + (labels == k) for k, cell in zip(one, cells, strict=True)]
    row = np.ones(labels.size) if heavy is None else heavy
    observed = float(grid_auc(*(np.bincount(code, weights=row)[None].astype(np.float64) for code in coded))[0])
    draws = grid.resampled(grid_auc, coded, groups=groups, weights=heavy, resamples=resamples, seed=seed)
    return percentile_interval(estimate, draws + (estimate - observed), confidence, labels.size)


def grid_auc(*drawn: Floats) -> Floats:
    """Mean AUC `(b,)` over classes of weights `(b, 2 * cells)`: of the negatives and of the positives of each cell in turn."""
    found = []
    for weights in drawn:
        pairs = np.pad(weights, ((0, 0), (0, weights.shape[1] % 2))).reshape(len(weights), -1, 2)
        found.append(_auc_of(pairs[:, :, 1], pairs[:, :, 0]))
    return np.asarray(np.mean(found, axis=0))


def _auc_of(above: Floats, below: Floats) -> Floats:
    """AUC `(b,)` from the weights `(b, levels)` of positives and negatives by rising score; ties count half."""
    wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    return np.asarray(np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0))


@dataclass(frozen=True)
class Calibration:
    """Binned calibration error with what a perfectly calibrated model of the same probabilities would show.

    `ece` plug-in error over equal-mass bins; `null_median`, `null_high` median and 95 % quantile of it under perfect calibration;
    `debiased_l2` is another norm than `ece`, the root of the mean squared gap of the bins, not their mean absolute gap: the `signed_root`
    of the debiased squared error (Kumar, Liang and Ma 2019, section 4), near zero if calibrated and below it by chance.
    """

    ece: float
    null_median: float
    null_high: float
    debiased_l2: float
    bins: int
    rows: int


def calibration_error(
    forecast: Floats,
    outcome: NDArray[np.bool_],
    *,
    weights: ArrayLike | None = None,
    bins: int = 15,
    draws: int = 500,
    seed: int = 0,
) -> Calibration:
    """Calibration error of forecasts `(n,)` in [0, 1] of outcomes `(n,)`, in the bins of `equal_mass_bins`; the order of rows is nothing.

    With `weights` `(n,)` shares and rates are weighted, and a bin's variance counts (sum w)^2 / sum w^2 rows.
    """
    rows = forecast.size
    forecast, outcome, weight = _weighed(forecast, outcome, weights)
    if forecast.size == 0 or not np.isfinite(forecast).all():
        return Calibration(np.nan, np.nan, np.nan, np.nan, 0, rows)
    place = equal_mass_bins(forecast, weights=weight, bins=bins)
    mass, squares = np.bincount(place, weights=weight), np.bincount(place, weights=weight**2)
    rate = np.bincount(place, weights=weight * outcome) / mass
    gap = rate - np.bincount(place, weights=weight * forecast) / mass
    squared = float(debiased_square(gap, rate, mass.astype(np.float64), mass / squares))
    median, high = np.quantile(null_errors(forecast, weight, place, draws, seed), [0.5, 0.95])
    error = float((np.abs(gap) * mass).sum() / mass.sum())
    return Calibration(error, float(median), float(high), signed_root(squared), mass.size, rows)


def debiased_square(gap: Floats, rate: Floats, mass: Floats, per_mass: Floats) -> Floats:
    """Mean squared `gap` `(..., bins)` of outcomes and forecasts less the variance of its bins' `rate`, weighted by `mass`: `(...)`.

    `per_mass` `(bins,)` effective rows per mass, 1 where rows have weight 1. Kumar, Liang and Ma (2019), section 4.
    """
    free = np.maximum(mass * per_mass - 1, 1)
    return np.asarray(((gap**2 - rate * (1 - rate) / free) * mass).sum(axis=-1) / mass.sum(axis=-1))


def signed_root(value: float) -> float:
    """Square root of the size, with the sign, of `value`."""
    return float(np.sign(value) * np.sqrt(abs(value)))


def equal_mass_bins(forecast: Floats, *, weights: Floats | None = None, bins: int = 15, fewest: int = 10) -> Ints:
    """Bin `(n,)` of each forecast, from 0 on, of about equal weight; equal forecasts share a bin, whatever the order of rows.

    Each bin holds at least `fewest` rows where there are as many; so there are fewer bins where forecasts tie or rows are few.
    """
    _, code, sizes = np.unique(forecast, return_inverse=True, return_counts=True)
    mass = sizes.astype(np.float64) if weights is None else np.bincount(code, weights=weights)
    wanted = max(1, min(bins, forecast.size // fewest))
    place = np.minimum((np.cumsum(mass) - mass / 2) * wanted // mass.sum(), wanted - 1).astype(np.int64)
    held = np.bincount(place, weights=sizes, minlength=wanted)
    into, current, rows = np.empty(wanted, dtype=np.int64), 0, 0.0
    for j in range(wanted):
        into[j] = current
        rows += held[j]
        if rows >= fewest and held[j + 1 :].sum() >= fewest:
            current, rows = current + 1, 0.0
    return np.asarray(into[place][code], dtype=np.int64)


def _weighed(forecast: Floats, outcome: NDArray[np.bool_], weights: ArrayLike | None) -> tuple[Floats, NDArray[np.bool_], Floats]:
    """Forecasts, outcomes and weights of the rows that have a weight."""
    heavy = checked_weights(weights, forecast.size)
    if heavy is None:
        return forecast, outcome, np.ones(forecast.size)
    kept = heavy > 0
    return forecast[kept], outcome[kept], heavy[kept]


def null_errors(forecast: Floats, weights: Floats, place: Ints, draws: int, seed: int) -> Floats:
    """Plug-in errors `(draws,)` where outcomes are drawn from the forecasts; with many rows by the normal limit of the bins' sums."""
    rng, bins = np.random.default_rng(seed), int(place.max()) + 1
    if forecast.size * draws <= 5_000_000:
        order = np.lexsort((weights, forecast, place))
        p, w = forecast[order], weights[order]
        starts = np.searchsorted(place[order], np.arange(bins))
        gaps = np.add.reduceat(((rng.random((draws, p.size)) < p) - p) * w, starts, axis=1)
    else:
        spread = np.sqrt(np.bincount(place, weights=weights**2 * forecast * (1 - forecast)))
        gaps = spread * rng.standard_normal((draws, bins))
    return np.asarray(np.abs(gaps).sum(axis=1) / weights.sum())


def forecast_and_outcome(probability: Floats, labels: Ints) -> tuple[Floats, NDArray[np.bool_]]:
    """Give what calibration is checked on: the last class's probability where K = 2, else the most probable class's (top-label)."""
    if probability.shape[1] == 2:
        return probability[:, 1], labels == 1
    top = np.argmax(np.nan_to_num(probability, nan=-1.0), axis=1)
    return probability[np.arange(labels.size), top], labels == top


def wilson(successes: Floats, rows: Floats, confidence: float = 0.95) -> tuple[Floats, Floats]:
    """Wilson score interval of a rate (Wilson 1927), elementwise; [0, 1] without rows."""
    z = float(ndtri((1 + confidence) / 2))
    n = np.maximum(rows, 1e-300)
    rate = successes / n
    centre = (rate + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * np.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    empty = rows <= 0
    return np.where(empty, 0.0, np.clip(centre - half, 0.0, rate)), np.where(empty, 1.0, np.clip(centre + half, rate, 1.0))


def reliability_curve(
    forecast: Floats, outcome: NDArray[np.bool_], *, weights: ArrayLike | None = None, bins: int = 10, confidence: float = 0.95
) -> list[dict[str, Any]]:
    """Points of a reliability diagram in equal-mass bins: mean_probability, observed_rate with Wilson bounds low and high, rows.

    Equal forecasts share a bin. With `weights` `(n,)` means and rates are weighted, and Wilson's bounds count (sum w)^2 / sum w^2 rows.
    """
    forecast, outcome, weight = _weighed(forecast, outcome, weights)
    if forecast.size == 0 or not np.isfinite(forecast).all():
        return []
    place = equal_mass_bins(forecast, weights=weight, bins=bins, fewest=1)
    mass, rows = np.bincount(place, weights=weight), np.bincount(place)
    means, rates = (np.bincount(place, weights=weight * values) / mass for values in (forecast, outcome))
    effective = mass**2 / np.bincount(place, weights=weight**2)
    low, high = wilson(rates * effective, effective, confidence)
    names = ("mean_probability", "observed_rate", "low", "high", "rows")
    points = zip(means, rates, low, high, rows, strict=True)
    return [dict(zip(names, (*map(float, point[:4]), int(point[4])), strict=True)) for point in points]


def cost_curve(positive: Floats, labels: Ints, *, weights: Floats | None = None, points: int = 99) -> dict[str, list[float]]:
    """Cost per case along the share c in (0, 1) that a miss has of the two costs, acting from the threshold 1 - c upwards, K = 2.

    Rows count by their `weights` `(n,)`. A miss costs c and a false alarm 1 - c, so the area under the curve is half the one-column Brier
    score of calibrated and uncalibrated models alike (Hernandez-Orallo, Flach and Ferri 2011, Brier curves).
    """
    share = np.arange(1, points + 1) / (points + 1)
    cost = [_cost(positive >= 1 - c, labels, c, weights) for c in share]
    rate = float(np.average(labels, weights=weights)) if labels.size else float("nan")
    return {"miss_share": share.tolist(), "cost": cost, "always": ((1 - share) * (1 - rate)).tolist(), "never": (share * rate).tolist()}


def _cost(act: NDArray[np.bool_], labels: Ints, share: float, weights: Floats | None) -> float:
    return float(np.average(np.where(labels == 1, share * ~act, (1 - share) * act), weights=weights)) if labels.size else float("nan")


def _of_label(probability: Floats, labels: Ints) -> Floats:
    return np.asarray(probability[np.arange(labels.size), labels], dtype=np.float64)
