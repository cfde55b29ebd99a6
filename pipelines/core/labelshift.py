"""What a scorer must know of calib to judge an unlabelled batch: class shares, and each class's histogram of scores.

Rows fall into bins by what the model says of them. Two classes: bins of the log-odds. More classes: the predicted class, divided by
the log-odds of its probability; predicted classes with few rows share one bin. Under label shift each class keeps its histogram and
only the shares change, so a batch's histogram is a mixture of these (Lipton et al. 2018, section 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float64]
Int = NDArray[np.int64]

BINS = 10  #: for two classes
BINS_PER_CLASS = ((10, 3), (50, 2))  #: for up to so many classes, so many bins per predicted class; beyond, no histogram is kept
FEWEST = 5  #: rows of the rarer class per bin (two classes), rows per bin (more classes)
EPS = 1e-12


def reference(probability: Any, labels: Any, *, weights: Any = None) -> dict[str, Any]:
    """Class shares and class-conditional histograms of `probability` `(n, K)` with `labels` `(n,)`, as plain numbers.

    `prior` `(K,)` are the weighted class shares, a class without rows half the smallest row's share so that none is 0; `implied` `(K,)` the mean probabilities,
    which are the shares that the probabilities themselves mean and know more exactly. `edges` holds one ascending list
    for two classes, one per predicted class for more, null for those that share the last bin. `counts` `(K, B)` are effective rows: each
    class's weighted shares of the bins times (sum w)^2 / sum w^2 of its rows, so weights make no row more than one; no bins beyond 50 classes.
    """
    p, truth = np.asarray(probability, dtype=np.float64), np.asarray(labels, dtype=np.int64)
    w = np.ones(len(p)) if weights is None else np.asarray(weights, dtype=np.float64)
    classes = p.shape[1]
    total = np.bincount(truth, weights=w, minlength=classes)
    edges = _edges(p, truth, w)
    effective = total**2 / np.maximum(np.bincount(truth, weights=w**2, minlength=classes), EPS)
    counts = histogram(p, edges, labels=truth, weights=w) * (effective / np.maximum(total, EPS))[:, None]
    prior = np.maximum(total, 0.5 * w[w > 0].min()) if w.any() else np.ones(classes)
    prior = prior / prior.sum()
    return {"prior": prior.tolist(), "implied": (w @ p / w.sum()).tolist(), "edges": edges, "counts": counts.tolist()}


def histogram(probability: Any, edges: Sequence[Sequence[float] | None], *, labels: Any = None, weights: Any = None) -> Float:
    """Sum of `weights` `(n,)` (ones by default) per bin, `(B,)`; with `labels` `(n,)` per class and bin, `(K, B)`."""
    p = np.asarray(probability, dtype=np.float64)
    size = bins(edges)
    place = np.zeros(len(p), dtype=np.int64) if not size else bin_of(p, edges)
    if labels is None:
        return np.bincount(place, weights=weights, minlength=size)[:size].astype(np.float64)
    flat = np.asarray(labels, dtype=np.int64) * max(size, 1) + place
    made = np.bincount(flat, weights=weights, minlength=p.shape[1] * max(size, 1)).reshape(p.shape[1], -1)
    return made[:, :size].astype(np.float64)


def bins(edges: Sequence[Sequence[float] | None]) -> int:
    """Number of bins: one more than edges in each list, and one that all the nulls share."""
    return sum(len(part) + 1 for part in edges if part is not None) + (None in edges)


def bin_of(probability: Any, edges: Sequence[Sequence[float] | None]) -> Int:
    """The bin `(n,)` of each row of `probability` `(n, K)`."""
    group, score = _scores(np.asarray(probability, dtype=np.float64))
    place = np.full(len(score), bins(edges) - 1, dtype=np.int64)
    first = 0
    for number, part in enumerate(edges):
        if part is not None:
            inside = group == number
            place[inside] = first + np.searchsorted(np.asarray(part, dtype=np.float64), score[inside], side="right")
            first += len(part) + 1
    return place


def shares(reference: Mapping[str, Any]) -> tuple[Float, Float]:
    """Each class's shares of the bins `(K, B)`, none 0, and the effective rows `(K,)` that they rest on.

    One row per class is added, spread as all classes together are: a bin that no row of a class fell into is rare, not impossible.
    """
    counts = np.asarray(reference["counts"], dtype=np.float64)
    pooled = counts.sum(axis=0) + 0.5
    rows = counts.sum(axis=1) + 1
    return (counts + pooled / pooled.sum()) / rows[:, None], rows


def _scores(p: Float) -> tuple[Int, Float]:
    """Group `(n,)` and score `(n,)` of each row: all rows and the second class's log-odds, or the predicted class and its log-odds."""
    if p.shape[1] == 2:
        return np.zeros(len(p), dtype=np.int64), np.log(np.maximum(p[:, 1], EPS)) - np.log(np.maximum(p[:, 0], EPS))
    group = p.argmax(axis=1)
    top = p[np.arange(len(p)), group]
    return group, np.log(np.maximum(top, EPS)) - np.log(np.maximum(1 - top, EPS))


def _edges(p: Float, labels: Int, w: Float) -> list[list[float] | None]:
    """Edges at quantiles: for two classes of an even mixture of them, so that the rarer one is spread over the bins too."""
    group, score = _scores(p)
    if p.shape[1] == 2:
        rows = np.bincount(labels, minlength=2)
        even = w / np.maximum(np.bincount(labels, weights=w, minlength=2), EPS)[labels]
        return [_quantiles(score, even, int(np.clip(rows.min() // FEWEST, 1, BINS)))]
    most = next((size for classes, size in BINS_PER_CLASS if p.shape[1] <= classes), 0)
    if not most:
        return []
    found: list[list[float] | None] = []
    for number in range(p.shape[1]):
        inside = group == number
        size = min(most, int(inside.sum()) // FEWEST)
        found.append(_quantiles(score[inside], w[inside], size) if size else None)
    return found


def _quantiles(score: Float, w: Float, size: int) -> list[float]:
    """At most `size - 1` edges that divide the weight evenly, each halfway between two distinct scores."""
    values, place = np.unique(score, return_inverse=True)
    upto = np.cumsum(np.bincount(place, weights=w))
    wanted = np.searchsorted(upto, upto[-1] * np.arange(1, size) / size)
    cuts = np.unique(wanted[wanted < len(values) - 1])
    return [float(edge) for edge in (values[cuts] + values[cuts + 1]) / 2]
