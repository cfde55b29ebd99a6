"""The exact optimum for two actions: the best cut-off of a score on the rows at hand, by one sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import policy
from pipelines.core.utility import scale

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Cutoff:
    """Act where the score is above `cutoff` (may be infinite); `gain` is the mean gain over never acting on these rows.

    `low` and `high` are the neighbouring scores: every cut-off from `low` up to, not including, `high` does the same here.
    """

    cutoff: float
    gain: float
    low: float
    high: float


def best_cutoff(score: Any, gain: Any, *, prefer: float = 0.0) -> Cutoff:
    """Find the cut-off of `score` `(n,)` with the highest total `gain` `(n,)`, what acting on a row is worth against not acting.

    O(n log n). Equal scores are never split. The cut-off stands midway between neighbouring scores, beyond the extremes at
    -inf or +inf; where several are equally good (to 1e-12 of the sum of absolute gains), the one nearest to `prefer`, and
    `prefer` itself where it is one of them.
    """
    s, g = np.asarray(score, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    if s.size == 0:
        return Cutoff(prefer, 0.0, -np.inf, np.inf)
    order = np.argsort(s)
    s, g = s[order], g[order]
    last_of_tie = np.append(s[1:] != s[:-1], True)
    edges = np.concatenate([[-np.inf], s[last_of_tie], [np.inf]])
    above = np.concatenate([[0.0], np.cumsum(g)[last_of_tie]])
    above = above[-1] - above
    above[-1] = 0.0
    top = np.flatnonzero(above >= above.max() - 1e-12 * np.abs(g).sum())
    low, high = edges[top], edges[top + 1]
    distance = np.maximum(np.maximum(low - prefer, prefer - high), 0.0)
    distance[(prefer >= high)] = np.maximum(distance[(prefer >= high)], np.finfo(float).tiny)
    i = int(distance.argmin())
    return Cutoff(_between(low[i], high[i], prefer), float(above[top[i]] / s.size), float(low[i]), float(high[i]))


def _between(low: float, high: float, prefer: float) -> float:
    if low <= prefer < high:
        return prefer
    if np.isinf(low) or np.isinf(high):
        return float(low if np.isinf(low) else high)
    middle = low + (high - low) / 2
    return float(middle if middle < high else low)


def exact(probability: Any, labels: Any, U: Any) -> tuple[Float, Float, Cutoff]:
    """Best policy for two actions on these rows: offsets `(K,)`, prices `(2,)`, and the cut-off that they stand for.

    `probability` `(n, K)`, `labels` `(n,)`, `U` `(K, 2)`. With two classes the score is the second class's log-odds, and the
    cut-off becomes its offset; with more it is the difference of the expected utilities, and the cut-off becomes the second action's price.
    """
    matrix, p = np.asarray(U, dtype=np.float64), np.asarray(probability, dtype=np.float64)
    advantage = matrix[:, 1] - matrix[:, 0]
    gain = advantage[np.asarray(labels)]
    if len(matrix) == 2:
        score, t = log_odds(p), policy.analytic_threshold(matrix)
        found = best_cutoff(score, gain * np.sign(advantage[1]), prefer=float(np.log(t / (1 - t))))
        return np.array([0.0, policy.offset_of_cutoff(found.cutoff, matrix)]), np.zeros(2), found
    found = best_cutoff(p @ advantage, gain)
    return np.zeros(len(matrix)), np.array([0.0, np.clip(found.cutoff, -2 * scale(matrix), 2 * scale(matrix))]), found


def log_odds(probability: Float) -> Float:
    """Log-odds `(n,)` of the second of two classes."""
    return np.asarray(np.log(probability[:, 1]) - np.log(probability[:, 0]))
