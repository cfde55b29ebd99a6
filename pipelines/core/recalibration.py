"""Logistic recalibration: slope and shift that probabilities would need, with intervals, and what they say in a word.

For probabilities p the model is y ~ softmax(slope * log p + bias); for two classes that is logit P = slope * logit p + intercept
(Cox 1958). A slope below 1 means over-confident probabilities, above 1 under-confident ones; at slope 1, an intercept
(a bias) other than 0 means that a class is over-forecast throughout.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import fdtrc, fdtri

from pipelines.core import resample
from pipelines.core.bounds import checked_weights, effective_size

Float = NDArray[np.float64]
Int = NDArray[np.int64]

NARROW = 2.0  #: a slope known to a factor of two either way is known well enough to say "calibrated"
FEW = 20.0  #: effective rows: below, a shift needs a slope that is well known; what the expected variance is worth
WIDEST = 64.0  #: slopes and intercepts beyond are called unbounded: the rows are separated
SMALLEST = 1e-15  #: a probability of zero would make the log infinite


@dataclass(frozen=True)
class Recalibration:
    """Slope with bounds, p-value of "no shift" at slope 1, word, clusters; intercept with bounds (of the last class's log-odds at slope 1).

    The intercept is NaN for more than two classes; all numbers are NaN without rows and where a probability is no number.
    """

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    intercept_low: float
    intercept_high: float
    shift_p_value: float
    word: str
    clusters: int


def check(probability: Any, labels: Any, groups: Any, *, weights: Any = None, confidence: float = 0.95) -> Recalibration:
    """Judge `probability` `(n, K)` against `labels` `(n,)`; rows of one of `groups` `(n,)` count as dependent.

    Intervals are the profile likelihood's and the shift's test the likelihood ratio's, both with F instead of chi-square for small samples,
    its degrees of freedom from the effective number of groups, (sum w)^2 / sum w^2 over their weights (Kish 1965), and both allowing for
    the design effect of the groups and of the `weights` `(n,)`. An upper bound may be infinite: where the rows are separated no slope is
    too steep.
    """
    rows = _rows(probability, labels, groups, weights)
    if rows is None:
        nan = math.nan
        return Recalibration(nan, nan, nan, nan, nan, nan, nan, "too few rows to say", 0)
    classes, clusters = len(rows.log_p), int(rows.codes.max()) + 1
    free = classes - 1
    independent = effective_size(np.bincount(rows.codes, weights=rows.weights))
    left = max(independent - free - 1, 1.0)
    quantile = float(fdtri(1, left, confidence))
    unchanged, forecast = _likelihood(rows, _unit(classes))
    least, at_one, p = _minimise(rows, _unit(classes), _biases(classes))
    slope_effect, shift_effect = _design_effects(rows, p, forecast)
    slope, low, high = _slope(rows, at_one, slope_effect * quantile)
    shifted = 2 * (unchanged - least) / shift_effect
    p_value = float(fdtrc(free, left, max(shifted, 0.0) / free))
    intercept = _intercept(rows, at_one, least, shift_effect * quantile) if free == 1 else (math.nan,) * 3
    return Recalibration(slope, low, high, *intercept, p_value, _word(low, high, p_value, 1 - confidence, independent), clusters)


@dataclass(frozen=True)
class Outside:
    """An estimate, the range that it should lie in, and the one-sided p-value of lying there; 1 where the estimate does."""

    estimate: float
    range: tuple[float, float]
    p_value: float

    @property
    def edge(self) -> float | None:
        """The end of the range beyond which the estimate lies, None within."""
        low, high = self.range
        return low if self.estimate < low else high if self.estimate > high else None


def outside(
    probability: Any, labels: Any, groups: Any, *, slope: tuple[float, float], intercept: tuple[float, float], weights: Any = None
) -> dict[str, Outside]:
    """Whether `slope` and, for two classes, `intercept` of `check` lie outside their ranges; nothing without rows.

    The p-value is that of the likelihood ratio at the nearer end of the range, with the F quantiles and design effects of `check`.
    """
    rows = _rows(probability, labels, groups, weights)
    if rows is None:
        return {}
    classes = len(rows.log_p)
    independent = effective_size(np.bincount(rows.codes, weights=rows.weights))
    left = max(independent - classes, 1.0)
    forecast = _likelihood(rows, _unit(classes))[1]
    least, at_one, p = _minimise(rows, _unit(classes), _biases(classes))
    effects = _design_effects(rows, p, forecast)

    def tested(estimate: float, given: tuple[float, float], best: float, effect: float, loss: Callable[[float], float]) -> Outside:
        found = Outside(estimate, given, 1.0)
        if found.edge is None:
            return found
        ratio = max(2 * (loss(found.edge) - best) / effect, 0.0)
        return Outside(estimate, given, float(fdtrc(1, left, ratio)) / 2)

    def at_slope(value: float) -> float:
        return _minimise(rows, np.concatenate([[value], at_one[1:]]), _biases(classes))[0]

    at, theta, _ = _minimise(rows, at_one, _biases(classes) | (np.arange(classes + 1) == 0))
    made = {"slope": tested(float(np.clip(theta[0], 0.0, WIDEST)), slope, at, effects[0], at_slope)}
    if classes == 2:

        def at_intercept(value: float) -> float:
            return _likelihood(rows, np.array([1.0, 0.0, value]))[0]

        made["intercept"] = tested(float(at_one[2] - at_one[1]), intercept, least, effects[1], at_intercept)
    return made


def _word(low: float, high: float, shift_p_value: float, alpha: float, independent: float) -> str:
    if high < 1:
        return "over-confident"
    if low > 1:
        return "under-confident"
    narrow = low >= 1 / NARROW and high <= NARROW
    if shift_p_value < alpha and (narrow or independent >= FEW):
        return "shifted"
    return "calibrated" if narrow else "too few rows to say"


@dataclass(frozen=True)
class _Rows:
    """Log-probabilities by class `(K, n)` and of the label `(n,)`, labels, codes of the groups and weights `(n,)`."""

    log_p: Float
    own: Float
    labels: Int
    codes: Int
    weights: Float


def _rows(probability: Any, labels: Any, groups: Any, weights: Any) -> _Rows | None:
    values, classes = np.asarray(probability, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    heavy = checked_weights(weights, classes.size)
    kept = np.ones(classes.size, dtype=bool) if heavy is None else heavy > 0
    if not kept.any() or not np.isfinite(values).all():
        return None
    log_p = np.log(np.maximum(np.ascontiguousarray(values[kept].T), SMALLEST))
    weight = np.ones(int(kept.sum())) if heavy is None else heavy[kept]
    own = log_p[classes[kept], np.arange(weight.size)]
    return _Rows(log_p, own, classes[kept], resample.codes_of(np.asarray(groups)[kept]), weight)


def _unit(classes: int) -> Float:
    return np.concatenate([[1.0], np.zeros(classes)])


def _biases(classes: int) -> NDArray[np.bool_]:
    """Mask `(1 + K,)` of the free numbers where the slope is held; the first class's bias stays 0, since only differences count."""
    return np.arange(classes + 1) > 1


def _likelihood(rows: _Rows, theta: Float) -> tuple[float, Float]:
    """Summed log loss at (slope, biases) and the probabilities `(K, n)` there."""
    z = theta[0] * rows.log_p + theta[1:, None]
    largest = z.max(axis=0)
    z -= largest
    p = np.exp(z, out=z)
    total = p.sum(axis=0)
    p /= total
    loss = np.log(total) + largest - theta[0] * rows.own - theta[1:].take(rows.labels)
    return float((loss * rows.weights).sum()), p


def _derivatives(rows: _Rows, p: Float) -> tuple[Float, Float]:
    """Gradient `(1 + K,)` and Hessian of the summed log loss in (slope, biases)."""
    K = len(p)
    weighted = p * rows.weights
    mean = (p * rows.log_p).sum(axis=0)
    seen = np.bincount(rows.labels, weights=rows.weights, minlength=K)
    shares = weighted.sum(axis=1)
    gradient = np.concatenate([[((mean - rows.own) * rows.weights).sum()], shares - seen])
    hessian = np.zeros((K + 1, K + 1))
    centred = rows.log_p - mean
    spread = weighted * centred
    hessian[0, 0] = float((spread * centred).sum())
    hessian[0, 1:] = hessian[1:, 0] = spread.sum(axis=1)
    hessian[1:, 1:] = np.diag(shares) - np.einsum("ki,li->kl", weighted, p)
    return gradient, hessian


def _minimise(rows: _Rows, theta: Float, free: NDArray[np.bool_]) -> tuple[float, Float, Float]:
    """Least log loss over the free numbers, where it is taken, and the probabilities there.

    Newton steps on a convex function, halved until they descend and never longer than `reach`: far out, where slopes are steep, all
    probabilities are 0 or 1 and a Newton step knows no length.
    """
    value, p = _likelihood(rows, theta)
    reach = 4.0 * max(1.0, abs(theta[0]))
    for _ in range(200):
        gradient, hessian = _derivatives(rows, p)
        curvature = hessian[np.ix_(free, free)]
        ridge = 1e-10 * max(float(curvature.diagonal().max()), 1e-6 * float(rows.weights.sum()))
        step = np.zeros(theta.size)
        step[free] = np.linalg.solve(curvature + ridge * np.eye(len(curvature)), gradient[free])
        step *= min(1.0, reach / max(float(np.abs(step).max()), 1e-300))
        decrease = float(gradient @ step)
        if decrease < 1e-12 * float(rows.weights.sum()):
            break
        size = 1.0
        while size > 1e-9 and (trial := _likelihood(rows, theta - size * step))[0] > value - 1e-4 * size * decrease:
            size /= 2
        if size <= 1e-9:
            break
        theta, (value, p) = theta - size * step, trial
        if np.abs(theta).max() > 4 * WIDEST:  # separated rows or an absent class: nothing is left to gain
            break
    return value, theta, p


def _slope(rows: _Rows, at_one: Float, cut: float) -> tuple[float, float, float]:
    """Slope in [0, WIDEST] at the least loss, and where twice the profile loss has risen by `cut` on either side."""
    biases = _biases(len(rows.log_p))
    least, best, p = _minimise(rows, at_one, biases | (np.arange(biases.size) == 0))
    if not 0 <= best[0] <= WIDEST:
        best = np.concatenate([[np.clip(best[0], 0.0, WIDEST)], best[1:]])
        least, best, p = _minimise(rows, best, biases)
    slope = float(best[0])
    hessian = _derivatives(rows, p)[1]
    nuisance = np.linalg.pinv(hessian[np.ix_(biases, biases)])
    information = float(hessian[0, 0] - hessian[0, biases] @ nuisance @ hessian[biases, 0])
    half = 1.1 * math.sqrt(cut / information) if information > 0 else WIDEST
    near = {"theta": best}

    def rise(at: float) -> float:
        start = np.concatenate([[at], near["theta"][1:]])
        value, near["theta"], _ = _minimise(rows, start, biases)
        return 2 * (value - least) - cut

    low, high = _crossing(rise, slope, -half, 0.0), _crossing(rise, slope, half, WIDEST)
    return slope, 0.0 if low is None else low, math.inf if high is None else high


def _intercept(rows: _Rows, at_one: Float, least: float, cut: float) -> tuple[float, float, float]:
    """Intercept of the last of two classes at slope 1, and where twice the loss has risen by `cut` on either side."""
    best = float(at_one[2] - at_one[1])

    def rise(at: float) -> float:
        return 2 * (_likelihood(rows, np.array([1.0, 0.0, at]))[0] - least) - cut

    share = _likelihood(rows, at_one)[1][1]
    information = float((share * (1 - share) * rows.weights).sum())
    half = 1.1 * math.sqrt(cut / information) if information > 1e-6 else WIDEST
    low, high = _crossing(rise, best, -half, -WIDEST), _crossing(rise, best, half, WIDEST)
    return best, -math.inf if low is None else low, math.inf if high is None else high


def _crossing(rise: Callable[[float], float], start: float, step: float, limit: float) -> float | None:
    """Where `rise`, negative at `start`, becomes 0 on the way to `limit`; None if it does not. Steps double from `step` on."""
    inside = start
    while True:
        outside = start + step
        if (step > 0) == (outside >= limit):
            outside = limit
        if rise(outside) > 0:
            return float(brentq(rise, inside, outside, xtol=max(1e-3 * abs(outside - start), 1e-9)))
        if outside == limit:
            return None
        inside, step = outside, 2 * step


def _design_effects(rows: _Rows, p: Float, forecast: Float) -> tuple[float, float]:
    """Variance of the slope's and of the biases' score over what the likelihood takes it for, at slope 1 (the mean over biases).

    At the shift fitted, `p` `(K, n)`, residuals show what groups and weights do, except that a few heavy rows draw the fit to themselves
    and leave next to no residual; so `FEW` effective rows are added that have the variance of rows for which `forecast` `(K, n)` is true.
    """
    residual = -p
    residual[rows.labels, np.arange(rows.labels.size)] += 1.0
    mean = (p * rows.log_p).sum(axis=0)
    hessian = _derivatives(rows, p)[1]
    adjust = (np.linalg.pinv(hessian[1:, 1:]) @ hessian[1:, 0])[:, None]
    slope = (residual * (rows.log_p - mean - adjust)).sum(axis=0)
    steep = rows.log_p - adjust
    expected = (forecast * (steep - (forecast * steep).sum(axis=0)) ** 2).sum(axis=0)
    return _inflation(slope[None], expected, rows), _inflation(residual, (forecast * (1 - forecast)).sum(axis=0), rows)


def _inflation(scores: Float, expected: Float, rows: _Rows) -> float:
    """Variance of weighted `scores` `(m, n)` summed by group over the weighted likelihood's, the part of the groups at least 1.

    The part of the weights is drawn to that of rows with variances `expected` `(n,)`, which counts as `FEW` effective rows.
    """
    weighted = scores * rows.weights
    alone = float((weighted**2).sum())
    likelihood = float((weighted * scores).sum())
    if alone <= 0 or likelihood <= 0:
        return float((rows.weights @ rows.weights) / rows.weights.sum())
    grouped = sum(float((np.bincount(rows.codes, weights=score) ** 2).sum()) for score in weighted)
    true = float(rows.weights @ expected)
    if true <= 0:
        return max(1.0, grouped / alone) * alone / likelihood
    independent, heavy = effective_size(rows.weights), float(rows.weights**2 @ expected) / true
    return max(1.0, grouped / alone) * (independent * alone / likelihood + FEW * heavy) / (independent + FEW)
