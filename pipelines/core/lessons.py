"""Lessons: where a policy fails, as slices that people can read, kept only where rows that did not suggest them confirm them.

The rows are halved, groups whole. On each half a shallow tree on the inputs is grown against regret; what it suggests, pruned to the
conditions that carry it, is tested on the other half. The correction over the suggestions of both halves bounds the chance that any
lesson at all is kept where regret does not depend on the inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipelines.core import crossfit
from pipelines.core.bounds import Interval, effective_size, mean_interval
from pipelines.core.conditions import Condition, Inputs, holds, name_of, shortest_between, simplified
from pipelines.core.excess import Judged, adjusted, at_worst

Float = NDArray[np.float64]
Int = NDArray[np.int64]
Bool = NDArray[np.bool_]

DEPTH = 3
MOST = 5  #: lessons kept, and suggestions tested per half
ROWS, SHARE = 30, 0.05  #: a lesson is about at least this many effective rows and this share of them
LARGEST = 0.5  #: share of the rows; of more than half of them a lesson would say where it does not fail
CUTS = 63  #: places at which a number is cut at most
LEVELS, LEVEL_ROWS = 12, 10  #: values of a category that can be named, the most frequent ones, and rows of each in a half at least
SHRINKAGE = 10.0  #: rows at the overall mean that each value starts from when values are ordered by their mean regret
MOST_ROWS = 50_000  #: rows that suggest and test; of more whole groups are drawn
OVERLAP = 0.8  #: share of a lesson's rows; with more of them known from stronger ones it says nothing new


@dataclass(frozen=True)
class Lesson:
    """A slice with more regret than the rest: its conditions and its rows `(n,)`.

    `tested` `(n,)` are the rows that did not suggest it, on which its `regret` and its `p_value` rest.
    """

    conditions: tuple[Condition, ...]
    rows: Bool
    tested: Bool
    regret: Interval
    p_value: float


def find(inputs: Inputs, judged: Judged, *, confidence: float = 0.95, seed: int = 0) -> tuple[Lesson, ...]:
    """At most five lessons, the one that explains most first; the chance of any where there is none is at most 1 - `confidence`."""
    if not len(judged.regret) or not judged.regret.any():
        return ()
    half = crossfit.folds_of(judged.labels, judged.groups, folds=2, repeats=1, seed=seed)[0]
    some = _sample(judged.groups, seed)
    halves = ((half & some, ~half & some), (~half & some, half & some))
    suggested = [suggestions(inputs.take(grown), judged.take(grown), seed=seed) for grown, _ in halves]
    rows = [np.array([holds(inputs, one) for one in found], dtype=np.bool_).reshape(len(found), len(half)) for found in suggested]
    p_values = adjusted([(judged.take(tested), masks[:, tested]) for (_, tested), masks in zip(halves, rows, strict=True)], seed)
    found = [
        Lesson(conditions, mask, tested, _regret(judged.take(mask & tested), confidence), float(p))
        for (_, tested), several, masks, ps in zip(halves, suggested, rows, p_values, strict=True)
        for conditions, mask, p in zip(several, masks, ps, strict=True)
        if p <= 1 - confidence and at_worst(judged.take(tested), mask[tested], confidence)
    ]
    return _distinct(found, judged, 1 - confidence)


def _sample(groups: Int, seed: int) -> Bool:
    """Rows `(n,)` of groups drawn without replacement until they are at most `MOST_ROWS`; all rows where they are no more."""
    codes, counts = np.unique(groups, return_inverse=True, return_counts=True)[1:]
    if len(groups) <= MOST_ROWS:
        return np.ones(len(groups), dtype=np.bool_)
    order = np.random.default_rng(seed).permutation(len(counts))
    drawn = np.zeros(len(counts), dtype=np.bool_)
    drawn[order[counts[order].cumsum() <= MOST_ROWS]] = True
    return np.asarray(drawn[codes])


def _regret(judged: Judged, confidence: float) -> Interval:
    known = judged.groups, judged.weights
    return mean_interval(judged.regret, groups=known[0], weights=known[1], confidence=confidence, worst=0.0, best=judged.reach)


def _distinct(found: Sequence[Lesson], judged: Judged, alpha: float) -> tuple[Lesson, ...]:
    """The lessons by the variance of regret that they explain, without those that are too small or say the same again."""
    kept: list[Lesson] = []
    for lesson in sorted(found, key=lambda one: (-_explained(one, judged), one.p_value, name_of(one.conditions))):
        known = np.logical_or.reduce([other.rows for other in kept]) if kept else np.zeros(len(lesson.rows), dtype=np.bool_)
        if _is_about_enough(lesson.rows, judged.weights) and _is_new(lesson, known, judged, alpha):
            kept.append(lesson)
    return tuple(kept[:MOST])


def _explained(lesson: Lesson, judged: Judged) -> float:
    share = float(judged.weights[lesson.rows].sum() / judged.weights.sum())
    return share / (1 - share) * float(lesson.regret.mean - np.average(judged.regret, weights=judged.weights)) ** 2


def _is_about_enough(rows: Bool, weights: Float) -> bool:
    share = float(weights[rows].sum() / weights.sum())
    return effective_size(weights[rows]) >= max(float(ROWS), SHARE * effective_size(weights)) and SHARE <= share <= LARGEST


def _is_new(lesson: Lesson, known: Bool, judged: Judged, alpha: float) -> bool:
    """Whether the lesson fails more than the rest beside the rows already known to fail, and is not nearly within them."""
    common = float(judged.weights[lesson.rows & known].sum() / judged.weights[lesson.rows].sum())
    beside = lesson.tested & ~known
    return not known.any() or (common <= OVERLAP and float(adjusted([(judged.take(beside), lesson.rows[None, beside])])[0][0]) <= alpha)


def suggestions(inputs: Inputs, judged: Judged, *, seed: int = 0) -> list[tuple[Condition, ...]]:
    """Conditions of the leaves of a shallow tree on these rows that have more regret than the rest, pruned, the strongest first."""
    from sklearn.tree import DecisionTreeRegressor

    axes = _axes(inputs, judged)
    if not axes:
        return []
    tree = DecisionTreeRegressor(
        max_depth=DEPTH, min_samples_leaf=ROWS // 2, min_weight_fraction_leaf=SHARE * 0.99, random_state=seed
    )  # half of the rows: half of what a lesson needs
    tree.fit(np.stack([axis.column for axis in axes], axis=1), judged.regret, sample_weight=judged.weights)
    pruned = {}
    for leaf in _leaves(tree.tree_, axes):
        conditions = _pruned(simplified(leaf), inputs, judged)
        gain = _gain(holds(inputs, conditions), judged)
        if gain > 0:
            pruned[conditions] = gain
    return sorted(pruned, key=lambda conditions: -pruned[conditions])[:MOST]


@dataclass(frozen=True)
class _Axis:
    """One column `(n,)` of small whole numbers for the tree, and what a cut after the value i says on either side of it."""

    column: NDArray[np.float32]
    low: Sequence[Condition]
    high: Sequence[Condition]


def _axes(inputs: Inputs, judged: Judged) -> list[_Axis]:
    axes = []
    for name in (*inputs.numbers, *inputs.categories):
        missing = inputs.missing(name)
        if missing.any() and not missing.all():
            axes.append(_Axis(missing.astype(np.float32), [Condition(name, "present")], [Condition(name, "missing")]))
        if name in inputs.numbers:
            axes += _number_axis(name, inputs.numbers[name])
        else:
            axes += _category_axis(name, *inputs.categories[name], judged)
    return axes


def _number_axis(name: str, column: Float) -> list[_Axis]:
    """The ranks of a number among its cuts, a missing value with the median: only the order of values matters."""
    values = np.unique(column[np.isfinite(column)])
    if len(values) < 2:
        return []
    places = np.arange(len(values) - 1)
    if len(places) > CUTS:
        ranks = np.searchsorted(values, np.quantile(column[np.isfinite(column)], np.linspace(0, 1, CUTS + 2), method="lower")[1:-1])
        places = np.unique(np.minimum(ranks, len(values) - 2))
    cuts = [shortest_between(values[i], values[i + 1]) for i in places]
    filled = np.where(np.isnan(column), np.nanquantile(column, 0.5, method="lower"), column)
    ranks = np.searchsorted(values[places], filled, side="left")
    return [_Axis(ranks.astype(np.float32), [Condition(name, "<=", cut) for cut in cuts], [Condition(name, ">", cut) for cut in cuts])]


def _category_axis(name: str, codes: Int, values: Sequence[str], judged: Judged) -> list[_Axis]:
    """The place of a row's value in the order of mean regret; values too rare to be named, and missing ones, stand with the lowest."""
    counts = np.bincount(codes[codes >= 0], minlength=len(values))
    frequent = np.argsort(-counts, kind="stable")[:LEVELS]
    named = frequent[counts[frequent] >= LEVEL_ROWS]
    others = counts.sum() > counts[named].sum()
    if len(named) + others < 2:
        return []
    typical, overall = float(judged.weights.mean()), float(np.average(judged.regret, weights=judged.weights))
    heavy = np.bincount(codes + 1, weights=judged.weights, minlength=len(values) + 1)[1:][named]
    lost = np.bincount(codes + 1, weights=judged.weights * judged.regret, minlength=len(values) + 1)[1:][named]
    means = (lost + SHRINKAGE * typical * overall) / (heavy + SHRINKAGE * typical)
    ordered = [values[code] for code in named[np.argsort(means, kind="stable")]]
    first = 1 if len(ordered) == 1 else 0  # a single value that can be named is cut from all the others
    place = np.zeros(len(values) + 1)  # the last entry serves the code -1
    place[named[np.argsort(means, kind="stable")]] = np.arange(len(ordered)) + first
    low = [_set(name, ordered[: i + 1 - first], ordered[i + 1 - first :], True, values) for i in range(len(ordered) - 1 + first)]
    high = [_set(name, ordered[i + 1 - first :], ordered[: i + 1 - first], not others, values) for i in range(len(ordered) - 1 + first)]
    return [_Axis(place[codes].astype(np.float32), low, high)]


def _set(name: str, inside: Sequence[str], outside: Sequence[str], rest: bool, values: Sequence[str]) -> Condition:
    """One of the values inside; `rest` says that values that are not named belong to it too."""
    if len(inside) == 1:
        return Condition(name, "is", inside[0])
    if rest and len(outside) == 1:
        return Condition(name, "is not", outside[0])
    return Condition(name, "in", tuple(value for value in values if value in inside))


def _leaves(tree: Any, axes: Sequence[_Axis]) -> list[list[Condition]]:
    """The conditions on the way to each leaf of a tree that has at least one cut."""

    def below(node: int, path: list[Condition]) -> list[list[Condition]]:
        if tree.children_left[node] < 0:
            return [path] if path else []
        axis, cut = axes[tree.feature[node]], int(tree.threshold[node])
        left = below(tree.children_left[node], [*path, axis.low[cut]])
        return left + below(tree.children_right[node], [*path, axis.high[cut]])

    return below(0, [])


def _pruned(conditions: tuple[Condition, ...], inputs: Inputs, judged: Judged) -> tuple[Condition, ...]:
    """The conditions without those whose loss does not weaken what they say together."""
    while len(conditions) > 1:
        shorter = [conditions[:i] + conditions[i + 1 :] for i in range(len(conditions))]
        gains = [_gain(holds(inputs, one), judged) for one in shorter]
        best = int(np.argmax(gains))
        if gains[best] < _gain(holds(inputs, conditions), judged):
            break
        conditions = shorter[best]
    return conditions


def _gain(inside: Bool, judged: Judged) -> float:
    """Variance of regret that the rows inside explain, 0 where they are more than half or have not more regret than the others."""
    total = float(judged.weights.sum())
    share = float(judged.weights[inside].sum()) / total
    if not 0 < share <= LARGEST:
        return 0.0
    mean = float(np.average(judged.regret[inside], weights=judged.weights[inside]))
    other = float(np.average(judged.regret[~inside], weights=judged.weights[~inside]))
    return share * (1 - share) * max(mean - other, 0.0) ** 2
