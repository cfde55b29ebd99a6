"""Whether rows in a slice have more regret than the others: p-values corrected for having looked at several slices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from pipelines.core.bounds import augmented_moments

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

DRAWS = 499  #: permutations; the smallest p-value is 0.002


@dataclass(frozen=True)
class Judged:
    """What the policy did on n rows that it had not seen: regret, weights, groups and labels, each `(n,)`.

    `reach` is the largest regret that any row could have.
    """

    regret: Float
    weights: Float
    groups: Int
    labels: Int
    reach: float

    def take(self, rows: Any) -> Judged:
        """The same for some of the rows, by mask or by index."""
        return Judged(self.regret[rows], self.weights[rows], self.groups[rows], self.labels[rows], self.reach)


def adjusted(tests: Sequence[tuple[Judged, Bool]], seed: int = 0) -> list[Float]:
    """p-values `(s,)` of "no more regret inside than outside" for each set of rows and its masks `(s, n)`, corrected for all of them.

    The largest studentised difference over all slices, under permutations of the rows' outcomes, is what each is held against (Westfall
    and Young 1993; studentised, it holds for equal means of unequal variances too, Chung and Romano 2013). Groups stay whole: they change
    places with groups of their own size. With few rows and skewed regret a t-test finds less (LOG.md).
    """
    rng = np.random.default_rng(seed)
    largest, observed = np.full(DRAWS, -np.inf), []
    for judged, masks in tests:
        if not len(masks):
            observed.append(np.zeros(0))
            continue
        heavy, lost = judged.weights / judged.weights.mean(), judged.weights / judged.weights.mean() * judged.regret
        unequal = [heavy, heavy**2, heavy * lost] if (heavy != heavy[0]).any() else []
        terms = np.stack([lost, lost**2, *unequal], axis=1)
        inside, total, blocks = masks.astype(np.float64), terms.sum(axis=0), _blocks(judged.groups)
        counts = inside.sum(axis=1)
        observed.append(_studentised(inside @ terms, total, counts, len(terms)))
        for draw in range(DRAWS):
            drawn = _studentised(inside @ terms[_permuted(blocks, rng)], total, counts, len(terms))
            largest[draw] = max(largest[draw], drawn.max())
    return [(1 + (largest[:, None] >= values).sum(axis=0)) / (DRAWS + 1) for values in observed]


def _blocks(groups: Int) -> list[Int]:
    """Row numbers `(groups, size)` of the groups of each size."""
    codes, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    order = np.argsort(codes, kind="stable")
    sizes = counts[codes[order]]
    return [order[sizes == size].reshape(-1, size) for size in np.unique(counts)]


def _permuted(blocks: Sequence[Int], rng: np.random.Generator) -> Int:
    """For each row, the row whose outcome it gets."""
    if len(blocks) == 1 and blocks[0].shape[1] == 1:
        return rng.permutation(len(blocks[0]))
    drawn = np.empty(sum(block.size for block in blocks), dtype=np.int64)
    for block in blocks:
        drawn[block] = block[rng.permutation(len(block))]
    return drawn


def _studentised(inside: Float, total: Float, counts: Float, rows: int) -> Float:
    """Differences of weighted means over their standard errors `(s,)`, 0 where undefined.

    `inside` `(s, 2 or 5)` and `total` are sums of weighted regret and of its square, and unless weights are 1 of weights, their squares
    and weight times weighted regret; `counts` `(s,)` are the rows inside.
    """
    (mean, variance), (other, others) = _moments(inside.T, counts), _moments((total - inside).T, rows - counts)
    error = np.sqrt(np.maximum(variance, 0) + np.maximum(others, 0))
    return np.asarray(np.divide(mean - other, error, out=np.zeros_like(error), where=error > 0))


def _moments(sums: Float, counts: Float) -> tuple[Float, Float]:
    """Weighted mean and its variance `(s,)`, as a ratio; NaN without rows."""
    lost, lost_squares = sums[:2]
    heavy, squares, cross = sums[2:] if len(sums) > 2 else (counts, counts, lost)
    safe = np.where(heavy > 0, heavy, np.nan)
    mean = lost / safe
    return mean, (lost_squares - 2 * mean * cross + mean**2 * squares) / safe**2


def at_worst(judged: Judged, inside: Bool, confidence: float) -> bool:
    """Whether the rows `inside` `(n,)` have more regret also with one more row inside that has none, and one outside that has the largest.

    Permutations rest on the errors that were seen: where a few costly ones make up the regret outside, and none happens to be there, they
    would find the rest worse. One-sided t-bound of the difference at `confidence`, clustered by group.
    """
    here, there = judged.take(inside), judged.take(~inside)
    if not len(here.regret) or not len(there.regret):
        return False
    mean, error, freedom = augmented_moments(here.regret, 0.0, here.groups, here.weights)
    other, beside, _ = augmented_moments(there.regret, judged.reach, there.groups, there.weights)
    return mean - other > float(stdtrit(freedom, confidence)) * math.hypot(error, beside)
