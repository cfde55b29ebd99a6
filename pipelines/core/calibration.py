"""Calibrators: maps from a network's logits to probabilities, fitted on calib rows, shipped as plain numbers.

Four maps, in order of simplicity: `identity` (softmax), `temperature` (one slope on the logits), `affine` (the slope and one bias
per class; for two classes this is Platt's map on the log-odds) and `isotonic` (a monotone curve of the log-odds; for more than two
classes one curve per class against the rest, then normalised).

Slope and biases carry a weak Gaussian prior around "no change" (slope 1, biases 0, standard deviation `PRIOR_SD`). It keeps the
slope finite where the rows are perfectly separated, and costs at most half a row's log loss for slopes between 0 and 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import must

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

METHODS = ("identity", "temperature", "affine", "isotonic")
EPS = 1e-12  #: no probability is smaller, so no log loss is above -log(1e-12) = 27.6
PRIOR_SD = 2.0


def softmax(logits: Any) -> Float:
    """Probabilities `(n, K)` of `logits` `(n, K)`, each at least `EPS` and below 1, rows summing to 1."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    return normalise(weights / weights.sum(axis=1, keepdims=True))


def normalise(probability: Any) -> Float:
    """Keep `probability` `(n, K)` away from 0 and 1 by `EPS` and let rows sum to 1."""
    clipped = np.maximum(np.asarray(probability, dtype=np.float64), EPS)
    return np.asarray(clipped / clipped.sum(axis=1, keepdims=True))


def log_odds(logits: Any) -> Float:
    """Log-odds `(n, K)` of each class against all others together."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    weights = np.exp(shifted)
    total = weights.sum(axis=1, keepdims=True)
    others = np.stack([np.delete(weights, k, axis=1).sum(axis=1) for k in range(weights.shape[1])], axis=1)
    bound = -np.log(EPS)
    with np.errstate(divide="ignore"):
        odds = np.log(np.maximum(weights, EPS * total)) - np.log(np.maximum(others, EPS * total))
    return np.asarray(np.clip(odds, -bound, bound))


def _checked(logits: Any) -> Float:
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise must("logits must have the shape (rows, classes)", f"got {values.shape}", "Pass one column per class.")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise must("logits must be finite", f"row {bad} holds {values[bad].tolist()}", "Train again; a diverged network gives such values.")
    return values


def apply(calibrator: dict[str, Any], logits: Any) -> Float:
    """Calibrated probabilities `(n, K)` of `logits` `(n, K)`.

    Rows sum to 1 and no entry is 0 or 1, so the log loss is finite. Raises ExpostError for non-finite logits, for a calibrator
    of another number of classes, and for an unknown method.
    """
    values = _checked(logits)
    method = calibrator.get("method")
    if method == "identity":
        return softmax(values)
    if method == "temperature":
        return softmax(calibrator["slope"] * values)
    if method == "affine":
        bias = np.asarray(calibrator["bias"], dtype=np.float64)
        _same_classes(len(bias), values)
        return softmax(calibrator["slope"] * values + bias)
    if method == "isotonic":
        curves = calibrator["curves"]
        odds = log_odds(values)
        if len(curves) == 1:
            _same_classes(2, values)
            second = np.interp(odds[:, 1], curves[0]["log_odds"], curves[0]["probability"])
            return normalise(np.stack([1 - second, second], axis=1))
        _same_classes(len(curves), values)
        return normalise(np.stack([np.interp(odds[:, k], c["log_odds"], c["probability"]) for k, c in enumerate(curves)], axis=1))
    raise must(f"a calibrator's method must be one of {list(METHODS)}", f"got {method!r}", "Run the stage calibrate again.")


def _same_classes(classes: int, logits: Float) -> None:
    if classes != logits.shape[1]:
        raise must(f"logits must have {classes} columns for this calibrator", f"got {logits.shape[1]}", "Run the stage calibrate again.")


def fit(method: str, logits: Any, labels: Any, *, prior_sd: float = PRIOR_SD) -> dict[str, Any]:
    """Fit one calibrator by maximum (penalised) likelihood; returns plain numbers for `apply`.

    `logits` `(n, K)`, `labels` `(n,)` in 0..K-1. `prior_sd` is the standard deviation of the prior on slope and biases; infinity
    gives plain maximum likelihood, which agrees with scikit-learn's LogisticRegression without penalty. The slope is never
    negative: a calibrator may doubt the network's order of rows, not reverse it. Platt (1999), Guo et al. (2017), Zadrozny & Elkan (2002).
    """
    values, classes = _checked(logits), np.asarray(labels, dtype=np.int64)
    if method == "identity":
        return {"method": "identity"}
    if method in ("temperature", "affine"):
        slope, bias = _fit_softmax(values, classes, with_bias=method == "affine", prior_sd=prior_sd)
        return {"method": "temperature", "slope": slope} if method == "temperature" else {"method": "affine", "slope": slope, "bias": bias}
    if method == "isotonic":
        return _fit_isotonic(values, classes)
    raise must(f"a calibrator's method must be one of {list(METHODS)}", f"got {method!r}", "Change calibrate.methods in params.yaml.")


def _fit_softmax(logits: Float, labels: Int, *, with_bias: bool, prior_sd: float) -> tuple[float, list[float]]:
    """Minimise the log loss of softmax(slope * logits + bias) plus the prior, slope >= 0; convex, so the start does not matter."""
    K = logits.shape[1]
    slope, bias = _newton(logits, labels, free=np.array([True] + [with_bias] * K), start=1.0, precision=1 / prior_sd**2)
    if slope < 0:  # convex: the constrained optimum is then at the bound
        slope, bias = _newton(logits, labels, free=np.array([False] + [with_bias] * K), start=0.0, precision=1 / prior_sd**2)
    return slope, [float(b) for b in bias - bias.mean()]


def _newton(logits: Float, labels: Int, *, free: Bool, start: float, precision: float) -> tuple[float, Float]:
    """Damped Newton steps on the free ones of (slope, biases): few numbers, so the Hessian is cheaper than a general optimiser."""
    n, K = logits.shape
    centred = logits - logits.mean(axis=1, keepdims=True)
    truth = np.eye(K)[labels]
    prior = np.concatenate([[1.0], np.zeros(K)])

    def loss(theta: Float) -> tuple[float, Float]:
        z = theta[0] * centred + theta[1:]
        z = z - z.max(axis=1, keepdims=True)
        total = np.log(np.exp(z).sum(axis=1, keepdims=True))
        value = float((total[:, 0] - (z * truth).sum(axis=1)).sum()) + 0.5 * precision * float(((theta - prior) ** 2).sum())
        return value, np.exp(z - total)

    theta = np.concatenate([[start], np.zeros(K)])
    value, p = loss(theta)
    for _ in range(200):
        mean = (p * centred).sum(axis=1, keepdims=True)
        gradient = np.concatenate([[((p - truth) * centred).sum()], (p - truth).sum(axis=0)]) + precision * (theta - prior)
        hessian = np.zeros((K + 1, K + 1))
        hessian[0, 0] = (p * (centred - mean) ** 2).sum()
        hessian[0, 1:] = hessian[1:, 0] = (p * (centred - mean)).sum(axis=0)
        hessian[1:, 1:] = np.diag(p.sum(axis=0)) - p.T @ p
        hessian += (precision + 1e-9 * max(1.0, float(hessian.diagonal().max()))) * np.eye(K + 1)  # biases are free up to a constant
        step = np.zeros(K + 1)
        step[free] = np.linalg.solve(hessian[np.ix_(free, free)], gradient[free])
        decrease = float(gradient @ step)
        if decrease < 1e-12 * n:
            break
        size = 1.0
        while size > 1e-10 and (trial := loss(theta - size * step))[0] > value - 0.25 * size * decrease:
            size /= 2
        if size <= 1e-10:
            break
        theta = theta - size * step
        value, p = trial
    return float(theta[0]), theta[1:]


def _fit_isotonic(logits: Float, labels: Int) -> dict[str, Any]:
    """Pool adjacent violators on the log-odds, kept off 0 and 1 by 1 / (n + 2), Laplace's estimate for what was never seen in n rows."""
    from scipy.optimize import isotonic_regression

    n, K = logits.shape
    odds, floor = log_odds(logits), 1 / (n + 2)
    curves = []
    for k in [1] if K == 2 else range(K):
        knots, place, weight = np.unique(odds[:, k], return_inverse=True, return_counts=True)
        rate = np.bincount(place, weights=labels == k) / weight
        level = np.clip(isotonic_regression(rate, weights=weight).x, floor, 1 - floor)
        inner = np.concatenate([[False], (level[1:-1] == level[:-2]) & (level[1:-1] == level[2:]), [False]])[: len(level)]
        curves.append({"log_odds": knots[~inner].tolist(), "probability": level[~inner].tolist()})
    return {"method": "isotonic", "curves": curves}
