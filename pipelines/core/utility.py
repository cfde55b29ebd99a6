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
    best = np.asarray(U, dtype=np.float64).max(axis=1)[np.asarray(labels)]
    return np.asarray(best - obtained(labels, actions, U))


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
