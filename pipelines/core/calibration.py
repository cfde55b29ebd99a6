"""Calibrators: maps from a network's logits to probabilities, fitted on calib rows, shipped as plain numbers.

In order of simplicity: `identity` (softmax); four maps that are linear in log p = log softmax(logits), softmax(slopes * log p + bias);
and `isotonic`, a monotone curve of the log-odds (for more than two classes one curve per class against the rest, then normalised).

    temperature  one slope, no bias                Guo et al. (2017)
    affine       one slope, a bias per class       Platt (1999) where K = 2
    vector       a slope and a bias per class      K > 2; Guo et al. (2017), on log p, so a constant added to the logits changes nothing
    beta         the same map where K = 2: logit = a log p - b log(1 - p) + c      Kull, Silva Filho and Flach (2017)

The four are one conditional logit whose slopes are tied or free, and one routine fits them. Slopes are never negative: a calibrator may
doubt the network's order of rows, not reverse it. Slopes and biases carry a weak Gaussian prior around "no change" (slopes 1, biases 0,
standard deviation `PRIOR_SD`). It keeps slopes finite where the rows are perfectly separated, and costs at most half a row's log loss for
each slope between -1 and 3.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from pipelines.errors import must

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

METHODS = ("identity", "temperature", "affine", "vector", "beta", "isotonic")
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
    rows, top = np.arange(len(logits)), logits.argmax(axis=1)
    weights = np.exp(logits - logits[rows, top][:, None])
    below = weights.copy()
    below[rows, top] = 0
    rest = below.sum(axis=1)
    others = 1 + rest[:, None] - below
    others[rows, top] = rest
    floor = EPS * (1 + rest)[:, None]
    return np.asarray(np.clip(np.log(np.maximum(weights, floor)) - np.log(np.maximum(others, floor)), np.log(EPS), -np.log(EPS)))


def _checked(logits: Any) -> Float:
    values = np.asarray(logits, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise must("logits must have the shape (rows, classes)", f"got {values.shape}", "Pass one column per class.")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
        raise must("logits must be finite", f"row {bad} holds {values[bad].tolist()}", "Train again; a diverged network gives such values.")
    return values


def suits(method: str, classes: int) -> bool:
    """Whether `method` is for this number of classes: beta for two, vector for more, any other for both."""
    return {"beta": classes == 2, "vector": classes > 2}.get(method, True)


def apply(calibrator: dict[str, Any], logits: Any) -> Float:
    """Calibrated probabilities `(n, K)` of `logits` `(n, K)`.

    Rows sum to 1 and no entry is 0 or 1, so the log loss is finite. Raises ExpostError for non-finite logits, for a calibrator
    of another number of classes, and for an unknown method.
    """
    values = _checked(logits)
    method = calibrator.get("method")
    if method == "identity":
        return softmax(values)
    if method == "isotonic":
        return _apply_isotonic(calibrator["curves"], values)
    if method in METHODS:
        slopes, bias = _linear(calibrator, values)
        return softmax(slopes * log_softmax(values, axis=1) + bias)
    raise must(f"a calibrator's method must be one of {list(METHODS)}", f"got {method!r}", "Run the stage calibrate again.")


def _linear(calibrator: dict[str, Any], logits: Float) -> tuple[Float, Float]:
    """Slopes `(1,)` or `(K,)` and biases `(1,)` or `(K,)` of a calibrator that is linear in log p."""
    if calibrator["method"] == "beta":
        slopes, bias = [calibrator["b"], calibrator["a"]], [-calibrator["c"] / 2, calibrator["c"] / 2]
    else:
        slopes, bias = calibrator.get("slopes", [calibrator.get("slope")]), calibrator.get("bias", [0.0])
    for numbers in (slopes, bias):
        if len(numbers) > 1:
            _same_classes(len(numbers), logits)
    return np.asarray(slopes, dtype=np.float64), np.asarray(bias, dtype=np.float64)


def _apply_isotonic(curves: list[dict[str, list[float]]], logits: Float) -> Float:
    _same_classes(max(len(curves), 2), logits)
    odds = log_odds(logits)
    if len(curves) == 1:
        second = np.interp(odds[:, 1], curves[0]["log_odds"], curves[0]["probability"])
        return normalise(np.stack([1 - second, second], axis=1))
    return normalise(np.stack([np.interp(odds[:, k], c["log_odds"], c["probability"]) for k, c in enumerate(curves)], axis=1))


def _same_classes(classes: int, logits: Float) -> None:
    if classes != logits.shape[1]:
        raise must(f"logits must have {classes} columns for this calibrator", f"got {logits.shape[1]}", "Run the stage calibrate again.")


def fit(method: str, logits: Any, labels: Any, *, weights: Any = None, prior_sd: float = PRIOR_SD) -> dict[str, Any]:
    """Fit one calibrator by maximum (penalised) likelihood; returns plain numbers for `apply`.

    `logits` `(n, K)`, `labels` `(n,)` in 0..K-1, `weights` `(n,)` > 0: how often each row counts. `prior_sd` is the standard deviation of
    the prior on slopes and biases; infinity gives plain maximum likelihood, which agrees with scikit-learn's LogisticRegression without
    penalty where that has slopes >= 0. Raises ExpostError for non-finite logits, weights that are no counts, an unknown method, and a
    method for another number of classes. Isotonic: Zadrozny and Elkan (2002); the others: see the module.
    """
    values, classes = _checked(logits), np.asarray(labels, dtype=np.int64)
    counts = _counts(weights, len(values))
    if method not in METHODS or not suits(method, values.shape[1]):
        able = [m for m in METHODS if suits(m, values.shape[1])]
        raise must(
            f"a calibrator of {values.shape[1]} classes must be one of {able}",
            f"got {method!r}",
            "Change calibrate.methods in params.yaml.",
        )
    if method == "identity":
        return {"method": method}
    if method == "isotonic":
        return {"method": method, "curves": _isotonic_curves(values, classes, counts)}
    slopes, bias = _fit_linear(method, values, classes, counts, prior_sd)
    if method == "beta":
        return {"method": method, "a": slopes[1], "b": slopes[0], "c": bias[1] - bias[0]}
    if method == "vector":
        return {"method": method, "slopes": slopes, "bias": bias}
    return {"method": method, "slope": slopes[0]} | ({"bias": bias} if method == "affine" else {})


def _counts(weights: Any, rows: int) -> Float:
    if weights is None:
        return np.ones(rows)
    counts = np.asarray(weights, dtype=np.float64)
    if counts.shape != (rows,):
        raise must(f"weights must have the shape ({rows},), one per row", f"got {counts.shape}", "Run `dvc repro split`.")
    if not (np.isfinite(counts) & (counts > 0)).all():
        raise must("weights must be finite and above 0", f"the smallest is {counts.min()}", "Mend the column with the role weight.")
    return counts


def _fit_linear(method: str, logits: Float, labels: Int, weights: Float, prior_sd: float) -> tuple[list[float], list[float]]:
    """Slopes `(K,)` and biases `(K,)`, summing to 0, that minimise the log loss of softmax(slopes * log p + bias) plus the prior.

    Convex, so the start does not matter: L-BFGS-B with bounds (Byrd, Lu, Nocedal and Zhu 1995). Arrays are `(K, n)` inside, where sums
    over the few classes are cheap. One thread: for matrices as small as the optimiser's, BLAS's threads take three times as long.
    """
    from scipy.optimize import minimize
    from threadpoolctl import threadpool_limits

    log_p = log_softmax(np.ascontiguousarray(logits.T), axis=0)
    K, total = len(log_p), weights.sum()
    ties, slopes = _ties(method, K)
    no_change, precision = np.repeat([1.0, 0.0], [slopes, ties.shape[1] - slopes]), 1 / prior_sd**2
    truth = (labels == np.arange(K)[:, None]) * weights
    observed = np.concatenate([np.einsum("kn,kn->k", truth, log_p), truth.sum(axis=1)])

    def loss(theta: Float) -> tuple[float, Float]:
        free = ties @ theta
        z = log_p * free[:K, None] + free[K:, None]
        top = z.max(axis=0)
        z = np.exp(z - top)
        norm = z.sum(axis=0)
        z *= weights / norm
        expected = np.concatenate([np.einsum("kn,kn->k", z, log_p), z.sum(axis=1)])
        off = theta - no_change
        value = (weights * (top + np.log(norm))).sum() - (free * observed).sum() + 0.5 * precision * (off**2).sum()
        return float(value / total), (ties.T @ (expected - observed) + precision * off) / total

    bounds = [(0.0, None)] * slopes + [(None, None)] * (len(no_change) - slopes)
    options = {"ftol": 1e-14, "gtol": 1e-8, "maxiter": 1000, "maxcor": 20}
    with threadpool_limits(1):
        best = ties @ minimize(loss, no_change, jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return best[:K].tolist(), (best[K:] - best[K:].mean()).tolist()


def _ties(method: str, K: int) -> tuple[Float, int]:
    """Matrix `(2K, d)` from the d free numbers of `method` to the slopes and biases of all classes, and how many of the d are slopes."""
    from scipy.linalg import block_diag

    slopes = np.eye(K) if method in ("vector", "beta") else np.ones((K, 1))
    biases = np.zeros((K, 0)) if method == "temperature" else np.eye(K)
    return block_diag(slopes, biases), slopes.shape[1]


def _isotonic_curves(logits: Float, labels: Int, weights: Float) -> list[dict[str, list[float]]]:
    """Pool adjacent violators on the log-odds, kept off 0 and 1 by 1 / (n + 2), Laplace's estimate for what was never seen in n rows."""
    from scipy.optimize import isotonic_regression

    K, floor = logits.shape[1], 1 / (weights.sum() + 2)
    odds = log_odds(logits)
    curves = []
    for k in [1] if K == 2 else range(K):
        knots, place = np.unique(odds[:, k], return_inverse=True)
        weight = np.bincount(place, weights=weights)
        rate = np.bincount(place, weights=weights * (labels == k)) / weight
        level = np.clip(isotonic_regression(rate, weights=weight).x, floor, 1 - floor)
        inner = np.concatenate([[False], (level[1:-1] == level[:-2]) & (level[1:-1] == level[2:]), [False]])[: len(level)]
        curves.append({"log_odds": knots[~inner].tolist(), "probability": level[~inner].tolist()})
    return curves
