"""The exact optimum for two actions: the best cut-off of a score on the rows at hand, by one sort."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import policy
from pipelines.core.sample import Sample
from pipelines.core.utility import of_class, scale

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]

MANY, BUCKETS = 20_000, 4096


@dataclass(frozen=True)
class Cutoff:
    """Act where the score is above `cutoff` (may be infinite); `gain` is the mean gain over never acting on these rows.

    `low` and `high` are the neighbouring scores: every cut-off from `low` up to, not including, `high` does the same here.
    """

    cutoff: float
    gain: float
    low: float
    high: float


def best_cutoff(score: Any, gain: Any, *, prefer: float = 0.0, weights: Any = None, low: float = -np.inf, high: float = np.inf) -> Cutoff:
    """Find the cut-off of `score` `(n,)` with the highest total `gain` `(n,)`, what acting on a row is worth against not acting.

    O(n log n), and of many rows only those are sorted among which the optimum may lie. Equal scores are never split. The cut-off stands
    midway between neighbouring scores, beyond the extremes at -inf or +inf; where several are equally good (to 1e-12 of the sum of absolute
    gains), the one nearest to `prefer`, and `prefer` itself where it is one of them. Rows count by `weights` `(n,)`; only cut-offs from
    `low` to `high`, both included, are looked at.
    """
    s, g = np.asarray(score, dtype=np.float64), np.asarray(gain, dtype=np.float64)
    if s.size == 0:
        return Cutoff(float(np.clip(prefer, low, high)), 0.0, -np.inf, np.inf)
    total = float(s.size)
    if weights is not None:
        w = np.asarray(weights, dtype=np.float64)
        g, total = g * w, float(w.sum())
    fuzz = 1e-12 * float(np.linalg.norm(g, 1))
    if s.size >= MANY and low == -np.inf and high == np.inf:
        s, g = _contenders(s, g, fuzz)
    order = np.argsort(s)
    found = _best(s[order], g[order], prefer=prefer, within=(low, high), fuzz=fuzz)
    return Cutoff(found.cutoff, found.gain / total, found.low, found.high)


def _contenders(s: Float, g: Float, fuzz: float) -> tuple[Float, Float]:
    """The rows among which a best cut-off lies, and one row in the place of each run of others: branch and bound over buckets of scores.

    No cut-off within a bucket gains more than acting on all rows above it and on those of its own rows that gain.
    """
    least, most = float(s.min()), float(s.max())
    if not np.isfinite(most - least) or most <= least:
        return s, g
    width = (most - least) / BUCKETS
    bucket = np.minimum(((s - least) / width).astype(np.intp), BUCKETS - 1)
    total, gains = np.bincount(bucket, g, BUCKETS), np.bincount(bucket, np.maximum(g, 0.0), BUCKETS)
    above = np.append(np.cumsum(total[::-1])[::-1], 0.0)
    kept = above[1:] + gains >= above.max() - 10 * fuzz
    inside = np.flatnonzero(kept[bucket])
    first = np.flatnonzero(~kept & np.append(True, kept[:-1]))  # of each run of buckets that are left out
    others = np.add.reduceat(np.where(kept, 0.0, total), first) if first.size else np.zeros(0)
    return np.concatenate([s[inside], least + (first + 0.5) * width]), np.concatenate([g[inside], others])


def _best(s: Float, g: Float, *, prefer: float, within: tuple[float, float], fuzz: float) -> Cutoff:
    """The best cut-off of scores in ascending order and its total gain; gains that differ by `fuzz` are equal."""
    lowest, highest = within
    last_of_tie = np.append(s[1:] != s[:-1], True)
    edges = np.concatenate([[-np.inf], s[last_of_tie], [np.inf]])
    above = np.concatenate([[0.0], np.cumsum(g)[last_of_tie]])
    np.subtract(above[-1], above, out=above)
    above[-1] = 0.0
    first, last = 0, above.size
    if lowest > -np.inf or highest < np.inf:
        first = min(max(int(np.searchsorted(edges, lowest, side="right")) - 1, 0), above.size - 1)
        last = max(int(np.searchsorted(edges[:-1], highest, side="right")), first + 1)
    allowed = above[first:last]
    top = first + np.flatnonzero(allowed >= allowed.max() - fuzz)
    low, high = np.maximum(edges[top], lowest), np.minimum(edges[top + 1], np.nextafter(highest, np.inf))
    distance = np.maximum(np.maximum(low - prefer, prefer - high), 0.0)
    distance[(prefer >= high)] = np.maximum(distance[(prefer >= high)], np.finfo(float).tiny)
    best = int(distance.argmin())
    return Cutoff(_between(low[best], high[best], prefer), float(above[top[best]]), float(edges[top[best]]), float(edges[top[best] + 1]))


def _between(low: float, high: float, prefer: float) -> float:
    if low <= prefer < high:
        return prefer
    if np.isinf(low) or np.isinf(high):
        return float(low if np.isinf(low) else high)
    middle = low + (high - low) / 2
    return float(middle if middle < high else low)


def exact(
    probability: Any, labels: Any, U: Any, *, weights: Any = None, low: float = -np.inf, high: float = np.inf
) -> tuple[Float, Float, Cutoff]:
    """Best policy for two actions on these rows: offsets `(K,)`, prices `(2,)`, and the cut-off that they stand for.

    `probability` `(n, K)`, `labels` `(n,)`, `U` `(K, 2)` or `(n, K, 2)`, `weights` `(n,)`. With two classes the score is the second
    class's log-odds beyond the row's analytic threshold, and the cut-off becomes minus its offset; with more it is the difference of the
    expected utilities, and the cut-off becomes the second action's price, or where it is below zero the first one's. Cut-offs outside
    `low` to `high` are left out. Rows in which one action is best for both of two classes decide themselves.
    """
    matrix, p, truth = np.asarray(U, dtype=np.float64), np.asarray(probability, dtype=np.float64), np.asarray(labels)
    if p.shape[1] > 2:
        found = best_cutoff(advantage_expected(p, matrix), advantage_obtained(truth, matrix), weights=weights, low=low, high=high)
        limit = 2 * float(np.max(scale(matrix)))
        return np.zeros(p.shape[1]), prices_of(float(np.clip(found.cutoff, -limit, limit))), found
    if matrix.ndim == 2:
        advantage = matrix[:, 1] - matrix[:, 0]
        t = policy.analytic_threshold(matrix)
        prefer = float(np.log(t / (1 - t)))
        gain = (advantage * np.sign(advantage[1]))[truth]
        found = best_cutoff(log_odds(p), gain, prefer=prefer, weights=weights, low=low + prefer, high=high + prefer)
        beyond = Cutoff(found.cutoff - prefer, found.gain, found.low - prefer, found.high - prefer)
        return np.array([0.0, policy.offset_of_cutoff(found.cutoff, matrix)]), np.zeros(2), beyond
    contested, score, gain = contest(p, truth, matrix)
    w = None if weights is None else np.asarray(weights)[contested]
    found = best_cutoff(score, gain, weights=w, low=low, high=high)
    return np.array([0.0, float(np.clip(-found.cutoff, -policy.ALWAYS, policy.ALWAYS))]), np.zeros(2), found


def contest(probability: Float, labels: Any, U: Float) -> tuple[Bool, Float, Float]:
    """Rows `(n,)` whose best action depends on which of two classes is true; for these the score and the gain of acting, `U` `(n, 2, 2)`.

    To act is to take the action that is best for the second class; the score is the log-odds minus the row's own analytic threshold.
    """
    advantage = U[:, :, 1] - U[:, :, 0]
    least = policy.TIE * scale(U)
    contested = (np.abs(advantage) > least[:, None]).all(axis=1) & (advantage[:, 0] * advantage[:, 1] < 0)
    worth = np.abs(advantage[contested])
    score = log_odds(probability[contested]) - (np.log(worth[:, 0]) - np.log(worth[:, 1]))
    return contested, score, np.where(np.asarray(labels)[contested] == 1, worth[:, 1], -worth[:, 0])


def bootstrap_cutoffs(sample: Sample, *, resamples: int, seed: int, low: float = -np.inf, high: float = np.inf) -> Float:
    """Best cut-offs `(resamples,)`, as `exact` counts them, of resamples of whole groups; U `(2, 2)`. The rows are sorted once."""
    t = policy.analytic_threshold(sample.U)
    score = log_odds(sample.probability) - float(np.log(t / (1 - t)))
    advantage = sample.U[:, 1] - sample.U[:, 0]
    order = np.argsort(score)
    codes = np.unique(sample.groups, return_inverse=True)[1][order]
    gain = ((advantage * np.sign(advantage[1]))[sample.labels] * sample.weights)[order]
    score, units, rng, fuzz = score[order], int(codes.max()) + 1, np.random.default_rng(seed), 1e-12 * float(np.abs(gain).sum())
    found = []
    for _ in range(resamples):
        drawn = np.bincount(rng.integers(units, size=units), minlength=units)[codes]
        found.append(_best(score, gain * drawn, prefer=0.0, within=(low, high), fuzz=fuzz).cutoff)
    return np.array(found)


def advantage_expected(probability: Float, U: Float) -> Float:
    """Expected utility `(n,)` of the second of two actions minus that of the first."""
    advantage = U[..., 1] - U[..., 0]
    return np.asarray(probability @ advantage if advantage.ndim == 1 else np.einsum("nk,nk->n", probability, advantage))


def advantage_obtained(labels: Any, U: Float) -> Float:
    """Utility `(n,)` of the second of two actions minus that of the first, given each row's class."""
    return np.asarray(np.subtract(*of_class(U, labels).T[::-1]))


def prices_of(cutoff: float) -> Float:
    """Prices `(2,)`, at least 0, with which the second action is taken where its advantage exceeds `cutoff`."""
    return np.array([max(-cutoff, 0.0), max(cutoff, 0.0)])


def log_odds(probability: Float) -> Float:
    """Log-odds `(n,)` of the second of two classes."""
    return np.asarray(np.log(probability[:, 1] / probability[:, 0]))
