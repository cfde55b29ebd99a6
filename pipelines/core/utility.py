"""Utilities: what actions are worth, expected and obtained.

`U` is the utility matrix `(K, A)`, rows the true classes, columns the actions, higher is better (scikit-learn's orientation;
Elkan's cost matrix is the transpose, with the sign turned). Where costs differ by row it is `(n, K, A)`, one matrix per row; every
function here takes both.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]


def take(U: Any, rows: Any) -> Float:
    """The utilities of some of the rows, by mask or index: one matrix for all rows stays that matrix."""
    matrix = np.asarray(U, dtype=np.float64)
    return np.asarray(matrix if matrix.ndim == 2 else matrix[rows])


def of_class(U: Any, labels: Any) -> Float:
    """What each action is worth for each row's true class, `(n, A)`."""
    matrix, truth = np.asarray(U, dtype=np.float64), np.asarray(labels)
    return np.asarray(matrix[truth] if matrix.ndim == 2 else matrix[np.arange(len(truth)), truth])


def expected_utility(probability: Any, U: Any) -> Float:
    """Expected utility `(n, A)` of each action under `probability` `(n, K)`; Elkan (2001), equation 1."""
    p, matrix = np.asarray(probability, dtype=np.float64), np.asarray(U, dtype=np.float64)
    return np.asarray(p @ matrix if matrix.ndim == 2 else np.einsum("nk,nka->na", p, matrix))


def obtained(labels: Any, actions: Any, U: Any) -> Float:
    """Utility `(n,)` that each row's action obtained, given its true class."""
    matrix, truth = np.asarray(U, dtype=np.float64), np.asarray(labels)
    return np.asarray(matrix[truth, actions] if matrix.ndim == 2 else matrix[np.arange(len(truth)), truth, actions])


def regret_matrix(U: Any) -> Float:
    """What each action loses against the best one for the true class, shape of `U`, at least 0, the largest of each matrix scaled to 1.

    Every decision depends on `U` through this matrix only: a constant added to a row and a positive scale leave it as it is.
    """
    matrix = np.asarray(U, dtype=np.float64)
    lost = matrix.max(axis=-1, keepdims=True) - matrix
    largest = lost.max(axis=(-2, -1), keepdims=True)
    return np.asarray(lost / np.where(largest > 0, largest, 1.0))


def scale(U: Any) -> Any:
    """The largest regret in each matrix, in its unit: what `regret_matrix` was divided by; a float, or `(n,)` for one matrix per row."""
    matrix = np.asarray(U, dtype=np.float64)
    largest = np.ptp(matrix, axis=-1).max(axis=-1)
    return float(largest) if matrix.ndim == 2 else largest


def regret(labels: Any, actions: Any, U: Any) -> Float:
    """Best attainable minus obtained utility `(n,)`, at least 0."""
    return regret_of(obtained(labels, actions, U), labels, U)


def regret_of(utility: Any, labels: Any, U: Any) -> Float:
    """Best attainable utility `(n,)` for each row's true class minus `utility` `(n,)`, what was obtained; NaN stays NaN."""
    return np.asarray(of_class(U, labels).max(axis=1) - np.asarray(utility, dtype=np.float64))


def best_action(U: Any) -> Int:
    """Action that is best for each class, `(K,)` or `(n, K)`; of equally good ones the first."""
    return np.asarray(np.asarray(U, dtype=np.float64).argmax(axis=-1))


def utility_along_threshold(
    positive: Any, labels: Any, U: Any, *, points: int = 201, thresholds: Any = None, weights: Any = None
) -> dict[str, list[float]]:
    """Mean utility where the last class's best action is taken from a threshold on its probability `(n,)` upwards, U `(2, 2)`.

    At `thresholds`, or at `points` even steps from 0 to 1; rows count by `weights` `(n,)`. One sort, whatever the number of thresholds.
    """
    score, matrix = np.asarray(positive, dtype=np.float64), np.asarray(U, dtype=np.float64)
    at = np.linspace(0.0, 1.0, points) if thresholds is None else np.asarray(thresholds, dtype=np.float64)
    if not score.size:
        return {"threshold": at.tolist(), "utility": []}
    order, best = np.argsort(score), int(matrix[1].argmax())  # the matrix may name that action first
    w = np.ones(score.size) if weights is None else np.asarray(weights, dtype=np.float64)[order]
    worth = matrix[np.asarray(labels)[order]]
    below = np.concatenate([[0.0], np.cumsum(w * worth[:, 1 - best])])
    above = np.concatenate([np.cumsum((w * worth[:, best])[::-1])[::-1], [0.0]])
    first = np.searchsorted(score[order], at, side="left")
    return {"threshold": at.tolist(), "utility": ((below[first] + above[first]) / w.sum()).tolist()}


def trivial(labels: Any, U: Any, weights: Any = None) -> Float:
    """Mean utility `(A,)` of each trivial policy "always action a" on these rows, weighted by `weights` `(n,)`."""
    return np.asarray(np.average(of_class(U, labels), axis=0, weights=weights))


def value_range(U: Any) -> tuple[float, float]:
    """Lowest and highest utility that one row can obtain: the worst and best case of a bound on the mean."""
    matrix = np.asarray(U, dtype=np.float64)
    return float(matrix.min()), float(matrix.max())


def difference_range(U: Any) -> float:
    """Largest absolute difference between two policies on one row: a class from its worst to its best action."""
    return float(np.ptp(np.asarray(U, dtype=np.float64), axis=-1).max())
