"""Utilities: what actions are worth, expected and obtained.

`U` is the utility matrix `(K, A)`, rows the true classes, columns the actions, higher is better (scikit-learn's orientation;
Elkan's cost matrix is the transpose, with the sign turned).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def expected_utility(probability: Any, U: Any) -> Float:
    """Expected utility `(n, A)` of each action under `probability` `(n, K)`; Elkan (2001), equation 1."""
    return np.asarray(np.asarray(probability, dtype=np.float64) @ np.asarray(U, dtype=np.float64))


def obtained(labels: Any, actions: Any, U: Any) -> Float:
    """Utility `(n,)` that each row's action obtained, given its true class."""
    return np.asarray(np.asarray(U, dtype=np.float64)[np.asarray(labels), np.asarray(actions)])


def regret_matrix(U: Any) -> Float:
    """What each action loses against the best one for the true class, `(K, A)`, at least 0, the largest scaled to 1.

    Every decision depends on `U` through this matrix only: a constant added to a row and a positive scale leave it as it is.
    """
    matrix = np.asarray(U, dtype=np.float64)
    lost = matrix.max(axis=1, keepdims=True) - matrix
    scale = lost.max()
    return np.asarray(lost / scale if scale > 0 else lost)


def scale(U: Any) -> float:
    """The largest regret in `U`, in its unit: what `regret_matrix` was divided by."""
    matrix = np.asarray(U, dtype=np.float64)
    return float((matrix.max(axis=1, keepdims=True) - matrix).max())


def regret(labels: Any, actions: Any, U: Any) -> Float:
    """Best attainable minus obtained utility `(n,)`, at least 0."""
    return regret_of(obtained(labels, actions, U), labels, U)


def regret_of(utility: Any, labels: Any, U: Any) -> Float:
    """Best attainable utility `(n,)` for each row's true class minus `utility` `(n,)`, what was obtained; NaN stays NaN."""
    return np.asarray(np.asarray(U, dtype=np.float64).max(axis=1)[np.asarray(labels)] - np.asarray(utility, dtype=np.float64))


def utility_along_threshold(positive: Any, labels: Any, U: Any, *, points: int = 201) -> dict[str, list[float]]:
    """Mean utility where the last class's best action is taken from a threshold on its probability upwards, K = 2 and A = 2."""
    score, truth, matrix = np.asarray(positive, dtype=np.float64), np.asarray(labels), np.asarray(U, dtype=np.float64)
    thresholds, best = np.linspace(0.0, 1.0, points), int(matrix[1].argmax())  # the matrix may name that action first
    utility = [float(matrix[truth, np.where(score >= t, best, 1 - best)].mean()) for t in thresholds] if truth.size else []
    return {"threshold": thresholds.tolist(), "utility": utility}


def trivial(labels: Any, U: Any) -> Float:
    """Mean utility `(A,)` of each trivial policy "always action a" on these rows."""
    return np.asarray(np.asarray(U, dtype=np.float64)[np.asarray(labels)].mean(axis=0))


def value_range(U: Any) -> tuple[float, float]:
    """Lowest and highest utility that one row can obtain: the worst and best case of a bound on the mean."""
    matrix = np.asarray(U, dtype=np.float64)
    return float(matrix.min()), float(matrix.max())


def difference_range(U: Any) -> float:
    """Largest absolute difference between two policies on one row: a row of `U` from its worst to its best action."""
    matrix = np.asarray(U, dtype=np.float64)
    return float((matrix.max(axis=1) - matrix.min(axis=1)).max())
