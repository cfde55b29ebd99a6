"""Repeated stratified folds that keep groups whole, and the choice among candidates by cross-fitted losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.errors import must

Float = NDArray[np.float64]
Bool = NDArray[np.bool_]
Int = NDArray[np.int64]

#: With two units of a class, the rest of a fold holds one, and no choice can be made there.
FEWEST_UNITS = 3


def units_per_class(labels: Any, groups: Any) -> Int:
    """Number of groups `(K,)` in which each class 0..max(labels) occurs; where every row is its own group, its rows."""
    classes, codes = np.asarray(labels, dtype=np.int64), np.asarray(groups)
    present = int(classes.max()) + 1
    pairs = np.unique(np.unique(codes, return_inverse=True)[1] * present + classes)
    return np.bincount(pairs % present, minlength=present).astype(np.int64)


def feasible_folds(labels: Any, groups: Any, folds: int, classes: Sequence[str]) -> int:
    """Number of folds, at most `folds`, that leaves each class in every fold; raises ExpostError where a class has too few rows."""
    present = np.asarray(labels, dtype=np.int64)
    units = units_per_class(present, groups) if present.size else np.zeros(0, dtype=np.int64)
    units = np.pad(units, (0, len(classes) - len(units)))
    rarest = int(units.argmin())
    if units[rarest] < FEWEST_UNITS:
        raise must(
            f"calib must hold at least {FEWEST_UNITS} rows of each class, in groups of their own, to be cross-fitted",
            f"class {classes[rarest]!r} has {units[rarest]} of {present.size}",
            "Add data, raise split.shares.calib, or merge classes.",
        )
    return min(folds, int(units[rarest]))


def folds_of(labels: Any, groups: Any, *, folds: int, repeats: int, seed: int) -> Bool:
    """Masks `(repeats * folds, n)`: true where the row is held out. In each repeat every row is held out once.

    `labels` `(n,)` in 0..K-1 are spread evenly over the folds, `groups` `(n,)` stay whole; the same inputs and `seed` give the same folds.
    """
    classes = np.asarray(labels, dtype=np.int64)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    rng = np.random.default_rng(seed)
    masks = []
    for _ in range(repeats):
        fold = _deal(classes, codes, folds, rng)[codes]
        masks.append(fold[None, :] == np.arange(folds)[:, None])
    return np.concatenate(masks)


def _deal(labels: Int, codes: Int, folds: int, rng: np.random.Generator) -> Int:
    """Fold of each group: rare classes first, large groups first, each to the fold that has least of the group's rarest class."""
    sizes = np.bincount(codes)
    order_of_class = np.argsort(np.argsort(np.bincount(labels), kind="stable"), kind="stable")  # 0 = rarest
    stratum = np.full(len(sizes), len(order_of_class))
    np.minimum.at(stratum, codes, order_of_class[labels])
    amount = np.zeros(len(sizes), dtype=np.int64)
    np.add.at(amount, codes, order_of_class[labels] == stratum[codes])
    shuffled = rng.permutation(len(sizes))
    order = shuffled[np.lexsort((-sizes[shuffled], -amount[shuffled], stratum[shuffled]))]
    rows = np.zeros(folds, dtype=np.int64)
    fold = np.empty(len(sizes), dtype=np.int64)
    for s in range(len(order_of_class)):
        members = order[stratum[order] == s]
        if not len(members):
            continue
        if sizes[members].max() == 1:  # dealt in turn, the fold with the fewest rows first
            fold[members] = np.argsort(rows, kind="stable")[np.arange(len(members)) % folds]
            rows += np.bincount(fold[members], minlength=folds)
            continue
        in_class = np.zeros(folds, dtype=np.int64)
        for g in members:
            to = int(np.lexsort((rows, in_class))[0])
            fold[g] = to
            in_class[to] += amount[g]
            rows[to] += sizes[g]
    return fold


def crossfit(masks: Bool, fit_predict: Callable[[Bool, Bool], Float]) -> Float:
    """Out-of-fold values `(repeats, n, ...)` of `fit_predict(rest, held_out)`, which returns values of the rows held out."""
    repeats = round(masks.sum() / masks.shape[1])
    found: Float | None = None
    for j, held in enumerate(masks):
        values = fit_predict(~held, held)
        if found is None:
            found = np.zeros((repeats, masks.shape[1], *values.shape[1:]))
        found[j // (len(masks) // repeats), held] = values
    assert found is not None
    return found


def out_of_fold(values: Any, masks: Bool) -> Float:
    """Entries `(repeats, n, ...)` of `values` `(J, n, ...)` where mask j holds the row out: each row as seen by who has not seen it."""
    found = iter(values)
    return crossfit(masks, lambda rest, held: np.asarray(next(found)[held]))


@dataclass(frozen=True)
class Choice:
    """Index of the candidate chosen, the best one's, and per candidate: mean loss, excess over the best, its standard error."""

    chosen: int
    best: int
    mean: tuple[float, ...]
    excess: tuple[float, ...]
    error: tuple[float, ...]


def simplest_not_worse(losses: Any, groups: Any, *, weights: Any = None) -> Choice:
    """Choose the first candidate whose mean loss is within one standard error of the difference to the best.

    `losses` `(candidates, n)` per row, candidates in order of simplicity, `weights` `(n,)` of the rows. The error is paired per row,
    clustered by `groups` `(n,)`, and the ratio estimator's: a row of weight 100 moves the mean like 100 rows and is still one row. The
    one-standard-error rule of Breiman et al. (1984, section 3.4.3), on the paired difference.
    """
    values = np.asarray(losses, dtype=np.float64)
    counts = np.ones(values.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1]
    mean = np.average(values, axis=1, weights=counts)
    best = int(mean.argmin())
    difference = values - values[best]
    excess = np.average(difference, axis=1, weights=counts)
    residual = np.stack([np.bincount(codes, weights=counts * d) for d in difference - excess[:, None]])
    clusters = residual.shape[1]
    error = np.sqrt((residual**2).sum(axis=1) * clusters / max(clusters - 1, 1)) / counts.sum()
    chosen = int(np.flatnonzero(excess <= error)[0])
    return Choice(chosen, best, tuple(mean.tolist()), tuple(excess.tolist()), tuple(error.tolist()))
