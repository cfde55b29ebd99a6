"""Logistic recalibration: slope and shift that probabilities would need, with intervals, and what they say in a word.

For probabilities p the model is y ~ softmax(slope * log p + bias); for two classes that is logit P = slope * logit p + intercept
(Cox 1958). A slope below 1 means over-confident probabilities, above 1 under-confident ones; at slope 1, an intercept
(a bias) other than 0 means that a class is over-forecast throughout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtrc, fdtri

Float = NDArray[np.float64]

NARROW = 2.0  #: a slope known to a factor of two either way is known well enough to say "calibrated"
WIDEST = 64.0  #: slopes beyond are called unbounded: the rows are separated


@dataclass(frozen=True)
class Recalibration:
    """Slope with bounds, p-value of "no shift" at slope 1, intercept (binary: of the last class's log-odds; else NaN), word, clusters."""

    slope: float
    slope_low: float
    slope_high: float
    intercept: float
    shift_p_value: float
    word: str
    clusters: int


def check(probability: Any, labels: Any, groups: Any, *, confidence: float = 0.95) -> Recalibration:
    """Judge `probability` `(n, K)` against `labels` `(n,)`; rows of one of `groups` `(n,)` count as dependent.

    The slope's interval is the profile likelihood's, with the F quantile instead of chi-square's for small samples, widened by
    the design effect of the groups. An upper bound may be infinite: where the rows are separated no slope is too steep.
    """
    log_p = np.log(np.asarray(probability, dtype=np.float64))
    truth = np.eye(log_p.shape[1])[np.asarray(labels)]
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    clusters, free = int(codes.max()) + 1, log_p.shape[1] - 1
    widen = _design_effect(log_p, truth, codes)
    cut = widen * float(fdtri(1, max(clusters - free - 1, 1), confidence))
    slope, low, high = _profile(log_p, truth, cut)
    shifted = 2 * (_loss(log_p, truth, 1.0, fit_bias=False)[0] - _loss(log_p, truth, 1.0)[0]) / widen
    p_value = float(chdtrc(free, max(shifted, 0.0) * max(clusters - free - 1, 1) / clusters))
    intercept = float(_loss(log_p, truth, 1.0)[1] @ [-1, 1]) if free == 1 else float("nan")
    return Recalibration(slope, low, high, intercept, p_value, _word(low, high, p_value, 1 - confidence), clusters)


def _word(low: float, high: float, shift_p_value: float, alpha: float) -> str:
    if high < 1:
        return "over-confident"
    if low > 1:
        return "under-confident"
    if shift_p_value < alpha:
        return "shifted"
    return "calibrated" if low >= 1 / NARROW and high <= NARROW else "too few rows to say"


def _loss(log_p: Float, truth: Float, slope: float, *, fit_bias: bool = True) -> tuple[float, Float]:
    """Log loss at `slope`, at its best bias, and that bias; Newton steps on a convex function of K - 1 numbers."""
    K = log_p.shape[1]
    bias = np.zeros(K)
    value = np.inf
    for _ in range(100 if fit_bias else 1):
        z = slope * log_p + bias
        z = z - z.max(axis=1, keepdims=True)
        total = np.log(np.exp(z).sum(axis=1, keepdims=True))
        p = np.exp(z - total)
        previous, value = value, float((total[:, 0] - (z * truth).sum(axis=1)).sum())
        if not fit_bias or previous - value < 1e-10 * max(1.0, value):
            break
        gradient = (p - truth).sum(axis=0)
        hessian = np.diag(p.sum(axis=0)) - p.T @ p
        step = np.linalg.lstsq(hessian + 1e-9 * np.eye(K), gradient, rcond=None)[0]
        bias = bias - np.clip(step, -2, 2)
    return value, bias


def _profile(log_p: Float, truth: Float, cut: float) -> tuple[float, float, float]:
    """Slope at the smallest profile loss, and where twice the loss has risen by `cut` on either side."""
    from scipy.optimize import brentq, minimize_scalar

    def loss(slope: float) -> float:
        return _loss(log_p, truth, slope)[0]

    best = minimize_scalar(loss, bounds=(0.0, WIDEST), method="bounded", options={"xatol": 1e-4})
    slope, least = float(best.x), float(best.fun)

    def rise(at: float) -> float:
        return 2 * (loss(at) - least) - cut

    low = float(brentq(rise, 0.0, slope, xtol=1e-3)) if slope > 0 and rise(0.0) > 0 else 0.0
    high = float(brentq(rise, slope, WIDEST, xtol=1e-3)) if rise(WIDEST) > 0 else float("inf")
    return slope, low, high


def _design_effect(log_p: Float, truth: Float, codes: NDArray[np.int64]) -> float:
    """Variance of the slope's score summed by group over its variance summed by row, at least 1."""
    p = np.exp(log_p)
    centred = log_p - (p * log_p).sum(axis=1, keepdims=True)
    score = ((truth - p) * centred).sum(axis=1)
    rows = float((score**2).sum())
    return max(1.0, float((np.bincount(codes, weights=score) ** 2).sum()) / rows) if rows > 0 else 1.0
