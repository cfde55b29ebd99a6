"""Cases that make a slice concrete: typical ones of a kind, and those of another kind that are most like them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from pipelines.core.conditions import Inputs

Float = NDArray[np.float64]
Int = NDArray[np.int64]

MOST_COMPARED = 400  #: candidates for typical cases; of more the first ones given are compared


def coordinates(inputs: Inputs) -> tuple[Float, Int]:
    """Numbers as ranks between 0 and 1 `(n, F)`, NaN where missing, and category codes `(n, C)`: what `distances` compares."""
    rows = len(next(iter([*inputs.numbers.values(), *(codes for codes, _ in inputs.categories.values())])))
    ranks = [rankdata(column, nan_policy="omit") / max(rows, 1) for column in inputs.numbers.values()]
    codes = [codes for codes, _ in inputs.categories.values()]
    return (
        np.stack(ranks, axis=1) if ranks else np.zeros((rows, 0)),
        np.stack(codes, axis=1).astype(np.int64) if codes else np.zeros((rows, 0), dtype=np.int64),
    )


def distances(place: tuple[Float, Int], some: Int, others: Int) -> Float:
    """Gower's distance `(len(some), len(others))` between rows by number: the mean over columns of the difference in rank, or 1 for unequal.

    Ranks make it the same under any increasing change of a column; a missing value differs from any other by 1 and from another by 0.
    """
    ranks, codes = place
    columns = ranks.shape[1] + codes.shape[1]
    found = np.zeros((len(some), len(others)))
    for column in ranks.T:
        one, other = column[some, None], column[None, others]
        apart = np.abs(one - other)
        found += np.where(np.isnan(apart), np.isnan(one) != np.isnan(other), apart)
    for code in codes.T:
        found += code[some, None] != code[None, others]
    return np.asarray(found / max(columns, 1))


def typical(place: tuple[Float, Int], rows: Int, losses: Float, count: int) -> Int:
    """Up to `count` of the `rows` near which, together, most of their `losses` lie; the first is their medoid (greedy facility location).

    Rows come with the largest losses first, and of very many only the first are compared.
    """
    candidates, weights = rows[:MOST_COMPARED], losses[:MOST_COMPARED]
    apart, nearest = distances(place, candidates, candidates), np.ones(len(candidates))
    chosen: list[int] = []
    for _ in range(min(count, len(candidates))):
        left = np.minimum(apart, nearest) @ weights
        left[chosen] = np.inf
        chosen.append(int(left.argmin()))
        nearest = np.minimum(nearest, apart[chosen[-1]])
    return candidates[chosen]


def most_alike(place: tuple[Float, Int], row: int, among: Int, count: int) -> Int:
    """Up to `count` of the rows `among`, the nearest to `row` first; of equally near ones the first given."""
    apart = distances(place, np.array([row]), among)[0]
    return among[np.argsort(apart, kind="stable")[:count]]
