"""Metrics of probabilities and actions: per row where they are means, weighted for the bootstrap where they are not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

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
    wins = (above * (np.cumsum(below, axis=1) - below / 2)).sum(axis=1)
    pairs = above.sum(axis=1) * below.sum(axis=1)
    return np.asarray(np.divide(wins, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0))


def auc(probability: Floats, labels: Ints, weights: Floats | None = None) -> Floats:
    """AUC `(b,)`: of the last class where K = 2, else the plain mean of one class against the rest; NaN where a class is absent."""
    drawn = np.ones((1, labels.size)) if weights is None else weights
    if not np.isfinite(probability).all() or labels.size == 0:
        return np.full(drawn.shape[0], np.nan)
    last = probability.shape[1] - 1
    one = range(last, last + 1) if last == 1 else range(last + 1)
    return np.asarray(np.mean([weighted_auc(probability[:, k], labels == k, drawn) for k in one], axis=0))


@dataclass(frozen=True)
class Calibration:
    """Binned calibration error with what a perfectly calibrated model of the same probabilities would show.

    `ece` plug-in error over equal-mass bins; `null_median`, `null_high` median and 95 % quantile of it under perfect calibration;
    `debiased_l2` signed square root of the debiased squared error (Kumar, Liang and Ma 2019, section 4): near zero if calibrated.
    """

    ece: float
    null_median: float
    null_high: float
    debiased_l2: float
    bins: int
    rows: int


def calibration_error(forecast: Floats, outcome: NDArray[np.bool_], *, bins: int = 15, draws: int = 500, seed: int = 0) -> Calibration:
    """Calibration error of forecasts `(n,)` in [0, 1] of outcomes `(n,)`, in equal-mass bins of at least ten rows where n allows."""
    rows = forecast.size
    if rows == 0 or not np.isfinite(forecast).all():
        return Calibration(np.nan, np.nan, np.nan, np.nan, 0, rows)
    bins = max(1, min(bins, rows // 10))
    order = np.argsort(forecast, kind="stable")
    p, y = forecast[order], outcome[order].astype(np.float64)
    starts = (np.arange(bins) * rows) // bins
    sizes = np.diff(np.append(starts, rows)).astype(np.float64)
    total = np.add.reduceat(p, starts)
    gap = (np.add.reduceat(y, starts) - total) / sizes
    null = _null_errors(p, starts, total, draws, seed)
    rate = np.add.reduceat(y, starts) / sizes
    squared = float(((gap**2 - rate * (1 - rate) / np.maximum(sizes - 1, 1)) * sizes).sum() / rows)
    median, high = np.quantile(null, [0.5, 0.95])
    debiased = float(np.sign(squared) * np.sqrt(abs(squared)))
    return Calibration(float((np.abs(gap) * sizes).sum() / rows), float(median), float(high), debiased, bins, rows)


def _null_errors(p: Floats, starts: Ints, total: Floats, draws: int, seed: int) -> Floats:
    """Plug-in errors `(draws,)` where outcomes are drawn from the forecasts; with many rows by the normal limit of the bins' sums."""
    rng = np.random.default_rng(seed)
    if p.size * draws <= 5_000_000:
        sums = np.add.reduceat((rng.random((draws, p.size)) < p).astype(np.float32), starts, axis=1)
    else:
        spread = np.sqrt(np.add.reduceat(p * (1 - p), starts))
        sums = total + spread * rng.standard_normal((draws, starts.size))
    return np.asarray(np.abs(sums - total).sum(axis=1) / p.size)


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


def reliability_curve(forecast: Floats, outcome: NDArray[np.bool_], *, bins: int = 10, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Points of a reliability diagram in equal-mass bins: mean_probability, observed_rate with Wilson bounds low and high, rows."""
    rows = forecast.size
    if rows == 0 or not np.isfinite(forecast).all():
        return []
    order = np.argsort(forecast, kind="stable")
    starts = np.unique((np.arange(bins) * rows) // bins)
    sizes = np.diff(np.append(starts, rows)).astype(np.float64)
    hits = np.add.reduceat(outcome[order].astype(np.float64), starts)
    means = np.add.reduceat(forecast[order], starts) / sizes
    low, high = wilson(hits, sizes, confidence)
    names = ("mean_probability", "observed_rate", "low", "high", "rows")
    return [
        dict(zip(names, (*map(float, point[:4]), int(point[4])), strict=True))
        for point in zip(means, hits / sizes, low, high, sizes, strict=True)
    ]


def cost_curve(positive: Floats, labels: Ints, *, points: int = 99) -> dict[str, list[float]]:
    """Cost per case along the share c in (0, 1) that a miss has of the two costs, acting from the threshold 1 - c upwards, K = 2.

    A miss costs c and a false alarm 1 - c, so the area under the curve is half the one-column Brier score of calibrated and uncalibrated
    models alike (Hernandez-Orallo, Flach and Ferri 2011, Brier curves).
    """
    share = np.arange(1, points + 1) / (points + 1)
    act = positive[None, :] >= (1 - share)[:, None] if labels.size * points <= 20_000_000 else None
    if act is None:
        cost = [_cost(positive >= 1 - c, labels, c) for c in share]
    else:
        cost = [_cost(row, labels, c) for row, c in zip(act, share, strict=True)]
    rate = float(labels.mean()) if labels.size else float("nan")
    return {"miss_share": share.tolist(), "cost": cost, "always": ((1 - share) * (1 - rate)).tolist(), "never": (share * rate).tolist()}


def _cost(act: NDArray[np.bool_], labels: Ints, share: float) -> float:
    return float(np.where(labels == 1, share * ~act, (1 - share) * act).mean()) if labels.size else float("nan")


def _of_label(probability: Floats, labels: Ints) -> Floats:
    return np.asarray(probability[np.arange(labels.size), labels], dtype=np.float64)
